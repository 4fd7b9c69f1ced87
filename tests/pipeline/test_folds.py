"""Cross-validation by `data.folds`: what trains, what validates, and who refuses."""

from __future__ import annotations

import dataclasses
import itertools
import sys
import types

import numpy as np
import pytest

from tests.data.batch_helpers import assert_same, elements
from tests.pipeline.training_helpers import make_config, make_data, read_json
from tests.ranking_data import (
    CONTEXT_SPEC,
    EXAMPLE_SPEC,
    LABEL_SPEC,
    MASK,
    WEIGHT_SPEC,
    random_lists,
    write_elwc,
)
from tfr_pipeline.compat import tf, tfr
from tfr_pipeline.data.batching import windowed
from tfr_pipeline.data.folds import fold_of_lists
from tfr_pipeline.data.reading.disk_lists import DiskLists
from tfr_pipeline.errors import ConfigError, DataError
from tfr_pipeline.experiment.build import build_pipeline
from tfr_pipeline.metrics.evaluation import QueryMetrics
from tfr_pipeline.pipeline.datasets import split_lists
from tfr_pipeline.pipeline.datasets.adapter import known_lengths, some_lists
from tfr_pipeline.pipeline.datasets.hparams import DatasetHparams
from tfr_pipeline.pipeline.datasets.simple import SimpleDatasetBuilder
from tfr_pipeline.pipeline.run.measuring import measure
from tfr_pipeline.pipeline.run.shared_evaluation import SharedEvaluation

FOLDS = 3
LENGTHS = np.random.default_rng(0).integers(1, 9, 120).tolist()
# Two lists a query, far from each other.
IDS = np.array([f"q{number % 60}" for number in range(len(LENGTHS))], object)
CONTEXT = {**CONTEXT_SPEC, "qid": tf.io.FixedLenFeature((), tf.string, "")}


def with_ids(lists, ids):
    for ranked, query in zip(lists, ids, strict=True):
        ranked.context["qid"] = np.array([query])
    return lists


