"""The keys that a config may have, and of what types their values are."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from numbers import Integral, Real
from typing import Any

from tfr_pipeline.pipeline.datasets.hparams import DatasetHparams
from tfr_pipeline.pipeline.hparams import PipelineHparams

_TYPES: dict[str, type] = {
    "bool": bool,
    "int": int,
    "float": float,
    "str": str,
    "tuple": tuple,
    "Sequence": tuple,
    "dict": dict,
}
_ACCEPTED: dict[type, Any] = {
    int: Integral,
    float: Real,
    str: str,
    tuple: tuple | list,
    dict: Mapping,
}
_NAMES: dict[type, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    tuple: "a tuple",
    dict: "a dict",
}


def _fields(cls: type, without: tuple[str, ...]) -> dict[str, str]:
    return {
        field.name: str(field.type)
        for field in dataclasses.fields(cls)
        if field.name not in without
    }


OF_DATASETS = _fields(
    DatasetHparams,
    (
        "train_input_pattern",
        "valid_input_pattern",
        "test_input_pattern",
        "dataset_reader",
        "seed",
    ),
)
# Which pipeline, and what it is told beside its hyperparameters.
OF_PIPELINES = {"pipeline": "str", "pipeline_args": "dict"}
# By section: each key, and its type as it is written in Python.
KEYS: dict[str, dict[str, str]] = {
    "": {
        "data": "dict",
        "model": "dict",
        "pipeline": "dict",
        "model_dir": "str",
        "seed": "int",
    },
    "data": {
        **dict.fromkeys(("dir", "train", "valid", "test", "features"), "str"),
        "builder": "str",
        "builder_args": "dict",
        **OF_DATASETS,
    },
    "model": {
        "builder": "str",
        "builder_args": "dict",
        "scorer": "str",
        "scorer_args": "dict",
        "preprocess": "str | tuple | dict",
        "preprocess_args": "dict",
        "interactions": "dict",
        "position_bias": "dict",
        "name": "str",
    },
    "pipeline": {
        **OF_PIPELINES,
        **_fields(
            PipelineHparams,
            ("model_dir", "seed", "cluster_resolver", "variable_partitioner"),
        ),
    },
}


def kinds(key: str) -> tuple[type, ...]:
    """Returns the types that a key's value may have beside None; none if unknown.

    Example:
      >>> kinds("pipeline.layout"), kinds("pipeline.loss"), kinds("data.nothing")
      ((<class 'str'>,), (<class 'str'>, <class 'dict'>), ())
    """
    section, _, name = key.rpartition(".")
    text = KEYS.get(section, {}).get(name, "")
    words = [part.split("[")[0].strip() for part in text.split(" | ")]
    return tuple(_TYPES[word] for word in words if word in _TYPES)


def problem(key: str, value: Any) -> str:
    """Says which types a key's value may have, if this one has another; else nothing.

    Example:
      >>> problem("model.preprocess", 5), problem("model.preprocess", "log1p")
      ('expected text or a tuple or a dict', '')
    """
    section, _, name = key.rpartition(".")
    allowed = kinds(key)
    function = "Callable" in KEYS[section][name] and callable(value)
    if value is None or not allowed or function:
        return ""
    if any(_is(value, kind) for kind in allowed):
        return ""
    return "expected " + " or ".join(_NAMES[kind] for kind in allowed)


def _is(value: Any, kind: type) -> bool:
    if kind is bool:
        return isinstance(value, bool) or value in (0, 1)
    # Python takes true for 1.
    return isinstance(value, _ACCEPTED[kind]) and not isinstance(value, bool)


def all_keys() -> list[str]:
    """Returns every key, as the command line spells it."""
    return [
        f"{section}.{key}" if section else key
        for section, keys in KEYS.items()
        for key in keys
    ]
