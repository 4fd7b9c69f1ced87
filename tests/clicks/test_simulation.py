"""Sessions: what they show, and the files that they become."""

from __future__ import annotations

import numpy as np
import pytest

from tfr_pipeline.cli.main import main
from tfr_pipeline.clicks import models
from tfr_pipeline.clicks.rankers import Ranker, rankers
from tfr_pipeline.clicks.simulation import Sessions, simulate
from tfr_pipeline.data.lists import Lists
from tfr_pipeline.data.sources.options import Options
from tfr_pipeline.data.sources.source import read_lists
from tfr_pipeline.errors import ConfigError, DataError
from tfr_pipeline.files import read_json


def of_files(folder, split="train"):
    options = Options(features=str(folder / "features.json"))
    parts = read_lists(str(folder / f"{split}-*"), "elwc", options=options)
    return Lists.concatenate(parts)


def test_sessions_show_the_best_documents_of_the_ranker_first(graded_lists):
    ranker = rankers("feature:-3", graded_lists, 0.01, 1)
    for name, rows, _ in simulate(graded_lists, ranker, Sessions(50, depth=5)):
        query = name.rpartition("/")[0]
        number = graded_lists.query_ids.tolist().index(query)
        first, stop = graded_lists.row_splits[number : number + 2]
        values = graded_lists.values["float32"][first:stop, 2]
        expected = np.sort(values)[:5]
        np.testing.assert_array_equal(graded_lists.values["float32"][rows, 2], expected)


def test_rankers_share_the_sessions_of_each_query(graded_lists):
    shown_by = rankers("feature:1,random", graded_lists, 0.01, 1)
    best = {
        str(query): first + np.argmax(graded_lists.values["float32"][first:stop, 0])
        for query, first, stop in zip(
            graded_lists.query_ids,
            graded_lists.row_splits[:-1],
            graded_lists.row_splits[1:],
            strict=True,
        )
    }
    sessions = list(simulate(graded_lists, shown_by, Sessions(2000)))
    share = np.mean([rows[0] == best[n.rpartition("/")[0]] for n, rows, _ in sessions])
    assert 0.5 < share < 0.66  # half of the sessions, and some by chance


def test_a_weak_ranker_is_better_than_chance_and_differs_from_another(graded_lists):
    one, other = rankers("weak:1,weak:2", graded_lists, 0.1, 1)
    grades = graded_lists.labels
    assert np.corrcoef(one.scores, grades)[0, 1] > 0.15
    assert np.corrcoef(one.scores, other.scores)[0, 1] < 0.99


def test_the_command_writes_sessions_that_train_reads(graded, tmp_path, capsys):
    words = ["--sessions=30", "--ranker=weak", "--depth=4", "--num_shards=2"]
    for split in ("train", "valid"):
        flags = [f"--input={graded}", f"--output={tmp_path}", f"--split={split}"]
        assert main(["clicks", "simulate", *flags, *words]) == 0
    assert "30 sessions" in capsys.readouterr().out
    lists = of_files(tmp_path)
    assert lists.num_lists == 30
    assert len(list(tmp_path.glob("train-*"))) == 2
    positions = lists.values["int64"][:, 0]
    expected = np.concatenate([np.arange(1, n + 1) for n in lists.lengths])
    np.testing.assert_array_equal(positions, expected)
    assert set(lists.labels) <= {0.0, 1.0}
    assert lists.values["float32"].shape[1] == 8
    true = read_json(str(tmp_path / "propensities.json"))["propensities"]
    np.testing.assert_allclose(true, [1, 1 / 2, 1 / 3, 1 / 4], atol=1e-6)
    # Fewer positions of the same model take none away; another model is refused.
    flags = [f"--input={graded}", f"--output={tmp_path}", "--split=test"]
    assert main(["clicks", "simulate", *flags, "--depth=2", "--sessions=9"]) == 0
    assert read_json(str(tmp_path / "propensities.json"))["propensities"] == true
    for more in ("--eta=2", "--model=dcm"):
        capsys.readouterr()
        assert main(["clicks", "simulate", *flags, more]) == 2
        assert "one model of clicks" in capsys.readouterr().err


def test_the_same_seed_gives_the_same_sessions(graded_lists):
    def found(seed):
        shown_by = rankers("weak,random", graded_lists, 0.1, seed)
        sessions = simulate(graded_lists, shown_by, Sessions(20, seed=seed))
        return [(name, rows.tolist(), c.tolist()) for name, rows, c in sessions]

    assert found(3) == found(3)
    assert found(3) != found(4)


def test_what_a_model_predicted_is_a_ranker(graded_lists, tmp_path):
    path = tmp_path / "predicted.tsv"
    queries = graded_lists.query_ids[graded_lists.row_ids]
    lines = [
        f"{query}\t{document}\t1\t{row}\n"
        for row, (query, document) in enumerate(
            zip(queries, graded_lists.document_ids, strict=True)
        )
    ]
    path.write_text("qid\tdocid\trank\tscore\n" + "".join(lines))
    (ranker,) = rankers(str(path), graded_lists, 0.01, 1)
    np.testing.assert_array_equal(ranker.scores, np.arange(len(lines)))
    path.write_text("".join(lines[:-1]))
    with pytest.raises(DataError, match="expected a score for query"):
        rankers(str(path), graded_lists, 0.01, 1)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("weak,weak", "different rankers"),
        ("feature:9", "feature:1 to feature:8"),
        ("feature:0", "feature:1 to feature:8"),
        ("random:2", "expected weak"),
        ("weak:x", "expected weak"),
        ("", "different rankers"),
    ],
)
def test_rankers_that_there_are_not_are_refused(words, message, graded_lists):
    with pytest.raises(ConfigError, match=message):
        rankers(words, graded_lists, 0.01, 1)


def test_a_file_that_is_not_there_is_refused(graded_lists):
    with pytest.raises(DataError, match="expected weak"):
        rankers("nowhere.tsv", graded_lists, 0.01, 1)


def test_weighted_clicks_have_the_mean_of_attraction(graded_lists):
    """One over the propensity makes clicks unbiased (Joachims et al., 2017)."""
    ranker = [Ranker("first", -np.arange(graded_lists.num_documents, dtype=float))]
    sessions = Sessions(40_000, models.PositionBased(1.0), depth=5, largest=4.0)
    total = np.zeros(graded_lists.num_documents)
    shown = np.zeros(graded_lists.num_documents)
    for _, rows, clicks in simulate(graded_lists, ranker, sessions):
        total[rows] += clicks * np.arange(1, len(rows) + 1)
        shown[rows] += 1
    seen = shown > 0
    expected = models.attraction(graded_lists.labels, 0.1, 4.0)
    # The variance of a weighted click is at most its weight times its mean.
    error = np.sqrt(5 * expected[seen] / shown[seen])
    deviation = (total[seen] / shown[seen] - expected[seen]) / error
    assert np.abs(deviation).max() < 4
    assert abs(deviation.mean()) < 4 / np.sqrt(seen.sum())
