"""Students: what they are told by a teacher, and what becomes of it."""

from __future__ import annotations

import csv
import json
import pathlib

import numpy as np
import pytest

from tests.pipeline.training_helpers import changed, fit, make_config, read_history
from tests.regularization.graph_data import first_step, plain_config
from tfr_pipeline.compat import tf
from tfr_pipeline.data.batching import teacher_scores, windowed
from tfr_pipeline.data.convert.conversion import convert
from tfr_pipeline.data.lists import Lists
from tfr_pipeline.data.sources.options import Options
from tfr_pipeline.errors import ConfigError, DataError
from tfr_pipeline.experiment.build import build_pipeline
from tfr_pipeline.features import DEFAULT_MASK
from tfr_pipeline.metrics.evaluation import evaluate_lists
from tfr_pipeline.pipeline.datasets.protocol import BatchRequest
from tfr_pipeline.pipeline.hparams import PipelineHparams
from tfr_pipeline.regularization.distillation import DistillSettings, distance
from tfr_pipeline.serving.predictor import Predictor
from tfr_pipeline.serving.teachers import OfColumn, OfTrees
from tfr_pipeline.serving.tree_files import TreeFile

lightgbm = pytest.importorskip("lightgbm")
SCORES = [[0.5, -1.0, 2.0], [3.0], [], [0.25, 0.5]]
TEACHER = [[10.0, 12.0, 11.0], [1.0], [], [4.0, 4.0]]


class FirstFeature:
    """A teacher whose scores can be told from a batch: one of the features."""

    kind = "test"

    def __init__(self) -> None:
        self.asked = 0

    def scores(self, lists: Lists) -> np.ndarray:
        self.asked += 1
        return lists.values["float32"][:, 0].astype(np.float32)


@pytest.fixture(scope="module")
def trees(data, tmp_path_factory):
    """Path of a LightGBM model of the training data, and that model."""
    path = tmp_path_factory.mktemp("trees") / "model.txt"
    lists = lists_of(data)
    booster = train_trees(lists.values["float32"], lists)
    booster.save_model(str(path))
    return str(path), booster


def lists_of(data, split="train") -> Lists:
    builder = build_pipeline(make_config(data, "unused")).dataset_builder
    return builder.lists(split, "packed")


def train_trees(values, lists, names="auto"):
    told = {"objective": "lambdarank", "verbose": -1, "num_leaves": 4, "num_threads": 1}
    data = lightgbm.Dataset(
        values, lists.labels, group=lists.lengths, feature_name=names
    )
    return lightgbm.train({**told, "min_data_in_leaf": 5}, data, 8)


def by_numpy(told: DistillSettings) -> list[float]:
    def softmax(values):
        exp = np.exp(values - values.max())
        return exp / exp.sum()

    found = []
    for scores, teacher in zip(SCORES, TEACHER, strict=True):
        s, t = np.array(scores), np.array(teacher)
        if not len(s):
            found.append(0.0)
        elif told.loss == "softmax_loss":
            p, q = softmax(t / told.temperature), softmax(s)
            found.append(float((p * np.log(p / q)).sum()))
        else:
            z = (t - t.mean()) / t.std() if t.std() else 0.0 * t
            found.append(float(((s - s.mean() - z) ** 2).mean()))
    return found


@pytest.mark.parametrize("layout", ["packed", "padded"])
@pytest.mark.parametrize(
    "settings",
    [{}, {"temperature": 3.0}, {"loss": "mean_squared_loss"}],
    ids=["softmax", "temperature", "squared"],
)
def test_distances_are_those_of_numpy(settings, layout):
    told = DistillSettings(teacher="a", **settings)
    scores = tf.ragged.constant(SCORES, tf.float32, ragged_rank=1)
    teacher = tf.ragged.constant(TEACHER, tf.float32, ragged_rank=1)
    if layout == "padded":
        scores = scores.to_tensor(99.0, shape=[None, 5])
    found = distance(told, scores, teacher)
    np.testing.assert_allclose(found, by_numpy(told), rtol=1e-5, atol=1e-6)


def test_a_step_takes_its_shares_of_labels_and_teacher(data, trees, tmp_path):
    weight, steps = 0.3, {}
    # That of the labels has a teacher too, who as good as does not count.
    for share in (weight, 1e-9, 1.0):
        told = {"teacher": trees[0], "weight": share}
        config = plain_config(data, tmp_path, distill=told)
        config["model"]["scorer_args"]["kernel_regularizer"] = "l2"
        steps[share] = first_step(config)[2]
    both, labels, teacher = steps.values()
    for found, *pair in zip(*(s["gradients"] for s in steps.values()), strict=True):
        # Decay of weights is in each of the three, whole.
        wanted = (1 - weight) * pair[0] + weight * pair[1]
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)
    assert teacher["added"] > 0.01 and labels["added"] < 1e-6
    np.testing.assert_allclose(both["added"], weight * teacher["added"], rtol=1e-4)


