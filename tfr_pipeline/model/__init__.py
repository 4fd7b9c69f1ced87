"""Inputs, preprocessing, scorers, layers and model builders."""

import importlib
import importlib.util
from typing import Any


def __getattr__(name: str) -> Any:
    """Hands through what `tfr.model` has, for code that changed one import line."""
    if name.startswith("__"):
        raise AttributeError(name)
    if importlib.util.find_spec(f"{__name__}.{name}"):
        return importlib.import_module(f"{__name__}.{name}")
    from tfr_pipeline.compat import tfr

    return getattr(tfr.model, name)
