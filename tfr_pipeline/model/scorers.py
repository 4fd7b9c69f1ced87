"""Scorers: from features to one score a document."""

from __future__ import annotations

import abc
import inspect
from collections.abc import Mapping
from typing import Any, TypeGuard

import tensorflow as tf

from tfr_pipeline.compat import tfr
from tfr_pipeline.declared import BOTH
from tfr_pipeline.errors import ConfigError, unknown_name
from tfr_pipeline.model.feature_block import FeatureBlock
from tfr_pipeline.model.layers.lists import FlattenList, RestoreList, check_number
from tfr_pipeline.model.layers.packing import Repack
from tfr_pipeline.model.layers.seeded import GaussianNoise
from tfr_pipeline.model.layers.towers import StackedTowers, create_tower

_TOWER_KEYS = (
    *("activation", "use_batch_norm", "batch_norm_moment", "dropout"),
    *("kernel_initializer", "kernel_regularizer", "kernel_constraint"),
)
_GAM_KEYS = (
    "example_hidden_layer_dims",
    "context_hidden_layer_dims",
    "example_feature_num",
    "context_feature_num",
    "name",
    "input_noise_stddev",
    *_TOWER_KEYS,
)


class Scorer(tfr.keras.model.Scorer):
    """Interface: scores the documents of padded lists.

    Attributes:
      layouts: The batch layouts that it can score; with `packed` it has the method
        `_score_flattened` of a `UnivariateScorer`. See `declared`.
      tpu_ready: Whether XLA can compile it for batches of fixed shapes, on `float32`
        and `int32` only.
      any_list_size: Whether its scores are the same however far lists are padded.
        Padded training batches are then as long as their longest list, whatever
        `list_size` is.
    """

    layouts: tuple[str, ...] = ("padded",)
    tpu_ready = False
    any_list_size = False

    @abc.abstractmethod
    def __call__(
        self,
        context_features: dict[str, Any],
        example_features: dict[str, Any],
        mask: Any,
    ) -> Any:
        """Returns scores `[batch, list_size]`, or a dict of them by task.

        Args:
          context_features: Maps query features to `[batch, ...]`.
          example_features: Maps document features to `[batch, list_size, ...]`.
          mask: bool `[batch, list_size]`, True for real documents.
        """


class UnivariateScorer(Scorer, tfr.keras.model.UnivariateScorer):
    """Interface: scores each document by itself.

    Since a document's score depends on nothing else, a univariate scorer works on
    packed batches. It never sees padding, not even in padded ones: statistics of batch
    normalisation are those of real documents.
    """

    layouts = BOTH

    @abc.abstractmethod
    def _score_flattened(
        self,
        context_features: Mapping[str, Any],
        example_features: Mapping[str, Any],
    ) -> Any:
        """Returns scores `[documents, 1]`, or a dict of them by task.

        Losses such as `ClickEMLoss` take several numbers a document.

        Args:
          context_features: Maps query features to `[documents, ...]`.
          example_features: Maps document features to `[documents, ...]`.
        """

    def __call__(
        self,
        context_features: dict[str, Any],
        example_features: dict[str, Any],
        mask: Any,
    ) -> Any:
        """See `Scorer`."""
        features = (context_features, example_features, mask)
        return restore(
            self._score_flattened(*FlattenList(real_only=True)(features)), mask
        )


def restore(scores: Any, mask: Any) -> Any:
    """Returns padded lists of the scores of real documents, or a dict of them by task.

    Args:
      scores: `[documents, 1]`; `[documents, k]` for lists `[batch, list_size, k]`; or a
        dict of it. A layer of several members may return `[members, documents, ...]`
        in training, for as many times the lists.
      mask: bool `[batch, list_size]`.
    """
    if isinstance(scores, dict):
        return {task: _restore(value, mask, task) for task, value in scores.items()}
    return _restore(scores, mask)


def _restore(scores: Any, mask: Any, task: str | None = None) -> Any:
    if scores.shape.rank != 2 or scores.shape[1] in (1, None):
        return RestoreList(name=task, real_only=True)((scores, mask))
    columns = [scores[..., i : i + 1] for i in range(scores.shape[1])]
    return tf.stack([RestoreList(real_only=True)((x, mask)) for x in columns], axis=2)


