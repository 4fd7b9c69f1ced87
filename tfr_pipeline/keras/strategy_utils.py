"""Strategies, as `tfr.keras.strategy_utils` names them."""

from typing import Any

from tfr_pipeline.compat import tfr
from tfr_pipeline.pipeline.distribute.strategies import (
    MIRRORED_STRATEGY,
    MWMS_STRATEGY,
    PS_STRATEGY,
    TPU_STRATEGY,
    get_strategy,
    strategy_scope,
)

__all__ = [
    "MIRRORED_STRATEGY",
    "MWMS_STRATEGY",
    "PS_STRATEGY",
    "TPU_STRATEGY",
    "get_strategy",
    "strategy_scope",
]


def __getattr__(name: str) -> Any:
    return getattr(tfr.keras.strategy_utils, name)


def __dir__() -> list[str]:
    return sorted({*__all__, *dir(tfr.keras.strategy_utils)})
