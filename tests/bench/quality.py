"""Ranking quality beside LightGBM's, on the same splits with the same NDCG code.

    python tests/bench/quality.py --data=../shared/data
    python tests/bench/quality.py --data=../shared/data --system=lightgbm,dnn
    python tests/bench/quality.py --data=../shared/data --dataset=lightgbm

`--dataset=clueweb` runs five rotations over the parts of ClueWeb09-LETOR: three
parts train, the next validates, the last tests. `--dataset=lightgbm` takes the
files of LightGBM's lambdarank example; the last fifth of the training queries
validates. Systems:

- `random`: the expected value of a random order (all scores tied).
- `feature`: the one feature, up or down, that ranks the training queries best.
- `lightgbm`: lambdarank, early stopping on validation NDCG@10, untuned but for a low
  learning rate, without which it stops after a handful of trees. This is the
  reference. `lightgbm_defaults` has LightGBM's own learning rate of 0.1,
  `lightgbm_small` the regularisation one would take for a few thousand documents.
- `dnn`, `gam`: `tfr-pipeline convert` and `train --config=configs/letor.py:NAME` in
  processes of their own, scored by the run's `metrics.json`.

Prints NDCG@10 with queries without relevant documents skipped, gain 2^y - 1, ties by
expectation. On 2 cores LightGBM takes a minute or two for five rotations.
"""

from __future__ import annotations

import argparse
import dataclasses
import gzip
import json
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

import lightgbm
import numpy as np
from sklearn.datasets import load_svmlight_file

ROOT = pathlib.Path(__file__).resolve().parents[2]
CONFIG = ROOT / "configs" / "letor.py"
BASELINES = ("random", "feature")
LIGHTGBM = {
    "lightgbm": {"learning_rate": 0.02},
    "lightgbm_defaults": {},
    "lightgbm_small": {
        "learning_rate": 0.05,
        "num_leaves": 15,
        "min_data_in_leaf": 50,
        "feature_fraction": 0.5,
        "bagging_fraction": 0.8,
        "bagging_freq": 1,
        "lambda_l2": 10.0,
    },
}
OURS = ("dnn", "gam")
MAX_ROUNDS = 1000
PATIENCE = 50


@dataclasses.dataclass
class Part:
    """Whole lists, as read by scikit-learn: an independent reader.

    Attributes:
      files: The text files, as `convert` takes them.
      query_file: File of list lengths, when the text holds no `qid:`.
      features: float64 `[documents, features]`.
      labels: float64 `[documents]`.
      row_splits: int64 `[lists + 1]`.
    """

    files: list[pathlib.Path]
    query_file: pathlib.Path | None
    features: np.ndarray
    labels: np.ndarray
    row_splits: np.ndarray


@dataclasses.dataclass
class Split:
    """Train, validation and test lists of one rotation."""

    name: str
    train: Part
    valid: Part
    test: Part


def ndcg_at_10(labels: np.ndarray, scores: np.ndarray, row_splits: np.ndarray) -> float:
    """Mean NDCG@10 over the lists that have a relevant document."""
    from tfr_pipeline.metrics.evaluation import evaluate_lists

    return float(evaluate_lists(labels, scores, row_splits)["ndcg@10"]["skip"])


def read_part(files: list[pathlib.Path], num_features: int) -> Part:
    """Reads files with `qid:` and checks that each query stands in one place."""
    features, labels, splits = [], [], [0]
    for file in files:
        matrix, label, qid = load_svmlight_file(
            str(file), n_features=num_features, zero_based=False, query_id=True
        )
        starts = np.flatnonzero(np.diff(qid)) + 1
        if len(starts) + 1 != len(np.unique(qid)):
            raise SystemExit(f"{file}: a query stands in two places")
        splits.extend(splits[-1] + np.append(starts, len(qid)))
        features.append(matrix.toarray())
        labels.append(label)
    return Part(
        files, None, np.concatenate(features), np.concatenate(labels), np.array(splits)
    )


