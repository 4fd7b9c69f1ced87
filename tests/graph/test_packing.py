"""`graph pack` against NSL's `pack_nbrs`, and lists against a plain loop."""

import pathlib

import numpy as np
import pytest

from tests.graph import helpers
from tests.ranking_data import example, write, write_elwc
from tfr_pipeline.data.lists import Lists
from tfr_pipeline.errors import ConfigError, DataError
from tfr_pipeline.features import Features
from tfr_pipeline.graph import building, nodes, packing
from tfr_pipeline.graph.dataset import DataSet, Reading
from tfr_pipeline.graph.encoders import Encoder
from tfr_pipeline.graph.packing import Rules
from tfr_pipeline.graph.similarity import Wanted


@pytest.mark.parametrize("compression", ["", "GZIP"])
@pytest.mark.parametrize(
    "rules", [Rules(3), Rules(None, add_undirected_edges=True), Rules(2)], ids=str
)
def test_examples_are_those_that_nsl_packs(tmp_path, rules, compression):
    random = np.random.default_rng(0)
    seeds, others = helpers.examples(30), helpers.examples(40, seed=1, start=30)
    labelled = write(tmp_path / "labelled.tfrecord", seeds)
    unlabelled = write(tmp_path / "unlabelled.tfrecord", others)
    graph = tmp_path / "graph.tsv"
    ends = random.integers(0, 70, (200, 2))
    graph.write_text(
        "".join(
            f"node {one}\tnode {two}\t{random.integers(1, 9) / 8}\n"
            for one, two in ends
            if one != two
        )
    )
    theirs, ours = tmp_path / "theirs.tfrecord", tmp_path / "ours.tfrecord"
    helpers.nsl_tools().pack_nbrs(
        labelled,
        unlabelled,
        str(graph),
        str(theirs),
        add_undirected_edges=rules.add_undirected_edges,
        max_nbrs=rules.max_nbrs,
    )
    if compression:
        write(labelled, seeds, compression)
        write(unlabelled, others, compression)
    found = packing.pack(
        labelled, str(ours), graph=str(graph), unlabelled=unlabelled, rules=rules
    )
    expected = helpers.read_examples(theirs)
    assert helpers.read_examples(ours) == expected
    degrees = [e.features.feature["NL_num_nbrs"].int64_list.value[0] for e in expected]
    assert found.nodes == 30
    assert found.degrees == {n: degrees.count(n) for n in sorted(set(degrees))}


def data_of(tmp_path, count=10, seed=0, name="data"):
    lists = helpers.ranked_lists(count, seed)
    return lists, write_elwc(tmp_path / f"{name}.tfrecord", lists)


def lines_of(graph):
    return pathlib.Path(graph).read_text(encoding="utf-8").splitlines()


def read(folder) -> Lists:
    parts = [part.lists for part in DataSet(f"{folder}/train-*", Reading()).parts()]
    return Lists.concatenate(parts)


def column(lists, features, name):
    dtype = features.example[name].dtype
    position = 0
    for other in sorted(features.example):
        feature = features.example[other]
        if feature.dtype == dtype:
            size = int(np.prod(feature.shape))
            if other == name:
                return lists.values[dtype][:, position : position + size]
            position += size
    raise KeyError(name)


