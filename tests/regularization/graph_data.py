"""Lists with a graph between their documents, and what training makes of a batch."""

from __future__ import annotations

import pathlib
from typing import Any

import numpy as np

from tests.pipeline.training_helpers import make_config
from tfr_pipeline.compat import tf
from tfr_pipeline.experiment.build import build_pipeline
from tfr_pipeline.graph import nodes

MAX_NEIGHBOURS = 3


def plain_config(data: Any, model_dir: Any, **pipeline: Any) -> dict[str, Any]:
    """Returns a config without anything random."""
    config = make_config(data, model_dir, strategy=None, **pipeline)
    config["model"]["scorer_args"].update(use_batch_norm=False, dropout=0.0)
    return config


def write_graph(config: dict[str, Any], path: pathlib.Path) -> np.ndarray:
    """Writes a graph between the training documents of a config.

    Each has edges to one to three others, of its own list or not; some have none.

    Returns:
      float32 `[documents, documents]`, the weights of the edges.
    """
    lists = lists_of(config)
    names = nodes.of_lists(lists)
    random = np.random.default_rng(4)
    count = len(names)
    weights = np.zeros((count, count), np.float32)
    for i in range(0, count):
        others = random.choice(count, i % (MAX_NEIGHBOURS + 1), replace=False)
        weights[i, others] = random.uniform(0.2, 1, len(others)).astype(np.float32)
    np.fill_diagonal(weights, 0.0)
    lines = [
        f"{names[i]}\t{names[j]}\t{weights[i, j]:.9g}\n"
        for i, j in np.argwhere(weights)
    ]
    path.write_text("".join(lines))
    return weights


def lists_of(config: dict[str, Any]) -> Any:
    """Returns the training lists of a config, with ids."""
    data = {**config["data"], "keep_document_ids": True}
    found = build_pipeline({**config, "data": data})
    return found._dataset_builder.lists("train", "packed")


def first_step(config: dict[str, Any]) -> tuple[Any, Any, dict[str, Any]]:
    """Returns the model of a config before training, its first batch and that step.

    The step has `loss`, `added` and `gradients`, of the sum of both.
    """
    pipeline = build_pipeline(config)
    feed = pipeline._feed
    tf.keras.utils.set_random_seed(7)
    layout = pipeline._layout()
    feed.check(layout)
    model = pipeline._compile(layout, 1)
    dataset = feed.dataset("train", layout, model=model)
    batch = next(iter(dataset))

    # As in training, where shapes differ from batch to batch.
    @tf.function(input_signature=dataset.element_spec[:2])
    def step(x: Any, y: Any) -> Any:
        with tf.GradientTape() as tape:
            _, loss, added = model.regularization.losses(model, x, y, None, None)
            total = loss + added
        return loss, added, tape.gradient(total, model.trainable_variables)

    loss, added, gradients = step(batch[0], batch[1])
    found = {"loss": loss, "added": added, "gradients": gradients}
    return model, batch, tf.nest.map_structure(lambda value: value.numpy(), found)
