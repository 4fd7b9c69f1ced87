"""`tfr_pipeline.keras`: our classes under the module names of TF-Ranking's."""

from __future__ import annotations

import importlib
from typing import Any

_OURS = (
    "model",
    "pipeline",
    "saved_model",
    "losses",
    "metrics",
    "layers",
    "preprocessing",
    "strategy_utils",
)


def __getattr__(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(name)
    if name in _OURS:
        return importlib.import_module(f"{__name__}.{name}")
    from tfr_pipeline.compat import tfr

    return getattr(tfr.keras, name)
