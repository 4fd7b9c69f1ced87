"""Factory, classes, serialisation and bad input."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
import warnings

import numpy as np
import pytest

from tfr_pipeline import declared, losses
from tfr_pipeline.compat import tf, tfr
from tfr_pipeline.errors import ConfigError

KEYS = losses.RankingLossKey.all_keys()
CLASSES = [name for name in losses.__all__ if name.endswith("Loss")]


def test_importing_the_package_does_not_import_tensorflow():
    code = (
        "import sys; from tfr_pipeline import losses, metrics\n"
        "import tfr_pipeline.metrics.evaluation\n"
        "sys.exit('tensorflow' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_all_keys_of_tf_ranking_are_there():
    assert set(tfr.keras.losses.RankingLossKey.all_keys()) <= set(KEYS)
    assert set(tfr.losses.RankingLossKey.all_keys()) <= set(KEYS)


@pytest.mark.parametrize("key", tfr.keras.losses.RankingLossKey.all_keys())
def test_a_loss_is_an_instance_of_tf_rankings_class(key):
    loss = losses.get(key)
    name = "SoftmaxLoss" if key == "calibrated_softmax_loss" else type(loss).__name__
    assert isinstance(loss, getattr(tfr.keras.losses, name))


@pytest.mark.parametrize("name", [*CLASSES, "get"])
def test_signatures_begin_with_tf_rankings(name):
    if not hasattr(tfr.keras.losses, name):
        pytest.skip(f"this tensorflow-ranking has no {name}")
    ours = inspect.signature(getattr(losses, name)).parameters
    expected = inspect.signature(getattr(tfr.keras.losses, name)).parameters
    assert list(ours)[: len(expected)] == list(expected)
    for parameter in expected:
        if (name, parameter) != ("YetiLogisticLoss", "temperature"):
            assert ours[parameter].default == expected[parameter].default


@pytest.mark.parametrize("key", KEYS)
def test_a_call_of_ones_own_counts_in_both_layouts(key):
    """Whatever a loss computes, `call` of a subclass computes something else."""

    class Mine(type(losses.get(key))):
        def call(self, y_true, y_pred):
            return 2.0 * tf.ones_like(y_true) + 0.0 * tf.reduce_sum(y_pred)

    labels = tf.ragged.constant([[1.0, 0.0], [0.0, 2.0]])
    scores = tf.ragged.constant([[0.5, 0.1], [0.2, 0.3]])
    assert float(Mine()(labels.to_tensor(), scores.to_tensor())) == 2.0
    assert float(Mine()(labels, scores)) == 2.0


@pytest.mark.parametrize(
    "name", ["ListMLELoss", "UniqueSoftmaxLoss", "PairwiseHingeLoss", "ApproxMRRLoss"]
)
def test_a_call_of_ones_own_is_weighted_as_tf_rankings(name):
    def call(self, y_true, y_pred):
        return tf.where(y_true >= 0.0, tf.square(y_true - y_pred), 0.0)

    ours, theirs = (
        type("Mine", (getattr(home, name),), {"call": call})()
        for home in (losses, tfr.keras.losses)
    )
    labels = tf.ragged.constant([[1.0, 0.0], [0.0, 2.0, 1.0]])
    scores = tf.ragged.constant([[0.5, 0.1], [0.2, 0.3, 0.9]])
    dense = labels.to_tensor(-1.0), scores.to_tensor(0.0)
    # A listwise loss of theirs wants weights a list, and is fed one loss a document.
    weights = [[0.5, 0.5, 0.5], [2.0, 2.0, 2.0]] if "wise" in name else None
    expected = pytest.approx(float(theirs(*dense, weights)))
    assert float(ours(*dense, weights)) == expected
    assert float(ours(labels, scores, weights)) == expected


def test_a_class_that_overrides_a_method_has_to_declare_its_layouts_anew():
    class Padded(losses.ListMLELoss):
        def call_padded(self, y_true, y_pred, sample_weight):
            return tf.constant(3.0)

    class Both(Padded):
        layouts = declared.BOTH
        tpu_ready = True

        def call_packed(self, y_true, y_pred, sample_weight):
            return tf.constant(4.0)

    class Named(Both):
        def get_config(self):
            return {**super().get_config(), "name": "mine"}

    ragged = [tf.ragged.constant([[1.0, 0.0]])] * 2
    assert declared.layouts(losses.ListMLELoss()) == declared.BOTH
    for cls, layouts, expected in (
        (Padded, ("padded",), 3.0),
        (Both, declared.BOTH, 4.0),
        (Named, declared.BOTH, 4.0),
    ):
        assert declared.layouts(cls()) == layouts
        assert declared.tpu_ready(cls()) == ("packed" in layouts)
        assert float(cls()(*ragged)) == expected
    parts = losses.WeightedSumLoss([losses.SoftmaxLoss(), Padded()])
    assert declared.layouts(parts) == ("padded",)
    assert declared.layouts(tfr.keras.losses.SoftmaxLoss()) == ("padded",)


# Values that differ from the default, by parameter.
VALUES = {
    "reduction": "sum",
    "name": "mine",
    "ragged": True,
    "use_fraction_label": True,
    "temperature": 0.3,
    "gumbel_temperature": 0.7,
    "epsilon": 0.6,
    "margin": 0.1,
    "mu": 3.0,
    "tolerance": 1e-3,
    "alpha": 0.5,
    "virtual_label": 0.2,
    "exam_loss_weight": 0.4,
    "rel_loss_weight": 0.9,
    "gain_fn": "tensorflow_ranking>pow_minus_1",
}


@pytest.mark.parametrize("key", KEYS)
def test_serialisation_keeps_every_argument(key):
    parameters = inspect.signature(type(losses.get(key))).parameters
    arguments = {
        name: VALUES.get(name, 4) for name in parameters if name != "lambda_weight"
    }
    assert arguments.keys() <= VALUES.keys() | {
        "gamma",
        "iterations",
        "ordinal_size",
        "sample_size",
        "seed",
        "topk",
        "topn",
    }
    loss = losses.get(key, **arguments)
    for again in (
        tf.keras.losses.deserialize(tf.keras.losses.serialize(loss)),
        tf.keras.losses.deserialize(
            json.loads(json.dumps(tf.keras.losses.serialize(loss)))
        ),
        type(loss).from_config(loss.get_config()),
    ):
        assert type(again) is type(loss)
        config = again.get_config()
        assert {name: config[name] for name in arguments} == arguments


@pytest.mark.parametrize(
    "name", [name for name in losses.__all__ if name.endswith("Weight")]
)
def test_serialisation_keeps_every_argument_of_a_lambda_weight(name):
    functions = {
        "gain_fn": tfr.keras.utils.symmetric_log1p,
        "rank_discount_fn": tfr.keras.utils.inverse,
        "positive_fn": tfr.keras.utils.is_greater_equal_1,
    }
    values = {"topn": 3, "normalized": True, "smooth_fraction": 0.4, "mu": 2.0}
    cls = getattr(losses, name)
    names = set(inspect.signature(cls).parameters) - {"kwargs"}
    arguments = {key: {**values, **functions}[key] for key in names}
    weight = cls(**arguments)
    serialised = tf.keras.utils.serialize_keras_object(weight)
    for again in (
        tf.keras.utils.deserialize_keras_object(json.loads(json.dumps(serialised))),
        cls.from_config(weight.get_config()),
    ):
        assert type(again) is cls
        for key in names:
            assert getattr(again, f"_{key}") == arguments[key]


def test_a_function_that_is_not_registered_is_named_on_loading():
    config = {"topn": 3, "gain_fn": "<lambda>"}
    with pytest.raises(ConfigError, match="gain_fn: no function is registered"):
        losses.NDCGLambdaWeight.from_config(config)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: losses.NDCGLambdaWeight(topn=0),
            "`topn` should be None or a positive",
        ),
        (lambda: losses.get(None), "`loss` should be the name of a loss"),
        (lambda: losses.get(["softmax_loss"]), "`loss` should be the name of a loss"),
        (lambda: losses.NDCGLambdaWeight(smooth_fracton=0.1), "did you mean 'smooth"),
        (lambda: losses.DCGLambdaWeight(smooth_fraction=2.0), "between 0 and 1"),
        (lambda: losses.LambdaLoss(mu=-1.0), "`mu` should not be negative"),
        (lambda: losses.NeuralNDCGLoss(topn=-1), "`topn` should be"),
        (lambda: losses.NeuralSortNDCGLoss(temperature=0.0), "should be positive"),
    ],
)
def test_arguments_out_of_range_are_config_errors(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


@pytest.mark.parametrize("layout", ["packed", "padded"])
def test_a_precision_weight_without_a_cut_can_be_made_and_not_used(layout):
    loss = losses.PairwiseLogisticLoss(lambda_weight=losses.PrecisionLambdaWeight())
    assert loss.get_config()["lambda_weight"]["config"]["topn"] is None
    labels = scores = tf.ragged.constant([[1.0, 0.0]])
    if layout == "padded":
        labels = scores = labels.to_tensor()
    with pytest.raises(ConfigError, match="PrecisionLambdaWeight needs `topn`"):
        loss(labels, scores)


@pytest.mark.parametrize("layout", ["packed", "padded"])
@pytest.mark.parametrize("key", ["click_em_loss", "mixture_em_loss", "ordinal_loss"])
def test_too_few_scores_a_document_are_a_config_error(key, layout, batch_maker):
    batch = batch_maker(1)
    scores = batch.scores(batch.logits)
    labels = batch.labels
    if layout == "padded":
        labels, scores = labels.to_tensor(-1.0), scores.to_tensor()
    with pytest.raises(ConfigError, match="expects scores of shape"):
        losses.get(key)(labels, scores)


@pytest.mark.parametrize(
    "weight",
    ["NDCGLambdaWeight", "DCGLambdaWeight", "PrecisionLambdaWeight"],
)
def test_serialisation_keeps_the_lambda_weight(weight, batch_maker):
    loss = losses.get(
        "pairwise_logistic_loss", lambda_weight=getattr(losses, weight)(topn=2)
    )
    again = tf.keras.losses.deserialize(tf.keras.losses.serialize(loss))
    batch = batch_maker(1)
    scores = batch.scores(batch.logits)
    plain = float(losses.get("pairwise_logistic_loss")(batch.labels, scores))
    value = float(again(batch.labels, scores))
    assert value == float(loss(batch.labels, scores)) != plain


def test_an_unknown_key_is_a_config_error_that_names_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'softmax_loss'"):
        losses.get("softmx_loss")


def test_an_unknown_argument_is_a_config_error_that_names_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'temperature'"):
        losses.get("softmax_loss", temprature=2.0)


def test_a_lambda_weight_without_effect_is_a_warning():
    with pytest.warns(UserWarning, match="does not use `lambda_weight`"):
        losses.get("mean_squared_loss", lambda_weight=losses.NDCGLambdaWeight())


@pytest.mark.parametrize(
    ("key", "weight"),
    [
        ("softmax_loss", losses.PrecisionLambdaWeight(topn=1)),
        ("calibrated_softmax_loss", losses.NDCGLambdaWeightV2()),
        ("list_mle_loss", losses.NDCGLambdaWeight()),
    ],
)
def test_a_lambda_weight_of_the_wrong_kind_is_a_warning(key, weight):
    with pytest.warns(
        UserWarning, match=f"{key} does not use a {type(weight).__name__}"
    ):
        losses.get(key, lambda_weight=weight)


@pytest.mark.parametrize(
    ("key", "weight"),
    [
        ("softmax_loss", losses.NDCGLambdaWeight()),
        ("list_mle_loss", losses.ListMLELambdaWeight()),
        ("pairwise_logistic_loss", losses.NDCGLambdaWeightV2()),
    ],
)
def test_a_lambda_weight_of_the_right_kind_is_no_warning(key, weight):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        losses.get(key, lambda_weight=weight)


def test_a_weight_of_positions_in_a_loss_of_pairs_is_a_config_error():
    with pytest.raises(ConfigError, match="a lambda weight for pairs of documents"):
        losses.get("pairwise_hinge_loss", lambda_weight=losses.ListMLELambdaWeight())


@pytest.mark.parametrize(
    "key", ["unique_softmax_loss", "circle_loss", "neural_ndcg_loss", "list_mle_loss"]
)
def test_padded_losses_compile_with_xla(key):
    labels = tf.constant([[1.0, 0.0, 2.0, -1.0], [3.0, 1.0, 0.0, 2.0]])
    scores = tf.constant([[0.1, 0.5, 0.3, 0.2], [0.4, 0.3, 0.1, 0.9]])
    loss = losses.get(key)

    def step(scores):
        with tf.GradientTape() as tape:
            tape.watch(scores)
            value = loss(labels, scores)
        return value, tape.gradient(value, scores)

    compiled = tf.function(step, jit_compile=True)(scores)
    for found, expected in zip(compiled, step(scores), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_a_negative_virtual_label_is_a_config_error():
    with pytest.raises(ConfigError, match="virtual_label = -1"):
        losses.get("calibrated_softmax_loss", virtual_label=-1.0)


def test_mixed_layouts_are_an_error(batch_maker):
    batch = batch_maker(1)
    with pytest.raises(ValueError, match="the same layout"):
        losses.get("softmax_loss")(batch.labels, np.zeros((6, 7), np.float32))


def test_two_scores_a_document_are_an_error(batch_maker):
    batch = batch_maker(1, outputs=1)
    with pytest.raises(ValueError, match="one number a document"):
        losses.get("mean_squared_loss")(batch.labels, batch.scores(batch.logits))


def test_other_partitions_of_the_scores_are_an_error():
    labels = tf.ragged.constant([[1.0, 0.0], [1.0]])
    scores = tf.ragged.constant([[1.0], [0.0, 1.0]])
    with pytest.raises(tf.errors.InvalidArgumentError, match="numbers of documents"):
        losses.get("softmax_loss")(labels, scores)


@pytest.mark.parametrize("key", ["softmax_loss", "mean_squared_loss", "list_mle_loss"])
def test_integer_labels_are_taken(key):
    whole = tf.ragged.constant([[1, 0], [2]])
    scores = tf.ragged.constant([[0.3, 0.1], [0.5]])
    expected = losses.get(key)(tf.cast(whole, tf.float32), scores)
    assert float(losses.get(key)(whole, scores)) == float(expected)


@pytest.mark.parametrize("layout", ["packed", "padded"])
@pytest.mark.parametrize(
    "key", ["softmax_loss", "pairwise_hinge_loss", "mean_squared_loss", "circle_loss"]
)
def test_a_vector_of_weights_weighs_lists(key, layout, batch_maker):
    batch = batch_maker(2)
    labels, scores = batch.labels, batch.scores(batch.logits)
    if layout == "padded":
        labels, scores = labels.to_tensor(-1.0), scores.to_tensor()
    loss, column = losses.get(key), batch.weights["list"]
    expected = float(loss(labels, scores, column))
    assert float(loss(labels, scores, column[:, 0])) == pytest.approx(expected)


@pytest.mark.parametrize("key", ["softmax_loss", "pairwise_hinge_loss"])
def test_dense_document_weights_fit_ragged_labels(key, batch_maker):
    batch = batch_maker(2)
    scores, weights = batch.scores(batch.logits), batch.weights["document"]
    loss = losses.get(key)
    wide = tf.pad(weights.to_tensor(0.0), [[0, 0], [0, 4]])
    expected = float(loss(batch.labels, scores, weights))
    assert float(loss(batch.labels, scores, wide)) == pytest.approx(expected)
