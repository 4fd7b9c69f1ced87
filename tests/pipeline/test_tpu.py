"""Readiness for TPUs without one: XLA compiles what is declared, for fixed shapes.

No TPU was available. XLA on the CPU refuses ops that it does not have and shapes that
it cannot know; TPUs do as well. Beside that, none has strings, and int64 is slow.
"""

from __future__ import annotations

import json
import types

import numpy as np
import pytest

from tests.pipeline.training_helpers import make_config, make_data
from tests.replicas import run_on_devices
from tfr_pipeline import global_batch, losses
from tfr_pipeline.compat import tf, tfr
from tfr_pipeline.errors import ConfigError
from tfr_pipeline.experiment.build import build_pipeline
from tfr_pipeline.losses.keys import RankingLossKey
from tfr_pipeline.model.attention_scorers import AttentionScorer, DASALCScorer
from tfr_pipeline.model.builders import ModelBuilder
from tfr_pipeline.model.inputs import FeatureSpecInputCreator
from tfr_pipeline.model.preprocess import PreprocessorWithSpec
from tfr_pipeline.model.scorers import DNNScorer, GAMScorer, UnivariateScorer
from tfr_pipeline.model.steps.lists import ListQuantileNormal
from tfr_pipeline.model.tabular_scorers import TabMScorer
from tfr_pipeline.pipeline.distribute.limits import check_tpu_ready

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
    "tabm": lambda: TabMScorer(k=2, hidden_layer_dims=[4], dropout=0.0),
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
    # Steps are counted in int64; seeds and shapes are so few numbers: no data.
    for operation in function.graph.get_operations():
        for output in operation.outputs:
            if output.dtype == tf.int64:
                assert output.shape.num_elements() in (1, 2, 3), operation.name


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
    ranks = builder(Mine())
    ranks._preprocessor = PreprocessorWithSpec({"bm25": ListQuantileNormal()})
    with pytest.raises(ConfigError, match="ListQuantileNormal of feature 'bm25'"):
        check_tpu_ready(ranks, [ours])


# Trains on batches as TPUStrategy gets them, or as others do; prints what comes out.
TRAIN = """
import json, sys
from tfr_pipeline.experiment.build import build_pipeline

pipeline = build_pipeline(json.loads(sys.argv[1]))
builder = pipeline._dataset_builder
for replicas, as_on_tpus in ((1, False), (1, True), (2, True)):
    strategy = tf.distribute.MirroredStrategy(
        [d.name for d in tf.config.list_logical_devices("CPU")[:replicas]]
    )
    tf.keras.utils.set_random_seed(1)
    with strategy.scope():
        model = pipeline._compile("padded", 6)
        model.check_loss = not as_on_tpus
        model.jit_compile = as_on_tpus and replicas == 1

        def dataset(split):
            return strategy.distribute_datasets_from_function(
                lambda _: builder.make_dataset(
                    split,
                    "padded",
                    replicas=replicas,
                    sized=as_on_tpus,
                    fixed=as_on_tpus,
                )
            )

        model.fit(dataset("train"), steps_per_epoch=6, epochs=2, verbose=0)
        logs = model.evaluate(dataset("valid"), steps=3, return_dict=True, verbose=0)
    weights = [weight.tolist() for weight in model.get_weights()]
    print(json.dumps([weights, logs]))
"""


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """A config of padded lists: 40 for training and 10 to validate, in odd batches."""
    data = make_data(tmp_path_factory.mktemp("tpu"))
    metrics = ["ndcg_10", "mrr", "map", "precision_3", "arp", "hits_1"]
    config = make_config(
        data, "unused", layout="padded", optimizer="sgd", metrics=metrics
    )
    config["data"].update(
        train_batch_size=7, list_size=10, valid_batch_size=4, valid_list_size=12
    )
    config["model"]["scorer_args"].update(use_batch_norm=False, dropout=0.0)
    return config


def test_batches_for_tpus_have_one_shape_and_every_list_once(config):
    builder = build_pipeline(config)._dataset_builder
    fixed = builder.make_dataset("train", replicas=2, sized=True, fixed=True).take(12)
    for spec in tf.nest.flatten(fixed.element_spec):
        assert spec.shape.is_fully_defined()
    plain = builder.make_dataset("train", replicas=2).take(12)
    filled = 0
    for (features, labels), (wanted, wanted_labels) in zip(fixed, plain, strict=True):
        lists = len(wanted_labels)
        assert len(labels) == 4 and lists in (3, 4)
        np.testing.assert_array_equal(labels[:lists], wanted_labels)
        assert (labels[lists:].numpy() < 0).all()
        _, sizes = global_batch.take_sizes(features)
        assert sizes[0] in (6, 7)
        for name, value in wanted.items():
            np.testing.assert_array_equal(features[name][:lists], value)
        assert not features[builder._mask_feature_name][lists:].numpy().any()
        # What pads on a TPU has to be known before it runs.
        assert global_batch.of(labels, sizes).longest == 10
        filled += 4 - lists
    assert filled == 12 * 4 - 40


@pytest.mark.slow
def test_lists_that_fill_batches_for_tpus_count_for_nothing(config):
    found = run_on_devices(2, TRAIN, json.dumps(config)).splitlines()[-3:]
    (weights, logs), *others = map(json.loads, found)
    # The loss that is shown is the mean over all lists, those that fill among them.
    shown = [name for name in logs if "loss" not in name]
    assert len(shown) == 6
    for other, other_logs in others:
        for one, two in zip(weights, other, strict=True):
            np.testing.assert_allclose(two, one, rtol=1e-4, atol=1e-6)
        for name in shown:
            np.testing.assert_allclose(other_logs[name], logs[name], rtol=1e-5)
