"""Ids of queries and documents: which are accepted, which are worth a word.

One rule for all text and table formats. An id is UTF-8 text without tab, line feed or
carriage return, so that it goes through `qid docid rank score` lines unchanged. A query
needs one. A document without one is called by its line or row number. Documents of one
query may share an id; they are counted.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable

from tfr_pipeline.data.lists import Lists
from tfr_pipeline.errors import DataError

_SEPARATORS = "\t\n\r"


def decode(raw: bytes, kind: str, where: Callable[[], str]) -> str:
    """Returns an id as text.

    Args:
      raw: The bytes of the file.
      kind: `query` or `document`, for the message.
      where: Called for the place of the id, file and line, if it is refused.

    Raises:
      DataError: It is not UTF-8. Replaced characters would make one id of several.
    """
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise not_utf8(raw, kind, where()) from None


def not_utf8(raw: bytes, kind: str, where: str) -> DataError:
    """Returns the error for an id, or a text of no `kind`, that is not UTF-8."""
    what = f"a {kind} id" if kind else "text"
    return DataError(
        f"{where}: expected {what} in UTF-8, found the bytes {raw[:60]!r}. "
        "Convert the file first, for example: iconv -f latin1 -t utf-8 FILE."
    )


def check(names: Iterable[str], kind: str, where: Callable[[int], str]) -> None:
    """Refuses ids that would break a line of predictions.

    Args:
      names: The ids.
      kind: `query` or `document`, for the message.
      where: Called with the position of an id that is refused; returns file and line.

    Raises:
      DataError: An id has a tab, line feed or carriage return, or a query id is empty.

    Example:
      >>> check(["a", "b c"], "document", lambda position: f"a.csv:{position + 2}")
    """
    names = list(names)
    text = "".join(names)
    if any(separator in text for separator in _SEPARATORS):
        for position, name in enumerate(names):
            if any(separator in name for separator in _SEPARATORS):
                raise DataError(
                    f"{where(position)}: expected a {kind} id without tab and line "
                    f"end, found {name[:60]!r}. Predictions are lines with tabs."
                )
    if kind == "query":
        for position, name in enumerate(names):
            if not name:
                raise DataError(
                    f"{where(position)}: expected a query id, found an empty one."
                )


def repeated(lists: Lists) -> tuple[int, str]:
    """Counts documents whose id a document of the same list had before.

    Returns:
      Their number, and the first of them in words; empty if there is none.
    """
    count, first = 0, ""
    splits = lists.row_splits.tolist()
    for number, (start, stop) in enumerate(itertools.pairwise(splits)):
        names = lists.document_ids[start:stop].tolist()
        more = len(names) - len(set(names))
        if more and not first:
            seen: set[str] = set()
            name = next(n for n in names if n in seen or seen.add(n))  # type: ignore[func-returns-value]
            first = f"query {lists.query_ids[number]!r}, document {name!r}"
        count += more
    return count, first


def warnings(repeated: tuple[int, str]) -> list[str]:
    """Returns lines for the user about ids that are legal but may be a mistake.

    Args:
      repeated: Sum of what `repeated` gives.
    """
    count, first = repeated
    if not count:
        return []
    return [
        f"warning: {count:,} documents have the id of another document of their query, "
        f"e.g. {first}"
    ]
