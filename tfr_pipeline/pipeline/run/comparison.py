"""Which settings have to be the same: in a run that goes on, and of its workers."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

from tfr_pipeline.pipeline.datasets.hparams import DatasetHparams
from tfr_pipeline.pipeline.hparams import PipelineHparams

_PATHS = ("dir", "train", "valid", "test", "features", "cache")
_PATTERNS = ("train_input_pattern", "valid_input_pattern", "test_input_pattern")
# Of data, the files behind the paths count, however they are spelled; see
# `data_fingerprint`.
_OF_DATA = tuple(f"data.{name}" for name in (*_PATHS, *_PATTERNS))
# What does not determine the weights that a run ends with, or is there to be changed.
FREE_LATER = frozenset(
    {
        *_OF_DATA,
        "data.keep_document_ids",
        "model_dir",
        "num_epochs",
        "steps_per_execution",
        "checkpoint_every_steps",
        "checkpoint_every_seconds",
        "gradient_norms",
        "cluster_resolver",
        "tpu",
    }
)
# Where workers see other paths, or only the chief's word counts. That they find the
# same checkpoints is checked apart.
FREE_OF_WORKERS = frozenset(
    {
        *_OF_DATA,
        "model_dir",
        "checkpoint_every_seconds",
        "cluster_resolver",
        "tpu",
    }
)
_NOTHING: tuple[Any, ...] = (None, "", {}, [])


def _defaults(cls: type) -> dict[str, Any]:
    result = {}
    for field in dataclasses.fields(cls):
        if field.default is not dataclasses.MISSING:
            result[field.name] = field.default
        elif field.default_factory is not dataclasses.MISSING:
            result[field.name] = field.default_factory()
    return result


_PIPELINE, _DATA = _defaults(PipelineHparams), _defaults(DatasetHparams)


def differences(
    old: Any, new: Any, free: frozenset[str] = frozenset(), prefix: str = ""
) -> Iterator[tuple[str, str, str]]:
    """Yields key, old and new value of each setting that differs.

    What one side lacks has its default there: another version of the package, or of a
    config file, may know more settings.

    Args:
      old: JSON: a config, or the hyperparameters of a script.
      new: The same.
      free: Settings that may differ; those of `pipeline` without that word.
      prefix: Key of what is compared.
    """
    if _short(prefix) in free:
        return
    if _is_section(old) and _is_section(new) and (old or new):
        old, new = old or {}, new or {}
        for key in sorted({*old, *new}):
            name = f"{prefix}.{key}" if prefix else key
            if name == "data" and "data" not in old:
                continue  # Scripts of earlier versions did not note it.
            before, after = (side.get(key, _default(name)) for side in (old, new))
            yield from differences(before, after, free, name)
        return
    if _plain(old) != _plain(new):
        yield prefix, repr(old), repr(new)


def _is_section(value: Any) -> bool:
    return value is None or isinstance(value, dict)


def _short(name: str) -> str:
    """A script has no section `pipeline`."""
    return name.removeprefix("pipeline.")


def _default(name: str) -> Any:
    name = _short(name)
    section, _, key = name.rpartition(".")
    if section == "data":
        return _DATA.get(key)
    return None if section else _PIPELINE.get(name)


def _plain(value: Any) -> Any:
    """Returns a value as JSON gives it back; one of many for nothing."""
    if isinstance(value, tuple):
        value = list(value)
    return None if value in _NOTHING else value
