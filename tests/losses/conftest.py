"""Random batches in both layouts."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from tfr_pipeline.compat import tf

LENGTHS = [3, 0, 1, 7, 5, 2]


@dataclasses.dataclass
class RandomBatch:
    """Labels, logits and weights of six lists, one empty, one of one document."""

    labels: Any
    logits: np.ndarray
    weights: dict[str, Any]

    def scores(self, values: Any) -> Any:
        return tf.RaggedTensor.from_row_lengths(values, LENGTHS)


def make_batch(seed: int, masked: bool = False, outputs: int | None = None):
    rng = np.random.default_rng(seed)
    documents = sum(LENGTHS)
    labels = rng.integers(-1 if masked else 0, 4, documents).astype(np.float32)
    shape = (documents,) if outputs is None else (documents, outputs)
    ragged = tf.RaggedTensor.from_row_lengths
    per_document = rng.uniform(0.1, 2.0, documents).astype(np.float32)
    return RandomBatch(
        labels=ragged(labels, LENGTHS),
        logits=rng.normal(size=shape).astype(np.float32),
        weights={
            "none": None,
            "scalar": 0.5,
            "list": rng.uniform(0.1, 2.0, (len(LENGTHS), 1)).astype(np.float32),
            "document": ragged(per_document, LENGTHS),
        },
    )


@pytest.fixture
def batch_maker():
    return make_batch
