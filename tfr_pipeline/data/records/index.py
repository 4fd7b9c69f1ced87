"""Where each list of a shard begins, and how many documents it has.

`convert` writes it beside the shards of a split, so that a worker can plan its batches
and read its own share without a look at what others train on.
"""

from __future__ import annotations

import array
import dataclasses
import os
import re
import zipfile
from collections.abc import Sequence

import numpy as np

from tfr_pipeline import files
from tfr_pipeline.errors import DataError

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
      path: The shard.
      documents: int64 `[lists]`, documents a list.
      offsets: int64 `[lists + 1]`, where their records begin, in bytes.
    """

    path: str
    documents: np.ndarray
    offsets: np.ndarray


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
    with files.replacing(os.path.join(folder, file_name(split))) as temporary:
        with open(temporary, "wb") as file:
            np.savez_compressed(
                file,
                version=np.array(_VERSION),
                names=np.array([os.path.basename(shard.path) for shard in shards]),
                probes=np.array(probes, np.int64),
                lists=np.array([len(shard.documents) for shard in shards], np.int64),
                documents=np.concatenate([s.documents for s in shards]),
                bytes=np.concatenate([np.diff(s.offsets) for s in shards]),
            )


def read(paths: Sequence[str]) -> list[ShardIndex] | None:
    """Returns the index of each file; None if not all of them have one.

    Raises:
      DataError: An index cannot be read, or a file is another than it was made for.
    """
    known: dict[str, dict[str, np.ndarray]] = {}
    found = []
    for path in paths:
        folder, name = os.path.split(path)
        match = _SHARD.fullmatch(name)
        place = os.path.join(folder, file_name(match[1])) if match else ""
        if not os.path.isfile(place):
            return None
        if place not in known:
            known[place] = _load(place)
        found.append(_of_shard(path, name, place, known[place]))
    return found


def _load(place: str) -> dict[str, np.ndarray]:
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


def _of_shard(
    path: str, name: str, place: str, content: dict[str, np.ndarray]
) -> ShardIndex:
    numbers = np.flatnonzero(content["names"] == name)
    if not len(numbers):
        raise DataError(f"{place}: knows nothing of {name!r}, which is new. {_ADVICE}")
    number = int(numbers[0])
    size, checksum = files.probe(path)
    wanted = tuple(content["probes"][number].tolist())
    if (size, checksum) != wanted:
        what = (
            f"expected {wanted[0]} bytes, found {size}"
            if size != wanted[0]
            else "its content has changed since, though not its size"
        )
        made_for = f"not what {os.path.basename(place)} was made for"
        raise DataError(f"{path}: {made_for}: {what}. {_ADVICE}")
    first = int(content["lists"][:number].sum())
    part = slice(first, first + int(content["lists"][number]))
    offsets = np.concatenate([[0], np.cumsum(content["bytes"][part])])
    return ShardIndex(path, content["documents"][part], offsets.astype(np.int64))
