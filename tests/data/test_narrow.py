"""Features written in 16 bits: nearest numbers, and every loss counted and named."""

from __future__ import annotations

import json
import os
import pathlib
import struct
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.data.conversion_helpers import all_records, libsvm_text, sample_text, write
from tests.pipeline.training_helpers import tree
from tests.ranking_data import random_lists, write_elwc
from tfr_pipeline.compat import tf
from tfr_pipeline.data.convert.conversion import convert
from tfr_pipeline.data.convert.narrow import Losses, rounded
from tfr_pipeline.data.sources import libsvm_chunks
from tfr_pipeline.data.sources.options import Options
from tfr_pipeline.errors import ConfigError, DataError
from tfr_pipeline.features import Feature, Features

NARROW = ("float16", "bfloat16")
# Significant bits, the first one included.
BITS = {"float16": 11, "bfloat16": 8}
BOUNDS = (65504.0, 65519.99, 65520.0, 6.1035e-05, 6e-8, 2.9e-8, 3.39e38, 3.4e38, 1e-39)
numbers = st.one_of(
    st.floats(width=32),
    st.floats(width=16),
    st.floats(-(2.0**-13), 2.0**-13, width=32),
    st.floats(
        width=32, allow_subnormal=True, min_value=-(2.0**-120), max_value=2.0**-120
    ),
    st.sampled_from(BOUNDS).map(np.float32).map(float),
)


def in_16_bits(value: float, dtype: str) -> float:
    """Python's own float16; TensorFlow's bfloat16."""
    if dtype == "bfloat16":
        return float(tf.cast(tf.cast(tf.constant(value), tf.bfloat16), tf.float32))
    try:
        return struct.unpack("<e", struct.pack("<e", value))[0]
    except OverflowError:
        return float(np.copysign(np.inf, value))


def loss_of(value: float, after: float, dtype: str) -> str:
    """Returns what was lost of one value, in exact arithmetic."""
    if not np.isfinite(value) or after == value:
        return ""
    if np.isinf(after):
        return "too_large"
    if after == 0:
        return "became_zero"
    error = abs(Fraction(after) - Fraction(value)) / abs(Fraction(value))
    return "imprecise" if error > Fraction(1, 2 ** BITS[dtype]) else ""


@settings(max_examples=300, deadline=None)
@given(st.lists(numbers, min_size=1, max_size=12), st.sampled_from(NARROW))
@example([*BOUNDS, -1e-10, float("nan"), float("inf"), 0.0], "float16")
@example([*BOUNDS, -1e-45, float("nan"), -float("inf"), 0.0], "bfloat16")
def test_values_become_the_nearest_and_losses_are_counted_by_column(
    values: list[float], dtype: str
) -> None:
    row = np.array(values, np.float32)
    matrix = np.stack([row, row])
    found, losses = rounded(matrix, dtype)
    assert found.dtype == np.float32
    expected = [in_16_bits(float(value), dtype) for value in row]
    np.testing.assert_array_equal(found, [expected, expected])
    for column, (value, after) in enumerate(zip(row, expected, strict=True)):
        name = loss_of(float(value), after, dtype)
        assert losses.of_column(column) == ({name: 2} if name else {})


def rows(*values: list[float]) -> str:
    """Returns LibSVM text of lists of one document."""
    features = [dict(enumerate(row, 1)) for row in values]
    return libsvm_text([(1, f"q{i}", row) for i, row in enumerate(features)])


def converted(path: str, output: pathlib.Path, dtype: str, nan: str = "error", **more):
    """Converts to packed; returns the statistics and the lines for the user."""
    lines: list[str] = []
    stats = convert(
        path,
        str(output),
        output_format="packed",
        feature_dtype=dtype,
        options=Options(nan=nan),
        report=lines.append,
        **more,
    )
    warnings = [line for line in lines if "feature_dtype" in line]
    return stats, warnings


def block(record: bytes, dtype: str) -> bytes:
    """Returns the matrix of a packed record, parsed by protobuf."""
    found = tf.train.Example.FromString(record).features.feature
    names = [name for name in found if name.startswith("packed/")]
    assert sorted(names) == sorted(
        [f"packed/{dtype}", "packed/labels", "packed/document_ids"]
    )
    (value,) = found[f"packed/{dtype}"].bytes_list.value
    return value


