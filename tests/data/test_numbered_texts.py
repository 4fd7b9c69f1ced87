"""Texts that are kept as numbers are the same texts, whatever is done to them."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tfr_pipeline.data import store
from tfr_pipeline.data.lists import Lists, Ragged

TEXTS = st.sampled_from([b"", b"a", b"bb", "\u00e4".encode(), b"\xff"])
ROWS = st.lists(st.lists(TEXTS, max_size=3), max_size=6)


def column(rows):
    values = np.empty(sum(map(len, rows)), object)
    values[:] = [text for row in rows for text in row]
    return Ragged(values, np.cumsum([0, *map(len, rows)]))


def rows_of(found):
    return [found.row(i).tolist() for i in range(len(found.row_splits) - 1)]


@given(ROWS, st.randoms())
@settings(max_examples=50, deadline=None)
def test_rows_are_those_of_the_texts_themselves(rows, random):
    numbered = column(rows).numbered()
    assert numbered.values.dtype == np.int32
    assert len({*numbered.texts}) == len(numbered.texts)
    assert rows_of(numbered) == rows
    order = random.choices(range(len(rows)), k=4) if rows else []
    taken = numbered.take(np.array(order, np.int64))
    assert rows_of(taken) == [rows[i] for i in order]
    assert {*taken.numbered().texts} == {text for i in order for text in rows[i]}
    start = random.randint(0, len(rows))
    assert rows_of(numbered.slice(start, len(rows))) == rows[start:]


@given(st.lists(ROWS, min_size=1, max_size=3), st.booleans())
@settings(max_examples=50, deadline=None)
def test_columns_are_joined_whatever_their_texts(parts, alike):
    columns = [column(rows) for rows in parts]
    if alike:
        numbered = column([row for rows in parts for row in rows]).numbered()
        ends = np.cumsum([0, *map(len, parts)])
        columns = [numbered.slice(a, b) for a, b in itertools.pairwise(ends)]
    else:
        columns[0] = columns[0].numbered()
    found = Ragged.concatenate(columns)
    assert rows_of(found) == [row for rows in parts for row in rows]
    assert not alike or found.texts is columns[0].texts


def test_each_distinct_text_is_kept_once():
    rows = [[b"red", b"hat"], [], [b"red"], [b"coat", b"red"]]
    part = Lists(
        values={},
        row_splits=np.array([0, 2, 4]),
        labels=None,
        query_ids=np.array(["a", "b"], object),
        document_ids=np.array(["1", "2", "3", "4"], object),
        loose={"tokens": column(rows)},
        loose_context={"query": column([[b"red"], [b"hat", b"new"]])},
    )
    found = store.collect([part.slice(0, 1), part.slice(1, 2)])
    assert found.loose["tokens"].texts.tolist() == [b"red", b"hat", b"coat"]
    assert rows_of(found.loose["tokens"]) == rows
    assert rows_of(found.loose_context["query"]) == [[b"red"], [b"hat", b"new"]]
    assert found.loose["tokens"].values.nbytes == 4 * 5
