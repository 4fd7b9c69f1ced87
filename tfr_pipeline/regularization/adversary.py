"""Features that are perturbed against a model, as NSL does it.

What NSL's `AdversarialRegularization` computes, for padded and packed batches: the loss
on features that have been moved, within a ball, to where it is larger. Goodfellow et
al., "Explaining and Harnessing Adversarial Examples" (2015), for one step; Madry et
al., "Towards Deep Learning Models Resistant to Adversarial Attacks" (2018), for more.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from tfr_pipeline.data.batching.plan import plain
from tfr_pipeline.errors import ConfigError, unknown_name
from tfr_pipeline.layout import PACKED_INPUT, BlockLayout
from tfr_pipeline.regularization.embeddings import Inner
from tfr_pipeline.regularization.settings import (
    INFINITY,
    L1,
    L2,
    AdversarialSettings,
)

_LITTLE = 1e-6  # as in NSL: the least norm
Points = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Rows:
    """Whose the rows of a tensor of numbers are.

    Attributes:
      group: Norms are of all tensors of a group together.
      units: int64 `[rows]`, the unit that a norm is of; None: each row is one.
      count: Number of units; None: of rows.
      of_vectors: Whether the last axis of the tensor is a unit, rather than a row.
    """

    group: str
    units: Any = None
    count: Any = None
    of_vectors: bool = False

    def total(self, values: Any, reduce: Any, segments: Any) -> Any:
        """Returns `[units]`, rows and units reduced.

        Args:
          values: `[rows, ...]`.
          reduce: Such as `tf.reduce_sum`.
          segments: Such as `tf.math.unsorted_segment_sum`.
        """
        if self.of_vectors:
            return reduce(values, axis=-1)
        found = reduce(values, axis=list(range(1, values.shape.rank)))
        return found if self.units is None else segments(found, self.units, self.count)

    def spread(self, totals: Any, like: Any) -> Any:
        """Returns `[rows, 1, ...]` of `[units]`, of the rank of a tensor."""
        if self.of_vectors:
            return totals[..., tf.newaxis]
        found = totals if self.units is None else tf.gather(totals, self.units)
        return tf.reshape(found, [-1] + [1] * (like.shape.rank - 1))


class Adversary:
    """Perturbs the features of batches against a model.

    Args:
      model: The model, a functional one for embeddings; None where `perturbed` is told
        all.
      settings: How.
      layout: Where document features stand in packed batches.
      names: More names of features, beside those of the layout and the model.

    Raises:
      ConfigError: A mask or bound is of a feature that there is not, or does not fit.
    """

    def __init__(
        self,
        model: Any,
        settings: AdversarialSettings,
        layout: BlockLayout | None = None,
        names: Iterable[str] = (),
    ):
        self.settings = settings
        self._inner = Inner(model)
        self._slots = {} if layout is None else layout.slots
        columns = {s.name: s.width for slots in self._slots.values() for s in slots}
        inputs = getattr(model, "input", None)
        names = [*names, *(inputs if isinstance(inputs, Mapping) else [])]
        names = [name for name in names if not name.startswith(PACKED_INPUT)]
        known = [*columns, *names, *self._inner.names]
        for name in sorted(settings.features()):
            if name not in known:
                raise ConfigError(unknown_name("feature", name, known, "adversarial"))
            for setting in ("feature_mask", "clip_value_min", "clip_value_max"):
                size, width = np.size(settings.bound(setting, name)), columns.get(name)
                if width is not None and size not in (1, width):
                    raise ConfigError(
                        f"adversarial.{setting}[{name!r}]: expected one number, or "
                        f"{width}, for the feature has so many, found {size}."
                    )

    def points(self, features: Mapping[str, Any]) -> Points:
        """Returns what of a batch can be perturbed, by name: its numbers, as they came.

        Args:
          features: The features of a batch.

        Raises:
          ConfigError: There is nothing.
        """
        found = {
            name: value
            for name, value in {**features, **self._inner.vectors(features)}.items()
            if _is_numbers(value)
        }
        if not found:
            raise ConfigError(
                "adversarial: expected features of float32, or embeddings, found "
                f"{sorted(features)}, and nothing to perturb."
            )
        return found

    def perturbed(
        self,
        points: Points,
        loss_of: Callable[[Points], Any],
        gradients: Points | None = None,
    ) -> Points:
        """Returns points where the loss is larger.

        No gradient passes through the way there, but through the points themselves.

        Args:
          points: What `points` returned.
          loss_of: Computes the loss of such points.
          gradients: Of the loss with respect to the points, by name; computed here by
            default.
        """
        settings = self.settings
        rows = {name: _rows(name, value, self._inner) for name, value in points.items()}
        moved = points
        if settings.random_init:
            moved, gradients = self._moved(points, self._random(points, rows)), None
        for _ in range(settings.pgd_iterations):
            if gradients is None:
                gradients = gradients_of(moved, loss_of)
            moved, gradients = self._step(points, moved, gradients, rows), None
        return moved

    @plain
    def _step(
        self, points: Points, moved: Points, gradients: Points, rows: dict[str, Rows]
    ) -> Points:
        settings = self.settings
        masked = {name: self._masked(name, g) for name, g in gradients.items()}
        directions = _directions(masked, rows, settings.adv_grad_norm)
        away = {
            name: settings.adv_step_size * direction
            + _there(_flat(moved[name]) - _flat(points[name]))
            for name, direction in directions.items()
        }
        if settings.pgd_epsilon is not None:
            radius, norm = settings.pgd_epsilon, settings.adv_grad_norm
            away = _in_ball(away, rows, radius, norm)
        return self._moved(points, away)

    def _moved(self, points: Points, away: Mapping[str, Any]) -> Points:
        """Returns points that are moved and clipped; those without `away` stay."""
        result = dict(points)
        for name, move in away.items():
            value = _flat(points[name]) + tf.stop_gradient(move)
            for bound, clip in (
                ("clip_value_min", tf.maximum),
                ("clip_value_max", tf.minimum),
            ):
                limit = self._columns(name, bound, value)
                value = value if limit is None else clip(value, limit)
            result[name] = _with_flat(points[name], value)
        return result

    def _masked(self, name: str, gradient: Any) -> Any:
        mask = self._columns(name, "feature_mask", gradient)
        return gradient if mask is None else gradient * mask

    def _columns(self, name: str, setting: str, like: Any) -> Any:
        """Returns a setting of a point, as it stands in its columns; None for none."""
        if not name.startswith(PACKED_INPUT):
            found = self.settings.bound(setting, name)
            return None if found is None else tf.constant(found, like.dtype)
        nothing = {"feature_mask": 1.0, "clip_value_min": -np.inf}.get(setting, np.inf)
        slots = self._slots[name.removeprefix(PACKED_INPUT)]
        row = np.full(slots[-1].stop, nothing, np.float32)
        given = False
        for slot in slots:
            value = self.settings.bound(setting, slot.name)
            if value is not None:
                row[slot.start : slot.stop] = np.ravel(value)
                given = True
        return tf.constant(row, like.dtype) if given else None

    @plain
    def _random(self, points: Points, rows: dict[str, Rows]) -> dict[str, Any]:
        """Returns random points in a ball, uniformly.

        For `l2` and `l1` by Barthe et al., "A Probabilistic Approach to the Geometry of
        the l_p^n-Ball" (2005), as in NSL.
        """
        settings = self.settings
        radius, norm = settings.pgd_epsilon, settings.adv_grad_norm
        radius = settings.adv_step_size if radius is None else radius
        values = {name: _flat(value) for name, value in points.items()}
        if norm == INFINITY:
            moves = {
                name: tf.random.uniform(tf.shape(value), -radius, radius, value.dtype)
                for name, value in values.items()
            }
            return self._without_masked(moves)

        def exponential(shape: Any) -> Any:
            return tf.random.gamma(shape, 1.0, 1.0)

        samples = {}
        for name, value in values.items():
            shape = tf.shape(value)
            if norm == L2:
                samples[name] = tf.random.normal(shape)
            else:
                samples[name] = exponential(shape) - exponential(shape)
        power = tf.square if norm == L2 else tf.abs
        sums = _totals(
            {name: power(value) for name, value in samples.items()},
            rows,
            tf.reduce_sum,
            tf.math.unsorted_segment_sum,
        )
        scales = {}
        for group, total in sums.items():
            if norm == L2:  # two more normal coordinates, squared
                scales[group] = tf.math.rsqrt(
                    total + 2.0 * exponential(tf.shape(total))
                )
            else:
                scales[group] = 1.0 / (total + exponential(tf.shape(total)))
        moves = {
            name: radius * value * rows[name].spread(scales[rows[name].group], value)
            for name, value in samples.items()
        }
        return self._without_masked(moves)

    def _without_masked(self, moves: Mapping[str, Any]) -> dict[str, Any]:
        """Returns moves without those of features whose mask is 0; NSL moves them."""
        return {
            name: tf.where(self._masked(name, tf.ones_like(move)) > 0.0, move, 0.0)
            for name, move in moves.items()
        }

    def scores(self, model: Any, features: Mapping[str, Any], points: Points) -> Any:
        """Returns the scores of a batch with other points, as in training."""
        return self._inner.scores(model, {**features, **points})


def gradients_of(points: Points, loss_of: Callable[[Points], Any]) -> Points:
    """Returns the gradients of a loss, of their flat values, with 0 for what is none.

    Args:
      points: What `Adversary.points` returned.
      loss_of: Computes the loss of such points.
    """
    values = {name: _flat(value) for name, value in points.items()}
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(values)
        loss = loss_of(
            {name: _with_flat(points[name], value) for name, value in values.items()}
        )
    return {
        name: tf.where(tf.math.is_finite(gradient), gradient, 0.0)
        for name, gradient in tape.gradient(loss, values).items()
        if gradient is not None
    }


def _is_numbers(value: Any) -> bool:
    kinds = tf.Tensor | tf.RaggedTensor
    return isinstance(value, kinds) and value.dtype.is_floating


def _there(move: Any) -> Any:
    """Returns moves, of which that of a value that is missing is none."""
    return tf.where(tf.math.is_nan(move), tf.zeros_like(move), move)


def _flat(value: Any) -> Any:
    return value.flat_values if isinstance(value, tf.RaggedTensor) else value


def _with_flat(value: Any, flat: Any) -> Any:
    ragged = isinstance(value, tf.RaggedTensor)
    return value.with_flat_values(flat) if ragged else flat


def _rows(name: str, value: Any, inner: Inner) -> Rows:
    if name in inner.names:
        return Rows(name, of_vectors=True)
    if not isinstance(value, tf.RaggedTensor):
        return Rows("lists")
    rows = value.value_rowids()
    inside = value.values
    while isinstance(inside, tf.RaggedTensor):
        rows, inside = tf.gather(rows, inside.value_rowids()), inside.values
    return Rows("lists", rows, value.nrows())


def _totals(
    values: Mapping[str, Any], rows: dict[str, Rows], reduce: Any, segments: Any
) -> dict[str, Any]:
    """Returns `[units]` of each group, of all of its tensors together."""
    found: dict[str, list[Any]] = {}
    for name, value in values.items():
        total = rows[name].total(value, reduce, segments)
        found.setdefault(rows[name].group, []).append(total)
    return {group: reduce(tf.stack(parts), axis=0) for group, parts in found.items()}


def _directions(
    gradients: Mapping[str, Any], rows: dict[str, Rows], norm: str
) -> dict[str, Any]:
    """Returns the moves of norm 1 along which the loss rises the most."""
    if norm == INFINITY:
        return {name: tf.sign(gradient) for name, gradient in gradients.items()}
    sums = (tf.reduce_sum, tf.math.unsorted_segment_sum)
    if norm == L2:
        squares = {name: tf.square(gradient) for name, gradient in gradients.items()}
        totals = {
            group: tf.math.rsqrt(tf.maximum(total, _LITTLE**2))
            for group, total in _totals(squares, rows, *sums).items()
        }
        return {
            name: gradient * rows[name].spread(totals[rows[name].group], gradient)
            for name, gradient in gradients.items()
        }
    assert norm == L1
    sizes = {name: tf.abs(gradient) for name, gradient in gradients.items()}
    most = _totals(sizes, rows, tf.reduce_max, tf.math.unsorted_segment_max)
    are_most = {
        name: tf.cast(
            tf.equal(size, rows[name].spread(most[rows[name].group], size)), size.dtype
        )
        for name, size in sizes.items()
    }
    counts = _totals(are_most, rows, *sums)
    return {
        name: tf.math.divide_no_nan(
            tf.sign(gradients[name]) * among,
            rows[name].spread(counts[rows[name].group], among),
        )
        for name, among in are_most.items()
    }


def _in_ball(
    away: Mapping[str, Any], rows: dict[str, Rows], radius: float, norm: str
) -> dict[str, Any]:
    """Returns moves no longer than a radius, in the norm `infinity` or `l2`."""
    if norm == INFINITY:
        return {
            name: tf.clip_by_value(move, -radius, radius) for name, move in away.items()
        }
    squares = {name: tf.square(move) for name, move in away.items()}
    sums = (tf.reduce_sum, tf.math.unsorted_segment_sum)
    scales = {
        group: tf.minimum(1.0, radius * tf.math.rsqrt(tf.maximum(total, _LITTLE**2)))
        for group, total in _totals(squares, rows, *sums).items()
    }
    return {
        name: move * rows[name].spread(scales[rows[name].group], move)
        for name, move in away.items()
    }


def perturb(
    model: Any,
    features: Mapping[str, Any],
    labels: Any,
    loss: Callable[[Any, Any], Any],
    settings: AdversarialSettings,
    layout: BlockLayout | None = None,
) -> dict[str, Any]:
    """Returns the features of a batch moved to where the loss of a model is larger.

    Args:
      model: A Keras model of a dict of features, which predicts.
      features: Features by name, padded or packed; those of float32 are moved.
      labels: Labels, as the loss takes them.
      loss: Of labels and scores.
      settings: How; see `pipeline.run.attack.attack_of`.
      layout: Where document features stand in packed batches.

    Example:
      >>> inputs = {"a": tf.keras.Input((1,), name="a")}
      >>> model = tf.keras.Model(inputs, 2.0 * inputs["a"])
      >>> attack = AdversarialSettings(adv_step_size=0.5, adv_grad_norm="infinity")
      >>> batch, loss = {"a": tf.zeros([1, 1])}, tf.keras.losses.MeanSquaredError()
      >>> perturb(model, batch, tf.ones([1, 1]), loss, attack)["a"].numpy().tolist()
      [[-0.5]]
    """
    adversary = Adversary(None, settings, layout, features)
    points = adversary.points(features)

    def loss_of(moved: Points) -> Any:
        return loss(labels, model({**features, **moved}, training=False))

    return {**features, **adversary.perturbed(points, loss_of)}
