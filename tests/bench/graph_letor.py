"""Few labelled queries, neighbours and adversaries, on real lists.

    python -m tests.bench.graph_letor --data=../shared/data/yandex_letor/train.txt.gz
    python -m tests.bench.graph_letor --data=../shared/data/clueweb09_letor/P*.txt.gz
    python -m tests.bench.graph_letor --data=... --systems=all,adversarial

Five folds by query: in turn one tests, the next validates, three train, of whose
queries a fifth has labels. The graph joins each training document, labelled or not, to
its three nearest in all features, which are between 0 and 1 in these data sets.

- `few`: `configs/letor.py` on the labelled queries, with five times the epochs, so as
  many steps as the others take.
- `graph-M`: `configs/graph_letor.py` on all training queries with multiplier M.
- `graph-0` has the steps of `graph` without its loss: what the unlabelled lists do by
  taking room in batches, and in batch normalisation.
- `all`, `adversarial-S`: all training queries labelled, the latter with
  `configs/adversarial_letor.py` and steps of S. Both are also measured under attacks of
  `--attacks` (FGSM, and PGD of ten steps).

Prints NDCG@10 (`skip`) over all validation queries and all test queries, where the
value of a query is the mean of its seeds; and the difference from the first system with
its 95% bootstrap interval over queries. Choose by validation.
"""

from __future__ import annotations

import argparse
import gzip
import pathlib
import sys
import tempfile

import numpy as np
from sklearn.datasets import load_svmlight_file

from tests.bench.cranfield import mean_and_interval, of_run
from tfr_pipeline.data.folds import fold_of_lists

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # `configs`
FOLDS, LABELLED, NEIGHBOURS = 5, 5, 3
METRIC = "ndcg@10"


class Letor:
    """Lists of LETOR text.

    Args:
      paths: The files.
    """

    def __init__(self, paths: list[pathlib.Path]):
        parts = [load_svmlight_file(str(path), query_id=True) for path in paths]
        width = max(part[0].shape[1] for part in parts)
        self.features = np.zeros((sum(len(part[1]) for part in parts), width), "f4")
        start = 0
        for matrix, labels, _ in parts:
            rows = matrix.toarray()
            self.features[start : start + len(labels), : rows.shape[1]] = rows
            start += len(labels)
        self.labels = np.concatenate([part[1] for part in parts])
        self.queries = np.concatenate([part[2] for part in parts])
        names = np.unique(self.queries)
        folds = fold_of_lists(names.astype(str).astype(object), FOLDS)
        self.folds = folds[np.searchsorted(names, self.queries)]
        # Of the queries of each fold, every fifth has labels.
        order = np.random.default_rng(0).permutation(len(names))
        known = np.zeros(len(names), bool)
        for fold in range(FOLDS):
            known[[i for i in order if folds[i] == fold][::LABELLED]] = True
        self.known = known[np.searchsorted(names, self.queries)]

    def rows(self, fold: int, split: str) -> np.ndarray:
        """Returns the documents of a split, in the order of the data."""
        turn = (self.folds - fold) % FOLDS
        return np.flatnonzero(
            {"test": turn == 0, "valid": turn == 1}.get(split, turn > 1)
        )

    def write(self, path: pathlib.Path, rows: np.ndarray, hidden: bool = False) -> None:
        """Writes documents; with `hidden`, labels of the queries that have them."""
        with gzip.open(path, "wt", compresslevel=1) as file:
            for row in rows:
                label = -1 if hidden and not self.known[row] else self.labels[row]
                columns = np.flatnonzero(self.features[row])
                values = self.features[row, columns]
                words = " ".join(
                    f"{i + 1}:{v:.7g}" for i, v in zip(columns, values, strict=True)
                )
                file.write(
                    f"{label:g} qid:{self.queries[row]} {words} # docid = {row}\n"
                )


def prepare(letor: Letor, folder: pathlib.Path, fold: int) -> None:
    """Converts the data of a fold, and makes its graph."""
    from tfr_pipeline import graph
    from tfr_pipeline.data.convert.conversion import convert
    from tfr_pipeline.data.sources.options import Options

    rows = {split: letor.rows(fold, split) for split in ("train", "valid", "test")}
    train = rows["train"]
    kinds = {"few": train[letor.known[train]], "graph": train, "all": train}
    for kind, of_train in kinds.items():
        for split, mine in {**rows, "train": of_train}.items():
            text = folder / f"{kind}-{split}.txt.gz"
            letor.write(text, mine, hidden=kind == "graph" and split == "train")
            convert(
                str(text),
                str(folder / kind),
                split=split,
                output_format="packed",
                options=Options(
                    num_features=letor.features.shape[1],
                    require_label=kind != "graph",
                ),
                report=lambda line: None,
            )
    graph.build(
        str(folder / "graph" / "train-*"),
        str(folder / "graph.tsv"),
        wanted=graph.Wanted(metric="l2", k=NEIGHBOURS),
        encoder=graph.Encoder(features=("features",)),
    )


