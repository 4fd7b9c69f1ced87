"""How an exported model ranks lists whose features somebody has moved against it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from tfr_pipeline import losses
from tfr_pipeline.data.lists import Lists
from tfr_pipeline.errors import ConfigError
from tfr_pipeline.layout import PACKED_INPUT
from tfr_pipeline.regularization.adversary import Adversary, Points
from tfr_pipeline.regularization.settings import INFINITY, AdversarialSettings
from tfr_pipeline.serving.predictor import Predictor

_MATRIX = PACKED_INPUT + "float32"
# Madry et al., 2018: so many radii that steps can leave the middle for any edge.
_REACH = 2.5


def attack_of(
    size: float, steps: int = 1, norm: str = INFINITY, **settings: Any
) -> AdversarialSettings:
    """Returns the settings of an attack.

    Args:
      size: Radius of the ball around the features of a list in which they are moved,
        in their own units.
      steps: 1 for the fast gradient (sign) method of Goodfellow et al., 2015; more for
        projected gradient descent, of steps of `2.5 * size / steps` from a random
        point of the ball, as Madry et al., 2018, take them.
      norm: `infinity`: each feature is moved by `size` at most; or `l2`, `l1`: all
        features of a list together. Of several steps not `l1`.
      **settings: More of `AdversarialSettings`, such as `feature_mask`.

    Raises:
      ConfigError: A value cannot be.

    Example:
      >>> attack_of(0.1).adv_step_size, attack_of(0.1, steps=10).adv_step_size
      (0.1, 0.025)
    """
    several = steps > 1
    return AdversarialSettings(
        multiplier=1.0,
        adv_step_size=_REACH * size / steps if several else size,
        adv_grad_norm=norm,
        pgd_iterations=steps,
        pgd_epsilon=size if several else None,
        random_init=several,
        **settings,
    )


def attacked(
    predictor: Predictor,
    lists: Lists,
    attack: AdversarialSettings,
    loss: str | Callable[[Any, Any], Any] = "softmax_loss",
    seed: int = 0,
) -> Lists:
    """Returns lists whose features are moved to where the loss of a model is larger.

    Args:
      predictor: The model, with one score a document; an export of this package.
      lists: Lists with labels.
      attack: How; see `attack_of`.
      loss: What is made larger: a loss by name, or of ragged labels and scores.
      seed: Where attacks with a random beginning begin.

    Returns:
      The lists with other numeric document features and query features.

    Raises:
      ConfigError: The model cannot be attacked so.

    Example:
      >>> from tfr_pipeline.pipeline.run.measuring import measure
      >>> def under_attack(predictor, lists):
      ...     moved = attacked(predictor, lists, attack_of(0.1, steps=10))
      ...     return measure(predictor, moved).means()["ndcg@10"]["skip"]
    """
    packed = getattr(predictor._module, "packed", None)
    if packed is None or len(predictor.tasks) != 1 or lists.labels is None:
        raise ConfigError(
            f"{predictor.path}: an attack needs labels and a model of one score a "
            f"document with the signature 'rank', found {', '.join(predictor.tasks)}."
        )
    if lists.loose or lists.loose_context:
        raise ConfigError(
            f"{predictor.path}: an attack moves numbers, expected no other features, "
            f"found {sorted({**lists.loose, **lists.loose_context})[:5]}."
        )
    of_batch = losses.get(loss) if isinstance(loss, str) else loss
    floats = [n for n, a in lists.context.items() if a.dtype.kind == "f"]
    adversary = Adversary(None, attack, predictor.layout, floats)
    tf.random.set_seed(seed)

    def moved(part: Lists) -> Points:
        splits = tf.constant(part.row_splits)
        values = {d: tf.constant(part.values[d]) for d in predictor.layout.slots}
        context = {
            name: tf.constant(part.context[name]) for name in predictor.features.context
        }
        assert part.labels is not None
        labels = _ragged(tf.constant(part.labels), splits)

        def loss_of(points: Points) -> Any:
            matrices = {**values, "float32": points[_MATRIX].values}
            queries = {n: points.get(n, value) for n, value in context.items()}
            (scores,) = packed(matrices, queries, splits).values()
            return of_batch(labels, _ragged(scores, splits))

        points = {n: context[n] for n in floats if n in context}
        points[_MATRIX] = _ragged(values["float32"], splits)
        return adversary.perturbed(points, loss_of)

    parts = [
        moved(lists.slice(*portion).widened())
        for portion in predictor.portions(lists.lengths)
    ]
    joined = {
        name: np.concatenate([_flat(part[name]) for part in parts]) for name in parts[0]
    }
    matrix = joined.pop(_MATRIX)
    return dataclasses.replace(
        lists,
        values={**lists.values, "float32": matrix},
        context={**lists.context, **joined},
    )


def _ragged(values: Any, splits: Any) -> Any:
    return tf.RaggedTensor.from_row_splits(values, splits, validate=False)


def _flat(value: Any) -> np.ndarray:
    flat = value.values if isinstance(value, tf.RaggedTensor) else value
    found: np.ndarray = flat.numpy()
    return found
