"""Some of a data set, as the steps from ids to packed neighbours see it.

`ListsPart` is ranked lists of any format, `ExamplesPart` are `tf.train.Example`s, each
a node. Both are plain data that travels between processes.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from tfr_pipeline.data.lists import Lists, Ragged
from tfr_pipeline.errors import ConfigError, DataError, unknown_name
from tfr_pipeline.features import Features
from tfr_pipeline.graph import nodes

_KINDS = {"float_list": "float32", "int64_list": "int64", "bytes_list": "string"}
_DIGEST = 16


def content_id(digest: bytes) -> str:
    """Returns the id of a document that has none: a hash of its content."""
    return f"h{digest.hex()[:20]}"


def distinct_id(name: str, digest: bytes) -> str:
    """Returns the id of a document that shares its id with one of other content."""
    return f"{name}~{digest.hex()[:12]}"


@dataclasses.dataclass
class ListsPart:
    """Ranked lists.

    Attributes:
      lists: The lists; matrices as wide as they are named for.
      features: Their description.
      query_ids: Whether the data has query ids; else they are only numbers.
    """

    lists: Lists
    features: Features
    query_ids: bool = True

    def __len__(self) -> int:
        return self.lists.num_documents

    def contents(self) -> list[bytes]:
        """Returns a hash of the features of each document."""
        lists = self.lists
        digests = [
            hashlib.blake2b(row, digest_size=_DIGEST) for row in _rows(lists.values)
        ]
        for name in sorted(lists.loose):
            column = lists.loose[name]
            for row, digest in enumerate(digests):
                digest.update(repr((name, column.row(row).tolist())).encode())
        return [digest.digest() for digest in digests]

    def with_query_ids(self, contents: Sequence[bytes]) -> ListsPart:
        """Returns the part; lists without a query id have one of their content."""
        lists = self.lists
        names = lists.query_ids.copy()
        for number, (start, stop) in enumerate(_ranges(lists.row_splits)):
            if not self.query_ids or not names[number]:
                joined = b"".join(sorted(contents[start:stop]))
                digest = hashlib.blake2b(joined, digest_size=_DIGEST).digest()
                names[number] = content_id(digest)
        lists = dataclasses.replace(lists, query_ids=names)
        return dataclasses.replace(self, lists=lists, query_ids=True)

    def ids(self) -> list[str]:
        """Returns the id of each document, empty where it has none."""
        return self.lists.document_ids.tolist()

    def with_ids(self, ids: Iterable[str]) -> ListsPart:
        """Returns the part with other ids of documents."""
        lists = dataclasses.replace(self.lists, document_ids=_objects(ids))
        return dataclasses.replace(self, lists=lists)

    def nodes(self, kind: str = nodes.DOCUMENTS) -> list[str]:
        """Returns the names of the nodes."""
        return nodes.of_lists(self.lists, kind).tolist()

    def columns(self, names: Sequence[str], kind: str) -> dict[str, np.ndarray]:
        """Returns features of nodes, `[nodes, ...]` each; by default all numbers.

        Raises:
          ConfigError: There is no such feature.
        """
        queries = kind == nodes.QUERIES
        known = self.features.context if queries else self.features.example
        if not names:
            names = [n for n in sorted(known) if known[n].dtype == "float32"]
            names = [name for name in names if known[name].kind == "fixed"]
        if not names:
            raise ConfigError(
                f"--features: expected float features of {kind}, found none."
            )
        found = {}
        for name in names:
            if name not in known:
                message = unknown_name("feature", name, known, f"features of {kind}")
                raise ConfigError(message)
            loose = self.lists.loose_context if queries else self.lists.loose
            if name in loose:
                found[name] = _dense(name, loose[name])
            elif queries:
                found[name] = self.lists.context[name]
            else:
                found[name] = self._of_matrix(name)
        return found

    def _of_matrix(self, wanted: str) -> np.ndarray:
        dtype, position = self.features.example[wanted].dtype, 0
        for name, columns in widths(self.features, dtype).items():
            if name == wanted:
                return self.lists.values[dtype][:, position : position + columns]
            position += columns
        raise AssertionError(wanted)


@dataclasses.dataclass
class ExamplesPart:
    """`tf.train.Example`s.

    Attributes:
      records: Serialized.
      id_feature: Name of the feature with the id.
      label: Name of the feature that is no content.
    """

    records: list[bytes]
    id_feature: str = "id"
    label: str = "label"

    def __len__(self) -> int:
        return len(self.records)

    @functools.cached_property
    def parsed(self) -> list[Any]:
        """The messages."""
        from tfr_pipeline.compat import tf

        return [tf.train.Example.FromString(record) for record in self.records]

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in vars(self).items() if k != "parsed"}

    def contents(self) -> list[bytes]:
        """Returns a hash of the features of each but id and label."""
        result = []
        for message in self.parsed:
            features = message.features.feature
            digest = hashlib.blake2b(digest_size=_DIGEST)
            for name in sorted(set(features) - {self.id_feature, self.label}):
                kind = features[name].WhichOneof("kind")
                values = list(getattr(features[name], kind).value) if kind else []
                digest.update(repr((name, kind, values)).encode())
            result.append(digest.digest())
        return result

    def with_query_ids(self, contents: Sequence[bytes]) -> ExamplesPart:
        """Returns the part: no queries are here."""
        return self

    def ids(self) -> list[str]:
        """Returns the id of each, empty where it has none.

        Raises:
          DataError: The id is no text.
        """
        return [self._id(message) for message in self.parsed]

    def _id(self, message: Any) -> str:
        if self.id_feature not in message.features.feature:
            return ""
        feature = message.features.feature[self.id_feature]
        values = feature.bytes_list.value
        try:
            if len(values) != 1:
                raise ValueError
            name = values[0].decode()
            if any(character in name for character in "\t\n\r"):
                raise ValueError
        except ValueError:
            raise DataError(
                f"feature {self.id_feature!r}: expected one text in UTF-8 without tab "
                f"and line end, for it is the id; found {str(feature)[:80]!r}."
            ) from None
        return name

    def with_ids(self, ids: Iterable[str]) -> ExamplesPart:
        """Returns the part with other ids; a record that has its id stays."""
        records = []
        for record, message, name in zip(self.records, self.parsed, ids, strict=True):
            if self._id(message) != name:
                message = type(message).FromString(record)
                value = message.features.feature[self.id_feature].bytes_list.value
                value[:] = [name.encode()]
                record = message.SerializeToString(deterministic=True)
            records.append(record)
        return ExamplesPart(records, self.id_feature, self.label)

    def nodes(self, kind: str = nodes.EXAMPLES) -> list[str]:
        """Returns the names of the nodes.

        Raises:
          DataError: One has no id.
          ConfigError: There are no other nodes than examples.
        """
        if kind != nodes.EXAMPLES:
            raise ConfigError(unknown_name("nodes", kind, (nodes.EXAMPLES,)))
        names = self.ids()
        if "" in names:
            raise DataError(
                f"expected a feature {self.id_feature!r} with the id in each "
                "tf.train.Example, found one without. `tfr-pipeline graph identify` "
                "makes ids; --id_feature names another feature."
            )
        return names

    def columns(self, names: Sequence[str], kind: str) -> dict[str, np.ndarray]:
        """Returns features, `[examples, ...]` each; by default those of floats.

        Raises:
          ConfigError: There is no such feature.
          DataError: One example has fewer or more values than another.
        """
        if not names and self.parsed:
            first = self.parsed[0].features.feature
            names = sorted(
                name
                for name in set(first) - {self.label}
                if first[name].WhichOneof("kind") == "float_list"
            )
        if not names:
            raise ConfigError("--features: expected features of floats, found none.")
        return {name: self._column(name) for name in names}

    def _column(self, name: str) -> np.ndarray:
        rows: list[Any] = []
        for message in self.parsed:
            features = message.features.feature
            if name not in features:
                message = unknown_name("feature", name, features, "an example")
                raise ConfigError(message)
            kind = features[name].WhichOneof("kind")
            rows.append(getattr(features[name], kind).value if kind else [])
        dtype = _KINDS.get(kind or "", "float32") if rows else "float32"
        lengths = [len(row) for row in rows]
        wrong = next((i for i, size in enumerate(lengths) if size != lengths[0]), None)
        if wrong is not None:
            raise DataError(
                f"example {self.ids()[wrong]!r}: feature {name!r}: expected "
                f"{lengths[0]} values, as in {self.ids()[0]!r}, found {lengths[wrong]}."
            )
        if dtype == "string":
            result = np.empty((len(rows), lengths[0] if rows else 1), object)
            for number, row in enumerate(rows):
                result[number] = list(row)
            return result
        return np.array([list(row) for row in rows], dtype)


Part = ListsPart | ExamplesPart


def widths(features: Features, dtype: str) -> dict[str, int]:
    """Returns how many columns of the matrix of a dtype each feature has, in order."""
    return {
        name: int(np.prod(feature.shape, dtype=int))
        for name, feature in features.example.items()
        if feature.dtype == dtype and feature.kind == "fixed"
    }


def _rows(values: dict[str, np.ndarray]) -> list[bytes]:
    """Returns the bytes of each document; zero has no sign in them."""
    parts = []
    for dtype in sorted(values):
        matrix = np.ascontiguousarray(values[dtype] + values[dtype].dtype.type(0))
        parts.append(matrix.view(np.uint8).reshape(len(matrix), -1))
    return [row.tobytes() for row in np.concatenate(parts, axis=1)]


def _ranges(splits: np.ndarray) -> Iterable[tuple[int, int]]:
    return zip(splits[:-1].tolist(), splits[1:].tolist(), strict=True)


def _objects(values: Iterable[str]) -> np.ndarray:
    listed = list(values)
    result = np.empty(len(listed), object)
    result[:] = listed
    return result


def _dense(name: str, column: Ragged) -> np.ndarray:
    lengths = column.lengths
    if len(lengths) and (lengths != lengths[0]).any():
        row = int(np.flatnonzero(lengths != lengths[0])[0])
        raise DataError(
            f"feature {name!r}: expected {lengths[0]} values of each node, as the "
            f"first has, found {lengths[row]} of node {row}."
        )
    size = int(lengths[0]) if len(lengths) else 1
    return column.plain_values.reshape(len(lengths), size)
