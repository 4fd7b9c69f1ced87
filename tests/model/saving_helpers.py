"""Small models and batches that the process that saves and the one that loads share."""

from __future__ import annotations

import numpy as np

from tfr_pipeline import losses, metrics
from tfr_pipeline.compat import tf
from tfr_pipeline.model.attention_scorers import DASALCScorer
from tfr_pipeline.model.builders import ModelBuilder
from tfr_pipeline.model.inputs import FeatureSpecInputCreator
from tfr_pipeline.model.preprocess import signed_log1p
from tfr_pipeline.model.scorers import DNNScorer, GAMScorer
from tfr_pipeline.model.tabular_scorers import TabMScorer
from tfr_pipeline.optimizers.factory import build_optimizer

CONTEXT = {"q": tf.io.FixedLenFeature((1,), tf.float32, 0.0)}
EXAMPLE = {
    "x": tf.io.FixedLenFeature((1,), tf.float32, 0.0),
    "vector": tf.io.FixedLenFeature((2,), tf.float32, [0.0] * 2),
}
LENGTHS = np.array([3, 1, 4, 2])


def own():
    """Imported only where it is asked for: it registers the user's classes."""
    from tests.model import own_objects

    return own_objects


def dasalc():
    return DASALCScorer([4], head_size=3, num_layers=2)


# Layout, scorer, loss and metrics.
MODELS = {
    "dnn": (
        "packed",
        lambda: DNNScorer(hidden_layer_dims=[4], activation="relu", dropout=0.3),
        lambda: losses.get("softmax_loss", temperature=0.5),
        lambda: [metrics.get("ndcg", topn=3)],
    ),
    "gam": (
        "packed",
        lambda: GAMScorer(example_hidden_layer_dims=[3], context_hidden_layer_dims=[2]),
        lambda: losses.get("approx_ndcg_loss"),
        lambda: [metrics.get("mrr")],
    ),
    "dasalc": (
        "padded",
        dasalc,
        lambda: losses.get("softmax_loss"),
        lambda: [metrics.get("ndcg")],
    ),
    "tabm": (
        "packed",
        lambda: TabMScorer(k=2, hidden_layer_dims=[4], dropout=0.3),
        lambda: losses.get("softmax_loss", gain_fn="pow_minus_1"),
        lambda: [metrics.get("ndcg")],
    ),
    "own": (
        "packed",
        lambda: own().ScaledScorer(),
        lambda: own().SquaredError(3.0),
        lambda: [own().MeanScore()],
    ),
}


def make(name):
    """Returns a compiled model."""
    layout, scorer, loss, metric = MODELS[name]
    tf.keras.utils.set_random_seed(5)
    builder = ModelBuilder(
        FeatureSpecInputCreator(CONTEXT, EXAMPLE),
        {"x": signed_log1p},
        scorer(),
        "mask",
        name,
    )
    model = builder.build_packed() if layout == "packed" else builder.build()
    optimizer = build_optimizer("adam", 0.05, 100, "cosine")
    model.compile(optimizer, loss(), metrics=metric())
    return model


def train(model, seed):
    """Takes three steps on batches that the seed decides."""
    model.run_eagerly = True  # three steps take less time than tracing
    random = np.random.default_rng(seed)
    mask = np.arange(LENGTHS.max()) < LENGTHS[:, np.newaxis]
    batches = []
    for _ in range(3):
        labels = random.integers(0, 3, LENGTHS.sum()).astype(np.float32)
        values = random.normal(size=(LENGTHS.sum(), 3)).astype(np.float32)
        query = tf.constant(random.normal(size=(len(LENGTHS), 1)), tf.float32)
        if "mask" in model.input_names:
            lists = np.zeros((*mask.shape, 3), np.float32)
            lists[mask] = values
            padded = np.full(mask.shape, -1.0, np.float32)
            padded[mask] = labels
            vector, x = tf.constant(lists[..., :2]), tf.constant(lists[..., 2:])
            features = {"q": query, "vector": vector, "x": x, "mask": mask}
            batches.append((features, tf.constant(padded)))
        else:
            ragged = tf.RaggedTensor.from_row_lengths(values, LENGTHS)
            features = {"q": query, "documents_float32": ragged}
            batches.append(
                (features, tf.RaggedTensor.from_row_lengths(labels, LENGTHS))
            )
    for features, y in batches:
        model.train_on_batch(features, y)


def state(model):
    """Returns all numbers that go on changing: weights and the optimizer's slots."""
    variables = [*model.weights, *model.optimizer.variables]
    return [np.asarray(tf.convert_to_tensor(variable)) for variable in variables]
