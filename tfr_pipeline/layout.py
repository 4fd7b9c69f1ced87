"""Where each document feature stands in the packed matrices.

Document features of one dtype are stored side by side in one matrix, in the order of
their names, each flattened. The reader, the datasets, the models and the signatures
all take the order from here.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import Any

# Prefix of the names of packed model inputs, followed by the dtype.
PACKED_INPUT = "documents_"
PACKED_DTYPES = ("float32", "int64")
PACKED_INPUTS = tuple(PACKED_INPUT + dtype for dtype in PACKED_DTYPES)
# Prefix of the name of the distinct texts of a document feature, string `[distinct]`:
# in a packed batch the feature itself holds their numbers.
DISTINCT = "distinct_of_"
# What the matrix of float32 features may be kept as, on disk and in memory. It becomes
# float32 when a batch is gathered: specs and models know nothing of it.
FEATURE_DTYPES = ("float32", "float16", "bfloat16")


def are_packed(inputs: Iterable[str]) -> bool:
    """Whether some names of inputs are those of a model for packed batches."""
    return any(name in PACKED_INPUTS or name.startswith(DISTINCT) for name in inputs)


@dataclasses.dataclass(frozen=True)
class Slot:
    """Columns `start:stop` of a matrix hold the feature `name` of shape `shape`."""

    name: str
    start: int
    stop: int
    shape: tuple[int, ...]

    @property
    def width(self) -> int:
        """Number of columns."""
        return self.stop - self.start


@dataclasses.dataclass(frozen=True)
class BlockLayout:
    """Maps each dtype to its slots, in the order of the names.

    Example:
      >>> from tfr_pipeline.features import Feature
      >>> spec = {"b": Feature(shape=(2,)).to_spec(), "a": Feature().to_spec()}
      >>> [slot.name for slot in BlockLayout.from_spec(spec).slots["float32"]]
      ['a', 'b']
    """

    slots: dict[str, tuple[Slot, ...]]

    @staticmethod
    def can_pack(example_spec: Mapping[str, Any]) -> bool:
        """Whether all features have a fixed shape and a dtype that packs."""
        from tfr_pipeline.compat import tf

        return bool(example_spec) and all(
            isinstance(spec, tf.io.FixedLenFeature)
            and tf.dtypes.as_dtype(spec.dtype).name in PACKED_DTYPES
            for spec in example_spec.values()
        )

    @classmethod
    def from_spec(cls, example_spec: Mapping[str, Any]) -> BlockLayout:
        """Returns the layout of features with fixed shapes (see `can_pack`)."""
        from tfr_pipeline.compat import tf

        slots: dict[str, list[Slot]] = {}
        for name in sorted(example_spec):
            spec = example_spec[name]
            row = slots.setdefault(tf.dtypes.as_dtype(spec.dtype).name, [])
            shape = tuple(tf.TensorShape(spec.shape).as_list())
            start = row[-1].stop if row else 0
            row.append(Slot(name, start, start + math.prod(shape), shape))
        return cls({dtype: tuple(row) for dtype, row in slots.items()})

    def place(self, name: str) -> tuple[str, int]:
        """Returns the dtype of a feature, and the first of its columns.

        Example:
          >>> from tfr_pipeline.features import Feature
          >>> spec = {"b": Feature().to_spec(), "a": Feature(shape=(2,)).to_spec()}
          >>> BlockLayout.from_spec(spec).place("b")
          ('float32', 2)
        """
        return next(
            (dtype, slot.start)
            for dtype, slots in self.slots.items()
            for slot in slots
            if slot.name == name
        )

    def width(self, dtype: str) -> int:
        """Number of columns of the matrix of a dtype, 0 if there is none."""
        return self.slots[dtype][-1].stop if dtype in self.slots else 0
