"""What a sweep finds on real data, beside the default and LightGBM with as many trials.

    python tests/bench/sweep_quality.py --data=LETOR.txt.gz --output=DIR [--trials=40]

Takes LETOR text with `qid:`. Of five folds over its queries the last is for test and
decides nothing; of the others four fifths train, and one fifth validates. Then

- `tfr-pipeline convert` and `sweep --config=configs/letor.py:dnn`, `sweep status`,
  `plot`, and `best --train`: the trial with the best validation NDCG@10, trained again
  with several seeds, beside the default of the config with the same seeds;
- LightGBM's lambdarank with as many random settings on the same queries, which stops
  early and is chosen by validation NDCG@10 as well, beside its defaults.

Prints NDCG@10 (gain 2^y - 1, queries without relevant documents skipped), each the mean
over seeds, and 95% intervals of the differences by a bootstrap over test queries: how
far other queries would move them, not other splits or seeds. Stopped, the same command
goes on: the sweep where it was, LightGBM, which takes a minute or two, from the start.
"""

from __future__ import annotations

import argparse
import gzip
import itertools
import json
import pathlib
import subprocess
import sys
from collections.abc import Sequence

import numpy as np
import pyarrow.parquet as pq
import quality
from sklearn.datasets import load_svmlight_file

from tfr_pipeline.metrics.evaluation import per_query

FOLDS = 5
SPLITS = ("train", "valid", "test")
METRIC = "ndcg@10"
RESAMPLES = 10_000


def split_of(query: int) -> str:
    """Returns the split of the query that stands at this place in the file.

    Every fifth is for test, and every fifth of the others for validation: places 4, 9,
    14, 19, 24 and 5, 11, 17, 23 of each 25, say, whatever the queries are called.
    """
    fold, place = query % FOLDS, query // FOLDS
    if fold == FOLDS - 1:
        return "test"
    rest = place * (FOLDS - 1) + fold
    return "valid" if rest % FOLDS == FOLDS - 1 else "train"


def prepare(source: pathlib.Path, folder: pathlib.Path) -> dict[str, quality.Part]:
    """Writes the three splits as text, and once as `convert` does; returns them."""
    matrix, _, _ = load_svmlight_file(str(source), zero_based=False, query_id=True)
    opened = gzip.open if source.suffix == ".gz" else open
    with opened(source, "rt") as file:
        groups = itertools.groupby(file, lambda line: line.split(maxsplit=2)[1])
        lists = [(query, "".join(lines)) for query, lines in groups]
    if len(lists) > len({query for query, _ in lists}):
        raise SystemExit(f"{source}: a query stands in two places")
    (folder / "text").mkdir(parents=True, exist_ok=True)
    parts = {}
    for split in SPLITS:
        path = folder / "text" / f"{split}.txt"
        found = [text for i, (_, text) in enumerate(lists) if split_of(i) == split]
        path.write_text("".join(found))
        parts[split] = quality.read_part([path], matrix.shape[1])
        if not (folder / "data" / f"{split}.stats.json").exists():
            quality.tfr_pipeline(
                "convert",
                f"--input={path}",
                f"--num_features={matrix.shape[1]}",
                f"--output={folder / 'data'}",
                f"--split={split}",
            )
        documents = len(parts[split].labels)
        print(f"{split}: {len(found)} queries, {documents:,} documents")
    return parts


def shown(*words: str) -> None:
    """Shows and runs a command of ours, with its output."""
    print("\n$ tfr-pipeline " + " ".join(words), flush=True)
    command = [sys.executable, "-m", "tfr_pipeline", *words]
    if code := subprocess.run(command, cwd=quality.ROOT).returncode:
        raise SystemExit(code)


class Result:
    """A system, with one or several seeds.

    Args:
      name: Its name.
      valid: Validation NDCG@10 of each seed.
      test: Test NDCG@10, `[seeds, queries]`; NaN without relevant documents.
    """

    def __init__(self, name: str, valid: Sequence[float], test: Sequence[np.ndarray]):
        self.name = name
        self.valid = float(np.mean(valid))
        self.queries = np.mean(test, axis=0)
        self.seeds = np.nanmean(test, axis=1)
        self.test = float(np.nanmean(self.queries))

    def line(self) -> str:
        """Returns a line of the table."""
        seeds = ", ".join(f"{value:.4f}" for value in self.seeds)
        return f"{self.name:<24}{self.valid:.4f}  {self.test:.4f}  {seeds}"


def of_runs(name: str, runs: Sequence[pathlib.Path]) -> Result:
    """Returns the result of run directories, which differ in their seeds."""
    valid, test = [], []
    for run in runs:
        metrics = json.loads((run / "metrics.json").read_text())
        valid.append(metrics["valid"][METRIC]["skip"])
        rows = [("split", "==", "test")]
        table = pq.read_table(run / "per_query.parquet", filters=rows)
        test.append(table[METRIC].to_numpy())
    return Result(name, valid, test)


