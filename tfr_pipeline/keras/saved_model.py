"""Signatures, as `tfr.keras.saved_model` names them."""

from tfr_pipeline.serving.signatures import Signatures

__all__ = ["Signatures"]
