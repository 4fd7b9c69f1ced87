"""Steps for numbers. Each column has its own statistics; NaN, a missing one, stays."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import NormalDist
from typing import Any, ClassVar

import numpy as np
import tensorflow as tf

from tfr_pipeline.data.sketches import Moments, Quantiles
from tfr_pipeline.errors import ConfigError, DataError
from tfr_pipeline.model.steps.base import Statistics, Step, floats, side_by_side

# The normal quantile of scikit-learn's greatest rank, 1 - 1e-7.
_MOST_NORMAL = 5.19933758
# So many searches at once.
_CALLS = 4


class NothingToLearnError(DataError):
    """A column has no value to learn from.

    Args:
      column: Its number.
    """

    def __init__(self, column: int):
        super().__init__(f"column {column} has no value")
        self.column = column


def _check_some(has_value: np.ndarray) -> None:
    if not has_value.all():
        raise NothingToLearnError(int(np.argmin(has_value)))


def _bounds(name: str, bounds: Any, least: float = -np.inf) -> tuple[float, float]:
    try:
        low, high = (float(bound) for bound in bounds)
        right = least <= low < high
    except (TypeError, ValueError):
        right = False
    if not right:
        raise ConfigError(
            f"{name}: expected two numbers, the lower one first, found {bounds!r}."
        )
    return low, high


@tf.keras.utils.register_keras_serializable(package="tfr_pipeline")
class Clip(Step):
    """Limits values to bounds.

    Args:
      bounds: Least and greatest value.

    Example:
      >>> Clip([0, 2])(tf.constant([[-1.0, 1.0, 5.0]])).numpy()
      array([[0., 1., 2.]], dtype=float32)
    """

    def __init__(self, bounds: Sequence[float], **kwargs: Any):
        super().__init__(**kwargs)
        self.bounds = _bounds("clip", bounds)

    def call(self, inputs: Any) -> Any:
        """See `Step`."""
        return _clip(floats(inputs), *self.bounds)

    def get_config(self) -> dict[str, Any]:
        """See `tf.keras.layers.Layer`."""
        return {**super().get_config(), "bounds": list(self.bounds)}


def _clip(values: Any, low: Any, high: Any) -> Any:
    # Not all kernels of `clip_by_value` keep NaN.
    clipped = tf.minimum(tf.maximum(values, low), high)
    return tf.where(tf.math.is_nan(values), values, clipped)


@tf.keras.utils.register_keras_serializable(package="tfr_pipeline")
class ClipQuantiles(Step):
    """Limits values to quantiles of the training data.

    Args:
      quantiles: Ranks of the least and of the greatest value, from 0 to 1.
    """

    def __init__(self, quantiles: Sequence[float] = (0.01, 0.99), **kwargs: Any):
        super().__init__(**kwargs)
        self.quantiles = _bounds("clip_quantiles", quantiles, 0.0)
        if self.quantiles[1] > 1:
            raise ConfigError(
                f"clip_quantiles: expected ranks from 0 to 1, found {quantiles!r}."
            )

    def new_sketch(self) -> Quantiles:
        """See `Step`."""
        return Quantiles()

    def learn(self, sketch: Quantiles) -> Statistics:
        """See `Step`."""
        found = sketch.at(np.array(self.quantiles))
        _check_some(~np.isnan(found[:, 0]))
        return {"least": found[:, 0].tolist(), "greatest": found[:, 1].tolist()}

    def call(self, inputs: Any) -> Any:
        """See `Step`."""
        low, high = self._constant("least"), self._constant("greatest")
        return _clip(floats(inputs), low, high)

    def get_config(self) -> dict[str, Any]:
        """See `tf.keras.layers.Layer`."""
        return {**super().get_config(), "quantiles": list(self.quantiles)}


@tf.keras.utils.register_keras_serializable(package="tfr_pipeline")
class Standardize(Step):
    """Subtracts the mean of the training data and divides by its deviation.

    As scikit-learn's `StandardScaler`, but that a column which is constant there
    becomes 0, whatever it is later.
    """

    def new_sketch(self) -> Moments:
        """See `Step`."""
        return Moments()

    def learn(self, sketch: Moments) -> Statistics:
        """See `Step`."""
        _check_some(sketch.count > 0)
        return {"mean": sketch.mean.tolist(), "deviation": sketch.deviation.tolist()}

    def call(self, inputs: Any) -> Any:
        """See `Step`."""
        deviation = self._constant("deviation")
        # NaN times 0 is NaN, and so it shall be.
        scale = tf.math.divide_no_nan(tf.ones_like(deviation), deviation)
        return (floats(inputs) - self._constant("mean")) * scale


@tf.keras.utils.register_keras_serializable(package="tfr_pipeline")
class QuantileNormal(Step):
    """Maps the distribution of the training data to the normal one.

    The rank of a value is interpolated between `count` quantiles, from the left and
    from the right, of which the mean is taken for values that occur often. A column
    that is constant in the training data becomes 0.

    scikit-learn's `QuantileTransformer(output_distribution="normal")` does the same but
    for the ends: to it, the least value has rank 0 however often it occurs, so -5.2 is
    what becomes of the zeros of a column where most values are zero. Here the ends are
    values as others: if half of the documents have 0, the least value, it is -0.67.
    Ranks outside of half a quantile, 0.0005 for 1000, are brought there (3.3).

    Args:
      count: Number of quantiles; that of the values if there are fewer.
      ends: `middle`, or `extreme` for the ends of scikit-learn.
    """

    def __init__(self, count: int = 1000, ends: str = "middle", **kwargs: Any):
        super().__init__(**kwargs)
        self.count = whole("quantile_normal", count, 2)
        if ends not in ("middle", "extreme"):
            raise ConfigError(
                f"quantile_normal: expected ends 'middle' or 'extreme', found {ends!r}."
            )
        self.ends = ends

    def new_sketch(self) -> Quantiles:
        """See `Step`."""
        return Quantiles()

    def learn(self, sketch: Quantiles) -> Statistics:
        """See `Step`."""
        found = sketch.at(np.linspace(0, 1, min(self.count, max(2, sketch.rows))))
        _check_some(~np.isnan(found[:, 0]))
        return {"quantiles": np.float32(found).tolist()}

    def call(self, inputs: Any) -> Any:
        """See `Step`."""
        values = floats(inputs)
        self._constant("quantiles")
        assert self.statistics is not None
        quantiles = self.statistics["quantiles"]
        extreme = self.ends == "extreme"
        tables = [_knots(np.array(row, np.float32), extreme) for row in quantiles]
        knots, *beside = (np.stack(rows) for rows in zip(*tables, strict=True))
        # Columns in rows, as `searchsorted` wants them.
        matrix = tf.reshape(values, [-1, len(tables)])
        rows = tf.transpose(matrix)
        place = _first_not_less(knots, rows)
        place += np.arange(len(tables), dtype=np.int32)[:, np.newaxis] * knots.shape[1]
        table = tf.constant(np.stack([part.ravel() for part in beside], axis=1))
        found = tf.gather(table, place)  # one lookup for all of a knot
        low, high, start, end, middle = tf.unstack(found, axis=-1)
        share = tf.math.divide_no_nan(rows - low, high - low)
        rank = start + (end - start) * share
        rank = tf.where(rows == high, middle, rank)
        most = (
            _MOST_NORMAL
            if extreme
            else NormalDist().inv_cdf(1 - 0.5 / len(quantiles[0]))
        )
        bound = tf.constant(most, tf.float32)
        normal = tf.minimum(tf.maximum(tf.math.ndtri(rank), -bound), bound)
        # Not before: Grappler would transpose booleans, of which oneDNN complains.
        normal = tf.where(tf.math.is_nan(matrix), matrix, tf.transpose(normal))
        return tf.ensure_shape(tf.reshape(normal, tf.shape(values)), values.shape)

    def get_config(self) -> dict[str, Any]:
        """See `tf.keras.layers.Layer`."""
        return {**super().get_config(), "count": self.count, "ends": self.ends}


def _first_not_less(knots: np.ndarray, rows: Any) -> Any:
    """Returns int32 `[columns, n]`, the first knot that is not less than a value.

    Args:
      knots: Rising, infinite at the end, float32 `[columns, m]`.
      rows: float32 `[columns, n]`.
    """
    cuts = [len(part) for part in np.array_split(knots, min(_CALLS, len(knots)))]
    found = [
        tf.searchsorted(of, values)  # it uses one core
        for of, values in zip(
            np.split(knots, np.cumsum(cuts)[:-1]), tf.split(rows, cuts), strict=True
        )
    ]
    return tf.concat(found, axis=0)


def _knots(quantiles: np.ndarray, extreme: bool) -> np.ndarray:
    """Returns what ranks are interpolated from.

    Args:
      quantiles: Rising, of ranks from 0 to 1, `[n]`.
      extreme: Whether the ends have the ranks 0 and 1, however often they occur.

    Returns:
      float32 `[6, n + 1]`: knots, rising, infinite behind the last; and for values from
      the knot before it, which do not count, to each: both knots, the ranks there, and
      the rank of the knot itself.
    """
    ranks = np.linspace(0, 1, len(quantiles))
    values, firsts, counts = np.unique(quantiles, return_index=True, return_counts=True)
    left, right = ranks[firsts], ranks[firsts + counts - 1]
    if len(values) == 1:
        left = right = np.array([0.5])
    middle = (left + right) / 2
    below = left[0]
    if extreme and len(values) > 1:
        middle[0], middle[-1] = 0.0, 1.0
    table = np.ones((6, len(quantiles) + 1))
    size = len(values)
    table[0] = np.inf
    table[0, :size] = values
    table[1, 1:] = table[0, :-1]
    table[2] = table[0]
    table[3, 1 : size + 1] = right
    table[4, :size], table[5, :size] = left, middle
    # What is less than all knots has the least rank.
    table[1, 0], table[3, 0], table[4, 0] = values[0], below, below
    return table.astype(np.float32)


def whole(name: str, value: Any, least: int) -> int:
    """Returns a whole number.

    Raises:
      ConfigError: It is none, or less than `least`.
    """
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or int(value) != value
        or value < least
    ):
        raise ConfigError(
            f"{name}: expected a whole number from {least} on, found {value!r}."
        )
    return int(value)


@tf.keras.utils.register_keras_serializable(package="tfr_pipeline")
class Missing(Step):
    """Replaces NaN, and adds a column that is 1 where it was and 0 elsewhere.

    The new column stands beside the value, and steps behind this one get both: it had
    better be the last.

    Args:
      value: A number, or `mean` or `median` of the training data.

    Example:
      >>> Missing(5.0)(tf.constant([[1.0, float("nan")]])).numpy()
      array([[1., 0., 5., 1.]], dtype=float32)
    """

    takes_missing: ClassVar[bool] = True

    def __init__(self, value: float | str = 0.0, **kwargs: Any):
        super().__init__(**kwargs)
        if value not in ("mean", "median"):
            try:
                number = float(value)
            except (TypeError, ValueError):
                number = np.nan
            if not np.isfinite(number):
                raise ConfigError(
                    f"missing: expected a number, 'mean' or 'median', found {value!r}."
                )
            value = number
        self.value = value

    def new_sketch(self) -> Moments | Quantiles | None:
        """See `Step`."""
        if self.value == "mean":
            return Moments()
        return Quantiles() if self.value == "median" else None

    def learn(self, sketch: Any) -> Statistics:
        """See `Step`."""
        if self.value == "mean":
            _check_some(sketch.count > 0)
            return {"value": sketch.mean.tolist()}
        found = sketch.at(np.array([0.5]))[:, 0]
        _check_some(~np.isnan(found))
        return {"value": found.tolist()}

    def call(self, inputs: Any) -> Any:
        """See `Step`."""
        values = floats(inputs)
        is_missing = tf.math.is_nan(values)
        learns = self.new_sketch() is not None
        other = self._constant("value") if learns else tf.constant(self.value)
        filled = tf.where(is_missing, other, values)
        return side_by_side(tf.stack([filled, floats(is_missing)], axis=-1))

    def get_config(self) -> dict[str, Any]:
        """See `tf.keras.layers.Layer`."""
        return {**super().get_config(), "value": self.value}


@tf.keras.utils.register_keras_serializable(package="tfr_pipeline")
class Discretize(Step):
    """Says in which of some bins a value is, with about as many documents in each.

    As scikit-learn's `KBinsDiscretizer(strategy="quantile")`; bins between equal
    quantiles have no documents. A value of NaN is in no bin.

    Args:
      bins: Number of bins.
      encode: `onehot` for a column a bin, `ordinal` for the number of the bin, int64,
        -1 for NaN.
    """

    takes_missing: ClassVar[bool] = True
    is_constant: ClassVar[bool] = False  # many columns

    def __init__(self, bins: int = 10, encode: str = "onehot", **kwargs: Any):
        super().__init__(**kwargs)
        self.bins = whole("discretize", bins, 2)
        if encode not in ("onehot", "ordinal"):
            raise ConfigError(
                f"discretize: expected encode 'onehot' or 'ordinal', found {encode!r}."
            )
        self.encode = encode

    def new_sketch(self) -> Quantiles:
        """See `Step`."""
        return Quantiles()

    def learn(self, sketch: Quantiles) -> Statistics:
        """See `Step`."""
        found = sketch.at(np.linspace(0, 1, self.bins + 1))
        _check_some(~np.isnan(found[:, 0]))
        return {"edges": np.float32(found[:, 1:-1]).tolist()}

    def call(self, inputs: Any) -> Any:
        """See `Step`."""
        values = floats(inputs)
        edges = self._constant("edges")  # [columns, bins - 1]
        above = values[..., tf.newaxis] >= edges
        bins = tf.reduce_sum(tf.cast(above, tf.int64), -1)
        bins = tf.where(tf.math.is_nan(values), tf.constant(-1, tf.int64), bins)
        if self.encode == "ordinal":
            return bins
        return side_by_side(tf.one_hot(bins, self.bins))

    def get_config(self) -> dict[str, Any]:
        """See `tf.keras.layers.Layer`."""
        return {**super().get_config(), "bins": self.bins, "encode": self.encode}
