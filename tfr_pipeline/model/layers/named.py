"""Activations, initialisers, regularisers and constraints by name and arguments."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import tensorflow as tf

from tfr_pipeline.errors import ConfigError, is_number, unknown_name
from tfr_pipeline.model.layers.seeded import AlphaDropout, Dropout

_KINDS = {
    "initializer": (tf.keras.initializers, tf.keras.initializers.Initializer),
    "regularizer": (tf.keras.regularizers, tf.keras.regularizers.Regularizer),
    "constraint": (tf.keras.constraints, tf.keras.constraints.Constraint),
}
# Their numbers that Keras takes below 0, too.
_FROM_0 = ("l1", "l2", "factor", "min_value", "max_value", "rate")
# What may be said of the kernels of a layer.
OF_KERNELS = tuple(f"kernel_{kind}" for kind in _KINDS)
# He et al., "Delving Deep into Rectifiers", ICCV 2015.
_SLOPE_OF_PRELU = 0.25


def _leaky_relu(x: Any, slope: float = 0.01) -> Any:
    return tf.nn.leaky_relu(x, slope)


def _functions() -> dict[str, Callable[..., Any]]:
    keras = {
        name: function
        for name, function in vars(tf.keras.activations).items()
        if inspect.isfunction(function)
        and list(inspect.signature(function).parameters)[:1] == ["x"]
    }
    return {**keras, "silu": keras["swish"], "leaky_relu": _leaky_relu}


@tf.keras.utils.register_keras_serializable(package="tfr_pipeline")
class NamedActivation(tf.keras.layers.Layer):
    """An activation by name, with arguments.

    Args:
      function: Name of an activation of Keras, `silu` or `leaky_relu`.
      args: Its arguments, such as `slope` of `leaky_relu` (0.01).

    Example:
      >>> NamedActivation("leaky_relu", {"slope": 0.5})(tf.constant([[-2.0]])).numpy()
      array([[-1.]], dtype=float32)
    """

    def __init__(
        self, function: str, args: Mapping[str, Any] | None = None, **kwargs: Any
    ):
        super().__init__(**kwargs)
        self._name_and_args = {"function": function, "args": dict(args or {})}
        self._function = functools.partial(_functions()[function], **(args or {}))

    def call(self, inputs: Any) -> Any:
        """Returns the activation of each number."""
        return self._function(inputs)

    def get_config(self) -> dict[str, Any]:
        """See `tf.keras.layers.Layer`."""
        return {**super().get_config(), **self._name_and_args}


def activation(value: Any) -> tf.keras.layers.Layer:
    """Returns a new layer for an activation.

    Args:
      value: Name of an activation of Keras, `silu`, `leaky_relu` or `prelu`, whose
        slopes are trained, one a unit; a dict of the `name` and its arguments; a
        function; or None for none.

    Raises:
      ConfigError: The name or an argument is unknown, or a value cannot be.

    Example:
      >>> activation({"name": "elu", "alpha": 0.5})(tf.constant([[3.0]])).numpy()
      array([[3.]], dtype=float32)
    """
    if not isinstance(value, str | Mapping):
        if value is None or callable(value):
            return tf.keras.layers.Activation(value)
        raise ConfigError(
            f"activation: expected a name, a dict of it or a function, found {value!r}."
        )
    if "class_name" in value:
        return tf.keras.layers.Activation(value)
    name, args = _split("activation", value)
    functions = _functions()
    if name == "prelu":
        _check_arguments("activation", name, args, ())
        start = tf.keras.initializers.Constant(_SLOPE_OF_PRELU)
        return tf.keras.layers.PReLU(alpha_initializer=start)
    if name not in functions:
        known = [*functions, "prelu"]
        raise ConfigError(unknown_name("activation", name, known))
    known = list(inspect.signature(functions[name]).parameters)[1:]
    _check_arguments("activation", name, args, known)
    if name in ("silu", "leaky_relu") or args:
        return NamedActivation(name, args)
    return tf.keras.layers.Activation(name)


def is_selu(value: Any) -> bool:
    """Whether an activation is SELU, which wants dropout and initialiser of its own.

    Klambauer et al., "Self-Normalizing Neural Networks", NeurIPS 2017: alpha dropout,
    which keeps mean and variance, and LeCun normal.
    """
    if isinstance(value, Mapping):
        value = value.get("name")
    return value == "selu" or value is tf.keras.activations.selu


def dropout(rate: float, beside: Any) -> Dropout:
    """Returns a layer of dropout to stand after an activation; see `is_selu`."""
    return (AlphaDropout if is_selu(beside) else Dropout)(rate)


def kernel_arguments(args: Mapping[str, Any], beside: Any) -> dict[str, Any]:
    """Returns arguments of dense layers with Keras's own objects for names.

    Args:
      args: Arguments of a layer, of which those that end in `_initializer`,
        `_regularizer` and `_constraint` may be names, or dicts of the `name` and
        arguments.
      beside: The activation, which may have an initialiser of its own.

    Raises:
      ConfigError: A name or an argument is unknown, or a value cannot be.

    Example:
      >>> made = kernel_arguments({"kernel_regularizer": {"name": "l2", "l2": 0.1}}, None)
      >>> float(tf.keras.regularizers.get(made["kernel_regularizer"])(tf.ones([5])))
      0.5
    """  # noqa: E501
    made = {key: part(key, value) for key, value in args.items() if value is not None}
    if is_selu(beside):
        made.setdefault("kernel_initializer", "lecun_normal")
    return made


def part(key: str, value: Any) -> Any:
    """Returns what Keras makes an initialiser, regulariser or constraint of.

    That is a config rather than an object where there is a name: an initialiser
    without a seed that two layers share would give both the same numbers.

    Args:
      key: Name of an argument, such as `kernel_initializer`; any other is left alone.
      value: See `kernel_arguments`.
    """
    kind = key.rpartition("_")[2]
    named = isinstance(value, str | Mapping) and "class_name" not in value
    if kind not in _KINDS or not named:
        return value
    module, base = _KINDS[kind]
    # Each class stands there twice: as `HeNormal` and as `he_normal`.
    classes = {
        name: cls
        for name, cls in vars(module).items()
        if inspect.isclass(cls) and issubclass(cls, base) and cls is not base
    }
    if kind == "regularizer":
        classes["l1_l2"] = classes["L1L2"]
    name, args = _split(key, value)
    if name not in classes:
        known = [other for other in classes if other.islower()]
        raise ConfigError(unknown_name(kind, name, known, key))
    known = [n for n in inspect.signature(classes[name]).parameters if n != "kwargs"]
    _check_arguments(key, name, args, known)
    for argument, given in args.items():
        if argument not in _FROM_0 or given is None:
            continue
        if not is_number(given) or given < 0:
            raise ConfigError(
                f"{key} {name!r}: {argument}: expected a number from 0 on, found "
                f"{given!r}."
            )
    try:
        made = classes[name](**args)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{key} {name!r}: {error}") from error
    return module.serialize(made)


def _split(key: str, value: str | Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    args = {"name": value} if isinstance(value, str) else dict(value)
    name = args.pop("name", None)
    if not isinstance(name, str):
        raise ConfigError(f"{key}: expected a name, or a dict of it, found {value!r}.")
    return name, args


def _check_arguments(key: str, name: str, args: Mapping[str, Any], known: Any) -> None:
    for argument in args:
        if argument not in known:
            where = f"{key} {name!r}"
            raise ConfigError(unknown_name("argument", argument, known, where))
