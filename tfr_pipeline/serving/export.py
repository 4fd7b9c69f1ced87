"""Export of a trained model: a SavedModel that needs nothing but TensorFlow."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tensorflow as tf

from tfr_pipeline import files
from tfr_pipeline.errors import PipelineError, RunError
from tfr_pipeline.features import FILE_NAME
from tfr_pipeline.serving.signatures import CLASSIFY, RANK

# TensorFlow Serving leaves this folder of a SavedModel to its owner.
EXTRA_ASSETS = "assets.extra"
# In a template alone: where in a checkpoint the weights are; never exported.
PLACES = "places.json"
# What preprocessing has learnt of the training data, for those who train on from here.
LEARNT = "preprocessing.json"
# What TensorFlow raises for checkpoints, also those of a SavedModel, that are cut,
# spoilt or another model's.
READ_ERRORS = (
    tf.errors.OpError,
    OSError,
    AssertionError,
    ValueError,
    LookupError,
    RuntimeError,
)
# What an export may replace: a SavedModel, by TensorFlow's or Keras's hand, without
# anything that somebody added.
_SAVED_MODEL = (
    *("saved_model.pb", "fingerprint.pb", "keras_metadata.pb"),
    *("variables/*", "assets/*"),
    *(f"{EXTRA_ASSETS}/{name}" for name in (FILE_NAME, PLACES, LEARNT)),
)


def export_saved_model(
    model: tf.keras.Model,
    signatures: Mapping[str, Callable[..., Any]] | None,
    path: str,
    extra_assets: Mapping[str, str] | None = None,
    check: Callable[[str], None] | None = None,
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
      check: Takes the folder before it is renamed; if it raises, nothing is left, and
        what stood there before stays.

    Returns:
      `path`.

    Raises:
      RunError: The disk is full or the folder cannot be written.
    """
    module = tf.Module()
    module.weights = list(model.variables)
    module.resources = resources(model)
    return save_functions(module, dict(signatures or {}), path, extra_assets, check)


def save_functions(
    module: tf.Module,
    functions: Mapping[str, Callable[..., Any]],
    path: str,
    extra_assets: Mapping[str, str] | None = None,
    check: Callable[[str], None] | None = None,
) -> str:
    """Writes a SavedModel of functions, and of a module that has what they use.

    Args:
      module: Has the variables and resources.
      functions: Maps signature keys to `tf.function`s.
      path: See `export_saved_model`.
      extra_assets: See `export_saved_model`.
      check: See `export_saved_model`.

    Returns:
      `path`.

    Raises:
      RunError: See `export_saved_model`.
    """
    # Scores of whole matrices; no signature, but there for `Predictor` and ensembles.
    scoring = functions.get(RANK) or functions.get(CLASSIFY)
    for name in ("packed", "sampled"):
        setattr(module, name, getattr(scoring, name, None))

    def write(folder: str) -> None:
        tf.saved_model.save(module, folder, signatures=dict(functions))
        assets = os.path.join(folder, EXTRA_ASSETS)
        for name, text in (extra_assets or {}).items():
            os.makedirs(assets, exist_ok=True)
            with open(os.path.join(assets, name), "w", encoding="utf-8") as file:
                file.write(text)

    return replace_saved_model(path, write, check)


def resources(part: Any) -> list[Any]:
    """Returns what functions of a model, or layer, use beside its variables.

    That is the lookup tables of preprocessing, and the files of modules.
    """
    kinds = (
        tf.saved_model.experimental.TrackableResource,
        tf.saved_model.Asset,
        tf.lookup.StaticHashTable,
        tf.lookup.experimental.MutableHashTable,
    )
    found = tf.train.TrackableView(part).descendants()
    return [node for node in found if isinstance(node, kinds)]


def export_other_weights(
    weights: Sequence[tf.Variable],
    source: str,
    path: str,
    check: Callable[[str], None] | None = None,
) -> str:
    """Writes an export that differs from another one in the weights only.

    Functions are copied instead of traced and optimised again, which is most of the
    work of an export.

    Args:
      weights: The weights, in the order of the `variables` of the model of `source`.
      source: Folder that `export_saved_model` wrote of this model.
      path: The folder.
      check: As `export_saved_model`.

    Returns:
      `path`.

    Raises:
      RunError: As `export_saved_model`, or the source cannot be read.
    """
    others = {
        f"weights/{number}/.ATTRIBUTES/VARIABLE_VALUE": tf.convert_to_tensor(variable)
        for number, variable in enumerate(weights)
    }
    try:
        reader = tf.train.load_checkpoint(_variables(source))
        tensors: dict[str, Any] = dict.fromkeys(reader.get_variable_to_shape_map())
        for name in tensors.keys() - others.keys():
            # Tables and the description of the objects stay.
            tensors[name] = tf.constant(reader.get_tensor(name))
    except READ_ERRORS as error:
        raise RunError(
            f"{_variables(source)}: cannot be read, and the export to {path} is made "
            f"of it: {error}. Bring it back, or remove {source}."
        ) from error
    for name, tensor in others.items():
        if name not in tensors:
            raise RunError(f"{source}: expected the weight {name}; not found.")
        tensors[name] = tensor

    def write(folder: str) -> None:
        # The fingerprint is that of the other weights.
        ignore = shutil.ignore_patterns("variables", "fingerprint.pb", PLACES)
        shutil.copytree(source, folder, ignore=ignore, dirs_exist_ok=True)
        os.makedirs(os.path.dirname(_variables(folder)))
        tf.raw_ops.SaveV2(
            prefix=_variables(folder),
            tensor_names=list(tensors),
            shape_and_slices=[""] * len(tensors),
            tensors=list(tensors.values()),
        )

    return replace_saved_model(path, write, check)


def _variables(path: str) -> str:
    return os.path.join(path, "variables", "variables")


def replace_saved_model(
    path: str, write: Callable[[str], None], check: Callable[[str], Any] | None
) -> str:
    """Lets `write` fill a folder that then takes the place of `path`.

    Args:
      path: The folder; what stands there must be a SavedModel, or nothing.
      write: Fills a folder.
      check: See `export_saved_model`.

    Returns:
      `path`.

    Raises:
      RunError: See `export_saved_model`.
    """
    temporary = path
    try:
        with files.replacing(path, _SAVED_MODEL) as temporary:
            write(temporary)
            if check:
                check(temporary)
    except PipelineError as error:
        cause = str(error).replace(temporary, path)
        raise RunError(f"{path}: nothing was exported: {cause}") from error
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