def train(
    system: str, seed: int, folder: pathlib.Path, more: list[str]
) -> pathlib.Path:
    """Trains a system on the data of a fold; returns its run directory."""
    from tfr_pipeline.compat import tf
    from tfr_pipeline.experiment.build import build_pipeline
    from tfr_pipeline.experiment.config_files import ConfigFile

    name, _, number = system.partition("-")
    run_dir = folder / f"{system}-{seed}"
    config = {"graph": "graph_letor", "adversarial": "adversarial_letor"}
    file = ROOT / "configs" / f"{config.get(name, 'letor')}.py"
    data = {"adversarial": "all"}.get(name, name)
    words = [
        f"--config.data.dir={folder / data}",
        f"--config.model_dir={run_dir}",
        f"--config.seed={seed}",
        "--config.pipeline.strategy=none",
    ]
    if name == "few":
        words += [
            f"--config.pipeline.num_epochs={40 * LABELLED}",
            f"--config.pipeline.early_stopping_patience={15 * LABELLED}",
        ]
    elif name == "graph":
        words.append(f"--config.pipeline.graph.edges={folder / 'graph.tsv'}")
        words.append(f"--config.pipeline.graph.multiplier={number}")
    elif name == "adversarial":
        words.append(f"--config.pipeline.adversarial.adv_step_size={number}")
    pipeline = build_pipeline(ConfigFile(str(file), [*words, *more]).config())
    pipeline.train()
    pipeline.finish()
    tf.keras.backend.clear_session()
    return run_dir


def under_attack(run_dir: pathlib.Path, test: str, sizes: list[float]) -> list[float]:
    """Returns the mean NDCG of test lists under FGSM and PGD of each size."""
    from tfr_pipeline.pipeline.datasets.hparams import DatasetHparams
    from tfr_pipeline.pipeline.datasets.multi_label import builder_from_features
    from tfr_pipeline.pipeline.run.attack import attack_of, attacked
    from tfr_pipeline.pipeline.run.measuring import measure
    from tfr_pipeline.serving.predictor import Predictor

    predictor = Predictor(str(run_dir))
    builder = builder_from_features(predictor.features, DatasetHparams("", test, 1, 1))
    lists = builder.lists("valid", "packed")
    found = []
    for size in sizes:
        for steps in (1, 10):
            moved = attacked(predictor, lists, attack_of(size, steps))
            found.append(measure(predictor, moved).means()[METRIC]["skip"])
    return found


def report(results: dict[str, dict[str, dict[str, list[float]]]]) -> None:
    """Prints NDCG of each system, and differences from the first one."""
    first = None
    for system, splits in results.items():
        line = f"{system:<16}"
        for split, queries in splits.items():
            values = np.array([np.mean(x) for _, x in sorted(queries.items())])
            values = values[np.isfinite(values)]
            line += "  {} {:.4f} [{:.4f}, {:.4f}]".format(
                split, *mean_and_interval(values)
            )
            if split == "test" and first is None:
                first = values
            elif split == "test":
                difference = mean_and_interval(values - first)
                line += "  {:+.4f} [{:+.4f}, {:+.4f}]".format(*difference)
        print(line, flush=True)


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=pathlib.Path, nargs="+", required=True)
    parser.add_argument(
        "--systems", default="few,graph-0,graph-0.1,graph-1,graph-10,all"
    )
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--attacks", default="", help="sizes: 0.01,0.05")
    args, flags = parser.parse_known_args()
    letor = Letor(args.data)
    systems = args.systems.split(",")
    sizes = [float(size) for size in args.attacks.split(",") if size]
    results: dict = {s: {"valid": {}, "test": {}} for s in systems}
    attacks: dict[str, list[list[float]]] = {s: [] for s in systems}
    with tempfile.TemporaryDirectory() as name:
        for fold in range(FOLDS):
            folder = pathlib.Path(name) / str(fold)
            folder.mkdir()
            prepare(letor, folder, fold)
            for system in systems:
                for seed in map(int, args.seeds.split(",")):
                    run_dir = train(system, seed, folder, flags)
                    for split, queries in results[system].items():
                        for query, value in of_run(run_dir, split).items():
                            queries.setdefault(query, []).append(value)
                    if sizes:
                        test = str(folder / "all" / "test-*")
                        attacks[system].append(under_attack(run_dir, test, sizes))
                print(f"fold {fold} {system}", file=sys.stderr, flush=True)
    report(results)
    for system, found in attacks.items() if sizes else ():
        means = iter(np.mean(found, axis=0))
        for size in sizes:
            print(f"{system:<16} {size}: FGSM {next(means):.4f} PGD {next(means):.4f}")


if __name__ == "__main__":
    main()