def score_packed(
    scorer: tfr.keras.model.UnivariateScorer,
    context_features: dict[str, Any],
    block: FeatureBlock,
    row_ids: Any,
    row_splits: Any,
) -> Any:
    """Applies a univariate scorer, ours or TF-Ranking's, to packed features.

    Args:
      scorer: The scorer.
      context_features: Maps query features to `[batch, ...]`.
      block: Document features.
      row_ids: int64 `[documents]`, the list of each document.
      row_splits: int64 `[batch + 1]`.

    Returns:
      Ragged scores `[batch, (list)]`, or a dict of them by task.
    """
    context = {
        name: tf.gather(value, row_ids) for name, value in context_features.items()
    }
    scores = scorer._score_flattened(context, block)
    if isinstance(scores, dict):
        return {
            task: Repack(name=task)([value, row_splits])
            for task, value in scores.items()
        }
    return Repack()([scores, row_splits])


def _flat(tensor: Any) -> Any:
    """Returns `[documents, columns]`."""
    return tf.keras.layers.Flatten()(tensor)


def _in_matrices(features: Mapping[str, Any]) -> TypeGuard[FeatureBlock]:
    return isinstance(features, FeatureBlock) and features.in_matrices


def concat(
    context_features: Mapping[str, Any], example_features: Mapping[str, Any]
) -> Any:
    """Returns all features side by side: context, then document, each by name.

    Args:
      context_features: Maps query features to `[documents, ...]`.
      example_features: Maps document features to `[documents, ...]`.

    Raises:
      ConfigError: A feature is text.
    """
    groups, block = [context_features, example_features], None
    if _in_matrices(example_features) and all(
        dtype.is_floating for dtype in example_features.dtypes
    ):
        groups, block = [context_features], example_features
    parts = []
    for features in groups:
        for name in sorted(features):
            check_number(name, features[name])
            part = _flat(features[name])
            parts.append(part if part.dtype.is_floating else tf.cast(part, tf.float32))
    if block is not None:
        parts.append(block.concat())
    return parts[0] if len(parts) == 1 else tf.concat(parts, axis=1)


class DNNScorer(UnivariateScorer, tfr.keras.model.DNNScorer):
    """Feed-forward network over all features of a document and its query.

    Args:
      **dnn_kwargs: Arguments of `create_tower`. `hidden_layer_dims` is required;
        `output_units` is 1 by default.

    Example:
      >>> scorer = DNNScorer(hidden_layer_dims=[16])
      >>> mask = tf.constant([[True, False]])
      >>> scorer({}, {"bm25": tf.ones([1, 2, 1])}, mask).shape
      TensorShape([1, 2])
    """

    tpu_ready = True

    def __init__(self, **dnn_kwargs: Any):
        if "hidden_layer_dims" not in dnn_kwargs:
            raise ConfigError(
                "DNNScorer: expected hidden_layer_dims, such as [64, 32], found "
                f"{sorted(dnn_kwargs)}."
            )
        known = {
            name
            for function in (create_tower, tf.keras.layers.Dense.__init__)
            for name in inspect.signature(function).parameters
        } - {"self", "units", "kwargs"} | {"dtype", "trainable"}
        for key in dnn_kwargs:
            if key not in known:
                raise ConfigError(unknown_name("argument", key, known, "DNNScorer"))
        self._dnn_kwargs = {"output_units": 1, **dnn_kwargs}

    def _score_flattened(
        self,
        context_features: Mapping[str, Any],
        example_features: Mapping[str, Any],
    ) -> Any:
        """See `UnivariateScorer`."""
        return create_tower(**self._dnn_kwargs)(
            concat(context_features, example_features)
        )

    def hidden(self, columns: Any) -> Any:
        """Returns what the network makes of documents before its last layer.

        Pretraining learns of that; see `tfr_pipeline.model.pretraining`.

        Args:
          columns: `[documents, columns]`, what `concat` returns.

        Returns:
          `[documents, units]` of the last hidden layer.

        Raises:
          ConfigError: There is no hidden layer.
        """
        tower = create_tower(**self._dnn_kwargs)
        tower.pop()
        if not list(self._dnn_kwargs["hidden_layer_dims"]):
            raise ConfigError(
                "pretrain: expected a network with hidden layers, which are what is "
                "learnt; found hidden_layer_dims=()."
            )
        return tower(columns)


