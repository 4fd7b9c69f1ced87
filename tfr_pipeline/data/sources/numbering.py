"""Which feature an index of LibSVM text is, in data that has features by name."""

from __future__ import annotations

import dataclasses
import math
import re

import numpy as np

from tfr_pipeline.data.lists import Lists
from tfr_pipeline.errors import DataError
from tfr_pipeline.features import Features

_NUMBERED = re.compile(r"feature_([1-9]\d{0,8})")


def column_names(count: int) -> tuple[str, ...]:
    """Returns the names of the columns of LibSVM text.

    Example:
      >>> column_names(2)
      ('feature_1', 'feature_2')
    """
    return tuple(f"feature_{number}" for number in range(1, count + 1))


@dataclasses.dataclass(frozen=True)
class Numbering:
    """Where the columns of LibSVM text stand in the matrix of a model.

    Attributes:
      num_features: Largest index that has a meaning.
      columns: int64 `[width]`: for each column of the float32 matrix of the model, in
        the order of `BlockLayout`, the column of the text, counted from 0.
    """

    num_features: int
    columns: np.ndarray

    @classmethod
    def of(cls, features: Features) -> Numbering:
        """Returns the numbering of the features that a model was trained on.

        Columns that are called as `column_names` calls them have their own number.
        Others are counted in the order of `features.json`.

        Raises:
          DataError: Text cannot have these features: some are no fixed float32.
        """
        loose = [
            name
            for name, feature in features.example.items()
            if (feature.dtype, feature.kind) != ("float32", "fixed")
        ]
        if loose:
            raise DataError(
                "LibSVM text has float32 features by number; the model also takes "
                f"{', '.join(loose[:5])}. Expected another --input_format."
            )
        counted: dict[str, list[int]] = {}
        named: dict[str, list[int]] = {}
        count = 0
        for name, feature in features.example.items():
            width = math.prod(feature.shape)
            counted[name] = list(range(count, count + width))
            count += width
            found = map(_NUMBERED.fullmatch, feature.columns or [name] * width)
            named[name] = [int(match[1]) - 1 for match in found if match]
        if len({number for own in named.values() for number in own}) < count:
            named = counted
        columns = [number for name in sorted(named) for number in named[name]]
        return cls(max(columns, default=-1) + 1, np.array(columns, np.int64))

    def apply(self, lists: Lists) -> Lists:
        """Returns lists of text with their columns where the model has them."""
        matrix = lists.values["float32"]
        if np.array_equal(self.columns, np.arange(matrix.shape[1])):
            return lists
        return dataclasses.replace(
            lists, values={**lists.values, "float32": matrix[:, self.columns]}
        )
