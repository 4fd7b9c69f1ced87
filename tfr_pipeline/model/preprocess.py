"""Preprocessing of features by name, on padded and on packed batches."""

from __future__ import annotations

import abc
import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import tensorflow as tf

from tfr_pipeline.compat import tfr
from tfr_pipeline.errors import ConfigError, unknown_name
from tfr_pipeline.model.feature_block import FeatureBlock
from tfr_pipeline.model.layers import distinct
from tfr_pipeline.model.layers.packing import AsOneList, OfOneList
from tfr_pipeline.model.layers.ragged import Densify, is_dense, is_sparse
from tfr_pipeline.model.steps.base import Step
from tfr_pipeline.model.steps.chain import Bound, Chain, Learnt, is_new_layer


class Preprocessor(tfr.keras.model.Preprocessor):
    """Interface: turns inputs into features."""

    @abc.abstractmethod
    def __call__(
        self, context_inputs: dict[str, Any], example_inputs: dict[str, Any], mask: Any
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Returns `(context_features, example_features)`.

        Args:
          context_inputs: Maps query features to `[batch, ...]`.
          example_inputs: Maps document features to `[batch, list_size, ...]`.
          mask: bool `[batch, list_size]`, True for real documents.
        """


class PreprocessorWithSpec(Preprocessor, tfr.keras.model.PreprocessorWithSpec):
    """Applies steps to each feature that is named.

    What is ragged or sparse after that becomes dense. Functions of texts that say that
    they can do with them get each distinct text of the batch once; see
    `tfr_pipeline.model.layers.distinct`.

    Args:
      preprocess_spec: Maps a feature to a function of its tensor,
        `[batch, list_size, ...]` for document features; to a Keras layer; to a `Step`;
        or to a list of them. Features with equal lists are preprocessed together, if
        all steps are by column.
      default_value_spec: Maps a ragged or sparse feature to the value of its padding,
        0 or "" by default.

    Attributes:
      learnt: What the steps have learnt, see `steps.fitting.fit`; a pipeline sets it.

    Example:
      >>> preprocessor = PreprocessorWithSpec({"bm25": tf.math.log1p})
      >>> _, features = preprocessor({}, {"bm25": tf.zeros([1, 2, 1])}, tf.ones([1, 2]))
      >>> features["bm25"].shape
      TensorShape([1, 2, 1])
    """

    def __init__(
        self,
        preprocess_spec: dict[str, Any] | None = None,
        default_value_spec: dict[str, float] | None = None,
    ):
        self._preprocess_spec = {
            name: _as_steps(steps) for name, steps in (preprocess_spec or {}).items()
        }
        self._default_value_spec = default_value_spec or {}
        self.learnt: Learnt = {}

    @property
    def chains(self) -> dict[str, Chain]:
        """The steps of each feature that has more than a function, by name."""
        spec = self._preprocess_spec
        return {name: x for name, x in spec.items() if isinstance(x, Chain)}

    def functions(self) -> dict[str, Any]:
        """Returns what is done to each feature in one model, with layers of its own.

        Override it to make other ones for each model that is built.
        """
        shared: dict[str, Any] = {}
        bound = {
            chain: Bound(chain, self.learnt, shared)
            for chain in dict.fromkeys(self.chains.values())
        }
        return {
            name: bound[steps].of(name) if isinstance(steps, Chain) else steps
            for name, steps in self._preprocess_spec.items()
        }

    def __call__(
        self, context_inputs: dict[str, Any], example_inputs: dict[str, Any], mask: Any
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """See `Preprocessor`."""
        functions, defaults = self.functions(), self._default_value_spec
        return (
            _preprocessed(functions, defaults, context_inputs),
            _preprocessed(functions, defaults, example_inputs, mask),
        )


def _as_steps(steps: Any) -> Any:
    several = isinstance(steps, list | tuple)
    if several or isinstance(steps, Step) or is_new_layer(steps):
        return Chain(steps if several else [steps])
    return steps


def apply_bound(
    functions: Mapping[str, Any], inputs: Mapping[str, Any], lists: tuple[Any, ...] = ()
) -> dict[str, Any]:
    """Applies steps to the features that have some, columns with equal ones together.

    Args:
      functions: Maps features to `Bound`s and other functions, which do not count.
      inputs: Maps features to `[batch, ...]`, or `[batch, list_size, ...]` with lists.
      lists: See `Bound`.

    Returns:
      The features that have steps.
    """
    leading = 1 + bool(lists)
    result: dict[str, Any] = {}
    groups: dict[Any, list[str]] = {}
    for name, value in inputs.items():
        bound = functions.get(name)
        if isinstance(bound, Bound):
            together = bound.by_column and is_dense(value)
            key = (bound, value.dtype) if together else (bound, name)
            groups.setdefault(key, []).append(name)
    for (bound, _), names in groups.items():
        if not bound.by_column or not is_dense(inputs[names[0]]):
            result[names[0]] = bound(names, inputs[names[0]], lists)
            continue
        flat = [_with_columns(inputs[name], leading) for name in names]
        widths = [int(part.shape[-1]) for part in flat]
        matrix = flat[0] if len(flat) == 1 else tf.concat(flat, axis=-1)
        matrix = bound(names, matrix, lists)
        times = int(matrix.shape[-1]) // sum(widths)
        parts = tf.split(matrix, [width * times for width in widths], axis=-1)
        result.update(zip(names, parts, strict=True))
    return result


def _with_columns(value: Any, leading: int) -> Any:
    """Returns a dense feature with one dimension behind the leading ones."""
    inner = value.shape[leading:]
    if len(inner) == 1:
        return value
    shape = tf.concat([tf.shape(value)[:leading], [math.prod(inner)]], 0)
    return tf.reshape(value, shape)


def _preprocessed(
    functions: Mapping[str, Callable[[Any], Any]],
    defaults: Mapping[str, Any],
    inputs: dict[str, Any],
    *mask: Any,
) -> dict[str, Any]:
    """Returns features made dense, of lists as long as the mask where there is one."""
    result = {}
    done = apply_bound(functions, inputs, mask)
    for name, value in inputs.items():
        if name in done:
            value = done[name]
        elif name in functions:
            value = _applied(functions[name], value)
        if not is_dense(value):
            densify = Densify(defaults.get(name, 0.0))
            value = densify((value, *mask) if mask else value)
        result[name] = value
    return result


def _applied(function: Callable[[Any], Any], value: Any) -> Any:
    """Applies a function to a feature, in part to its distinct texts only."""
    if value.dtype != tf.string or is_sparse(value):
        return function(value)
    first, rest = distinct.split(function, distinct.is_one_text(value))
    if first is not None:
        value = distinct.once_each(first, value)
    return value if rest is None else rest(value)


def preprocess_packed(
    functions: Mapping[str, Callable[[Any], Any]],
    defaults: Mapping[str, Any],
    context_inputs: dict[str, Any],
    block: FeatureBlock,
    beside: Mapping[str, BesideMatrices],
    lists: tuple[Any, Any],
) -> tuple[dict[str, Any], FeatureBlock]:
    """Does what a `PreprocessorWithSpec` does, to packed document features.

    Args:
      functions: Maps features to functions.
      defaults: Maps features to the values of their padding.
      context_inputs: Maps query features to `[batch, ...]`.
      block: Document features in matrices.
      beside: The other document features.
      lists: int64 `row_ids` `[documents]` and `row_splits` `[batch + 1]`.

    Raises:
      ConfigError: A function is given for a feature that there is not.
    """
    names = [*block, *beside, *context_inputs]
    for name in functions:
        if name not in names:
            raise ConfigError(unknown_name("feature", name, names, "preprocess_spec"))
    context = _preprocessed(functions, defaults, context_inputs)
    documents = {}
    for name, feature in beside.items():
        function = functions.get(name)
        if isinstance(function, Bound):
            function = functools.partial(function, [name], lists=lists)
        documents[name] = feature.preprocessed(function, defaults.get(name, 0.0))
    return context, block.map(functions, lists).joined(documents)


@dataclasses.dataclass(frozen=True)
class BesideMatrices:
    """A document feature of a packed batch that stands in no matrix.

    Attributes:
      name: Its name.
      spec: Its `tf.io` spec.
      values: `[documents, values]`, or ragged `[documents, (values)]`; of texts their
        numbers.
      texts: The distinct texts, string `[distinct]`; None for numbers.
    """

    name: str
    spec: Any
    values: Any
    texts: Any = None

    def preprocessed(self, function: Callable[[Any], Any] | None, default: Any) -> Any:
        """Returns dense `[documents, ...]`.

        Args:
          function: A function of `[batch, list_size, ...]`, or None.
          default: What stands where a document has fewer values than another.
        """
        values, sparse = self.values, isinstance(self.spec, tf.io.VarLenFeature)
        if isinstance(self.spec, tf.io.FixedLenFeature) and len(self.spec.shape) != 1:
            values = tf.reshape(values, [-1, *self.spec.shape])
        if self.texts is not None:
            first, rest = distinct.split(function, distinct.is_one_text(values))
            if sparse:
                first, rest = None, function
            if first is None:
                values = distinct.Take()((self.texts, values))
            else:
                values = distinct.gathered(first, self.texts, values)
            function = rest
        if function is not None or sparse:
            values = AsOneList(sparse=sparse)(values)
            values = function(values) if function else values
            return OfOneList(default, self.name)(values)
        return values if is_dense(values) else Densify(default)(values)


def signed_log1p(tensor: Any) -> Any:
    """Returns `sign(x) log(1 + |x|)`, for features with long tails on both sides.

    Example:
      >>> float(signed_log1p(tf.constant(0.0)))
      0.0
    """
    if tensor.dtype.is_integer:
        tensor = tf.cast(tensor, tf.float32)
    return tf.sign(tensor) * tf.math.log1p(tf.abs(tensor))
