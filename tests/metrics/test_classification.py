"""Accuracy, F1 and log loss, beside scikit-learn's."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics as theirs

from tests.metrics.query_files import read_rows
from tfr_pipeline import metrics
from tfr_pipeline.compat import tf
from tfr_pipeline.errors import ConfigError, DataError
from tfr_pipeline.metrics.classification import ClassMetrics
from tfr_pipeline.metrics.paired import paired_differences
from tfr_pipeline.metrics.query_table import QueryTable

CLASSES = ("a", "b", "c", "d", "never")


def examples(count=400, seed=0):
    """Returns labels, some of them missing, and probabilities that know a little."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(5, count, p=[0.5, 0.3, 0.15, 0.05, 0.0])
    scores = rng.normal(size=(count, 5)) + 1.2 * np.eye(5)[labels]
    scores[:, 4] -= 9
    shares = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    labels[rng.random(count) < 0.2] = -1
    return labels.astype(np.float32), shares


def measured(**arguments):
    return ClassMetrics.of(*examples(**arguments), CLASSES)


def test_means_are_those_of_scikit_learn():
    labels, shares = examples()
    some = labels >= 0
    known, best = labels[some].astype(int), shares[some].argmax(axis=1)
    found = ClassMetrics.of(labels, shares, CLASSES).means()
    assert found["accuracy"]["skip"] == theirs.accuracy_score(known, best)
    macro = theirs.f1_score(known, best, average="macro")
    assert found["macro_f1"]["skip"] == pytest.approx(macro, rel=1e-12)
    loss = theirs.log_loss(known, shares[some], labels=range(5))
    assert found["log_loss"]["skip"] == pytest.approx(loss, rel=1e-9)
    numbers = theirs.precision_recall_fscore_support(
        known, best, labels=range(5), zero_division=0.0
    )
    for i, name in enumerate(CLASSES):
        of_class = found["classes"][name]
        row = [of_class[key] for key in ("precision", "recall", "f1", "examples")]
        np.testing.assert_allclose(row, [column[i] for column in numbers], rtol=1e-12)
        assert of_class["predicted"] == (best == i).sum()
    counts = found["queries"], found["documents"], found["unlabelled"]
    assert counts == (400, some.sum(), 400 - some.sum())


def test_intervals_are_those_of_resampled_examples():
    labels, shares = examples()
    some = labels >= 0
    known, best = labels[some].astype(int), shares[some].argmax(axis=1)
    rng = np.random.default_rng(1)
    drawn = [rng.integers(0, len(known), len(known)) for _ in range(1000)]
    wanted = {
        "accuracy": [(known[i] == best[i]).mean() for i in drawn],
        "macro_f1": [
            theirs.f1_score(known[i], best[i], average="macro") for i in drawn[:300]
        ],
        "log_loss": [-np.log(shares[some, known])[i].mean() for i in drawn],
    }
    found = measured().means()
    for name, samples in wanted.items():
        ends = np.percentile(samples, [2.5, 97.5])
        room = 0.25 * (ends[1] - ends[0])  # of a bound, for so few resamples
        np.testing.assert_allclose(found[name]["skip_ci"], ends, atol=room)


def test_the_likeliest_of_equals_is_the_first():
    found = ClassMetrics.of([1.0], [[0.4, 0.4, 0.2]], "abc")
    assert found.predicted.tolist() == [0]


def test_probability_0_costs_as_much_as_in_scikit_learn():
    shares = np.float32([[1.0, 0.0], [1.0, 0.0]])
    found = ClassMetrics.of([1, 0], shares, "ab").means(0)["log_loss"]["skip"]
    assert found == pytest.approx(theirs.log_loss([1, 0], shares), rel=1e-5)


def test_parts_make_the_whole():
    whole = measured()
    labels, shares = examples()
    parts = [
        ClassMetrics.of(labels[a:b], shares[a:b], CLASSES)
        for a, b in ((0, 0), (0, 150), (150, 400))
    ]
    sent = [ClassMetrics.of_arrays(part.arrays(), CLASSES) for part in parts]
    assert ClassMetrics.concatenate(sent).means() == whole.means()


