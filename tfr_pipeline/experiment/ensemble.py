"""Several runs as one model: trained, averaged, exported, measured.

OUT/member-0/  OUT/member-1/ ...    ordinary run directories
OUT/export/latest_model/<version>/  the SavedModel of them all
OUT/metrics.json                    what it reaches, and what each member does
OUT/per_query.parquet               the same for each query
OUT/ensemble.json                   which runs it is made of
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from tfr_pipeline import files, gradients, urls
from tfr_pipeline.cluster import beat, heartbeat
from tfr_pipeline.errors import DataError, RunError
from tfr_pipeline.experiment.build import build_pipeline
from tfr_pipeline.experiment.members import FILE_NAME
from tfr_pipeline.metrics import query_table
from tfr_pipeline.metrics.query_table import QueryTable
from tfr_pipeline.pipeline.datasets.adapter import SPLITS, some_lists
from tfr_pipeline.pipeline.datasets.kept_lists import KeptLists
from tfr_pipeline.pipeline.fit import ModelFitPipeline
from tfr_pipeline.pipeline.run import at_checkpoint, data_fingerprint, lock
from tfr_pipeline.pipeline.run.finish import LATEST
from tfr_pipeline.pipeline.run.shared_evaluation import EVALUATED, SharedEvaluation
from tfr_pipeline.serving import versions
from tfr_pipeline.serving.ensemble import check_members, export_ensemble
from tfr_pipeline.serving.predictor import Predictor

# Largest difference, relative to the spread of the scores, between the mean of what
# members give and the export: room for float32 rounding in another order.
_TOLERANCE = 1e-4
_LISTS_TO_COMPARE = 32
_POLL_SECONDS = 0.5
# Of `config.data`: what says which lists there are, and which of them validate.
_WHICH_LISTS = (
    *("dir", "train", "valid", "test", "features", "folds", "fold", "test_fold"),
    *("sessions", "builder", "builder_args", "convert_labels_to_binary"),
)
Say = Callable[[str], None]


def train(
    configs: Sequence[Mapping[str, Any]],
    say: Say,
    *,
    together: bool = False,
    accept_changed_data: bool = False,
) -> ModelFitPipeline:
    """Trains runs one after the other in this process; each goes on where it was.

    What another process trains meanwhile, it trains if that one dies; what has ended,
    nobody trains again. It returns when all have ended.

    Args:
      configs: Their configs, one at least.
      say: Says which one is about to be trained.
      together: This is a task of a job, all of which train each run.
      accept_changed_data: See `ModelFitPipeline.train`.

    Returns:
      The pipeline of the last one. Its dataset builder has the lists that were read.

    Raises:
      PipelineError: See `ModelFitPipeline.train_and_validate`.
    """
    kept, waiting, said = KeptLists(), list(enumerate(configs, start=1)), False
    while waiting:
        elsewhere, idle = [], True
        for number, config in waiting:
            if not together and lock.is_held(config["model_dir"]):
                elsewhere.append((number, config))
                continue
            try:
                pipeline = build_pipeline(config, kept=kept)
                if at_checkpoint.has_ended(pipeline):
                    # As far as the process was that trained it.
                    step = _read(config["model_dir"], "metrics.json").get("step")
                    heartbeat.moves(beat.REST, step)
                else:
                    idle = False
                    with pipeline._run.held(lock.PATIENCE_SECONDS if together else 0.0):
                        if pipeline.is_chief:
                            what = f"member {number} of {len(configs)}"
                            say(f"{what}, seed {config['seed']}:")
                        pipeline.train_and_validate(
                            verbose=1, accept_changed_data=accept_changed_data
                        )
                heartbeat.next_run()
            except lock.InUseError:
                if together:
                    raise
                elsewhere.append((number, config))
            finally:
                gradients.forget_unused()
        waiting = elsewhere
        if waiting and idle:
            if not said:
                numbers = ", ".join(str(number) for number, _ in waiting)
                say(f"waiting for other processes, which train member {numbers}")
                for _, config in waiting:
                    if lock.is_held(config["model_dir"]):
                        say(str(lock.in_use(config["model_dir"])))
            said = True
            time.sleep(_POLL_SECONDS)
    return pipeline


def combine_once(
    runs: Sequence[str], folder: str, builder: Any = None, say: Say = print
) -> dict[str, Any]:
    """As `combine`, but of several processes that do so one does the work."""
    said = False
    while True:
        try:
            with lock.held(folder, 0.0):
                return _combined(runs, folder) or combine(runs, folder, builder, say)
        except lock.InUseError as error:
            if not said:
                say(f"waiting: {error}")
            said = True
            time.sleep(_POLL_SECONDS)


def _combined(runs: Sequence[str], folder: str) -> dict[str, Any]:
    """Returns `metrics.json` if it is of these runs as they are, else nothing."""
    metrics = [os.path.join(at, "metrics.json") for at in (folder, *runs)]
    if not all(map(os.path.isfile, metrics)):
        return {}
    own, *others = (os.stat(path).st_mtime_ns for path in metrics)
    content = _read(folder, "metrics.json")
    about = _read(folder, FILE_NAME).get("members") or ()
    names = [_named(run, folder) for run in runs]
    # One is written before the export, the other after: in between they differ.
    for members in (about, content.get("members") or ()):
        if [one["run"] for one in members] != names:
            return {}
    try:
        exports = [versions.find_export(run) for run in runs]
        exported = versions.find_export(os.path.join(folder, "export", LATEST))
    except DataError:
        return {}
    # The folders may have been moved since.
    noted = [os.path.basename(one["export"]) for one in about]
    same = noted == [os.path.basename(path) for path in exports]
    ours = os.path.basename(exported) == _version(exports)
    return content if same and ours and own > max(others) else {}


def combine(
    runs: Sequence[str], folder: str, builder: Any = None, say: Say = print
) -> dict[str, Any]:
    """Averages the exports of runs into one, and measures it.

    Args:
      runs: Run directories, or other places of exports.
      folder: See `check_folder`.
      builder: A dataset builder with the splits to measure on; by default that of the
        config of the runs, where they have been told the same data.
      say: Says what could not be done.

    Returns:
      The content of `metrics.json`.

    Raises:
      ConfigError: The models cannot be averaged; see `check_members`.
      DataError: A run has no export.
      RunError: The export failed, or does not score as the members do on average.
    """
    members = [Predictor(run) for run in runs]
    check_members(members)
    told = [_read(run, "config.json") for run in runs]
    if builder is None:
        builder = _builder_of(runs, told, say)
    place = os.path.join(folder, "export", LATEST)
    versions.check(place)
    path = os.path.join(place, _version([one.path for one in members]))
    names = [_named(run, folder) for run in runs]
    about = [
        {"run": name, "seed": config.get("seed"), "export": member.path}
        for name, config, member in zip(names, told, members, strict=True)
    ]
    # First, so that the folder is known for what it is, whatever happens then.
    _write(folder, FILE_NAME, {"members": about})
    export_ensemble(members, path, functools.partial(_compare, builder, members))
    versions.publish(path)
    content, queries = _measured(Predictor(path), builder)
    found = [_read(run, "metrics.json") for run in runs]
    shown = content.keys()
    content["members"] = [
        {
            "run": name,
            "seed": config.get("seed"),
            **{split: of_run[split] for split in shown if split in of_run},
        }
        for name, config, of_run in zip(names, told, found, strict=True)
    ]
    seconds = [(one.get("seconds") or {}).get("training") for one in found]
    known = [float(value) for value in seconds if value is not None]
    content["seconds"] = {"training": round(sum(known), 3)}
    table = os.path.join(folder, query_table.FILE_NAME)
    if queries:
        queries.write(table)
    else:
        with contextlib.suppress(FileNotFoundError):
            os.remove(table)  # of an ensemble that was here before
    _write(folder, "metrics.json", content)
    return content


def _measured(predictor: Predictor, builder: Any) -> tuple[dict[str, Any], QueryTable]:
    """Measures a model on what there is of validation and test data."""
    content: dict[str, Any] = {}
    queries = QueryTable()
    if builder is not None:
        evaluation = SharedEvaluation(None, builder)
        for split in EVALUATED:
            if split in builder.splits:
                measured = evaluation.alone(predictor, split)
                measured.record(functools.partial(queries.add, split))
                content[split] = measured.means()
    return content, queries


def _compare(builder: Any, members: Sequence[Predictor], path: str) -> None:
    """Checks that an export scores as its members do on average."""
    predictor = Predictor(path)
    if builder is None:
        return
    split = "valid" if "valid" in builder.splits else "train"
    count = min(_LISTS_TO_COMPARE, builder.plan(split, "packed").num_lists)
    some = some_lists(builder, split, np.arange(count), "packed")
    of_members = [member.score_tasks(some) for member in members]
    for function in (predictor.function, None):
        for task, scores in predictor.score_tasks(some, function).items():
            mean = np.mean([found[task] for found in of_members], axis=0)
            difference = float(np.max(np.abs(scores - mean), initial=0.0))
            if difference > _TOLERANCE * (1.0 + float(np.ptp(mean))):
                raise RunError(
                    "the ensemble scores differently from its members on average, by "
                    f"up to {difference:g} on {some.num_documents} documents."
                )


def _builder_of(runs: Sequence[str], told: Sequence[Any], say: Say) -> Any:
    """Returns a dataset builder for the data of all runs; None, said, if it differs.

    What validates one run may have trained another.
    """
    which = [_which_lists(config) for config in told]
    missing = [run for run, found in zip(runs, which, strict=True) if not found]
    if missing:
        why = "was not trained by a config. See evaluate"
        if urls.is_remote(missing[0]):
            why = "is remote. Copy it to this machine, or see evaluate"
        say(f"not measured: {urls.redact(missing[0])} {why}.")
        return None
    for run, found in zip(runs, which, strict=True):
        for key in _WHICH_LISTS:
            if found.get(key) != which[0].get(key):
                say(
                    f"not measured: data.{key} is {which[0].get(key)!r} in {runs[0]} "
                    f"and {found.get(key)!r} in {run}, and what validates one may have "
                    "trained another. See evaluate."
                )
                return None
    config = {**told[0], "model_dir": os.path.abspath(runs[0])}
    # The cluster is not there any more; nor need what training took be.
    dropped = ("strategy", "warm_start", "graph")
    pipeline = {k: v for k, v in config["pipeline"].items() if k not in dropped}
    try:
        found = build_pipeline({**config, "pipeline": pipeline}).dataset_builder
        found.plan("train" if "valid" not in found.splits else "valid", "packed")
    except DataError as error:
        say(f"not measured: {error}")
        return None
    changed = _changed(runs, found)
    if changed:
        say(f"not measured: {changed}. See evaluate.")
        return None
    return found


def _changed(runs: Sequence[str], builder: Any) -> str:
    """Says how the data of runs differs, or from what is there now, where it does."""
    noted = [(run, _read(run, "environment.json").get("data") or {}) for run in runs]
    noted.append(("now", data_fingerprint.of_builder(builder)))
    known = [(at, data_fingerprint.lists_of(data)) for at, data in noted if data]
    for at, lists in known[1:]:
        difference = data_fingerprint.difference(known[0][1], lists, SPLITS)
        if difference:
            return f"the data of {known[0][0]} is not that of {at}: {difference}"
    return ""


def _which_lists(config: Mapping[str, Any]) -> dict[str, Any]:
    data = config.get("data") or {}
    if "pipeline" not in config:
        return {}
    return {key: data[key] for key in _WHICH_LISTS if data.get(key) is not None}


def _read(run: str, name: str) -> dict[str, Any]:
    """Returns a file of a run; nothing where there is none."""
    path = os.path.join(run, name)
    if urls.is_remote(run) or not os.path.isfile(path):
        return {}
    found = files.read_json(path)
    return found if isinstance(found, dict) else {}


def _version(exports: Sequence[str]) -> str:
    """Returns the version of the mean of exports.

    Other members, or some that were trained further, have another one.
    """
    names = map(os.path.basename, exports)
    numbers = (int(n) if n.isascii() and n.isdigit() else 1 for n in names)
    return str(sum(numbers))


def _named(run: str, folder: str) -> str:
    """Returns how an ensemble calls a run: short for one in its folder."""
    if urls.is_remote(run):
        return urls.redact(run)
    whole = os.path.abspath(run)
    inside = os.path.dirname(whole) == os.path.abspath(folder)
    return os.path.basename(whole) if inside else whole


def _write(folder: str, name: str, content: Mapping[str, Any]) -> None:
    text = json.dumps(content, indent=1) + "\n"
    files.write_text(os.path.join(folder, name), text)