def clueweb_splits(data: pathlib.Path) -> Iterator[Split]:
    """Yields the five rotations of ClueWeb09-LETOR."""
    files = [data / "clueweb09_letor" / f"P{i}.txt.gz" for i in range(1, 6)]
    for rotation in range(5):
        order = [files[(rotation + i) % 5] for i in range(5)]
        yield Split(
            f"rotation {rotation + 1}",
            train=read_part(order[:3], 42),
            valid=read_part(order[3:4], 42),
            test=read_part(order[4:], 42),
        )


def lightgbm_splits(data: pathlib.Path, work: pathlib.Path) -> Iterator[Split]:
    """Yields the one split of LightGBM's example; writes its train and valid files."""
    folder = data / "lightgbm_lambdarank"
    with gzip.open(folder / "rank.train.gz", "rt") as file:
        lines = file.readlines()
    lengths = np.loadtxt(folder / "rank.train.query", dtype=np.int64)
    count = len(lengths) - len(lengths) // 5
    documents = int(lengths[:count].sum())
    for name, part, counts in (
        ("train", lines[:documents], lengths[:count]),
        ("valid", lines[documents:], lengths[count:]),
    ):
        (work / f"rank.{name}.txt").write_text("".join(part))
        (work / f"rank.{name}.query").write_text("".join(f"{n}\n" for n in counts))

    def part(file: pathlib.Path, query_file: pathlib.Path) -> Part:
        matrix, labels = load_svmlight_file(str(file), n_features=301, zero_based=True)
        splits = np.append(0, np.cumsum(np.loadtxt(query_file, dtype=np.int64)))
        return Part([file], query_file, matrix.toarray(), labels, splits)

    yield Split(
        "rank.test",
        train=part(work / "rank.train.txt", work / "rank.train.query"),
        valid=part(work / "rank.valid.txt", work / "rank.valid.query"),
        test=part(folder / "rank.test.gz", folder / "rank.test.query"),
    )


def score_random(split: Split) -> float:
    """A constant score: all documents tie, so this is the mean over all orders."""
    test = split.test
    return ndcg_at_10(test.labels, np.zeros(len(test.labels)), test.row_splits)


def score_feature(split: Split) -> float:
    """The feature and direction are chosen on the training lists."""
    train, test = split.train, split.test
    candidates = [
        (ndcg_at_10(train.labels, sign * column, train.row_splits), index, sign)
        for index, column in enumerate(train.features.T)
        for sign in (1.0, -1.0)
        if np.ptp(column) > 0
    ]
    _, index, sign = max(candidates)
    return ndcg_at_10(test.labels, sign * test.features[:, index], test.row_splits)


def train_lightgbm(train: Part, valid: Part, settings: dict) -> lightgbm.Booster:
    """Lambdarank with LightGBM's defaults but for `settings`; stops early."""

    def dataset(part: Part, reference: lightgbm.Dataset | None = None):
        return lightgbm.Dataset(
            part.features,
            part.labels,
            group=np.diff(part.row_splits),
            reference=reference,
        )

    data = dataset(train)
    return lightgbm.train(
        {
            "objective": "lambdarank",
            "metric": "ndcg",
            "eval_at": [10],
            "verbosity": -1,
            "num_threads": 2,
            "deterministic": True,
            "force_row_wise": True,
            "seed": 0,
            **settings,
        },
        data,
        num_boost_round=MAX_ROUNDS,
        valid_sets=[dataset(valid, data)],
        callbacks=[lightgbm.early_stopping(PATIENCE, verbose=False)],
    )


def score_lightgbm(split: Split, settings: dict) -> float:
    """Test NDCG@10 of `train_lightgbm`; `predict` takes the best iteration."""
    test = split.test
    scores = train_lightgbm(split.train, split.valid, settings).predict(test.features)
    return ndcg_at_10(test.labels, scores, test.row_splits)


