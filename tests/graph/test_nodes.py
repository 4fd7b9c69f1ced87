"""Names of nodes are unique and can be taken apart; fingerprints know no order."""

import urllib.parse

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfr_pipeline.data.lists import Lists
from tfr_pipeline.errors import ConfigError, DataError
from tfr_pipeline.graph import names, nodes


@given(st.text(), st.text())
def test_the_name_of_a_document_gives_its_ids_back_and_fits_a_line(query, document):
    name = nodes.document_node(query, document)
    assert [urllib.parse.unquote(part) for part in name.split("/")] == (
        [urllib.parse.unquote(nodes.escape(text)) for text in (query, document)]
    )
    assert urllib.parse.unquote(nodes.escape(query)) == query
    assert not set(name) & set("\t\n\r")


def lists(document_ids):
    return Lists(
        values={"float32": np.zeros((3, 1), np.float32)},
        row_splits=np.array([0, 2, 3]),
        labels=None,
        query_ids=np.array(["a/b", "c"], object),
        document_ids=np.array(document_ids, object),
    )


def test_nodes_of_lists_are_documents_or_queries_in_their_order():
    some = lists(["1", "2%", "1"])
    assert nodes.of_lists(some).tolist() == ["a%2Fb/1", "a%2Fb/2%25", "c/1"]
    assert nodes.of_lists(some, "queries").tolist() == ["a%2Fb", "c"]
    with pytest.raises(ConfigError, match="'documents'"):
        nodes.of_lists(some, "document")


def test_documents_without_ids_are_no_nodes():
    with pytest.raises(DataError, match=r"query 'a/b'.*found 2 without.*identify"):
        nodes.of_lists(lists(["", "", "1"]))


@given(st.lists(st.text(), unique=True), st.randoms())
def test_a_fingerprint_depends_on_the_nodes_but_not_on_order_or_parts(ids, random):
    whole = nodes.Fingerprint(ids)
    random.shuffle(ids)
    parts = nodes.Fingerprint(ids[: len(ids) // 2])
    parts.merge(nodes.Fingerprint(ids[len(ids) // 2 :]))
    assert (str(parts), parts.count) == (str(whole), whole.count)
    if ids:
        assert str(nodes.Fingerprint(ids[1:])) != str(whole)


def test_packed_neighbours_are_counted_by_names():
    features = ["x", "NL_nbr_0_x", "NL_nbr_0_weight", "NL_nbr_1_weight", "NL_num_nbrs"]
    assert names.count(features) == 2
    assert [names.is_packed(name) for name in features] == [False] + [True] * 4
