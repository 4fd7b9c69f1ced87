"""The file of queries says what the evaluation says, and stays whole."""

from __future__ import annotations

import csv
import math

import numpy as np
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import ndcg_score

from tests.metrics.query_files import means, read_rows
from tfr_pipeline.errors import ConfigError, DataError
from tfr_pipeline.metrics.evaluation import QueryMetrics, evaluate_lists
from tfr_pipeline.metrics.query_table import QueryTable, check_suffix

LABELS = st.sampled_from([-1.0, 0.0, 0.0, 0.5, 1.0, 2.0, 4.0])
LISTS = st.lists(
    st.lists(st.tuples(LABELS, st.integers(0, 5)), max_size=7), min_size=1, max_size=9
).filter(lambda lists: any(label >= 0 for pairs in lists for label, _ in pairs))


def arrays(lists):
    pairs = np.array([pair for pairs in lists for pair in pairs], np.float64)
    return pairs[:, 0], pairs[:, 1], np.cumsum([0, *map(len, lists)])


@pytest.fixture(scope="module", params=["tsv", "parquet"])
def path(request, tmp_path_factory):
    return str(tmp_path_factory.mktemp("tables") / f"queries.{request.param}")


@settings(deadline=None, max_examples=40)
@given(st.lists(LISTS, min_size=1, max_size=3))
def test_the_means_of_the_file_are_those_of_the_evaluation(path, splits):
    table = QueryTable()
    wanted, order = {}, []
    for number, lists in enumerate(splits):
        data = arrays(lists)
        names = [f"{number}/{i}" for i in range(len(lists))]
        order += names
        table.add("valid", f"task {number}", names, QueryMetrics.of(*data))
        wanted[f"task {number}"] = evaluate_lists(*data, bootstrap=0)
    table.write(path)
    rows = read_rows(path)
    assert [row["query"] for row in rows] == [
        f"{number}/{i}"
        for number, lists in enumerate(splits)
        for i in range(len(lists))
    ]
    for task, result in wanted.items():
        some = [row for row in rows if row["task"] == task]
        assert len(some) == result["queries"]
        assert sum(row["documents"] for row in some) == result["documents"]
        for name, numbers in means(some).items():
            for convention, mean in numbers.items():
                expected = result[name][convention]
                assert (mean is None) == (expected is None), (name, convention)
                if expected is not None:
                    assert mean == pytest.approx(expected, rel=1e-12), name


def test_a_row_is_what_scikit_learn_and_a_count_say(path):
    rng = np.random.default_rng(5)
    lists = [
        list(zip(rng.integers(0, 4, n) * (n % 5 > 0), rng.random(n), strict=True))
        for n in range(2, 30)
    ]
    table = QueryTable()
    names = [f"q{i}" for i in range(len(lists))]
    table.add("test", "", names, QueryMetrics.of(*arrays(lists)))
    table.write(path)
    for row, name, pairs in zip(read_rows(path), names, lists, strict=True):
        labels, scores = np.array(pairs).T
        assert (row["split"], row["task"], row["query"]) == ("test", "", name)
        assert row["documents"] == len(labels)
        assert row["relevant"] == sum(labels >= 1)
        assert row["label_sum"] == sum(labels)
        for cutoff in (1, 3, 5, 10):
            found = row[f"ndcg@{cutoff}"]
            if not labels.any():
                assert math.isnan(found)
                continue
            wanted = ndcg_score([2.0**labels - 1.0], [scores], k=cutoff)
            assert found == pytest.approx(wanted, abs=1e-12)
            best = np.argsort(-scores)[:cutoff]
            precision = np.mean(labels[best] >= 1)
            assert row[f"precision@{cutoff}"] == pytest.approx(precision, abs=1e-12)


def test_both_kinds_of_file_hold_the_same_numbers_to_the_last_bit(tmp_path):
    rng = np.random.default_rng(0)
    labels, scores = rng.integers(0, 5, 300), rng.random(300)
    table = QueryTable()
    splits = np.arange(0, 301, 10)
    names = [f'"{i}' if i else "é,'" for i in range(30)]
    table.add("valid", "", names, QueryMetrics.of(labels, scores, splits))
    rows = []
    for kind in ("tsv", "parquet"):
        table.write(f"{tmp_path}/queries.{kind}")
        rows.append(read_rows(f"{tmp_path}/queries.{kind}"))
    assert rows[0] == rows[1]
    assert [row["query"] for row in rows[0]] == names


def test_an_id_that_would_break_a_line_is_refused_and_the_old_file_stays(tmp_path):
    table = QueryTable()
    metrics = QueryMetrics.of([1.0, 0.0], [1.0, 2.0], [0, 1, 2])
    table.add("valid", "", ["good", "b\tad"], metrics)
    path = tmp_path / "queries.tsv"
    path.write_text("old")
    with pytest.raises(DataError, match=r"query id 'b\\tad'.*\.parquet"):
        table.write(str(path))
    assert path.read_text() == "old"
    assert [other.name for other in tmp_path.iterdir()] == ["queries.tsv"]
    table.write(f"{tmp_path}/queries.parquet")
    assert read_rows(f"{tmp_path}/queries.parquet")[1]["query"] == "b\tad"


def test_undefined_numbers_are_null_in_parquet_and_empty_in_text(tmp_path):
    table = QueryTable()
    metrics = QueryMetrics.of([0.0, 1.0], [1.0, 2.0], [0, 1, 2])
    table.add("valid", "", ["nothing", "one"], metrics)
    for kind in ("tsv", "parquet"):
        table.write(f"{tmp_path}/queries.{kind}")
    found = pyarrow.parquet.read_table(f"{tmp_path}/queries.parquet")
    with open(tmp_path / "queries.tsv", encoding="utf-8") as file:
        first = next(csv.DictReader(file, delimiter="\t"))
    for name in metrics.values:
        assert found[name].null_count == 1
        assert found[name][0].as_py() is None
        assert first[name] == ""


@pytest.mark.parametrize("name", ["queries.csv", "queries", "tsv", "-", ".parquet"])
def test_a_name_of_another_kind_is_an_error(name):
    with pytest.raises(ConfigError, match=r"--per_query: .*\.parquet or \.tsv"):
        check_suffix(name, "--per_query")