def test_nothing_labelled_is_nothing_measured():
    found = ClassMetrics.of([-1, -1], [[0.5, 0.5]] * 2, "ab").means()
    assert found["accuracy"] == {"skip": None, "skip_ci": [None, None]}
    assert (found["documents"], found["unlabelled"]) == (0, 2)


@pytest.mark.parametrize(
    ("labels", "shares", "error"),
    [
        ([0, 1], [[1.0, 0.0]], "found"),
        ([2], [[1.0, 0.0]], "from 0 to 1"),
        ([0.5], [[1.0, 0.0]], "from 0 to 1"),
        ([0], [[float("nan"), 0.0]], "NaN"),
    ],
)
def test_what_cannot_be_is_refused(labels, shares, error):
    with pytest.raises(DataError, match=error):
        ClassMetrics.of(labels, shares, "ab")


def test_a_table_has_a_row_an_example(tmp_path):
    table, found = QueryTable(), measured(count=5)
    table.add("test", "", [str(number) for number in range(5)], found)
    for name in ("rows.parquet", "rows.tsv"):
        table.write(str(tmp_path / name))
        rows = read_rows(tmp_path / name)
        assert [row["predicted"] for row in rows] == [
            CLASSES[number] for number in found.predicted
        ]
        labels = [row["class"] or None for row in rows]
        names = [CLASSES[n] if n >= 0 else None for n in found.label]
        assert labels == names


def test_paired_differences_are_of_accuracy():
    labels, shares = examples()
    one = ClassMetrics.of(labels, shares, CLASSES)
    other = ClassMetrics.of(labels, shares[:, ::-1], CLASSES)
    found = paired_differences(one, other)["accuracy"]
    both = [m.means(0)["accuracy"]["skip"] for m in (one, other)]
    assert found["difference"] == pytest.approx(both[0] - both[1])
    assert found["ci"][0] > 0


@pytest.mark.parametrize("topn", [None, 1, 2, 3])
@pytest.mark.parametrize("ragged", [False, True])
def test_accuracy_in_batches_is_scikit_learns(topn, ragged):
    labels, shares = examples()
    some = labels >= 0
    weights = np.random.default_rng(5).random(400).astype(np.float32)
    metric = metrics.get("accuracy", topn=topn)
    for part in np.array_split(np.arange(400), 3):
        arrays = [array[part] for array in (labels, np.log(shares), weights)]
        arrays = [tf.constant(array, tf.float32)[:, tf.newaxis] for array in arrays]
        if ragged:
            arrays = [tf.RaggedTensor.from_tensor(array) for array in arrays]
        metric.update_state(*arrays)
    wanted = theirs.top_k_accuracy_score(
        labels[some],
        shares[some],
        k=topn or 1,
        labels=range(5),
        sample_weight=weights[some],
    )
    assert float(metric.result()) == pytest.approx(wanted, rel=1e-5)


def test_scores_that_are_nan_are_never_right():
    metric = metrics.get("accuracy")
    metric.update_state([[0.0], [1.0]], [[[float("nan"), 0.0]], [[0.0, 1.0]]])
    assert float(metric.result()) == 0.5


def test_one_score_is_right_where_it_is_on_the_side_of_its_class():
    metric = metrics.get("accuracy")
    metric.update_state([[0.0], [1.0], [1.0]], [[[-0.1]], [[0.1]], [[-3.0]]])
    assert float(metric.result()) == pytest.approx(2 / 3)


def test_a_metric_is_made_of_its_config():
    metric = metrics.get("accuracy", name="metric/accuracy_2", topn=2)
    again = type(metric).from_config(metric.get_config())
    assert again.get_config() == metric.get_config()


@pytest.mark.parametrize("topn", [0, 1.5])
def test_a_number_of_classes_that_cannot_be_is_refused(topn):
    with pytest.raises(ConfigError, match="topn"):
        metrics.get("accuracy", topn=topn)
