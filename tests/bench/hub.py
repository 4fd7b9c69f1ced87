"""Training on a frozen module: texts against the same vectors stored as features.

    PYTHONPATH=. python tests/bench/hub.py

Texts are made of the module's own words; `convert --embed` stores the vectors for the
other run. Both train the same model on batches of the same layout. The rate is that of
`history.csv`, the first epoch left out; runs alternate.
"""

from __future__ import annotations

import argparse
import csv
import pathlib
import statistics
import tempfile
from typing import Any

import numpy as np

from tests import hub_module
from tfr_pipeline.data.convert.conversion import convert
from tfr_pipeline.experiment.build import build_pipeline
from tfr_pipeline.features import DEFAULT_MASK, Features
from tfr_pipeline.model.builders import ModelBuilder
from tfr_pipeline.model.inputs import FeatureSpecInputCreator
from tfr_pipeline.model.interactions import InteractionScorer
from tfr_pipeline.model.layers.hub import HubEncoder
from tfr_pipeline.model.scorers import DNNScorer

WANTED = 0.90
_MATCH = {"query": "query", "document": "title", "of": ["cosine", "product"]}


def make_builder(features: Features, handle: str) -> ModelBuilder:
    """Returns a builder for texts, with a module, or for vectors without."""
    encoder = HubEncoder(handle) if handle else None
    return ModelBuilder(
        FeatureSpecInputCreator(features.context_spec, features.example_spec),
        {"query": encoder, "title": encoder} if encoder else {},
        InteractionScorer(
            DNNScorer(hidden_layer_dims=[64, 32], activation="relu"),
            {"match": _MATCH},
        ),
        DEFAULT_MASK,
    )


def write_table(
    path: pathlib.Path, lists: int, documents: int, words: list[str]
) -> None:
    """Writes CSV with a query and titles; every title occurs about twice."""
    random = np.random.default_rng(lists)
    titles = [
        " ".join(random.choice(words, 6)) for _ in range(max(1, lists * documents // 2))
    ]
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["qid", "label", "query", "title", "price"])
        for number in range(lists):
            query = " ".join(random.choice(words, 2))
            for title in random.choice(titles, documents):
                grade, price = random.integers(0, 2), f"{random.normal():.3f}"
                table.writerow([f"q{number}", grade, query, title, price])


def rate(data: pathlib.Path, handle: str, layout: str, epochs: int) -> float:
    """Trains; returns documents a second, the median of the epochs but the first."""
    with tempfile.TemporaryDirectory() as run:
        config: dict[str, Any] = {
            "data": {"dir": str(data), "train_batch_size": 32, "valid_batch_size": 32},
            "model": {
                "builder": "tests.bench.hub:make_builder",
                "builder_args": {"handle": handle},
            },
            "pipeline": {
                "loss": "softmax_loss",
                "num_epochs": epochs,
                "learning_rate": 0.001,
                "metrics": ("ndcg_10",),
                "steps_per_execution": 10,
                "layout": layout,
                "export_best_model": False,
            },
            "model_dir": run,
            "seed": 1,
        }
        build_pipeline(config).train()
        with open(pathlib.Path(run, "history.csv"), encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    return statistics.median(float(row["documents_per_second"]) for row in rows[1:])


def main() -> None:
    """Runs both kinds in turn, and prints their rates."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lists", type=int, default=800)
    parser.add_argument("--documents", type=int, default=40)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--runs", type=int, default=2)
    parser.add_argument("--layout", default="padded")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        module = hub_module.make(str(folder / "module"), 4000)
        words, _ = hub_module.word_vectors(4000)
        embed = [f"query={module}", f"title={module}"]
        for split, lists in (("train", args.lists), ("valid", args.lists // 20)):
            table = folder / f"{split}.csv"
            write_table(table, lists, args.documents, words)
            for kind in ("texts", "vectors"):
                convert(
                    str(table),
                    str(folder / kind),
                    input_format="csv",
                    split=split,
                    options=_options(),
                    embed=embed if kind == "vectors" else (),
                )
        rates: dict[str, list[float]] = {"texts": [], "vectors": []}
        for _ in range(args.runs):
            for kind, found in rates.items():
                handle = module if kind == "texts" else ""
                found.append(rate(folder / kind, handle, args.layout, args.epochs))
                print(f"{kind}: {found[-1]:,.0f} documents/s", flush=True)
    texts, vectors = (max(found) for found in rates.values())
    ratio = texts / vectors
    print(f"texts / vectors: {ratio:.2f}, wanted {WANTED:.2f}, {args.layout} batches")


def _options() -> Any:
    from tfr_pipeline.data.sources.options import Options

    return Options(context_columns=("query",), types={"query": "text", "title": "text"})


if __name__ == "__main__":
    main()
