"""`Lists`: whole ranked lists as plain arrays, real documents only.

The form in which data moves between file formats, memory and models. NumPy only, so
that worker processes that parse text need not load TensorFlow.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable

import numpy as np

from tfr_pipeline.layout import PACKED_DTYPES


@dataclasses.dataclass
class Ragged:
    """Any number of values a row. Those of row `i` are `row_splits[i]:row_splits[i+1]`.

    Attributes:
      values: `[values]`; an object array of `bytes` for texts, or the numbers of these,
        int32, where `texts` are given.
      row_splits: int64 `[rows + 1]`, from 0 to the number of values.
      texts: Object array of distinct `bytes`, or None. A text that repeats takes four
        bytes.
    """

    values: np.ndarray
    row_splits: np.ndarray
    texts: np.ndarray | None = None

    @property
    def lengths(self) -> np.ndarray:
        """int64 `[rows]`, values a row."""
        return np.diff(self.row_splits)

    @property
    def plain_values(self) -> np.ndarray:
        """The values themselves, not their numbers."""
        return self.values if self.texts is None else self.texts[self.values]

    def row(self, number: int) -> np.ndarray:
        """Returns the values of a row."""
        some = self.slice(number, number + 1)
        return some.plain_values

    def slice(self, start: int, stop: int) -> Ragged:
        """Returns rows `start:stop` as views."""
        splits = self.row_splits[start : stop + 1]
        values = self.values[splits[0] : splits[-1]]
        return Ragged(values, splits - splits[0], self.texts)

    def take(self, rows: np.ndarray) -> Ragged:
        """Returns some rows in another order."""
        lengths = self.lengths[rows]
        splits = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        offsets = np.repeat(self.row_splits[rows] - splits[:-1], lengths)
        values = self.values[np.arange(splits[-1]) + offsets]
        return Ragged(values, splits, self.texts)

    def numbered(self) -> Ragged:
        """Returns the same with `texts`, and no text among them that is not used."""
        if self.texts is not None:
            used, values = np.unique(self.values, return_inverse=True)
            return Ragged(values.astype(np.int32), self.row_splits, self.texts[used])
        numbering = Numbering()
        values = numbering.of(self.values)
        return Ragged(values, self.row_splits, numbering.new())

    @staticmethod
    def concatenate(parts: list[Ragged]) -> Ragged:
        """Returns all rows of `parts` in order."""
        texts = parts[0].texts
        if any(part.texts is not texts for part in parts):
            parts = [Ragged(part.plain_values, part.row_splits) for part in parts]
            texts = None
        lengths = np.concatenate([part.lengths for part in parts])
        return Ragged(
            np.concatenate([part.values for part in parts]),
            np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
            texts,
        )


class Numbering(dict[bytes, int]):
    """Numbers distinct texts from 0, in the order in which they come."""

    def __init__(self) -> None:
        super().__init__()
        self._new: list[bytes] = []

    def __missing__(self, text: bytes) -> int:
        number = self[text] = len(self)
        self._new.append(text)
        return number

    def of(self, values: np.ndarray) -> np.ndarray:
        """Returns the number of each text, int32 `[values]`.

        Args:
          values: Object array `[values]` of `bytes`.
        """
        numbers = map(self.__getitem__, values.tolist())
        return np.fromiter(numbers, np.int32, len(values))

    def new(self) -> np.ndarray:
        """Returns the texts that came since the last call, an object array."""
        result = np.empty(len(self._new), object)
        result[:] = self._new
        self._new.clear()
        return result


@dataclasses.dataclass
class Lists:
    """A run of whole lists. Documents of list `q` are `row_splits[q]:row_splits[q+1]`.

    Attributes:
      values: Maps a dtype name (`float32`, `int64`) to a matrix `[documents, columns]`
        that holds all document features of that dtype side by side. That of `float32`
        may be kept as float16 or bfloat16, see `widened`.
      row_splits: int64 `[lists + 1]`, from 0 to the number of documents.
      labels: float32 `[documents]`, `[documents, tasks]` for several tasks, or None
        when the source has none.
      query_ids: Object array of `str`, `[lists]`.
      document_ids: Object array of `str`, `[documents]`.
      weights: float32 `[documents]`, or None.
      context: Maps a query feature to an array `[lists, ...]`.
      loose: Maps a document feature that stands in no matrix (a text, any number of
        values) to its values for each document.
      loose_context: The same for query features, for each list.
    """

    values: dict[str, np.ndarray]
    row_splits: np.ndarray
    labels: np.ndarray | None
    query_ids: np.ndarray
    document_ids: np.ndarray
    weights: np.ndarray | None = None
    context: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    loose: dict[str, Ragged] = dataclasses.field(default_factory=dict)
    loose_context: dict[str, Ragged] = dataclasses.field(default_factory=dict)

    @property
    def num_lists(self) -> int:
        """Number of lists (queries)."""
        return len(self.row_splits) - 1

    @property
    def num_documents(self) -> int:
        """Number of documents over all lists."""
        return int(self.row_splits[-1])

    @property
    def lengths(self) -> np.ndarray:
        """int64 `[lists]`, documents a list."""
        return np.diff(self.row_splits)

    @property
    def row_ids(self) -> np.ndarray:
        """int64 `[documents]`, the list of each document."""
        return np.repeat(np.arange(self.num_lists), self.lengths)

    def changed(self, change: Callable[[Lists], Lists]) -> Lists:
        """Returns what a function makes of them, of any part as of the whole.

        Lists on disk are changed when they are read.
        """
        return change(self)

    def place(self, document: int) -> str:
        """Returns how messages name a document: its query, and its id if that is known.

        Args:
          document: Its number, from 0.
        """
        number = np.searchsorted(self.row_splits, document, "right") - 1
        name = str(self.document_ids[document]) if len(self.document_ids) else ""
        query = f"query {str(self.query_ids[number])!r}"
        return f"{query}, document {name!r}" if name else query

    def slice(self, start: int, stop: int) -> Lists:
        """Returns lists `start:stop` as views."""
        first, last = int(self.row_splits[start]), int(self.row_splits[stop])
        return Lists(
            values={dtype: block[first:last] for dtype, block in self.values.items()},
            row_splits=self.row_splits[start : stop + 1] - first,
            labels=None if self.labels is None else self.labels[first:last],
            query_ids=self.query_ids[start:stop],
            document_ids=self.document_ids[first:last],
            weights=None if self.weights is None else self.weights[first:last],
            context={name: value[start:stop] for name, value in self.context.items()},
            loose={name: v.slice(first, last) for name, v in self.loose.items()},
            loose_context={
                name: value.slice(start, stop)
                for name, value in self.loose_context.items()
            },
        )

    def regrouped(self, queries: np.ndarray, row_splits: np.ndarray) -> Lists:
        """Returns the same documents in other lists.

        Args:
          queries: For each new list the number of a list of the same query.
          row_splits: int64 `[new lists + 1]`.
        """
        return dataclasses.replace(
            self,
            row_splits=row_splits,
            query_ids=self.query_ids[queries],
            context={name: value[queries] for name, value in self.context.items()},
            loose_context={n: v.take(queries) for n, v in self.loose_context.items()},
        )

    def take(self, queries: np.ndarray) -> Lists:
        """Returns some lists, by number, with their documents."""
        lengths = self.lengths[queries]
        splits = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        offsets = np.repeat(self.row_splits[queries] - splits[:-1], lengths)
        documents = self.take_documents(np.arange(splits[-1]) + offsets)
        return documents.regrouped(queries, splits)

    def take_documents(self, rows: np.ndarray) -> Lists:
        """Returns the lists with their documents in another order."""

        def some(array: np.ndarray | None) -> np.ndarray | None:
            return None if array is None else array[rows]

        return dataclasses.replace(
            self,
            values={dtype: block[rows] for dtype, block in self.values.items()},
            labels=some(self.labels),
            weights=some(self.weights),
            document_ids=self.document_ids[rows],
            loose={name: value.take(rows) for name, value in self.loose.items()},
        )

    def widened(self) -> Lists:
        """Returns the lists with matrices of the dtypes that they are named for.

        Those of neighbours, which have other names, stay; see `stored_neighbours`.
        """
        values = {
            name: block.astype(name, copy=False) if name in PACKED_DTYPES else block
            for name, block in self.values.items()
        }
        return dataclasses.replace(self, values=values)

    @staticmethod
    def concatenate(parts: Iterable[Lists]) -> Lists:
        """Returns all lists of `parts` in order. Needs at least one part."""
        parts = list(parts)
        if len(parts) == 1:
            return parts[0]
        first = parts[0]
        offsets = np.cumsum([0] + [part.num_documents for part in parts])
        splits = [first.row_splits[:1]] + [
            part.row_splits[1:] + offset
            for part, offset in zip(parts, offsets[:-1], strict=True)
        ]

        def joined(name: str) -> np.ndarray | None:
            arrays = [getattr(part, name) for part in parts]
            return None if arrays[0] is None else np.concatenate(arrays)

        return Lists(
            values={
                dtype: np.concatenate([part.values[dtype] for part in parts])
                for dtype in first.values
            },
            row_splits=np.concatenate(splits),
            labels=joined("labels"),
            query_ids=np.concatenate([part.query_ids for part in parts]),
            document_ids=np.concatenate([part.document_ids for part in parts]),
            weights=joined("weights"),
            context={
                name: np.concatenate([part.context[name] for part in parts])
                for name in first.context
            },
            loose={
                name: Ragged.concatenate([part.loose[name] for part in parts])
                for name in first.loose
            },
            loose_context={
                name: Ragged.concatenate([part.loose_context[name] for part in parts])
                for name in first.loose_context
            },
        )


def weigh_lists(lists: Lists, name: str, is_feature: bool) -> Lists:
    """Multiplies the weights of documents by the weight of their list.

    Args:
      lists: Lists with the query feature `name`, one number a list.
      name: Name of the list weight.
      is_feature: Whether the model gets it as a feature too.
    """
    weights = np.repeat(lists.context[name].reshape(-1), lists.lengths)
    if lists.weights is not None:
        weights = weights * lists.weights
    context = {
        key: value for key, value in lists.context.items() if is_feature or key != name
    }
    return dataclasses.replace(
        lists, weights=weights.astype(np.float32), context=context
    )