@pytest.mark.parametrize("layout", ["packed", "padded"])
@pytest.mark.parametrize(
    "told",
    [
        {},
        {"list_size": 4, "truncation": "sample"},
        {"list_size": 4, "shuffle_examples": True},
        {"folds": 3, "fold": 1},
    ],
    ids=["whole", "sampled", "shuffled", "fold"],
)
def test_scores_stay_with_their_documents(data, told, layout):
    config = make_config(data, "unused", layout=layout)
    config["data"] |= told
    if "folds" in told:
        config["data"] |= {"dir": None, "features": str(data)}
        config["data"]["train"] = f"{data}/train-*"
    builder = build_pipeline(config).dataset_builder
    teacher = FirstFeature()
    request = BatchRequest(split="train", layout=layout, teacher=teacher)
    for _ in range(2):  # again, as for a run that goes on
        for features, *_ in request.ask(builder).take(40):
            rest, scores = teacher_scores.take(features)
            assert teacher_scores.IN_BATCH not in rest
            if layout == "packed":
                wanted = rest["documents_float32"].values[:, 0]
            else:
                wanted = tf.boolean_mask(rest["features"][..., 0], rest[DEFAULT_MASK])
            np.testing.assert_array_equal(scores.values, wanted)
            assert scores.row_lengths().numpy().max() > 1
    assert teacher.asked == 1
    for features, *_ in builder.make_dataset("valid", layout).take(1):
        assert teacher_scores.IN_BATCH not in features


def test_scores_of_a_lightgbm_file_are_those_of_lightgbm(data, trees):
    path, booster = trees
    builder = build_pipeline(make_config(data, "unused")).dataset_builder
    lists = builder.lists("valid", "packed")
    found = OfTrees(TreeFile(path), builder.features).scores(lists)
    wanted = booster.predict(lists.values["float32"], raw_score=True)
    assert np.ptp(wanted) > 0.1
    np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-7)


def test_columns_of_a_lightgbm_file_are_found_by_name(tmp_path):
    rows = np.random.default_rng(0).normal(size=(60, 3)).astype(np.float32)
    data = write_table(tmp_path, {"train": rows}, names=("a", "b c", "score"))
    builder = build_pipeline(make_config(data, "unused")).dataset_builder
    lists = builder.lists("train", "packed")
    booster = train_trees(rows[:, [2, 0]], lists, ["score", "a"])
    booster.save_model(str(tmp_path / "model.txt"))
    trees = TreeFile(str(tmp_path / "model.txt"))
    found = OfTrees(trees, builder.features).scores(lists)
    wanted = booster.predict(rows[:, [2, 0]], raw_score=True)
    np.testing.assert_allclose(found, wanted, rtol=1e-6)
    other = train_trees(rows[:, :2], lists, ["a", "z"])
    other.save_model(str(tmp_path / "other.txt"))
    with pytest.raises(ConfigError, match="'z' is none of them"):
        OfTrees(TreeFile(str(tmp_path / "other.txt")), builder.features)


def write_table(
    folder, splits, names, labels=None, scalar=True, packed=False
) -> pathlib.Path:
    """Converts tables of 6 rows a query; returns the folder."""
    for split, rows in splits.items():
        path = folder / f"{split}.csv"
        grades = np.arange(len(rows)) % 3 if labels is None else labels[split]
        with open(path, "w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["qid", "label", *names])
            for number, (grade, row) in enumerate(zip(grades, rows, strict=True)):
                writer.writerow([f"{split}{number // 6}", grade, *row])
        convert(
            str(path),
            str(folder / "data"),
            input_format="csv",
            split=split,
            scalar_features=scalar,
            output_format="packed" if packed else "elwc",
            options=Options(nan="keep"),
        )
    if "valid" not in splits:
        source = folder / "data" / "train-00000-of-00001.tfrecord"
        (folder / "data" / "valid-00000-of-00001.tfrecord").symlink_to(source)
    return folder / "data"


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "no such file|expected a SavedModel"),
        ("tree\nversion=v4\n", "cannot be read as a model of lightgbm"),
        ("{}", "expected a model file that LightGBM"),
        ('{"learner": {}}', "of xgboost needs its library.*pip install xgboost"),
        ("CBM1", "of catboost needs its library.*pip install catboost"),
    ],
    ids=["none", "damaged", "nothing", "xgboost", "catboost"],
)
def test_what_is_no_teacher_is_an_error(data, tmp_path, content, told, monkeypatch):
    for name in ("xgboost", "catboost"):
        monkeypatch.setitem(__import__("sys").modules, name, None)
    path = tmp_path / "model"
    if content is not None:
        path.write_text(content)
    config = make_config(data, tmp_path / "run", distill={"teacher": str(path)})
    with pytest.raises((ConfigError, DataError), match=told):
        build_pipeline(config).train_and_validate()
    assert not (tmp_path / "run").exists()


