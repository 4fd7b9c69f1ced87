"""Learning from clicks: naive, debiased, and from the true grades, judged by grades.

    python tests/bench/clicks.py --data=../shared/data --fold=0 --output=clicks.jsonl
    python tests/bench/clicks.py --output=clicks.jsonl        # prints the table

The queries of `yandex_letor` are cut into five folds at random: one tests, the next
validates, three train. Sessions of the training and validation queries are simulated:
the position-based model with eta 1, ten documents shown, by one of two weak rankers,
each a linear model of the grades of one in a hundred training queries. All systems are
`configs/letor.py:dnn` with the softmax loss (`em` with the loss of its own), the same
number of epochs on the same sessions; the epoch is chosen by the validation loss on
clicks. Grades of the test queries judge, once. Nothing was tuned here.

- `naive`: clicks as they are.
- `ips`, `ips_harvest`: `model.position_bias` with the true propensities, and with those
  that `clicks propensities` harvests of the same sessions.
- `tower`, `em`: positions learnt beside the scorer.
- `grades`: trained on the grades of the same queries, the epoch by validation NDCG@10.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import sys
import tempfile
import time
from typing import Any

import numpy as np
import pyarrow.parquet

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from configs import letor  # noqa: E402
from tfr_pipeline.clicks import estimation, logs, simulation  # noqa: E402
from tfr_pipeline.clicks.models import PositionBased, examination  # noqa: E402
from tfr_pipeline.data.convert.conversion import convert  # noqa: E402
from tfr_pipeline.experiment.build import build_pipeline  # noqa: E402

FOLDS, DEPTH, EPOCHS = 5, 10, 6
SYSTEMS = ("grades", "naive", "tower", "ips", "ips_harvest", "em")


def cut(path: pathlib.Path, folder: pathlib.Path, fold: int) -> None:
    """Writes train.txt, valid.txt and test.txt of whole queries."""
    import gzip

    queries: dict[str, list[str]] = {}
    with gzip.open(path, "rt") as file:
        for line in file:
            queries.setdefault(line.split()[1], []).append(line)
    names = np.array(sorted(queries))
    folds = np.random.default_rng(0).permutation(len(names)) % FOLDS
    splits = {"test": [fold], "valid": [(fold + 1) % FOLDS]}
    splits["train"] = [n for n in range(FOLDS) if [n] not in splits.values()]
    for split, numbers in splits.items():
        chosen = names[np.isin(folds, numbers)]
        text = "".join(line for name in chosen for line in queries[name])
        (folder / f"{split}.txt").write_text(text)


def prepare(folder: pathlib.Path, sessions: int, seed: int) -> None:
    """Converts grades into `grades`, and sessions into `clicks`."""
    quiet: Any = {"report": lambda line: None}
    for split in ("train", "valid", "test"):
        text = str(folder / f"{split}.txt")
        convert(text, str(folder / "grades"), split=split, **quiet)
        if split == "test":
            continue
        count = sessions if split == "train" else sessions // 4
        kind = simulation.Sessions(count, PositionBased(1.0), DEPTH, seed=seed)
        simulation.simulate_files(
            text,
            str(folder / "clicks"),
            ranker="weak:1,weak:2",
            sessions=kind,
            split=split,
            **quiet,
        )


def config(system: str, folder: pathlib.Path, seed: int) -> dict[str, Any]:
    """Returns the config of a run."""
    found = letor.get_config("dnn").to_dict()
    data = folder / ("grades" if system == "grades" else "clicks")
    found["seed"], found["model_dir"] = seed, str(folder / f"run-{system}-{seed}")
    found["data"].update(
        train=f"{data}/train-*",
        valid=f"{data}/valid-*",
        features=str(data),
        train_batch_size=16 if system == "grades" else 64,
    )
    found["pipeline"].update(loss="softmax_loss", num_epochs=EPOCHS, strategy=None)
    found["pipeline"].update(early_stopping_patience=0)
    if system == "grades":
        found["pipeline"]["num_epochs"] = 40
        return found
    found["pipeline"].update(
        best_exporter_metric="loss", best_exporter_metric_higher_better=False
    )
    if system == "em":
        found["pipeline"]["loss"] = "click_em_loss"
    if system != "naive":
        bias: dict[str, Any] = {"method": system.partition("_")[0]}
        if bias["method"] == "ips":
            bias["propensities"] = str(folder / f"{system}.json")
        else:
            bias["num_positions"] = DEPTH
        found["model"]["position_bias"] = bias
    else:
        described = json.loads((data / "features.json").read_text())
        del described["example"]["position"]
        (folder / "naive.json").write_text(json.dumps(described))
        found["data"]["features"] = str(folder / "naive.json")
    return found


def judge(run: str, folder: pathlib.Path) -> np.ndarray:
    """Returns NDCG@10 of the test queries that have a relevant document."""
    from tfr_pipeline.cli.main import main

    table = folder / "per_query.parquet"
    words = [f"--model={run}/export/best_model_by_metric", f"--per_query={table}"]
    assert main(["evaluate", *words, f"--data={folder}/grades/test-*"]) == 0
    return of_table(table)


def of_table(path: pathlib.Path) -> np.ndarray:
    """Returns the column of NDCG@10, without queries that are skipped."""
    table = pyarrow.parquet.read_table(path)
    values = table.column("ndcg@10").to_numpy(zero_copy_only=False)
    return values[np.isfinite(values)]


def run_fold(args: argparse.Namespace) -> None:
    """Trains and judges all systems on a fold; appends a line each to the output."""
    with tempfile.TemporaryDirectory() as place, open(args.output, "a") as output:
        folder = pathlib.Path(place)
        cut(args.data / "yandex_letor" / "train.txt.gz", folder, args.fold)
        prepare(folder, args.sessions, args.fold + 1)
        true = examination(DEPTH, 1.0)
        log = logs.read_log(f"{folder}/clicks/train-*")
        harvested = estimation.harvest(log)
        simulation.write_propensities(str(folder / "ips.json"), true)
        simulation.write_propensities(str(folder / "ips_harvest.json"), harvested)
        error = float(np.abs(harvested / true - 1).max())
        print(f"harvest: largest error {error:.1%}", flush=True)
        for system in args.system.split(","):
            start = time.perf_counter()
            found = config(system, folder, args.seed)
            build_pipeline(found).train_and_validate()
            values = judge(found["model_dir"], folder)
            seconds = time.perf_counter() - start
            line = {"fold": args.fold, "seed": args.seed, "system": system}
            line |= {"seconds": round(seconds, 1), "values": values.tolist()}
            output.write(json.dumps(line) + "\n")
            output.flush()
            print(f"{system}: {values.mean():.4f}, {seconds:.0f} s", flush=True)


def show(path: str) -> None:
    """Prints the mean of each system over all test queries, beside `grades`."""
    found: dict[str, dict[tuple[int, int], np.ndarray]] = {}
    for line in pathlib.Path(path).read_text().splitlines():
        row = json.loads(line)
        key = row["fold"], row["seed"]
        found.setdefault(row["system"], {})[key] = np.array(row["values"])
    print("system       runs  NDCG@10  s.e.    minus naive  s.e.    minus grades  s.e.")
    for system, runs in found.items():
        values = np.concatenate(list(runs.values()))
        line = f"{system:<12} {len(runs):>4}  {values.mean():.4f}   {error(values):.4f}"
        for other in ("naive", "grades"):
            same = [key for key in runs if key in found.get(other, {})]
            differences = [runs[key] - found[other][key] for key in same]
            if same and other != system:
                gaps = np.concatenate(differences)
                line += f"  {gaps.mean():+.4f}      {error(gaps):.4f}"
            else:
                line += " " * 21
        print(line)


def error(values: np.ndarray) -> float:
    """Returns the standard error of a mean."""
    return float(values.std(ddof=1) / np.sqrt(len(values)))


def main() -> None:
    """Runs a fold, or prints what has been run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=pathlib.Path)
    parser.add_argument("--fold", type=int, choices=range(FOLDS))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--sessions", type=int, default=20000)
    parser.add_argument("--system", default=",".join(SYSTEMS))
    parser.add_argument("--output", default="clicks.jsonl")
    args = parser.parse_args()
    if args.fold is None:
        show(args.output)
    elif args.data is None:
        parser.error("--data: the folder shared/data")
    else:
        run_fold(args)


if __name__ == "__main__":
    main()
