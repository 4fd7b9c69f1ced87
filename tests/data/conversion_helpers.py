"""Small files and readers that the conversion tests share."""

from __future__ import annotations

import os
import pathlib
import struct

import numpy as np


def write(path: pathlib.Path, text: str) -> str:
    """Writes a text file; returns its path."""
    path.write_text(text)
    return str(path)


def records(path: str | os.PathLike[str]) -> list[bytes]:
    """Returns the records of a TFRecord file; checksums are left to other tests."""
    data = pathlib.Path(path).read_bytes()
    result, position = [], 0
    while position < len(data):
        (length,) = struct.unpack_from("<Q", data, position)
        result.append(data[position + 12 : position + 12 + length])
        position += length + 16
    return result


def all_records(folder: str | os.PathLike[str], split: str = "train") -> list[bytes]:
    """Returns the records of all shards of a split in the order of the input."""
    shards = [
        records(path)
        for path in sorted(pathlib.Path(folder).glob(f"{split}-*.tfrecord"))
    ]
    total = sum(map(len, shards))
    return [shards[i % len(shards)][i // len(shards)] for i in range(total)]


def libsvm_text(
    rows: list[tuple[float, str, dict[int, float]]],
) -> str:
    """Returns LibSVM text of `(grade, query id, {index: value})`."""
    return "".join(
        f"{grade:g} qid:{query} "
        + " ".join(f"{index}:{value!r}" for index, value in features.items())
        + "\n"
        for grade, query, features in rows
    )


def sample_text(
    queries: int = 4, documents: int = 3, features: int = 5, seed: int = 0
) -> str:
    """Returns dense LibSVM text with random values."""
    random = np.random.default_rng(seed)
    return libsvm_text(
        [
            (
                float(random.integers(0, 3)),
                f"q{query}",
                {
                    index: float(value)
                    for index, value in enumerate(random.normal(size=features), 1)
                },
            )
            for query in range(queries)
            for _ in range(documents)
        ]
    )
