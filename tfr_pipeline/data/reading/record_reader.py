"""Serialized records out of files: readers of one's own, compression, broken ends."""

from __future__ import annotations

import dataclasses
import os
import warnings
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tfr_pipeline.data.reading import wholeness
from tfr_pipeline.errors import ConfigError, DataError, unknown_name

AUTO = "auto"
# Names as users write them, and as `tf.data.TFRecordDataset` does.
COMPRESSIONS = {"none": "", "gzip": "GZIP", "zlib": "ZLIB"}


def canonical(name: str | None) -> str:
    """Returns `auto` or what `tf.data.TFRecordDataset` calls a compression.

    Raises:
      ConfigError: There is no such compression.

    Example:
      >>> canonical("gzip")
      'GZIP'
    """
    wanted = (str(name) if name else "none").lower()
    if wanted != AUTO and wanted not in COMPRESSIONS:
        raise ConfigError(unknown_name("compression", wanted, (AUTO, *COMPRESSIONS)))
    return COMPRESSIONS.get(wanted, wanted)


@dataclasses.dataclass(frozen=True)
class RecordReader:
    """Makes datasets of serialized records from lists of files.

    Attributes:
      reader: Takes a file name, and `reader_args`, as TF-Ranking calls it; its elements
        are records, or pairs of a key and a record.
      reader_args: Further arguments for it.
      compression: `auto`, by the content of each file, or a name of `COMPRESSIONS`;
        only for `tf.data.TFRecordDataset` without arguments.

    Raises:
      ConfigError: There is no such compression, or `reader_args` say another.
    """

    reader: Callable[..., Any] = tf.data.TFRecordDataset
    reader_args: tuple[Any, ...] = ()
    compression: str = AUTO

    def __post_init__(self) -> None:
        object.__setattr__(self, "compression", canonical(self.compression))
        if self.compression == AUTO or self._detects:
            return
        if self._plain_reader:
            raise ConfigError(
                f"compression: {self.compression or 'none'!r} stands beside "
                f"reader_args={self.reader_args!r}, which begin with a compression, "
                "too. Give one of them."
            )
        warnings.warn(
            f"compression={self.compression or 'none'!r} has no effect: a "
            "dataset_reader of one's own opens the files. Give it reader_args.",
            stacklevel=3,
        )

    @property
    def _plain_reader(self) -> bool:
        return self.reader is tf.data.TFRecordDataset

    @property
    def reads_plain_files(self) -> bool:
        """Whether records stand in files as `tf.data.TFRecordDataset` reads them."""
        return self._detects and self.compression in (AUTO, "")

    @property
    def _detects(self) -> bool:
        return self._plain_reader and not self.reader_args

    def __call__(self, paths: list[str]) -> tf.data.Dataset:
        """Returns the records of files, string `[]`, in order.

        Raises:
          DataError: A file is compressed in another way than was said.
        """
        dataset = tf.data.Dataset.from_tensor_slices(paths)
        dataset = dataset.flat_map(self.one_file(paths))
        if isinstance(dataset.element_spec, tuple):
            return dataset.map(lambda _, record: record)
        return dataset

    def one_file(self, paths: list[str]) -> Callable[[Any], Any]:
        """Returns a function from a name among `paths`, string `[]`, to a dataset."""
        if not self._detects:
            return lambda path: self.reader(path, *self.reader_args)
        kinds = [self.compression_of(path) for path in paths]

        def read(path: Any) -> Any:
            kind = tf.constant(kinds)[tf.argmax(tf.equal(paths, path))]
            return tf.data.TFRecordDataset(path, kind)

        return read

    def compression_of(self, path: str) -> str:
        """Returns how a file is compressed.

        Raises:
          DataError: In another way than was said.
        """
        found = wholeness.detect(path)
        if self.compression not in (AUTO, found) and os.path.getsize(path):
            raise DataError(
                f"{path}: expected compression {_shown(self.compression)}, found "
                f"{_shown(found)}. Leave `compression` at 'auto', which looks at the "
                "files."
            )
        return found

    def check_whole(self, paths: list[str], size: int, count: int) -> None:
        """Refuses files that end too early; see `wholeness.check`.

        Args:
          paths: The files that were read.
          size: Sum of the `framed_size`s of their records.
          count: Number of their records.

        Raises:
          DataError: A file is not whole.
        """
        if self._plain_reader:
            wholeness.check(paths, size, count)

    def refuse_damaged(self, paths: list[str], checksums: bool = True) -> None:
        """Raises what is wrong with files; see `wholeness.refuse_damaged`."""
        if self._plain_reader:
            wholeness.refuse_damaged(paths, checksums)


def framed_size(records: Any) -> int:
    """Returns the size of records, string `[n]`, in an uncompressed TFRecord file."""
    sizes = tf.cast(tf.strings.length(records), tf.int64)
    return int(tf.reduce_sum(sizes + wholeness.HEADER + wholeness.FOOTER))


def _shown(compression: str) -> str:
    return repr(compression.lower() or "none")
