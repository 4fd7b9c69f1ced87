"""Formats of TFRecord files with ranked lists: names, recognition, transcoding.

`ExampleInExample` and `tf.train.Example` hold the same serialized documents as
`ExampleListWithContext`, wrapped in other messages; to change the wrapping costs next
to nothing, so that one quick parser serves all three.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from tfr_pipeline.data.records.wire import (
    FIRST,
    FIRST_TAG,
    SECOND,
    SECOND_TAG,
    WireError,
    field,
    read_fields,
    read_length,
    read_only,
    varint,
)
from tfr_pipeline.errors import ConfigError, DataError, unknown_name
from tfr_pipeline.layout import FEATURE_DTYPES

ELWC, EIE, SEQ, EXAMPLE, PACKED = "elwc", "eie", "seq", "example", "packed"
AUTO = "auto"
# What stands in a record of each format; for messages.
MESSAGES = {
    ELWC: "an ExampleListWithContext",
    EIE: "a tf.train.Example with 'serialized_context' and 'serialized_examples'",
    SEQ: "a tf.train.SequenceExample",
    EXAMPLE: "a tf.train.Example",
    PACKED: "a packed list",
}
RECORD_FORMATS = tuple(MESSAGES)
# The names that `tfr.data` has for them.
_ALIASES = {
    "example_list_with_context": ELWC,
    "example_in_example": EIE,
    "sequence_example": SEQ,
}
EXAMPLES_KEY, _CONTEXT = b"serialized_examples", b"serialized_context"
# Keys of the raw little-endian arrays in a packed list, `encode.packed` writes them.
PACKED_LABELS, PACKED_WEIGHTS = "packed/labels", "packed/weights"
PACKED_IDS = "packed/document_ids"
PACKED_KEY = PACKED_LABELS.encode()


class NotAListError(DataError):
    """A record is of another format than it should be."""


def packed_block(dtype: str) -> str:
    """Returns the key of the matrix `[documents, columns]` of a dtype."""
    return f"packed/{dtype}"


def feature_dtype(record: bytes) -> str | None:
    """Returns what a packed list holds its float32 features as; None if it has none."""
    try:
        ((start, stop),) = read_only(record, 0, len(record), FIRST)
    except (WireError, IndexError):
        return None
    names = _names(record, start, stop) or []
    found = (d for d in FEATURE_DTYPES if packed_block(d).encode() in names)
    return next(found, None)


def canonical(name: str, where: str = "input_format") -> str:
    """Returns the short name of a format; takes TF-Ranking's names too.

    Raises:
      ConfigError: There is no such format.

    Example:
      >>> canonical("sequence_example")
      'seq'
    """
    name = _ALIASES.get(name, name)
    if name not in (AUTO, *RECORD_FORMATS):
        raise ConfigError(unknown_name(where, name, (AUTO, *RECORD_FORMATS)))
    return name


def recognize(record: bytes) -> str | None:
    """Returns the format of a serialized record, None where its bytes do not tell.

    The messages nest in different ways, and the bytes of one are never another with a
    feature in it: features are entries of a name and a value at a certain depth.
    """
    try:
        tops = read_fields(record, 0, len(record))
        firsts = [(begin, end) for tag, begin, end in tops if tag == FIRST]
        seconds = [(begin, end) for tag, begin, end in tops if tag == SECOND]
        names = [_names(record, *place) for place in firsts[:1]]
    except (WireError, IndexError):
        return None
    if not tops or len(firsts) + len(seconds) != len(tops):
        return None
    if names and names[0] is not None:
        if seconds:
            return SEQ
        if len(firsts) > 1:
            return None
        if EXAMPLES_KEY in names[0]:
            return EIE
        return PACKED if PACKED_KEY in names[0] else EXAMPLE
    empty = all(begin == end for begin, end in firsts)
    if empty and seconds and _names(record, *seconds[0]):
        return SEQ
    found = any(_inner(record, *place) for place in firsts + seconds)
    return ELWC if found else None


def check_examples(records: Iterable[bytes]) -> None:
    """Refuses other messages among `tf.train.Example`s, which parse without complaint.

    Raises:
      NotAListError: A record is of another format.
    """
    for record in records:
        # What sets others apart, found quickly; it may also be in a text.
        if (
            record[:1] != FIRST_TAG
            or EXAMPLES_KEY in record
            or PACKED_KEY in record
            or not _is_one_field(record)
        ) and recognize(record) not in (EXAMPLE, None):
            raise NotAListError(f"expected {MESSAGES[EXAMPLE]} in each record.")


def check_sequences(records: Iterable[bytes], names: Collection[str]) -> None:
    """Refuses other messages among SequenceExamples, which parse without complaint.

    Args:
      records: The records.
      names: Document features. A SequenceExample without documents looks like an
        Example, but does not have them.

    Raises:
      NotAListError: A record is of another format.
    """
    for record in records:
        if not _is_one_field(record):
            continue
        found = recognize(record)
        if found == EXAMPLE:
            ((begin, end),) = read_only(record, 0, len(record), FIRST)
            own = {name.encode() for name in names}
            found = found if own.intersection(_names(record, begin, end) or ()) else SEQ
        if found not in (SEQ, None):
            raise NotAListError(f"expected {MESSAGES[SEQ]} in each record.")


def _is_one_field(record: bytes) -> bool:
    try:
        size, begin = read_length(record, 1)
    except (WireError, IndexError):
        return False
    return begin + size == len(record)


def _names(data: bytes, start: int, stop: int) -> list[bytes] | None:
    """Returns the names of a map from texts to messages; None if it is no such map."""
    try:
        entries = [
            read_only(data, begin, end, FIRST, SECOND)
            for tag, begin, end in read_fields(data, start, stop)
            if tag == FIRST
        ]
    except (WireError, IndexError):
        return None
    return [data[slice(*key)] for key, _ in entries] or None


def _inner(data: bytes, start: int, stop: int) -> list[bytes] | None:
    """Returns the names of the features of a `tf.train.Example`."""
    try:
        ((begin, end),) = read_only(data, start, stop, FIRST)
    except (WireError, IndexError):
        return None
    return _names(data, begin, end)


def elwc_of_eie(record: bytes) -> bytes:
    """Returns the ExampleListWithContext of an ExampleInExample.

    Raises:
      NotAListError: It is none.
    """
    try:
        ((start, stop),) = read_only(record, 0, len(record), FIRST)
        found = {}
        for _, begin, end in read_fields(record, start, stop):
            key, value = read_only(record, begin, end, FIRST, SECOND)
            found[record[slice(*key)]] = read_only(record, *value, FIRST)[0]
        # A list of bytes is on the wire what repeated messages are.
        examples = record[slice(*found[EXAMPLES_KEY])]
        contexts = read_fields(record, *found.get(_CONTEXT, (0, 0)))
        context = b"".join([record[begin:end] for _, begin, end in contexts])
    except (WireError, IndexError, KeyError):
        return _parsed_eie(record)
    return examples + field(SECOND_TAG, context)


def _parsed_eie(record: bytes) -> bytes:
    """Does the same for bytes that no usual serializer wrote."""
    import tensorflow as tf
    from google.protobuf.message import DecodeError

    try:
        features = tf.train.Example.FromString(record).features.feature
    except DecodeError as error:
        raise NotAListError(f"expected {MESSAGES[EIE]} ({error}).") from error
    if EXAMPLES_KEY.decode() not in features:
        raise NotAListError(
            f"expected {MESSAGES[EIE]}, found {', '.join(sorted(features)[:8])}."
        )
    context = b"".join(features[_CONTEXT.decode()].bytes_list.value)
    documents = features[EXAMPLES_KEY.decode()].bytes_list.value
    return elwc_of_examples(documents) + field(SECOND_TAG, context)


def elwc_of_examples(records: Iterable[bytes]) -> bytes:
    """Returns the ExampleListWithContext, without context, of serialized Examples."""
    return b"".join([FIRST_TAG + varint(len(record)) + record for record in records])
