"""Position bias: what training on clicks knows of positions, and serving does not.

A click says that a document was seen and that it was liked. Models of this module
separate the two while they train; what is served is a scorer of features alone, which
has no position among its inputs.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf

from tfr_pipeline import files
from tfr_pipeline.errors import ConfigError, DataError, unknown_name
from tfr_pipeline.features import Feature, Features

METHODS = ("tower", "em", "ips")
_WHERE = "model.position_bias"
_KEYS: dict[str, tuple[str, ...]] = {
    "tower": ("num_positions", "dropout"),
    "em": ("num_positions",),
    "ips": ("propensities", "largest_weight"),
}


@dataclasses.dataclass(frozen=True)
class PositionSettings:
    """How a model that trains on clicks takes positions into account.

    Attributes:
      feature: Name of the document feature with the position, from 1.
      method: `tower` adds a number that is learnt for each position to the score (the
        additive tower of Guo et al., "PAL", RecSys 2019, and Haldar et al., "Improving
        Deep Learning for Airbnb Search", KDD 2020); `em` gives that number beside the
        score to `click_em_loss`; `ips` weighs clicks by one over the propensity of
        their position (Joachims et al., "Unbiased Learning-to-Rank with Biased
        Feedback", WSDM 2017).
      num_positions: `tower`, `em`: positions that differ; those below the last are
        taken for the last.
      dropout: `tower`: share of documents whose position a step does not see, so that
        what features tell is not left to positions (Haldar et al., section 6).
      propensities: `ips`: file of `clicks propensities`, or numbers by position.
      largest_weight: `ips`: weights above it become it: some bias for less variance.

    Example:
      >>> PositionSettings(method="ips", propensities=(1.0, 0.5)).table()
      (1.0, 0.5)
    """

    feature: str = "position"
    method: str = "tower"
    num_positions: int = 100
    dropout: float = 0.0
    propensities: str | Sequence[float] | None = None
    largest_weight: float = 20.0

    def __post_init__(self) -> None:
        where = "model.position_bias"
        if self.method not in METHODS:
            raise ConfigError(unknown_name("method", str(self.method), METHODS, where))
        if not isinstance(self.feature, str) or not self.feature:
            raise ConfigError(
                f"{where}.feature: expected a name, found {self.feature!r}."
            )
        count, share, most = self.num_positions, self.dropout, self.largest_weight
        if not isinstance(count, int) or isinstance(count, bool) or count < 1:
            raise ConfigError(
                f"{where}.num_positions: expected a whole number from 1, found "
                f"{count!r}."
            )
        if not _is_number(share) or not 0 <= share < 1:
            raise ConfigError(
                f"{where}.dropout: expected a share of at least 0 and less than 1, "
                f"found {share!r}."
            )
        if not _is_number(most) or not most >= 1:
            raise ConfigError(
                f"{where}.largest_weight: expected a number from 1, found {most!r}."
            )
        if (self.method == "ips") != (self.propensities is not None):
            raise ConfigError(
                f"{where}.propensities: expected with method='ips', and with that "
                f"only: a file of `tfr-pipeline clicks propensities`; found "
                f"{self.propensities!r} and method={self.method!r}."
            )

    @classmethod
    def of(cls, value: Any) -> PositionSettings | None:
        """Returns the settings of a dict of a config; None for none.

        Raises:
          ConfigError: A key is unknown, has no effect, or has a value that cannot be.
        """
        if value is None:
            return None
        if not isinstance(value, Mapping):
            raise ConfigError(
                f"model.position_bias: expected a dict, found {value!r:.80}."
            )
        known = [field.name for field in dataclasses.fields(cls)]
        for key in value:
            if key not in known:
                raise ConfigError(
                    unknown_name("key", key, known, "model.position_bias")
                )
        found = {key: item for key, item in value.items() if item is not None}
        settings = cls(**found)
        for key in sorted({*found} - {"feature", "method", *_KEYS[settings.method]}):
            raise ConfigError(
                f"model.position_bias.{key}: it has no effect with "
                f"method={settings.method!r}. Leave it out."
            )
        return settings

    def table(self) -> tuple[float, ...]:
        """Returns the propensities by position, from the file or as they were given.

        Raises:
          DataError: The file is missing, or has other content.
        """
        given: Any = self.propensities
        where = "model.position_bias.propensities"
        if isinstance(given, str):
            where = given
            content = files.read_json(given)
            given = content.get("propensities") if isinstance(content, dict) else None
        good = isinstance(given, Sequence) and len(given) > 0
        if not good or not all(_is_number(p) and 0 < p <= 1 for p in given):
            raise DataError(
                f"{where}: expected propensities above 0 and up to 1, one a position, "
                "as `tfr-pipeline clicks propensities` writes them; found "
                f"{given!r:.80}."
            )
        return tuple(map(float, given))

    def taken_from(self, features: Features) -> Features:
        """Returns the description of data whose positions take the place of weights.

        There they reach the training step and nothing else: neither the scorer nor
        signatures, for which weights are none of their business.

        Raises:
          ConfigError: There is no such feature, or it cannot be a position; or the data
            has weights, several labels or classes.
        """
        where = f"model.position_bias.feature: {self.feature!r}"
        found = features.example.get(self.feature)
        if found is None:
            inside = [
                n for n, f in features.example.items() if self.feature in f.columns
            ]
            if inside:
                raise ConfigError(
                    f"{where} is a column of the vector {inside[0]!r}. Convert it as a "
                    f"feature of its own: --types={self.feature}:integer."
                )
            raise ConfigError(
                unknown_name(
                    "document feature",
                    self.feature,
                    features.example,
                    "model.position_bias.feature",
                )
            )
        if found.kind != "fixed" or found.dtype == "string" or found.shape != (1,):
            raise ConfigError(
                f"{where}: expected one number a document, found {found}."
            )
        if features.data_format == "packed":
            raise ConfigError(
                f"{where}: expected data in the format elwc, found packed. Convert it "
                "with --output_format=elwc."
            )
        others = {
            "document weights": features.weight,
            "list weights": features.list_weight,
            "several labels": features.labels,
            "classes": features.classes,
        }
        if there := [name for name, value in others.items() if value]:
            raise ConfigError(
                f"{where}: expected data with one label and no weights, found "
                f"{', '.join(there)}."
            )
        default: Any = 0 if found.dtype == "int64" else 0.0
        position = Feature(found.dtype, (1,), default)
        return dataclasses.replace(
            features,
            example={n: f for n, f in features.example.items() if n != self.feature},
            weight=(self.feature, position),
        )


def _is_number(value: Any) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and math.isfinite(value)


def complaint(error: tf.errors.OpError) -> str | None:
    """Returns what a training step said of positions, if that is why it failed."""
    found = re.search(rf"\[({_WHERE}: .*?)\] \[+([-\d.]+)", str(error))
    advice = "Mend the data, or name another feature or more propensities."
    return found and f"{found[1]} {found[2]}. {advice}"


@tf.keras.utils.register_keras_serializable(package="tfr_pipeline")
class PositionBias(tf.keras.layers.Layer):
    """What positions add to the scores and weights that a loss is made of.

    Args:
      method: See `PositionSettings`.
      table: `ips`: weights by position; `tower`, `em`: what the logits by position,
        which are learnt, begin with.
      dropout: See `PositionSettings`.

    Attributes:
      outputs: Numbers a document that the loss gets.

    Example:
      >>> bias = PositionBias("ips", [1.0, 2.0])
      >>> scores, weights = bias.for_loss([[1.0, 1.0, 0.0]], [[0.3, 0.2, 0.1]],
      ...                                 [[1.0, 2.0, 2.0]], training=True)
      >>> weights.numpy().tolist()
      [[1.0, 2.0, 1.0]]
    """

    def __init__(
        self,
        method: str,
        table: Sequence[float],
        dropout: float = 0.0,
        name: str = "position_bias",
        **kwargs: Any,
    ):
        super().__init__(name=name, **kwargs)
        self.method, self.outputs = method, 2 if method == "em" else 1
        self._first, self._dropout = [float(value) for value in table], dropout
        if method == "ips":
            self.table: Any = tf.constant(self._first, tf.float32)
        else:
            # Scores stay float32 in bfloat16 models, and so does what is added.
            self.table = self.add_weight(
                name="logits",
                shape=(len(self._first),),
                dtype=tf.float32,
                initializer=tf.keras.initializers.Constant(self._first),
            )
        self.built = True

    @classmethod
    def of(cls, settings: PositionSettings) -> PositionBias:
        """Returns the layer of settings; reads the file of propensities."""
        if settings.method == "ips":
            most = settings.largest_weight
            return cls("ips", [min(1.0 / p, most) for p in settings.table()])
        zeros = [0.0] * settings.num_positions
        return cls(settings.method, zeros, settings.dropout)

    def for_loss(self, y: Any, y_pred: Any, positions: Any, training: bool) -> Any:
        """Returns the scores and the weights that the loss is computed of.

        Args:
          y: Clicks, `[batch, list_size]` or ragged `[batch, (list)]`.
          y_pred: Scores of the same layout.
          positions: float32 of the same layout, from 1; 0 where nobody knows, which
            only lists for validation may have.
          training: Whether this is a step of training.

        Returns:
          `(scores, weights)`: scores of the same layout, with an axis of 2 more by
          `em`, examination first; weights of the same layout, or None.
        """
        if positions is None:
            raise ConfigError(
                "model.position_bias: expected positions where weights stand in a "
                "batch, found none. Make the dataset builder of "
                "`PositionSettings.taken_from(features)`."
            )
        if not isinstance(y_pred, tf.RaggedTensor):
            y, y_pred, positions = (
                tf.cast(v, tf.float32) for v in (y, y_pred, positions)
            )
            return self._flat(y, y_pred, positions, y >= 0, training)
        clicks, places = (tf.cast(v.values, tf.float32) for v in (y, positions))
        scores = tf.cast(y_pred.values, tf.float32)
        scores, weights = self._flat(clicks, scores, places, clicks >= 0, training)
        weights = None if weights is None else y_pred.with_values(weights)
        return y_pred.with_values(scores), weights

    def _flat(
        self, clicks: Any, scores: Any, positions: Any, real: Any, training: bool
    ) -> tuple[Any, Any]:
        known = positions >= 1
        last = len(self._first)
        checks: list[Any] = []
        if training:
            self._check(checks, known | ~real, positions, "a position from 1 on")
            if self.method == "ips":
                found = (positions <= last) | ~real | (clicks <= 0)
                wanted = f"a propensity for the position of each click, of {last}"
                self._check(checks, found, positions, wanted)
        with tf.control_dependencies(checks):
            places = tf.clip_by_value(tf.cast(positions, tf.int32), 1, last) - 1
        values = tf.gather(self.table, places)
        if self.method == "ips":
            return scores, tf.where(known & (clicks > 0), values, 1.0)
        values = tf.where(known, values, 0.0)
        if self.method == "em":
            return tf.stack([values, scores], axis=-1), None
        if training and self._dropout:
            kept = tf.random.uniform(tf.shape(values)) >= self._dropout
            values = tf.where(kept, values, 0.0)
        return scores + values, None

    def _check(self, checks: list[Any], good: Any, found: Any, wanted: str) -> None:
        message = (
            f"{_WHERE}: expected {wanted}, in the feature of positions of the training "
            "data; found:"
        )
        wrong = tf.boolean_mask(found, ~good)
        check = tf.debugging.Assert(tf.reduce_all(good), [message, wrong[:1]])
        if check is not None:  # eager
            checks.append(check)

    def get_config(self) -> dict[str, Any]:
        """See `tf.keras.layers.Layer`."""
        return {
            **super().get_config(),
            "method": self.method,
            "table": self._first,
            "dropout": self._dropout,
        }
