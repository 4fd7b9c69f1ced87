"""From `model.preprocess` of a config to the steps of each feature."""

from __future__ import annotations

import fnmatch
import functools
import inspect
import json
import warnings
from collections.abc import Mapping
from typing import Any

from tfr_pipeline.errors import ConfigError, unknown_name
from tfr_pipeline.experiment import registry
from tfr_pipeline.features import TYPES, Feature, Features

_WHERE = "config.model.preprocess"
_KIND = "preprocessing"
_WILD = "*?["
# Before a type in a key: all features of it.
_TYPE = "type:"


def steps(model: Mapping[str, Any], features: Features) -> dict[str, Any]:
    """Returns a function, or a list of steps, for each feature that has some.

    Args:
      model: The section `model` of a config. `preprocess` is a step for all features
        that are numbers, a list of them, or a dict: from names of features, globs, or
        types such as `type:text`, to a step or a list. A step is a name, or a dict
        of a name with its first argument and of further arguments. `preprocess_args`
        are for all functions that are named alone.
      features: What there is.

    Raises:
      ConfigError: A feature, a step, or an argument of one is unknown.
    """
    wanted = model.get("preprocess") or "none"
    described = {**features.context, **features.example}
    if not isinstance(wanted, Mapping) or _is_step(wanted):
        wanted = {"*": wanted}
    args = dict(model.get("preprocess_args") or {})
    made: dict[str, Any] = {}
    found = {}
    used = False
    for feature, named in _of_features(wanted, described).items():
        text = json.dumps(named, sort_keys=True, default=repr)
        if text not in made:  # one object for all, which are then handed to it together
            made[text] = _steps(named, args)
        if made[text] is not None:
            found[feature] = made[text]
        used |= isinstance(named, str) and made[text] is not None
    if args and not used:
        warnings.warn(
            "config.model.preprocess_args has no effect: no feature is preprocessed"
            f"{' by a step without arguments of its own' if found else ''}.",
            stacklevel=5,
        )
    return found


def _is_step(value: Mapping[str, Any]) -> bool:
    """Whether a dict is a step with arguments, and not one of features."""
    return any(name in registry.names(_KIND) for name in value) and not any(
        sign in name for name in value for sign in _WILD
    )


def _of_features(
    wanted: Mapping[str, Any], described: Mapping[str, Feature]
) -> dict[str, Any]:
    """Returns what is wanted of each feature: by its name, glob, type, or `*`.

    `*` alone means numbers. Of globs the one with the most signs beside the wild ones
    is the nearest.
    """
    result: dict[str, Any] = {}
    # Dicts of a config have no order.
    for pattern in sorted(wanted, key=_nearness):
        if pattern in described:
            names = [pattern]
        elif pattern.startswith(_TYPE):
            kind = pattern.removeprefix(_TYPE)
            if kind not in TYPES:
                raise ConfigError(unknown_name("type", kind, TYPES, _WHERE))
            # None need have it: a config may say what becomes of all that there are.
            names = [name for name, one in described.items() if _type_of(one) == kind]
        elif not any(sign in pattern for sign in _WILD):
            raise ConfigError(unknown_name("feature", pattern, described, _WHERE))
        else:
            names = fnmatch.filter(described, pattern)
            if pattern == "*":
                names = [n for n in names if described[n].dtype != "string"]
            elif not names:
                raise ConfigError(
                    unknown_name("feature", pattern, described, _WHERE)
                    + " No feature fits this glob."
                )
        result |= dict.fromkeys(names, wanted[pattern])
    exact = {name: wanted[name] for name in wanted if name in described}
    return {**result, **exact}


def _nearness(pattern: str) -> tuple[bool, int, str]:
    """Returns what keys are sorted by: `*`, types, then globs."""
    if pattern.startswith(_TYPE):
        return False, 1, pattern
    return pattern != "*", sum(sign not in _WILD for sign in pattern), pattern


def _type_of(feature: Feature) -> str:
    """Returns what the values of a feature are; nothing where they are several things.

    Where nobody said, it goes by how they are stored. Numbers of which there are as
    many in each document are numbers, though they came as lists.
    """
    fixed = feature.kind == "fixed"
    if feature.types and (feature.types != ("list",) or not fixed):
        return feature.types[0] if len(set(feature.types)) == 1 else ""
    if not fixed:
        return "list"
    return {"string": "text", "int64": "integer"}.get(feature.dtype, "numeric")


def _steps(named: Any, args: dict[str, Any]) -> Any:
    """Returns a function alone as it is, else a list of steps; None for none."""
    if isinstance(named, str) or named is None:
        named = named or "none"
        found = registry.find(_KIND, named, _WHERE)
        if found is None:
            return None
        if inspect.isclass(found):
            return [_made(found, named, args)]
        return functools.partial(found, **args) if args else found
    several = named if isinstance(named, list | tuple) else [named]
    made = [_step(step) for step in several]
    return [step for step in made if step is not None] or None


def _step(step: Any) -> Any:
    if isinstance(step, str):
        found = registry.find(_KIND, step, _WHERE)
        return _made(found, step, {}) if inspect.isclass(found) else found
    if not isinstance(step, Mapping):
        raise ConfigError(
            f"{_WHERE}: expected the name of a step, or a dict of one with arguments, "
            f"found {step!r:.80}."
        )
    known = registry.names(_KIND)
    names = [key for key in step if key in known or registry.is_imported(key)]
    if len(names) != 1:
        if not names:
            raise ConfigError(
                unknown_name("step", next(iter(step), ""), known, _WHERE)
                + " One key of a step is its name, or 'module:callable'."
            )
        raise ConfigError(
            f"{_WHERE}: expected one step in a dict, found {' and '.join(names)}; "
            "write several as a list: "
            f"[{', '.join(f'{{{name!r}: ...}}' for name in names)}]."
        )
    (name,) = names
    found = registry.find(_KIND, name, _WHERE)
    if found is None:
        raise ConfigError(f"{_WHERE}: 'none' takes no arguments, found {dict(step)}.")
    args = {key: value for key, value in step.items() if key != name}
    if step[name] is not None:
        args = {_first(found, name): step[name], **args}
    return _made(found, name, args)


def _first(function: Any, name: str) -> str:
    """Returns the name of the first argument, of functions the one after the values."""
    parameters = [
        parameter.name
        for parameter in inspect.signature(function).parameters.values()
        if parameter.kind == parameter.POSITIONAL_OR_KEYWORD
    ]
    parameters = parameters if inspect.isclass(function) else parameters[1:]
    if not parameters:
        raise ConfigError(
            f"{_WHERE}: {name!r} takes no argument of that kind; write "
            f"{{{name!r}: None}}, or {name!r} alone."
        )
    return parameters[0]


def _made(found: Any, name: str, args: Mapping[str, Any]) -> Any:
    if not inspect.isclass(found):
        registry.bound(found, name, args, _WHERE, None)
        return functools.partial(found, **args) if args else found
    make = registry.bound(found, name, args, _WHERE)
    try:
        make()  # layers of Keras look at their last arguments when they are made
    except TypeError as error:
        known = [
            key
            for key, parameter in inspect.signature(found).parameters.items()
            if parameter.kind != parameter.VAR_KEYWORD
        ]
        for key in args:
            if key not in known:
                raise ConfigError(
                    unknown_name("argument", key, known, f"{_WHERE}: {name!r}")
                ) from error
        raise ConfigError(f"{_WHERE}: {name!r}: {error}.") from error
    return make
