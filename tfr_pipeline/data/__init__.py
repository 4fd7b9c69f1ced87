"""Files to batches: formats, conversion, readers, dataset builders."""

import importlib
import importlib.util
from typing import Any


def __getattr__(name: str) -> Any:
    """Hands through what `tfr.data` has, for code that changed one import line."""
    if name.startswith("__"):
        raise AttributeError(name)
    # Asked for before `from tfr_pipeline.data import lists` looks for the module.
    if importlib.util.find_spec(f"{__name__}.{name}"):
        return importlib.import_module(f"{__name__}.{name}")
    from tfr_pipeline.compat import tfr

    return getattr(tfr.data, name)
