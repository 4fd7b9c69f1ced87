"""Softmax cross-entropy losses over the documents of a list."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tfr_pipeline.compat import tf, tfr
from tfr_pipeline.declared import BOTH
from tfr_pipeline.errors import ConfigError
from tfr_pipeline.losses.base import AUTO, OnTables, TwoLayouts, register
from tfr_pipeline.losses.kernels.batch import Packed, is_ragged, take_cells, to_float
from tfr_pipeline.losses.kernels.closed_form import ClosedForm, unreduced, weighted_sum
from tfr_pipeline.losses.kernels.pair_blocks import Ordered
from tfr_pipeline.losses.kernels.tables import log_sum_exp_below
from tfr_pipeline.serialization import functions_of_names, names_of_functions

_theirs: Any = tfr.keras.losses
_POW_MINUS_1: Any = tfr.keras.utils.pow_minus_1
# TF-Ranking 0.5.3 has no such class.
_TheirCalibrated: Any = getattr(_theirs, "CalibratedSoftmaxLoss", _theirs.SoftmaxLoss)


# Tables of at most this many cells a document are padded: dense operations are so much
# faster than segment operations that they win in spite of the padding.
DENSE_CELLS = 16


def softmax_cross_entropy(
    batch: Packed, labels: Any, epsilon: float = 0.0
) -> ClosedForm:
    """Returns `sum_i y_i (epsilon (1 - softmax(s)_i) - log softmax(s)_i)` of each list.

    The gradient is `p_i sum_j y_j - y_i + epsilon p_i (sum_j y_j p_j - y_i)`, with `p`
    the softmax. The largest logit of a list is taken out first: nothing overflows, and
    logits far from 0 lose no digits. Masked documents are left out.

    Args:
      batch: The batch; the logits are the closed form's argument.
      labels: float32 `[documents]`, not negative, 0 for masked documents; need not
        sum to one.
      epsilon: Weight of the first polynomial term.

    Returns:
      Closed form with losses and weights `[batch]`.
    """

    def compute(logits: Any, weights: Any) -> tuple[Any, Any]:
        logits = tf.where(batch.mask, logits, logits.dtype.min)
        documents = tf.size(labels, tf.int64)
        return tf.cond(
            batch.cells() <= DENSE_CELLS * documents,
            lambda: _packed_table(batch, labels, logits, weights, epsilon),
            lambda: _in_segments(batch, labels, logits, weights, epsilon),
        )

    return compute


def _packed_table(
    batch: Packed, labels: Any, logits: Any, weights: Any, epsilon: float
) -> tuple[Any, Any]:
    """Losses and gradient of a packed batch through `[batch, longest]`."""
    targets = batch.ragged(labels).to_tensor(0.0)
    table = batch.ragged(logits).to_tensor(logits.dtype.min)
    losses, gradient = _in_table(targets, table, weights, epsilon)
    return losses, take_cells(gradient, tf.cast(batch.lists.row_lengths(), tf.int32))


def _in_table(
    targets: Any, logits: Any, weights: Any, epsilon: float
) -> tuple[Any, Any]:
    """Losses `[batch]` and gradient of logits `[batch, width]`, lowest where masked."""
    # Masked logits stay finite, so that their label 0 takes them out of the sum below.
    logits -= tf.reduce_max(logits, axis=1, keepdims=True)
    logits = tf.maximum(logits, logits.dtype.min)
    exponentials = tf.exp(logits)
    # At least 1 where there is a document, and 0 if the longest list has none.
    total = tf.maximum(tf.reduce_sum(exponentials, axis=1), 1.0)
    mass = tf.reduce_sum(targets, axis=1)
    linear = tf.reduce_sum(logits * targets, axis=1)
    losses = mass * tf.math.log(total) - linear
    gradient = exponentials * (mass / total)[:, tf.newaxis] - targets
    if epsilon:
        chances = exponentials / total[:, tf.newaxis]
        hit = tf.reduce_sum(targets * chances, axis=1)
        losses += epsilon * (mass - hit)
        gradient += epsilon * chances * (hit[:, tf.newaxis] - targets)
    if weights is not None:
        gradient *= weights[:, tf.newaxis]
    return losses, gradient


def _in_segments(
    batch: Packed, labels: Any, logits: Any, weights: Any, epsilon: float
) -> tuple[Any, Any]:
    """Losses and gradient in O(documents), whatever the longest list."""
    largest = tf.math.unsorted_segment_max(logits, batch.row_ids, batch.num_lists)
    logits = tf.maximum(logits - batch.to_documents(largest), logits.dtype.min)
    exponentials = tf.exp(logits)
    total, mass = batch.sum(exponentials), batch.sum(labels)
    # At least 1 where there is a document, and 0 where there is none.
    total = tf.maximum(total, 1.0)
    losses = mass * tf.math.log(total) - batch.sum(logits * labels)
    gradient = exponentials * batch.to_documents(mass / total) - labels
    if epsilon:
        chances = exponentials / batch.to_documents(total)
        hit = batch.sum(labels * chances)
        losses += epsilon * (mass - hit)
        gradient += epsilon * chances * (batch.to_documents(hit) - labels)
    if weights is not None:
        gradient *= batch.to_documents(weights)
    return losses, gradient


@register
class SoftmaxLoss(TwoLayouts, _theirs.SoftmaxLoss):
    r"""Softmax cross-entropy `-sum_i y_i log(exp(s_i) / sum_j exp(s_j))`.

    ListNet's loss with labels in place of target probabilities (Cao et al.,
    "Learning to Rank: From Pairwise Approach to Listwise Approach", ICML 2007).
    A list without relevant documents contributes 0. Packed batches cost
    O(documents).

    Example:
      >>> round(float(SoftmaxLoss()([[1.0, 0.0]], [[0.6, 0.8]])), 4)
      0.7981
      >>> loss = SoftmaxLoss(gain_fn="pow_minus_1")  # (2^2 - 1) times that
      >>> round(float(loss([[2.0, 0.0]], [[0.6, 0.8]])), 4)
      2.3944
    """

    layouts = BOTH
    tpu_ready = True
    _epsilon = 0.0
    _gain_fn: Callable[[Any], Any] | None = None

    def __init__(
        self,
        reduction: str = AUTO,
        name: str | None = None,
        lambda_weight: Any = None,
        temperature: float = 1.0,
        ragged: bool = False,
        *,
        gain_fn: Callable[[Any], Any] | str | None = None,
    ):
        """Initializer.

        Args:
          reduction: Keras reduction.
          name: Name of the loss.
          lambda_weight: A `DCGLambdaWeight`, or None.
          temperature: Divides the scores.
          ragged: Kept for serialisation; the layout is read off the tensors.
          gain_fn: What takes the place of a label `y_i`: `pow_minus_1` for the gain of
            NDCG, `2^y_i - 1`, or a registered function of labels, or its name. None
            stands for the label itself, as in TF-Ranking.

        Raises:
          ConfigError: There is no function of that name, or a lambda weight has gains
            already.
        """
        super().__init__(reduction, name, lambda_weight, temperature, ragged)
        if gain_fn is not None and lambda_weight is not None:
            raise ConfigError(
                "softmax_loss: expected `gain_fn` or `lambda_weight`, which has gains "
                "of its own; found both."
            )
        if gain_fn == _POW_MINUS_1.__name__:
            gain_fn = _POW_MINUS_1
        found = functions_of_names({"gain_fn": gain_fn}, ["gain_fn"])["gain_fn"]
        if found is not None and not callable(found):
            raise ConfigError(
                f"gain_fn: expected 'pow_minus_1' or a function, found {gain_fn!r}."
            )
        self._gain_fn = found

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        config = super().get_config()
        if self._gain_fn is not None:
            config["gain_fn"] = self._gain_fn
        return names_of_functions(config, ["gain_fn"])

    def call_padded(self, y_true: Any, y_pred: Any, sample_weight: Any) -> Any:
        """See base class."""
        mask = y_true >= 0.0
        logits = y_pred / self._temperature
        labels = self._padded_labels(tf.where(mask, y_true, 0.0), logits, mask)
        if sample_weight is not None:
            labels = tf.where(mask, labels * sample_weight, 0.0)
        labels = tf.stop_gradient(labels)

        def form(logits: Any, weights: Any) -> tuple[Any, Any]:
            logits = tf.where(mask, logits, logits.dtype.min)
            return _in_table(labels, logits, weights, self._epsilon)

        if self._get_reduction() == tf.keras.losses.Reduction.NONE:
            return unreduced(form, logits)
        return self._mean(weighted_sum(form, logits, None), tf.shape(labels)[0])

    def _call_theirs(self, y_true: Any, y_pred: Any, sample_weight: Any) -> Any:
        # TF-Ranking's class, unlike its others, has no use for `call`.
        weights = self._loss.normalize_weights(y_true, sample_weight)
        return tf.keras.losses.Loss.__call__(self, y_true, y_pred, weights)

    def call_packed(self, y_true: Any, y_pred: Any, sample_weight: Any) -> Any:
        """See base class."""
        batch = self.pack(y_true, y_pred)
        labels = tf.stop_gradient(self._lambda_labels(batch))
        if sample_weight is not None:
            labels *= batch.weights(sample_weight)
        form = softmax_cross_entropy(batch, labels, self._epsilon)
        losses = self.reduce_form(form, batch, None, lists=True)
        return losses if losses.shape.rank == 0 else losses[:, 0]

    def _gains(self, labels: Any, mask: Any) -> Any:
        """Gains of labels, 0 where masked."""
        if self._gain_fn is None:
            return labels
        return tf.where(mask, self._gain_fn(labels), 0.0)

    def _padded_labels(self, labels: Any, logits: Any, mask: Any) -> Any:
        """As `_lambda_labels`, of labels, logits and mask `[batch, list_size]`."""
        weight = self._lambda_weight
        if not isinstance(weight, tfr.losses_impl.DCGLambdaWeight):
            return self._gains(labels, mask)
        order = tf.argsort(
            tf.where(mask, logits, logits.dtype.min),
            direction="DESCENDING",
            stable=True,
        )
        ranks = tf.argsort(order) + 1
        return tf.where(mask, weight.individual_weights(labels, ranks), 0.0)

    def _lambda_labels(self, batch: Packed) -> Any:
        """Labels `[documents]`, replaced by gains over discounts if asked for."""
        weight = self._lambda_weight
        if not isinstance(weight, tfr.losses_impl.DCGLambdaWeight):
            return self._gains(batch.labels, batch.mask)
        ordered = Ordered.of(batch).by_score(tf.stop_gradient(batch.logits))
        partition = ordered.partition
        # Documents stand in the order of their scores, so a position is a rank.
        labels = partition.table(ordered.take(batch.labels), 0.0)
        ranks = tf.range(1, tf.shape(labels)[1] + 1)[tf.newaxis, :]
        ranks = tf.broadcast_to(ranks, tf.shape(labels))
        gains = partition.flat(weight.individual_weights(labels, ranks))
        return ordered.put(gains)


@register
class CalibratedSoftmaxLoss(SoftmaxLoss, _TheirCalibrated):
    """Softmax cross-entropy with a virtual document of score 0 in each list.

    It anchors the scores to the scale of the labels (Yan et al., "Scale Calibration
    of Deep Ranking Models", KDD 2022, equation 8).

    Example:
      >>> loss = CalibratedSoftmaxLoss(virtual_label=0.1)
      >>> round(float(loss([[1.0, 0.0]], [[0.6, 0.8]])), 4)
      1.1808
    """

    layouts = BOTH
    tpu_ready = True

    def __init__(
        self,
        reduction: str = AUTO,
        name: str | None = None,
        lambda_weight: Any = None,
        temperature: float = 1.0,
        virtual_label: float = 0.0,
        *,
        ragged: bool = False,
    ):
        """Initializer.

        Args:
          reduction: Keras reduction.
          name: Name of the loss.
          lambda_weight: A `DCGLambdaWeight`, or None.
          temperature: Divides the scores.
          virtual_label: Label of the virtual document, not negative.
          ragged: Kept for serialisation; the layout is read off the tensors.

        Raises:
          ConfigError: `virtual_label` is negative.
        """
        if virtual_label < 0:
            raise ConfigError(
                "`virtual_label` should not be negative. "
                f"Received: virtual_label = {virtual_label}."
            )
        SoftmaxLoss.__init__(self, reduction, name, lambda_weight, temperature, ragged)
        self._virtual_label = virtual_label

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {**super().get_config(), "virtual_label": self._virtual_label}

    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        """See base class; per-document weights give the virtual document weight 1."""
        y_true, y_pred = to_float(y_true), to_float(y_pred)
        lists = y_true.nrows() if is_ragged(y_true) else tf.shape(y_true)[0]
        column = tf.ones(tf.stack([tf.cast(lists, tf.int32), 1]))

        def append(values: Any, fill: float) -> Any:
            return tf.concat([values, fill * column], axis=1)

        if sample_weight is not None:
            sample_weight = to_float(sample_weight)
            if sample_weight.shape.rank == 2 and sample_weight.shape[1] != 1:
                if is_ragged(y_true) and not is_ragged(sample_weight):
                    lengths = y_true.row_lengths()
                    sample_weight = tf.RaggedTensor.from_tensor(sample_weight, lengths)
                sample_weight = append(sample_weight, 1.0)
        return super().__call__(
            append(y_true, self._virtual_label), append(y_pred, 0.0), sample_weight
        )


@register
class PolyOneSoftmaxLoss(SoftmaxLoss):
    """Softmax cross-entropy plus `epsilon` times the share of softmax that misses.

    `sum_i y_i (epsilon (1 - p_i) - log p_i)` with `p` the softmax of the scores (Leng
    et al., "PolyLoss: A Polynomial Expansion Perspective of Classification Loss
    Functions", ICLR 2022). TF-Ranking has it for Estimators only.

    Example:
      >>> loss = PolyOneSoftmaxLoss(epsilon=1.0)
      >>> round(float(loss([[1.0, 0.0]], [[0.6, 0.8]])), 4)
      1.348
    """

    def __init__(
        self,
        reduction: str = AUTO,
        name: str | None = None,
        lambda_weight: Any = None,
        epsilon: float = 1.0,
        temperature: float = 1.0,
        ragged: bool = False,
    ):
        """Initializer.

        Args:
          reduction: Keras reduction.
          name: Name of the loss.
          lambda_weight: A `DCGLambdaWeight`, or None.
          epsilon: Weight of the polynomial term.
          temperature: Divides the scores.
          ragged: Kept for serialisation; the layout is read off the tensors.
        """
        super().__init__(reduction, name, lambda_weight, temperature, ragged)
        self._epsilon = epsilon

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {**super().get_config(), "epsilon": self._epsilon}


@register
class UniqueSoftmaxLoss(OnTables, _theirs.UniqueSoftmaxLoss):
    """Softmax loss of each document against those with a lower label only.

    `sum_i (2^y_i - 1) log(1 + sum_{y_j < y_i} exp(s_j - s_i))` (Zhu and Klabjan,
    "Listwise Learning to Rank by Exploring Unique Ratings", WSDM 2020). One sort a
    list, no pairs.

    Example:
      >>> round(float(UniqueSoftmaxLoss()([[1.0, 0.0]], [[0.6, 0.8]])), 4)
      0.7981
    """

    def list_losses(self, labels: Any, logits: Any, mask: Any) -> Any:
        """See base class."""
        losses = tf.math.softplus(log_sum_exp_below(labels, logits, mask) - logits)
        return tf.reduce_sum((tf.pow(2.0, labels) - 1.0) * losses, axis=1)
