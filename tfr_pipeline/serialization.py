"""Functions inside the configs of Keras objects, by the names they are registered as.

Keras 2.15 drops the package from a function's name when it serialises it, and then
finds another function or none. Here the name that the function was registered under
goes into the config, and comes back out of it.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping
from typing import Any

from tfr_pipeline.compat import tf
from tfr_pipeline.errors import ConfigError


def names_of_functions(config: dict[str, Any], keys: Iterable[str]) -> dict[str, Any]:
    """Returns a config with the registered functions under `keys` as names.

    Functions that are not registered stay what they are: a copy of the object in this
    process has them, an object that is loaded from a file cannot.
    """
    config = dict(config)
    for key in keys:
        if callable(config.get(key)):
            name = tf.keras.utils.get_registered_name(config[key])
            if tf.keras.utils.get_registered_object(name) is not None:
                config[key] = name
    return config


def as_json(value: Any) -> Any:
    """Returns what stands for an object in JSON; for `json.dumps(..., default=...)`.

    A Keras object becomes its registered name and its config, a function its name, a
    NumPy value or a set a list or number, a path its text, and anything else the name
    of its class.

    Example:
      >>> import json
      >>> from tfr_pipeline.losses import PrecisionLambdaWeight
      >>> json.dumps(PrecisionLambdaWeight(topn=3), default=as_json)[:51]
      '{"class_name": "tfr_pipeline>PrecisionLambdaWeight"'
    """
    if hasattr(value, "get_config") and not isinstance(value, type):
        name = tf.keras.utils.get_registered_name(type(value))
        return {"class_name": name, "config": value.get_config()}
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, set | frozenset):
        return sorted(value, key=repr)
    if hasattr(value, "__name__"):
        name = tf.keras.utils.get_registered_name(value)
        return name if isinstance(name, str) else type(value).__name__
    return type(value).__name__


def plain(value: Any, where: str, *, strict: bool = False) -> Any:
    """Returns settings as JSON gives them back; see `as_json` for objects.

    Args:
      value: The settings.
      where: What they are called, such as `config`.
      strict: Refuses what JSON cannot tell apart from others: numbers that are not
        finite, and objects of which only the name of their class would be left.

    Raises:
      ConfigError: A dict has other keys than text, or see `strict`; names the place.

    Example:
      >>> plain({"dims": (4, 2)}, "config")
      {'dims': [4, 2]}
    """
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        if strict and not math.isfinite(value):
            raise ConfigError(
                f"{where}: expected a finite number, found {value}, which config.json "
                "cannot hold. Leave it out or set it to None."
            )
        return value
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise ConfigError(
                    f"{where}: expected a dict with text for keys, which config.json "
                    f"can hold, found the key {key!r}."
                )
        return {
            key: plain(item, f"{where}.{key}", strict=strict)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [
            plain(item, f"{where}[{i}]", strict=strict) for i, item in enumerate(value)
        ]
    found = as_json(value)
    if strict and found == type(value).__name__:
        raise ConfigError(
            f"{where}: expected what config.json can hold: text, numbers, true, false, "
            f"None, lists and dicts of them, Keras objects, found {value!r}. Name a "
            "part of your own as 'module:callable'."
        )
    return plain(found, where, strict=strict)


def functions_of_names(config: dict[str, Any], keys: Iterable[str]) -> dict[str, Any]:
    """Returns a config with functions where `names_of_functions` left names.

    Raises:
      ConfigError: No function is registered under a name.

    Example:
      >>> functions_of_names({"gain_fn": None, "topn": 5}, ["gain_fn"])
      {'gain_fn': None, 'topn': 5}
    """
    config = dict(config)
    for key in keys:
        value = config.get(key)
        if isinstance(value, dict):
            config[key] = tf.keras.utils.deserialize_keras_object(value)
        elif isinstance(value, str):
            config[key] = tf.keras.utils.get_registered_object(value)
            if config[key] is None:
                raise ConfigError(
                    f"{key}: no function is registered as {value!r}; decorate it with "
                    "tf.keras.utils.register_keras_serializable() before loading."
                )
    return config
