"""`graph build` against NSL's `build_graph` and against a plain loop."""

import itertools
import json
import sys

import numpy as np
import pytest

from tests.graph import helpers
from tests.ranking_data import example, write, write_elwc
from tfr_pipeline.compat import nsl, tf
from tfr_pipeline.errors import ConfigError, DataError
from tfr_pipeline.graph import building, edges, nodes, similarity
from tfr_pipeline.graph.encoders import Encoder
from tfr_pipeline.graph.similarity import Wanted

VECTOR = Encoder(features=("embedding",))


def lines(path):
    return sorted(open(path, encoding="utf-8").read().splitlines())


def test_a_threshold_graph_of_examples_is_that_of_nsl(tmp_path):
    data = write(tmp_path / "data.tfrecord", helpers.examples(300))
    config = nsl.configs.GraphBuilderConfig(similarity_threshold=0.8)
    theirs, ours = str(tmp_path / "theirs.tsv"), str(tmp_path / "ours.tsv")
    nsl.tools.build_graph_from_config([data], theirs, config)
    found = building.build(data, ours, wanted=Wanted(threshold=0.8), encoder=VECTOR)
    assert lines(ours) == lines(theirs)
    assert found["edges"] == len(lines(theirs)) > 300
    assert found == json.loads((tmp_path / "ours.tsv.json").read_text())


def by_loop(matrix, names, wanted):
    """Returns the edges by a plain loop over all pairs."""
    matrix = matrix.astype(np.float64)
    weights = {}
    for one, two in itertools.combinations(range(len(matrix)), 2):
        if wanted.metric == "cosine":
            norms = [max(1e-6, np.linalg.norm(matrix[i])) for i in (one, two)]
            weight = matrix[one] @ matrix[two] / np.prod(norms)
        else:
            weight = 1 / (1 + np.linalg.norm(matrix[one] - matrix[two]))
        weights[one, two] = weights[two, one] = round(weight, 12)
    if wanted.k is None:
        return {pair for pair, weight in weights.items() if weight >= wanted.threshold}
    result = set()
    for one in range(len(matrix)):
        others = [
            (weights[one, two], names[two], two)
            for two in range(len(matrix))
            if two != one
        ]
        for _, _, two in sorted(others, reverse=True)[: wanted.k]:
            result |= {(one, two), (two, one)}
    return result


@pytest.mark.parametrize(
    "wanted",
    [
        Wanted(threshold=0.6),
        Wanted(k=1),
        Wanted(k=4),
        Wanted("l2", threshold=0.3),
        Wanted("l2", k=4),
        Wanted(k=500),
    ],
    ids=str,
)
def test_edges_are_those_of_a_plain_loop_with_many_ties(wanted, monkeypatch):
    monkeypatch.setattr(similarity, "_ROWS", 32)
    monkeypatch.setattr(similarity, "_COLUMNS", 48)
    monkeypatch.setattr(similarity, "_FIRST", 16)
    random = np.random.default_rng(0)
    matrix = random.integers(0, 2, (150, 4)).astype(np.float32)  # many are equal
    names = [f"{number}" for number in random.permutation(150)]
    found = building.Nodes(edges.as_strings(names), matrix)
    pairs, _ = building.edges_of(found, wanted)
    sources, targets, _ = map(np.concatenate, zip(*pairs, strict=True))
    edges_found = list(zip(sources.tolist(), targets.tolist(), strict=True))
    assert len(set(edges_found)) == len(edges_found)
    assert set(edges_found) == by_loop(matrix, names, wanted)


