"""Export of a trained model: a SavedModel that needs nothing but TensorFlow."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from typing import Any

import tensorflow as tf

from tfr_pipeline import files
from tfr_pipeline.errors import RunError

# TensorFlow Serving leaves this folder of a SavedModel to its owner.
EXTRA_ASSETS = "assets.extra"


def export_saved_model(
    model: tf.keras.Model,
    signatures: Mapping[str, Callable[..., Any]] | None,
    path: str,
    extra_assets: Mapping[str, str] | None = None,
) -> str:
    """Writes a SavedModel with the weights and the signatures, and nothing else.

    Neither Keras metadata nor optimizer slots are saved, so that
    `tf.saved_model.load` needs no custom objects. The folder is written beside its
    place and renamed; what stood there before is replaced.

    Args:
      model: A Keras model.
      signatures: Maps signature keys to `tf.function`s over the model.
      path: The folder, for TensorFlow Serving one that ends in a version number.
      extra_assets: Maps file names to texts that go into `assets.extra`.

    Returns:
      `path`.

    Raises:
      RunError: The disk is full or the folder cannot be written.
    """
    module = tf.Module()
    module.weights = list(model.variables)
    # Lookup tables of preprocessing layers are resources of the functions too.
    view = tf.train.TrackableView(model)
    module.resources = [
        node
        for node in view.descendants()
        if isinstance(node, tf.saved_model.experimental.TrackableResource)
        or type(node).__name__ in ("StaticHashTable", "MutableHashTable")
    ]
    functions = dict(signatures or {})
    try:
        with files.replacing(path) as temporary:
            tf.saved_model.save(module, temporary, signatures=functions)
            folder = os.path.join(temporary, EXTRA_ASSETS)
            for name, text in (extra_assets or {}).items():
                os.makedirs(folder, exist_ok=True)
                with open(os.path.join(folder, name), "w", encoding="utf-8") as file:
                    file.write(text)
    except (OSError, tf.errors.OpError) as error:
        folder = os.path.abspath(path)
        while not os.path.isdir(folder):
            folder = os.path.dirname(folder)
        free = shutil.disk_usage(folder).free
        raise RunError(
            f"export to {path} failed, nothing was left there: {error}. "
            f"{free / 2**20:.0f} MB are free on that disk."
        ) from error
    return path
