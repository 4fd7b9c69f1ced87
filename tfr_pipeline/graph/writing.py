"""Shards that the steps of a graph write: as `convert` does, or of examples."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
from collections.abc import Iterable, Iterator
from typing import IO, Any

import numpy as np

from tfr_pipeline import files, outputs, urls
from tfr_pipeline.data.convert import output_folder
from tfr_pipeline.data.convert.description import names_of_floats
from tfr_pipeline.data.convert.job import OUTPUT_FORMATS, Target, encode_lists
from tfr_pipeline.data.convert.statistics import Statistics
from tfr_pipeline.data.lists import Lists
from tfr_pipeline.data.records import index, tfrecord
from tfr_pipeline.data.sources.libsvm import Parsed
from tfr_pipeline.errors import ConfigError, DataError, unknown_name
from tfr_pipeline.features import FILE_NAME, Features

_AT_ONCE = 1024  # records that are framed together


@dataclasses.dataclass(frozen=True)
class Output:
    """Where a step writes, and how.

    Attributes:
      folder: The folder; of examples, it may be a file `NAME.tfrecord`.
      split: Name of the split.
      num_shards: Number of files; record `i` goes to file `i % num_shards`.
      inputs: Files that are read meanwhile.
    """

    folder: str
    split: str = "train"
    num_shards: int = 1
    inputs: tuple[str, ...] = ()

    def check(self) -> None:
        """Refuses places that cannot be written to, before there is work.

        Raises:
          ConfigError: It is one of those, or a setting is wrong.
        """
        if not re.fullmatch(r"[A-Za-z0-9_.]+", self.split):
            raise ConfigError(
                f"--split: expected letters, digits, '_' and '.', found {self.split!r}."
            )
        if self.num_shards < 1:
            raise ConfigError(
                f"--num_shards: expected 1 or more, found {self.num_shards}."
            )
        if urls.is_remote(self.folder):
            raise ConfigError(
                f"--output: expected a place of this machine, found {self.folder!r}. "
                "Write to a folder here, and copy that."
            )
        output_folder.check_shards(self.num_shards)
        outputs.check_output(self.folder, folder=not self.is_file, what="--output")
        names = output_folder.shard_names(self.split, self.num_shards)
        written = [os.path.join(self.folder, name) for name in names]
        for path in [self.folder] if self.is_file else [*written, *self._replaced()]:
            outputs.check_output(path, self.inputs, what="--output")
        if self.is_file and self.num_shards > 1:
            raise ConfigError(
                f"--num_shards: expected 1 for the file {self.folder!r}, found "
                f"{self.num_shards}."
            )

    @property
    def is_file(self) -> bool:
        """Whether all goes to one file."""
        return self.folder.endswith(".tfrecord") and not os.path.isdir(self.folder)

    def _replaced(self) -> list[str]:
        return output_folder.replaced(self.folder, (self.split,))


def format_of(wanted: str | None, features: Features) -> Features:
    """Returns the description of lists that are written in a format.

    Args:
      wanted: `elwc`, `packed`, or None for that of the description.
      features: What is written.

    Raises:
      ConfigError: There is no such format, or it cannot hold the features.
    """
    if wanted is None or wanted == features.data_format:
        return features
    if wanted not in OUTPUT_FORMATS:
        raise ConfigError(unknown_name("output format", wanted, OUTPUT_FORMATS))
    loose = [
        name
        for name, feature in features.example.items()
        if feature.kind != "fixed" or feature.dtype == "string"
    ]
    if wanted == "packed" and (loose or features.labels):
        raise ConfigError(
            "--output_format=packed holds numbers, as many in each document, and one "
            f"label; found {', '.join(loose or features.labels)}. Use "
            "--output_format=elwc."
        )
    dtype = features.feature_dtype if wanted == "packed" else "float32"
    return dataclasses.replace(features, data_format=wanted, feature_dtype=dtype)


def write_lists(
    parts: Iterable[Lists], features: Features, output: Output
) -> dict[str, Any]:
    """Writes lists, all at the end or not at all.

    Args:
      parts: Lists whose matrices have the columns of `features.example`, in order.
      features: Their description.
      output: Where they go.

    Returns:
      The content of `<split>.stats.json`.

    Raises:
      DataError: There is none, or the folder has splits with other features.
      RunError: The disk is full.
    """
    check_folder(features, output)
    total: Statistics | None = None
    with output_folder.staging_folder(output.folder, output.split) as staging:
        with _Shards(staging, output) as shards:
            for lists in parts:
                records, counts = encoded(lists, features)
                shards.write(records, lists.lengths)
                total = counts if total is None else total
                if total is not counts:
                    total.add(counts)
        return commit_lists(staging, features, output, total, shards.indices())


def check_folder(features: Features, output: Output) -> None:
    """Refuses a folder that is not ours, or has splits with other features.

    Raises:
      DataError: It is one of those.
    """
    splits = (output.split,)
    output_folder.check_ours(output.folder, splits)
    before = output_folder.earlier_features(output.folder, splits)
    if before is not None:
        where = os.path.join(output.folder, FILE_NAME)
        output_folder.check_same(before, features, where)


def encoded(lists: Lists, features: Features) -> tuple[list[bytes], Statistics]:
    """Returns a framed record of each list, and their counts."""
    parsed = Parsed(lists, [("", 0)] * lists.num_lists)
    return encode_lists(Target(features, 0, "keep"), parsed)


def commit_lists(
    staging: str,
    features: Features,
    output: Output,
    total: Statistics | None,
    shards: list[index.ShardIndex],
) -> dict[str, Any]:
    """Moves shards to their place, with what describes them; returns their counts.

    Raises:
      DataError: There is no list in them.
    """
    if total is None:
        raise DataError("--input: expected ranked lists, found none.")
    index.write(staging, output.split, shards)
    stats: dict[str, Any] = {
        "split": output.split,
        "num_shards": output.num_shards,
        **total.to_json(names_of_floats(features)),
    }
    stats["files"] = [
        {"path": path, "bytes": os.path.getsize(path)} for path in output.inputs
    ]
    output_folder.commit(staging, output.folder, features, {output.split: stats})
    return stats


def write_examples(records: Iterable[bytes], output: Output) -> int:
    """Writes serialized examples, all at the end or not at all.

    Args:
      records: The examples, without frames.
      output: Where they go.

    Returns:
      How many there were.

    Raises:
      RunError: The disk is full.
    """
    if output.is_file:
        with files.replacing(output.folder) as temporary, open(temporary, "wb") as file:
            return sum(map(len, map(_written(file), _batches(records))))
    folder = output.folder
    with output_folder.staging_folder(folder, output.split) as staging:
        count = 0
        with _Shards(staging, output) as shards:
            for batch in _batches(records):
                shards.write(tfrecord.frame(batch), np.ones(len(batch), np.int64))
                count += len(batch)
        commit_examples(staging, output)
    return count


def commit_examples(staging: str, output: Output) -> None:
    """Moves shards to their place; those of an earlier run are removed first."""
    folder = output.folder
    for place in (staging,) if output.is_file else (folder, staging):
        for name in sorted(os.listdir(place)):
            path = os.path.join(place, name)
            if not output_folder.is_shard(name, output.split):
                continue
            if place == folder:
                os.remove(path)
            elif output.is_file:
                os.replace(path, folder)
            else:
                os.replace(path, os.path.join(folder, name))


def _written(file: IO[bytes]) -> Any:
    def write(batch: list[bytes]) -> list[bytes]:
        file.writelines(tfrecord.frame(batch))
        return batch

    return write


def _batches(records: Iterable[bytes]) -> Iterator[list[bytes]]:
    batch: list[bytes] = []
    for record in records:
        batch.append(record)
        if len(batch) == _AT_ONCE:
            yield batch
            batch = []
    if batch:
        yield batch


class _Shards(contextlib.ExitStack):
    """The files of a split while they are written."""

    def __init__(self, staging: str, output: Output) -> None:
        super().__init__()
        names = output_folder.shard_names(output.split, output.num_shards)
        self._shards = [index.Writing(os.path.join(staging, name)) for name in names]
        self._files: list[IO[bytes]] = [
            self.enter_context(open(shard.path, "wb"))  # noqa: SIM115
            for shard in self._shards
        ]
        self._number = 0

    def write(self, records: list[bytes], lengths: np.ndarray) -> None:
        """Writes framed records and notes how many documents each has."""
        for record, length in zip(records, lengths.tolist(), strict=True):
            place = self._number % len(self._shards)
            self._files[place].write(record)
            self._shards[place].add(length, len(record))
            self._number += 1

    def indices(self) -> list[index.ShardIndex]:
        """Returns where the records of each file are."""
        return [shard.index() for shard in self._shards]
