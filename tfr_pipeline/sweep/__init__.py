"""Search spaces, studies, and workers that train trials.

From below to above:

| module | has |
|---|---|
| `domains`, `space` | values of a key, and spaces as trees of them; no TensorFlow |
| `hyper` | the words of `get_sweep(hyper)` |
| `objective`, `settings` | what trials are chosen by, and the rest of a study |
| `plan` | `described(file, flags)`: space and settings of a config file, checked |
| `optuna_parts`, `storage` | Optuna's samplers and pruners; `storage.connect(url)` |
| `agreement`, `identity` | what workers are told alike; who they are |
| `claims`, `ownership` | what a worker has of a trial; whose a trial is |
| `study` | `Study`: trials, shared out among workers, and what came of them |
| `training`, `keeping` | trials as runs of this process; what is left of them |
| `jobs`, `job_task` | trials as jobs of a launcher: the worker's side, and the job's |
| `standing`, `status_text` | a study looked at from outside, and as lines of text |
| `live` | the same on a terminal, while workers work |
| `csv_table`, `page`, `tensorboard` | its trials as CSV, as an HTML page, as HParams |
| `winner` | the best trial as a config file, and trained again |
| `worker`, `processes` | `Worker`: one process; `Processes`: several on a machine |

Whoever reads a study finds, beside Optuna's own (names are in `attributes`):

- of the study, the user attribute `TOLD`: `config` (that points change), `space`
  (lines of text) and `settings`, as `Settings.describe` returns them; and `BUDGET`, the
  trials that it is to have, as the worker said that came last;
- of a trial, the user attributes `POINT` (keys of the config and their values,
  fixed ones too), `RUN` (its run directory, relative to the folder of the sweep),
  `WORKER` (`host:process`), and where they apply `REASON` (why it failed) and `SPREAD`
  (of repeats and folds: `mean`, `deviation` and `values` by metric);
- `params` by key of the config; a value that Optuna has no name for by its JSON, such
  as `[64, 32]`; one of `zipit` in a sampled space under several keys joined by ` + `;
- intermediate values by epoch, from 1, if trials are pruned.

Trials with a number at or above the budget wait for a larger one; they are none of the
study's. In the folder there are `sweep.json` (which study it belongs to), `study.db`
by default, and `trials/00017/`: a run directory like any other, or with
several runs a trial one with `repeat-1/`, `fold-1/` or `repeat-1-fold-1/` and so on;
`error.txt` in it has the traceback of a trial that failed.

`Study.best()` and `Study.counts()` say how it stands to workers; a `Study` needs the
space and settings of the config file. `standing.find(folder)` needs the folder only.
"""
