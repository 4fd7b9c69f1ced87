"""Texts that frozen encoders encode once, before training, and not in each step.

A module that training does not change gives a text the same vector in every epoch. So
its vectors are computed ahead, once for each distinct text of the data, and batches
hold vectors in place of texts: training steps use a view of the model that begins
behind the encoders. The model itself is as it was: it takes texts, in `predict` and in
exports.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from tfr_pipeline import urls
from tfr_pipeline.data import room
from tfr_pipeline.data.batching.tensors import as_tensor
from tfr_pipeline.model.layers.hub import HubEncoder
from tfr_pipeline.scopes import outside_scope

_ENCODED = "encoded_"
_AT_ONCE = 256  # texts, or files of images, that are encoded together

Batch = Mapping[str, Any]


def calls(outputs: Any) -> dict[str, Any]:
    """Returns, by name, what frozen encoders make of texts on the way to the outputs.

    Args:
      outputs: Symbolic tensors of a functional model.
    """
    found: dict[str, Any] = {}
    seen, stack = set(), tf.nest.flatten(outputs)
    while stack:
        tensor = stack.pop()
        node = tensor.node
        if id(node) in seen:
            continue
        seen.add(id(node))
        layer, texts = node.layer, node.keras_inputs
        if isinstance(layer, HubEncoder) and layer.frozen and _is_text(*texts):
            number = layer.inbound_nodes.index(node)
            found[f"{_ENCODED}{layer.name}_{number}"] = tensor
        else:
            stack += texts
    return dict(sorted(found.items()))


def _is_text(tensor: Any) -> bool:
    return tensor.dtype == tf.string and isinstance(
        getattr(tensor, "type_spec", None), tf.TensorSpec
    )


def reached(outputs: Any, tensors: Mapping[str, Any]) -> dict[str, Any]:
    """Returns those of some symbolic tensors that the outputs are computed from."""
    names = {id(tensor): name for name, tensor in tensors.items()}
    found, seen, stack = set(), set(), tf.nest.flatten(outputs)
    while stack:
        tensor = stack.pop()
        if id(tensor) in names:
            found.add(names[id(tensor)])
        elif id(tensor.node) not in seen:
            seen.add(id(tensor.node))
            stack += tensor.node.keras_inputs
    return {name: tensor for name, tensor in tensors.items() if name in found}


def is_encoded(batch: Batch) -> bool:
    """Whether a batch holds vectors in place of texts."""
    return any(name.startswith(_ENCODED) for name in batch)


@dataclasses.dataclass(frozen=True)
class _Call:
    """One use of an encoder in a model.

    Attributes:
      encoder: The encoder.
      inputs: Names of the features that its texts are made of.
      texts: Model from these features to the texts.
    """

    encoder: HubEncoder
    inputs: tuple[str, ...]
    texts: tf.keras.Model

    def of(self, features: Batch) -> Any:
        """Returns the texts of a batch, of any shape."""
        return self.texts({name: features[name] for name in self.inputs})


class Encoding:
    """What of a model can be encoded ahead.

    Args:
      model: A functional model; nothing is encoded ahead without a dict of inputs.

    Attributes:
      calls: Uses of frozen encoders by name; there may be none.
    """

    def __init__(self, model: tf.keras.Model):
        inputs: Any = getattr(model, "input", None)
        found = calls(model.outputs) if isinstance(inputs, dict) else {}
        self.calls: dict[str, _Call] = {}
        for name, tensor in found.items():
            (texts,) = tensor.node.keras_inputs
            needed = reached(texts, inputs)
            part = tf.keras.Model(needed, texts)
            self.calls[name] = _Call(tensor.node.layer, tuple(needed), part)
        if found:
            self._inputs = reached(model.output, {**inputs, **found})
            self._part = tf.keras.Model(self._inputs, model.output)
        # Vectors that are known: rows by text, and the rows; for each encoder.
        self._known: dict[int, list[tuple[dict[bytes, int], np.ndarray]]] = {}

    def scores(self, batch: Batch, training: bool) -> Any:
        """Scores a batch of vectors, from behind the encoders."""
        return self._part({n: batch[n] for n in self._inputs}, training=training)

    def __call__(self, batches: Iterable[Batch]) -> Callable[[Batch], Batch] | None:
        """Encodes each distinct text of some batches, but for those that are known.

        Args:
          batches: Features, as the model takes them, in which all texts occur.

        Returns:
          A function, for `tf.data`, that puts vectors in the place of the texts of
          such a batch; None if they do not fit the memory.
        """
        distinct: dict[int, set[bytes]] = {}
        encoders = {id(call.encoder): call.encoder for call in self.calls.values()}
        for features in batches:
            for call in self.calls.values():
                texts = tf.unique(tf.reshape(call.of(features), [-1]))[0].numpy()
                distinct.setdefault(id(call.encoder), set()).update(texts.tolist())
        tables: dict[int, tuple[Any, Any]] = {}
        for key, found in distinct.items():
            table = self._table(encoders[key], sorted(found))
            if table is None:
                return None
            tables[key] = table

        def replaced(features: Batch) -> Batch:
            vectors = {
                name: _taken(tables[id(call.encoder)], call.of(features))
                for name, call in self.calls.items()
            }
            # Texts that nothing else is made of need not be carried along.
            gone = {name for call in self.calls.values() for name in call.inputs}
            gone -= self._inputs.keys()
            kept = {n: value for n, value in features.items() if n not in gone}
            return {**kept, **vectors}

        return replaced

    def _table(self, encoder: HubEncoder, texts: list[bytes]) -> Any:
        """Returns a hash table from texts to rows, and the rows; None for no room."""
        known = self._known.setdefault(id(encoder), [])
        matrix: np.ndarray | None = None
        new = [
            i for i, t in enumerate(texts) if not any(t in rows for rows, _ in known)
        ]
        local = _outside_scope(encoder) if new else encoder
        for first in range(0, len(new), _AT_ONCE):
            some = new[first : first + _AT_ONCE]
            batch = tf.constant([texts[i] for i in some])
            vectors = local(batch[:, tf.newaxis], training=False).numpy()
            if matrix is None:
                matrix = _matrix(len(texts), vectors, encoder)
                if matrix is None:
                    return None
            matrix[some] = vectors
        for rows, others in known:
            if matrix is None:
                matrix = _matrix(len(texts), others, encoder)
                if matrix is None:
                    return None
            here = [i for i, text in enumerate(texts) if text in rows]
            matrix[here] = others[[rows[texts[i]] for i in here]]
        assert matrix is not None
        known.append((dict(zip(texts, range(len(texts)), strict=True)), matrix))
        with tf.init_scope(), tf.device("CPU:0"):
            rows = tf.range(len(texts), dtype=tf.int64)
            keys = tf.lookup.KeyValueTensorInitializer(tf.constant(texts), rows)
            # A text that is not there is an error when its row is gathered.
            return tf.lookup.StaticHashTable(keys, -1), as_tensor(matrix)


def _outside_scope(encoder: HubEncoder) -> HubEncoder:
    """Returns the encoder as it is without a strategy."""
    if not tf.distribute.has_strategy():
        return encoder
    weights = encoder.get_weights()

    def copied() -> HubEncoder:
        copy = HubEncoder.from_config(encoder.get_config())
        copy.build(None)
        copy.set_weights(weights)
        return copy

    return outside_scope(copied)


def _matrix(rows: int, like: np.ndarray, encoder: HubEncoder) -> np.ndarray | None:
    """Returns memory for so many rows; None, with a line that says so, for no room."""
    size = rows * like[0].nbytes
    limit = room.memory()
    if size > limit.bytes - room.RESERVE:
        _say(
            f"{encoder.handle}: the vectors of {rows:,} distinct texts take "
            f"{room.shown(size)}, more than there is ({room.shown(limit.bytes)} "
            f"{limit.why}): texts are encoded in each step. `convert --embed` writes "
            "vectors to the disk instead."
        )
        return None
    taken = room.shown(size)
    _say(f"{encoder.handle}: {rows:,} distinct texts, encoded once: {taken} of vectors")
    return np.empty((rows, *like.shape[1:]), like.dtype)


def _say(text: str) -> None:
    print(urls.shown(text), file=sys.stderr, flush=True)


def _taken(table: tuple[Any, Any], texts: Any) -> Any:
    """Returns the vectors of texts `[..., 1]` or `[...]`, as the encoder would."""
    places, matrix = table
    own = int(texts.shape.rank > 1 and texts.shape[-1] == 1)
    rows = places.lookup(texts[..., 0] if own else texts)
    return tf.gather(matrix, rows)
