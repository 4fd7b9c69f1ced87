"""`--label_transform`: counts become grades, in all splits the same ones."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.data.conversion_helpers import libsvm_text, write
from tfr_pipeline.data.convert import label_transform
from tfr_pipeline.data.convert.conversion import convert
from tfr_pipeline.data.convert.label_transform import LabelTransform
from tfr_pipeline.errors import ConfigError
from tfr_pipeline.features import Features

counts = st.lists(st.integers(0, 500), min_size=1, max_size=60)


def text(labels: list[float]) -> str:
    """Returns lists of two documents with these labels."""
    return libsvm_text(
        [(label, f"q{row // 2}", {1: 1.0}) for row, label in enumerate(labels)]
    )


@given(counts)
def test_the_gain_of_a_logarithm_is_the_count(labels: list[int]) -> None:
    grades = LabelTransform.parse("log")(np.array(labels, np.float32))
    np.testing.assert_allclose(2.0**grades - 1, labels, rtol=1e-5, atol=1e-6)


@given(counts, st.integers(2, 8))
def test_quantiles_keep_the_order_and_about_equal_numbers(
    labels: list[int], grades: int
) -> None:
    values = np.array(labels, np.float32)
    transform = LabelTransform.parse(f"quantiles:{grades}")
    transform = transform.fitted(label_transform.count(values))
    found = transform(values)
    order = np.argsort(values, kind="stable")
    assert (np.diff(found[order]) >= 0).all()
    np.testing.assert_array_equal(found == 0, values == 0)
    assert found.max() < grades
    positive = values[values > 0]
    if len(set(positive.tolist())) == len(positive) >= grades - 1:
        sizes = np.unique(found[found > 0], return_counts=True)[1]
        assert sizes.max() - sizes.min() <= 1
    assert LabelTransform.from_json(transform.to_json(), "") == transform


def test_other_splits_take_the_quantiles_of_the_first(tmp_path: pathlib.Path) -> None:
    train = write(tmp_path / "t.txt", text([0, 1, 10, 100, 40, 180]))
    valid = write(tmp_path / "v.txt", text([0, 5, 1000, 11]))
    output, lines = str(tmp_path / "out"), list[str]()
    flags = {"report": lines.append, "label_transform": "quantiles:3"}
    stats = convert(train, output, **flags)
    assert stats["grades"] == {"0": 1, "1": 3, "2": 2}  # up to 40, above
    for given_flags in (flags, {"report": lines.append}):
        stats = convert(valid, output, split="valid", **given_flags)
        assert stats["grades"] == {"0": 1, "1": 2, "2": 1}
    assert not [line for line in lines if "look like counts" in line]
    features = Features.load(output)
    assert Features.from_json(features.to_json()) == features
    assert features.label_transform is not None
    for other in ("log", "quantiles:4"):
        with pytest.raises(ConfigError, match="quantiles:3"):
            convert(valid, output, split="valid", label_transform=other)


def test_splits_with_labels_as_they_are_refuse_a_transform(
    tmp_path: pathlib.Path,
) -> None:
    path = write(tmp_path / "t.txt", text([0, 1]))
    convert(path, str(tmp_path / "out"), report=lambda _: None)
    with pytest.raises(ConfigError, match=r"expected that of the splits.*none"):
        convert(path, str(tmp_path / "out"), split="valid", label_transform="log")


@pytest.mark.parametrize(
    ("top", "said"),
    [(4, ""), (31, ""), (40, "look like counts"), (180, "no float32")],
)
def test_labels_that_are_no_grades_are_warned_of(
    tmp_path: pathlib.Path, top: int, said: str
) -> None:
    lines: list[str] = []
    path = write(tmp_path / "t.txt", text([0, top]))
    convert(path, str(tmp_path / "out"), report=lines.append)
    assert ([line for line in lines if "--label_transform" in line] != []) == bool(said)
    assert said in "".join(lines)
    lines.clear()
    convert(path, str(tmp_path / "o"), report=lines.append, label_transform="cap:4")
    assert not lines


@pytest.mark.parametrize("flag", ["lgo", "cap", "cap:0", "quantiles:1", "quantiles:x"])
def test_an_unknown_transform_names_those_that_there_are(flag: str) -> None:
    with pytest.raises(ConfigError, match="quantiles:GRADES"):
        LabelTransform.parse(flag)
