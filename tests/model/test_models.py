"""Packed models score as padded ones with the same weights, and as TF-Ranking's."""

from __future__ import annotations

import functools

import numpy as np
import pytest

from tfr_pipeline.compat import tf, tfr
from tfr_pipeline.errors import ConfigError
from tfr_pipeline.model import builders, inputs, preprocess, scorers
from tfr_pipeline.model.layers import towers
from tfr_pipeline.model.ranking_model import RankingModel

MASK = "mask"
LENGTHS = np.array([3, 1, 4, 2])
LONGEST = 4
CONTEXT = {
    "q1": tf.io.FixedLenFeature((1,), tf.float32, 0.0),
    "q2": tf.io.FixedLenFeature((2,), tf.int64, [0, 0]),
}
EVEN = {f"x{i}": tf.io.FixedLenFeature((1,), tf.float32, 0.0) for i in range(4)}
MIXED = {
    **EVEN,
    "vector": tf.io.FixedLenFeature((3,), tf.float32, [0.0] * 3),
    "count": tf.io.FixedLenFeature((1,), tf.int64, 0),
    "grid": tf.io.FixedLenFeature((2, 2), tf.float32, [0.0] * 4),
}
to_float = functools.partial(tf.cast, dtype=tf.float32)
FUNCTIONS = {
    **{f"x{i}": preprocess.signed_log1p for i in range(3)},
    "count": to_float,
    "q2": to_float,
}
theirs = tfr.keras.model


def functions(context, example):
    return {n: f for n, f in FUNCTIONS.items() if n in context or n in example}


def make(scorer, context, example, preprocessor=None, builder=builders.ModelBuilder):
    if preprocessor is None:
        preprocessor = preprocess.PreprocessorWithSpec(functions(context, example))
    creator = inputs.FeatureSpecInputCreator(context, example)
    return builder(creator, preprocessor, scorer, MASK, "ranker")


def batch(context, example, seed=0):
    """Returns the same random lists as a packed and as a padded batch."""
    random = np.random.default_rng(seed)

    def draw(count, spec):
        shape = (count, *spec.shape)
        if spec.dtype == tf.int64:
            return random.integers(0, 5, size=shape)
        return random.normal(size=shape).astype(np.float32)

    mask = np.arange(LONGEST) < LENGTHS[:, np.newaxis]
    shared = {name: draw(len(LENGTHS), spec) for name, spec in context.items()}
    values = {name: draw(LENGTHS.sum(), spec) for name, spec in example.items()}
    padded = {**shared, MASK: mask}
    columns = {}
    for name in sorted(example):
        tensor = np.zeros((len(LENGTHS), LONGEST, *example[name].shape))
        tensor[mask] = values[name]
        padded[name] = tensor.astype(values[name].dtype)
        flat = values[name].reshape(LENGTHS.sum(), -1)
        columns.setdefault(example[name].dtype.name, []).append(flat)
    packed = dict(shared)
    for dtype, parts in columns.items():
        packed[f"documents_{dtype}"] = tf.RaggedTensor.from_row_lengths(
            np.concatenate(parts, 1), LENGTHS
        )
    for features in (packed, padded):
        for name, value in features.items():
            if isinstance(value, np.ndarray):
                features[name] = tf.constant(value)
    return packed, padded


def randomize(model, seed=1):
    """Gives every weight, and the statistics of batch norm, another value."""
    random = np.random.default_rng(seed)
    for weight in model.weights:
        # Variances are positive, and the rest may be, too.
        shift = 0.3 if "kernel" in weight.name else 0.0
        value = random.uniform(0.2, 1.0, size=weight.shape) - shift
        weight.assign(value.astype(weight.dtype.as_numpy_dtype))


def assert_packed_scores_as_padded(builder, context, example):
    assert builder.layouts == ("packed", "padded")
    packed_model, padded_model = builder.build_packed(), builder.build()
    assert isinstance(packed_model, RankingModel)
    randomize(padded_model)
    packed_model.set_weights(padded_model.get_weights())
    packed, padded = batch(context, example)
    found = packed_model(packed, training=False)
    wanted = padded_model(padded, training=False)
    np.testing.assert_array_equal(found.row_lengths(), LENGTHS)
    np.testing.assert_allclose(found.values, wanted[padded[MASK]], rtol=1e-4, atol=1e-5)
    assert np.ptp(found.values) > 1e-2
    return packed_model, padded_model


