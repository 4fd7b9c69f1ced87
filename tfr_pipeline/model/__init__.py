"""Inputs, preprocessing, scorers, layers and model builders."""

from tfr_pipeline.compat import lazy_attributes

__getattr__ = lazy_attributes(__name__)
