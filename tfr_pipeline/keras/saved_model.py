"""Signatures, as `tfr.keras.saved_model` names them."""

from typing import Any

from tfr_pipeline.compat import tfr
from tfr_pipeline.serving.signatures import Signatures

__all__ = ["Signatures"]


def __getattr__(name: str) -> Any:
    return getattr(tfr.keras.saved_model, name)


def __dir__() -> list[str]:
    return sorted({*__all__, *dir(tfr.keras.saved_model)})
