"""What makes a TF-Ranking loss take both layouts."""

from __future__ import annotations

from typing import Any

from tfr_pipeline.compat import tf
from tfr_pipeline.declared import BOTH, layouts
from tfr_pipeline.errors import ConfigError
from tfr_pipeline.features import PADDING_LABEL
from tfr_pipeline.global_batch import longest_list
from tfr_pipeline.losses.kernels.batch import (
    Packed,
    at_least,
    is_ragged,
    pad,
    pad_weights,
    to_float,
)
from tfr_pipeline.losses.kernels.closed_form import ClosedForm, unreduced, weighted_sum
from tfr_pipeline.losses.kernels.tables import list_weights

register = tf.keras.utils.register_keras_serializable(package="tfr_pipeline")
AUTO = tf.keras.losses.Reduction.AUTO
_Reduction = tf.keras.losses.Reduction


class TwoLayouts:
    """Mixin in front of a TF-Ranking Keras loss: ragged or dense, whichever comes.

    Dense batches `[batch, list_size]` go to TF-Ranking's code. Ragged batches
    `[batch, (list)]` go to `call_packed`, which a subclass overrides with a form of
    its own; as long as it does not, they are padded to the longest list of the
    batch. The layout is read off the tensors; the constructor's `ragged` is kept
    for TF-Ranking's sake and decides nothing.

    A subclass that overrides TF-Ranking's `call` gets padded batches, whichever come.

    Attributes:
      layouts: The batch layouts that the class has code for; see `declared`.
      outputs: How many numbers a document the scorer has to give; None for any.
      tpu_ready: Whether XLA can compile the loss of dense batches of fixed shapes. A
        subclass that cannot be compiled says False.
    """

    layouts = BOTH
    tpu_ready = True
    outputs: int | None = 1
    _loss: Any = None
    _get_reduction: Any

    @tf.autograph.experimental.do_not_convert
    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        """Computes the loss.

        Args:
          y_true: Labels, dense `[batch, list_size]` or ragged `[batch, (list)]`;
            documents with a negative label are ignored.
          y_pred: Scores in the same layout, with one more axis for losses that
            need several scores a document.
          sample_weight: None, a scalar, `[batch]` or `[batch, 1]` (per list) or the
            shape of `y_true` (per document).

        Returns:
          float32 scalar, 0 for a batch without lists or valid documents; with
          reduction `NONE` what TF-Ranking returns on the batch padded to its longest
          list.

        Raises:
          ValueError: One of `y_true` and `y_pred` is ragged and the other is not.
        """
        if is_ragged(y_true) != is_ragged(y_pred):
            raise ValueError(
                f"{type(self).__name__} expects labels and scores in the same layout: "
                "both dense [batch, list_size] or both ragged [batch, (list)]. "
                f"Received labels {type(y_true).__name__}, "
                f"scores {type(y_pred).__name__}."
            )
        # TF-Ranking's implementation sees dense tensors only: we convert before it.
        for part in (self._loss, getattr(self, "_gumbel_sampler", None)):
            if part is not None:
                part._ragged = False
        if is_ragged(y_pred):
            if "packed" in layouts(self):
                return self.call_packed(y_true, y_pred, sample_weight)
            return TwoLayouts.call_packed(self, y_true, y_pred, sample_weight)
        return self._dense(to_float(y_true), to_float(y_pred), sample_weight)

    def _dense(self, y_true: Any, y_pred: Any, sample_weight: Any) -> Any:
        """Calls `call_padded` with at least one list and one document.

        Code on padded batches divides by numbers of both and takes maxima over lists; a
        list of one masked document changes nothing. With reduction `NONE` a batch
        without lists stays one, because its losses have its shape. Lists are as long as
        the longest of all replicas, since some losses are divided by that.
        """
        lists = 0 if self._get_reduction() == _Reduction.NONE else 1
        longest = longest_list()
        y_true, y_pred = (
            at_least(value, (lists, longest), fill)
            for value, fill in ((y_true, PADDING_LABEL), (y_pred, 0.0))
        )
        if is_ragged(sample_weight):
            dense = pad(sample_weight, 0.0)[:, : tf.shape(y_true)[1]]
            sample_weight = at_least(dense, tf.unstack(tf.shape(y_true)), 0.0)
        elif sample_weight is not None:
            sample_weight = to_float(sample_weight)
            if sample_weight.shape.rank == 1:
                sample_weight = sample_weight[:, tf.newaxis]
            if sample_weight.shape.rank == 2:
                # One column is a weight a list, and stays one.
                columns = 1 if sample_weight.shape[1] == 1 else longest
                if sample_weight.shape[1] is None:
                    columns = tf.where(tf.shape(sample_weight)[1] == 1, 1, longest)
                sample_weight = at_least(sample_weight, (lists, columns), 0.0)
        return self._call_padded(y_true, y_pred, sample_weight)

    def _call_padded(self, y_true: Any, y_pred: Any, sample_weight: Any) -> Any:
        """Calls `call_padded`, or Keras, which calls a `call` that overrides it."""
        for cls in type(self).__mro__:
            if "call_padded" in vars(cls):
                break
            if "call" in vars(cls):
                return self._call_theirs(y_true, y_pred, sample_weight)
        return self.call_padded(y_true, y_pred, sample_weight)

    def call_padded(self, y_true: Any, y_pred: Any, sample_weight: Any) -> Any:
        """The computation on dense tensors; by default TF-Ranking's."""
        return self._call_theirs(y_true, y_pred, sample_weight)

    def _call_theirs(self, y_true: Any, y_pred: Any, sample_weight: Any) -> Any:
        """TF-Ranking's computation, which calls `call`."""
        return super().__call__(y_true, y_pred, sample_weight)  # type: ignore[misc]

    def call_packed(self, y_true: Any, y_pred: Any, sample_weight: Any) -> Any:
        """The computation on ragged tensors; by default through padding."""
        labels = pad(y_true, PADDING_LABEL)
        weights = pad_weights(sample_weight, labels)
        return self._call_padded(labels, pad(y_pred, 0.0), weights)

    def pack(self, y_true: Any, y_pred: Any) -> Packed:
        """Packs a ragged batch, scores divided by the loss's temperature."""
        return Packed.of(y_true, self._loss.get_logits(y_pred))

    def reduce(self, losses: Any, weights: Any = 1.0) -> Any:
        """Multiplies losses with weights and reduces them as Keras does."""
        return tf.keras.__internal__.losses.compute_weighted_loss(
            losses, weights, reduction=self._get_reduction()
        )

    def reduce_documents(self, losses: Any, batch: Packed, sample_weight: Any) -> Any:
        """Weights and reduces losses `[documents]` as if padded to the longest list."""
        return self._finish(losses * batch.weights(sample_weight), batch)

    def reduce_form(
        self, form: ClosedForm, batch: Packed, sample_weight: Any, lists: bool = False
    ) -> Any:
        """Weights and reduces the losses of a closed form.

        Args:
          form: Closed form of the batch's logits.
          batch: The batch.
          sample_weight: As in `__call__`.
          lists: Whether the form's losses are `[batch]`, or `[documents]`.
        """
        if lists:
            weights = batch.list_weights(sample_weight)
            weights = None if sample_weight is None else weights[:, 0]
        else:
            weights = None if sample_weight is None else batch.weights(sample_weight)
        if self._get_reduction() == _Reduction.NONE:
            losses = unreduced(form, batch.logits)
            losses = losses if weights is None else losses * weights
            return losses[:, tf.newaxis] if lists else self._finish(losses, batch)
        total = weighted_sum(form, batch.logits, weights)
        return self._mean(total, batch.num_lists if lists else batch.cells())

    def _finish(self, losses: Any, batch: Packed) -> Any:
        """Reduces weighted losses `[documents]`."""
        if self._get_reduction() == _Reduction.NONE:
            return pad(batch.ragged(losses), 0.0)
        return self._mean(tf.reduce_sum(losses), batch.cells())

    def _mean(self, total: Any, count: Any) -> Any:
        """Divides a sum by a count, unless the reduction is SUM."""
        if self._get_reduction() == _Reduction.SUM:
            return total
        return tf.math.divide_no_nan(total, tf.cast(count, tf.float32))


