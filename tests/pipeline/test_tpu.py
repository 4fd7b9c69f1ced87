"""Readiness for TPUs without one: XLA compiles what is declared, for fixed shapes.

No TPU was available. XLA on the CPU refuses ops that it does not have and shapes that
it cannot know; TPUs do as well. Beside that, none has strings, and int64 is slow.
"""

from __future__ import annotations

import types

import numpy as np
import pytest

from tfr_pipeline import losses
from tfr_pipeline.compat import tf, tfr
from tfr_pipeline.errors import ConfigError
from tfr_pipeline.losses.keys import RankingLossKey
from tfr_pipeline.model.attention_scorers import AttentionScorer, DASALCScorer
from tfr_pipeline.model.builders import ModelBuilder
from tfr_pipeline.model.inputs import FeatureSpecInputCreator
from tfr_pipeline.model.scorers import DNNScorer, GAMScorer, UnivariateScorer
from tfr_pipeline.pipeline.distribution import check_tpu_ready

LISTS, LIST_SIZE = 4, 6
FEATURES = {
    name: tf.io.FixedLenFeature([1], tf.float32, default_value=[0.0])
    for name in ("bm25", "pagerank")
}
QUERY = {"length": tf.io.FixedLenFeature([1], tf.float32, default_value=[0.0])}
# Scores a document, and arguments, of losses that need others.
OUTPUTS = {"ordinal_loss": 3, "mixture_em_loss": 2, "click_em_loss": 2}
ARGUMENTS = {"ordinal_loss": {"ordinal_size": 3}}
# Their numbers are drawn, and XLA draws others.
DRAWN = {
    "yeti_logistic_loss",
    "gumbel_approx_ndcg_loss",
    "gumbel_neural_sort_cross_entropy_loss",
    "gumbel_neural_sort_ndcg_loss",
    "coupled_rankdistil_loss",
}
QUICK = {"softmax_loss", "mean_squared_loss", "pairwise_hinge_loss", "ordinal_loss"}
KEYS = [
    key if key in QUICK else pytest.param(key, marks=pytest.mark.slow)
    for key in RankingLossKey.all_keys()
]
# XLA draws other numbers for dropout and noise, too.
SCORERS = {
    "dnn": lambda: DNNScorer(hidden_layer_dims=[4], dropout=0.0),
    "gam": lambda: GAMScorer(
        example_hidden_layer_dims=[3], context_hidden_layer_dims=[3], dropout=0.0
    ),
    "attention": lambda: AttentionScorer([4], head_size=4, dropout=0.0),
    "dasalc": lambda: DASALCScorer(
        [4], head_size=4, num_layers=1, dropout=0.0, input_noise_stddev=None
    ),
}


def a_batch(outputs=None, seed=0):
    """Returns features, labels and scores of lists with 6, 4, 1 and 0 documents."""
    random = np.random.default_rng(seed)
    lengths = np.array([6, 4, 1, 0])
    mask = np.arange(LIST_SIZE) < lengths[:, np.newaxis]
    # No two documents of a list are equal, or their order would be drawn.
    grades = random.permuted(np.tile(np.arange(LIST_SIZE), (LISTS, 1)), axis=1)
    if outputs:
        grades = grades % 2
    labels = np.where(mask, grades, -1).astype(np.float32)
    shape = (LISTS, LIST_SIZE) + ((outputs,) if outputs else ())
    scores = random.normal(size=shape).astype(np.float32)
    features = {
        name: random.normal(size=(LISTS, LIST_SIZE, 1)).astype(np.float32)
        for name in FEATURES
    }
    features["length"] = random.normal(size=(LISTS, 1)).astype(np.float32)
    features["mask"] = mask
    return features, labels, scores


def check_ops(function):
    """Checks that a traced function has no op or type that is not for TPUs."""
    definition = function.graph.as_graph_def()
    nodes = [*definition.node]
    for part in definition.library.function:
        nodes += part.node_def
    # Their shapes are those of the values that come in.
    dynamic = {"Where", "Unique", "UniqueV2", "RaggedRange", "RaggedTensorToTensor"}
    for node in nodes:
        assert node.op not in dynamic, node.name
        types = [value.type for value in node.attr.values() if value.type]
        assert tf.string.as_datatype_enum not in types, node.name
    # Steps are counted in int64, and counts are seeds: two numbers, no data.
    for operation in function.graph.get_operations():
        for output in operation.outputs:
            if output.dtype == tf.int64:
                assert output.shape.num_elements() in (1, 2), operation.name


