"""The one module that knows TensorFlow versions.

Importing it costs nothing and selects Keras 2. Its attributes `tf`, `tfr`, `nsl` and
`hub` import TensorFlow, TensorFlow Ranking, Neural Structured Learning and TensorFlow
Hub when they are first asked for:

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
import warnings
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

    TensorFlow may have been imported before, as long as nothing of its Keras has been
    used: `tf.keras` is not loaded before that.

    Raises:
      ImportError: Keras 3 has been used as `tf.keras` before, or the environment asks
        for Keras 3.
    """
    if os.environ.get(_LEGACY_KERAS, "1").lower() in ("0", "false"):
        raise ImportError(
            f"tfr_pipeline needs Keras 2, but {_LEGACY_KERAS}="
            f"{os.environ[_LEGACY_KERAS]} asks for Keras 3. Unset the variable."
        )
    loaded = sys.modules.get("tensorflow")
    if loaded is not None and _LEGACY_KERAS not in os.environ:
        version = getattr(loaded, "__version__", "0.0")
        if tuple(int(part) for part in version.split(".")[:2]) < (2, 16):
            # Its own Keras is Keras 2. The variable would now make a mixture: half of
            # TensorFlow's names were bound when it was imported.
            return
        if _uses_keras(loaded):
            raise ImportError(
                f"TensorFlow {version} was imported and its tf.keras used before "
                "tfr_pipeline, so tf.keras is Keras 3 already. Import tfr_pipeline "
                f"first, or set {_LEGACY_KERAS}=1 before Python starts."
            )
        os.environ[_LEGACY_KERAS] = "1"
        _point_to_keras_2(loaded)
    os.environ[_LEGACY_KERAS] = "1"


# Parts of TensorFlow that load Keras when they are first used.
_KERAS_PARTS = ("keras", "losses", "metrics", "optimizers", "initializers")


def _uses_keras(tf: Any) -> bool:
    """Whether an imported TensorFlow has loaded its Keras, or does so at once."""
    if any(name.startswith("tensorflow.keras") for name in sys.modules):
        return True
    parts = [vars(tf).get(name) for name in _KERAS_PARTS]
    return any(getattr(part, "_tfll_initialized", True) for part in parts)


def _point_to_keras_2(tf: Any) -> None:
    """Does what TensorFlow's `__init__` does, had it found `TF_USE_LEGACY_KERAS`."""
    spec = importlib.util.find_spec("tf_keras")
    if spec is None or not spec.submodule_search_locations:
        raise ImportError("tfr_pipeline needs Keras 2: run `pip install tf-keras`.")
    # `from tensorflow.keras import ...` looks here.
    home = os.path.join(next(iter(spec.submodule_search_locations)), "api", "_v2")
    tf.__path__ = [home, *tf.__path__]
    # Registers what SavedModels are loaded with.
    importlib.import_module("tf_keras.src.optimizers")


# Private names of Keras 2. Each is used because there is no public one, and has a test
# in tests/test_compat.py.


def weight_losses(model: Any) -> list[Any]:
    """Returns the losses of a model that no batch has a part in: of its weights.

    `model.losses` has them among those that layers have added for a batch.
    """
    values = [loss() for loss in weight_loss_functions(model)]
    return [value for value in values if value is not None]


def sublayers(layer: Any, recursive: bool = False) -> list[Any]:
    """Returns the layers that a layer or model keeps; `recursive`: with all below."""
    return list(layer._flatten_layers(recursive=recursive, include_self=False))


def variable_key(optimizer: Any, variable: Any) -> Any:
    """Returns what an optimizer knows a variable by, also on one of its replicas."""
    return optimizer._var_key(variable)


def weight_loss_functions(layer: Any) -> list[Callable[[], Any]]:
    """Returns what makes the losses of the weights of a layer, or model."""
    return [loss for part in layer._flatten_layers() for loss in part._callable_losses]


def takes_training(layer: Any) -> bool:
    """Whether a layer can be called with `training`."""
    return bool(layer._expects_training_arg)


def losses_of(model: Any) -> list[Any]:
    """Returns the losses that a model has been compiled with."""
    return __getattr__("tf").nest.flatten(model.compiled_loss._losses)


def losses_again(model: Any) -> Callable[[Any, Any, Any], Any]:
    """Returns what computes the losses of a compiled model, and counts by itself.

    A function of labels, scores and weights; what the model has counted stays as it is.
    """
    first = model.compiled_loss
    return type(first)(
        first._user_losses,
        loss_weights=first._user_loss_weights,
        output_names=model.output_names,
    )


def adam_slots(optimizer: Any, variable: Any) -> tuple[Any, Any]:
    """Returns the variables of both moments that Adam keeps for a variable."""
    index = optimizer._index_dict[optimizer._var_key(variable)]
    return optimizer._momentums[index], optimizer._velocities[index]


def first_part(value: Any) -> Any:
    """Returns the first tensor of a value that has parts on several workers."""
    return __getattr__("tf").nest.flatten(value._values)[0]


def is_ready(value: Any) -> bool:
    """Whether a `RemoteValue` has been computed, or given up."""
    return value._status.name != "NOT_READY"


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
    elif name == "hub":
        _import_tensorflow()
        with warnings.catch_warnings():
            # It still imports pkg_resources, which says that it is to go.
            warnings.simplefilter("ignore")
            module = importlib.import_module("tensorflow_hub")
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = module
    return module


def gradient_table() -> dict[str, Any]:
    """Returns TensorFlow's table of gradients, which has no public name.

    Its values are dicts; under `type` there is the function.
    """
    _import_tensorflow()
    ops = importlib.import_module("tensorflow.python.framework.ops")
    return ops.gradient_registry._registry


def saved_model_proto(serialized: bytes) -> Any:
    """Returns the proto of a `saved_model.pb`, which has no public name."""
    _import_tensorflow()
    module = importlib.import_module("tensorflow.core.protobuf.saved_model_pb2")
    return module.SavedModel.FromString(serialized)


def lazy_attributes(
    package: str, homes: Mapping[str, str] | None = None
) -> Callable[[str], Any]:
    """Returns the `__getattr__` of a package that shares its name with TF-Ranking's.

    It finds our names and modules without loading anything else, and hands the rest of
    what `tfr.<package>` has through, for code that changed one import line.

    Args:
      package: Full name of the package, such as `tfr_pipeline.losses`.
      homes: Maps names that the package exports to the modules they are in, those of
        another package by their full names.
    """

    def find(name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if homes and name in homes:
            home = homes[name]
            if not home.startswith("tfr_pipeline."):
                home = f"{package}.{home}"
            return getattr(importlib.import_module(home), name)
        # `from package import module` asks here before it looks for the module.
        if importlib.util.find_spec(f"{package}.{name}"):
            return importlib.import_module(f"{package}.{name}")
        return getattr(getattr(__getattr__("tfr"), package.rpartition(".")[2]), name)

    return find


select_keras()