@pytest.mark.parametrize(
    "wanted", [Wanted(k=5), Wanted("l2", k=5), Wanted(threshold=0.7)], ids=str
)
def test_an_index_finds_the_share_of_neighbours_that_is_asked_for(wanted):
    pytest.importorskip("faiss")
    random = np.random.default_rng(1)
    matrix = random.normal(size=(3000, 16)).astype(np.float32)
    found = building.Nodes(edges.as_strings([str(n) for n in range(3000)]), matrix)
    pairs = {}
    for method in ("exact", "approximate"):
        parts, more = building.edges_of(found, wanted, method, recall=0.9)
        (sources, targets, weights) = map(np.concatenate, zip(*parts, strict=True))
        keys = zip(sources.tolist(), targets.tolist(), strict=True)
        pairs[method] = dict(zip(keys, weights.tolist(), strict=True))
    true, ours = pairs["exact"], pairs["approximate"]
    share = len(true.keys() & ours.keys()) / len(true)
    assert 0.88 < share < 1
    assert abs(share - more["recall"]) < 0.05
    assert all(ours[pair] == true[pair] for pair in ours.keys() & true.keys())


def test_an_index_is_taken_for_many_vectors_if_it_saves_time(monkeypatch):
    pytest.importorskip("faiss")
    random = np.random.default_rng(2)
    centres = random.normal(size=(50, 16))
    near = np.repeat(centres, 40, axis=0) + 0.1 * random.normal(size=(2000, 16))
    names = edges.as_strings([str(number) for number in range(2000)])

    def method(matrix):
        found = building.Nodes(names, matrix.astype(np.float32))
        return building.edges_of(found, Wanted(k=5), "auto")[1]["method"]

    assert method(near) == "exact"
    monkeypatch.setattr(building, "MOST_EXACT", 1000)
    assert method(near) == "approximate"
    assert method(random.normal(size=(2000, 16))) == "exact"
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ConfigError, match=r"pip install 'tfr_pipeline\[graph\]'"):
        method(near)


def test_nodes_of_lists_are_documents_or_queries(tmp_path):
    lists = helpers.ranked_lists(12)
    data = write_elwc(tmp_path / "data.tfrecord", lists)
    path = str(tmp_path / "graph.tsv")
    found = building.build(data, path, wanted=Wanted(k=2), encoder=VECTOR)
    names = [
        nodes.document_node(one.context["qid"][0].decode(), d["docid"][0].decode())
        for one in lists
        for d in one.documents
    ]
    assert {line.split("\t")[0] for line in lines(path)} == set(names)
    assert found["fingerprint"] == str(nodes.Fingerprint(names))
    assert (found["kind"], found["nodes"]) == ("documents", len(names))

    found = building.build(
        data,
        path,
        wanted=Wanted("l2", k=1),
        kind="queries",
        encoder=Encoder(("length",)),
    )
    assert (found["kind"], found["nodes"]) == ("queries", 12)
    assert {line.split("\t")[0] for line in lines(path)} == {
        nodes.escape(one.context["qid"][0].decode()) for one in lists
    }


class _Module(tf.Module):
    @tf.function(input_signature=[tf.TensorSpec([None, None], tf.float32)])
    def __call__(self, numbers):
        return numbers[:, :2]

    @tf.function(
        input_signature=[
            tf.TensorSpec([None, 3], tf.float32, "embedding"),
            tf.TensorSpec([None, 1], tf.float32, "bm25"),
        ]
    )
    def both(self, embedding, bm25):
        return {"vector": tf.concat([bm25, embedding[:, :1]], axis=1)}


def test_vectors_are_what_a_module_makes_of_features_in_batches(tmp_path):
    module = _Module()
    place = str(tmp_path / "module")
    tf.saved_model.save(module, place, signatures={"both": module.both})
    lists = helpers.ranked_lists(8)
    data = write_elwc(tmp_path / "data.tfrecord", lists)
    features = {
        name: np.array([d[name] for one in lists for d in one.documents])
        for name in ("embedding", "bm25")
    }
    from tfr_pipeline.graph.dataset import DataSet, Reading

    def vectors(encoder):
        parts = DataSet(data, Reading()).parts()
        return building.collect(parts, encoder, "documents").matrix

    called = Encoder(("embedding",), place, batch_size=5)
    np.testing.assert_array_equal(vectors(called), features["embedding"][:, :2])
    signed = Encoder(("bm25", "embedding"), place, "both", batch_size=5)
    expected = np.hstack([features["bm25"], features["embedding"][:, :1]])
    np.testing.assert_array_equal(vectors(signed), expected)
    with pytest.raises(ConfigError, match=r"takes .*bm25.*found embedding"):
        vectors(Encoder(("embedding",), place, "both"))
    with pytest.raises(ConfigError, match="unknown signature 'none'"):
        vectors(Encoder(("embedding",), place, "none"))


