"""What a step of preprocessing is: a Keras layer that may learn from the data first."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np
import tensorflow as tf

from tfr_pipeline.data.sketches import Sketch
from tfr_pipeline.errors import ConfigError
from tfr_pipeline.model.layers.ragged import is_dense, is_sparse

# What a step has learnt: arrays, numbers and texts by name, as JSON has them.
Statistics = Mapping[str, Any]


class Step(tf.keras.layers.Layer):
    """A step of preprocessing; subclass it for one of your own.

    A step that learns says from what, and what:

    - `new_sketch` returns an empty sketch, one of `tfr_pipeline.data.sketches`, which
      then takes all values of the training split, as they come to this step;
    - `learn` returns what it needs of the sketch: JSON, which stands in
      `self.statistics` when `call` is traced, as constants of the graph.

    A step with `by_column` does the same to each column, to each with its own
    statistics. It is called for all features that have it at once, with their columns
    side by side: `[..., columns]` becomes `[..., columns * k]`, the `k` results of a
    column next to each other. What `learn` returns then are lists with an element a
    column. Other steps are called, and learn, feature by feature.

    Subclasses have a `get_config` if they have arguments: models make a copy each.

    Args:
      statistics: What was learnt before (keyword only); nothing is learnt then.
      **kwargs: As of a Keras layer.

    Attributes:
      by_column: See above.
      takes: The dtypes that it takes; integers, where it does, become float32.
      row_wise: See `layers.distinct.is_row_wise`.
      needs_lists: Whether `call` takes `(values, row_ids, row_splits)` of packed
        documents, and `(values, mask)` of padded ones, in place of `values`.
      takes_missing: Whether NaN is gone behind it.
      is_constant: Whether a document has the same result in every epoch, in about as
        many columns: it may then be computed once, ahead of training.
      tpu_ready: Whether XLA can compile it.
      statistics: See `new_sketch`; None before.

    Example:
      >>> from tfr_pipeline.data.sketches import Moments
      >>> class Centered(Step):
      ...     def new_sketch(self):
      ...         return Moments()
      ...     def learn(self, sketch):
      ...         return {"mean": sketch.mean.tolist()}
      ...     def call(self, inputs):
      ...         return inputs - tf.constant(self.statistics["mean"], tf.float32)
      >>> step, moments = Centered(), Moments()
      >>> moments.update(np.array([[1.0], [3.0]]))
      >>> step.with_statistics(step.learn(moments))(tf.constant([[5.0]])).numpy()
      array([[3.]], dtype=float32)
    """

    by_column: ClassVar[bool] = True
    takes: ClassVar[tuple[str, ...]] = ("float32", "int64")
    row_wise: ClassVar[bool] = False
    needs_lists: ClassVar[bool] = False
    takes_missing: ClassVar[bool] = False
    is_constant: ClassVar[bool] = True
    tpu_ready: ClassVar[bool] = True

    def __init__(self, *, statistics: Statistics | None = None, **kwargs: Any):
        # Features keep their dtype, whatever the layers behind compute in.
        super().__init__(**{"autocast": False, **kwargs})
        # Past what tracks attributes: it would wrap them.
        self.__dict__["statistics"] = None if statistics is None else dict(statistics)
        self._where = type(self).__name__

    def of_feature(self, name: str) -> None:
        """Says which feature it is for, in messages."""
        self._where = f"feature {name!r}: {type(self).__name__}"

    def __call__(self, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """Calls the layer, on values that it takes.

        Raises:
          ConfigError: They are of another dtype, of any number, or sparse.
        """
        value = inputs[0] if self.needs_lists else inputs
        if not tf.is_tensor(value) and not tf.keras.backend.is_keras_tensor(value):
            value = tf.convert_to_tensor(value)
        dtype = "float32" if value.dtype.is_floating else value.dtype.name
        if dtype not in self.takes:
            raise ConfigError(
                f"{self._where} takes {' or '.join(self.takes)}, found {dtype}."
            )
        if is_sparse(value):
            raise ConfigError(
                f"{self._where} takes dense or ragged values, found sparse ones "
                "(VarLenFeature). Describe the feature as ragged: tf.io.RaggedFeature, "
                'or "kind": "ragged" in features.json; the files stay as they are.'
            )
        if self.by_column and not is_dense(value):
            raise ConfigError(
                f"{self._where} takes a fixed number of values, found any number of "
                "them; take a step in front of it that makes them one."
            )
        return super().__call__(inputs, *args, **kwargs)

    def new_sketch(self) -> Sketch | None:
        """Returns an empty sketch; None if there is nothing to learn."""
        return None

    def learn(self, sketch: Any) -> Statistics:
        """Returns what the sketch has seen, as far as `call` needs it.

        Raises:
          NothingToLearnError: A column has no value.
        """
        raise NotImplementedError

    def observe(self, sketch: Any, values: Any) -> None:
        """Lets a sketch take values, as they come to this step in eager tensors.

        Of a step by column they are `[rows, columns]`.
        """
        if isinstance(values, tf.RaggedTensor):
            values = values.flat_values
        sketch.update(values.numpy())

    @property
    def learns(self) -> bool:
        """Whether there is something that it has to learn yet."""
        return self.statistics is None and self.new_sketch() is not None

    def with_statistics(self, statistics: Statistics | None, name: str = "") -> Any:
        """Returns a new layer like this one, with statistics and a name."""
        config = self.get_config()
        del config["name"]
        if name:
            config["name"] = name
        if statistics is not None:
            config["statistics"] = statistics
        return type(self).from_config(config)

    def describe(self) -> dict[str, Any]:
        """Returns what it does, as JSON: its class and its arguments."""
        config = {**self.get_config()}
        for key in ("name", "trainable", "dtype"):
            config.pop(key, None)
        return {"step": type(self).__name__, **config}

    def get_config(self) -> dict[str, Any]:
        """See `tf.keras.layers.Layer`."""
        config = super().get_config()
        if self.statistics is not None:
            config["statistics"] = self.statistics
        return config

    def _constant(self, name: str, dtype: tf.DType = tf.float32) -> Any:
        """Returns a statistic as a constant."""
        if self.statistics is None:
            raise ConfigError(
                f"{type(self).__name__}: it has learnt nothing yet. A pipeline lets it "
                "learn from the training data before it trains; else give it "
                "`statistics`."
            )
        return tf.constant(np.array(self.statistics[name]), dtype)


def floats(values: Any) -> Any:
    """Returns a tensor as float32."""
    return tf.cast(values, tf.float32)


def side_by_side(values: Any) -> Any:
    """Returns `[..., columns * k]` of `[..., columns, k]`."""
    columns, k = values.shape[-2:]
    shape = tf.concat([tf.shape(values)[:-2], [columns * k]], 0)
    return tf.reshape(values, shape)


def by_rows(ragged: tf.RaggedTensor, function: Callable[[Any], Any]) -> Any:
    """Applies a function to the innermost rows of a ragged tensor.

    Args:
      ragged: `[..., (n)]`.
      function: Maps ragged `[rows, (n)]` to a tensor `[rows, columns]`.

    Returns:
      `[..., columns]`, ragged if it has more than two dimensions.
    """
    if not isinstance(ragged.values, tf.RaggedTensor):
        return function(ragged)
    return ragged.with_values(by_rows(ragged.values, function))


def lookup(table: Any, index: Any) -> Any:
    """Returns rows of a variable `[rows, columns]`, by number."""
    # Workers gather sparse gradients, of which TensorFlow wants as many from each.
    if isinstance(
        tf.distribute.get_strategy(), tf.distribute.MultiWorkerMirroredStrategy
    ):
        table = _with_dense_gradient(tf.convert_to_tensor(table))
    return tf.nn.embedding_lookup(table, index)


@tf.custom_gradient
def _with_dense_gradient(table: Any) -> tuple[Any, Callable[[Any], Any]]:
    return tf.identity(table), tf.convert_to_tensor


def compares_documents(model: tf.keras.Model) -> bool:
    """Whether a model has a step for which documents are what their list makes them."""
    return any(isinstance(x, Step) and x.needs_lists for x in model.submodules)