LISTS = with_ids(random_lists(0, LENGTHS), IDS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """All lists in one file, in seven, and those of each fold and of the others."""
    folder = tmp_path_factory.mktemp("folds")
    write_elwc(folder / "all", LISTS)
    for number, part in enumerate(np.array_split(np.arange(len(LISTS)), 7)):
        write_elwc(folder / f"part-{number}", [LISTS[i] for i in part])
    fold_of = fold_of_lists(IDS, FOLDS)
    for fold in range(FOLDS):
        for name, kept in (("train", fold_of != fold), ("valid", fold_of == fold)):
            chosen = [LISTS[i] for i in np.flatnonzero(kept)]
            write_elwc(folder / f"{name}{fold}", chosen)
    return folder


def builder(train, valid="", kind=SimpleDatasetBuilder, context=CONTEXT, **hparams):
    hparams = DatasetHparams(str(train), str(valid), 8, 8, **hparams)
    return kind(
        {name: spec for name, spec in context.items() if name != "qid"},
        EXAMPLE_SPEC,
        MASK,
        LABEL_SPEC,
        hparams,
        WEIGHT_SPEC,
        query_id="qid" if "qid" in context else None,
    )


@pytest.mark.parametrize(
    ("cache", "window"),
    [
        pytest.param("memory", 9_000, marks=pytest.mark.slow),
        ("folder", 9_000),
        pytest.param("memory", 1 << 27, marks=pytest.mark.slow),
    ],
    ids=["large in memory", "large on disk", "small"],
)
@pytest.mark.parametrize(
    ("settings", "request_"),
    [
        ({}, {"layout": "packed"}),
        ({"convert_labels_to_binary": True}, {"layout": "padded"}),
        (
            {"list_size": 3, "truncation": "sample", "documents_per_batch": 30},
            {"layout": "packed", "replicas": 4, "shard": (1, 2), "sized": True},
        ),
        (
            {"convert_labels_to_binary": True, "list_size": 4, "truncation": "bm25"},
            {"layout": "packed", "start_step": 9, "prepare": "doubled"},
        ),
    ],
    ids=["packed", "padded", "replicas", "prepared"],
)
def test_batches_are_those_of_files_with_nothing_but_the_fold(
    folder, tmp_path, monkeypatch, cache, window, settings, request_
):
    monkeypatch.setattr(windowed, "WINDOW", window)
    monkeypatch.setattr(windowed, "BLOCK", 400)
    request_ = dict(request_)
    if "prepare" in request_:
        request_["prepare"] = lambda values: {k: 2 * v for k, v in values.items()}
    settings = {**settings, "cache": str(tmp_path) if cache == "folder" else cache}
    made = builder(folder / "all", folds=FOLDS, fold=1, **settings)
    alone = builder(folder / "train1", folder / "valid1", **settings)
    for split in ("train", "valid"):
        found = elements(made, split, 25, **request_)
        assert_same(found, elements(alone, split, 25, **request_))
    lists = made.kept.get(str(folder / "all"), made._reading())
    assert isinstance(lists, DiskLists) == (cache == "folder")


@pytest.mark.slow
@pytest.mark.parametrize("files", ["part-*", "part-[3-6],part-[0-2]"])
def test_folds_do_not_depend_on_files_or_their_order(folder, files):
    pattern = ",".join(str(folder / part) for part in files.split(","))
    for fold in range(FOLDS):
        found = builder(pattern, folds=FOLDS, fold=fold)
        whole = builder(folder / "all", folds=FOLDS, fold=fold)
        for split in ("train", "valid"):
            ids = [sorted(made.lists(split).query_ids) for made in (found, whole)]
            assert ids[0] == ids[1]


def test_all_folds_are_made_of_lists_that_are_read_once(folder, parses):
    first = builder(folder / "all", folds=FOLDS, fold=0)
    held_out = []
    for fold in range(FOLDS):
        made = builder(folder / "all", folds=FOLDS, fold=fold)
        made.kept = first.kept
        train, valid = (made.lists(name, "packed") for name in ("train", "valid"))
        assert not set(train.query_ids) & set(valid.query_ids)
        assert train.num_lists + valid.num_lists == len(LISTS)
        held_out += valid.query_ids.tolist()
    assert sorted(held_out) == sorted(IDS)
    assert len(parses) == 1


def test_lists_without_ids_are_dealt_out_by_their_numbers(folder):
    held_out = []
    for fold in range(FOLDS):
        made = builder(folder / "all", context=CONTEXT_SPEC, folds=FOLDS, fold=fold)
        held_out += made.lists("valid").query_ids.tolist()
    assert sorted(held_out, key=int) == [str(n) for n in range(len(LISTS))]


@pytest.mark.parametrize("window", [9_000, 1 << 27], ids=["large", "small"])
def test_some_lists_of_a_fold_are_numbered_within_it(folder, monkeypatch, window):
    monkeypatch.setattr(windowed, "WINDOW", window)
    made = builder(folder / "all", folds=FOLDS, fold=1)
    alone = builder(folder / "train1", folder / "valid1")
    for split, numbers in itertools.product(
        ("train", "valid"), (np.arange(5), np.array([7, 2, 3]))
    ):
        found = some_lists(made, split, numbers, "packed")
        wanted = some_lists(alone, split, numbers, "packed")
        assert found.query_ids.tolist() == wanted.query_ids.tolist()
        np.testing.assert_array_equal(found.labels, wanted.labels)
        np.testing.assert_array_equal(found.row_splits, wanted.row_splits)
        np.testing.assert_array_equal(
            known_lengths(made, split), alone.lists(split).lengths
        )


@pytest.mark.parametrize("window", [9_000, 1 << 27], ids=["large", "small"])
@pytest.mark.parametrize("workers", [1, 3])
def test_steps_learn_of_the_lists_outside_the_fold(
    folder, monkeypatch, window, workers
):
    monkeypatch.setattr(windowed, "WINDOW", window)
    monkeypatch.setattr(split_lists, "_PIECE", 40)
    made = builder(folder / "all", folds=FOLDS, fold=1)
    alone = builder(folder / "train1", folder / "valid1")
    shares = [list(made.pieces(workers, (i, workers))) for i in range(workers)]
    pieces = [piece for share in shares for piece in share]
    assert len(pieces) > workers and all(shares)
    wanted = alone.lists("train")
    found = np.concatenate([piece.query_ids for piece in pieces])
    assert found.tolist() == wanted.query_ids.tolist()
    values = np.concatenate([piece.values["float32"] for piece in pieces])
    np.testing.assert_array_equal(values, wanted.values["float32"])


class Scores:
    """A predictor that scores documents by a feature, some lists at a time."""

    tasks, several, classes = ("",), False, ()

    def score(self, lists, task=""):
        return lists.values["float32"][:, 0]

    def portions(self, lengths):
        ends = [*range(0, len(lengths), 4), len(lengths)]
        return list(itertools.pairwise(ends))


def test_a_fold_is_evaluated_in_pieces_as_it_would_be_as_a_whole(folder, monkeypatch):
    from tfr_pipeline.pipeline.run import shared_evaluation

    monkeypatch.setattr(shared_evaluation, "_PIECE", 20)
    pieces = []
    of_part = QueryMetrics.of_part
    monkeypatch.setattr(
        QueryMetrics, "of_part", lambda *args: pieces.append(args) or of_part(*args)
    )
    made = builder(folder / "all", folds=FOLDS, fold=1)
    made.lists("valid")  # so that lengths are known
    found = SharedEvaluation(None, made).alone(Scores(), "valid")
    assert len(pieces) > 3
    alone = builder("", folder / "valid1")
    wanted = measure(Scores(), alone.lists("valid", "packed"))
    assert found.query_ids.tolist() == wanted.query_ids.tolist()
    assert found.means() == wanted.means()


def test_more_folds_than_queries_are_an_error(folder):
    made = builder(folder / "all", folds=61, fold=0)
    with pytest.raises(DataError, match="found 61 folds and 60 queries"):
        made.plan("train", "packed")


@pytest.mark.parametrize("sharding", ["lists", "files"])
def test_shares_of_workers_are_refused_with_folds(folder, sharding):
    made = builder(folder / "part-*", folds=FOLDS, fold=0, sharding=sharding)
    with pytest.raises(ConfigError, match=f"data.sharding: '{sharding}'.*'auto'"):
        made.plan("train", "packed", replicas=2)


# Pipelines


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("data"))


