"""Folds of a cross-validation: complete, disjoint by query, and LETOR's order."""

from __future__ import annotations

import itertools
import shutil

import pytest

from tests.pipeline.training_helpers import make_config, make_data
from tfr_pipeline.choosing import queries
from tfr_pipeline.choosing.plan import Plan
from tfr_pipeline.choosing.rotations import rotated, rotations_of
from tfr_pipeline.data.convert.conversion import convert
from tfr_pipeline.data.sources.options import Options
from tfr_pipeline.errors import ConfigError, DataError
from tfr_pipeline.experiment.build import build_pipeline
from tfr_pipeline.features import Features
from tfr_pipeline.pipeline.datasets.hparams import DatasetHparams
from tfr_pipeline.pipeline.datasets.kept_lists import KeptLists
from tfr_pipeline.pipeline.datasets.multi_label import builder_from_features

SPLITS = ("train", "valid", "test")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def text(data):
    """Lines of the training text by query."""
    lines = (data.parent / "text" / "train.txt").read_text().splitlines()
    return {
        query: "\n".join(group) + "\n"
        for query, group in itertools.groupby(lines, lambda line: line.split()[1])
    }


def write(folder, text, chosen, split="train"):
    """Converts some queries, by number, into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    source = folder.parent / f"{folder.name}-{split}.txt"
    source.write_text("".join(list(text.values())[i] for i in chosen))
    options = Options(num_features=8)
    convert(str(source), str(folder), split=split, options=options)


@pytest.fixture
def parts(tmp_path, text):
    """Four parts of ten queries, a folder each."""
    for part in range(4):
        write(tmp_path / "parts" / f"S{part + 1}", text, range(part, 40, 4))
    return tmp_path / "parts"


def ids_of(plan):
    """Returns the query ids of each split of each run, as its pipeline reads them."""
    found = []
    for run in plan.runs:
        builder = build_pipeline(run.config)._dataset_builder
        found.append([builder.lists(s, "packed").query_ids.tolist() for s in SPLITS])
    return found


def check_folds(found, count):
    """Checks that nothing leaks, and that each query is measured once."""
    for train, valid, test in found:
        assert train and valid and test
        assert not {*train} & {*valid}
        assert not {*train} & {*test}
        assert not {*valid} & {*test}
        assert len(train) + len(valid) + len(test) == count
    for number in (1, 2):
        measured = [query for splits in found for query in splits[number]]
        assert len(measured) == len(set(measured)) == count


def test_the_rotation_is_that_of_letor():
    # https://arxiv.org/abs/1306.2597, table 2
    assert [rotated(5, fold) for fold in range(5)] == [
        ([0, 1, 2], 3, 4),
        ([1, 2, 3], 4, 0),
        ([2, 3, 4], 0, 1),
        ([3, 4, 0], 1, 2),
        ([4, 0, 1], 2, 3),
    ]


@pytest.mark.parametrize("folds", [3, 4])
def test_folds_by_query_never_leak_and_cover_each_query_once(data, tmp_path, folds):
    config = make_config(data, tmp_path / "cv")
    plan = Plan(config, rotations_of(config, folds), 1)
    check_folds(ids_of(plan), 40)
    sizes = queries.check(plan.rotations, KeptLists())
    assert sum(sizes) == 40 and max(sizes) - min(sizes) <= 1


def test_seeds_of_a_fold_have_its_queries_and_seeds_in_a_row(data, tmp_path):
    config = make_config(data, tmp_path / "cv")
    plan = Plan(config, rotations_of(config, 3), 2)
    names = [f"fold-{fold}-seed-{seed}" for fold in (1, 2, 3) for seed in (7, 8)]
    assert [run.name for run in plan.runs] == names
    assert [run.config["seed"] for run in plan.runs] == [7, 8] * 3
    assert plan.runs[0].config["data"] == plan.runs[1].config["data"]


def test_the_check_reads_what_the_first_run_reads(data, tmp_path, parses):
    config = make_config(data, tmp_path / "cv")
    plan, kept = Plan(config, rotations_of(config, 3), 1), KeptLists()
    queries.check(plan.rotations, kept)
    builder = build_pipeline(plan.runs[0].config, kept=kept)._dataset_builder
    for split in SPLITS:
        builder.lists(split, "packed")
    assert len(parses) == 1


@pytest.mark.parametrize("kind", ["glob", "names", "files"])
def test_parts_rotate_and_never_leak(parts, tmp_path, parses, kind):
    config = make_config(None, tmp_path / "cv")
    config["data"].pop("dir")
    told = {
        "glob": f"{parts}/S?",
        "names": ",".join(f"{parts}/S{i}" for i in (1, 2, 3, 4)),
        "files": ",".join(f"{parts}/S{i}/train-*" for i in (1, 2, 3, 4)),
    }[kind]
    if kind == "files":
        with pytest.raises(ConfigError, match=r"data.features: .* is required"):
            rotations_of(config, None, told)
        config["data"]["features"] = str(parts / "S1")
    rotations = rotations_of(config, None, told)
    assert queries.check(rotations, KeptLists()) == [10] * 4
    assert not parses  # ids alone are read
    # Fold 1 trains on the first two parts, as in LETOR; the last is measured.
    data = rotations.data[0]
    assert [
        pattern.count("train-*" if kind == "files" else "/*-of-*")
        for pattern in (data["train"], data["valid"], data["test"])
    ] == [2, 1, 1]
    assert "/S1/" in data["train"] and "/S3/" in data["valid"]
    if kind == "glob":
        check_folds(ids_of(Plan(config, rotations, 1)), 40)


def test_parts_with_a_query_in_common_are_refused(parts, tmp_path, text):
    write(parts / "S5", text, [0, 1])
    config = make_config(None, tmp_path / "cv")
    config["data"].pop("dir")
    rotations = rotations_of(config, None, f"{parts}/S?")
    with pytest.raises(DataError, match=r"query '.*' is in .*S\d.* and in .*S5.*\(2 "):
        queries.check(rotations, KeptLists())


def test_parts_with_other_features_are_refused(parts, tmp_path):
    source = tmp_path / "wide.txt"
    source.write_text("1 qid:900 9:1.0\n0 qid:900 1:1.0\n")
    convert(str(source), str(parts / "S5"), input_format="libsvm", split="train")
    config = make_config(None, tmp_path / "cv")
    config["data"].pop("dir")
    with pytest.raises(DataError, match=r"S5.*expected the features of .*S1"):
        rotations_of(config, None, f"{parts}/S?")


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ("S1,S2", "--parts: expected 3 or more, found 2"),
        ("S1,S2,S2", "named more than once"),
        ("S1,S2,S9", "S9"),
    ],
)
def test_wrong_parts_are_refused(parts, tmp_path, told, words):
    config = make_config(None, tmp_path / "cv")
    config["data"].pop("dir")
    told = ",".join(f"{parts}/{name}" for name in told.split(","))
    with pytest.raises((ConfigError, DataError), match=words):
        rotations_of(config, None, told)


@pytest.fixture
def letor(tmp_path, text):
    """The folders of LETOR's three files each, of three parts."""
    parts = [range(part, 39, 3) for part in range(3)]
    for fold in range(3):
        folder = tmp_path / "letor" / f"Fold{fold + 1}"
        for split, part in zip(SPLITS, (fold, fold + 1, fold + 2), strict=True):
            write(folder, text, parts[part % 3], split)
    return tmp_path / "letor"


