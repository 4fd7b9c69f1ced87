"""Small data with two labels, relevance and click, and weights, as ELWC."""

from __future__ import annotations

import pathlib
from typing import Any

import numpy as np

from tests.ranking_data import RankedList, write_elwc
from tfr_pipeline.features import PADDING_LABEL, Feature, Features

WIDTH = 6
LABEL = Feature("float32", (1,), PADDING_LABEL)
FEATURES = Features(
    example={"features": Feature("float32", (WIDTH,), 0.0)},
    labels={"relevance": ("grade", LABEL), "click": ("clicked", LABEL)},
)


def make_lists(seed: int, queries: int) -> list[RankedList]:
    """Returns lists of 1 to 12 documents, of which a third have no click label."""
    random = np.random.default_rng(seed)
    result = []
    for query in range(queries):
        documents = []
        for number in range(int(random.integers(1, 13))):
            x = random.normal(size=WIDTH).astype(np.float32)
            documents.append(
                {
                    "features": x,
                    "grade": np.float32([np.clip(round(x[0] + x[1] + 1), 0, 4)]),
                    "weight": np.float32([random.uniform(0.2, 3.0)]),
                    "docid": np.array([f"d{query}_{number}"], object),
                }
            )
            if random.random() < 0.67:
                documents[-1]["clicked"] = np.float32([x[1] - x[2] > 0.5])
        context = {
            "qid": np.array([f"q{query}"], object),
            "list_weight": np.float32([random.uniform(0.2, 3.0)]),
        }
        result.append(RankedList(context, documents))
    return result


def make_data(folder: pathlib.Path, features: Features = FEATURES) -> pathlib.Path:
    """Writes 24 queries for training, 8 for validation, 8 for the test."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed, (split, queries) in enumerate(
        {"train": 24, "valid": 8, "test": 8}.items()
    ):
        write_elwc(folder / f"{split}-00000", make_lists(seed, queries))
    features.save(str(folder))
    return folder


def make_config(data: Any, model_dir: Any, **pipeline: Any) -> dict[str, Any]:
    """Returns the config of a small run as `configs/multi_task.py` has it."""
    from configs.multi_task import get_config

    config = get_config().to_dict()
    config["model_dir"] = str(model_dir)
    config["data"].update(dir=str(data), train_batch_size=8, valid_batch_size=8)
    config["model"]["builder_args"] = {"hidden_layer_dims": (8, 4)}
    config["pipeline"].update(
        {
            "num_epochs": 4,
            "steps_per_execution": 3,
            "strategy": None,
            "metrics": ("ndcg_5", "ndcg_10"),
            **pipeline,
        }
    )
    return config
