"""Similarity graphs and packed neighbours: time, memory, recall, beside NSL's tools.

    python tests/bench/graph.py equal                # edges of 2,000 vectors
    python tests/bench/graph.py build [--vectors=100000] [--kind=clusters]
        [--method=auto] [--recall=0.95]
    python tests/bench/graph.py libraries [--vectors=100000] [--kind=low_rank]
    python tests/bench/graph.py pack [--multiples=1,2,4]

Each measurement is a process of its own; its peak memory is that of the process, with
TensorFlow, which takes about 0.5 GB alone. Vectors have 64 dimensions, k is 10. Kinds:
`clusters` of about 100 vectors; `low_rank`, 16 dimensions, without clusters, in 64 and
some noise, as those of encoders; `gauss`, where nothing is near to anything: the worst
case. Recall is that of 500 vectors, against a plain search in float64.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time
from typing import Any

import numpy as np

DIMS, K, SAMPLE = 64, 10, 500
ROOT = pathlib.Path(__file__).resolve().parents[2]


def vectors(count: int, kind: str) -> np.ndarray:
    """Returns float32 `[count, DIMS]`."""
    random = np.random.default_rng(0)
    result = random.normal(size=(count, DIMS)).astype(np.float32)
    if kind == "clusters":
        centres = random.normal(size=(max(1, count // 100), DIMS))
        result *= np.float32(0.5)
        result += centres[random.integers(0, len(centres), count)].astype(np.float32)
    elif kind == "low_rank":
        inner = random.normal(size=(count, 16)).astype(np.float32)
        mix = random.normal(size=(16, DIMS)).astype(np.float32) / 4
        result *= np.float32(0.1)
        result += inner @ mix
    elif kind != "gauss":
        raise SystemExit(
            f"--kind: expected clusters, low_rank or gauss, found {kind!r}"
        )
    return result


def write_lists(folder: str, matrix: np.ndarray) -> str:
    """Writes packed lists of 100 documents with one vector each; returns a glob."""
    from tfr_pipeline.data.lists import Lists
    from tfr_pipeline.features import Feature, Features
    from tfr_pipeline.graph import writing

    width = matrix.shape[1]
    features = Features(
        example={"features": Feature(shape=(width,))}, data_format="packed"
    )

    def parts() -> Any:
        for start in range(0, len(matrix), 10_000):
            some = matrix[start : start + 10_000]
            splits = np.arange(0, len(some) + 1, 100)
            names = np.empty(len(some), object)
            names[:] = [str(n) for n in range(start, start + len(some))]
            queries = np.empty(len(splits) - 1, object)
            queries[:] = [f"q{start // 100 + n}" for n in range(len(queries))]
            labels = np.zeros(len(some), np.float32)
            yield Lists({"float32": some}, splits, labels, queries, names)

    writing.write_lists(parts(), features, writing.Output(folder))
    return f"{folder}/train-*"


def write_examples(path: str, count: int, width: int) -> str:
    """Writes `tf.train.Example`s; returns the path."""
    from tfr_pipeline.compat import tf

    random = np.random.default_rng(0)
    with tf.io.TFRecordWriter(path) as writer:
        for number in range(count):
            features = tf.train.Example().features
            features.feature["id"].bytes_list.value.append(f"n{number}".encode())
            values = random.normal(size=width).astype(np.float32)
            features.feature["features"].float_list.value.extend(values)
            example = tf.train.Example(features=features)
            writer.write(example.SerializeToString())
    return path


def measured(call: str, **arguments: Any) -> dict[str, Any]:
    """Runs a function of this file in a process; returns what it took and returned."""
    code = (
        "import sys, json; sys.path.insert(0, sys.argv[1]);"
        "from tests.bench import graph as bench;"
        "bench.child(sys.argv[2], json.loads(sys.argv[3]))"
    )
    words = [sys.executable, "-c", code, str(ROOT), call, json.dumps(arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    done = subprocess.run(
        words, check=True, stdout=subprocess.PIPE, text=True, env=environment
    )
    return json.loads(done.stdout.splitlines()[-1])


def child(call: str, arguments: dict[str, Any]) -> None:
    """Calls a function, and prints what it took."""
    from tfr_pipeline.compat import nsl

    assert nsl
    begin, cpu = time.perf_counter(), time.process_time()
    found = globals()[call](**arguments)
    result = {
        "seconds": round(time.perf_counter() - begin, 2),
        "cpu_seconds": round(time.process_time() - cpu, 2),
        "peak_mb": peak(),
        **(found or {}),
    }
    print(json.dumps(result))


def peak() -> int:
    """Returns the most resident memory that this process has had, in MB.

    That of `getrusage` begins with what the process had that started this one.
    """
    text = pathlib.Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+)", text)[1]) // 1024  # type: ignore[index]


def run_build(data: str, graph: str, method: str, recall: float) -> dict[str, Any]:
    """Builds a graph by ours."""
    from tfr_pipeline.graph.building import build
    from tfr_pipeline.graph.similarity import Wanted

    found = build(data, graph, wanted=Wanted(k=K), method=method, recall=recall)
    return {name: found[name] for name in ("method", "recall", "edges")}


def run_pack(data: str, graph: str, output: str, cache: str) -> None:
    """Packs by ours."""
    from tfr_pipeline.graph.packing import Rules, pack

    pack(data, output, graph=graph, rules=Rules(3), cache=cache)


def run_nsl_pack(data: str, graph: str, output: str) -> None:
    """Packs by NSL."""
    from tests.graph.helpers import nsl_tools

    nsl_tools().pack_nbrs(data, "", graph, output, max_nbrs=3)


def run_nothing() -> None:
    """Does nothing: what a process takes."""


def run_ours(kind: str, count: int) -> dict[str, Any]:
    """Finds neighbours by the index of ours, without files."""
    from tfr_pipeline.graph import similarity, similarity_index

    matrix = vectors(count, kind)
    some = similarity.Vectors(matrix, np.arange(count), "cosine")
    index = similarity_index.approximate(
        some, similarity.Wanted(k=K), 0.95, lambda number: None
    )
    found: dict[int, list[int]] = {}
    for sources, targets, _ in index.parts:
        for source, target in zip(sources.tolist(), targets.tolist(), strict=True):
            found.setdefault(source, []).append(target)
    rows = sampled(count)
    lists = [found.get(int(row), []) for row in rows]
    return {"recall": recall_of(matrix, rows, lists), "share": index.share}


def run_usearch(kind: str, count: int, expansion: int) -> dict[str, Any]:
    """Finds neighbours by the graph of usearch."""
    from usearch.index import Index

    matrix = vectors(count, kind)
    index = Index(ndim=DIMS, metric="cos", dtype="f32", expansion_search=expansion)
    index.add(np.arange(count), matrix)
    found = index.search(matrix, K + 1).keys
    return _of_matrix(matrix, np.asarray(found).astype(np.int64))


def run_hnsw(kind: str, count: int, expansion: int) -> dict[str, Any]:
    """Finds neighbours by the graph of Faiss."""
    import faiss

    matrix = vectors(count, kind)
    faiss.normalize_L2(matrix)
    index = faiss.IndexHNSWFlat(DIMS, 32, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efSearch = expansion
    index.add(matrix)
    return _of_matrix(matrix, index.search(matrix, K + 1)[1])


def _of_matrix(matrix: np.ndarray, found: np.ndarray) -> dict[str, Any]:
    rows = sampled(len(matrix))
    lists = [[n for n in found[row].tolist() if n != row][:K] for row in rows]
    return {"recall": recall_of(matrix, rows, lists)}


def sampled(count: int) -> np.ndarray:
    """Returns the numbers of the vectors that recall is taken of."""
    return np.sort(np.random.default_rng(5).choice(count, SAMPLE, False))


def recall_of(matrix: np.ndarray, rows: np.ndarray, found: list[list[int]]) -> float:
    """Returns the share of true nearest neighbours by cosine that was found."""
    unit = matrix / np.linalg.norm(matrix, axis=1, keepdims=True)
    there = 0
    for row, some in zip(rows, found, strict=True):
        scores = unit @ unit[row]
        scores[row] = -2
        near = np.argpartition(scores, -4 * K)[-4 * K :]
        exact = unit[near].astype(np.float64) @ unit[row].astype(np.float64)
        true = near[np.argsort(exact)[-K:]]
        there += len(set(true.tolist()) & set(some))
    return round(there / (K * len(rows)), 4)


def recall_of_file(matrix: np.ndarray, graph: str) -> float:
    """Returns the recall of a graph with edges in both directions."""
    rows = sampled(len(matrix))
    names = {f"q{row // 100}/{row}": place for place, row in enumerate(rows.tolist())}
    found: list[list[int]] = [[] for _ in rows]
    with open(graph, encoding="utf-8") as file:
        for line in file:
            source, target, _ = line.split("\t")
            if source in names:
                found[names[source]].append(int(target.rpartition("/")[2]))
    return recall_of(matrix, rows, found)


def equal(folder: str, arguments: argparse.Namespace) -> None:
    """Compares edges with those of NSL."""
    from tfr_pipeline.compat import nsl
    from tfr_pipeline.graph.building import build
    from tfr_pipeline.graph.encoders import Encoder
    from tfr_pipeline.graph.similarity import Wanted

    data = write_examples(f"{folder}/data.tfrecord", 2000, 16)
    for threshold in (0.4, 0.7):
        config = nsl.configs.GraphBuilderConfig(
            "id", "features", similarity_threshold=threshold
        )
        begin = time.perf_counter()
        nsl.tools.build_graph_from_config([data], f"{folder}/theirs.tsv", config)
        middle = time.perf_counter()
        wanted, encoder = Wanted(threshold=threshold), Encoder(("features",))
        build(data, f"{folder}/ours.tsv", wanted=wanted, encoder=encoder)
        end = time.perf_counter()
        files = (pathlib.Path(folder) / f"{name}.tsv" for name in ("theirs", "ours"))
        theirs, ours = (sorted(file.read_text().splitlines()) for file in files)
        print(
            f"threshold {threshold}: {len(ours)} edges, equal: {theirs == ours}; NSL "
            f"{middle - begin:.2f} s, here {end - middle:.2f} s"
        )


def build(folder: str, arguments: argparse.Namespace) -> None:
    """Builds a graph."""
    matrix = vectors(arguments.vectors, arguments.kind)
    data, graph = write_lists(f"{folder}/data", matrix), f"{folder}/graph.tsv"
    found = measured(
        "run_build",
        data=data,
        graph=graph,
        method=arguments.method,
        recall=arguments.recall,
    )
    found["true_recall"] = recall_of_file(matrix, graph)
    print(arguments.vectors, arguments.kind, json.dumps(found))


def libraries(folder: str, arguments: argparse.Namespace) -> None:
    """Compares libraries."""
    what = {"kind": arguments.kind, "count": arguments.vectors}
    print("faiss, cells", json.dumps(measured("run_ours", **what)), flush=True)
    for expansion in (64, 128):
        for name in ("run_hnsw", "run_usearch"):
            found = measured(name, **what, expansion=expansion)
            print(name, expansion, json.dumps(found), flush=True)


def pack(folder: str, arguments: argparse.Namespace) -> None:
    """Packs more and more data."""
    from tests.graph.helpers import read_examples

    print("nothing", json.dumps(measured("run_nothing")))
    for multiple in map(int, arguments.multiples.split(",")):
        count = 40_000 * multiple
        random = np.random.default_rng(1)
        data = write_examples(f"{folder}/data.tfrecord", count, 512)
        ends = random.integers(0, count, (count, 4))
        weights = random.random(ends.shape)
        for name, node in (("examples", "n{0}"), ("lists", "q{1}/{0}")):
            with open(f"{folder}/{name}.tsv", "w", encoding="utf-8") as file:
                for source, targets in enumerate(ends.tolist()):
                    one = node.format(source, source // 100)
                    for target, weight in zip(targets, weights[source], strict=True):
                        if target != source:
                            other = node.format(target, target // 100)
                            file.write(f"{one}\t{other}\t{weight:f}\n")
        graph, theirs, ours = (f"{folder}/{n}" for n in ("examples.tsv", "nsl", "ours"))
        ours += ".tfrecord"
        found = measured("run_nsl_pack", data=data, graph=graph, output=theirs)
        print(count, "NSL", json.dumps(found), flush=True)
        found = measured("run_pack", data=data, graph=graph, output=ours, cache="auto")
        if multiple == 1:
            found["equal"] = read_examples(theirs) == read_examples(ours)
        print(count, "examples", json.dumps(found), flush=True)
        matrix = random.random((count, 512), np.float32)
        lists = write_lists(f"{folder}/lists-{multiple}", matrix)
        for cache in ("memory", f"{folder}/cache"):
            found = measured(
                "run_pack",
                data=lists,
                graph=f"{folder}/lists.tsv",
                output=f"{folder}/packed",
                cache=cache,
            )
            where = "in memory" if cache == "memory" else "on disk"
            print(count, "lists", where, json.dumps(found), flush=True)


def main() -> None:
    """Runs what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["equal", "build", "libraries", "pack"])
    parser.add_argument("--vectors", type=int, default=100_000)
    parser.add_argument("--kind", default="clusters")
    parser.add_argument("--method", default="auto")
    parser.add_argument("--recall", type=float, default=0.95)
    parser.add_argument("--multiples", default="1,2,4")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        globals()[arguments.what](folder, arguments)


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()
