"""Metrics by name, as `tfr.keras.metrics` names them."""

from typing import Any

from tfr_pipeline import metrics as _ours
from tfr_pipeline.compat import tfr


def __getattr__(name: str) -> Any:
    if name in _ours.__all__:
        return getattr(_ours, name)
    return getattr(tfr.keras.metrics, name)


def __dir__() -> list[str]:
    return sorted({*_ours.__all__, *dir(tfr.keras.metrics)})