class Custom(scorers.UnivariateScorer):
    """A scorer as the guides of TF-Ranking show it."""

    def _score_flattened(self, context_features, example_features):
        parts = [tf.keras.layers.Flatten()(t) for t in example_features.values()]
        parts += [t for _, t in sorted(context_features.items())]
        hidden = tf.keras.layers.Dense(5, "relu")(tf.concat(parts, 1))
        return tf.keras.layers.Dense(1)(hidden)


class TheirCustom(theirs.UnivariateScorer):
    _score_flattened = Custom._score_flattened


class DictLayerScorer(scorers.UnivariateScorer):
    """Hands the features as a dict to a layer."""

    def _score_flattened(self, context_features, example_features):
        class Sum(tf.keras.layers.Layer):
            def call(self, features):
                return tf.add_n([features[f"x{i}"] for i in range(4)])

        return tf.keras.layers.Dense(1)(Sum()(example_features))


SCORERS = {
    "dnn": lambda: scorers.DNNScorer(hidden_layer_dims=[6, 4], activation="relu"),
    "dnn with input norm": lambda: scorers.DNNScorer(
        hidden_layer_dims=[5], input_batch_norm=True, use_batch_norm=False
    ),
    "gam": lambda: scorers.GAMScorer(
        example_hidden_layer_dims=[4, 3],
        context_hidden_layer_dims=[3],
        activation="tanh",
    ),
    "gam by column": lambda: scorers.GAMScorer(
        example_hidden_layer_dims=[4], context_hidden_layer_dims=[3], per_column=True
    ),
    "custom": Custom,
    "their custom": TheirCustom,
    "their dnn": lambda: theirs.DNNScorer(hidden_layer_dims=[6], output_units=1),
    "their gam": lambda: theirs.GAMScorer(
        example_hidden_layer_dims=[4], context_hidden_layer_dims=[3]
    ),
}


@pytest.mark.parametrize("scorer", SCORERS)
@pytest.mark.parametrize(
    "context, example", [(CONTEXT, MIXED), ({}, EVEN)], ids=["all kinds", "one kind"]
)
def test_packed_models_score_as_padded_ones(scorer, context, example):
    builder = make(SCORERS[scorer](), context, example)
    assert_packed_scores_as_padded(builder, context, example)


def test_a_scorer_may_hand_its_features_to_a_layer():
    builder = make(DictLayerScorer(), {}, EVEN)
    assert_packed_scores_as_padded(builder, {}, EVEN)


def test_parts_of_tf_ranking_serve_our_builder():
    builder = builders.ModelBuilder(
        theirs.FeatureSpecInputCreator(CONTEXT, MIXED),
        theirs.PreprocessorWithSpec(functions(CONTEXT, MIXED)),
        theirs.DNNScorer(hidden_layer_dims=[3], output_units=1),
        MASK,
    )
    assert_packed_scores_as_padded(builder, CONTEXT, MIXED)


@pytest.mark.parametrize("scorer", ["dnn", "gam", "custom"])
def test_our_parts_serve_tf_rankings_builder(scorer):
    their_model = make(
        SCORERS[scorer](), CONTEXT, MIXED, builder=theirs.ModelBuilder
    ).build()
    our_model = make(SCORERS[scorer](), CONTEXT, MIXED).build()
    randomize(our_model)
    their_model.set_weights(our_model.get_weights())
    _, padded = batch(CONTEXT, MIXED)
    np.testing.assert_array_equal(
        our_model(padded, training=False), their_model(padded, training=False)
    )


def test_a_dict_is_a_preprocessor():
    spec = functions(CONTEXT, MIXED)
    builder = make(SCORERS["dnn"](), CONTEXT, MIXED, preprocessor=spec)
    assert_packed_scores_as_padded(builder, CONTEXT, MIXED)


