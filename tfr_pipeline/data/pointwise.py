"""`tf.train.Example`s of a query that stand one after the other become a list."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from tfr_pipeline.data.lists import Lists, Ragged
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
    held: Lists | None = None
    documents = 0
    for part in parts:
        if not part.num_lists:
            continue
        missing = np.flatnonzero(part.query_ids == "")
        if len(missing):
            raise DataError(
                f"{', '.join(paths)}: document {documents + missing[0]} (counted from "
                f"0) has no {query_id!r}, by which documents are grouped into lists. "
                "Write it, or take lists of one document: query_id=None."
            )
        documents += part.num_documents
        if held is not None:
            part = Lists.concatenate([held, part])
        lists = _merged(part)
        # The last list may go on in the next part.
        held = lists.slice(lists.num_lists - 1, lists.num_lists)
        if lists.num_lists > 1:
            yield _checked(lists.slice(0, lists.num_lists - 1), seen, paths)
    if held is not None:
        yield _checked(held, seen, paths)


def _merged(part: Lists) -> Lists:
    """Returns the lists with neighbours of one query joined."""
    ids = part.query_ids
    first = np.concatenate([[True], ids[1:] != ids[:-1]])
    starts = np.flatnonzero(first)

    def some(column: Any) -> Any:
        if not isinstance(column, Ragged):
            return column[starts]
        rows = [column.slice(row, row + 1) for row in starts.tolist()]
        return Ragged.concatenate(rows)

    splits = np.append(part.row_splits[starts], part.row_splits[-1])
    return Lists(
        values=part.values,
        row_splits=splits,
        labels=part.labels,
        query_ids=ids[starts],
        document_ids=part.document_ids,
        weights=part.weights,
        context={name: some(value) for name, value in part.context.items()},
        loose=part.loose,
        loose_context={name: some(value) for name, value in part.loose_context.items()},
    )


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
