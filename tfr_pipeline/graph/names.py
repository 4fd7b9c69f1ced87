"""Names of what `graph pack` adds to examples and documents, those of NSL."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping

from tfr_pipeline.features import Feature, Features

COUNT = "NL_num_nbrs"
_PREFIX = "NL_nbr_"
_WEIGHT = re.compile(rf"{_PREFIX}(\d+)_weight")


def feature(neighbour: int, name: str) -> str:
    """Returns the name of a feature of a neighbour, numbered from 0.

    Example:
      >>> feature(0, "words")
      'NL_nbr_0_words'
    """
    return f"{_PREFIX}{neighbour}_{name}"


def weight(neighbour: int) -> str:
    """Returns the name of the weight of the edge to a neighbour.

    Example:
      >>> weight(2)
      'NL_nbr_2_weight'
    """
    return feature(neighbour, "weight")


def is_packed(name: str) -> bool:
    """Whether `graph pack` gives a feature this name."""
    return name.startswith(_PREFIX) or name == COUNT


def count(names: Iterable[str]) -> int:
    """Returns how many neighbours are packed, by the names of the features.

    Example:
      >>> count(["words", "NL_nbr_0_words", "NL_nbr_0_weight"])
      1
    """
    found = (_WEIGHT.fullmatch(name) for name in names)
    return max((int(match[1]) + 1 for match in found if match), default=0)


def without_neighbours(features: Features) -> Features:
    """Returns the description of data without what `graph pack` has added.

    Example:
      >>> from tfr_pipeline.features import Feature
      >>> described = Features(example={"a": Feature(), "NL_nbr_0_a": Feature()})
      >>> list(without_neighbours(described).example)
      ['a']
    """

    def own(described: Mapping[str, Feature]) -> dict[str, Feature]:
        return {name: f for name, f in described.items() if not is_packed(name)}

    return dataclasses.replace(
        features, context=own(features.context), example=own(features.example)
    )
