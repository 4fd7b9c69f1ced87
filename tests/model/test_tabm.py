"""TabM against explicit networks, one a member, that share nothing."""

from __future__ import annotations

import numpy as np
import pytest

from tests.model.test_models import CONTEXT, LENGTHS, LONGEST, MASK, MIXED, batch, make
from tfr_pipeline import losses, metrics
from tfr_pipeline.compat import tf
from tfr_pipeline.errors import ConfigError
from tfr_pipeline.model import sampling
from tfr_pipeline.model.layers.member_tower import MemberTower
from tfr_pipeline.model.layers.members import averaged, repeated
from tfr_pipeline.model.scorers import DNNScorer
from tfr_pipeline.model.tabular_scorers import TabMScorer

K, DIMS = 3, [5, 4]
LAYOUTS = ("packed", "padded")
OUTPUTS = {"ordinal_loss": 3, "mixture_em_loss": 2, "click_em_loss": 2}
ARGUMENTS = {"ordinal_loss": {"ordinal_size": 3}}
# What they draw depends on how many lists there are.
DRAWN = ("yeti", "gumbel", "coupled")
KEYS = [k for k in losses.RankingLossKey.all_keys() if not k.startswith(DRAWN)]


def scorer(**arguments):
    defaults = {"k": K, "hidden_layer_dims": DIMS, "dropout": 0.0}
    return TabMScorer(**{**defaults, **arguments})


def build(layout, scorer):
    builder = make(scorer, CONTEXT, MIXED)
    assert builder.layouts == ("packed", "padded")
    return builder.build_packed() if layout == "packed" else builder.build()


def randomize(model, seed=1):
    random = np.random.default_rng(seed)
    for weight in model.weights:
        if weight.dtype.is_floating:
            weight.assign(random.normal(size=weight.shape) * 0.5)


def tower_of(model):
    (tower,) = [x for x in model._flatten_layers() if isinstance(x, MemberTower)]
    return tower


def columns_of(model, features):
    """What goes into the tower, `[documents, columns]`."""
    return tf.keras.Model(model.inputs, tower_of(model).input)(features).numpy()


def explicit(tower, x):
    """Returns `[members, documents, 1]`, one network after the other."""
    weights = {
        weight.name.split("/")[-1][:-2]: weight.numpy() for weight in tower.weights
    }
    scores = []
    for m in range(tower.members):
        y = x
        for i in range(len(tower.hidden_layer_dims)):
            y = (y * weights[f"input_scale_{i}"][m]) @ weights[f"kernel_{i}"]
            y = y * weights[f"output_scale_{i}"][m] + weights[f"bias_{i}"][m]
            y = np.maximum(y, 0.0)
        scores.append(y @ weights["head"][m] + weights["head_bias"][m])
    return np.stack(scores)