def test_what_is_no_vector_is_an_error_that_names_the_node(tmp_path):
    records = helpers.examples(5)
    bad = tf.train.Example.FromString(records[3])
    bad.features.feature["embedding"].float_list.value[2] = np.nan
    path = write(tmp_path / "nan.tfrecord", [*records[:3], bad.SerializeToString()])

    def build(**how):
        given = {"wanted": Wanted(k=1), "encoder": VECTOR, **how}
        building.build(path, str(tmp_path / "graph.tsv"), **given)

    with pytest.raises(DataError, match=r"node 'node 3'.*found nan.*embedding"):
        build()
    del bad.features.feature["embedding"].float_list.value[2]
    write(path, [*records[:3], bad.SerializeToString()])
    with pytest.raises(DataError, match=r"'node 3'.*expected 8 values.*found 7"):
        build()
    with pytest.raises(ConfigError, match="unknown feature 'embeding'"):
        build(encoder=Encoder(("embeding",)))
    with pytest.raises(ConfigError, match="expected numbers, found the text id"):
        build(encoder=Encoder(("id",)))
    with pytest.raises(ConfigError, match="unknown nodes 'queries'"):
        build(kind="queries")
    with pytest.raises(ConfigError, match="unknown method"):
        build(method="fast")
    assert not list(tmp_path.glob("graph*"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "expected --threshold"),
        ({"k": 2, "threshold": 0.5}, "expected --threshold"),
        ({"k": 0}, "--k: expected 1 or more"),
        ({"threshold": 1.5}, "--threshold: expected -1 to 1"),
        ({"metric": "l2", "threshold": -0.5}, "--threshold: expected 0 to 1"),
        ({"metric": "dot", "k": 2}, "unknown metric 'dot'"),
    ],
)
def test_settings_that_mean_nothing_are_errors(settings, message):
    with pytest.raises(ConfigError, match=message):
        Wanted(**settings)


def test_a_graph_without_edges_is_reported_and_nodes_of_one_name_too(tmp_path):
    records = [
        example(
            {"id": np.array([name], object), "x": np.eye(3, dtype=np.float32)[place]}
        ).SerializeToString()
        for place, name in enumerate([b"a", b"b", b"a"])
    ]
    data = write(tmp_path / "data.tfrecord", records)
    told = []
    path = str(tmp_path / "graph.tsv")
    found = building.build(data, path, wanted=Wanted(threshold=0.5), report=told.append)
    assert (found["nodes"], found["edges"], lines(path)) == (2, 0, [])
    assert "1 examples have the name of another" in told[0]
    assert "no edge" in told[1]


def test_weights_of_far_neighbours_are_not_lost(tmp_path):
    records = [
        example(
            {
                "id": np.array([f"n{i}".encode()], object),
                "embedding": np.array([value], np.float32),
            }
        ).SerializeToString()
        for i, value in enumerate((0.0, 2.5e6, 5.1e6))
    ]
    path, graph = write(tmp_path / "data.tfrecord", records), tmp_path / "graph.tsv"
    building.build(path, str(graph), wanted=Wanted("l2", k=2), encoder=VECTOR)
    weights = {
        tuple(line.split("\t")[:2]): float(line.split("\t")[2]) for line in lines(graph)
    }
    assert weights["n0", "n1"] == pytest.approx(1 / (1 + 2.5e6), rel=1e-6)
    assert weights["n1", "n2"] == pytest.approx(1 / (1 + 2.6e6), rel=1e-6)


def test_ids_may_have_rare_line_ends(tmp_path):
    path = tmp_path / "graph.tsv"
    path.write_text("q/a\u2028b\tq/c\t0.5\n", encoding="utf-8")
    found = edges.read_edges(str(path), ["q/a\u2028b", "q/c"])
    numbers, _ = found.neighbours(1)
    assert numbers.tolist() == [[1], [-1]]