@pytest.mark.parametrize("scalar", [True, False])
@pytest.mark.parametrize("dtype", NARROW)
def test_records_hold_the_matrix_in_half_the_bytes(tmp_path, dtype, scalar) -> None:
    path = write(tmp_path / "a.txt", sample_text(queries=5, features=12))
    for name in ("float32", dtype):
        converted(path, tmp_path / name, name, scalar_features=scalar)
    for wide, narrow in zip(
        all_records(tmp_path / "float32"), all_records(tmp_path / dtype), strict=True
    ):
        matrix = np.frombuffer(block(wide, "float32"), "<f4")
        expected = [in_16_bits(float(value), dtype) for value in matrix]
        found = tf.io.decode_raw(block(narrow, dtype), dtype)
        np.testing.assert_array_equal(tf.cast(found, tf.float32), expected)


@pytest.mark.parametrize("dtype", NARROW)
def test_any_number_of_workers_writes_the_same(tmp_path, monkeypatch, dtype) -> None:
    monkeypatch.setattr(libsvm_chunks.by_query, "__defaults__", (3000,))
    tiny = rows(*[[1e-9, 3e-6, 1e-40]] * 30).replace("qid:q", "qid:r")
    path = write(tmp_path / "a.txt", sample_text(queries=60) + tiny)
    found = []
    for number in (1, 2):
        said = converted(path, tmp_path / f"{number}", dtype, num_workers=number)
        found.append((said, tree(tmp_path / f"{number}")))
    assert found[0] == found[1]
    stats, warnings = found[0][0]
    lost = "became_zero" if dtype == "float16" else "imprecise"
    assert stats["features"]["feature_3"][lost] == 30
    assert warnings


def test_the_description_names_the_dtype_and_the_statistics_are_those_written(
    tmp_path,
) -> None:
    path = write(tmp_path / "a.txt", rows([1.0, 2000.3], [0.1, 1e-9]))
    stats, _ = converted(path, tmp_path / "out", "float16")
    assert Features.load(str(tmp_path / "out")).feature_dtype == "float16"
    assert json.loads((tmp_path / "out" / "train.stats.json").read_text()) == stats
    assert stats["feature_dtype"] == "float16"
    assert stats["features"]["feature_1"] == {
        "min": 0.0999755859375,
        "max": 1.0,
        "mean": (1.0 + 0.0999755859375) / 2,
        "zeros": 0.0,
    }
    assert stats["features"]["feature_2"] == {
        "min": 0.0,
        "max": 2000.0,
        "mean": 1000.0,
        "zeros": 0.5,
        "became_zero": 1,
    }


def test_float32_leaves_no_word_in_the_files(tmp_path) -> None:
    path = write(tmp_path / "a.txt", sample_text())
    stats, _ = converted(path, tmp_path / "out", "float32")
    assert "feature_dtype" not in stats
    assert "feature_dtype" not in (tmp_path / "out" / "features.json").read_text()


def test_a_value_too_large_is_an_error_with_its_place_and_nothing_is_left(
    tmp_path,
) -> None:
    path = write(tmp_path / "a.txt", rows([1, 2], [65519, 1], [3, -7e4], [8e4, 1]))
    message = (
        r"a.txt:3: feature 'feature_2' is -70000 in query 'q2', document '3'; expected "
        r"at most 65504, the largest float16. Use --feature_dtype=bfloat16, .*--nan="
    )
    with pytest.raises(DataError, match=message):
        converted(path, tmp_path / "out", "float16")
    assert os.listdir(tmp_path) == ["a.txt"]
    stats, warnings = converted(path, tmp_path / "out", "bfloat16")
    assert stats["documents"] == 4 and not warnings


@pytest.mark.parametrize(("nan", "became"), [("zero", 0.0), ("keep", -np.inf)])
def test_the_option_for_infinite_values_says_what_becomes_of_those_too_large(
    tmp_path, nan, became
) -> None:
    path = write(tmp_path / "a.txt", rows([1, 2], [float("nan"), -7e4]))
    stats, warnings = converted(path, tmp_path / "out", "float16", nan)
    last = np.frombuffer(block(all_records(tmp_path / "out")[1], "float16"), "<f2")
    assert last[1] == became
    assert stats["features"]["feature_2"]["too_large"] == 1
    assert stats["features"]["feature_2"].get("nonfinite", 0) == (nan == "keep")
    assert "too_large" not in stats["features"]["feature_1"]  # it came as NaN
    word = "0, for --nan=zero" if nan == "zero" else "infinite, for --nan=keep"
    assert warnings == [
        f"warning: --feature_dtype=float16: 1 value beyond 65504 became {word}: "
        "feature_2 (1)"
    ]


