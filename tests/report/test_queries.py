"""Slices, wins and losses, and statistics, against plain counting."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from tests.report.report_helpers import make_lists
from tfr_pipeline.errors import DataError
from tfr_pipeline.metrics.classification import ClassMetrics
from tfr_pipeline.metrics.evaluation import QueryMetrics
from tfr_pipeline.metrics.paired import same_labels
from tfr_pipeline.metrics.query_table import QueryTable
from tfr_pipeline.pipeline.run.measuring import Measured
from tfr_pipeline.report import statistics
from tfr_pipeline.report.comparison import NothingToCompareError, compare_queries
from tfr_pipeline.report.importance import Importance
from tfr_pipeline.report.run_files import read_queries
from tfr_pipeline.report.slices import Slice, slices
from tfr_pipeline.report.subject import _same


def measured(seed: int):
    lists = make_lists(np.full(40, 6))
    scores = np.random.default_rng(seed).normal(size=lists.num_documents)
    return lists, QueryMetrics.of(lists.labels, scores, lists.row_splits)


def test_slices_are_quarters_of_the_queries_or_single_values() -> None:
    random = np.random.default_rng(0)
    metric, by = random.random(1000), random.integers(1, 200, 1000)
    found = slices(metric, by)
    assert len(found) == 4 and sum(one.queries for one in found) == 1000
    for one in found:
        low, high = map(int, one.name.split(" to "))
        inside = (by >= low) & (by <= high)
        assert one.queries == inside.sum() and 180 < one.queries < 320
        assert one.mean == pytest.approx(metric[inside].mean())
        assert one.interval[0] < one.mean < one.interval[1]
    few = slices(metric, by % 3)
    assert [one.name for one in few] == ["0", "1", "2"]


def test_queries_that_do_not_count_are_in_no_slice() -> None:
    found = slices([1.0, np.nan, np.nan], [1.0, 1.0, 2.0])
    assert [(one.queries, one.mean) for one in found] == [(1, 1.0), (0, None)]
    texts = np.array([b"uk", b"us", b"uk"], object)
    assert [one.name for one in slices([1.0, 0.0, 0.5], texts)] == ["uk", "us"]
    many = np.array([f"m{i % 12}" for i in range(100)], object)
    assert slices(np.ones(100), many)[-1].name == "4 others"
    gone = slices([1.0, 0.0], [np.nan, 3.0])
    assert [one.name for one in gone] == ["3", "missing"]
    with pytest.raises(DataError, match="as many values as queries"):
        slices([1.0], [1, 2])


def test_wins_and_losses_are_those_of_each_query() -> None:
    lists, one = measured(1)
    _, other = measured(2)
    found = compare_queries(one, other, lists.query_ids)
    plain = one.values["ndcg@10"] - other.values["ndcg@10"]
    counted = plain[~np.isnan(plain)]
    wins, losses, ties = found.counts
    assert (wins, losses) == ((counted > 0).sum(), (counted < 0).sum())
    assert wins + losses + ties == len(counted)
    np.testing.assert_allclose(found.differences, np.sort(counted)[::-1])
    assert found.query_ids[0] == lists.query_ids[np.nanargmax(plain)]
    assert found.mean == pytest.approx(counted.mean())
    assert found.interval[0] < found.mean < found.interval[1]


def test_one_query_alone_wins_without_showing_anything() -> None:
    good, bad = (
        QueryMetrics.of([1.0, 0.0], scores, [0, 2])
        for scores in ([2.0, 1.0], [1.0, 2.0])
    )
    with pytest.warns(UserWarning, match="one has no interval"):
        found = compare_queries(good, bad, ["q"])
    assert found.counts == (1, 0, 0) and found.interval is None
    none = QueryMetrics.of([0.0, 0.0], [1.0, 2.0], [0, 2])
    with pytest.raises(NothingToCompareError, match=r"no query defines ndcg@10"):
        compare_queries(none, none, ["q"])
    (one,) = slices([0.5], [1.0])
    assert (one.mean, one.interval) == (0.5, None)


def test_models_measured_on_other_queries_are_not_compared() -> None:
    lists, one = measured(1)
    others = [f"other{i}" for i in range(lists.num_lists)]
    with pytest.raises(DataError, match="40 queries are not among its"):
        compare_queries(one, one, lists.query_ids, others)
    fewer = dataclasses.replace(one, documents=one.documents - 1)
    with pytest.raises(DataError, match="with 240 labelled documents, found 40 with"):
        compare_queries(one, fewer, lists.query_ids)
    for name in ("relevant", "label_sum"):
        other = dataclasses.replace(one, **{name: getattr(one, name) + 1})
        with pytest.raises(DataError, match="or their labels differ"):
            compare_queries(one, other, lists.query_ids)
        of_one, of_other = (
            Measured(lists.query_ids, {"": m}, False) for m in (one, other)
        )
        assert _same(of_one, of_one) and not _same(of_one, of_other)


def test_labels_of_classes_are_the_same_in_any_order_of_the_classes() -> None:
    one = ClassMetrics(("a", "b"), np.array([0, 1, -1]), np.zeros(3, int), np.ones(3))
    turned = dataclasses.replace(one, classes=("b", "a"), label=np.array([1, 0, -1]))
    assert same_labels(one, turned)
    assert not same_labels(one, dataclasses.replace(turned, label=one.label))


def test_names_with_dollars_are_drawn_as_they_are() -> None:
    pytest.importorskip("matplotlib", reason="needs pip install matplotlib")
    from tfr_pipeline.report import plots

    name = r"$\no{$"
    one = [Slice(name, 3, 0.5, (0.4, 0.6))]
    assert "<svg" in plots.slices({name: one}, 0.5, "ndcg@10")
    assert "<svg" in plots.lengths_and_grades([1, 2], {name: 3})
    row = {"ndcg@10": {"skip": 0.5}}
    assert "<svg" in plots.quality({name: row, "b": row}, ["ndcg@10"])
    assert "<svg" in plots.curves([{"loss": 1.0, f"metric/{name}": 0.5}], None)
    assert "<svg" in plots.importance([Importance(name, 0.1, 0.01)], "ndcg@10")


def test_what_was_measured_of_queries_comes_back_from_its_table(tmp_path) -> None:
    lists, one = measured(1)
    table = QueryTable()
    for task in ("grade", "click"):
        table.add("test", task, lists.query_ids, one)
    table.add("valid", "", lists.query_ids, measured(2)[1])
    table.write(str(tmp_path / "per_query.parquet"))
    found = read_queries(str(tmp_path / "per_query.parquet"), {})
    assert list(found) == ["test", "valid"] and list(found["valid"].tasks) == [""]
    again = found["test"].tasks["click"]
    assert again.means() == one.means()
    assert found["test"].query_ids.tolist() == lists.query_ids.tolist()


def test_a_table_of_queries_that_is_damaged_is_an_error(tmp_path) -> None:
    path = tmp_path / "per_query.parquet"
    path.write_bytes(b"PAR1 and nothing else")
    with pytest.raises(DataError, match="expected a Parquet file"):
        read_queries(str(path), {})


def test_statistics_are_counts() -> None:
    lists = make_lists([3, 1, 4])
    labels = np.float32([0, 1, 0, 0, 2, 2, 0, -1])
    found = statistics.count(dataclasses.replace(lists, labels=labels))
    assert (found.lists, found.documents, found.without_relevant) == (3, 8, 1)
    assert found.grades == {"0": 4, "1": 1, "2": 2}
    assert (found.lengths["min"], found.lengths["max"]) == (1, 4)
