"""Checks of labels that are numbers of classes."""

from __future__ import annotations

import collections
from collections.abc import Sequence
from typing import Any

import numpy as np

from tfr_pipeline.data.lists import Lists
from tfr_pipeline.data.sources import class_names
from tfr_pipeline.errors import ConfigError, DataError
from tfr_pipeline.pipeline.datasets.hparams import setting


def names_of(classes: int | Sequence[str]) -> tuple[str, ...]:
    """Returns the names of classes; numbers from 0 where only their number is said.

    Raises:
      ConfigError: There are fewer than two, or two are the same.

    Example:
      >>> names_of(2), names_of(["cat", "dog"]), names_of(())
      (('0', '1'), ('cat', 'dog'), ())
    """
    if isinstance(classes, int) and not isinstance(classes, bool):
        classes = [str(number) for number in range(classes)] or ["none"]
    if isinstance(classes, str) or not isinstance(classes, Sequence):
        raise ConfigError(
            "classes: expected names of classes, or how many there are, found "
            f"{classes!r}."
        )
    return class_names.checked([str(n) for n in classes], "classes") if classes else ()


def check_settings(hparams: Any, several: bool) -> None:
    """Refuses settings that are about relevance.

    Args:
      hparams: `DatasetHparams`, ours or TF-Ranking's.
      several: Whether there are labels of several tasks.

    Raises:
      ConfigError: There is one.
    """
    if several:
        raise ConfigError(
            "classes: expected one label, found those of several tasks. Classes are "
            "for SimpleDatasetBuilder."
        )
    if getattr(hparams, "convert_labels_to_binary", False):
        raise ConfigError(
            "convert_labels_to_binary: it makes relevant of every class but the first. "
            "Leave it out of data with classes."
        )
    for name in ("list_size", "valid_list_size"):
        if (setting(hparams, name) or 1) > 1:
            raise ConfigError(
                f"{name}: expected none or 1, for with classes each list has one "
                f"document; found {setting(hparams, name)}."
            )


def checked(classes: tuple[str, ...], pattern: str, lists: Lists) -> Lists:
    """Returns lists after checking that each is an example of a class, or of none.

    Args:
      classes: Names of the classes.
      pattern: Where they were read, for messages; may be empty.
      lists: The lists.

    Raises:
      DataError: A list has another number of documents than one, or a label is no
        number of a class.
    """
    where = f"{pattern}: " if pattern else ""
    if (bad := lists.lengths != 1).any():
        number = int(np.argmax(bad))
        raise DataError(
            f"{where}query {str(lists.query_ids[number])!r}: expected lists of one "
            f"document, for the data has classes, found {lists.lengths[number]} "
            "documents. Ranking data has no classes."
        )
    labels = lists.labels
    assert labels is not None
    good = (labels == np.floor(labels)) & (labels < len(classes)) & (labels >= -1)
    if not good.all():
        row = int(np.argmin(good))
        raise DataError(
            f"{where}{lists.place(row)}: expected as label a whole number from 0 to "
            f"{len(classes) - 1}, one for each of the {len(classes)} classes "
            f"{class_names.shown(classes)}, or -1 for none; found {labels[row]:g}."
        )
    return lists


def check_ids(split: str, ids: np.ndarray) -> None:
    """Raises a `DataError` unless each example has an id of its own.

    Args:
      split: For the message.
      ids: Object array of `str`, `[examples]`.
    """
    found = collections.Counter(ids.tolist())
    if len(found) < len(ids):
        name, count = found.most_common(1)[0]
        raise DataError(
            f"{split}: docid: expected an id of its own for each example, found "
            f"{name!r} {count} times."
        )


def check_several(labels: np.ndarray, classes: tuple[str, ...], pattern: str) -> None:
    """Raises a `DataError` unless training data has examples of two classes or more."""
    found = np.unique(labels[labels >= 0]).astype(int)
    if len(found) >= 2:
        return
    names = class_names.shown([classes[number] for number in found])
    raise DataError(
        f"{pattern}: expected training examples of two classes or more, of "
        f"{class_names.shown(classes)}; found {names} only. There is nothing to learn."
    )
