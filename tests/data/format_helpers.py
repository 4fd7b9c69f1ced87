"""Ranked lists written in each format, by protobuf alone."""

from __future__ import annotations

import numpy as np

from tests.ranking_data import RankedList, elwc, example, packed, write
from tfr_pipeline.compat import tf, tfr

# What stands in no matrix: texts, and as many values as a document has.
LOOSE_SPEC = {
    "title": tf.io.RaggedFeature(tf.string),
    "terms": tf.io.VarLenFeature(tf.int64),
    "scores": tf.io.RaggedFeature(tf.float32, row_splits_dtype=tf.int64),
    "docid": tf.io.FixedLenFeature((1,), tf.string, "none"),
    "pair": tf.io.FixedLenFeature((2,), tf.string, ["a", "b"]),
}
LOOSE_CONTEXT = {
    "query": tf.io.RaggedFeature(tf.string),
    "days": tf.io.VarLenFeature(tf.float32),
    "qid": tf.io.FixedLenFeature((), tf.string, ""),
}
THEIRS = {"elwc": tfr.data.ELWC, "eie": tfr.data.EIE, "seq": tfr.data.SEQ}


def with_loose_features(lists: list[RankedList], seed: int = 0) -> list[RankedList]:
    """Adds values of `LOOSE_SPEC` and `LOOSE_CONTEXT`; some documents have none."""
    random = np.random.default_rng(seed)
    words = np.array([b"learning", b"to", b"rank", b""], object)

    def some() -> int:
        return int(random.integers(0, 4))

    for ranked in lists:
        ranked.context["query"] = random.choice(words, some())
        ranked.context["days"] = random.normal(size=some()).astype(np.float32)
        for document in ranked.documents:
            document["title"] = random.choice(words, some())
            document["terms"] = random.integers(0, 300, some())
            document["scores"] = random.normal(size=some()).astype(np.float32)
            document["pair"] = random.choice(words, 2)
    return lists


def eie(ranked: RankedList) -> bytes:
    """Returns a serialized ExampleInExample."""
    documents = [example(d).SerializeToString() for d in ranked.documents]
    context = [example(ranked.context).SerializeToString()]
    return example(
        {
            "serialized_context": np.array(context, object),
            "serialized_examples": np.array(documents, object),
        }
    ).SerializeToString()


def sequence(ranked: RankedList) -> bytes:
    """Returns a serialized SequenceExample."""
    message = tf.train.SequenceExample(context=example(ranked.context).features)
    for name in sorted({name for d in ranked.documents for name in d}):
        entries = message.feature_lists.feature_list[name].feature
        for document in ranked.documents:
            values = {name: document[name]} if name in document else {}
            entries.add().CopyFrom(example(values).features.feature[name])
        while entries and entries[-1].WhichOneof("kind") is None:
            del entries[-1]  # a list of a feature may end early
    return message.SerializeToString()


def pointwise(ranked: RankedList) -> list[bytes]:
    """Returns serialized Examples, each with the features of the query."""
    return [
        example({**ranked.context, **d}).SerializeToString() for d in ranked.documents
    ]


def records(
    lists: list[RankedList], data_format: str, example_spec=None
) -> list[bytes]:
    """Returns the records of lists in a format."""
    if data_format == "example":
        return [record for ranked in lists for record in pointwise(ranked)]
    if data_format == "packed":
        return [packed(ranked, example_spec) for ranked in lists]
    return list(map({"elwc": elwc, "eie": eie, "seq": sequence}[data_format], lists))


def write_format(path, lists, data_format, compression=None, example_spec=None) -> str:
    """Writes lists in a format; returns the path."""
    return write(path, records(lists, data_format, example_spec), compression)
