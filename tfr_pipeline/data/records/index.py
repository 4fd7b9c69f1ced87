"""Where each list of a shard begins, and how many documents it has.

`convert` writes it beside the shards of a split, so that a worker can plan its batches
and read its own share without a look at what others train on. Of other files it is made
when it is needed; see `tfr_pipeline.data.reading.indexing`.
"""

from __future__ import annotations

import array
import dataclasses
import os
import re
import zipfile
from collections.abc import Sequence
from typing import Any

import numpy as np

from tfr_pipeline import copies, files, remote, urls
from tfr_pipeline.errors import DataError
from tfr_pipeline.remote import Entry

_VERSION = 1
_SHARD = re.compile(r"(.+)-\d{5}-of-\d{5}\.tfrecord")
_ADVICE = (
    "Convert the data again; or remove the index, without which each worker reads all "
    "of the data."
)


def file_name(split: str) -> str:
    """Returns the name of the index of a split; no glob for its shards finds it."""
    return f"{split}.index.npz"


@dataclasses.dataclass(frozen=True)
class ShardIndex:
    """The lists of one shard, in the order in which they stand there.

    Attributes:
      path: The shard, or its URL.
      documents: int64 `[lists]`, documents a list.
      offsets: int64 `[lists + 1]`, where their records begin, in bytes; of what a
        compressed file holds.
      ranged: Whether records can be read from there; not of a compressed file.
      advice: What to do if the shard is another than it was.
      entry: What a remote shard was when the index was read.
    """

    path: str
    documents: np.ndarray
    offsets: np.ndarray
    ranged: bool = True
    advice: str = "Convert the data again."
    entry: Entry | None = None


class Writing:
    """The index of a shard that is being written.

    Args:
      path: The shard.
    """

    def __init__(self, path: str):
        self.path = path
        self._documents, self._bytes = array.array("q"), array.array("q")

    def add(self, documents: int, size: int) -> None:
        """Adds a list by its number of documents and the bytes of its record."""
        self._documents.append(documents)
        self._bytes.append(size)

    def extend(self, documents: np.ndarray, sizes: np.ndarray) -> None:
        """Adds several lists, int64 `[lists]` each."""
        self._documents.frombytes(documents.astype(np.int64).tobytes())
        self._bytes.frombytes(sizes.astype(np.int64).tobytes())

    def index(self) -> ShardIndex:
        """Returns the index of what was added."""
        ends = np.cumsum(np.asarray(self._bytes, np.int64))
        offsets = np.concatenate([[0], ends]).astype(np.int64)
        return ShardIndex(self.path, np.asarray(self._documents, np.int64), offsets)


def write(folder: str, split: str, shards: Sequence[ShardIndex]) -> None:
    """Writes the index of shards that stand in a folder.

    Args:
      folder: Where it goes.
      split: Name of the split.
      shards: All shards of the split.
    """
    probes = [files.probe(shard.path) for shard in shards]
    names = [os.path.basename(shard.path) for shard in shards]
    save(os.path.join(folder, file_name(split)), names, shards, probes)


def save(
    place: str,
    names: Sequence[str],
    shards: Sequence[ShardIndex],
    probes: Sequence[tuple[int, int]],
    **more: np.ndarray,
) -> None:
    """Writes an index, whole or not at all.

    Args:
      place: Its path.
      names: What it calls the shards.
      shards: What it is of.
      probes: `files.probe` of each.
      **more: What else to keep.
    """
    arrays: dict[str, Any] = {
        "version": np.array(_VERSION),
        "names": np.array(names),
        "probes": np.array(probes, np.int64),
        "lists": np.array([len(shard.documents) for shard in shards], np.int64),
        "documents": np.concatenate([shard.documents for shard in shards]),
        "bytes": np.concatenate([np.diff(shard.offsets) for shard in shards]),
        **more,
    }
    with files.replacing(place) as temporary:
        with open(temporary, "wb") as file:
            np.savez_compressed(file, **arrays)


def read(paths: Sequence[str], contents: bool = True) -> list[ShardIndex] | None:
    """Returns the index of each file; None if not all of them have one.

    Args:
      paths: The files, or their URLs.
      contents: Whether to look into them, beside at their sizes.

    Raises:
      DataError: An index cannot be read, or a file is another than it was made for.
    """
    known: dict[str, dict[str, np.ndarray]] = {}
    found = []
    entries = remote.states(filter(urls.is_remote, paths))
    for path in paths:
        place = beside(path)
        if place not in known:
            if not place or not files.exists(place):
                return None
            known[place] = load(copies.fetch([place])[0])
            # What is found out is remembered; for one after the other it takes long.
            remote.at_once(files.probe, entries)
        content = known[place]
        entry = entries.get(path)
        number = _number(path, place, content, contents, entry)
        shard = of_shard(content, number, path)
        found.append(dataclasses.replace(shard, entry=entry))
    return found


def beside(path: str) -> str:
    """Returns where the index of a shard would be; empty for other files."""
    folder, name = os.path.split(path)
    match = _SHARD.fullmatch(name)
    return os.path.join(folder, file_name(match[1])) if match else ""


def load(place: str) -> dict[str, np.ndarray]:
    """Returns the arrays that `save` wrote, by name.

    Raises:
      DataError: The file is missing, or another.
    """
    try:
        with np.load(place, allow_pickle=False) as content:
            found = {name: content[name] for name in content.files}
        if int(found["version"]) != _VERSION:
            raise ValueError(f"version {found['version']}, not {_VERSION}")
        lists = int(found["lists"].sum())
        if not len(found["documents"]) == len(found["bytes"]) == lists:
            raise ValueError("it was cut off")
        if not len(found["names"]) == len(found["probes"]) == len(found["lists"]):
            raise ValueError("it was cut off")
    except (
        OSError,
        ValueError,
        TypeError,
        KeyError,
        EOFError,
        zipfile.BadZipFile,
    ) as e:
        raise DataError(
            f"{place}: expected the index that `convert` writes ({e}). {_ADVICE}"
        ) from e
    return found


def _number(
    path: str,
    place: str,
    content: dict[str, np.ndarray],
    contents: bool,
    entry: Entry | None,
) -> int:
    """Returns which of the shards a file is, and checks that it is still the same."""
    name = os.path.basename(path)
    numbers = np.flatnonzero(content["names"] == name)
    if not len(numbers):
        raise DataError(f"{place}: knows nothing of {name!r}, which is new. {_ADVICE}")
    number = int(numbers[0])
    wanted = tuple(content["probes"][number].tolist())
    checksum = wanted[1]
    if contents:
        size, checksum = files.probe(path)
    else:
        size = entry.size if entry else os.path.getsize(path)
    if (size, checksum) != wanted:
        what = (
            f"expected {wanted[0]} bytes, found {size}"
            if size != wanted[0]
            else "its content has changed since, though not its size"
        )
        made_for = f"not what {os.path.basename(place)} was made for"
        raise DataError(f"{path}: {made_for}: {what}. {_ADVICE}")
    return number


def of_shard(content: dict[str, np.ndarray], number: int, path: str) -> ShardIndex:
    """Returns one shard of what was loaded, under the path where it stands."""
    first = int(content["lists"][:number].sum())
    part = slice(first, first + int(content["lists"][number]))
    offsets = np.concatenate([[0], np.cumsum(content["bytes"][part])])
    return ShardIndex(path, content["documents"][part], offsets.astype(np.int64))
