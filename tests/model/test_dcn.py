"""Deep & cross networks against NumPy."""

from __future__ import annotations

import numpy as np
import pytest

from tests.model.test_models import (
    CONTEXT,
    MIXED,
    assert_packed_scores_as_padded,
    make,
)
from tfr_pipeline.compat import tf
from tfr_pipeline.errors import ConfigError
from tfr_pipeline.model.tabular_scorers import DCNScorer


@pytest.mark.parametrize("rank", [None, 2])
@pytest.mark.parametrize("structure", ["parallel", "stacked"])
def test_scores_are_those_of_the_papers_equations(structure, rank):
    scorer = DCNScorer([4], 2, rank, structure, dropout=0.0)
    x = tf.keras.Input([3])
    model = tf.keras.Model(x, scorer._score_flattened({}, {"x": x}))
    random = np.random.default_rng(0)
    weights = {}
    for layer in model.layers:
        layer.set_weights([random.normal(size=w.shape) for w in layer.get_weights()])
        weights[layer.name] = layer.get_weights()
    # In the order in which they were made: crosses, network, linear layer of crosses.
    dense = [w for name, w in weights.items() if name.startswith("dense")]
    (tower,) = [w for name, w in weights.items() if name.startswith("sequential")]
    x0 = random.normal(size=(7, 3))
    found = model(x0.astype("f4"))
    crossed, dense = x0, iter(dense)
    for _ in range(2):
        v = next(dense)[0] if rank else np.eye(3)
        kernel, bias = next(dense)
        crossed = x0 * (crossed @ v @ kernel + bias) + crossed
    deep = crossed if structure == "stacked" else x0
    hidden = np.maximum(deep @ tower[0] + tower[1], 0.0)
    wanted = hidden @ tower[2] + tower[3]
    if structure == "parallel":
        wanted = wanted + crossed @ next(dense)[0]
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)


def test_packed_lists_are_scored_as_padded_ones():
    builder = make(DCNScorer([4], cross_layers=2), CONTEXT, MIXED)
    assert_packed_scores_as_padded(builder, CONTEXT, MIXED)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"structure": "serial"}, "'parallel' or 'stacked', found 'serial'"),
        ({"cross_layers": 0}, "cross_layers: expected 1 or more, found 0"),
        ({"rank": 2.5}, "rank: expected 1 or more, found 2.5"),
    ],
)
def test_arguments_that_cannot_be_are_errors(arguments, words):
    with pytest.raises(ConfigError, match=words):
        DCNScorer(**arguments)