def test_folders_of_letor_are_the_folds(letor, tmp_path):
    config = make_config(letor, tmp_path / "cv")
    plan = Plan(config, rotations_of(config), 1)
    check_folds(ids_of(plan), 39)
    assert queries.check(plan.rotations, KeptLists()) == [13] * 3
    with pytest.raises(ConfigError, match="--folds: expected 3 or none, found 5"):
        rotations_of(config, 5)


@pytest.mark.parametrize(
    ("gone", "words"),
    [(1, "found Fold2, Fold3"), (2, "Fold2 for 2 folds, found Fold1")],
)
def test_a_folder_that_is_missing_is_an_error(letor, tmp_path, gone, words):
    shutil.rmtree(letor / f"Fold{gone}")
    with pytest.raises(DataError, match=words):
        rotations_of(make_config(letor, tmp_path / "cv"))
    (letor / "Fold3").rename(letor / f"Fold{gone}")
    with pytest.raises(ConfigError, match="expected 3 or more, found 2"):
        rotations_of(make_config(letor, tmp_path / "cv"))


def test_folders_that_measure_what_they_train_on_are_refused(letor, tmp_path, text):
    config = make_config(letor, tmp_path / "cv")
    shutil.rmtree(letor / "Fold2")
    for split in SPLITS:
        write(letor / "Fold2", text, range(5), split)
    with pytest.raises(DataError, match=r"is in .*Fold2/train-\* and in .*Fold2/valid"):
        queries.check(rotations_of(config), KeptLists())


def test_folders_that_were_not_converted_say_what_to_do(tmp_path):
    (tmp_path / "Fold1").mkdir()
    (tmp_path / "Fold1" / "train.txt").write_text("1 qid:1 1:0.5\n")
    config = make_config(tmp_path, tmp_path / "cv")
    with pytest.raises(DataError, match=r"Fold1: .*found no train-\*. Convert the"):
        rotations_of(config)


