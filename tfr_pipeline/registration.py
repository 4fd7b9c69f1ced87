"""Makes `tf.keras.models.load_model` find the classes of this package.

Keras finds a class that a file names if it has been registered, that is, if its module
has been imported; `import tfr_pipeline` imports none, to be quick. So the registry of
Keras, a dict, becomes one that imports our modules when it is first asked for a name of
ours, or of TensorFlow Ranking's.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import pkgutil
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

from tfr_pipeline import compat

# Where Keras 2 keeps its registry: as a package of its own, and within TensorFlow 2.15.
_HOMES = (
    "tf_keras.src.saving.object_registration",
    "keras.src.saving.object_registration",
)
_REGISTRY = "_GLOBAL_CUSTOM_OBJECTS"
_PACKAGES = ("model", "losses", "metrics", "optimizers", "pipeline")
_OURS, _THEIRS = "tfr_pipeline>", "tensorflow_ranking>"
# HDF5 files name these without their package. They are looked up and never listed, so
# that a class of the same name in `custom_objects` comes first.
_BARE = ("RankingModel", "Schedule")


class Registry(dict[str, Any]):
    """The registered classes by name; asks our modules for those it does not know."""

    _asked = False

    def __contains__(self, name: object) -> bool:
        if super().__contains__(name) or name in _BARE:
            return True
        return self._ask(name) and name in self

    def __missing__(self, name: str) -> Any:
        if name in _BARE:
            return self[_OURS + name]
        if self._ask(name):
            return self[name]
        raise KeyError(name)

    def get(self, name: str, default: Any = None) -> Any:
        """See `dict`."""
        try:
            return self[name]
        except KeyError:
            return default

    def _ask(self, name: object) -> bool:
        """Imports what registers the name; returns whether that was new."""
        ours = isinstance(name, str) and name.startswith((_OURS, _THEIRS))
        if not ours or self._asked:
            return False
        self._asked = True  # first: modules ask on their way in
        _ = compat.tfr  # registers TensorFlow Ranking's
        for package in _PACKAGES:
            name = f"tfr_pipeline.{package}"
            path = importlib.import_module(name).__path__
            for module in pkgutil.walk_packages(path, f"{name}."):
                importlib.import_module(module.name)
        return True


class _Finder(importlib.abc.MetaPathFinder):
    """Puts a `Registry` into the module of Keras when that is imported."""

    _busy = False

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,
        target: ModuleType | None = None,
    ) -> importlib.machinery.ModuleSpec | None:
        """See `importlib.abc.MetaPathFinder`."""
        if fullname not in _HOMES or self._busy:
            return None
        self._busy = True
        try:
            spec = importlib.util.find_spec(fullname)
        finally:
            self._busy = False
        if spec is None or spec.loader is None:
            return None
        run = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            run(module)
            _replace(module)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def _replace(module: ModuleType) -> None:
    found = getattr(module, _REGISTRY, None)
    if type(found) is dict:  # Keras 3 has it under another name
        setattr(module, _REGISTRY, Registry(found))


def install() -> None:
    """Prepares the registry of Keras, whether it has been imported or will be."""
    for name in _HOMES:
        if name in sys.modules:
            _replace(sys.modules[name])
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


install()
