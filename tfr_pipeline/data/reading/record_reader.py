"""Serialized records out of files: readers of one's own, compression, broken ends."""

from __future__ import annotations

import dataclasses
import os
import warnings
import zlib
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tfr_pipeline.data.records.tfrecord import masked_crc32c
from tfr_pipeline.errors import ConfigError, DataError, unknown_name

AUTO = "auto"
# Names as users write them, and as `tf.data.TFRecordDataset` does.
COMPRESSIONS = {"none": "", "gzip": "GZIP", "zlib": "ZLIB"}
_GZIP = b"\x1f\x8b\x08"
_FRAME = 16  # length and checksums around a record
_BLOCK = 1 << 20


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


def detect(path: str) -> str:
    """Returns how a TFRecord file is compressed: an empty text, `GZIP` or `ZLIB`.

    The beginning of a plain file has a checksum, so it is never taken for another.
    """
    with open(path, "rb") as file:
        head = file.read(12)
    if len(head) == 12 and masked_crc32c([head[:8]])[0] == head[8:]:
        return ""
    if head.startswith(_GZIP):
        return "GZIP"
    # RFC 1950: the method is 8, and both bytes are a multiple of 31.
    if len(head) > 2 and head[0] & 0x0F == 8 and int.from_bytes(head[:2], "big") % 31:
        return ""
    return "ZLIB" if len(head) > 2 and head[0] & 0x8F == 8 else ""


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
        found = detect(path)
        if self.compression not in (AUTO, found) and os.path.getsize(path):
            raise DataError(
                f"{path}: expected compression {_shown(self.compression)}, found "
                f"{_shown(found)}. Leave `compression` at 'auto', which looks at the "
                "files."
            )
        return found

    def check_whole(self, paths: list[str], size: int) -> None:
        """Refuses compressed files that end too early.

        TensorFlow takes the end of the file for the end of the data where the data
        so far happens to be whole records.

        Args:
          paths: The files that were read.
          size: Sum of the `framed_size`s of their records.

        Raises:
          DataError: A file is not whole.
        """
        if not self._plain_reader:
            return
        kinds = {path: detect(path) for path in paths}
        compressed = [path for path, kind in kinds.items() if kind]
        if not compressed or (
            "ZLIB" not in kinds.values()
            and (sum(map(_stored_size, paths)) - size) % (1 << 32) == 0
        ):
            return
        for path in compressed:
            if not _is_whole(path, kinds[path]):
                raise DataError(
                    f"{path}: the compressed file was cut off: its data ends without "
                    "an end mark. Fetch or write the file again."
                )


def framed_size(records: Any) -> int:
    """Returns the size of records, string `[n]`, in an uncompressed TFRecord file."""
    sizes = tf.cast(tf.strings.length(records), tf.int64)
    return int(tf.reduce_sum(sizes + _FRAME))


def _shown(compression: str) -> str:
    return repr(compression.lower() or "none")


def _stored_size(path: str) -> int:
    """Returns the size of the content of a file; of gzip files modulo 2 ** 32."""
    size = os.path.getsize(path)
    if detect(path) != "GZIP":
        return size
    with open(path, "rb") as file:
        file.seek(max(0, size - 4))
        return int.from_bytes(file.read(4), "little")


def _is_whole(path: str, kind: str) -> bool:
    # 16 for gzip, which may have several members.
    bits = zlib.MAX_WBITS + (16 if kind == "GZIP" else 0)
    stream = zlib.decompressobj(bits)
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            while block:
                if stream.eof:
                    if kind == "ZLIB":
                        return True
                    stream = zlib.decompressobj(bits)
                try:
                    stream.decompress(block)
                except zlib.error:
                    return False
                block = stream.unused_data
    return stream.eof
