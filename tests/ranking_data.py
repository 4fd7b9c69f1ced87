"""Random ranked lists, written as ELWC and packed TFRecord files by protobuf alone."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

import numpy as np

from tfr_pipeline.compat import tf

_LISTS = {"float32": "float_list", "int64": "int64_list", "string": "bytes_list"}

CONTEXT_SPEC = {
    "query_vector": tf.io.FixedLenFeature((2,), tf.float32, [0.25, -1.0]),
    "query_length": tf.io.FixedLenFeature((1,), tf.int64, 3),
}
EXAMPLE_SPEC = {
    "bm25": tf.io.FixedLenFeature((1,), tf.float32, 0.5),
    "embedding": tf.io.FixedLenFeature((3,), tf.float32, [1.0, 2.0, 3.0]),
    "clicks": tf.io.FixedLenFeature((1,), tf.int64, 7),
    "grid": tf.io.FixedLenFeature((2, 2), tf.float32, [0.0, 1.0, 2.0, 3.0]),
    "age": tf.io.FixedLenFeature((2,), tf.int64, [1, 2]),
}
LABEL_SPEC = ("relevance", tf.io.FixedLenFeature((1,), tf.float32, -1.0))
WEIGHT_SPEC = ("weight", tf.io.FixedLenFeature((1,), tf.float32, 1.0))
MASK = "mask"

Values = dict[str, np.ndarray]


@dataclasses.dataclass
class RankedList:
    """One query as a plain reader would hold it."""

    context: Values
    documents: list[Values]


def example(values: Values) -> Any:
    """Returns the `tf.train.Example` of named arrays."""
    message = tf.train.Example()
    for name, value in values.items():
        value = np.asarray(value)
        kind = "string" if value.dtype.kind in "OSU" else value.dtype.name
        flat = value.ravel().tolist()
        if kind == "string":
            flat = [v if isinstance(v, bytes) else str(v).encode() for v in flat]
        feature = message.features.feature[name]
        getattr(feature, _LISTS[kind]).value.extend(flat)
    return message


def elwc(ranked: RankedList) -> bytes:
    """Returns a serialized ExampleListWithContext."""
    from tensorflow_serving.apis import input_pb2

    message = input_pb2.ExampleListWithContext()
    for document in ranked.documents:
        message.examples.add().CopyFrom(example(document))
    if ranked.context:
        message.context.CopyFrom(example(ranked.context))
    return message.SerializeToString()


def random_values(
    random: np.random.Generator, specs: dict[str, Any], missing: float = 0.0
) -> Values:
    """Returns a value for each spec, leaving each out with probability `missing`."""
    result = {}
    for name, spec in specs.items():
        if random.random() < missing:
            continue
        shape = tuple(spec.shape)
        if spec.dtype == tf.float32:
            result[name] = random.normal(size=shape).astype(np.float32)
        else:
            result[name] = random.integers(-9, 100, size=shape)
    return result


def random_lists(
    seed: int,
    lengths: list[int],
    context_spec: dict[str, Any] | None = None,
    example_spec: dict[str, Any] | None = None,
    missing: float = 0.0,
    with_context: bool = True,
) -> list[RankedList]:
    """Returns random lists with labels, weights, and ids `q<i>`, `d<i>_<j>`."""
    random = np.random.default_rng(seed)
    context_spec = CONTEXT_SPEC if context_spec is None else context_spec
    example_spec = EXAMPLE_SPEC if example_spec is None else example_spec
    result = []
    for i, length in enumerate(lengths):
        documents = []
        for j in range(length):
            values = random_values(random, example_spec, missing)
            values["relevance"] = np.float32([random.integers(0, 5)])
            values["weight"] = np.float32([random.uniform(0.5, 2.0)])
            values["docid"] = np.array([f"d{i}_{j}"], object)
            documents.append(values)
        context: Values = {}
        if with_context:
            context = random_values(random, context_spec, missing)
            context["qid"] = np.array([f"q{i}"], object)
        result.append(RankedList(context, documents))
    return result


def write(
    path: str | os.PathLike[str], records: list[bytes], compression: str | None = None
) -> str:
    """Writes a TFRecord file; returns its path."""
    with tf.io.TFRecordWriter(os.fspath(path), compression) as writer:
        for record in records:
            writer.write(record)
    return os.fspath(path)


def write_elwc(path: str | os.PathLike[str], lists: list[RankedList]) -> str:
    """Writes lists as ELWC; returns the path."""
    return write(path, [elwc(ranked) for ranked in lists])


def packed(ranked: RankedList, example_spec: dict[str, Any]) -> bytes:
    """Returns a packed record, as docs/data.md describes it."""
    values: dict[str, list[Any]] = {}
    for name in sorted(example_spec):
        dtype = example_spec[name].dtype.name
        column = np.array(
            [np.ravel(document[name]) for document in ranked.documents], dtype
        )
        values.setdefault(dtype, []).append(column)
    fields = {
        **ranked.context,
        "packed/document_ids": np.array(
            [document["docid"][0] for document in ranked.documents], object
        ),
    }
    for name, key in (("relevance", "labels"), ("weight", "weights")):
        column = np.array([d[name][0] for d in ranked.documents], np.float32)
        fields[f"packed/{key}"] = np.array([column.tobytes()], object)
    for dtype, columns in values.items():
        matrix = np.concatenate(columns, axis=1).tobytes() if ranked.documents else b""
        fields[f"packed/{dtype}"] = np.array([matrix], object)
    return example(fields).SerializeToString()