def sweep(folder: pathlib.Path, args: argparse.Namespace) -> list[Result]:
    """Sweeps; returns what the default and the best trial reach with several seeds."""
    place, config = folder / "sweep", f"--config={quality.CONFIG}:dnn"
    data = f"--config.data.dir={folder / 'data'}"
    shown(
        *("sweep", config, data, f"--config.model_dir={place}"),
        *(f"--trials={args.trials}", f"--workers={args.workers}"),
    )
    shown("sweep", "status", str(place))
    shown("sweep", "plot", str(place))
    best = folder / f"best-of-{args.trials}"
    seeds = f"--seeds={args.seeds}"
    shown("sweep", "best", str(place), "--train", seeds, f"--model_dir={best}")
    chosen = json.loads((best / "seeds.json").read_text())["seeds"]
    defaults = [folder / "default" / f"seed-{seed}" for seed in chosen]
    for seed, run in zip(chosen, defaults, strict=True):
        if not (run / "metrics.json").exists():
            run_dir, number = f"--config.model_dir={run}", f"--config.seed={seed}"
            quality.tfr_pipeline("train", config, data, run_dir, number)
    return [
        of_runs("dnn, default", defaults),
        of_runs(f"dnn, best of {args.trials}", [best / run.name for run in defaults]),
    ]


def random_settings(random: np.random.Generator) -> dict[str, float]:
    """Draws settings of LightGBM as one tunes for some thousand documents."""

    def log(low: float, high: float) -> float:
        return float(np.exp(random.uniform(np.log(low), np.log(high))))

    return {
        "learning_rate": log(0.01, 0.3),
        "num_leaves": round(log(4, 64)),
        "min_data_in_leaf": round(log(5, 200)),
        "feature_fraction": random.uniform(0.3, 1.0),
        "bagging_fraction": random.uniform(0.5, 1.0),
        "bagging_freq": 1,
        "lambda_l2": log(1e-3, 100),
    }


def lightgbm(parts: dict[str, quality.Part], trials: int, seeds: int) -> list[Result]:
    """Returns what LightGBM's default and its best trial reach with several seeds."""

    def queries(booster, split: str) -> np.ndarray:
        part = parts[split]
        scores = booster.predict(part.features)
        return per_query(part.labels, scores, part.row_splits)[METRIC]

    def trained(settings: dict, seed: int = 0):
        # On so little data threads would wait for each other.
        settings = {**settings, "seed": seed, "num_threads": 1}
        return quality.train_lightgbm(parts["train"], parts["valid"], settings)

    def result(name: str, settings: dict) -> Result:
        boosters = [trained(settings, seed) for seed in range(seeds)]
        valid = [float(np.nanmean(queries(each, "valid"))) for each in boosters]
        return Result(name, valid, [queries(each, "test") for each in boosters])

    random = np.random.default_rng(0)
    tried = [random_settings(random) for _ in range(trials)]
    best = max(tried, key=lambda point: np.nanmean(queries(trained(point), "valid")))
    print("\nLightGBM's best of", trials, json.dumps(best))
    return [
        result("lightgbm, default", {}),
        result(f"lightgbm, best of {trials}", best),
    ]


def difference(one: Result, other: Result) -> str:
    """Returns by how much one is better, with a bootstrap interval over queries."""
    gaps = one.queries - other.queries
    gaps = gaps[~np.isnan(gaps)]
    drawn = np.random.default_rng(0).integers(len(gaps), size=(RESAMPLES, len(gaps)))
    low, high = np.percentile(gaps[drawn].mean(axis=1), [2.5, 97.5])
    return (
        f"{one.name} - {other.name}: {gaps.mean():+.4f} [{low:+.4f}, {high:+.4f}] "
        f"over {len(gaps)} queries"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=pathlib.Path, required=True)
    parser.add_argument("--output", type=pathlib.Path, required=True)
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seeds", type=int, default=3, help="2 or more")
    args = parser.parse_args()
    if args.seeds < 2:
        parser.error("--seeds: expected 2 or more")
    folder = args.output.resolve()
    parts = prepare(args.data, folder)
    default, best = sweep(folder, args)
    trees, best_trees = lightgbm(parts, args.trials, args.seeds)
    print(f"\n{'':<24}valid   test    test of each seed")
    for result in (default, best, trees, best_trees):
        print(result.line())
    print("\ntest, 95% intervals:")
    print(difference(best, default))
    print(difference(best_trees, trees))
    print(difference(best, best_trees))


if __name__ == "__main__":
    main()
