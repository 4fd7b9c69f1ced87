"""Parts of a trained model as modules for TensorFlow Hub.

A module is a reusable SavedModel, as `hub.load` and `hub.KerasLayer` take it, to be
used or trained further in another model, by a process without this package.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tfr_pipeline import compat
from tfr_pipeline.errors import ConfigError, unknown_name
from tfr_pipeline.model import layer_names
from tfr_pipeline.model.layers.hub import HubEncoder
from tfr_pipeline.serving.export import replace_saved_model, resources


def parts(model: tf.keras.Model) -> dict[str, tuple[tf.keras.layers.Layer, Any]]:
    """Returns the layers of a functional model that can be modules.

    Args:
      model: The model.

    Returns:
      Maps names to layers, and to specs of what they are called with, in the structure
      of that.
    """
    found: dict[str, tuple[Any, Any]] = {}
    seen, stack = set(), tf.nest.flatten(model.outputs)
    while stack:
        node = stack.pop().node
        if id(node) in seen:
            continue
        seen.add(id(node))
        stack += node.keras_inputs
        layer = node.layer
        # Inputs, and the operations that Keras makes layers of.
        if node.keras_inputs and not type(layer).__name__.endswith("OpLambda"):
            spec = tf.nest.map_structure(_spec, node.call_args[0])
            found[layer.name] = layer, spec
    bases = {
        name for layer, _ in found.values() if (name := layer_names.unnamed(layer))
    }
    names, _ = layer_names.renumbered([f"{own}/" for own in found], bases)
    return dict(zip((n.rstrip("/") for n in names), found.values(), strict=True))


def _spec(tensor: Any) -> Any:
    """Returns the spec of a symbolic tensor, with any number of rows."""
    spec = tensor.type_spec
    if isinstance(spec, tf.TensorSpec) and spec.shape.rank:
        shape = [None, *spec.shape[1:]]
        return tf.TensorSpec(shape, spec.dtype, name="inputs")
    return spec


def export_module(model: tf.keras.Model, name: str, path: str) -> str:
    """Writes a layer of a model as a module.

    It can be called with what the layer is called with, by a `HubEncoder` as its own
    module is, and with `training`, if the layer takes that. It has `variables`,
    `trainable_variables`, whether the layer was frozen or not, and
    `regularization_losses`.

    Args:
      model: The model.
      name: Name of the layer.
      path: The folder, replaced if a SavedModel is there.

    Returns:
      `path`.

    Raises:
      ConfigError: There is no such layer; the message names those that there are.
      RunError: It cannot be written, or not be called without the rest of the model.
    """
    known = parts(model)
    if name not in known:
        raise ConfigError(unknown_name("layer", name, known, "--module"))
    layer, spec = known[name]
    if isinstance(layer, HubEncoder):
        layer, spec = layer.module, layer.takes or spec
    was_trainable = layer.trainable
    layer.trainable = getattr(layer, "_signature", None) is None
    try:
        module = _module(layer, spec)
        return replace_saved_model(
            path,
            lambda folder: tf.saved_model.save(module, folder),
            compat.hub.load,
        )
    finally:
        layer.trainable = was_trainable


def _module(layer: Any, spec: Any) -> Any:
    module = tf.train.Checkpoint()
    module.resources = resources(layer)
    module.variables = list(layer.variables)
    module.trainable_variables = list(layer.trainable_variables)
    module.regularization_losses = [
        _loss(function) for function in compat.weight_loss_functions(layer)
    ]
    if compat.takes_training(layer):
        call = tf.function(lambda x, training=False: layer(x, training=training))
        for training in (True, False):
            call.get_concrete_function(spec, training=training)
    else:
        call = tf.function(lambda inputs: layer(inputs))
        call.get_concrete_function(spec)
    module.__call__ = call
    return module


def _loss(function: Any) -> Any:
    return tf.function(lambda: tf.convert_to_tensor(function()), input_signature=[])