def config_of(data, run, **of_data):
    config = make_config(data, run, num_epochs=1)
    config["data"].update(of_data)
    return config


def test_a_run_validates_on_its_fold_and_says_so(data, tmp_path, capsys):
    config = config_of(data, tmp_path / "run", folds=4, fold=1)
    with pytest.warns(UserWarning, match="valid_input_pattern=.*no effect with data.f"):
        build_pipeline(config).train_and_validate()
    metrics = read_json(tmp_path / "run" / "metrics.json")
    assert (metrics["valid"]["queries"], metrics["test"]["queries"]) == (10, 10)
    told = read_json(tmp_path / "run" / "config.json")["data"]
    assert (told["folds"], told["fold"]) == (4, 1)
    # Another fold would be another run.
    for other in ({"folds": 4, "fold": 2}, {}):
        with pytest.raises(ConfigError, match=r"data\.fold"):
            build_pipeline(
                config_of(data, tmp_path / "run", **other)
            ).train_and_validate()


def test_validation_files_that_are_in_the_folds_are_not_called_useless(
    data, tmp_path, recwarn
):
    both = f"{data}/train-*,{data}/valid-*"
    pipeline = build_pipeline(config_of(data, tmp_path, folds=5, fold=0, train=both))
    assert pipeline._feed.check("packed") == 10  # batches of 4 of 40 lists
    pipeline._layout()
    assert not [w for w in recwarn if "no effect" in str(w.message)]


def test_no_validation_files_are_needed(data, tmp_path, recwarn):
    run = tmp_path / "run"
    config = config_of(None, run, folds=4, fold=1, train=f"{data}/train-*")
    config["data"].update(dir=None, features=str(data))
    pipeline = build_pipeline(config)
    assert pipeline._feed.check("packed") == 8  # batches of 4 of 30 lists
    assert not [w for w in recwarn if "no effect" in str(w.message)]


class Own(SimpleDatasetBuilder):
    """Makes datasets in a way of its own."""

    def build_train_dataset(self):
        return self._streamed("train")


class OwnLists(SimpleDatasetBuilder):
    """Has lists of its own."""

    def lists(self, split, layout="padded"):
        return super().lists(split, layout)


def forgetful(features, hparams):
    """Tells its builder nothing of folds."""
    train, valid = hparams.train_input_pattern, hparams.valid_input_pattern
    hparams = DatasetHparams(train, valid, 4, 4)
    return SimpleDatasetBuilder.from_features(features, hparams)


def theirs(features, hparams):
    """A builder of TF-Ranking's."""
    return tfr.keras.pipeline.SimpleDatasetBuilder(
        features.context_spec,
        features.example_spec,
        MASK,
        features.label_spec,
        hparams,
    )


@pytest.mark.parametrize("kind", [Own, OwnLists, forgetful, theirs])
def test_builders_that_know_nothing_of_folds_are_refused(
    data, tmp_path, monkeypatch, kind
):
    module = types.ModuleType("builders_of_the_user")
    module.make = kind
    monkeypatch.setitem(sys.modules, module.__name__, module)
    config = config_of(data, tmp_path, builder=f"{module.__name__}:make")
    build_pipeline(config)
    config["data"].update(folds=3, fold=0)
    with pytest.raises(ConfigError, match=r"data\.folds: .* it would train on all"):
        build_pipeline(config)


def test_features_that_are_not_kept_have_no_folds(folder):
    context = {**CONTEXT, "x": tf.io.SparseFeature("i", "v", tf.float32, 3)}
    made = builder(folder / "all", context=context, folds=3, fold=0)
    from tfr_pipeline.pipeline.datasets.adapter import check_folds

    with pytest.raises(ConfigError, match="features that are not kept"):
        check_folds(made, made.hparams)


def test_builders_that_forget_the_fold_for_the_test_are_refused(
    data, tmp_path, monkeypatch
):
    def without_test(features, hparams):
        hparams = dataclasses.replace(hparams, test_fold=None)
        return SimpleDatasetBuilder.from_features(features, hparams)

    module = types.ModuleType("builders_without_test")
    module.make = without_test
    monkeypatch.setitem(sys.modules, module.__name__, module)
    config = config_of(data, tmp_path, builder=f"{module.__name__}:make")
    config["data"].update(folds=3, fold=0)
    build_pipeline(config)
    config["data"].update(test_fold=1)
    with pytest.raises(ConfigError, match=r"data\.folds: "):
        build_pipeline(config)


def test_test_files_beside_a_fold_for_the_test_are_said_to_do_nothing(data, tmp_path):
    config = config_of(data, tmp_path, folds=3, fold=0, test_fold=1)
    with pytest.warns(UserWarning, match=r"test_input_pattern=.*with data.test_fold"):
        build_pipeline(config)._layout()
