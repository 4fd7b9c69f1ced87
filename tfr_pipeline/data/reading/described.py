"""Whether files have the columns that a reader takes them for.

Vectors, and the matrices of packed files, hold numbers without names. Which column is
which stands in the `features.json` beside them.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

from tfr_pipeline.data.records.formats import PACKED
from tfr_pipeline.errors import DataError
from tfr_pipeline.features import FILE_NAME, Feature, Features

_ADVICE = (
    "Convert the data with the same columns in the same order (--feature_columns), or "
    "take the model that was trained on these."
)


def check_columns(paths: Iterable[str], features: Features, data_format: str) -> None:
    """Refuses files whose columns are others than a model or a builder has.

    Args:
      paths: TFRecord files. Those without a `features.json` beside them pass.
      features: What they are read as.
      data_format: Their format.

    Raises:
      DataError: Numbers would go to other features than their own.
    """
    for folder in dict.fromkeys(os.path.dirname(path) for path in paths):
        path = os.path.join(folder, FILE_NAME)
        try:
            found = Features.load(path)
        except DataError:
            continue  # none, or one of another program
        for name, feature in features.example.items():
            other = found.example.get(name)
            if other is not None:
                _compare(path, name, feature.columns, other.columns)
        if data_format == PACKED == found.data_format:
            expected, there = _layout(features), _layout(found)
            if expected != there:
                raise DataError(
                    f"{path}: expected packed files of {_in_words(expected)}, found "
                    f"{_in_words(there)}. {_ADVICE}"
                )


def _compare(
    path: str, name: str, expected: tuple[str, ...], found: tuple[str, ...]
) -> None:
    if not expected or not found or expected == found:
        return
    differ = [pair for pair in zip(expected, found, strict=False) if len({*pair}) > 1]
    words = f"{len(expected)} columns, found {len(found)}"
    if differ:
        column = expected.index(differ[0][0])
        words = f"{differ[0][0]!r} in column {column}, found {differ[0][1]!r}"
    raise DataError(f"{path}: feature {name!r}: expected {words}. {_ADVICE}")


def _layout(features: Features) -> list[tuple[str, Feature]]:
    """Returns what says which column is which, in the order of packed matrices."""
    return [
        (name, Feature(feature.dtype, feature.shape))
        for name, feature in sorted(features.example.items())
    ]


def _in_words(layout: list[tuple[str, Feature]]) -> str:
    names = [f"{name} {feature.dtype} {feature.shape}" for name, feature in layout]
    return ", ".join(names[:8]) + (" ..." if len(names) > 8 else "")
