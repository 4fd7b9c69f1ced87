"""Training pipelines for ranking models, from log files to a served model.

`import tfr_pipeline as tfr` replaces `import tensorflow_ranking as tfr`: the names
of `tfr.keras.model`, `tfr.keras.pipeline` and `tfr.keras.saved_model` are ours, the
rest is handed through. The import is cheap; TensorFlow is loaded when a name that
needs it is first used.
"""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

from tfr_pipeline import compat as _compat  # first: it selects Keras 2
from tfr_pipeline import registration as _registration  # noqa: F401
from tfr_pipeline import uncaught as _uncaught

__version__ = "0.1.0"

_uncaught.install()

_FACES = ("model", "pipeline", "saved_model", "losses", "metrics", "layers")


def __getattr__(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(name)
    # Asked for before `from tfr_pipeline import files` looks for the module itself.
    if name.islower() and importlib.util.find_spec(f"{__name__}.{name}"):
        return importlib.import_module(f"{__name__}.{name}")
    if name[0].isupper():  # a class of one of the faces
        for face in _FACES:
            module = importlib.import_module(f"{__name__}.keras.{face}")
            if name in getattr(module, "__all__", ()) or name in dir(module):
                return getattr(module, name)
    try:
        return getattr(_compat.tfr, name)
    except AttributeError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
