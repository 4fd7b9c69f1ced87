"""Edges against NSL's own reader, and what is wrong with files of them."""

import builtins

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfr_pipeline.compat import nsl
from tfr_pipeline.errors import ConfigError, DataError
from tfr_pipeline.graph import edges, nodes

IDS = [*"abcdefg", "h h", "ä", "😀"]


def written(folder, lines):
    path = folder / "graph.tsv"
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return str(path)


def by_nsl(path, max_nbrs, undirected):
    """Returns the neighbours that NSL packs, with their weights, of each id."""
    tools = nsl.tools
    # It opens files in a mode that Python 3.11 has no more.
    tools.graph_utils.open = lambda name, mode: builtins.open(name)  # noqa: SIM115
    graph = tools.read_tsv_graph(path)
    if undirected:
        tools.add_undirected_edges(graph)
    result = {}
    for source in IDS:
        found = [(w, t) for t, w in graph.get(source, {}).items() if t in IDS]
        result[source] = sorted(found, reverse=True)[:max_nbrs]
    return result


def ours(path, max_nbrs, undirected, **how):
    numbers, weights = edges.read_edges(path, IDS, **how).neighbours(
        max_nbrs, undirected
    )
    assert numbers.dtype == np.int32 and weights.dtype == np.float32
    assert (weights[numbers < 0] == 0).all()
    return {
        IDS[row]: [
            (float(weights[row, place]), IDS[number])
            for place, number in enumerate(numbers[row])
            if number >= 0
        ]
        for row in range(len(IDS))
    }


# Sixteenths are exact as float32, and there are few of them, so that many are equal.
LINES = st.lists(
    st.tuples(
        st.sampled_from(IDS), st.sampled_from(IDS), st.integers(0, 5) | st.none()
    ),
    min_size=1,
)


@pytest.mark.filterwarnings("ignore:.*no edge")
@settings(max_examples=60, deadline=None)
@given(
    lines=LINES,
    max_nbrs=st.sampled_from([None, 1, 3]),
    undirected=st.booleans(),
)
def test_neighbours_are_those_of_nsl(tmp_path_factory, lines, max_nbrs, undirected):
    texts = [
        f"{source}\t{target}" + ("" if w is None else f"\t{w / 16}")
        for source, target, w in lines
    ]
    path = written(tmp_path_factory.mktemp("edges"), texts)
    found = ours(path, max_nbrs, undirected, self_loops="keep")
    assert found == by_nsl(path, max_nbrs, undirected)


def test_what_is_odd_is_counted(tmp_path):
    path = written(
        tmp_path,
        [
            "a\tb\t0.5",
            "b\ta\t0.25",
            "a\tb\t0.75",
            "c\tc\t1",
            "a\tnobody\t0.5",
            "who\tb\t0.5",
            "d\te\t0.5",
        ],
    )
    read = edges.read_edges(path, IDS, unknown="skip")
    assert read.found == edges.Found(
        lines=7,
        unknown=2,
        unknown_ids=["who", "nobody"],
        self_loops=1,
        duplicates=1,
        one_way=1,
        asymmetric=1,
    )
    assert read.sources.tolist() == [0, 1, 3]
    assert read.targets.tolist() == [1, 0, 4]
    assert read.weights.tolist() == [0.75, 0.25, 0.5]
    assert len(read.found.remarks()) == 5


def test_unknown_ids_are_an_error_that_lists_them(tmp_path):
    path = written(tmp_path, ["a\tb\t0.5", "a\tnobody\t0.5"])
    with pytest.raises(DataError, match=r"found 1 of 2 edges.*'nobody'.*skip"):
        edges.read_edges(path, IDS)


def test_a_graph_without_any_known_id_is_an_error_even_if_they_may_be_skipped(
    tmp_path,
):
    path = written(tmp_path, ["x\ty\t0.5"])
    with pytest.raises(DataError, match="all 1 of 1"):
        edges.read_edges(path, IDS, unknown="skip")


def test_an_empty_graph_is_a_warning_and_no_node_has_neighbours(tmp_path):
    path = written(tmp_path, [])
    with pytest.warns(UserWarning, match="no edge"):
        read = edges.read_edges(path, IDS)
    numbers, weights = read.neighbours(2)
    assert numbers.tolist() == [[-1, -1]] * len(IDS)
    assert weights.tolist() == [[0, 0]] * len(IDS)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("a", r"graph\.tsv:1: expected source, target"),
        ("a\tb\t0.5\tmore", "expected source, target"),
        ("a\tb\tmuch", "much"),
        ("a\tb\tnan", "finite weights, found nan from 'a' to 'b'"),
        ("a\tb\tinf", "finite weights"),
    ],
)
def test_a_malformed_line_is_an_error(tmp_path, line, message):
    with pytest.raises(DataError, match=message):
        edges.read_edges(written(tmp_path, [line]), IDS)
    with pytest.raises(DataError, match=message.replace(":1", ":2")):
        edges.read_edges(written(tmp_path, ["a\tc\t1", line]), IDS)


def test_settings_have_known_values(tmp_path):
    path = written(tmp_path, ["a\tb"])
    with pytest.raises(ConfigError, match="unknown unknown 'ignore'"):
        edges.read_edges(path, IDS, unknown="ignore")
    with pytest.raises(ConfigError, match="max_nbrs: expected 1 or more, found 0"):
        edges.read_edges(path, IDS).neighbours(0)


def test_of_an_id_that_comes_again_the_first_node_is_meant(tmp_path):
    path = written(tmp_path, ["a\tb"])
    read = edges.read_edges(path, pa.array(["b", "a", "b"]))
    assert read.neighbours(1)[0].tolist() == [[-1], [0], [-1]]


def test_a_graph_of_other_nodes_is_refused(tmp_path):
    path = written(tmp_path, ["a\tb"])
    of_data, of_others = nodes.Fingerprint(IDS), nodes.Fingerprint(IDS[1:])
    edges.check_fingerprint(path, str(of_data), of_data.count)  # nobody described it
    (tmp_path / "graph.tsv.json").write_text(
        f'{{"fingerprint": "{of_data}", "nodes": {of_data.count}}}'
    )
    edges.check_fingerprint(path, str(of_data), of_data.count)
    with pytest.raises(DataError, match=r"another data set.* 10 nodes .* has 9"):
        edges.check_fingerprint(path, str(of_others), of_others.count)