def test_trees_of_another_number_of_columns_are_refused(data, tmp_path):
    lists = lists_of(data)
    booster = train_trees(lists.values["float32"][:, :5], lists)
    booster.save_model(str(tmp_path / "model.txt"))
    told = {"teacher": str(tmp_path / "model.txt")}
    config = make_config(data, tmp_path / "run", distill=told)
    with pytest.raises(ConfigError, match=r"on the 8 numeric columns .* one on 5"):
        build_pipeline(config).train_and_validate()


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ({"weight": 0.5}, "teacher: expected the path"),
        ({"teacher": "a", "weight": 2.0}, r"share in \[0, 1\], found 2.0"),
        ({"teacher": "a", "temperature": 0.0}, "positive number, found 0.0"),
        ({"teacher": "a", "missing": "0"}, "missing: expected a number, found '0'"),
        ({"teacher": "a", "loss": "softmax"}, "did you mean 'softmax_loss'"),
        ({"teacher": "a", "wait": 0.5}, "did you mean 'weight'"),
        ({"teacher": "column:"}, "expected a name behind"),
        ({"teacher": "column:nothing"}, "unknown document feature 'nothing'"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_wrong_settings_are_errors(data, told, message):
    with pytest.raises(ConfigError, match=message):
        build_pipeline(make_config(data, "unused", distill=told))


def test_a_weight_of_zero_warns(data):
    with pytest.warns(UserWarning, match="distill: it has no effect"):
        build_pipeline(
            make_config(data, "unused", distill={"teacher": "a", "weight": 0})
        )


@pytest.fixture(scope="module")
def noisy(tmp_path_factory):
    """Lists whose labels are mostly chance, with a column that knows the order."""
    random = np.random.default_rng(3)
    splits, labels = {}, {}
    for split, queries in (("train", 60), ("valid", 60)):
        rows = random.normal(size=(6 * queries, 3)).astype(np.float32)
        useful = np.sin(2 * rows[:, 0]) + np.abs(rows[:, 1])
        noise = 6.0 if split == "train" else 0.0
        seen = useful + noise * random.normal(size=len(rows))
        order = np.argsort(np.argsort(seen.reshape(-1, 6), axis=1), axis=1)
        labels[split] = np.maximum(order - 2, 0).ravel()
        splits[split] = np.concatenate([rows, useful[:, np.newaxis]], axis=1)
    folder = tmp_path_factory.mktemp("noisy")
    return write_table(folder, splits, ("a", "b", "c", "useful"), labels)


@pytest.mark.parametrize("output_format", ["elwc", "packed"])
@pytest.mark.parametrize("cache", ["memory", "disk"])
def test_a_column_is_the_teacher_wherever_lists_are(
    noisy, tmp_path, monkeypatch, cache, output_format
):
    monkeypatch.setattr(windowed, "WINDOW", 2_000)
    folder = noisy
    if output_format == "packed":
        folder = tmp_path / "packed"
        for split in ("train", "valid"):
            convert(
                str(noisy / ".." / f"{split}.csv"),
                str(folder),
                input_format="csv",
                split=split,
                scalar_features=True,
                output_format="packed",
            )
    told = {"teacher": "column:useful"}
    config = make_config(folder, "unused", distill=told)
    config["data"] |= {"cache": cache, "list_size": 4, "truncation": "sample"}
    pipeline = build_pipeline(config)
    builder = pipeline.dataset_builder
    seen = 0
    for features, *_ in pipeline._feed.dataset("train", "packed").take(15):
        rest, scores = teacher_scores.take(features)
        rows = rest["documents_float32"].values.numpy()
        assert rows.shape[1] == 3
        wanted = np.sin(2 * rows[:, 0]) + np.abs(rows[:, 1])
        np.testing.assert_allclose(scores.values, wanted, rtol=1e-5, atol=1e-6)
        seen += len(rows)
    assert seen == 60 * 4
    trees = FirstFeature()
    request = BatchRequest(split="train", layout="packed", teacher=trees)
    if cache == "disk":
        with pytest.raises(ConfigError, match="in memory, which the teacher scores"):
            request.ask(builder)


@pytest.mark.parametrize("cache", ["memory", "disk"])
def test_a_column_without_a_score_is_named_wherever_lists_are(tmp_path, cache):
    rows = np.random.default_rng(5).normal(size=(60, 3)).astype(np.float32)
    rows[40, 2] = np.nan
    write_table(tmp_path, {"train": rows}, ("a", "b", "useful"), packed=True)
    told = {"teacher": "column:useful"}
    config = make_config(tmp_path / "data", tmp_path / "run", distill=told)
    config["data"]["cache"] = cache
    with pytest.raises(DataError, match=r"column 'useful' .* 'train6'.* is nan"):
        build_pipeline(config).train()


@pytest.mark.slow
def test_a_student_of_a_teacher_that_knows_ranks_better_than_without(noisy):
    quality = {}
    for weight in (0.0, 0.9):
        told = {"teacher": "column:useful", "weight": weight or 1e-9}
        config = plain_config(noisy, "unused", distill=told, num_epochs=15)
        config["model"]["scorer_args"]["hidden_layer_dims"] = [16]
        config["pipeline"]["learning_rate"] = 0.03
        config["model"]["preprocess"] = None
        pipeline = build_pipeline(config)
        builder = pipeline.dataset_builder
        assert sorted(builder.features.example) == ["a", "b", "c"]
        model, _ = fit(pipeline)
        lists = builder.lists("valid", "packed")
        batches = builder.make_dataset("valid", "packed")
        scores = np.concatenate([model(x).values for x, *_ in batches])
        result = evaluate_lists(lists.labels, scores, lists.row_splits, bootstrap=0)
        quality[weight] = result["ndcg@10"]["skip"]
    assert quality[0.9] > quality[0.0] + 0.03
    # The teacher stands beside the lists of a student, and is as good as can be.
    perfect = evaluate_lists(
        lists.labels, OfColumn().scores(lists), lists.row_splits, bootstrap=0
    )
    assert perfect["ndcg@10"]["skip"] == pytest.approx(1.0)


def test_a_run_states_its_own_figures_and_those_of_its_teacher(data, trees, tmp_path):
    told = {"teacher": trees[0], "loss": "mean_squared_loss"}
    config = make_config(data, tmp_path / "run", distill=told, num_epochs=2)
    build_pipeline(config).train_and_validate()
    found = json.loads((tmp_path / "run" / "metrics.json").read_text())
    of_teacher = found["distillation"]
    assert of_teacher["kind"] == "lightgbm" and of_teacher["weight"] == 0.5
    lists = lists_of(data, "test")
    scores = trees[1].predict(lists.values["float32"], raw_score=True)
    wanted = evaluate_lists(lists.labels, scores, lists.row_splits)
    assert of_teacher["test"]["ndcg@10"]["skip"] == pytest.approx(
        wanted["ndcg@10"]["skip"]
    )
    assert found["test"]["ndcg@10"]["skip"] != of_teacher["test"]["ndcg@10"]["skip"]
    rows = read_history(tmp_path / "run")
    assert all(row["distillation_loss"] > 0 for row in rows)
    assert "val_distillation_loss" not in rows[0]
    # Exports know nothing of teachers, and one of them may be a teacher.
    predictor = Predictor(str(tmp_path / "run"))
    assert not [n for n in predictor.features.example if "teacher" in n]
    told = {"teacher": str(tmp_path / "run")}
    second = build_pipeline(make_config(data, tmp_path / "next", distill=told))
    teacher = second._feed.distilling.teacher
    np.testing.assert_allclose(teacher.scores(lists), predictor.score(lists))
    # Another teacher in its place is noticed by a run that goes on.
    path = pathlib.Path(trees[0])
    before = path.read_text()
    path.write_text(before + "\n")
    try:
        with pytest.raises(ConfigError, match="teacher"):
            build_pipeline(changed(config, pipeline__num_epochs=3)).train_and_validate()
    finally:
        path.write_text(before)


def test_a_run_teaches_within_the_scope_of_a_strategy(data, tmp_path):
    # A model that is loaded or asked in a scope can be called by replicas alone.
    teacher, student = tmp_path / "teacher", tmp_path / "student"
    mirrored = {"strategy": "MirroredStrategy", "num_epochs": 1}
    build_pipeline(make_config(data, teacher, **mirrored)).train_and_validate()
    distill = {"teacher": str(teacher)}
    config = make_config(data, student, **mirrored, distill=distill)
    build_pipeline(config).train_and_validate()
    told = json.loads((student / "metrics.json").read_text())["distillation"]
    own = json.loads((teacher / "metrics.json").read_text())["valid"]["ndcg@10"]
    assert told["valid"]["ndcg@10"]["skip"] == pytest.approx(own["skip"], abs=1e-6)


def test_a_temperature_that_changes_nothing_is_warned_of():
    told = {"teacher": "a", "temperature": 2.0, "loss": "mean_squared_loss"}
    with pytest.warns(UserWarning, match="temperature=2 has no effect"):
        PipelineHparams("run", 1, None, None, 0.1, "softmax_loss", distill=told)
