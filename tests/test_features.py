"""`features.json` gives back the specs it was made of, or says what is wrong."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfr_pipeline.compat import tf
from tfr_pipeline.errors import DataError
from tfr_pipeline.features import Feature, Features

F32, I64, TEXT = tf.float32, tf.int64, tf.string

SPECS = {
    "scalar without default": tf.io.FixedLenFeature((), F32),
    "scalar": tf.io.FixedLenFeature((), F32, 0.5),
    "one": tf.io.FixedLenFeature((1,), F32, -1.0),
    "one in a list": tf.io.FixedLenFeature((1,), F32, [2.0]),
    "vector": tf.io.FixedLenFeature((42,), F32, [0.0] * 42),
    "uneven vector": tf.io.FixedLenFeature((3,), F32, [1.0, 2.0, 3.0]),
    "matrix": tf.io.FixedLenFeature((2, 3), F32, [[1.0, 2, 3], [4, 5, 6]]),
    "even matrix": tf.io.FixedLenFeature((2, 3), F32, [[1.0] * 3] * 2),
    "flat matrix": tf.io.FixedLenFeature((2, 3), F32, [0.0] * 6),
    "integer": tf.io.FixedLenFeature((1,), I64, 7),
    "big integer": tf.io.FixedLenFeature((), I64, 2**62 + 1),
    "text": tf.io.FixedLenFeature((1,), TEXT, ""),
    "texts": tf.io.FixedLenFeature((2,), TEXT, ["ä", "b"]),
    "varlen": tf.io.VarLenFeature(TEXT),
    "ragged": tf.io.RaggedFeature(I64),
}


def through_json(specs):
    features = Features(
        context={n: Feature.from_spec(s) for n, s in specs.items()},
        example={n: Feature.from_spec(s) for n, s in specs.items()},
    )
    back = Features.from_json(json.loads(json.dumps(features.to_json())))
    assert back == features
    assert back.context_spec == back.example_spec
    return back.example_spec


@pytest.mark.parametrize("name", SPECS)
def test_specs_survive_json_exactly(name):
    assert through_json({name: SPECS[name]}) == {name: SPECS[name]}


NUMBERS = st.floats(width=32, allow_nan=False) | st.integers(-(2**62), 2**62)


@st.composite
def fixed_specs(draw):
    dtype = draw(st.sampled_from([F32, I64, TEXT]))
    shape = tuple(draw(st.lists(st.integers(1, 3), max_size=3)))
    size = int(np.prod(shape, dtype=int))
    element = {
        F32: st.floats(width=32, allow_nan=False),
        I64: st.integers(-(2**63), 2**63 - 1),
        TEXT: st.text(max_size=4),
    }[dtype]
    default = draw(
        st.none() | st.lists(element, min_size=size, max_size=size)
        if size > 1
        else st.none() | element | st.lists(element, min_size=1, max_size=1)
    )
    return tf.io.FixedLenFeature(shape, dtype, default)


@given(st.dictionaries(st.text(max_size=5), fixed_specs(), max_size=4))
@settings(max_examples=200, deadline=None)
def test_any_fixed_spec_survives_json(specs):
    assert through_json(specs) == specs


def test_restored_specs_parse_as_the_originals_do():
    specs = {
        name: spec
        for name, spec in SPECS.items()
        if getattr(spec, "default_value", 0) is not None
    }
    empty = [tf.train.Example().SerializeToString()]
    wanted = tf.io.parse_example(empty, specs)
    found = tf.io.parse_example(empty, through_json(specs))
    for name, spec in specs.items():
        if isinstance(spec, tf.io.FixedLenFeature):
            np.testing.assert_array_equal(found[name], wanted[name], err_msg=name)


def test_one_default_serves_all_elements_of_a_vector():
    spec = Feature("float32", (4,), 2.5).to_spec()
    parsed = tf.io.parse_example([b""], {"x": spec})["x"]
    np.testing.assert_array_equal(parsed, [[2.5] * 4])


def test_numpy_and_bytes_defaults_are_taken():
    spec = tf.io.FixedLenFeature((2,), F32, np.array([1.0, 2.0], np.float32))
    assert through_json({"x": spec})["x"].default_value == [1.0, 2.0]
    spec = tf.io.FixedLenFeature((2,), TEXT, [b"a", b"b"])
    assert through_json({"x": spec})["x"].default_value == ["a", "b"]


@pytest.mark.parametrize(
    "spec",
    [
        tf.io.RaggedFeature(F32, partitions=[tf.io.RaggedFeature.RowSplits("s")]),
        tf.io.RaggedFeature(F32, value_key="other"),
        tf.io.SparseFeature("i", "v", F32, 3),
    ],
)
def test_a_spec_that_cannot_be_described_is_refused(spec):
    with pytest.raises(DataError, match="cannot describe"):
        Feature.from_spec(spec)


def test_all_fields_survive_a_file(tmp_path):
    features = Features(
        context={"q": Feature("string", (), "", "fixed")},
        example={"x": Feature("float32", (2,), 0.0, columns=("a", "b"))},
        label=("grade", Feature("int64", (1,), -1)),
        weight=("w", Feature("float32", (1,), 1.0)),
        query_id=None,
        document_id="url",
        data_format="packed",
        label_transform={"flag": "quantiles:3", "thresholds": [[1.0]]},
        reading={"input_format": "csv", "qid_column": "query"},
    )
    features.save(str(tmp_path))
    assert (tmp_path / "features.json").exists()
    assert Features.load(str(tmp_path)) == features
    assert Features.load(str(tmp_path / "features.json")) == features


GOOD = Features(
    context={"q": Feature()},
    example={"x": Feature()},
    weight=("w", Feature()),
).to_json()


def changed(*path_and_value):
    *path, value = path_and_value
    content = json.loads(json.dumps(GOOD))
    inner = content
    for key in path[:-1]:
        inner = inner[key]
    if value is None:
        del inner[path[-1]]
    else:
        inner[path[-1]] = value
    return content


@pytest.mark.parametrize(
    "content, key",
    [
        (changed("version", 99), "version"),
        (changed("reading", {"nan": 1}), "reading"),
        (changed("reading", [1]), "reading"),
        (changed("label_transform", "log"), "label_transform"),
        ([1, 2], "version"),
        (changed("example", None), "example"),
        (changed("context", None), "context"),
        (changed("label", None), "label"),
        (changed("label", "name", None), "name"),
        (changed("example", [1]), "example"),
        (changed("example", "x", 5), "'x'"),
        (changed("example", "x", "dtype", "float16"), "'x'.*float16"),
        (changed("example", "x", "dtype", None), "'x'.*dtype"),
        (changed("context", "q", "shape", None), "'q'.*shape"),
        (changed("context", "q", "shape", ["a"]), "'q'.*shape"),
        (changed("context", "q", "shape", [-1]), "'q'.*shape"),
        (changed("context", "q", "kind", "dense"), "'q'.*dense"),
        (changed("example", "x", "columns", 3), "'x'.*columns"),
        (changed("example", "x", "default", [1.0, 2.0]), "'x'.*default"),
        (changed("example", "x", "default", "high"), "'x'.*default"),
        (changed("example", "x", "columns", ["a", "b"]), "'x'.*1 columns.*found 2"),
        (changed("example", "x", "columns", "a"), "'x'.*columns"),
        (changed("example", "x", "shape", [1.5]), "'x'.*shape"),
        (changed("example", "x", "shape", [10**9, 10**9]), "'x'.*at most"),
        (changed("label", "dtype", "int64"), "label.*default"),
        (changed("label", "name", 5), "name.*5"),
        (changed("weight", "name", None), "name"),
        (changed("weight", "shape", None), "weight.*shape"),
        (changed("data_format", "csv"), "data_format"),
        (changed("query_id", 5), "query_id"),
    ],
)
def test_malformed_files_are_named_with_their_key(tmp_path, content, key):
    path = tmp_path / "features.json"
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match=f"(?s){path}.*{key}"):
        Features.load(str(path))


@pytest.mark.parametrize("content", [b"{", b"", b"\xff\xfe{}"])
def test_a_file_that_is_not_json_is_named(tmp_path, content):
    path = tmp_path / "features.json"
    path.write_bytes(content)
    with pytest.raises(DataError, match=str(path)):
        Features.load(str(tmp_path))


def test_a_folder_or_a_deep_nest_in_its_place_is_named(tmp_path):
    path = tmp_path / "features.json"
    path.mkdir()
    with pytest.raises(DataError, match=r"features\.json: cannot be read"):
        Features.load(str(tmp_path))
    path.rmdir()
    path.write_text("[" * 100_000)
    with pytest.raises(DataError, match=r"features\.json: not valid JSON"):
        Features.load(str(tmp_path))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"features\.json: not found"):
        Features.load(str(tmp_path))
