"""Texts that become vectors while they are converted: `--embed title=PATH`."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from tfr_pipeline import hub
from tfr_pipeline.data.lists import Lists
from tfr_pipeline.errors import ConfigError, DataError, unknown_name
from tfr_pipeline.features import Feature, Features

_AT_ONCE = 1024  # texts that are encoded together
# Vectors that a process keeps, for texts that come again.
_KEPT_BYTES = 1 << 28


@dataclasses.dataclass(frozen=True)
class Embed:
    """A text feature, the vector that is made of it, and the module that makes it.

    Attributes:
      text: Name of the text, of documents or of queries.
      vector: Name of the vector; where it is the same, the vector takes the place of
        the text.
      handle: The module; see `tfr_pipeline.hub.find`.
    """

    text: str
    vector: str
    handle: str

    @classmethod
    def parse(cls, told: str) -> Embed:
        """Returns what `title=PATH`, or `title:title_vector=PATH`, says.

        Raises:
          ConfigError: It is neither.
        """
        names, equals, handle = told.partition("=")
        text, colon, vector = names.partition(":")
        if not (text and equals and handle) or (colon and not vector):
            raise ConfigError(
                "--embed: expected a text feature and a module, title=PATH, or "
                f"title:title_vector=PATH to keep the text, found {told!r}."
            )
        return cls(text, vector or text, handle)

    def __str__(self) -> str:
        """Says it as it is parsed."""
        names = [self.text] + [self.vector] * (self.vector != self.text)
        return f"{':'.join(names)}={self.handle}"

    def described(self, features: Features) -> Features:
        """Returns the description with the vector.

        Raises:
          ConfigError: There is no such text, one of several values, or a feature of the
            name of the vector.
        """
        of = "example" if self.text in features.example else "context"
        known: dict[str, Feature] = dict(getattr(features, of))
        if self.text not in known:
            names = [*features.context, *features.example]
            raise ConfigError(unknown_name("feature", self.text, names, "--embed"))
        text = known[self.text]
        one = text.kind == "fixed" and text.shape in ((), (1,))
        if text.dtype != "string" or not one:
            raise ConfigError(
                f"--embed: expected {self.text!r} to be one text, found {text.kind} "
                f"{text.dtype} of shape {list(text.shape)}."
            )
        if self.vector == self.text:
            del known[self.text]
        elif self.vector in {*features.example, *features.context}:
            raise ConfigError(f"--embed: there is a feature {self.vector!r} already.")
        # At the end, as its columns are.
        known[self.vector] = Feature("float32", (_encoder(self.handle).dims,), 0.0)
        changed: dict[str, Any] = {of: known}
        return dataclasses.replace(features, **changed)

    def applied(self, lists: Lists) -> Lists:
        """Returns lists with the vector."""
        replaces = self.vector == self.text
        if self.text in lists.loose:
            loose = dict(lists.loose)
            column = loose.pop(self.text) if replaces else loose[self.text]
            if (column.lengths != 1).any():
                document = int(np.flatnonzero(column.lengths != 1)[0])
                raise DataError(
                    f"{lists.place(document)}: expected one {self.text!r}, found "
                    f"{column.lengths[document]}."
                )
            vectors = _encoder(self.handle)(column.values)
            floats = lists.values.get("float32", np.zeros((len(vectors), 0)))
            matrix = np.concatenate([floats, vectors], axis=1, dtype=np.float32)
            values = {**lists.values, "float32": matrix}
            return dataclasses.replace(lists, values=values, loose=loose)
        context = dict(lists.context)
        texts = context.pop(self.text) if replaces else context[self.text]
        context[self.vector] = _encoder(self.handle)(texts.reshape(-1))
        return dataclasses.replace(lists, context=context)


def described(features: Features, embeds: Sequence[Embed]) -> Features:
    """Returns the description with the vectors of all, and with what they are of."""
    for embed in embeds:
        features = embed.described(features)
    if not embeds:
        return features
    told = {"embed": ", ".join(map(str, embeds))}
    return dataclasses.replace(features, reading={**features.reading, **told})


class _Encoder:
    """Encodes each distinct text once, as long as it remembers it.

    Args:
      handle: The module.

    Attributes:
      dims: Length of a vector.
    """

    def __init__(self, handle: str):
        folder = hub.find(handle)
        hub.check_function(handle, hub.offer(folder), None, None)
        self._handle, self._call = handle, hub.load(folder, handle)
        self._known: dict[bytes, np.ndarray] = {}
        self.dims = len(self._encoded([b""])[0])

    def __call__(self, texts: Iterable[Any]) -> np.ndarray:
        """Returns float32 `[texts, dims]`."""
        raw = [t if isinstance(t, bytes) else str(t).encode() for t in texts]
        distinct = dict.fromkeys(raw)
        new = [text for text in distinct if text not in self._known]
        kept = {t: self._known[t] for t in distinct if t in self._known}
        if (len(self._known) + len(new)) * self.dims * 4 > _KEPT_BYTES:
            self._known = {}
        for first in range(0, len(new), _AT_ONCE):
            some = new[first : first + _AT_ONCE]
            kept |= zip(some, self._encoded(some), strict=True)
        self._known |= kept
        result = np.empty((len(raw), self.dims), np.float32)
        for row, text in enumerate(raw):
            result[row] = kept[text]
        return result

    def _encoded(self, texts: list[bytes]) -> np.ndarray:
        from tfr_pipeline.compat import tf

        try:
            vectors = np.asarray(self._call(tf.constant(texts)))
        except (ValueError, TypeError) as error:
            raise ConfigError(
                f"--embed: {self._handle}: expected a module that takes texts "
                f"({str(error)[:300]})."
            ) from error
        if vectors.ndim != 2 or vectors.dtype.kind != "f":
            raise ConfigError(
                f"--embed: {self._handle}: expected a module that makes a vector of a "
                f"text, found {vectors.dtype} {list(vectors.shape)} of {len(texts)}."
            )
        return vectors.astype(np.float32, copy=False)


@functools.cache
def _encoder(handle: str) -> _Encoder:
    """Returns the encoder of this process."""
    return _Encoder(handle)
