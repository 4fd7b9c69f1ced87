"""`compare`: NumPy over the queries is the oracle; other data is refused."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from tests.pipeline.training_helpers import read_json
from tfr_pipeline.choosing.comparison import RESAMPLES, compare
from tfr_pipeline.choosing.systems import find
from tfr_pipeline.cli.main import main
from tfr_pipeline.errors import ConfigError, DataError
from tfr_pipeline.metrics.classification import ClassMetrics
from tfr_pipeline.metrics.evaluation import QueryMetrics
from tfr_pipeline.metrics.query_table import QueryTable
from tfr_pipeline.metrics.query_values import QueryValues, read
from tfr_pipeline.metrics.significance import holm, randomisation_test, t_test

QUERIES = 60
LENGTHS = np.random.default_rng(0).integers(2, 9, QUERIES)
SPLITS = np.concatenate([[0], np.cumsum(LENGTHS)])
LABELS = np.random.default_rng(1).integers(0, 3, SPLITS[-1]).astype(float)
LABELS[: SPLITS[1]] = 0.0  # a query without a relevant document
IDS = [f"q{number}" for number in range(QUERIES)]


def measured(noise, labels=LABELS, seed=0):
    random = np.random.default_rng(seed)
    scores = LABELS + noise * random.normal(size=len(labels))
    return QueryMetrics.of(labels, scores, SPLITS)


def write(path, parts, name="per_query.parquet"):
    """Writes a folder with a table of `(split, task, ids, metrics)`."""
    path.mkdir(exist_ok=True)
    table = QueryTable()
    for part in parts:
        table.add(*part)
    table.write(str(path / name))
    return path


def system(path, noise, seed=0, splits=("valid", "test"), **options):
    metrics = measured(noise, seed=seed, **options)
    return write(path, [(split, "", IDS, metrics) for split in splits])


def together(path, seeds):
    """Writes what a cross-validation writes: `(fold, seed, ids, metrics)`."""
    path.mkdir()
    tables = []
    for number, (fold, seed, ids, metrics) in enumerate(seeds):
        one = write(path, [("test", "", ids, metrics)], f"{number}.parquet")
        rows = read(str(one / f"{number}.parquet"))
        for name, values in (("fold", fold), ("seed", [seed] * len(ids))):
            rows = rows.append_column(name, pa.array(values, pa.int64()))
        tables.append(rows)
    pa.parquet.write_table(pa.concat_tables(tables), path / "per_query.parquet")
    return path


def paths(*names):
    return [str(name) for name in names]


@pytest.mark.parametrize("convention", ["skip", "zero", "one"])
def test_differences_and_tests_are_those_of_each_query(tmp_path, convention):
    system(tmp_path / "a", 2.0)
    system(tmp_path / "b", 0.5, seed=1)
    found = compare(
        find(paths(tmp_path / "a", tmp_path / "b")), 0, [f"ndcg@10.{convention}"]
    )
    assert (found["split"], found["baseline"]) == ("test", "a")
    (result,) = found["results"]
    (row,) = result["comparisons"]
    one, other = measured(0.5, seed=1), measured(2.0)
    gain = one.skip("ndcg@10") - other.skip("ndcg@10")
    filled = {"zero": 0.0, "one": 0.0}.get(convention)
    gain = gain[~np.isnan(gain)] if filled is None else np.nan_to_num(gain, nan=filled)
    assert row["queries"] == len(gain)
    assert row["difference"] == pytest.approx(gain.mean(), abs=1e-12)
    assert row["p_t"] == pytest.approx(t_test(gain))
    assert row["p_randomisation"] == pytest.approx(randomisation_test(gain), abs=2e-3)
    draws = np.random.default_rng(9).choice(gain, (RESAMPLES, len(gain))).mean(axis=1)
    wanted = np.percentile(draws, [2.5, 97.5])
    assert row["ci"] == pytest.approx(wanted, abs=0.006)
    for name, metrics in (("a", other), ("b", one)):
        mean = metrics.means(bootstrap=0)["ndcg@10"][convention]
        assert result["means"][name]["ndcg@10"][convention] == pytest.approx(mean)


def test_means_of_all_metrics_are_those_of_the_run(tmp_path):
    system(tmp_path / "a", 1.0)
    system(tmp_path / "b", 1.0, seed=3)
    found = compare(find(paths(tmp_path / "a", tmp_path / "b")))
    wanted = measured(1.0).means(bootstrap=0)
    means = found["results"][0]["means"]["a"]
    assert {"ndcg@1", "mrr", "map", "arp", "precision@5"} < set(means)
    for name, by_convention in means.items():
        assert by_convention == pytest.approx(wanted[name]), name


def test_arp_weighs_queries_in_its_difference_too(tmp_path):
    system(tmp_path / "a", 1.0)
    system(tmp_path / "b", 0.2, seed=3)
    found = compare(find(paths(tmp_path / "a", tmp_path / "b")), metrics=["arp"])
    (row,) = found["results"][0]["comparisons"]
    means = found["results"][0]["means"]
    wanted = means["b"]["arp"]["skip"] - means["a"]["arp"]["skip"]
    assert row["difference"] == pytest.approx(wanted)
    assert row["ci"][0] < wanted < row["ci"][1]


def test_p_is_corrected_for_all_that_were_compared(tmp_path):
    names = "abcd"
    for number, name in enumerate(names):
        system(tmp_path / name, 1.5 / (1 + number), seed=number)
    found = compare(
        find(paths(*(tmp_path / name for name in names))),
        metrics=["ndcg@10", "mrr"],
    )
    rows = found["results"][0]["comparisons"]
    assert len(rows) == 6
    p = [row["p_randomisation"] for row in rows]
    assert [row["p_holm"] for row in rows] == holm(p)
    assert rows[0]["p_holm"] > rows[0]["p_randomisation"]


def test_seeds_of_a_cross_validation_count_as_their_mean(tmp_path):
    folds = np.repeat([1, 2], QUERIES // 2)
    cv = together(
        tmp_path / "cv",
        [(folds, seed, IDS, measured(1.0, seed=seed)) for seed in (3, 4)],
    )
    single = system(tmp_path / "run", 2.0)
    found = compare(find(paths(cv, single)), baseline=1)
    assert [entry["seeds"] for entry in found["systems"]] == [2, 1]
    values = np.mean([measured(1.0, seed=s).skip("ndcg@10") for s in (3, 4)], axis=0)
    gain = values - measured(2.0).skip("ndcg@10")
    (row,) = found["results"][0]["comparisons"]
    assert row["system"] == "cv"
    assert row["difference"] == pytest.approx(np.nanmean(gain))
    assert row["p_t"] == pytest.approx(t_test(gain[~np.isnan(gain)]))


def test_other_folds_are_compared_with_a_warning(tmp_path):
    one, two = np.repeat([1, 2], QUERIES // 2), np.tile([1, 2], QUERIES // 2)
    first = together(tmp_path / "a", [(one, 1, IDS, measured(1.0))])
    second = together(tmp_path / "b", [(two, 1, IDS, measured(1.0, seed=2))])
    with pytest.warns(UserWarning, match="a and b have other folds"):
        compare(find(paths(first, second)))


def test_queries_may_come_in_another_order_and_several_times(tmp_path):
    """Lists of one query keep their order."""
    ids = ["b", "a", "b", "c"]
    labels, splits = [1.0, 0.0] * 4, [0, 2, 4, 6, 8]

    def of(scores, order):
        metrics = QueryMetrics.of(
            labels, np.array(scores, float).reshape(4, 2)[order].ravel(), splits
        )
        return [("test", "", [ids[i] for i in order], metrics)]

    scores = [1, 0, 0, 1, 0, 1, 1, 0]
    one = write(tmp_path / "one", of(scores, [0, 1, 2, 3]))
    other = write(tmp_path / "other", of(scores, [3, 1, 0, 2]))
    found = compare(find(paths(one, other)), metrics=["mrr"])
    (row,) = found["results"][0]["comparisons"]
    assert row["difference"] == 0.0 and row["ci"] == [0.0, 0.0]
    assert row["p_randomisation"] == row["p_t"] == 1.0
    turned = write(tmp_path / "turned", of(scores, [2, 1, 0, 3]))
    values = QueryValues.of(read(str(turned / "per_query.parquet"))).values["mrr"]
    assert values.tolist() == [0.5, 0.5, 1.0, 1.0]


def test_seeds_that_sweep_best_trained_are_one_system(tmp_path):
    folder = tmp_path / "winner"
    folder.mkdir()
    for seed in (1, 2):
        system(folder / f"seed-{seed}", 1.0, seed=seed)
    (folder / "seeds.json").write_text(json.dumps({"seeds": [1, 2, 3]}))
    single = system(tmp_path / "run", 2.0)
    with pytest.raises(DataError, match=r"seed-3: expected per_query\.parquet"):
        find(paths(folder, single))
    (folder / "seeds.json").write_text(json.dumps({"seeds": [1, 2]}))
    found = find(paths(folder, single))
    assert [item.seeds for item in found] == [2, 1]


# What cannot be compared


def changed_label():
    labels = LABELS.copy()
    labels[SPLITS[7]] += 1.0
    return labels


def without_document():
    labels = LABELS.copy()
    labels[SPLITS[7]] = -1.0
    return labels


def test_other_queries_are_refused_with_the_difference(tmp_path):
    system(tmp_path / "a", 1.0)
    ids = ["elsewhere", *IDS[1:]]
    write(tmp_path / "b", [("test", "", ids, measured(1.0))])
    with pytest.raises(DataError) as caught:
        compare(find(paths(tmp_path / "a", tmp_path / "b")))
    text = str(caught.value)
    assert "a and b: expected the same test data" in text
    assert "only the one has q0" in text and "only the other has elsewhere" in text


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (changed_label(), r"1 of 60 queries .*; query q7 has .*"),
        (without_document(), r"query q7 has \d+ and \d+ labelled documents"),
    ],
)
def test_other_labels_are_refused_with_the_difference(tmp_path, labels, words):
    system(tmp_path / "a", 1.0)
    system(tmp_path / "b", 1.0, labels=labels)
    with pytest.raises(DataError, match=words):
        compare(find(paths(tmp_path / "a", tmp_path / "b")))


def test_other_conventions_are_refused(tmp_path):
    a = system(tmp_path / "a", 1.0)
    (tmp_path / "b").mkdir()
    table = read(str(a / "per_query.parquet"))
    place = table.column_names.index("ndcg@10")
    filled = pa.compute.fill_null(table["ndcg@10"], 0.0)
    table = table.set_column(place, "ndcg@10", filled)
    pa.parquet.write_table(table, tmp_path / "b" / "per_query.parquet")
    with pytest.raises(DataError, match="ndcg@10 of 2 queries, such as q0, is undef"):
        compare(find(paths(tmp_path / "a", tmp_path / "b")))


def test_classes_and_rankings_are_refused_together_and_classes_are_compared(tmp_path):
    system(tmp_path / "ranking", 1.0)
    random = np.random.default_rng(0)
    labels = random.integers(0, 3, QUERIES)
    for name in ("one", "two"):
        probabilities = random.dirichlet([1, 1, 1], QUERIES)
        metrics = ClassMetrics.of(labels, probabilities, ("x", "y", "z"))
        write(tmp_path / name, [("test", "", IDS, metrics)])
    with pytest.raises(DataError, match=r"documents, relevant, label_sum.* class"):
        compare(find(paths(tmp_path / "ranking", tmp_path / "one")))
    found = compare(find(paths(tmp_path / "one", tmp_path / "two")))
    (row,) = found["results"][0]["comparisons"]
    assert (row["metric"], row["queries"]) == ("accuracy", QUERIES)


def test_test_data_goes_before_validation_data_if_all_have_it(tmp_path):
    both = system(tmp_path / "both", 1.0)
    valid = system(tmp_path / "valid", 1.0, splits=("valid",))
    test = system(tmp_path / "test", 1.0, splits=("test",))
    assert compare(find(paths(both, valid)))["split"] == "valid"
    with pytest.raises(DataError, match="valid has valid; test has test: expected a"):
        compare(find(paths(valid, test)))
    unnamed = [system(tmp_path / name, 1.0, splits=("",)) for name in ("x", "y")]
    assert compare(find(paths(*unnamed)))["split"] == ""


@pytest.mark.parametrize(
    ("metric", "words"),
    [
        ("ndgc@10", "ndcg@10"),
        ("mrr.one", "mrr has no convention 'one'; expected skip or zero"),
    ],
)
def test_unknown_metrics_are_refused(tmp_path, metric, words):
    system(tmp_path / "a", 1.0)
    system(tmp_path / "b", 1.0)
    with pytest.raises(ConfigError, match=words):
        compare(find(paths(tmp_path / "a", tmp_path / "b")), metrics=[metric])


def test_one_query_has_no_test_but_a_difference(tmp_path, capsys):
    for name, scores in (("a", [0.0, 1.0]), ("b", [1.0, 0.0])):
        metrics = QueryMetrics.of([1.0, 0.0], scores, [0, 2])
        write(tmp_path / name, [("test", "", ["q"], metrics)])
    found = compare(find(paths(tmp_path / "a", tmp_path / "b")), metrics=["mrr"])
    (row,) = found["results"][0]["comparisons"]
    assert row["difference"] == 0.5 and row["p_t"] is None
    assert row["p_randomisation"] == row["p_holm"] == 1.0
    assert row["ci"] == [None, None]
    assert main(["compare", str(tmp_path / "a"), str(tmp_path / "b")]) == 0
    last = capsys.readouterr().out.splitlines()[-2]
    assert last.split()[:4] == ["b", "+0.3691", "-", "1.0000"]


def test_without_relevant_documents_nothing_is_compared(tmp_path):
    for name in "ab":
        metrics = QueryMetrics.of([0.0, 0.0], [0.0, 1.0], [0, 2])
        write(tmp_path / name, [("test", "", ["q"], metrics)])
    found = compare(find(paths(tmp_path / "a", tmp_path / "b")))
    (row,) = found["results"][0]["comparisons"]
    assert row["difference"] is None and row["ci"] == [None, None]
    assert row["p_holm"] is None
    assert main(["compare", str(tmp_path / "a"), str(tmp_path / "b")]) == 0


# The command


def test_the_command_shows_means_and_differences_and_writes_them(tmp_path, capsys):
    system(tmp_path / "a", 2.0)
    system(tmp_path / "b", 0.1, seed=1)
    output = tmp_path / "found.json"
    words = ["compare", *paths(tmp_path / "a", tmp_path / "b"), f"--output={output}"]
    assert main(words) == 0
    out = capsys.readouterr().out
    assert "test data, 60 queries:" in out
    assert "ndcg@10, difference to a, 58 queries:" in out
    assert "<0.0001" in out and "p corrected for 1 comparison;" in out
    found = read_json(output)
    assert found == compare(find(paths(tmp_path / "a", tmp_path / "b")))
    assert main([*words[:3], f"--baseline={tmp_path / 'b'}"]) == 0
    assert "difference to b, 58" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (["a"], 2, "expected two or more to compare"),
        (["a", "a"], 2, "named more than once"),
        (["a", "nothing"], 1, "nothing of that name"),
        (["a", "empty"], 1, "a folder without per_query.parquet"),
        (["a", "running"], 1, "has not ended"),
        (["a", "begun"], 1, "a cross-validation that has not ended"),
        (["a", "damaged.parquet"], 1, "expected a Parquet file"),
        (["a", "other.parquet"], 1, "none with the column 'split'"),
        (["a", "b", "--metric=x"], 2, "--metric"),
        (["a", "b", "--output=a/per_query.parquet"], 2, "--output"),
        (["a", "b", "--output=a/metrics.json"], 2, "which this command reads"),
        (["a", "b", "--output=a/plan.json"], 2, "which this command reads"),
        (["a", "b", "--output=a/seed-1/metrics.json"], 2, "which this command reads"),
    ],
)
def test_wrong_words_are_one_line(tmp_path, monkeypatch, capsys, words, code, text):
    monkeypatch.chdir(tmp_path)
    system(tmp_path / "a", 1.0)
    system(tmp_path / "b", 1.0)
    for name, file in (("running", "config.json"), ("begun", "plan.json")):
        (tmp_path / name).mkdir()
        (tmp_path / name / file).write_text("{}")
    (tmp_path / "empty").mkdir()
    (tmp_path / "a" / "seed-1").mkdir()
    for file in ("metrics.json", "plan.json", "seed-1/metrics.json"):
        (tmp_path / "a" / file).write_text("{}")
    (tmp_path / "damaged.parquet").write_text("no")
    pa.parquet.write_table(pa.table({"x": [1]}), tmp_path / "other.parquet")
    assert main(["compare", *words]) == code
    error = capsys.readouterr().err.strip()
    assert text in error and len(error.splitlines()) == 1
