"""The features of a model by name: single columns, whole vectors, texts, groups."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping, Sequence

import numpy as np

from tfr_pipeline.data.lists import Lists
from tfr_pipeline.errors import ConfigError, unknown_name
from tfr_pipeline.serving.predictor import Predictor

# A vector without names of its columns that is wider, such as an embedding, is one
# thing: none of its columns means anything alone.
_WIDEST = 64


@dataclasses.dataclass(frozen=True)
class Group:
    """Features that are looked at together.

    Attributes:
      name: How a table calls it.
      columns: Pairs of a dtype and the number of a column of its matrix.
      loose: Document features that stand in no matrix.
      context: Query features.
    """

    name: str
    columns: tuple[tuple[str, int], ...] = ()
    loose: tuple[str, ...] = ()
    context: tuple[str, ...] = ()


def column_names(predictor: Predictor) -> dict[str, tuple[str, ...]]:
    """Returns by dtype the names of the columns of the matrices of `Lists.values`.

    A column of a vector feature has the name that it had in the table or LibSVM file
    it comes from; without one it is `vector[0]` and so on.
    """
    found = {}
    for dtype, slots in predictor.layout.slots.items():
        names: list[str] = []
        for slot in slots:
            own = predictor.features.example[slot.name].columns
            if len(own) == slot.width:
                names += own
            elif slot.width == 1:
                names.append(slot.name)
            else:
                names += [f"{slot.name}[{i}]" for i in range(slot.width)]
        found[dtype] = tuple(names)
    return found


def all_groups(predictor: Predictor) -> list[Group]:
    """Returns a group for each feature: for each column of vectors that have names.

    Vectors of more than 64 numbers without names, such as embeddings, are one group.
    """
    names = column_names(predictor)
    groups = []
    for dtype, slots in predictor.layout.slots.items():
        for slot in slots:
            cells = [(dtype, i) for i in range(slot.start, slot.stop)]
            named = len(predictor.features.example[slot.name].columns) == slot.width
            if slot.width > _WIDEST and not named:
                groups.append(Group(slot.name, tuple(cells)))
                continue
            groups += [Group(names[dtype][i], ((dtype, i),)) for _, i in cells]
    groups += [Group(name, loose=(name,)) for name in predictor.loose]
    return groups + [
        Group(name, context=(name,)) for name in predictor.features.context
    ]


def groups_of(
    predictor: Predictor,
    features: Sequence[str] | Mapping[str, Sequence[str]] | None = None,
) -> list[Group]:
    """Returns the groups that somebody names.

    Args:
      predictor: The model.
      features: Names, each for a group of its own; or for the name of each group the
        names in it. A name is that of a feature, for all of its columns; of a column;
        or `vector[3]`, by number from 0. None for `all_groups`.

    Raises:
      ConfigError: The model has no such feature, or a group is empty.
    """
    if features is None:
        return all_groups(predictor)
    if not isinstance(features, Mapping):
        features = {name: [name] for name in features}
    known = {group.name: group for group in all_groups(predictor)}
    for dtype, columns in column_names(predictor).items():
        known |= {n: Group(n, ((dtype, i),)) for i, n in enumerate(columns)}
    for dtype, slots in predictor.layout.slots.items():
        for slot in slots:
            cells = tuple((dtype, i) for i in range(slot.start, slot.stop))
            known[slot.name] = Group(slot.name, cells)
            by_number = {f"{slot.name}[{n}]": cell for n, cell in enumerate(cells)}
            known |= {n: Group(n, (cell,)) for n, cell in by_number.items()}
    return [_joined(name, parts, known) for name, parts in features.items()]


def _joined(name: str, parts: Sequence[str], known: Mapping[str, Group]) -> Group:
    if isinstance(parts, str) or not parts:
        raise ConfigError(
            f"group {name!r}: expected a list of names of features, found {parts!r}."
        )
    for part in parts:
        if part not in known:
            raise ConfigError(unknown_name("feature", part, known, f"group {name!r}"))
    found = [known[part] for part in parts]
    return Group(
        name,
        tuple(dict.fromkeys(cell for group in found for cell in group.columns)),
        tuple(dict.fromkeys(n for group in found for n in group.loose)),
        tuple(dict.fromkeys(n for group in found for n in group.context)),
    )


def typical(lists: Lists) -> dict[str, np.ndarray]:
    """Returns by dtype the median of each column, `[columns]`: a document like many.

    Each is a value that occurs, the lower of two in the middle; NaN, which stands for
    a missing value, only where nothing else does.

    Args:
      lists: Lists with documents.
    """
    with warnings.catch_warnings():  # of columns without a value
        warnings.simplefilter("ignore", RuntimeWarning)
        return {
            dtype: np.nanpercentile(block, 50, axis=0, method="lower").astype(dtype)
            for dtype, block in lists.values.items()
            if block.shape[1]
        }


def sample(lengths: np.ndarray, documents: int, seed: int = 0) -> np.ndarray:
    """Chooses lists at random until they have so many documents.

    Args:
      lengths: int64 `[lists]`, documents a list.
      documents: How many are enough. At least one list is chosen.
      seed: Seed.

    Returns:
      Their numbers, int64, rising; all where all are few enough.

    Example:
      >>> sample(np.array([5, 5, 5]), 100).tolist()
      [0, 1, 2]
    """
    if lengths.sum() <= documents:
        return np.arange(len(lengths))
    order = np.random.default_rng(seed).permutation(len(lengths))
    count = int(np.searchsorted(np.cumsum(lengths[order]), documents, "right"))
    return np.sort(order[: max(1, count)])
