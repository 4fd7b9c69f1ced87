"""The synthetic data set: repeatable, LETOR-like, with the structure it promises."""

from __future__ import annotations

import argparse
import math
import pathlib

import numpy as np
import pytest

from tests.bench.speed_data import make_lists
from tfr_pipeline.cli import synthesize as command
from tfr_pipeline.data.lists import Lists
from tfr_pipeline.data.sources.source import read_lists
from tfr_pipeline.data.synthesize import Size, synthesize, true_utility
from tfr_pipeline.errors import ConfigError


def read(path: pathlib.Path) -> Lists:
    return Lists.concatenate(read_lists(str(path), "libsvm"))


def ndcg_at_10(lists: Lists, scores: np.ndarray) -> float:
    """Oracle: mean over queries with a relevant document, by a plain loop."""
    assert lists.labels is not None
    discounts = 1 / np.log2(np.arange(2, 12))
    result = []
    for first, last in zip(lists.row_splits[:-1], lists.row_splits[1:], strict=True):
        gains = 2 ** lists.labels[first:last] - 1
        best = np.sort(gains)[::-1][:10]
        if best[0] > 0:
            got = gains[np.argsort(-scores[first:last], kind="stable")][:10]
            result.append(
                (got @ discounts[: len(got)]) / (best @ discounts[: len(best)])
            )
    return float(np.mean(result))


def test_the_seed_decides_every_byte(tmp_path: pathlib.Path) -> None:
    for folder, seed in (("a", 1), ("b", 1), ("c", 2)):
        synthesize(str(tmp_path / folder), Size(8, 5, 10), seed)
    for name in ("train.txt", "valid.txt", "test.txt"):
        text = (tmp_path / "a" / name).read_text()
        assert text == (tmp_path / "b" / name).read_text()
        assert text != (tmp_path / "c" / name).read_text()


def test_the_command_writes_three_disjoint_splits(tmp_path: pathlib.Path) -> None:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    flags = [f"--output={tmp_path}", "--queries=100", "--documents=8", "--features=9"]
    assert command.run(parser.parse_args(flags)) == 0
    splits = [read(tmp_path / f"{split}.txt") for split in ("train", "valid", "test")]
    assert [lists.num_lists for lists in splits] == [100, 25, 25]
    names = [name for lists in splits for name in lists.query_ids]
    assert len(set(names)) == 150
    train = splits[0]
    assert train.labels is not None
    assert train.values["float32"].shape[1] == 9
    assert set(train.labels) == {0, 1, 2, 3, 4}
    assert (train.lengths == 1).any()
    assert (np.maximum.reduceat(train.labels, train.row_splits[:-1]) == 0).any()
    assert train.document_ids[0] == "S00001-0000"


def test_a_model_beats_the_best_feature_which_beats_chance(
    tmp_path: pathlib.Path,
) -> None:
    ensemble = pytest.importorskip("sklearn.ensemble", reason="needs scikit-learn")
    synthesize(str(tmp_path), Size(queries=300, documents=40, features=15))
    train, test = read(tmp_path / "train.txt"), read(tmp_path / "test.txt")
    matrix = test.values["float32"]
    assert train.labels is not None
    chance = ndcg_at_10(test, np.random.default_rng(0).normal(size=len(matrix)))
    single = max(ndcg_at_10(test, column) for column in matrix.T)
    model = ensemble.HistGradientBoostingRegressor(max_iter=100, random_state=0)
    model.fit(train.values["float32"], 2**train.labels - 1)
    learned = ndcg_at_10(test, model.predict(matrix))
    assert chance + 0.2 < single
    assert single + 0.1 < learned < 0.95


def test_what_is_relevant_drifts_and_documents_do_not(tmp_path: pathlib.Path) -> None:
    for name, drift in (("one", 0.0), ("other", 0.5)):
        size = Size(queries=300, documents=20, features=8, drift=drift)
        synthesize(str(tmp_path / name), size, 3)
    one, other = (read(tmp_path / name / "train.txt") for name in ("one", "other"))
    np.testing.assert_array_equal(one.values["float32"], other.values["float32"])
    title, body = one.values["float32"].T[:2]
    for column, direction in ((title, -1), (body, 1)):
        change = ndcg_at_10(other, column) - ndcg_at_10(one, column)
        assert direction * change > 0.05


def test_the_true_utility_is_that_of_the_files_and_beats_their_noise(
    tmp_path: pathlib.Path,
) -> None:
    size = Size(queries=80, documents=20, features=8, drift=0.3)
    synthesize(str(tmp_path), size, 5)
    utility = true_utility(size, 5)
    for split, values in utility.items():
        lists = read(tmp_path / f"{split}.txt")
        assert lists.labels is not None and len(values) == len(lists.labels)
    train = read(tmp_path / "train.txt")
    values = utility["train"]
    assert train.labels is not None
    # A grade is where utility + N(0, 1) falls among the thresholds, but for the queries
    # that lose theirs.
    queries = np.repeat(np.array(train.query_ids).astype(int), train.lengths)
    kept = queries % 30 != 11
    for grade, least in enumerate((0.025, 0.894, 1.877, 3.313), start=1):
        over = train.labels[kept] >= grade
        chance = np.vectorize(math.erfc)((least - values[kept]) / 2**0.5) / 2
        assert abs(over.mean() - chance.mean()) < 0.03
        assert np.corrcoef(over, chance)[0, 1] > 0.4
    noisy = values + np.random.default_rng(0).normal(scale=0.5, size=len(values))
    assert ndcg_at_10(train, values) > ndcg_at_10(train, noisy) + 0.01


def test_the_lists_of_the_benchmark_have_a_true_utility() -> None:
    lists, utility = make_lists(30, seed=1)
    shuffled = np.random.default_rng(0).permutation(utility)
    assert ndcg_at_10(lists, utility) > ndcg_at_10(lists, shuffled) + 0.3


def test_sizes_too_small_are_errors(tmp_path: pathlib.Path) -> None:
    with pytest.raises(ConfigError, match="at least 4 queries"):
        synthesize(str(tmp_path), Size(queries=1))


@pytest.mark.parametrize(
    ("size", "seed", "words"),
    [
        (Size(queries=10**20), 1, "expected at most"),
        (Size(documents=10**20), 1, "expected at most"),
        (Size(features=10**20), 1, "expected at most"),
        (Size(), -1, "--seed: expected a number of at least 0, found -1"),
        (Size(drift=1.5), 1, "--drift: expected a number from 0 to 1, found 1.5"),
        (Size(drift=float("nan")), 1, "--drift: expected a number from 0 to 1"),
    ],
)
def test_what_no_machine_can_make_is_refused_at_once(tmp_path, size, seed, words):
    with pytest.raises(ConfigError, match=words):
        synthesize(str(tmp_path / "out"), size, seed)
    assert not (tmp_path / "out").exists()