@pytest.mark.parametrize("folds", [1, 2])
def test_too_few_folds_are_refused(data, tmp_path, folds):
    with pytest.raises(
        ConfigError, match=f"--folds: expected 3 or more, found {folds}"
    ):
        rotations_of(make_config(data, tmp_path), folds)


def test_more_folds_than_queries_are_refused(data, tmp_path):
    rotations = rotations_of(make_config(data, tmp_path), 41)
    with pytest.raises(DataError, match="found 41 folds and 40 queries"):
        queries.check(rotations, KeptLists())


def test_files_that_a_cross_validation_does_not_read_are_named(data, tmp_path):
    config = make_config(data, tmp_path)
    config["data"]["test"] = f"{data}/test-*"
    with pytest.warns(UserWarning, match=r"data\.test has no effect"):
        found = rotations_of(config, 3)
    assert all(held["test"] is None for held in found.data)


def test_clicks_are_refused(data, tmp_path):
    config = make_config(data, tmp_path)
    config["data"]["sessions"] = True
    with pytest.raises(ConfigError, match="expected grades, found clicks"):
        rotations_of(config, 3)


@pytest.mark.parametrize(("each", "warned"), [(3, 1), (1, 0)])
def test_ids_that_look_like_sessions_are_named(text, tmp_path, recwarn, each, warned):
    sessions = [
        group.replace(query, f"{query}/{number}")
        for number in range(each)
        for query, group in text.items()
    ]
    (tmp_path / "train.txt").write_text("".join(sessions))
    convert(str(tmp_path / "train.txt"), str(tmp_path / "data"))
    config = make_config(tmp_path / "data", tmp_path / "run")
    queries.check(rotations_of(config, 3), KeptLists())
    found = [w for w in recwarn if "are sessions of" in str(w.message)]
    assert len(found) == warned


def test_folds_of_the_config_are_refused(data, tmp_path):
    config = make_config(data, tmp_path)
    config["data"].update(folds=5, fold=0)
    with pytest.raises(ConfigError, match=r"data\.folds: expected none, found 5"):
        rotations_of(config)


@pytest.mark.parametrize("damaged", [False, True])
@pytest.mark.parametrize("output_format", ["elwc", "packed"])
def test_ids_that_are_read_alone_are_those_of_the_lists(
    data, tmp_path, output_format, damaged
):
    source = str(data.parent / "text" / "train.txt")
    convert(source, str(tmp_path), split="train", output_format=output_format)
    if damaged:
        (shard,) = tmp_path.glob("train-*")
        shard.write_bytes(shard.read_bytes()[:-9])

    def builder():
        hparams = DatasetHparams(f"{tmp_path}/train-*", "", 1, 1)
        return builder_from_features(Features.load(str(tmp_path)), hparams)

    if damaged:
        with pytest.raises(DataError, match="train-00000"):
            builder().query_ids("train")
    else:
        found = builder().query_ids("train")
        assert found.tolist() == builder().lists("train").query_ids.tolist()


def test_secrets_of_urls_are_not_written_and_may_change(data, tmp_path):
    config = make_config(data, tmp_path / "cv")
    for secret, begun in (("hunter2", False), ("other", True)):
        url = f"https://ann:{secret}@host/model?token={secret}"
        config["pipeline"]["warm_start"] = {"from": url}
        assert Plan(config, rotations_of(config, 3), 1).keep() is begun
        assert secret not in (tmp_path / "cv" / "plan.json").read_text()
    config["pipeline"]["warm_start"] = {"from": "https://host/another"}
    with pytest.raises(ConfigError, match=r"warm_start.*was .*, is .*another"):
        Plan(config, rotations_of(config, 3), 1).keep()


@pytest.mark.parametrize(
    ("pipeline", "named"),
    [
        ({"warm_start": {"from": "old"}}, r"warm_start\.from \(old\): one model"),
        ({"distill": {"teacher": "m.txt"}}, r"distill\.teacher \(m\.txt\): one model"),
        (
            {"distill": {"teacher": "m.txt"}, "warm_start": {"from": "old"}},
            "teacher .* and pipeline.warm_start",
        ),
    ],
)
def test_a_model_that_may_have_seen_all_queries_is_named_once(pipeline, named):
    with pytest.warns(UserWarning, match=named) as caught:
        queries.warn_of_sources({"pipeline": pipeline})
    assert len(caught) == 1


@pytest.mark.parametrize(
    "pipeline",
    [
        {},
        {"distill": {"teacher": "column:scores"}, "warm_start": {"frozen": ("a",)}},
        {"distill": {"teacher": "m.txt", "weight": 0.0}},
    ],
)
def test_nothing_else_is_warned_of(pipeline, recwarn):
    queries.warn_of_sources({"pipeline": pipeline})
    assert not recwarn.list
