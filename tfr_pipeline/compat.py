"""The one module that knows TensorFlow versions.

Importing it costs nothing and selects Keras 2. Its attributes `tf`, `tfr` and
`nsl` import TensorFlow, TensorFlow Ranking and Neural Structured Learning when
they are first asked for:

    from tfr_pipeline.compat import tfr

TensorFlow >= 2.16 differs in two ways that matter here. Its `tf.keras` is Keras 3
unless `TF_USE_LEGACY_KERAS=1` is set before the import, and it has no
`tf.estimator`, which both libraries import although nothing in this package uses
what they do with it. A stand-in module takes its place.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import types
from collections.abc import Callable, Mapping
from typing import Any

_LEGACY_KERAS = "TF_USE_LEGACY_KERAS"
_ESTIMATOR_PATHS = (
    "tensorflow.estimator",
    "tensorflow.compat.v1.estimator",
    "tensorflow.compat.v2.estimator",
)


def select_keras() -> None:
    """Makes `tf.keras` mean Keras 2 in this process and in its children.

    Raises:
      ImportError: TensorFlow was imported before with Keras 3, or the environment
        asks for Keras 3.
    """
    if os.environ.get(_LEGACY_KERAS, "1").lower() in ("0", "false"):
        raise ImportError(
            f"tfr_pipeline needs Keras 2, but {_LEGACY_KERAS}="
            f"{os.environ[_LEGACY_KERAS]} asks for Keras 3. Unset the variable."
        )
    loaded = sys.modules.get("tensorflow")
    if loaded is not None and _LEGACY_KERAS not in os.environ:
        version = getattr(loaded, "__version__", "0.0")
        if tuple(int(part) for part in version.split(".")[:2]) >= (2, 16):
            raise ImportError(
                f"TensorFlow {version} was imported before tfr_pipeline, so tf.keras "
                "is Keras 3 already. Import tfr_pipeline first, or set "
                f"{_LEGACY_KERAS}=1 before Python starts."
            )
    os.environ[_LEGACY_KERAS] = "1"


class ModeKeys:
    """What `tf.estimator.ModeKeys` was."""

    TRAIN = "train"
    EVAL = "eval"
    PREDICT = "infer"


def _stand_in(name: str) -> types.ModuleType:
    """A module whose every attribute is an empty class to inherit from."""
    module = types.ModuleType(name, "Stand-in for the removed tf.estimator.")

    def make(attribute: str) -> type:
        if attribute.startswith("__"):
            raise AttributeError(attribute)
        empty = type(attribute, (), {"__module__": name})
        setattr(module, attribute, empty)
        return empty

    # `__path__` makes it a package, so that importing a part of it fails normally.
    vars(module).update(ModeKeys=ModeKeys, __path__=[], __getattr__=make)
    return module


def _import_tensorflow() -> Any:
    tf = importlib.import_module("tensorflow")
    if not hasattr(tf, "estimator"):
        module = _stand_in(_ESTIMATOR_PATHS[0])
        for path, parent in zip(
            _ESTIMATOR_PATHS, (tf, tf.compat.v1, tf.compat.v2), strict=True
        ):
            sys.modules.setdefault(path, module)
            parent.estimator = module
    return tf


def __getattr__(name: str) -> Any:
    if name == "tf":
        module = _import_tensorflow()
    elif name == "tfr":
        _import_tensorflow()
        module = importlib.import_module("tensorflow_ranking")
    elif name == "nsl":
        _import_tensorflow()
        module = importlib.import_module("neural_structured_learning")
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = module
    return module


def lazy_attributes(
    package: str, homes: Mapping[str, str] | None = None
) -> Callable[[str], Any]:
    """Returns the `__getattr__` of a package that shares its name with TF-Ranking's.

    It finds our names and modules without loading anything else, and hands the rest of
    what `tfr.<package>` has through, for code that changed one import line.

    Args:
      package: Full name of the package, such as `tfr_pipeline.losses`.
      homes: Maps names that the package exports to the modules they are in.
    """

    def find(name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if homes and name in homes:
            return getattr(importlib.import_module(f"{package}.{homes[name]}"), name)
        # `from package import module` asks here before it looks for the module.
        if importlib.util.find_spec(f"{package}.{name}"):
            return importlib.import_module(f"{package}.{name}")
        return getattr(getattr(__getattr__("tfr"), package.rpartition(".")[2]), name)

    return find


select_keras()
