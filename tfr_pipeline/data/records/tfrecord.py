"""The TFRecord file format: length, checksum, bytes, checksum.

Written here rather than by TensorFlow so that the processes that convert text need not
load it. CRC-32C is computed for all records of a batch at once with NumPy.
Format: https://www.tensorflow.org/tutorials/load_data/tfrecord#tfrecords_format_details
"""

from __future__ import annotations

import functools

import numpy as np

_POLYNOMIAL = 0x82F63B78  # Castagnoli, reflected
_BLOCK = 256  # bytes that one step of the loop over columns covers in every record
_MASK_DELTA = np.uint32(0xA282EAD8)


def frame(records: list[bytes]) -> list[bytes]:
    """Returns the bytes of a TFRecord file for each record; any run of them is a file.

    Example:
      >>> [len(framed) for framed in frame([b"", b"abc"])]
      [16, 19]
    """
    headers = [len(record).to_bytes(8, "little") for record in records]
    checks = masked_crc32c(headers + records)
    return [
        b"".join((header, header_check, record, record_check))
        for header, header_check, record, record_check in zip(
            headers,
            checks[: len(records)],
            records,
            checks[len(records) :],
            strict=True,
        )
    ]


def masked_crc32c(texts: list[bytes]) -> list[bytes]:
    """Returns the masked little-endian CRC-32C of each text, as TFRecord stores it."""
    crc = crc32c(texts)
    masked = (crc >> np.uint32(15) | crc << np.uint32(17)) + _MASK_DELTA
    return [check.tobytes() for check in masked.astype("<u4")]


def crc32c(texts: list[bytes]) -> np.ndarray:
    """Returns the CRC-32C (RFC 3720) of each text as uint32 `[texts]`.

    The checksum is linear: texts are padded in front with zeros, which change nothing
    when the state starts at 0, so all blocks of all texts advance together. The usual
    start state is the same as inverting the first four bytes.
    """
    blocks = [max(1, -(-len(text) // _BLOCK)) for text in texts]
    padded = bytearray(_BLOCK * sum(blocks))
    stop = 0
    short = []
    for number, (text, count) in enumerate(zip(texts, blocks, strict=True)):
        stop += count * _BLOCK
        start = stop - len(text)
        padded[start:stop] = text
        if len(text) < 4:
            short.append(number)
        else:
            for position in range(start, start + 4):
                padded[position] ^= 0xFF
    words = np.frombuffer(padded, "<u4").reshape(-1, _BLOCK // 4)
    low, high = _tables()
    state = np.zeros(len(words), np.uint32)
    for column in np.ascontiguousarray(words.T):
        state ^= column
        state = low[state & np.uint32(0xFFFF)] ^ high[state >> np.uint32(16)]
    result = _join(state, np.array(blocks, np.int64)) ^ np.uint32(0xFFFFFFFF)
    for number in short:
        result[number] = _plain(texts[number])
    return result


def _join(state: np.ndarray, blocks: np.ndarray) -> np.ndarray:
    """Combines the checksums of the blocks of each text; uint32 `[texts]`."""
    first = np.concatenate([[0], np.cumsum(blocks)[:-1]])
    longest_first = np.argsort(-blocks, kind="stable")
    start, count = first[longest_first], blocks[longest_first]
    result = state[start]
    shift = _shift_tables()
    for step in range(1, int(count.max(initial=0))):
        active = int(np.searchsorted(-count, -step, side="left"))
        moved = result[:active]
        moved = shift[0][moved & np.uint32(0xFFFF)] ^ shift[1][moved >> np.uint32(16)]
        result[:active] = moved ^ state[start[:active] + step]
    ordered = np.empty_like(result)
    ordered[longest_first] = result
    return ordered


def _plain(text: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in text:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (_POLYNOMIAL if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def _after_zero_bytes(state: np.ndarray, count: int) -> np.ndarray:
    """Returns the states after `count` zero bytes."""
    for _ in range(8 * count):
        state = state >> np.uint32(1) ^ (state & np.uint32(1)) * np.uint32(_POLYNOMIAL)
    return state


@functools.cache
def _tables() -> tuple[np.ndarray, np.ndarray]:
    """Next state after four bytes, for the low and the high half of the state."""
    half = np.arange(1 << 16, dtype=np.uint32)
    return _after_zero_bytes(half, 4), _after_zero_bytes(half << np.uint32(16), 4)


@functools.cache
def _shift_tables() -> tuple[np.ndarray, np.ndarray]:
    """The state after one block of zeros, for the low and high half of the state."""
    bits = _after_zero_bytes(np.uint32(1) << np.arange(32, dtype=np.uint32), _BLOCK)
    half = np.arange(1 << 16, dtype=np.uint32)
    tables = []
    for offset in (0, 16):
        table = np.zeros(1 << 16, np.uint32)
        for bit in range(16):
            table ^= (half >> np.uint32(bit) & np.uint32(1)) * bits[offset + bit]
        tables.append(table)
    return tables[0], tables[1]