class GAMScorer(UnivariateScorer, tfr.keras.model.GAMScorer):
    """Generalised additive model: the sum of one small network a feature.

    With query features, the sum is weighted: each query feature has a network that
    gives a softmax over the document features (Zhuang et al., "Interpretable Ranking
    with Generalized Additive Models", WSDM 2021). All networks of one input width are
    computed in one batched matrix product.

    Args:
      example_hidden_layer_dims: Hidden units of the network of a document feature.
      context_hidden_layer_dims: The same for query features; required if there are
        any.
      activation: Activation after each hidden layer; None for none. See `create_tower`.
      use_batch_norm: Normalises before each activation.
      batch_norm_moment: Momentum of the moving statistics.
      dropout: Rate of dropout after each hidden layer.
      input_noise_stddev: Standard deviation of noise on the features in training.
      kernel_initializer: See `create_tower`; `kernel_regularizer` and
        `kernel_constraint` likewise.
      per_column: Gives each column of a vector feature a network of its own, instead
        of one network to the whole vector as TF-Ranking does.

    `name`, `example_feature_num` and `context_feature_num` of TF-Ranking's layer are
    accepted; the numbers are taken from the features.

    Example:
      >>> scorer = GAMScorer(example_hidden_layer_dims=[4])
      >>> mask = tf.constant([[True, False]])
      >>> scorer({}, {"bm25": tf.ones([1, 2, 1])}, mask).shape
      TensorShape([1, 2])
    """

    tpu_ready = True

    def __init__(self, *, per_column: bool = False, **gam_kwargs: Any):
        for key in gam_kwargs:
            if key not in _GAM_KEYS:
                known = [*_GAM_KEYS, "per_column"]
                raise ConfigError(unknown_name("argument", key, known, "GAMScorer"))
        if not gam_kwargs.get("example_hidden_layer_dims"):
            raise ConfigError(
                "GAMScorer: expected example_hidden_layer_dims, such as [16, 8], found "
                f"{sorted(gam_kwargs)}."
            )
        self._gam_kwargs = gam_kwargs
        self._per_column = per_column
        self._noise = gam_kwargs.get("input_noise_stddev")
        self._tower_kwargs = {
            key: gam_kwargs[key] for key in _TOWER_KEYS if key in gam_kwargs
        }

    def _score_flattened(
        self,
        context_features: Mapping[str, Any],
        example_features: Mapping[str, Any],
    ) -> Any:
        """See `UnivariateScorer`."""
        subscores = self._subscores(example_features)
        if not context_features:
            return tf.reduce_sum(subscores, axis=1, keepdims=True)
        dims = self._gam_kwargs.get("context_hidden_layer_dims")
        if not dims:
            raise ConfigError(
                "GAMScorer: context_hidden_layer_dims is required, because there are "
                f"query features ({', '.join(sorted(context_features))})."
            )
        weights = [
            tf.nn.softmax(
                create_tower(
                    dims,
                    subscores.shape[1],
                    input_noise_stddev=self._noise,
                    **self._tower_kwargs,
                )(_flat(context_features[name]))
            )
            for name in sorted(context_features)
        ]
        return tf.reduce_sum(subscores * tf.add_n(weights), axis=1, keepdims=True)

    def _subscores(self, example_features: Mapping[str, Any]) -> Any:
        """Returns `[documents, networks]`, features grouped by width."""
        if _in_matrices(example_features) and tf.string not in example_features.dtypes:
            widths = [slot.width for slot in example_features.slots()]
        else:
            for name, value in example_features.items():
                check_number(name, value)
            example_features = {
                name: _flat(example_features[name]) for name in sorted(example_features)
            }
            widths = [int(value.shape[-1]) for value in example_features.values()]
        if self._per_column:
            widths = [1] * sum(widths)
        if len(set(widths)) == 1:
            matrix = concat({}, example_features)
            groups = [tf.reshape(matrix, [-1, len(widths), widths[0]])]
        else:
            by_width: dict[int, list[Any]] = {}
            for width, name in zip(widths, sorted(example_features), strict=True):
                by_width.setdefault(width, []).append(_flat(example_features[name]))
            groups = [tf.stack(parts, axis=1) for parts in by_width.values()]
        if self._noise:
            groups = [GaussianNoise(self._noise)(group) for group in groups]
        dims = self._gam_kwargs["example_hidden_layer_dims"]
        scores = [StackedTowers(dims, **self._tower_kwargs)(g) for g in groups]
        return scores[0] if len(scores) == 1 else tf.concat(scores, axis=1)
