"""Records on the wire: TensorFlow and the protobuf classes are the oracles."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfr_pipeline.compat import tf
from tfr_pipeline.data.lists import Lists
from tfr_pipeline.data.records import encode, tfrecord
from tfr_pipeline.features import Feature, Features

floats = st.floats(allow_nan=True, width=32)


@st.composite
def some_lists(draw: st.DrawFn) -> Lists:
    lengths = draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))
    total, width = sum(lengths), draw(st.integers(1, 40))
    names = st.text(max_size=150).map(lambda text: text.encode("utf-8", "ignore"))
    seed = draw(st.integers(0, 1000))
    matrix = np.random.default_rng(seed).normal(size=(total, width))
    matrix[0, 0] = draw(floats)
    return Lists(
        values={"float32": matrix.astype(np.float32)},
        row_splits=np.concatenate([[0], np.cumsum(lengths)]),
        labels=np.arange(total, dtype=np.float32),
        query_ids=_objects([draw(names).decode() for _ in lengths]),
        document_ids=_objects([draw(names).decode() for _ in range(total)]),
        weights=draw(st.sampled_from([None, np.full(total, 0.5, np.float32)])),
        context={
            "user": _objects([draw(names).decode() for _ in lengths])[:, np.newaxis],
            "age": np.array(
                [[draw(st.integers(-(2**63), 2**63 - 1))] for _ in lengths], np.int64
            ),
            "price": np.array([[draw(floats)] for _ in lengths], np.float32),
        },
    )


def _objects(values: list[str]) -> np.ndarray:
    result = np.empty(len(values), object)
    result[:] = values
    return result


def described(lists: Lists, scalar: bool) -> Features:
    width = lists.values["float32"].shape[1]
    example = {"features": Feature("float32", (width,), 0.0)}
    if scalar:
        example = {f"f{n}": Feature("float32", (1,), 0.0) for n in range(width)}
    weight = None if lists.weights is None else ("weight", Feature())
    return Features(example=example, weight=weight)


def floats_of(example: object, name: str) -> np.ndarray:
    feature = example.features.feature[name]  # type: ignore[attr-defined]
    return np.array(feature.float_list.value, np.float32)


def check_context(context: object, lists: Lists, number: int) -> None:
    feature = context.features.feature  # type: ignore[attr-defined]
    assert feature["qid"].bytes_list.value == [lists.query_ids[number].encode()]
    user, age = lists.context["user"][number, 0], lists.context["age"][number, 0]
    assert feature["user"].bytes_list.value == [user.encode()]
    assert feature["age"].int64_list.value == [age]
    np.testing.assert_array_equal(
        floats_of(context, "price"), lists.context["price"][number]
    )


@settings(max_examples=40, deadline=None)
@given(some_lists(), st.booleans())
def test_elwc_holds_what_the_lists_hold(lists: Lists, scalar: bool) -> None:
    input_pb2 = pytest.importorskip("tensorflow_serving.apis.input_pb2")
    features = described(lists, scalar)
    records = encode.elwc(lists, features)
    assert len(records) == lists.num_lists
    row = 0
    for number, record in enumerate(records):
        elwc = input_pb2.ExampleListWithContext.FromString(record)
        check_context(elwc.context, lists, number)
        assert len(elwc.examples) == lists.lengths[number]
        for example in elwc.examples:
            values = np.concatenate([floats_of(example, n) for n in features.example])
            np.testing.assert_array_equal(values, lists.values["float32"][row])
            assert floats_of(example, "label") == lists.labels[row]
            document = example.features.feature["docid"].bytes_list.value
            assert document == [lists.document_ids[row].encode()]
            assert ("weight" in example.features.feature) == (
                features.weight is not None
            )
            if lists.weights is not None:
                assert floats_of(example, "weight") == lists.weights[row]
            row += 1


@settings(max_examples=40, deadline=None)
@given(some_lists(), st.booleans())
def test_packed_holds_what_the_lists_hold(lists: Lists, scalar: bool) -> None:
    features = described(lists, scalar)
    matrix = lists.values["float32"]
    if scalar:  # columns go by the sorted names of their features
        matrix = matrix[:, np.argsort(list(features.example))]
    for number, record in enumerate(encode.packed(lists, features)):
        example = tf.train.Example.FromString(record)
        check_context(example, lists, number)
        rows = slice(lists.row_splits[number], lists.row_splits[number + 1])

        def raw(name: str, example: object = example) -> np.ndarray:
            (value,) = example.features.feature[name].bytes_list.value  # type: ignore[attr-defined]
            return np.frombuffer(value, "<f4")

        np.testing.assert_array_equal(raw("packed/float32"), matrix[rows].ravel())
        np.testing.assert_array_equal(raw("packed/labels"), lists.labels[rows])
        documents = example.features.feature["packed/document_ids"].bytes_list.value
        assert [name.decode() for name in documents] == list(lists.document_ids[rows])
        if lists.weights is not None:
            np.testing.assert_array_equal(raw("packed/weights"), lists.weights[rows])


def test_elwc_parses_by_the_specs_of_its_description() -> None:
    features = Features(example={"features": Feature("float32", (2,), 0.0)})
    lists = Lists(
        {"float32": np.array([[1, 2]], np.float32)},
        np.array([0, 1]),
        np.array([3], np.float32),
        _objects(["q"]),
        _objects(["d"]),
    )
    input_pb2 = pytest.importorskip("tensorflow_serving.apis.input_pb2")
    elwc = input_pb2.ExampleListWithContext.FromString(encode.elwc(lists, features)[0])
    label, spec = features.label_spec
    parsed = tf.io.parse_single_example(
        elwc.examples[0].SerializeToString(), {**features.example_spec, label: spec}
    )
    assert parsed["features"].numpy().tolist() == [1, 2]
    assert parsed["label"].numpy().tolist() == [3]


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.integers(0, 2000).flatmap(lambda n: st.binary(min_size=n, max_size=n)),
        max_size=8,
    )
)
def test_framed_records_are_what_tensorflow_writes(
    tmp_path_factory: pytest.TempPathFactory, records: list[bytes]
) -> None:
    path = tmp_path_factory.mktemp("records") / "a.tfrecord"
    with tf.io.TFRecordWriter(str(path)) as writer:
        for record in records:
            writer.write(record)
    assert b"".join(tfrecord.frame(records)) == path.read_bytes()


def test_checksum_is_the_one_of_the_standard() -> None:
    # RFC 3720, B.4, and the usual check value.
    texts = [b"\x00" * 32, b"\xff" * 32, bytes(range(32)), b"123456789", b"", b"a"]
    expected = [0x8A9136AA, 0x62A8AB43, 0x46DD794E, 0xE3069283, 0, 0xC1D04330]
    assert tfrecord.crc32c(texts).tolist() == expected


def test_long_records_are_what_tensorflow_writes(tmp_path: pathlib.Path) -> None:
    record = np.random.default_rng(0).bytes(300_001)
    with tf.io.TFRecordWriter(str(tmp_path / "a")) as writer:
        writer.write(record)
    assert tfrecord.frame([record])[0] == (tmp_path / "a").read_bytes()
