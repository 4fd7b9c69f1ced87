"""Batches without a single document leave a model as finite as it was."""

from __future__ import annotations

import numpy as np
import pytest

from tests.model.test_models import CONTEXT, MASK, MIXED, batch, make
from tfr_pipeline import losses
from tfr_pipeline.compat import tf
from tfr_pipeline.model import scorers
from tfr_pipeline.model.attention_scorers import AttentionScorer, DASALCScorer
from tfr_pipeline.model.tabular_scorers import TabMScorer

SCORERS = {
    "dnn": lambda: scorers.DNNScorer(hidden_layer_dims=[4], input_batch_norm=True),
    "gam": lambda: scorers.GAMScorer(
        example_hidden_layer_dims=[4], context_hidden_layer_dims=[3]
    ),
    "attention": lambda: AttentionScorer([4], head_size=3),
    "dasalc": lambda: DASALCScorer([4], head_size=3, num_layers=2),
    "tabm": lambda: TabMScorer(k=2, hidden_layer_dims=[4]),
}


def assert_a_step_stays_finite(model, features, labels):
    model.compile("adam", losses.get("softmax_loss"), run_eagerly=True)
    assert model.train_on_batch(features, labels) == 0.0
    for weight in [*model.weights, *model.optimizer.variables]:
        assert np.isfinite(tf.convert_to_tensor(weight)).all(), weight.name


@pytest.mark.parametrize("name", SCORERS)
def test_a_padded_batch_whose_documents_are_all_masked(name):
    _, padded = batch(CONTEXT, MIXED)
    padded[MASK] = tf.zeros_like(padded[MASK])
    labels = tf.fill(padded[MASK].shape, -1.0)
    model = make(SCORERS[name](), CONTEXT, MIXED).build()
    assert_a_step_stays_finite(model, padded, labels)


@pytest.mark.parametrize("name", ["dnn", "gam", "tabm"])
def test_a_packed_batch_of_empty_lists(name):
    packed, _ = batch(CONTEXT, MIXED)
    empty = {
        key: value[:, :0] if isinstance(value, tf.RaggedTensor) else value
        for key, value in packed.items()
    }
    labels = tf.RaggedTensor.from_row_lengths(tf.zeros([0]), [0, 0, 0, 0])
    model = make(SCORERS[name](), CONTEXT, MIXED).build_packed()
    assert_a_step_stays_finite(model, empty, labels)
