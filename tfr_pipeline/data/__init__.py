"""Files to batches: formats, conversion, readers, dataset builders."""

from typing import Any


def __getattr__(name: str) -> Any:
    """Hands through what `tfr.data` has, for code that changed one import line."""
    if name.startswith("__"):
        raise AttributeError(name)
    from tfr_pipeline.compat import tfr

    return getattr(tfr.data, name)
