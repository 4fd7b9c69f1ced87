"""Losses by name, as `tfr.keras.losses` names them."""

from typing import Any

from tfr_pipeline import losses as _ours
from tfr_pipeline.compat import tfr


def __getattr__(name: str) -> Any:
    if name in _ours.__all__:
        return getattr(_ours, name)
    return getattr(tfr.keras.losses, name)


def __dir__() -> list[str]:
    return sorted({*_ours.__all__, *dir(tfr.keras.losses)})
