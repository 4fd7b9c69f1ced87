"""Ranked lists as lines of text: tab-separated, or a TREC run."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import numpy as np

from tfr_pipeline.errors import DataError

TSV, TREC = "tsv", "trec"
FORMATS = (TSV, TREC)
# What would end a field, or a line, before its time.
_BREAKS = {TSV: re.compile(r"[\t\n\r]"), TREC: re.compile(r"\s", re.ASCII)}
# Name of the run in each of its lines.
_TAG = "tfr_pipeline"


def lines(
    lists: Any, scores: np.ndarray, style: str, deviations: np.ndarray | None = None
) -> Iterator[str]:
    """Yields a line for each document, the best of each list first.

    Documents with equal scores keep their order.

    Args:
      lists: The `Lists`.
      scores: float32 `[documents]`.
      style: `tsv` for `qid docid rank score`, separated by tabs; `trec` for
        `qid Q0 docid rank score tag`, separated by blanks.
      deviations: float32 `[documents]`, which `tsv` has after the scores; or None.

    Raises:
      DataError: An id is empty or has a character that the format cannot hold.
    """
    row_ids = lists.row_ids
    order = np.lexsort((-scores, row_ids))
    ranks = (np.arange(lists.num_documents) - lists.row_splits[row_ids] + 1).tolist()
    queries = [_id(name, "query", style) for name in lists.query_ids]
    rows = zip(order.tolist(), row_ids.tolist(), ranks, strict=True)
    for document, number, rank in rows:
        query = queries[number]
        name = _id(lists.document_ids[document], f"document of query {query!r}", style)
        score = f"{scores[document]:.9g}"
        if style == TREC:
            yield f"{query} Q0 {name} {rank} {score} {_TAG}\n"
        else:
            if deviations is not None:
                score += f"\t{deviations[document]:.9g}"
            yield f"{query}\t{name}\t{rank}\t{score}\n"


def _id(value: Any, whose: str, style: str) -> str:
    text = str(value)
    found = _BREAKS[style].search(text)
    if found or (style == TREC and not text):
        problem = f"{found.group()!r} in {text!r}" if found else "an empty id"
        allowed = "white space" if style == TREC else "tabs and line breaks"
        raise DataError(
            f"id of a {whose}: found {problem}; in the format {style!r} {allowed} "
            "separate the fields. Give it another id."
        )
    return text
