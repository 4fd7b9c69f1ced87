"""How near to what is possible a system ranks, on data whose true utility is known.

    python -m tests.bench.ceiling --work=DIR
    python -m tests.bench.ceiling --work=DIR --data=demo --part=choose \
        --systems=best --name=dropout-0.1 --config.model.scorer_args.dropout=0.1

The grades of `tfr-pipeline synthesize` are a utility with noise, cut into five. The
ceiling is the NDCG@10 of the order by the utility itself. Data:

- `demo`: 600 training queries of 40 documents, `synthesize`'s defaults.
- `demo5`: five times as many.
- `bench`: the training and validation lists of `make bench`: 2,000 and 300 of 118
  documents, 136 features.

LightGBM and `dnn` stop early on the validation queries. What is measured is 1,000 more
queries of other seeds: `--part=choose`, to compare settings on, or `--part=test`, to
report the chosen one. Systems:

- `ceiling`: the true utility.
- `lightgbm`: lambdarank as it comes, one thread; `lightgbm_slow`: a fifth of its rate.
- An argument of `configs/letor.py`: `tfr-pipeline train`; flags `--config.*` are for
  these, and `--name` for their folder in `--work`.

Models in `--work` are not trained again. Prints NDCG@10 (queries without relevant
documents skipped; a query's value is the mean of its seeds), what part of the ceiling
it is, the standard error of that over queries, the part of each seed, and seconds of a
training.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from tests.bench.quality import CONFIG
from tests.bench.quality import tfr_pipeline as command
from tests.bench.results import Part, lightgbm, load, ndcgs, seconds_of

MEASURED = {"choose": 2, "test": 3}  # part: seed
QUERIES = 1000
TREES = {"lightgbm": {}, "lightgbm_slow": {"learning_rate": 0.02}}


def make_synthetic(folder: pathlib.Path, queries: int) -> None:
    """Writes and converts what `synthesize` makes; utilities beside it."""
    from tfr_pipeline.data.synthesize import Size, true_utility

    def make(size: Size, seed: int, parts: dict[str, str]) -> None:
        text = folder / f"text-{seed}"
        command(
            "synthesize",
            f"--output={text}",
            f"--queries={size.queries}",
            f"--seed={seed}",
            "--force",
        )
        utility = true_utility(size, seed)
        for split, part in parts.items():
            command(
                "convert",
                f"--input={text / split}.txt",
                "--input_format=libsvm",
                "--output_format=packed",
                f"--output={folder}",
                f"--split={part}",
            )
            np.save(folder / f"{part}.npy", utility[split])

    make(Size(queries=queries), 1, {"train": "train", "valid": "valid"})
    for part, seed in MEASURED.items():
        make(Size(queries=QUERIES), seed, {"train": part})


def make_bench(folder: pathlib.Path) -> None:
    """Writes the lists of `make bench`; utilities beside them."""
    from tests.bench.speed_data import Data, make_lists

    data = Data(folder)
    parts = {"train": (data.train_lists, 1), "valid": (data.valid_lists, 2)}
    # Seeds 1 and 2 are taken.
    parts |= {part: (QUERIES, seed + 1) for part, seed in MEASURED.items()}
    for part, (count, seed) in parts.items():
        lists, utility = make_lists(count, seed)
        data.write(lists, part, "packed", folder)
        np.save(folder / f"{part}.npy", utility)


MAKERS: dict[str, Callable[[pathlib.Path], None]] = {
    "demo": lambda folder: make_synthetic(folder, 600),
    "demo5": lambda folder: make_synthetic(folder, 3000),
    "bench": make_bench,
}


class Known:
    """A data set whose true utility is known.

    Args:
      name: Of `MAKERS`.
      work: Where files and models go.
    """

    def __init__(self, name: str, work: pathlib.Path):
        self.name, self.work = name, work / name
        self.folder = self.work / "data"
        done = self.folder / "done.json"
        if not done.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            MAKERS[name](self.folder)
            done.write_text("{}")

    def part(self, name: str) -> Part:
        """Returns `train`, `valid`, or one of `MEASURED`."""
        lists = load(self.folder, name)
        return Part(lists, np.ones(lists.num_lists, bool))

    def utility(self, name: str) -> np.ndarray:
        """Returns the true utility of the documents of a part."""
        return np.load(self.folder / f"{name}.npy")


def of_part(part: Part, scores: np.ndarray) -> np.ndarray:
    """Returns NDCG@10 `[lists]` of the scores of a part; see `ndcgs`."""
    return ndcgs(part.y, np.asarray(scores, np.float64).ravel(), part.row_splits)


def trees(data: Known, system: str, part: str) -> tuple[np.ndarray, float]:
    """Returns NDCG@10 `[1, lists]` of LightGBM, and seconds of its training."""
    found = data.work / f"{system}.json"
    if not found.exists():
        train, valid = data.part("train"), data.part("valid")
        start = time.perf_counter()
        score = lightgbm(
            *((p.x, p.y, p.lengths) for p in (train, valid)), TREES[system]
        )
        seconds = time.perf_counter() - start
        for name in MEASURED:
            np.save(data.work / f"{system}-{name}.npy", score(data.part(name).x))
        found.write_text(json.dumps({"seconds": seconds}))
    scores = np.load(data.work / f"{system}-{part}.npy")
    seconds = json.loads(found.read_text())["seconds"]
    return of_part(data.part(part), scores)[None], seconds


def ours(
    data: Known, system: str, name: str, part: str, seeds: list[int], flags: list[str]
) -> tuple[np.ndarray, float]:
    """Returns NDCG@10 `[seeds, lists]` of a config, and mean seconds of a training."""
    import pyarrow.parquet

    values, seconds = [], []
    for seed in seeds:
        run = data.work / f"{name}-{seed}"
        if not (run / "metrics.json").exists():
            command(
                "train",
                f"--config={CONFIG}:{system}",
                f"--config.data.train={data.folder}/train-*",
                f"--config.data.valid={data.folder}/valid-*",
                f"--config.data.features={data.folder}/features.json",
                f"--config.model_dir={run}",
                f"--config.seed={seed}",
                *flags,
            )
        measured = run / f"{part}.parquet"
        if not measured.exists():
            command(
                "evaluate",
                f"--model={run}",
                f"--data={data.folder}/{part}-*",
                f"--per_query={measured}",
            )
        table: Any = pyarrow.parquet.read_table(measured)
        column = table["ndcg@10"].to_numpy()
        values.append(column.astype(np.float64))
        seconds.append(seconds_of(run))
    return np.array(values), float(np.mean(seconds))


def row(
    name: str, values: np.ndarray, ceiling: np.ndarray, seconds: float | None
) -> str:
    """Returns a line of the table, of NDCG@10 `[seeds, lists]`."""
    keep = np.isfinite(ceiling)
    top, values = ceiling[keep], values[:, keep]
    of_seeds = values.mean(1) / top.mean()
    mean = values.mean(0)
    part = mean.mean() / top.mean()
    # Of a ratio of means.
    error = np.std(mean - part * top, ddof=1) / top.mean() / len(top) ** 0.5
    cells = [name, f"{mean.mean():.4f}", f"{100 * part:.2f}", f"{100 * error:.2f}"]
    each = ", ".join(f"{100 * one:.2f}" for one in of_seeds)
    cells += [each if len(of_seeds) > 1 else ""]
    cells += ["" if seconds is None else f"{seconds:.1f}"]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=pathlib.Path, required=True)
    parser.add_argument("--data", default=",".join(MAKERS))
    parser.add_argument("--part", choices=tuple(MEASURED), default="test")
    parser.add_argument("--systems", default="ceiling,lightgbm,lightgbm_slow,dnn,best")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--name", help="of one config with flags of its own")
    args, flags = parser.parse_known_args()
    if bool(flags) != bool(args.name):
        parser.error("--name goes with --config flags")
    seeds = [int(seed) for seed in args.seeds.split(",")]
    for of in args.data.split(","):
        data = Known(of, args.work.resolve())
        part = data.part(args.part)
        ceiling = of_part(part, data.utility(args.part))
        print(f"| {of} | NDCG@10 | % of ceiling | error | seeds | s |")
        print("|---|---|---|---|---|---|")
        for system in args.systems.split(","):
            values, seconds = ceiling[None], None
            name = args.name or system
            if system in TREES:
                values, seconds = trees(data, system, args.part)
            elif system != "ceiling":
                values, seconds = ours(data, system, name, args.part, seeds, flags)
            print(row(name, values, ceiling, seconds), flush=True)
        print(flush=True)


if __name__ == "__main__":
    sys.exit(main())
