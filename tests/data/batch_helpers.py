"""Batches of dataset builders, and whether two have the same."""

from __future__ import annotations

import numpy as np

from tfr_pipeline.compat import tf


def elements(made, split="train", count=60, **request):
    """Returns the first training batches of a builder, or all of validation."""
    dataset = made.make_dataset(split, **request)
    return list(dataset.take(count) if split == "train" else dataset)


def assert_same(found, expected):
    """Asserts that batches are equal, tensor by tensor."""
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        parts = (tf.nest.flatten(each, expand_composites=True) for each in (one, other))
        for a, b in zip(*parts, strict=True):
            np.testing.assert_array_equal(a.numpy(), b.numpy())