@pytest.mark.parametrize(
    ("output_format", "cache"), [("elwc", "memory"), ("packed", "disk")]
)
def test_documents_have_the_features_of_their_neighbours(
    tmp_path, output_format, cache
):
    labelled, path = data_of(tmp_path)
    unlabelled, more = data_of(tmp_path, 7, 1, "more")
    graph = str(tmp_path / "graph.tsv")
    building.build(
        [path, more], graph, wanted=Wanted(k=2), encoder=Encoder(("embedding",))
    )
    lines = [line.split("\t") for line in lines_of(graph)]
    packing.pack(
        path,
        str(tmp_path / "packed"),
        graph=graph,
        unlabelled=more,
        rules=Rules(2),
        output_format=output_format,
        cache=str(tmp_path / "cache") if cache == "disk" else cache,
        num_shards=2,
    )
    features = Features.load(str(tmp_path / "packed"))
    assert features.data_format == output_format
    assert "NL_nbr_1_label" not in features.example
    written = read(tmp_path / "packed")
    documents = {}
    for one in [*labelled, *unlabelled]:
        for document in one.documents:
            query, name = one.context["qid"][0], document["docid"][0]
            documents[nodes.document_node(query.decode(), name.decode())] = document
    names = nodes.of_lists(written).tolist()
    assert sorted(names) == sorted(list(documents)[: len(names)])
    np.testing.assert_array_equal(
        written.labels, [documents[name]["label"][0] for name in names]
    )
    for row, name in enumerate(names):
        nearest = [(float(w), target) for source, target, w in lines if source == name]
        nearest = sorted(nearest, reverse=True)[:2]
        for place in range(2):
            weight = column(written, features, f"NL_nbr_{place}_weight")[row]
            if place >= len(nearest):
                assert weight == 0
            else:
                assert weight == np.float32(nearest[place][0])
            for feature in ("embedding", "bm25", "clicks"):
                value = column(written, features, f"NL_nbr_{place}_{feature}")[row]
                expected = np.zeros_like(value)
                if place < len(nearest):
                    expected = documents[nearest[place][1]][feature]
                np.testing.assert_array_equal(value, expected)
        np.testing.assert_array_equal(
            column(written, features, "embedding")[row], documents[name]["embedding"]
        )


def test_fewer_neighbours_than_asked_are_zeros_and_texts_are_packed(tmp_path):
    lists, _ = data_of(tmp_path, 2)
    for number, one in enumerate(lists):
        for place, document in enumerate(one.documents):
            document["title"] = np.array([f"t{number}{place}".encode()], object)
            document["terms"] = np.array([b"x"] * (1 + place), object)
    path = write_elwc(tmp_path / "data.tfrecord", lists)
    graph = tmp_path / "graph.tsv"
    names = [nodes.document_node(f"q/0-{number}", "d0") for number in range(2)]
    graph.write_text(f"{names[0]}\t{names[1]}\t0.5\n")
    packing.pack(path, str(tmp_path / "packed"), graph=str(graph))
    written = read(tmp_path / "packed")
    titles = written.loose["NL_nbr_0_title"]
    assert titles.row(0).tolist() == [b"t10"]
    assert titles.row(1).tolist() == [b""]
    assert written.loose["NL_nbr_0_terms"].row(0).tolist() == [b"x"]
    assert written.loose["NL_nbr_0_terms"].row(1).tolist() == []
    features = Features.load(str(tmp_path / "packed"))
    weights = [column(written, features, f"NL_nbr_{n}_weight")[:, 0] for n in range(3)]
    assert weights[0][0] == 0.5 and not np.any(weights[0][1:])
    assert not np.any(weights[1:])


def test_queries_have_the_features_of_their_neighbours(tmp_path):
    lists, path = data_of(tmp_path, 3)
    graph = tmp_path / "graph.tsv"
    names = [nodes.escape(one.context["qid"][0].decode()) for one in lists]
    graph.write_text(f"{names[0]}\t{names[2]}\t0.5\n{names[0]}\t{names[1]}\t0.75\n")
    packing.pack(
        path,
        str(tmp_path / "packed"),
        graph=str(graph),
        kind="queries",
        rules=Rules(2),
    )
    context = read(tmp_path / "packed").context
    own = [one.context["length"] for one in lists]
    zeros = np.zeros(2)
    np.testing.assert_array_equal(context["length"], own)
    np.testing.assert_array_equal(context["NL_nbr_0_length"], [own[1], zeros, zeros])
    np.testing.assert_array_equal(context["NL_nbr_1_length"], [own[2], zeros, zeros])
    np.testing.assert_array_equal(context["NL_nbr_0_weight"], [[0.75], [0], [0]])