@pytest.mark.parametrize("batch_norm", [True, False])
def test_dnn_scores_as_tf_rankings_with_its_weights(batch_norm):
    arguments = {
        "hidden_layer_dims": [6, 4],
        "output_units": 1,
        "activation": tf.nn.relu,
        "use_batch_norm": batch_norm,
        "dropout": 0.0,
    }
    ours = make(scorers.DNNScorer(**arguments), CONTEXT, MIXED).build_packed()
    other = make(
        theirs.DNNScorer(**arguments), CONTEXT, MIXED, builder=theirs.ModelBuilder
    ).build()
    randomize(other)
    ours.set_weights(other.get_weights())
    packed, padded = batch(CONTEXT, MIXED)
    np.testing.assert_allclose(
        ours(packed).values, other(padded)[padded[MASK]], rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("context", [CONTEXT, {}], ids=["context", "no context"])
def test_gam_scores_as_tf_rankings_with_its_weights(context):
    arguments = {
        "example_hidden_layer_dims": [5, 3],
        "context_hidden_layer_dims": [4],
        "activation": tf.nn.tanh,
        "use_batch_norm": False,
        "dropout": 0.0,
    }
    ours = make(scorers.GAMScorer(**arguments), context, EVEN).build_packed()
    other = make(
        theirs.GAMScorer(**arguments), context, EVEN, builder=theirs.ModelBuilder
    ).build()
    randomize(other)
    weights = other.get_weights()
    towers, stacked = len(EVEN), []
    each = 2 * 3  # kernel and bias of three dense layers
    for i in range(0, each, 2):
        stacked.append(np.stack([weights[t * each + i] for t in range(towers)]))
        stacked.append(
            np.stack([weights[t * each + i + 1] for t in range(towers)])[:, np.newaxis]
        )
    rest = weights[towers * each :]
    # Keras orders variables by depth of their layers, each kind of tower in order.
    for variable in ours.weights:
        source = stacked if variable.shape.rank == 3 else rest
        variable.assign(source.pop(0))
    assert not stacked
    assert not rest
    packed, padded = batch(context, EVEN)
    np.testing.assert_allclose(
        ours(packed).values, other(padded)[padded[MASK]], rtol=1e-4, atol=1e-5
    )


def test_a_dict_of_scores_stays_a_dict_by_task():
    class TwoTasks(scorers.UnivariateScorer):
        def _score_flattened(self, context_features, example_features):
            x = tf.concat(list(example_features.values()), 1)
            return {"click": x[:, :1], "buy": x[:, 1:2]}

    builder = make(TwoTasks(), {}, EVEN)
    packed, padded = batch({}, EVEN)
    found, wanted = builder.build_packed()(packed), builder.build()(padded)
    assert set(found) == {"click", "buy"}
    for task, scores in wanted.items():
        np.testing.assert_allclose(found[task].values, scores[padded[MASK]], 1e-6)


def test_packed_models_train():
    builder = make(SCORERS["dnn"](), CONTEXT, MIXED)
    model = builder.build_packed()
    model.compile("sgd", lambda y, s: tf.reduce_mean(tf.square(s.values - y.values)))
    packed, _ = batch(CONTEXT, MIXED)
    labels = tf.RaggedTensor.from_row_lengths(tf.ones([10]), LENGTHS)
    before = [w.copy() for w in model.get_weights()]
    history = model.fit(tf.data.Dataset.from_tensors((packed, labels)), verbose=0)
    assert np.isfinite(history.history["loss"][0])
    assert any((a != b).any() for a, b in zip(before, model.get_weights(), strict=True))


def test_padding_has_no_part_in_batch_statistics():
    scorer = scorers.DNNScorer(hidden_layer_dims=[6, 4], dropout=0.0)
    builder = make(scorer, CONTEXT, MIXED)
    packed_model, padded_model = builder.build_packed(), builder.build()
    randomize(padded_model)
    packed_model.set_weights(padded_model.get_weights())
    packed, padded = batch(CONTEXT, MIXED)
    packed_model(packed, training=True)
    padded_model(padded, training=True)
    moving = [w.name for w in padded_model.weights if "moving" in w.name]
    assert moving
    for found, wanted in zip(padded_model.weights, packed_model.weights, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


def test_padded_models_compile_with_xla():
    model = make(SCORERS["dnn"](), CONTEXT, MIXED).build()
    model.compile("sgd", "mse", jit_compile=True)
    model.check_loss = False
    _, padded = batch(CONTEXT, MIXED)
    wanted = model(padded, training=False).numpy()
    np.testing.assert_allclose(model.predict_on_batch(padded), wanted, 1e-5, 1e-6)
    before = model.get_weights()
    model.train_on_batch(padded, tf.ones([4, 4]))
    assert any((a != b).any() for a, b in zip(before, model.get_weights(), strict=True))


def test_padded_features_keep_their_precision_under_mixed_precision():
    seen = {}

    class Look(scorers.UnivariateScorer):
        def _score_flattened(self, context_features, example_features):
            seen.update(example_features)
            return example_features["x0"]

    tf.keras.mixed_precision.set_global_policy("mixed_bfloat16")
    try:
        model = make(Look(), {}, EVEN, {}).build()
    finally:
        tf.keras.mixed_precision.set_global_policy("float32")
    assert {tensor.dtype for tensor in seen.values()} == {tf.float32}
    assert model.output.dtype == tf.float32


class OwnPreprocess(builders.ModelBuilder):
    def preprocess(self, context_inputs, example_inputs, mask):
        return super().preprocess(context_inputs, example_inputs, mask)


class OwnScore(builders.ModelBuilder):
    def score(self, context_features, example_features, mask):
        return tf.reduce_sum(tf.concat(list(example_features.values()), 2), 2)


class OwnInputs(builders.ModelBuilder):
    def create_inputs(self):
        return super().create_inputs()


class OwnCall(scorers.DNNScorer):
    def __call__(self, context_features, example_features, mask):
        return super().__call__(context_features, example_features, mask)


def part(**kwargs):
    arguments = {
        "input_creator": inputs.FeatureSpecInputCreator({}, EVEN),
        "preprocessor": preprocess.PreprocessorWithSpec({}),
        "scorer": scorers.DNNScorer(hidden_layer_dims=[2]),
        "mask_feature_name": MASK,
        **kwargs,
    }
    builder = arguments.pop("builder", builders.ModelBuilder)
    return builder(**arguments)


def creator(context, example):
    return inputs.FeatureSpecInputCreator(context, example)


PADDED = {
    "own preprocess": lambda: part(builder=OwnPreprocess),
    "own score": lambda: part(builder=OwnScore),
    "own inputs": lambda: part(builder=OwnInputs),
    "own call of a scorer": lambda: part(scorer=OwnCall(hidden_layer_dims=[2])),
    "scorer function": lambda: part(scorer=lambda c, e, m: e["x0"][:, :, 0]),
    "preprocessor function": lambda: part(preprocessor=lambda c, e, m: (c, e)),
    "inputs function": lambda: part(
        input_creator=lambda: inputs.FeatureSpecInputCreator({}, EVEN)()
    ),
    "type specs": lambda: part(
        input_creator=inputs.TypeSpecInputCreator(
            {"x0": tf.TensorSpec([None, None, 1])}, example_feature_names=["x0"]
        )
    ),
    "mean of the list": lambda: part(
        preprocessor={"x0": lambda t: t - tf.reduce_mean(t, axis=1, keepdims=True)}
    ),
    "position in the list": lambda: part(
        preprocessor={
            "x0": lambda t: t + tf.range(tf.shape(t)[1], dtype=t.dtype)[:, tf.newaxis]
        }
    ),
}


@pytest.mark.parametrize("case", PADDED)
def test_parts_written_for_padded_tensors_get_them(case):
    builder = PADDED[case]()
    assert builder.layouts == ("padded",)
    with pytest.raises(ConfigError, match="needs padded batches"):
        builder.build_packed()
    _, padded = batch({}, EVEN)
    model = builder.build()
    found = model({name: padded[name] for name in model.input})
    assert found.shape == (len(LENGTHS), LONGEST)


NESTED = tf.io.RaggedFeature(tf.float32, "x", [tf.io.RaggedFeature.UniformRowLength(1)])


@pytest.mark.parametrize(
    "context, example", [({}, {"x": NESTED}), ({"x": NESTED}, EVEN)]
)
def test_features_of_several_ragged_dimensions_are_padded(context, example):
    assert part(input_creator=creator(context, example)).layouts == ("padded",)


@pytest.mark.parametrize(
    "context, example",
    [
        ({}, {"x": tf.io.RaggedFeature(tf.float32)}),
        ({}, {"x": tf.io.FixedLenFeature((1,), tf.string)}),
        ({"q": tf.io.VarLenFeature(tf.int64)}, EVEN),
        ({"q": tf.io.RaggedFeature(tf.int64)}, EVEN),
    ],
)
def test_all_other_features_are_packed(context, example):
    made = part(input_creator=creator(context, example), preprocessor={})
    assert made.layouts == ("packed", "padded")


def test_text_of_the_query_is_packed():
    lookup = tf.keras.layers.StringLookup(vocabulary=["a", "b"], output_mode="one_hot")
    context = {"q": tf.io.FixedLenFeature((1,), tf.string, "")}
    builder = part(input_creator=creator(context, EVEN), preprocessor={"q": lookup})
    model = builder.build_packed()
    packed, _ = batch({}, EVEN)
    scores = model({**packed, "q": tf.constant([["a"], ["b"], ["c"], ["a"]])})
    assert scores.row_lengths().numpy().tolist() == LENGTHS.tolist()


def test_a_function_for_an_unknown_feature_is_named():
    builder = part(preprocessor={"x9": tf.abs, "x1": tf.abs})
    with pytest.raises(ConfigError, match=r"unknown feature 'x9'.*preprocess_spec.*x1"):
        builder.build_packed()


@pytest.mark.parametrize("name", ["input_creator", "preprocessor", "scorer"])
def test_a_part_that_cannot_be_called_is_named(name):
    with pytest.raises(ConfigError, match=f"{name}: expected a callable, found 3"):
        part(**{name: 3})


def test_a_builder_without_mask_is_refused():
    with pytest.raises(ConfigError, match="mask_feature_name"):
        part(mask_feature_name=None)


@pytest.mark.parametrize(
    "scorer, arguments, words",
    [
        (scorers.DNNScorer, {}, "hidden_layer_dims"),
        (scorers.DNNScorer, {"hidden_layers": [3]}, "hidden_layer_dims"),
        (
            scorers.DNNScorer,
            {"hidden_layer_dims": [3], "droput": 0.1},
            "unknown argument 'droput'.*'dropout'",
        ),
        (scorers.GAMScorer, {}, "example_hidden_layer_dims"),
        (scorers.GAMScorer, {"hidden_layer_dims": [3]}, "unknown argument"),
        (
            scorers.GAMScorer,
            {"example_hidden_layer_dims": [3], "droput": 0.1},
            "unknown argument 'droput'.*'dropout'",
        ),
    ],
)
def test_wrong_arguments_of_scorers_are_named(scorer, arguments, words):
    with pytest.raises(ConfigError, match=words):
        scorer(**arguments)


def test_dense_arguments_reach_the_layers_of_a_dnn():
    scorer = scorers.DNNScorer(hidden_layer_dims=[3], use_bias=False, dropout=None)
    model = part(scorer=scorer).build_packed()
    assert not [w for w in model.weights if "bias" in w.name]


def test_query_features_of_a_gam_need_a_network():
    builder = make(scorers.GAMScorer(example_hidden_layer_dims=[3]), CONTEXT, EVEN)
    with pytest.raises(ConfigError, match="context_hidden_layer_dims is required"):
        builder.build_packed()


def test_stacked_towers_are_towers_side_by_side():
    values = tf.random.stateless_normal([7, 3, 2], [1, 2])
    inputs_ = tf.keras.Input((3, 2))
    outputs = towers.StackedTowers([4], tf.nn.relu, False, dropout=0.0)(inputs_)
    model = tf.keras.Model(inputs_, outputs)
    randomize(model)
    kernel1, bias1, kernel2, bias2 = model.get_weights()
    found = model(values).numpy()
    for i in range(3):
        hidden = np.maximum(values[:, i] @ kernel1[i] + bias1[i], 0)
        wanted = (hidden @ kernel2[i] + bias2[i])[:, 0]
        np.testing.assert_allclose(found[:, i], wanted, rtol=1e-4, atol=1e-5)


def test_a_builder_of_three_steps_without_build_is_told_its_base_class():
    with pytest.raises(ConfigError, match=r"Mine: .*subclass ModelBuilderWithMask"):

        class Mine(builders.AbstractModelBuilder):
            def create_inputs(self):
                return {}, {}, None

            def preprocess(self, context_inputs, example_inputs, mask):
                return context_inputs, example_inputs

            def score(self, context_features, example_features, mask):
                return mask