def labels_of(layout, seed=3, distinct=False):
    """Grades 0 to 2; or those of a list all different, where ties are drawn."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, 3, LENGTHS.sum()).astype("f4")
    if distinct:
        labels = np.concatenate([random.permutation(n) for n in LENGTHS]).astype("f4")
    ragged = tf.RaggedTensor.from_row_lengths(labels, LENGTHS)
    return ragged if layout == "packed" else ragged.to_tensor(-1.0)


def member_lists(scores, count=K):
    """Splits the scores of a training step by member."""
    lists = len(LENGTHS)
    return [scores[m * lists : (m + 1) * lists] for m in range(count)]


def real(scores):
    if isinstance(scores, tf.RaggedTensor):
        return scores.values.numpy()
    return scores.numpy()[np.arange(LONGEST) < LENGTHS[:, np.newaxis]]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_members_score_as_networks_that_share_nothing(layout):
    model = build(layout, scorer())
    randomize(model)
    features = dict(zip(LAYOUTS, batch(CONTEXT, MIXED), strict=True))[layout]
    wanted = explicit(tower_of(model), columns_of(model, features))[..., 0]
    found = member_lists(model(features, training=True))
    np.testing.assert_allclose([real(x) for x in found], wanted, rtol=1e-4, atol=1e-4)
    assert np.ptp(wanted, axis=0).max() > 0.1
    mean = model(features, training=False)
    np.testing.assert_allclose(real(mean), wanted.mean(0), rtol=1e-4, atol=1e-4)
    if layout == "padded":
        padding = mean.numpy()[~features[MASK].numpy()]
        np.testing.assert_allclose(padding, np.log(1e-10), rtol=1e-6)


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_loss_of_a_step_is_the_mean_over_the_losses_of_members(layout, key):
    random = np.random.default_rng(0)
    shape = (K * LENGTHS.sum(), *([OUTPUTS[key]] if key in OUTPUTS else []))
    scores = tf.RaggedTensor.from_row_lengths(
        random.normal(size=shape).astype("f4"), np.tile(LENGTHS, K)
    )
    y = labels_of(layout, distinct=key == "list_mle_loss")
    weights = tf.constant(random.uniform(0.5, 2.0, (len(LENGTHS), 1)).astype("f4"))
    if layout == "padded":
        scores = scores.to_tensor(-23.0)
    tf.random.set_seed(1)
    loss = losses.get(key, **ARGUMENTS.get(key, {}))
    found = loss(repeated(y, K), scores, repeated(weights, K))
    each = [float(loss(y, part, weights)) for part in member_lists(scores)]
    assert np.ptp(each) > 1e-4
    np.testing.assert_allclose(found, np.mean(each), rtol=1e-4)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_step_takes_the_mean_of_the_gradients_of_explicit_networks(layout):
    model = build(layout, scorer())
    randomize(model)
    tower = tower_of(model)
    features = dict(zip(LAYOUTS, batch(CONTEXT, MIXED), strict=True))[layout]
    x = columns_of(model, features)
    # Each member as a network of its own, its scales within its kernels.
    networks = []
    for m in range(K):
        networks.append([])
        for i in range(len(DIMS)):
            scales = np.outer(tower._input_scales[i][m], tower._output_scales[i][m])
            kernel = tf.Variable(tower._kernels[i] * scales)
            networks[m] += [kernel, tf.Variable(tower._biases[i][m])]
        networks[m] += [tf.Variable(tower._head[m]), tf.Variable(tower._head_bias[m])]
    loss = losses.get("softmax_loss")
    gradients, values = [], []
    for weights in networks:
        with tf.GradientTape() as tape:
            y = x
            for kernel, bias in zip(weights[:-2:2], weights[1:-2:2], strict=True):
                y = tf.nn.relu(y @ kernel + bias)
            y = tf.RaggedTensor.from_row_lengths(
                (y @ weights[-2] + weights[-1])[:, 0], LENGTHS
            )
            value = loss(labels_of("packed"), y)
        values.append(float(value))
        gradients.append([g.numpy() for g in tape.gradient(value, weights)])
    before = {id(weight): weight.numpy() for weight in tower.trainable_weights}
    model.compile(tf.keras.optimizers.SGD(1.0), loss, run_eagerly=True)
    found = model.train_on_batch(features, labels_of(layout))
    np.testing.assert_allclose(found, np.mean(values), rtol=1e-4)

    def step(weight):
        return before[id(weight)] - weight.numpy()

    for i in range(len(DIMS)):
        of_kernel = [g[2 * i] for g in gradients]
        r, s = before[id(tower._input_scales[i])], before[id(tower._output_scales[i])]
        wanted = np.mean(
            [np.outer(r[m], s[m]) * of_kernel[m] for m in range(K)], axis=0
        )
        np.testing.assert_allclose(step(tower._kernels[i]), wanted, atol=2e-4)
        biases = [g[2 * i + 1] / K for g in gradients]
        np.testing.assert_allclose(step(tower._biases[i]), biases, atol=2e-4)
        kernel = before[id(tower._kernels[i])]
        rows = [(of_kernel[m] * kernel * s[m]).sum(1) / K for m in range(K)]
        np.testing.assert_allclose(step(tower._input_scales[i]), rows, atol=2e-4)
    heads = [g[-2] / K for g in gradients]
    np.testing.assert_allclose(step(tower._head), heads, atol=2e-4)
    assert np.abs(step(tower._kernels[0])).max() > 1e-2


@pytest.mark.parametrize("layout", LAYOUTS)
def test_one_member_learns_as_a_network(layout):
    one = build(layout, scorer(k=1))
    dnn = build(
        layout,
        DNNScorer(
            hidden_layer_dims=DIMS, activation="relu", use_batch_norm=False, dropout=0.0
        ),
    )
    randomize(dnn)
    tower = tower_of(one)
    kernels = [*tower._kernels, tower._head]
    biases = [*tower._biases, tower._head_bias]
    pairs = zip(kernels, biases, strict=True)
    for target, value in zip(
        [x for pair in pairs for x in pair], dnn.get_weights(), strict=True
    ):
        target.assign(tf.reshape(value, target.shape))
    for scale in [*tower._input_scales, *tower._output_scales]:
        np.testing.assert_array_equal(scale, np.ones(scale.shape))
        scale._trainable = False
    features = dict(zip(LAYOUTS, batch(CONTEXT, MIXED), strict=True))[layout]
    for model in (one, dnn):
        loss = losses.get("softmax_loss")
        model.compile(tf.keras.optimizers.SGD(0.05), loss, run_eagerly=True)
        model.train_on_batch(features, labels_of(layout))
        model.train_on_batch(features, labels_of(layout))
    np.testing.assert_allclose(real(one(features)), real(dnn(features)), rtol=1e-3)


def test_the_first_input_scales_begin_as_random_signs_and_all_others_at_1():
    tower = MemberTower(50, [6, 6])
    tower(tf.ones([2, 40]))
    signs = tower._input_scales[0].numpy()
    assert set(np.unique(signs)) == {-1.0, 1.0}
    assert abs(signs.mean()) < 0.1  # 5 standard deviations
    for scale in [tower._input_scales[1], *tower._output_scales]:
        np.testing.assert_array_equal(scale, np.ones(scale.shape))
    assert len(np.unique(tower._head)) == tower._head.shape.num_elements()


@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_dropout_keeps_the_mean_and_draws_for_each_member(activation):
    tower = MemberTower(20, [200], activation=activation, dropout=0.5)
    x = tf.ones([30, 4])
    tower(x)
    for scale in tower._input_scales:
        scale.assign(tf.ones_like(scale))
    tower._head.assign(tf.ones_like(tower._head))
    plain, dropped = tower(x), tower(x, training=True)
    assert dropped.shape == (20, 30, 1)
    assert len(np.unique(dropped)) > 500
    spread = np.std(dropped) / np.sqrt(600)
    np.testing.assert_allclose(np.mean(dropped), np.mean(plain), atol=5 * spread)
    assert np.abs(dropped - tower(x, training=True)).max() > 0.1


def test_dropped_units_pass_no_gradient():
    tower = MemberTower(2, [50], activation="relu", dropout=0.5)
    x = tf.Variable(tf.ones([3, 4]))
    tower(x)
    (dropout,) = tower._dropouts
    count = tf.identity(dropout._step)
    z = tf.Variable(np.random.default_rng(0).normal(size=(2, 3, 50)).astype("f4"))
    with tf.GradientTape(persistent=True) as tape:
        y, scale = dropout.relu(z)
        found = y * scale
        dropout._step.assign(count)
        wanted = dropout(tf.nn.relu(z), training=True)
    np.testing.assert_allclose(found, wanted, rtol=1e-6)
    np.testing.assert_allclose(
        tape.gradient(found, z), tape.gradient(wanted, z), rtol=1e-6
    )


def test_metrics_of_training_steps_rank_by_the_mean_score():
    model = build("packed", scorer())
    randomize(model)
    packed, _ = batch(CONTEXT, MIXED)
    y = labels_of("packed")
    wanted = metrics.get("ndcg")
    wanted.update_state(y, model(packed))
    loss = losses.get("softmax_loss")
    model.compile("sgd", loss, [metrics.get("ndcg")], run_eagerly=True)
    model.training_metrics = True
    found = model.train_on_batch(packed, y, return_dict=True)
    (name,) = {*found} - {"loss"}
    np.testing.assert_allclose(found[name], wanted.result(), rtol=1e-5)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_scores_of_members_are_averaged_list_by_list(layout):
    y = labels_of(layout)
    parts = [y * (m + 1.0) for m in range(K)]
    found = averaged(tf.concat(parts, axis=0), K)
    np.testing.assert_allclose(real(found), 2.0 * real(y))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_several_numbers_a_document(layout):
    model = build(layout, scorer(output_units=2))
    features = dict(zip(LAYOUTS, batch(CONTEXT, MIXED), strict=True))[layout]
    assert model(features).shape[0::2] == (len(LENGTHS), 2)
    model.compile("sgd", losses.get("click_em_loss"), run_eagerly=True)
    assert np.isfinite(model.train_on_batch(features, labels_of(layout)))


def test_a_model_of_tasks_has_the_loss_of_each_member_of_each(layout="packed"):
    class TwoTasks(TabMScorer):
        def _score_flattened(self, context_features, example_features):
            def score():
                return super(TwoTasks, self)._score_flattened(
                    context_features, example_features
                )

            return {"click": score(), "buy": score()}

    model = build(layout, TwoTasks(k=2, hidden_layer_dims=[4]))
    packed, _ = batch(CONTEXT, MIXED)
    y = {"click": labels_of(layout), "buy": labels_of(layout, 4)}
    loss = {task: losses.get("softmax_loss") for task in y}
    scores = model(packed, training=False)
    model.compile(tf.keras.optimizers.SGD(0.0), loss, run_eagerly=True)
    found = model.train_on_batch(packed, y, return_dict=True)
    assert scores["buy"].shape[0] == len(LENGTHS)
    np.testing.assert_allclose(
        found["loss"], found["click_loss"] + found["buy_loss"], rtol=1e-5
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"k": 0}, "members: expected 1 or more, found 0"),
        ({"hidden_layer_dims": 64}, "expected numbers of units"),
        ({"dropout": 1.0}, "Dropout: expected 0 <= rate < 1"),
    ],
)
def test_arguments_that_cannot_be_are_errors(arguments, words):
    with pytest.raises((ConfigError, ValueError), match=words):
        build("packed", scorer(**arguments))


@pytest.mark.parametrize("activation", ["prelu", "selu", {"name": "leaky_relu"}])
def test_members_take_activations_and_kernels_by_name(activation):
    arguments = {
        "activation": activation,
        "dropout": 0.5,
        "kernel_regularizer": {"name": "l2", "l2": 0.1},
        "kernel_constraint": {"name": "max_norm", "max_value": 1e-3},
    }
    tower = MemberTower(3, [5, 4], **arguments)
    x = tf.random.stateless_normal([7, 6], [1, 2])
    assert tower(x, training=True).shape == (3, 7, 1)
    kernels = [w for w in tower.weights if "kernel" in w.name]
    assert len(kernels) == 2 and len(tower.losses) == 2
    for kernel in kernels:
        assert np.linalg.norm(kernel.constraint(kernel), axis=0).max() < 1.1e-3
    slopes = [w for w in tower.weights if "alpha" in w.name]
    assert [w.shape.as_list() for w in slopes] == (
        [[5], [4]] if activation == "prelu" else []
    )
    again = MemberTower.from_config(tower.get_config())
    again(x)
    again.set_weights(tower.get_weights())
    np.testing.assert_allclose(again(x), tower(x), rtol=1e-6)


def test_noise_on_the_inputs_is_for_training_alone():
    scorer = TabMScorer(2, [4], dropout=0.0, input_noise_stddev=1.0)
    inputs = tf.keras.Input((3,))
    model = tf.keras.Model(inputs, scorer._score_flattened({}, {"x": inputs}))
    x = tf.ones([5, 3])
    np.testing.assert_array_equal(model(x), model(x))
    noisy = [model(x, training=True).numpy() for _ in range(2)]
    assert np.abs(noisy[0] - noisy[1]).max() > 0.01
    with pytest.raises(ConfigError, match="kernel_initializer"):
        TabMScorer(2, [4], kernel_initialiser="he_normal")


def test_samples_of_members_drop_out():
    scorer = TabMScorer(2, [50], dropout=0.5)
    inputs = tf.keras.Input((3,))
    model = tf.keras.Model(inputs, scorer._score_flattened({}, {"x": inputs}))
    x = tf.ones([1, 3])
    with sampling.dropping_out(model):
        samples = [float(model(x)[0, 0]) for _ in range(200)]
    assert np.std(samples) > 0.01
    error = np.std(samples) / 200**0.5
    assert abs(np.mean(samples) - float(model(x)[0, 0])) < 4 * error
