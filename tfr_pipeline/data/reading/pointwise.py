"""`tf.train.Example`s of a query that stand one after the other become a list."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from tfr_pipeline.data.lists import Lists
from tfr_pipeline.errors import DataError


def group(parts: Iterable[Lists], query_id: str, paths: list[str]) -> Iterator[Lists]:
    """Yields lists made of neighbours with the same query id.

    A query's features are those of its first document. Keeps every query id: about
    100 bytes each.

    Args:
      parts: Lists of one document.
      query_id: Name of the id; for messages.
      paths: Their files; for messages.

    Raises:
      DataError: A document has no id, or a query comes again after another.
    """
    seen: set[str] = set()
    for lists in neighbours(parts, query_id, paths):
        yield _checked(lists, seen, paths)


def neighbours(
    parts: Iterable[Lists], query_id: str, paths: list[str]
) -> Iterator[Lists]:
    """Yields neighbours with the same query id as a list; a query may come again.

    Args:
      parts: See `group`, as the other two.
      query_id: See `group`.
      paths: See `group`.

    Raises:
      DataError: A document has no id.
    """
    held: Lists | None = None
    documents = 0
    for part in parts:
        if not part.num_lists:
            continue
        check_ids(part, documents, query_id, paths)
        documents += part.num_documents
        if held is not None:
            part = Lists.concatenate([held, part])
        lists = _merged(part)
        # The last list may go on in the next part.
        held = lists.slice(lists.num_lists - 1, lists.num_lists)
        if lists.num_lists > 1:
            yield lists.slice(0, lists.num_lists - 1)
    if held is not None:
        yield held


def check_ids(part: Lists, first: int, query_id: str, paths: list[str]) -> None:
    """Refuses documents without a query id; `first` is the number of the first."""
    missing = np.flatnonzero(part.query_ids == "")
    if len(missing):
        raise DataError(
            f"{', '.join(paths)}: document {first + missing[0]} (counted from 0) has "
            f"no {query_id!r}, by which documents are grouped into lists. Write it, or "
            "take lists of one document: query_id=None."
        )


def _merged(part: Lists) -> Lists:
    """Returns the lists with neighbours of one query joined."""
    ids = part.query_ids
    starts = np.flatnonzero(np.concatenate([[True], ids[1:] != ids[:-1]]))
    splits = np.append(part.row_splits[starts], part.row_splits[-1])
    return part.regrouped(starts, splits)


def bring_together(singles: Lists) -> Lists:
    """Returns the documents of each query in one list, wherever they are.

    Args:
      singles: Lists of one document; queries come in the order of their first.
    """
    ids = singles.query_ids.astype(str)
    _, first, query = np.unique(ids, return_index=True, return_inverse=True)
    order = np.argsort(first[query], kind="stable")
    ordered = singles.regrouped(order, np.arange(len(order) + 1))
    return _merged(ordered.take_documents(order))


def _checked(lists: Lists, seen: set[str], paths: list[str]) -> Lists:
    for query in lists.query_ids.tolist():
        if query in seen:
            raise DataError(
                f"{', '.join(paths)}: the documents of query {query!r} do not stand "
                "together; Examples are grouped where they are neighbours. Sort them "
                "by query, or `tfr-pipeline convert --group_by_query` them."
            )
        seen.add(query)
    return lists
