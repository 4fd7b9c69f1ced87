"""`index:value` tokens of LibSVM text to arrays, without a Python loop over tokens.

Eight digits at a time are read as one 64-bit word and turned into a number with
three multiplications ("SIMD within a register"), for all tokens at once. A decimal
whose double lies too near the middle between two float32 numbers is computed exactly,
so every value is the float32 nearest to its text.
"""

from __future__ import annotations

import dataclasses
import decimal
import math
import re

import numpy as np

_NUMBER = re.compile(rb"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|[+-]?(nan|inf|infinity)")
_NULL = b"null"  # no value, in LETOR 4.0
_PADDING = 16  # bytes on both sides, so that a word read at an edge stays inside
_ZEROS = np.uint64(0x3030303030303030)
_POWERS = np.array([float(f"1e{power}") for power in range(23)])
_SCALES = np.array([float(f"1e{power}") for power in range(-60, 61)])
# Bits of a double that float32 drops, their middle, and how far a double may lie from
# the true decimal (in units of its last place; the code below stays under 50).
_DROPPED = np.uint64((1 << 29) - 1)
_MIDDLE = 1 << 28
_DOUBT = 64


@dataclasses.dataclass(frozen=True)
class Tokens:
    """Tokens of some lines, in order.

    Attributes:
      indices: int64 `[tokens]`, as written.
      values: float32 `[tokens]`.
      counts: int64 `[lines]`, tokens of each line.
      has_nonfinite: Whether a value is NaN or infinite (or too large for float32).
    """

    indices: np.ndarray
    values: np.ndarray
    counts: np.ndarray
    has_nonfinite: bool


def nearest_float32(text: bytes) -> float:
    """Returns the float32 nearest to a decimal number, as a Python float.

    `NULL` is NaN.

    Raises:
      ValueError: The text is not a number.
    """
    if text.lower() == _NULL:
        return math.nan
    if not _NUMBER.fullmatch(text.lower()):
        raise ValueError(f"not a number: {text!r}")
    value = float(text)
    bits = int(np.float64(value).view(np.uint64))
    if math.isfinite(value) and bits & int(_DROPPED) == _MIDDLE:
        exact = decimal.Decimal(text.decode())
        if exact != decimal.Decimal(value):  # the double is a tie, the text is not
            value = math.nextafter(value, math.inf if exact > value else -math.inf)
    with np.errstate(over="ignore"):
        return float(np.float32(value))


def parse(lines: list[bytes]) -> Tokens | None:
    """Parses lines of `index:value` tokens.

    Args:
      lines: Lines without line end, label, query id and comment; none is empty and
        none starts or ends with a blank.

    Returns:
      The tokens, or None if anything is unusual: then the caller reads line by line,
      which gives the same values or finds the place of the error.
    """
    text = b" " * _PADDING + b"\n".join(lines) + b"\n" + b" " * _PADDING
    buffer = np.frombuffer(text, np.uint8)
    # The last separator is the final newline.
    body = buffer[_PADDING : len(buffer) - _PADDING]
    separators = np.flatnonzero(
        (body <= 32) | (body == ord(":")) | (body == ord(".")) | (body | 32 == ord("e"))
    )
    kinds = body[separators]
    separators += _PADDING
    colon = np.flatnonzero(kinds == ord(":"))
    if not len(colon) or colon[-1] + 1 >= len(kinds):
        return None
    # `index:whole[.fraction][e exponent]` and one blank: where each part ends.
    whole_end = colon + 1
    has_fraction = kinds[whole_end] == ord(".")
    fraction_end = np.minimum(whole_end + has_fraction, len(kinds) - 1)
    has_exponent = kinds[fraction_end] | 32 == ord("e")
    end = np.minimum(fraction_end + has_exponent, len(kinds) - 1)
    if (
        colon[0] != 0
        or end[-1] != len(kinds) - 1
        or not np.array_equal(colon[1:], end[:-1] + 1)
        or (kinds[end] > 32).any()
    ):
        return None
    stop, at = separators[end], separators[colon]
    start = np.concatenate([[_PADDING], stop[:-1] + 1])
    if (at == start).any() or (at - start > 8).any():
        return None
    words = np.ndarray((len(buffer) - 7,), "<u8", text, 0, (1,))
    indices, good = _digits(words, at, at - start)
    if not good.all():
        return None
    values, odd = _decimals(
        words,
        buffer,
        start=at + 1,
        whole_end=separators[whole_end],
        fraction_end=separators[fraction_end],
        stop=stop,
    )
    nonfinite = False
    for token in np.flatnonzero(odd):
        try:
            value = nearest_float32(text[at[token] + 1 : stop[token]])
        except ValueError:
            return None
        values[token] = value
        nonfinite = nonfinite or not math.isfinite(value)
    last = np.flatnonzero(kinds[end] == ord("\n"))
    return Tokens(
        indices.astype(np.int64), values, np.diff(last, prepend=-1), nonfinite
    )


