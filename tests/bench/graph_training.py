"""Documents a second of training with three neighbours a document, and without.

    python -m tests.bench.graph_training

Synthetic lists; neighbours are random documents, so that hardly any of them is in the
batch of its source or shared: the worst case. Steps are timed by turns, so that both
have the same machine. Prints a line of JSON a layout; the limit of `ratio` is 0.25.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import tempfile
import time
from typing import Any

import numpy as np

from tfr_pipeline.compat import tf
from tfr_pipeline.data.lists import Lists
from tfr_pipeline.features import Feature, Features
from tfr_pipeline.graph import nodes
from tfr_pipeline.model.builders import ModelBuilder
from tfr_pipeline.model.inputs import FeatureSpecInputCreator
from tfr_pipeline.model.scorers import DNNScorer
from tfr_pipeline.pipeline.datasets.given import builder_of
from tfr_pipeline.pipeline.hparams import PipelineHparams
from tfr_pipeline.pipeline.simple import SimplePipeline

COLUMNS, NEIGHBOURS = 136, 3


def make_lists(count: int) -> Lists:
    """Returns lists of 40 to 200 documents."""
    random = np.random.default_rng(0)
    splits = np.concatenate([[0], np.cumsum(random.integers(40, 201, size=count))])
    documents = int(splits[-1])
    values = random.random((documents, COLUMNS), np.float32)
    return Lists(
        values={"float32": values},
        row_splits=splits.astype(np.int64),
        labels=random.integers(0, 5, size=documents).astype(np.float32),
        query_ids=np.array([f"q{i}" for i in range(count)], object),
        document_ids=np.array([f"d{i}" for i in range(documents)], object),
    )


def write_graph(path: pathlib.Path, lists: Lists) -> None:
    """Writes three random neighbours of each document."""
    names = nodes.of_lists(lists)
    targets = np.random.default_rng(1).integers(
        0, len(names), size=(len(names), NEIGHBOURS)
    )
    lines = [
        f"{name}\t{names[target]}\t0.5\n"
        for name, row in zip(names, targets, strict=True)
        for target in row
    ]
    path.write_text("".join(lines))


def make_steps(
    lists: Lists, layout: str, dims: list[int], graph: dict[str, Any] | None
) -> Any:
    """Returns a function that trains some steps and returns their seconds."""
    vector = Feature("float32", (COLUMNS,), 0.0)
    features = Features(example={"features": vector})
    data = builder_of({"train": lists}, features, "", 32, None, {"list_size": 200})
    model_builder = ModelBuilder(
        FeatureSpecInputCreator({}, features.example_spec),
        {"features": tf.math.log1p},
        DNNScorer(hidden_layer_dims=dims, activation=tf.nn.relu, dropout=0.0),
        data.specs.mask_feature_name,
    )
    hparams = PipelineHparams(
        "unused", 1, None, None, 0.001, "softmax_loss", layout=layout, graph=graph
    )
    pipeline = SimplePipeline(model_builder, data, hparams)
    found = pipeline._layout()
    pipeline._feed.check(found)
    model = pipeline._compile(found, 1000)
    batches = iter(pipeline._feed.dataset("train", found, model=model))
    train = model.make_train_function()

    def run(calls: int) -> tuple[float, float]:
        steps = hparams.steps_per_execution
        sizes = pipeline._feed.take_sizes(calls * steps)
        start = time.perf_counter()
        for _ in range(calls):
            train(batches)
        return float(sizes[..., 1].sum()), time.perf_counter() - start

    return run


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lists", type=int, default=800)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--dims", default="64,32")
    parser.add_argument("--layouts", default="packed,padded")
    args = parser.parse_args()
    lists = make_lists(args.lists)
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "graph.tsv"
        write_graph(path, lists)
        told = {"edges": str(path), "max_neighbors": NEIGHBOURS, "multiplier": 0.1}
        dims = [int(size) for size in args.dims.split(",")]
        for layout in args.layouts.split(","):
            runs = [make_steps(lists, layout, dims, g) for g in (None, told)]
            for run in runs:
                run(1)  # traces
            rates: list[list[float]] = [[], []]
            for _ in range(args.rounds):
                for place, run in enumerate(runs):
                    documents, seconds = run(2)
                    rates[place].append(documents / seconds)
            without, with_graph = map(float, np.median(rates, axis=1))
            line = {
                "layout": layout,
                "dims": dims,
                "documents_per_second": round(without),
                "with_3_neighbours": round(with_graph),
                "ratio": round(with_graph / without, 3),
            }
            print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
