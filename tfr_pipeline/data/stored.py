"""What files are that no reader of ours reads, and what to do about it."""

from __future__ import annotations

from tfr_pipeline.errors import DataError

_REFUSED = {
    b"version https://git-lfs": "the pointer of a file in Git LFS. Run: git lfs pull",
    b"\x28\xb5\x2f\xfd": "zstd. Decompress it first: zstd -d FILE",
    b"PK\x03\x04": "a zip archive (or an Excel file). Extract it first, or export CSV",
    b"\x04\x22\x4d\x18": "lz4. Decompress it first: lz4 -d FILE",
}
# Those that a reader of TFRecord files does not decompress, beside.
_OF_RECORDS = {
    b"BZh": "bzip2. Decompress it first: bunzip2 FILE",
    b"\xfd7zXZ\x00": "xz. Decompress it first: unxz FILE",
}


def refuse_stored(path: str, expected: str) -> bytes:
    """Returns the first bytes of a file after a look at what it is.

    Args:
      path: The file.
      expected: What it should be, for the error.

    Raises:
      DataError: It is the pointer of a file that is elsewhere, or compressed by what
        the standard library cannot read.
    """
    with open(path, "rb") as stored:
        magic = stored.read(32)
    _refuse(path, magic, expected, _REFUSED)
    return magic


def refuse_other_records(path: str, magic: bytes) -> None:
    """Refuses a file that is no TFRecord file by its first bytes, 32 or more.

    Raises:
      DataError: As `refuse_stored`, or it is compressed by what TensorFlow cannot read.
    """
    _refuse(path, magic, "TFRecord, plain, gzip or zlib", {**_REFUSED, **_OF_RECORDS})


def _refuse(path: str, magic: bytes, expected: str, refused: dict[bytes, str]) -> None:
    for start, what in refused.items():
        if magic.startswith(start):
            raise DataError(f"{path}: expected {expected}, found {what}.")
