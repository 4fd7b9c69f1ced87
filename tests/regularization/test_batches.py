"""Batches with neighbours: of a graph beside lists, or packed in documents."""

from __future__ import annotations

import numpy as np
import pytest

from tests.pipeline.training_helpers import changed
from tests.regularization.graph_data import (
    MAX_NEIGHBOURS,
    first_step,
    lists_of,
    plain_config,
    write_graph,
)
from tfr_pipeline.compat import tf
from tfr_pipeline.data.batching import neighbours
from tfr_pipeline.errors import ConfigError
from tfr_pipeline.experiment.build import build_pipeline
from tfr_pipeline.graph.packing import Rules, pack

MULTIPLIER = 0.3


@pytest.fixture(scope="module")
def graph(data, tmp_path_factory):
    """Config without a graph, path of one, its weights, and the training lists."""
    folder = tmp_path_factory.mktemp("graph")
    config = plain_config(data, folder / "run")
    path = folder / "graph.tsv"
    weights = write_graph(config, path)
    return config, path, weights, lists_of(config)


def with_graph(config, path, **settings):
    told = {
        "edges": str(path) if path else "",
        "max_neighbors": MAX_NEIGHBOURS,
        "multiplier": MULTIPLIER,
        **settings,
    }
    return changed(config, pipeline__graph=told)


def mean_distance(model, weights, lists, numbers) -> float:
    """Weighted squares of the differences of scores, over the number of edges."""
    features = {
        "documents_float32": tf.RaggedTensor.from_row_splits(
            lists.values["float32"], lists.row_splits
        )
    }
    scores = model(features).values.numpy()
    rows = np.flatnonzero(np.isin(lists.row_ids, numbers))
    total, count = 0.0, 0
    for i in rows:
        for j in np.flatnonzero(weights[i]):
            total += weights[i, j] * (scores[i] - scores[j]) ** 2
            count += 1
    return total / count


def first_lists(config) -> np.ndarray:
    builder = build_pipeline(config)._dataset_builder
    return builder.plan("train", "packed").batch_of_step(0)


def test_the_distance_is_that_of_a_loop_over_all_edges(graph) -> None:
    config, path, weights, lists = graph
    config = with_graph(config, path)
    model, (x, y), step = first_step(changed(config, pipeline__layout="packed"))
    expected = mean_distance(model, weights, lists, first_lists(config))
    assert step["added"] == pytest.approx(MULTIPLIER * expected, rel=1e-5)
    # Each neighbour once, and none that is in the batch anyway.
    (documents,) = (v for n, v in x.items() if n.startswith("documents_"))
    own = y.values.shape[0]
    sources = x[neighbours.SOURCES].numpy()
    targets = x[neighbours.TARGETS].numpy()
    assert y.nrows() == 4 and sources.max() < own
    assert len(np.unique(targets[targets >= own])) == len(documents.values) - own
    rows = np.unique(documents.values.numpy(), axis=0)
    assert len(rows) == len(documents.values)


@pytest.mark.parametrize("cut", [None, 5])
def test_both_layouts_give_the_same_step(graph, cut) -> None:
    config, path, _, _ = graph
    config = with_graph(changed(config, data__list_size=cut), path)
    _, _, packed = first_step(changed(config, pipeline__layout="packed"))
    _, _, padded = first_step(changed(config, pipeline__layout="padded"))
    assert packed["added"] > 1e-4
    for name in ("loss", "added"):
        assert padded[name] == pytest.approx(packed[name], rel=2e-5)
    for one, other in zip(padded["gradients"], packed["gradients"], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("output_format", ["elwc", "packed"])
def test_packed_neighbours_count_as_those_of_the_graph(
    graph, data, tmp_path, output_format
) -> None:
    config, path, _, _ = graph
    _, _, expected = first_step(with_graph(config, path))
    folder = str(tmp_path / "packed")
    pack(
        str(data / "train-*"),
        folder,
        graph=str(path),
        output_format=output_format,
        rules=Rules(max_nbrs=MAX_NEIGHBOURS),
    )
    # Validation data is as it was.
    packed = changed(
        config,
        data__dir=None,
        data__train=f"{folder}/train-*",
        data__valid=str(data / "valid-*"),
        data__features=folder,
    )
    for layout in ("packed", "padded"):
        told = changed(with_graph(packed, ""), pipeline__layout=layout)
        _, _, found = first_step(told)
        for name in ("loss", "added"):
            assert found[name] == pytest.approx(expected[name], rel=2e-5)
        for one, other in zip(found["gradients"], expected["gradients"], strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_lists_are_nodes_with_all_of_their_documents(graph, tmp_path) -> None:
    config, _, _, lists = graph
    path = tmp_path / "queries.tsv"
    queries = lists.query_ids
    pairs = [(i, (i + 3) % len(queries)) for i in range(0, len(queries), 2)]
    path.write_text("".join(f"{queries[i]}\t{queries[j]}\t0.5\n" for i, j in pairs))
    config = with_graph(config, path, nodes="queries", max_neighbors=1)
    found = {}
    for layout in ("padded", "packed"):
        told = changed(config, pipeline__layout=layout)
        model, _, found[layout] = first_step(told)
    scores = model(
        {
            "documents_float32": tf.RaggedTensor.from_row_splits(
                lists.values["float32"], lists.row_splits
            )
        }
    ).numpy()
    total = count = 0.0
    for i, j in pairs:
        if i in first_lists(config):
            both = min(len(scores[i]), len(scores[j]))
            total += 0.5 * ((scores[i][:both] - scores[j][:both]) ** 2).sum()
            count += both
    assert count
    for layout in ("packed", "padded"):
        expected = MULTIPLIER * total / count
        assert found[layout]["added"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("adversary", [None, {"adv_step_size": 0.1}])
def test_longer_neighbours_change_no_mean_over_padded_cells(
    graph, tmp_path, adversary
) -> None:
    config, _, _, lists = graph
    config = changed(
        config,
        pipeline__loss="mean_squared_loss",
        pipeline__layout="padded",
        pipeline__adversarial=adversary or {"multiplier": 1e-9},
    )
    own = first_lists(config)
    lengths = np.diff(lists.row_splits)
    longest = lists.query_ids[lengths.argmax()]
    assert lengths[own].max() < lengths.max()
    path = tmp_path / "longest.tsv"
    path.write_text(f"{lists.query_ids[own[0]]}\t{longest}\t1\n")
    _, _, without = first_step(config)
    told = with_graph(config, path, nodes="queries", max_neighbors=1, multiplier=1e-9)
    _, _, found = first_step(told)
    # Without an adversary worth its name, the graph is what comes to the loss.
    for name in ("loss", "added") if adversary else ("loss",):
        assert found[name] == pytest.approx(without[name], rel=1e-4)


def test_lists_of_drawn_documents_cannot_be_compared_by_place(graph, tmp_path) -> None:
    config, path, _, _ = graph
    told = with_graph(config, path, nodes="queries")
    with pytest.raises(ConfigError, match="document by document"):
        first_step(changed(told, data__shuffle_examples=True))
