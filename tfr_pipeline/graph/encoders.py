"""Vectors of nodes: features side by side, or what a model makes of them."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from tfr_pipeline import hub
from tfr_pipeline.errors import ConfigError, DataError
from tfr_pipeline.graph.parts import Part


@dataclasses.dataclass(frozen=True)
class Encoder:
    """Makes vectors of the features of nodes.

    Attributes:
      features: Names of the features; by default all of floats.
      module: Path of a Hub module or of another SavedModel; none for the features
        themselves. It takes one input (a text, or numbers side by side), or a signature
        takes inputs that are called as the features are.
      signature: Name of a signature of the module; by default it is called.
      output_key: Which output of the signature; by default the only one.
      batch_size: Nodes that are encoded together.
    """

    features: tuple[str, ...] = ()
    module: str = ""
    signature: str | None = None
    output_key: str | None = None
    batch_size: int = 1024

    def __call__(self, part: Part, kind: str) -> np.ndarray:
        """Returns float32 `[nodes, dims]`.

        Args:
          part: Some of the data.
          kind: What the nodes are, one of `nodes.KINDS`.

        Raises:
          ConfigError: There is no such feature, or the module takes others.
          DataError: A value is NaN or infinite, or a vector longer than another.
        """
        columns = part.columns(self.features, kind)
        if not self.module:
            vectors = _side_by_side(columns)
        else:
            count = len(next(iter(columns.values())))
            pieces = [
                self._encoded(
                    {n: v[i : i + self.batch_size] for n, v in columns.items()}
                )
                for i in range(0, count, self.batch_size)
            ]
            vectors = np.concatenate(pieces) if pieces else np.zeros((0, 0), np.float32)
        wrong = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
        if len(wrong):
            row = int(wrong[0])
            raise DataError(
                f"node {part.nodes(kind)[row]!r}: expected a vector of finite numbers, "
                f"found {vectors[row][~np.isfinite(vectors[row])][0]} in it, made of "
                f"{', '.join(columns)}. Mend the data, or choose others by --features."
            )
        return vectors

    def _encoded(self, columns: dict[str, np.ndarray]) -> np.ndarray:
        from tfr_pipeline.compat import tf

        call = _loaded(self.module, self.signature, tuple(columns))
        try:
            if self.signature is None or call.single:
                made = call.function(tf.constant(_input(columns)))
            else:
                made = call.function(
                    **{name: tf.constant(value) for name, value in columns.items()}
                )
            if isinstance(made, dict):
                made = made[self._output(made)]
            vectors = np.asarray(made)
        except (ValueError, TypeError, tf.errors.InvalidArgumentError) as error:
            raise ConfigError(
                f"--module: {self.module}: expected it to take the features "
                f"{', '.join(columns)} ({str(error)[:300]})."
            ) from error
        if vectors.ndim != 2 or vectors.dtype.kind != "f":
            raise ConfigError(
                f"--module: {self.module}: expected a vector a node, found "
                f"{vectors.dtype} {list(vectors.shape)}."
            )
        return vectors.astype(np.float32, copy=False)

    def _output(self, made: dict[str, Any]) -> str:
        if self.output_key is None and len(made) == 1:
            return next(iter(made))
        if self.output_key not in made:
            raise ConfigError(
                f"--output_key: expected one of {', '.join(sorted(made))}, found "
                f"{self.output_key!r}."
            )
        return self.output_key


@dataclasses.dataclass(frozen=True)
class _Loaded:
    function: Any
    single: bool


@functools.cache
def _loaded(handle: str, signature: str | None, features: tuple[str, ...]) -> _Loaded:
    """Returns the function of a module, which this process loads once."""
    folder = hub.find(handle)
    offered = hub.offer(folder)
    inputs: Sequence[str] = ()
    if signature is not None and signature in offered.signatures:
        inputs = offered.signatures[signature][0]
    if not inputs:  # a call, or nothing that is offered
        hub.check_function(handle, offered, signature, None)
    elif len(inputs) > 1 and set(inputs) != set(features):
        raise ConfigError(
            f"--module: {handle}: signature {signature!r} takes {', '.join(inputs)}; "
            f"expected --features of these names, found {', '.join(features)}."
        )
    module = hub.load(folder, handle)
    function = module if signature is None else module.signatures[signature]
    if len(inputs) == 1:
        name = inputs[0]
        return _Loaded(lambda value: function(**{name: value}), True)
    return _Loaded(function, signature is None)


def _input(columns: dict[str, np.ndarray]) -> np.ndarray:
    """Returns what a function of one input takes: texts, or numbers side by side."""
    first = next(iter(columns.values()))
    if first.dtype.kind not in "OUS":
        return _side_by_side(columns)
    if len(columns) > 1 or first.size != len(first):
        raise ConfigError(
            "--features: expected one text, or numbers, for a module of one input; "
            f"found {', '.join(columns)}."
        )
    return first.reshape(-1)


def _side_by_side(columns: dict[str, np.ndarray]) -> np.ndarray:
    texts = [name for name, value in columns.items() if value.dtype.kind in "OUS"]
    if texts:
        raise ConfigError(
            f"--features: expected numbers, found the text {', '.join(texts)}. "
            "--module=PATH makes vectors of it."
        )
    flat = [value.reshape(len(value), -1) for value in columns.values()]
    return np.concatenate(flat, axis=1, dtype=np.float32, casting="unsafe")
