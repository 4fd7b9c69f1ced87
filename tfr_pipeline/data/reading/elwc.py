"""ExampleListWithContext taken apart without parsing what is in it."""

from __future__ import annotations

from typing import Any

import tensorflow as tf
from google.protobuf import descriptor_pb2


def _elwc_descriptor() -> bytes:
    """Describes ExampleListWithContext with its submessages left as bytes.

    A message and a bytes field have the same wire format, so the examples come out
    serialized, ready for `tf.io.parse_example`, without a second encoding.
    """
    file = descriptor_pb2.FileDescriptorProto(
        name="tfr_pipeline_elwc.proto", package="tfr_pipeline", syntax="proto3"
    )
    message = file.message_type.add(name="Elwc")
    field_type = descriptor_pb2.FieldDescriptorProto
    message.field.add(
        name="examples",
        number=1,
        type=field_type.TYPE_BYTES,
        label=field_type.LABEL_REPEATED,
    )
    message.field.add(
        name="context",
        number=2,
        type=field_type.TYPE_BYTES,
        label=field_type.LABEL_OPTIONAL,
    )
    return (
        b"bytes://" + descriptor_pb2.FileDescriptorSet(file=[file]).SerializeToString()
    )


_DESCRIPTOR = _elwc_descriptor()


def split_elwc(serialized: Any) -> tuple[Any, Any, Any]:
    """Splits serialized ExampleListWithContext without parsing the examples.

    Args:
      serialized: string `[lists]`.

    Returns:
      `(examples, lengths, contexts)`: string `[documents]`, int64 `[lists]`, and
      string `[lists]`; all but the first are per list.
    """
    sizes, (examples, contexts) = tf.io.decode_proto(
        serialized,
        "tfr_pipeline.Elwc",
        ["examples", "context"],
        [tf.string, tf.string],
        descriptor_source=_DESCRIPTOR,
    )
    lengths = tf.cast(sizes[:, 0], tf.int64)
    present = tf.sequence_mask(lengths, tf.shape(examples)[1])
    # Without any context in the batch the second dimension is 0.
    contexts = tf.strings.reduce_join(contexts, axis=1)
    return tf.boolean_mask(examples, present), lengths, contexts