class OnTables(TwoLayouts):
    """`TwoLayouts` for losses of lists that work on tables in both layouts.

    Packed batches are padded to their longest list. A list weighs what `list_weights`
    says; the number of lists divides the sum under AUTO.
    """

    layouts = BOTH
    tpu_ready = True
    _temperature: float

    def list_losses(self, labels: Any, logits: Any, mask: Any) -> Any:
        """Returns the loss of each list, float32 `[batch]`.

        Args:
          labels: float32 `[batch, list_size]`, 0 for masked documents.
          logits: float32 `[batch, list_size]`, over the temperature; 0 for masked
            documents.
          mask: bool `[batch, list_size]`.
        """
        raise NotImplementedError

    def call_padded(self, y_true: Any, y_pred: Any, sample_weight: Any) -> Any:
        """See base class."""
        mask = y_true >= 0.0
        labels = tf.where(mask, y_true, 0.0)
        logits = tf.where(mask, y_pred / self._temperature, 0.0)
        losses = self.list_losses(labels, logits, mask)
        return self.reduce(losses[:, tf.newaxis], list_weights(labels, sample_weight))


class ListLoss(OnTables, tf.keras.losses.Loss):
    """A loss of lists that TF-Ranking's Keras side lacks."""

    def __init__(
        self,
        reduction: str = AUTO,
        name: str | None = None,
        temperature: float = 1.0,
        ragged: bool = False,
    ):
        """Initializer.

        Args:
          reduction: Keras reduction.
          name: Name of the loss.
          temperature: Divides the scores.
          ragged: Kept for TF-Ranking's sake; the layout is read off the tensors.

        Raises:
          ConfigError: The temperature is not positive.
        """
        if temperature <= 0.0:
            raise ConfigError(
                "`temperature` should be positive. "
                f"Received: temperature = {temperature}."
            )
        super().__init__(reduction, name)
        self._temperature = temperature
        self._ragged = ragged

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            "temperature": self._temperature,
            "ragged": self._ragged,
        }
