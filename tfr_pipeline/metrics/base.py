"""What makes a TF-Ranking Keras metric take both layouts and break no tie by chance."""

from __future__ import annotations

from typing import Any

from tfr_pipeline import global_batch
from tfr_pipeline.compat import tf, tfr
from tfr_pipeline.declared import BOTH
from tfr_pipeline.errors import check_topn
from tfr_pipeline.metrics.batch import Batch
from tfr_pipeline.serialization import functions_of_names, names_of_functions

register = tf.keras.utils.register_keras_serializable(package="tfr_pipeline")
_FUNCTIONS = ("gain_fn", "rank_discount_fn")


class TwoLayouts:
    """Mixin in front of a TF-Ranking Keras metric: ragged or dense, whichever comes.

    The metric is the weighted mean of one value a list. The constructor's `ragged` is
    kept for TF-Ranking's sake and decides nothing.

    Attributes:
      layouts: The batch layouts that `update_state` takes; see `declared`.
      without_relevant: What a list without relevant documents counts: "zero", as in
        TF-Ranking, or "skip", nothing; see `metrics.get`.
    """

    layouts = BOTH
    without_relevant = "zero"

    def list_weights(self, batch: Batch, relevance: Any) -> Any:
        """Returns the weight of each list, float32 `[batch, 1]`.

        Args:
          batch: The batch.
          relevance: See `Batch.list_weights`.
        """
        return self.counted(batch.list_weights(relevance), relevance)

    def counted(self, weights: Any, relevance: Any) -> Any:
        """Returns weights without those of lists that do not count."""
        if self.without_relevant == "zero":
            return weights
        some = tf.reduce_any(relevance > 0.0, axis=1, keepdims=True)
        return tf.where(some, weights, 0.0)

    @tf.autograph.experimental.do_not_convert
    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        """Adds a batch.

        Args:
          y_true: Labels, dense `[batch, list_size]` or ragged `[batch, (list)]`;
            documents with a negative label are ignored.
          y_pred: Scores in either layout.
          sample_weight: None, a scalar, `[batch, 1]` or `[batch]` (per list), the shape
            of `y_true` (per document), or `[list_size]` (per position); `[n]` for `n`
            dense lists of `n` documents is the latter.
        """
        values, weights = self.per_list(y_true, y_pred, sample_weight)
        weights = global_batch.count_real(weights)
        return tf.keras.metrics.Mean.update_state(self, values, sample_weight=weights)

    def per_list(self, y_true: Any, y_pred: Any, sample_weight: Any) -> tuple[Any, Any]:
        """Returns the value and the weight of each list, float32 `[batch, 1]`."""
        raise NotImplementedError

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments, registered functions by their names."""
        config = names_of_functions(super().get_config(), _FUNCTIONS)  # type: ignore[misc]
        if self.without_relevant != "zero":
            config["without_relevant"] = self.without_relevant
        return config

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Any:
        """Makes a metric of `get_config`'s result, also after serialisation."""
        arguments = functions_of_names(dict(config), _FUNCTIONS)
        convention = arguments.pop("without_relevant", "zero")
        metric = cls(**arguments)
        metric.without_relevant = convention
        return metric


class OwnMetric(TwoLayouts):
    """A metric computed here, on a `Batch`, instead of by TF-Ranking."""

    _topn: int | None = None

    def per_list(self, y_true: Any, y_pred: Any, sample_weight: Any) -> tuple[Any, Any]:
        """See base class."""
        return self.compute(Batch.of(y_true, y_pred, sample_weight))

    def compute(self, batch: Batch) -> tuple[Any, Any]:
        """Returns the value and the weight of each list, float32 `[batch, 1]`."""
        raise NotImplementedError


class PlainMetric(OwnMetric, tf.keras.metrics.Mean):
    """An `OwnMetric` that TF-Ranking's Keras side lacks."""

    def __init__(
        self,
        name: str | None = None,
        topn: int | None = None,
        dtype: Any = None,
        ragged: bool = False,
        **kwargs: Any,
    ):
        """Initializer.

        Args:
          name: Name of the metric.
          topn: Number of first positions that count; None for all.
          dtype: dtype of the metric's state.
          ragged: Kept for TF-Ranking's sake; the layout is read off the tensors.
          **kwargs: Further arguments of `tf.keras.metrics.Mean`.

        Raises:
          ConfigError: `topn` is no positive integer.
        """
        check_topn(topn)
        super().__init__(name=name, dtype=dtype, **kwargs)
        self._topn = topn
        self._ragged = ragged

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {**super().get_config(), "topn": self._topn, "ragged": self._ragged}


theirs: Any = tfr.keras.metrics