def test_unlabelled_lists_can_be_written_too(tmp_path):
    labelled, path = data_of(tmp_path, 3)
    unlabelled, more = data_of(tmp_path, 2, 1, "more")
    for one in unlabelled:
        for document in one.documents:
            del document["label"]
    write_elwc(more, unlabelled)
    graph = str(tmp_path / "graph.tsv")
    building.build(
        path + "," + more, graph, wanted=Wanted(k=1), encoder=Encoder(("embedding",))
    )
    packing.pack(
        path,
        str(tmp_path / "packed"),
        graph=graph,
        unlabelled=more,
        with_unlabelled=True,
    )
    written = read(tmp_path / "packed")
    assert written.num_lists == 5
    count = sum(len(one.documents) for one in labelled)
    assert (written.labels[:count] >= 0).all() and (written.labels[count:] == -1).all()


def test_neighbours_of_lists_in_memory_are_an_index(tmp_path):
    _, path = data_of(tmp_path, 6)
    graph = str(tmp_path / "graph.tsv")
    building.build(path, graph, wanted=Wanted(k=2), encoder=Encoder(("embedding",)))
    lists = Lists.concatenate([p.lists for p in DataSet(path, Reading()).parts()])
    found = packing.neighbours_of(lists, graph, Rules(2))
    names = nodes.of_lists(lists)
    lines = {tuple(line.split("\t")[:2]) for line in lines_of(graph)}
    assert found.numbers.shape == (lists.num_documents, 2)
    for row, numbers in enumerate(found.numbers):
        assert all((names[row], names[n]) in lines for n in numbers if n >= 0)
    assert (found.numbers >= 0).all()


def test_graphs_of_other_data_are_refused(tmp_path):
    _, path = data_of(tmp_path, 6)
    _, other = data_of(tmp_path, 6, 1, "other")
    graph = str(tmp_path / "graph.tsv")
    building.build(path, graph, wanted=Wanted(k=2), encoder=Encoder(("embedding",)))

    def pack(**how):
        output = str(tmp_path / "packed")
        packing.pack(other, output, **{"graph": graph, **how})

    with pytest.raises(DataError, match="another data set"):
        pack()
    with pytest.raises(DataError, match=r"all .* edges have an id that is no node"):
        pack(rules=Rules(unknown="skip"))
    with pytest.raises(ConfigError, match="unknown nodes 'examples'"):
        pack(kind="examples")
    assert not (tmp_path / "packed").exists()


def test_data_that_is_packed_already_is_refused(tmp_path):
    _, path = data_of(tmp_path, 6)
    graph = str(tmp_path / "graph.tsv")
    building.build(path, graph, wanted=Wanted(k=2), encoder=Encoder(("embedding",)))
    packing.pack(path, str(tmp_path / "packed"), graph=graph)
    with pytest.raises(ConfigError, match="packed already"):
        packing.pack(
            str(tmp_path / "packed" / "train-*"), str(tmp_path / "again"), graph=graph
        )


def test_a_feature_called_weight_cannot_be_that_of_a_neighbour(tmp_path):
    records = [
        example(
            {"id": np.array([name], object), "weight": np.float32([1])}
        ).SerializeToString()
        for name in (b"a", b"b")
    ]
    path = write(tmp_path / "data.tfrecord", records)
    graph = tmp_path / "graph.tsv"
    graph.write_text("a\tb\t1\n")
    with pytest.raises(DataError, match=r"NL_nbr_0_weight.*Rename"):
        packing.pack(path, str(tmp_path / "out.tfrecord"), graph=str(graph))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data.tfrecord", "graph.tsv"]


def test_names_of_rules_are_checked_before_data_is_read():
    with pytest.raises(ConfigError, match=r"unknown_ids.*skip"):
        Rules(3, unknown="skpi")
    with pytest.raises(ConfigError, match=r"self_loops.*drop"):
        Rules(3, self_loops="dorp")


def test_lists_without_labels_stay_unlabelled(tmp_path):
    lists = helpers.ranked_lists(3)
    for document in lists[1].documents:
        del document["label"]
    path = write_elwc(tmp_path / "data.tfrecord", lists)
    (part,) = DataSet(path, Reading()).parts()
    starts = part.lists.row_splits
    assert (part.lists.labels[starts[1] : starts[2]] == -1).all()
    assert (part.lists.labels[: starts[1]] >= 0).all()