def _digits(
    words: np.ndarray, end: np.ndarray, length: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the numbers in `length` (0 to 8) bytes before `end`; whether digits."""
    word = words[end - 8] ^ _ZEROS
    # Bytes before the number become zeros, which are leading zero digits.
    shift = ((8 - length) * 8).astype(np.uint64)
    word = (word >> shift) << shift
    checked = (word + np.uint64(0x7676767676767676)) | word
    good = checked & np.uint64(0x8080808080808080) == 0
    word = (word * np.uint64(10) + (word >> np.uint64(8))) & np.uint64(
        0x00FF00FF00FF00FF
    )
    word = (word * np.uint64(100) + (word >> np.uint64(16))) & np.uint64(
        0x0000FFFF0000FFFF
    )
    word = word * np.uint64(10000) + (word >> np.uint64(32))
    return word & np.uint64(0xFFFFFFFF), good


def _long_digits(
    words: np.ndarray, start: np.ndarray, length: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns numbers of up to 16 digits as float64; whether all were digits."""
    first = np.minimum(length, 8)
    number, good = _digits(words, start + first, first)
    number = number.astype(np.float64)
    more = np.flatnonzero(length > 8)
    if len(more):
        rest = np.minimum(length[more] - 8, 8)
        low, low_good = _digits(words, start[more] + 8 + rest, rest)
        number[more] = number[more] * _POWERS[rest] + low
        good[more] &= low_good
    return number, good


def _decimals(
    words: np.ndarray,
    buffer: np.ndarray,
    *,
    start: np.ndarray,
    whole_end: np.ndarray,
    fraction_end: np.ndarray,
    stop: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns float32 values and which of them must be parsed one by one."""
    sign = buffer[start]
    negative = sign == ord("-")
    start = start + (negative | (sign == ord("+")))
    whole_length = whole_end - start
    written = np.maximum(fraction_end - whole_end - 1, 0)
    odd = (whole_length + written == 0) | (whole_length > 16)
    # More than 16 fraction digits only matter to a number that starts late.
    length = np.minimum(written, 16)
    whole, good = _long_digits(words, start, np.clip(whole_length, 0, 16))
    odd |= ~good
    fraction, good = _long_digits(words, whole_end + 1, length)
    odd |= ~good
    scale = _POWERS[length]
    value = (whole * scale + fraction) / scale
    odd |= (written > 16) & ((value < 0.01) | (written > 24))
    late = np.flatnonzero((written > 16) & ~odd)
    if len(late):
        rest = written[late] - 16
        odd[late] |= ~_digits(words, whole_end[late] + 17 + rest, rest)[1]
    powers = np.flatnonzero(fraction_end < stop)
    if len(powers):
        power, good = _exponents(words, buffer, fraction_end[powers] + 1, stop[powers])
        odd[powers] |= ~good
        value[powers] *= _SCALES[power + 60]
    dropped = (value.view(np.uint64) & _DROPPED).astype(np.int64) - _MIDDLE
    odd |= np.abs(dropped) <= _DOUBT
    odd |= (value > 3e38) | ((value < 2e-38) & (value != 0))
    value[odd] = 0
    return np.where(negative, -value, value).astype(np.float32), odd


def _exponents(
    words: np.ndarray, buffer: np.ndarray, start: np.ndarray, stop: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns exponents of one or two digits within +-60; whether they are such."""
    sign = buffer[start]
    negative = sign == ord("-")
    start = start + (negative | (sign == ord("+")))
    length = stop - start
    good = (length >= 1) & (length <= 2)
    power, digits = _digits(words, stop, np.clip(length, 0, 2))
    good &= digits & (power <= 60)
    power = np.where(good, power, 0).astype(np.int64)
    return np.where(negative, -power, power), good
