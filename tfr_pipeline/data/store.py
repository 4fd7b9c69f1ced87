"""Lists that are put together part by part, in memory that grows without copies.

Both keep large data from being in memory twice.
"""

from __future__ import annotations

import dataclasses
import itertools
import mmap
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from tfr_pipeline.data.lists import Lists, Numbering, Ragged

_TEXTS_OF = "texts_of_"  # with the name of a column: what the numbers in it stand for
_STEP = 1 << 24  # bytes by which a block grows at least


def columns(part: Lists, document_ids: bool = False) -> dict[str, np.ndarray]:
    """Returns lists as named arrays that can be appended to those of other parts.

    Args:
      part: The lists.
      document_ids: Whether their document ids are kept.
    """
    found = {"lengths": part.lengths, "query_ids": part.query_ids}
    if document_ids:
        found["document_ids"] = part.document_ids
    for name in ("labels", "weights"):
        if getattr(part, name) is not None:
            found[name] = getattr(part, name)
    for name in ("values", "context"):
        for key, array in getattr(part, name).items():
            found[f"{name}/{key}"] = array
    for name in ("loose", "loose_context"):
        for key, column in getattr(part, name).items():
            found[f"{name}/{key}"] = column.plain_values
            found[f"lengths_of_{name}/{key}"] = column.lengths
    return found


class Numbered:
    """Turns the columns of one part after the other into such with numbered texts.

    Texts beside the matrices come again and again: what is appended are their numbers,
    and those texts that have not been there before.
    """

    def __init__(self) -> None:
        self._numberings: dict[str, Numbering] = {}

    def columns(self, part: Lists, document_ids: bool = False) -> dict[str, np.ndarray]:
        """Returns the `columns` of the next part."""
        found = columns(part, document_ids)
        for name, array in list(found.items()):
            if array.dtype == object and name.startswith(("loose/", "loose_context/")):
                numbering = self._numberings.setdefault(name, Numbering())
                found[name] = numbering.of(array)
                found[f"{_TEXTS_OF}{name}"] = numbering.new()
        return found


def from_columns(found: Mapping[str, np.ndarray]) -> Lists:
    """Returns the lists of `columns`."""

    def group(name: str) -> dict[str, np.ndarray]:
        return {
            key.removeprefix(f"{name}/"): array
            for key, array in found.items()
            if key.startswith(f"{name}/")
        }

    def ragged(name: str) -> dict[str, Ragged]:
        lengths, texts = group(f"lengths_of_{name}"), group(f"{_TEXTS_OF}{name}")
        return {
            key: Ragged(values, _splits(lengths[key]), texts.get(key))
            for key, values in group(name).items()
        }

    splits = _splits(found["lengths"])
    ids = found.get("document_ids")
    return Lists(
        values=group("values"),
        row_splits=splits,
        labels=found.get("labels"),
        query_ids=found["query_ids"],
        document_ids=no_ids(splits[-1]) if ids is None else ids,
        weights=found.get("weights"),
        context=group("context"),
        loose=ragged("loose"),
        loose_context=ragged("loose_context"),
    )


def _splits(lengths: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def map_values(
    lists: Lists,
    function: Callable[..., dict[str, np.ndarray]],
    rows: int = 1 << 16,
    with_splits: bool = False,
) -> Lists:
    """Returns lists with other document features.

    Args:
      lists: The lists.
      function: Maps matrices of some documents by name to others of as many rows.
      rows: Documents a call.
      with_splits: Whether it takes the int64 row splits of these, `[lists + 1]`, as a
        second argument. A call gets whole lists, of more documents if one is longer.
    """
    blocks: dict[str, Block] = {}
    splits = lists.row_splits
    inner = np.searchsorted(splits, np.arange(rows, lists.num_documents, rows))
    # One call even without documents: it tells the names and shapes.
    cuts = [0, *np.unique(inner[inner < lists.num_lists]).tolist(), lists.num_lists]
    for first, last in itertools.pairwise(cuts):
        start, stop = splits[first], splits[last]
        part = {name: block[start:stop] for name, block in lists.values.items()}
        more = (splits[first : last + 1] - start,) if with_splits else ()
        for name, matrix in function(part, *more).items():
            if name not in blocks:
                blocks[name] = Block(matrix.dtype, matrix.shape[1:])
            blocks[name].append(matrix)
    values = {name: block.array() for name, block in blocks.items()}
    return dataclasses.replace(lists, values=values)


def no_ids(count: int) -> np.ndarray:
    """Returns object `[count]` of empty texts, read-only, in the memory of one."""
    return np.broadcast_to(np.array("", object), count)


def collect(parts: Iterable[Lists], document_ids: bool = False) -> Lists:
    """Returns all lists of `parts` in order, holding one part beside the result."""
    texts: dict[str, list[np.ndarray]] = {}
    blocks: dict[str, Block] = {}
    names: list[str] = []
    numbered = Numbered()
    for part in parts:
        found = numbered.columns(part, document_ids)
        names = list(found)
        for name, array in found.items():
            if array.dtype == object:
                texts.setdefault(name, []).append(array)
                continue
            if name not in blocks:
                blocks[name] = Block(array.dtype, array.shape[1:])
            blocks[name].append(array)
    joined = {name: np.concatenate(arrays) for name, arrays in texts.items()}
    joined |= {name: block.array() for name, block in blocks.items()}
    return from_columns({name: joined[name] for name in names})


class Block:
    """An array that grows at its end without being copied.

    Its memory is the kernel's own, so it can be moved by changing page tables, and
    pages that nobody has written to take no room.

    Args:
      dtype: Type of the values.
      shape: Shape of a row.
    """

    def __init__(self, dtype: Any, shape: tuple[int, ...]):
        self._dtype, self._shape = np.dtype(dtype), shape
        self._used = 0
        self._memory = _anonymous(_STEP)

    def append(self, rows: np.ndarray) -> None:
        """Adds rows `[n, ...]`."""
        start, self._used = self._used, self._used + rows.nbytes
        if self._used > len(self._memory):
            self._resize(self._used + max(_STEP, self._used // 8))
        view = np.frombuffer(self._memory, self._dtype, rows.size, start)
        view.reshape(rows.shape)[...] = rows

    def array(self) -> np.ndarray:
        """Returns the rows. Nothing can be appended any more."""
        self._resize(max(self._used, 1))
        count = self._used // self._dtype.itemsize
        flat = np.frombuffer(self._memory, self._dtype, count)
        rows = count // max(1, int(np.prod(self._shape, dtype=int)))
        return flat.reshape(rows, *self._shape)

    def _resize(self, size: int) -> None:
        if sys.platform == "linux":
            self._memory.resize(size)
        elif size > len(self._memory):
            old, self._memory = self._memory, _anonymous(size)
            self._memory[: len(old)] = old[:]


def _anonymous(size: int) -> mmap.mmap:
    return mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