def tfr_pipeline(*arguments: str) -> None:
    """Runs a command of ours; its output is shown only when it fails."""
    command = [sys.executable, "-m", "tfr_pipeline", *arguments]
    done = subprocess.run(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if done.returncode:
        raise SystemExit(
            f"{' '.join(command)}: exit code {done.returncode}\n{done.stdout}"
        )


def score_ours(
    split: Split, system: str, work: pathlib.Path, seed: int, overrides: list[str]
) -> float:
    """Converts (once a split) and trains with `configs/letor.py`, as a user would."""
    folder = work / split.name.replace(" ", "_")
    for name in ("train", "valid", "test"):
        if (folder / "data" / f"{name}.stats.json").exists():
            continue
        part: Part = getattr(split, name)
        query = [f"--query_file={part.query_file}"] if part.query_file else []
        tfr_pipeline(
            "convert",
            "--input=" + ",".join(str(file) for file in part.files),
            "--input_format=libsvm",
            f"--num_features={42 if part.query_file is None else 300}",
            f"--output={folder / 'data'}",
            f"--split={name}",
            "--num_shards=2",
            *query,
        )
    run = folder / f"{system}-{seed}"
    tfr_pipeline(
        "train",
        f"--config={CONFIG}:{system}",
        f"--config.data.dir={folder / 'data'}",
        f"--config.model_dir={run}",
        f"--config.seed={seed}",
        *overrides,
    )
    metrics = json.loads((run / "metrics.json").read_text())
    return float(metrics["test"]["ndcg@10"]["skip"])


def measure(
    system: str,
    split: Split,
    work: pathlib.Path,
    seeds: list[int],
    overrides: list[str],
) -> float:
    """Test NDCG@10 of one system on one split, averaged over seeds if it has any."""
    if system == "random":
        return score_random(split)
    if system == "feature":
        return score_feature(split)
    if system in LIGHTGBM:
        return score_lightgbm(split, LIGHTGBM[system])
    scores = [score_ours(split, system, work, seed, overrides) for seed in seeds]
    return float(np.mean(scores))


def table(results: dict[str, dict[str, float]]) -> str:
    """A table with one line a split and one column a system, and the means."""
    systems = list(results)
    splits = list(results[systems[0]])
    lines = [["NDCG@10", *systems]]
    lines += [[s, *(f"{results[name][s]:.4f}" for name in systems)] for s in splits]
    if len(splits) > 1:
        means = (np.mean(list(results[name].values())) for name in systems)
        lines.append(["mean", *(f"{mean:.4f}" for mean in means)])
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join(
        "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True))
        for line in lines
    )


def main() -> None:
    """Measures and prints; see the module's docstring."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=pathlib.Path, required=True)
    parser.add_argument("--dataset", choices=("clueweb", "lightgbm"), default="clueweb")
    parser.add_argument("--system", default=",".join(LIGHTGBM))
    parser.add_argument("--seeds", default="0", help="of our systems: 0,1,2 averages")
    parser.add_argument("--work", type=pathlib.Path, help="keeps our runs there")
    parser.add_argument("--output", type=pathlib.Path, help="the numbers as JSON")
    parser.add_argument(
        "overrides", nargs="*", help="for `train`, after --: --config.a.b=value"
    )
    options = parser.parse_args()
    options.data = options.data.resolve()
    known = [*LIGHTGBM, *OURS]
    systems = options.system.split(",")
    if wrong := set(systems) - set(known):
        parser.error(f"unknown system {', '.join(sorted(wrong))}; known: {known}")
    seeds = [int(seed) for seed in options.seeds.split(",")]

    with tempfile.TemporaryDirectory() as temporary:
        work = (options.work or pathlib.Path(temporary)).resolve()
        work.mkdir(parents=True, exist_ok=True)
        if options.dataset == "clueweb":
            splits = clueweb_splits(options.data)
        else:
            splits = lightgbm_splits(options.data, work)
        names = [*BASELINES, *systems]
        results: dict[str, dict[str, float]] = {name: {} for name in names}
        seconds = dict.fromkeys(names, 0.0)
        for split in splits:
            for name in names:
                start = time.perf_counter()
                results[name][split.name] = measure(
                    name, split, work, seeds, options.overrides
                )
                seconds[name] += time.perf_counter() - start
    print(table(results))
    print("seconds  " + "  ".join(f"{n} {seconds[n]:.0f}" for n in names))
    if options.output:
        report = {"ndcg@10": results, "seconds": seconds}
        options.output.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