@pytest.mark.parametrize("key", KEYS)
def test_xla_compiles_each_loss_and_its_gradient_to_the_same_numbers(key):
    loss = losses.get(key, **ARGUMENTS.get(key, {}))
    assert loss.tpu_ready
    _, labels, scores = a_batch(OUTPUTS.get(key))

    def gradient(labels, scores):
        with tf.GradientTape() as tape:
            tape.watch(scores)
            value = loss(labels, scores)
        return value, tape.gradient(value, scores)

    signature = [tf.TensorSpec(labels.shape), tf.TensorSpec(scores.shape)]
    plain = tf.function(gradient, input_signature=signature)
    compiled = tf.function(gradient, input_signature=signature, jit_compile=True)
    found, wanted = compiled(labels, scores), plain(labels, scores)
    check_ops(plain.get_concrete_function())
    if key in DRAWN:
        assert all(np.isfinite(value).all() for value in found)
        return
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def make_model(scorer, jit_compile):
    tf.keras.utils.set_random_seed(1)
    model = ModelBuilder(
        FeatureSpecInputCreator(QUERY, FEATURES), {}, scorer, "mask", "ranker"
    ).build()
    model.compile("adam", losses.SoftmaxLoss(), jit_compile=jit_compile)
    model.optimizer.build(model.trainable_variables)
    model.check_loss = False  # as under TPUStrategy
    return model


@pytest.mark.parametrize(
    "name",
    ["dnn", *(pytest.param(n, marks=pytest.mark.slow) for n in SCORERS if n != "dnn")],
)
def test_xla_compiles_the_training_and_the_serving_of_each_scorer(name):
    scorer = SCORERS[name]()
    assert scorer.tpu_ready
    features, labels, _ = a_batch()
    found = {}
    for compiled in (True, False):
        model = make_model(scorer, compiled)
        # What has fixed shapes has them in both, so that batch statistics agree.
        model._jit_compile = True

        def train(features, labels, model=model):
            return model.train_step((features, labels))["loss"]

        def serve(features, model=model):
            return model(features, training=False)

        train = tf.function(train, jit_compile=compiled or None)
        serve = tf.function(serve, jit_compile=compiled or None)
        inputs = tf.nest.map_structure(tf.constant, features)
        losses_of_steps = []
        for _ in range(2):
            model.reset_metrics()
            losses_of_steps.append(float(train(inputs, tf.constant(labels))))
        scores = serve(inputs).numpy()
        # The loss does not know a bias of all scores, so Adam moves it by rounding.
        scores = np.where(features["mask"], scores - scores[0, 0], scores)
        found[compiled] = losses_of_steps, scores
        check_ops(serve.get_concrete_function(inputs))
        check_ops(train.get_concrete_function(inputs, tf.constant(labels)))
    np.testing.assert_allclose(found[True][0], found[False][0], rtol=1e-4)
    np.testing.assert_allclose(found[True][1], found[False][1], rtol=1e-3, atol=1e-3)


def test_what_is_not_declared_is_refused_by_name():
    class Mine(UnivariateScorer):
        def _score_flattened(self, context_features, example_features):
            return example_features["bm25"]

    def builder(scorer):
        return types.SimpleNamespace(_scorer=scorer)

    ours = losses.get({"softmax_loss": 1.0, "mean_squared_loss": 0.5})
    check_tpu_ready(builder(SCORERS["dnn"]()), [ours])
    theirs = tfr.keras.losses.SoftmaxLoss()
    with pytest.raises(ConfigError, match=r"found Mine, SoftmaxLoss\."):
        check_tpu_ready(builder(Mine()), [theirs])
    Mine.tpu_ready = True
    check_tpu_ready(builder(Mine()), [ours])