def test_values_that_do_not_survive_are_named_those_with_most_of_them_first(
    tmp_path,
) -> None:
    path = write(tmp_path / "a.txt", rows([1e-9, 0, 3e-6], [1e-9, 1e-10, 1], [0, 1, 1]))
    _, warnings = converted(path, tmp_path / "out", "float16")
    assert warnings == [
        "warning: --feature_dtype=float16: 3 values too small for float16 became 0: "
        "feature_1 (2), feature_2 (1)",
        "warning: --feature_dtype=float16: 1 value below 6.1e-05 lost more than the "
        "last of their bits: feature_3 (1)",
    ]


def test_many_features_are_named_in_part() -> None:
    none, some = np.zeros(11, np.int64), np.ones(11, np.int64)
    losses = Losses("float16", none, some, none)
    losses.add(Losses("float16", none, some, none))
    (line,) = losses.warnings([f"f{i}" for i in range(11)], "error")
    assert "22 values too small for float16 became 0: f0 (2), f1 (2)," in line
    assert line.endswith(" f7 (2) and 3 more features")


def test_other_formats_and_dtypes_are_refused(tmp_path) -> None:
    path = write(tmp_path / "a.txt", sample_text())
    for dtype, output_format, message in (
        ("float16", "elwc", "float16 needs --output_format=packed: .*'elwc' hold"),
        ("float8", "packed", "unknown feature_dtype 'float8'"),
        ("half", "packed", "unknown feature_dtype 'half'"),
    ):
        with pytest.raises(ConfigError, match=message):
            convert(
                path,
                str(tmp_path / "out"),
                output_format=output_format,
                feature_dtype=dtype,
            )
    assert os.listdir(tmp_path) == ["a.txt"]


def test_splits_of_a_folder_have_one_dtype(tmp_path) -> None:
    path = write(tmp_path / "a.txt", sample_text())
    converted(path, tmp_path / "out", "float16")
    before = tree(tmp_path / "out")
    # Found before the work, which would end with another error.
    bad = write(tmp_path / "b.txt", "1 qid:1 1:x\n")
    for dtype in ("float32", "bfloat16"):
        message = f"feature_dtype: expected 'float16', found '{dtype}'"
        with pytest.raises(DataError, match=message):
            converted(bad, tmp_path / "out", dtype, split="valid")
    assert tree(tmp_path / "out") == before
    converted(path, tmp_path / "out", "float16", split="valid")


def test_integers_of_records_stay_as_they_are(tmp_path) -> None:
    path = write_elwc(tmp_path / "elwc", random_lists(0, [3, 2]))
    convert(
        path,
        str(tmp_path / "out"),
        input_format="elwc",
        output_format="packed",
        feature_dtype="bfloat16",
        options=Options(label_column="relevance", weight_column="weight"),
    )
    record = tf.train.Example.FromString(all_records(tmp_path / "out")[0])
    sizes = {
        name: len(feature.bytes_list.value[0])
        for name, feature in record.features.feature.items()
        if name.startswith("packed/")
    }
    del sizes["packed/document_ids"]
    # 3 documents with 1 + 3 + 4 floats and 1 + 2 integers.
    assert sizes == {
        "packed/bfloat16": 3 * 8 * 2,
        "packed/int64": 3 * 3 * 8,
        "packed/labels": 3 * 4,
        "packed/weights": 3 * 4,
    }


def test_records_without_floats_have_nothing_to_narrow(tmp_path) -> None:
    path = write_elwc(tmp_path / "elwc", random_lists(0, [3]))
    options = Options(label_column="relevance", feature_columns=("clicks", "age"))
    with pytest.raises(ConfigError, match="expected float32 features of documents"):
        convert(
            path,
            str(tmp_path / "out"),
            input_format="elwc",
            output_format="packed",
            feature_dtype="float16",
            options=options,
        )
    assert os.listdir(tmp_path) == ["elwc"]


def test_the_description_of_narrow_data_survives_and_others_are_refused() -> None:
    features = Features(
        example={"features": Feature("float32", (2,), 0.0)},
        data_format="packed",
        feature_dtype="bfloat16",
    )
    content = json.loads(json.dumps(features.to_json()))
    assert Features.from_json(content) == features
    del content["feature_dtype"]  # as versions before have written it
    assert Features.from_json(content).feature_dtype == "float32"
    for wrong in (
        {"feature_dtype": "float64"},
        {"feature_dtype": None},
        {"feature_dtype": "float16", "data_format": "elwc"},
    ):
        with pytest.raises(DataError, match=r"features.json: expected feature_dtype"):
            Features.from_json({**content, **wrong})
