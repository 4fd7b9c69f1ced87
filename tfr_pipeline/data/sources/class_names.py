"""Labels that are names of classes: which there are, and the number of each.

A name is text. Numbers that are whole have one name however they are written: `3`,
`+3` and `3.0` are the class `3`. An empty cell is no label, and so is `-1`, unless it
is a class: where the others are just `1`, as LibSVM writes two classes.
"""

from __future__ import annotations

import collections
import re
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from tfr_pipeline.errors import ConfigError, DataError
from tfr_pipeline.features import PADDING_LABEL

AUTO = "auto"
_WHOLE = re.compile(r"([+-]?)(0|[1-9]\d*)(\.0*)?")
_BREAKS = re.compile(r"[\t\n\r]")
_UNLABELLED = ("", "-1")
_MOST = 1 << 16
_SHOWN = 12


def canonical(text: str) -> str:
    """Returns the name that a label stands for.

    Example:
      >>> [canonical(text) for text in ("3.0", "+1", " Theory ", "007")]
      ['3', '1', 'Theory', '007']
    """
    text = text.strip()
    found = _WHOLE.fullmatch(text)
    if not found:
        return text
    sign, digits, _ = found.groups()
    return "-" + digits if sign == "-" and digits != "0" else digits


def parse(text: str) -> tuple[str, ...]:
    """Reads the value of `--classes`: how many, their names, or `auto`.

    Returns:
      The names in their order; none for `auto`.

    Raises:
      ConfigError: There are fewer than two, or two are the same.

    Example:
      >>> parse("3"), parse("cat,dog"), parse("auto")
      (('0', '1', '2'), ('cat', 'dog'), ())
    """
    if text.strip() == AUTO:
        return ()
    names = [canonical(name) for name in text.split(",")]
    if len(names) == 1 and names[0].isdigit():
        names = [str(number) for number in range(min(int(names[0]), _MOST + 1))]
    return checked(names, "--classes")


def checked(names: Sequence[str], where: str) -> tuple[str, ...]:
    """Returns the names of classes after checking them.

    Raises:
      ConfigError: There are fewer than two or too many, one is empty, or two are the
        same.
    """
    twice = [name for name, n in collections.Counter(names).items() if n > 1]
    bad = "" in names or any(_BREAKS.search(name) for name in names)
    if not 2 <= len(names) <= _MOST or bad or twice:
        raise ConfigError(
            f"{where}: expected 2 to {_MOST} different names without tab and "
            f"line end, such as 'cat,dog', or how many, found {shown(twice or names)}"
            f"{' more than once' if twice else ''}."
        )
    return tuple(names)


def found_in(labels: Iterable[str], where: str) -> tuple[str, ...]:
    """Returns the names of the classes in labels: numbers by size, others by name.

    Args:
      labels: Labels as they are written.
      where: The input, for messages.

    Raises:
      DataError: There are fewer than two, or very many.

    Example:
      >>> found_in(["b", "a", "", "a"], "train.csv"), found_in(["10", "9"], "train.csv")
      (('a', 'b'), ('9', '10'))
    """
    names: set[str] = set()
    for label in labels:
        names.add(canonical(label))
        if len(names) > _MOST:
            raise DataError(
                f"{where}: found more than {_MOST} different labels; expected names of "
                "classes. Is the column that of the class? See --label_column."
            )
    names.discard("")
    if names != {"-1", "1"}:
        names.discard("-1")
    if len(names) < 2:
        raise DataError(
            f"{where}: expected labels of two or more classes, found "
            f"{shown(sorted(names))}. Is the column that of the class? "
            "See --label_column; if others come in other splits, name all: --classes."
        )
    if any(_BREAKS.search(name) for name in names):
        raise DataError(
            f"{where}: expected names of classes without tab and line end, found "
            f"{shown([n for n in sorted(names) if _BREAKS.search(n)])}."
        )
    numbers = all(_WHOLE.fullmatch(name) for name in names)
    return tuple(sorted(names, key=int if numbers else None))


def shown(names: Sequence[str]) -> str:
    """Returns names for a message, the first of many."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return (", ".join(map(repr, names[:_SHOWN])) or "none") + more


class ClassNumbers:
    """Numbers for labels as they are written.

    Args:
      classes: Names of the classes.
      strict: Whether a label of no class is an error; else it counts as none.
    """

    def __init__(self, classes: Sequence[str], strict: bool = True):
        self._classes, self._strict = tuple(classes), strict
        self._known = {name: float(number) for number, name in enumerate(classes)}
        for text in _UNLABELLED:
            self._known.setdefault(text, PADDING_LABEL)

    def __call__(
        self, labels: Sequence[str], where: Callable[[int], str]
    ) -> np.ndarray:
        """Returns float32 `[examples]`, -1 for examples without a class.

        Args:
          labels: `[examples]`.
          where: Returns the place of a label, for messages.

        Raises:
          DataError: A label is that of no class.
        """
        known = self._known
        for row, label in enumerate(labels):
            if label in known:
                continue
            name = canonical(label)
            if name not in known and self._strict:
                raise DataError(
                    f"{where(row)}: expected one of the {len(self._classes)} classes "
                    f"{shown(self._classes)}, or nothing for an example without, found "
                    f"{label!r:.80}."
                )
            known[label] = known.get(name, PADDING_LABEL)
        return np.array([known[label] for label in labels], np.float32)
