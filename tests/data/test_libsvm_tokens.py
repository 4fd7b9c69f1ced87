"""Numbers of LibSVM text: every value is the float32 nearest to its decimal text."""

from __future__ import annotations

import decimal
import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tfr_pipeline.data.sources import libsvm_tokens


def nearest_by_fractions(text: str) -> float:
    """Oracle: chooses among the float32 numbers around the double, exactly."""
    with np.errstate(over="ignore"):
        middle = np.float32(float(text))
        around = [
            np.nextafter(middle, np.float32(-np.inf)),
            middle,
            np.nextafter(middle, np.float32(np.inf)),
        ]
    if not np.isfinite(middle):
        return float(middle)
    exact = decimal.Decimal(text)
    finite = [value for value in around if np.isfinite(value)]
    with decimal.localcontext() as context:
        context.prec = 400

        def distance(value: np.float32) -> tuple[decimal.Decimal, int]:
            even = int(value.view(np.uint32)) & 1  # ties go to the even one
            return abs(decimal.Decimal(float(value)) - exact), even

        return float(min(finite, key=distance))


decimals = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False, width=32).map(repr),
    st.floats(min_value=-1e30, max_value=1e30).map(repr),
    st.from_regex(r"[+-]?[0-9]{1,20}(\.[0-9]{0,26})?", fullmatch=True),
    st.from_regex(r"[+-]?\.[0-9]{1,26}", fullmatch=True),
    st.from_regex(r"[+-]?[0-9]{1,4}\.?[0-9]{1,6}[eE][+-]?[0-9]{1,2}", fullmatch=True),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(decimals, min_size=1, max_size=20))
@example(["16777217", "16777217.0000000000000001", "16777218.99999999999999999"])
@example(["1e-46", "1.4e-45", "3.4028236e38", "-0", "0.1e-45", "33554433.9999999"])
@example(["0." + "0" * 22 + "1234", "0.12345678901234567", "123456789012345678.5"])
def test_bulk_parsing_gives_the_float32_nearest_to_the_text(numbers: list[str]) -> None:
    line = " ".join(f"{index}:{text}" for index, text in enumerate(numbers, 1))
    parsed = libsvm_tokens.parse([line.encode()])
    assert parsed is not None
    expected = [nearest_by_fractions(text) for text in numbers]
    np.testing.assert_array_equal(parsed.values, np.array(expected, np.float32))
    assert parsed.indices.tolist() == list(range(1, len(numbers) + 1))
    assert parsed.has_nonfinite == any(not math.isfinite(value) for value in expected)


@pytest.mark.parametrize(
    "token",
    [
        b"",
        b".",
        b"+",
        b"1_0",
        b"0x1",
        b"1e",
        b"1e5e5",
        b"1.2.3",
        b"--1",
        b"1,5",
        b"\xff",
    ],
)
def test_what_is_not_a_number_is_refused(token: bytes) -> None:
    with pytest.raises(ValueError, match="not a number"):
        libsvm_tokens.nearest_float32(token)
    assert libsvm_tokens.parse([b"1:0.5 2:" + token + b" 3:1"]) is None


def test_not_a_number_and_infinity_are_seen() -> None:
    parsed = libsvm_tokens.parse([b"1:nan 2:-inf", b"1:1e39 2:Infinity"])
    assert parsed is not None
    assert parsed.has_nonfinite
    np.testing.assert_array_equal(
        parsed.values, np.array([np.nan, -np.inf, np.inf, np.inf], np.float32)
    )


def test_lines_may_have_different_numbers_of_tokens() -> None:
    parsed = libsvm_tokens.parse([b"1:1", b"3:2 5:3 12345678:4"])
    assert parsed is not None
    assert parsed.counts.tolist() == [1, 3]
    assert parsed.indices.tolist() == [1, 3, 5, 12345678]
