"""Small data that graphs are made of, and NSL's tools to compare with."""

from __future__ import annotations

import builtins
from typing import Any

import numpy as np

from tests.ranking_data import RankedList, example
from tfr_pipeline.compat import nsl, tf


def nsl_tools() -> Any:
    """Returns NSL's tools; they open files in a mode that Python 3.11 has no more."""
    tools = nsl.tools
    tools.graph_utils.open = lambda name, mode: builtins.open(name)  # noqa: SIM115
    return tools


def examples(count: int, dims: int = 8, seed: int = 0, start: int = 0) -> list[bytes]:
    """Returns serialized `tf.train.Example`s with ids, vectors and other features."""
    random = np.random.default_rng(seed)
    centres = random.normal(size=(max(1, count // 5), dims))
    result = []
    for number in range(start, start + count):
        vector = random.choice(centres) + 0.4 * random.normal(size=dims)
        features = {
            "id": np.array([f"node {number}".encode()], object),
            "embedding": vector.astype(np.float32),
            "words": random.integers(0, 2, 5),
            "label": random.integers(0, 3, 1),
        }
        if number % 3:
            features["title"] = np.array([b"a title", b"", b"more"], object)
        result.append(example(features).SerializeToString())
    return result


def read_examples(path: Any) -> list[Any]:
    """Returns the `tf.train.Example`s of a file."""
    records = tf.data.TFRecordDataset(str(path)).as_numpy_iterator()
    return [tf.train.Example.FromString(record) for record in records]


def ranked_lists(count: int, seed: int = 0) -> list[RankedList]:
    """Returns lists with ids, numbers and texts."""
    random = np.random.default_rng(seed)
    lists = []
    for number in range(count):
        documents = []
        for place in range(int(random.integers(1, 6))):
            documents.append(
                {
                    "docid": np.array([f"d{place}".encode()], object),
                    "embedding": random.normal(size=3).astype(np.float32),
                    "bm25": random.normal(size=1).astype(np.float32),
                    "clicks": random.integers(0, 300, 1),
                    "label": random.integers(0, 3, 1).astype(np.float32),
                }
            )
        context = {
            "qid": np.array([f"q/{seed}-{number}".encode()], object),
            "length": random.normal(size=2).astype(np.float32),
        }
        lists.append(RankedList(context, documents))
    return lists
