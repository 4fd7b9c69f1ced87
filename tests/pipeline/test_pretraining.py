"""Runs of pretraining, and warm starts from them."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tests.pipeline.test_warm_start import Interrupt
from tests.pipeline.training_helpers import (
    changed,
    make_config,
    read_history,
    read_json,
)
from tests.replicas import run_on_devices
from tfr_pipeline.compat import tf
from tfr_pipeline.data.convert.conversion import convert
from tfr_pipeline.data.sources.options import Options
from tfr_pipeline.errors import ConfigError, DataError, RunError
from tfr_pipeline.experiment.build import build_pipeline
from tfr_pipeline.model import layer_names
from tfr_pipeline.pipeline.run import at_checkpoint, beginning
from tfr_pipeline.serving.remote_versions import find_export

# 24 queries, so that there are few steps.
QUERIES, DOCUMENTS = 24, 6
TASKS = ("denoise", "contrastive")
# What is the same for both.
OF_ONE = pytest.mark.parametrize("run", ["denoise"], indirect=True)


def write(folder, labels, form="{:g} qid:{} 1:{:g} 2:{:g} 3:{:g} 4:{:g}") -> str:
    """Converts lists whose features depend on each other; returns the folder."""
    folder.mkdir()
    for split, seed in (("train", 1), ("valid", 2)):
        random, lines = np.random.default_rng(seed), []
        for query in range(QUERIES):
            for _ in range(DOCUMENTS):
                first, second = random.normal(size=2)
                values = first, second, first + second, first - second
                lines.append(form.format(labels(random), query, *values))
        path = folder / f"{split}.txt"
        path.write_text("\n".join(lines) + "\n")
        convert(
            str(path),
            str(folder / "data"),
            input_format="libsvm",
            split=split,
            options=Options(require_label=False),
        )
    return str(folder / "data")


@pytest.fixture(scope="module")
def labelled(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("labelled") / "a"
    return write(folder, lambda random: random.spawn(1)[0].integers(5))


@pytest.fixture(scope="module")
def unlabelled(tmp_path_factory) -> str:
    return write(tmp_path_factory.mktemp("unlabelled") / "a", lambda random: -1)


def config_of(data, folder, task="denoise", **pipeline):
    told = {"pretrain": {"task": task}, "export_best_model": True, **pipeline}
    config = make_config(data, folder, **told)
    # Settings of the model that will rank stay, and are not looked at.
    config["pipeline"].update(
        best_exporter_metric="ndcg_10", best_exporter_metric_higher_better=True
    )
    config["model"]["preprocess"] = "standardize"
    return config


@pytest.fixture(scope="module", params=TASKS)
def run(request, unlabelled, tmp_path_factory):
    """A run of pretraining that has ended: `(config, model)`."""
    tf.keras.backend.clear_session()
    folder = tmp_path_factory.mktemp("pretrained") / "run"
    config = config_of(unlabelled, folder, request.param, num_epochs=6)
    return config, build_pipeline(config).train_and_validate()


def same_weights(one, other) -> bool:
    pairs = zip(one.get_weights(), other.get_weights(), strict=True)
    return all(np.array_equal(a, b) for a, b in pairs)


def test_the_loss_falls_and_the_run_says_so(run) -> None:
    config, _ = run
    rows = read_history(config["model_dir"])
    assert rows[-1]["loss"] < 0.95 * rows[0]["loss"]
    assert min(row["val_loss"] for row in rows[1:]) < rows[0]["val_loss"]
    found = read_json(f"{config['model_dir']}/metrics.json")
    assert found["pretraining"]["val_loss"] == pytest.approx(rows[-1]["val_loss"])
    assert found["best_value"] == pytest.approx(min(row["val_loss"] for row in rows))
    recorded = read_json(f"{config['model_dir']}/config.json")
    assert recorded["pipeline"]["pretrain"] == config["pipeline"]["pretrain"]


def test_labels_have_no_influence(run, labelled, tmp_path) -> None:
    config, model = run
    config = changed(config, data__dir=labelled, model_dir=str(tmp_path / "run"))
    tf.keras.backend.clear_session()
    assert same_weights(model, build_pipeline(config).train())


def test_a_stopped_run_goes_on_as_if_it_had_not_been(run, unlabelled, tmp_path) -> None:
    config, model = run
    config = changed(config, model_dir=str(tmp_path / "run"))
    pipeline = build_pipeline(config)
    ours = pipeline.build_callbacks
    pipeline.build_callbacks = lambda: [Interrupt(11), *ours()]
    with pytest.raises(SystemExit):
        pipeline.train()
    assert same_weights(model, build_pipeline(config).train())
    rows = [read_history(c["model_dir"]) for c in (config, run[0])]
    losses = [[row["val_loss"] for row in x] for x in rows]
    assert losses[0] == losses[1]


def warm(run, data, folder, statistics="keep", **values):
    config, _ = run
    told = {"from": config["model_dir"], "statistics": statistics}
    config = changed(config, model_dir=str(folder), data__dir=data)
    del config["pipeline"]["pretrain"]
    config["pipeline"]["warm_start"] = told
    return build_pipeline(changed(config, **values))


def begin(pipeline):
    """Returns the model of a pipeline before its first step."""
    beginning.learn(pipeline)
    model = pipeline._compile(pipeline._layout(), 1)
    return model, beginning.take_weights(pipeline, model)


@OF_ONE
@pytest.mark.parametrize("batch_norm", [True, False])
def test_a_warm_start_takes_the_trunk_and_makes_a_new_head(
    run, labelled, unlabelled, tmp_path, batch_norm
) -> None:
    norm = {"model__scorer_args__use_batch_norm": batch_norm}
    if not batch_norm:  # all layers of the network are then called alike
        config, _ = run
        config = changed(
            config, model_dir=str(tmp_path / "a"), pipeline__num_epochs=1, **norm
        )
        run = config, build_pipeline(config).train()
    pipeline = warm(run, labelled, tmp_path / "run", **norm)
    model, said = begin(pipeline)
    best = at_checkpoint.model(build_pipeline(run[0]), best=True)[0]
    theirs, ours = (layer_names.weights(m) for m in (best, model))
    head = "sequential/dense" if batch_norm else "sequential/dense_1"
    assert [path for path in ours if path not in theirs] == [head]
    for path in ours.keys() - {head}:
        for one, other in zip(ours[path], theirs[path], strict=True):
            np.testing.assert_array_equal(one.numpy(), other.numpy())
    assert f"anew: {head}/kernel, {head}/bias; left there: pretraining_" in said


@OF_ONE
def test_a_warm_start_trains_and_exports_a_model_that_ranks(
    run, labelled, tmp_path
) -> None:
    pipeline = warm(run, labelled, tmp_path / "run", pipeline__num_epochs=1)
    pipeline.train_and_validate()
    assert read_json(tmp_path / "run/metrics.json")["valid"]["ndcg@10"]["skip"] > 0
    learnt = [
        read_json(f"{folder}/preprocessing.json")["learnt"]
        for folder in (tmp_path / "run", run[0]["model_dir"])
    ]
    assert learnt[0] == learnt[1]


@OF_ONE
def test_a_warm_start_from_other_features_is_an_error(run, tmp_path) -> None:
    form = "{:g} qid:{} 1:{:g} 2:{:g} 3:{:g} 5:{:g}"
    other = write(tmp_path / "other", lambda random: 1, form)
    with pytest.raises(ConfigError, match="trained on other features"):
        begin(warm(run, other, tmp_path / "run", "refit"))


@OF_ONE
def test_pretraining_goes_on_from_pretraining_with_its_head(run, tmp_path) -> None:
    config = changed(run[0], model_dir=str(tmp_path / "run"))
    config["pipeline"]["warm_start"] = {"from": run[0]["model_dir"]}
    model, said = begin(build_pipeline(config))
    assert "anew" not in said
    head = [path for path in layer_names.weights(model) if "pretraining_" in path]
    assert head


@OF_ONE
def test_there_is_nothing_to_export_or_to_evaluate(run) -> None:
    config, _ = run
    with pytest.raises(RunError, match=r"warm_start.from="):
        build_pipeline(config).export_checkpoint("nowhere")
    with pytest.raises(DataError):
        find_export(config["model_dir"])


TWO_REPLICAS = """
import json, sys
from tfr_pipeline.experiment.build import build_pipeline
from tfr_pipeline.pipeline.distribute import strategies
strategies.get_strategy = lambda *args, **kwargs: tf.distribute.MirroredStrategy(
    ["CPU:0", "CPU:1"])
pipeline = build_pipeline(json.loads(sys.argv[1]))
assert pipeline._feed.replicas == 2
pipeline.train_and_validate()
"""


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_two_replicas_learn(unlabelled, tmp_path, task) -> None:
    told = {"num_epochs": 6, "strategy": "MirroredStrategy"}
    config = config_of(unlabelled, tmp_path, task, **told)
    run_on_devices(2, TWO_REPLICAS, json.dumps(config))
    rows = read_history(tmp_path)
    assert rows[-1]["val_loss"] < rows[0]["val_loss"]


def write_csv(path, header, between) -> None:
    """Writes eight queries of three documents, whose last columns are numbers."""
    random = np.random.default_rng(0)
    lines = [
        f"{query}{between}{random.normal():.3f},{random.normal():.3f}"
        for query in range(8)
        for _ in range(3)
    ]
    path.write_text("\n".join([header, *lines]) + "\n")


def test_several_labels_need_no_builder_of_several_tasks(tmp_path) -> None:
    write_csv(tmp_path / "in.csv", "qid,click,buy,x,y", ",,1,")
    for split in ("train", "valid"):
        convert(
            str(tmp_path / "in.csv"),
            str(tmp_path / "data"),
            input_format="csv",
            split=split,
            options=Options(label_columns=("click", "buy")),
        )
    config = config_of(str(tmp_path / "data"), tmp_path / "run", num_epochs=1)
    config["pipeline"]["loss"] = dict.fromkeys(("click", "buy"), "softmax_loss")
    build_pipeline(config).train_and_validate()
    assert read_json(tmp_path / "run/metrics.json")["step"] == 2


@pytest.mark.parametrize("output_format", ["elwc", "packed"])
def test_files_without_a_label_column_are_enough(tmp_path, output_format) -> None:
    write_csv(tmp_path / "in.csv", "qid,x,y", ",")
    for split in ("train", "valid"):
        convert(
            str(tmp_path / "in.csv"),
            str(tmp_path / "data"),
            input_format="csv",
            split=split,
            output_format=output_format,
            options=Options(require_label=False),
        )
    config = config_of(str(tmp_path / "data"), tmp_path / "run", num_epochs=1)
    build_pipeline(config).train_and_validate()
    assert read_json(tmp_path / "run/metrics.json")["step"] == 2
    assert np.isfinite(float(read_history(tmp_path / "run")[0]["val_loss"]))


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"model__scorer": "gam"}, "expected a ModelBuilder with the scorer 'dnn'"),
        ({"pipeline__pipeline": "simple"}, "expected a PretrainingPipeline"),
        ({"pipeline__pretrain": {}, "pipeline__pipeline": "pretraining"}, "a task"),
    ],
)
def test_configs_that_cannot_be_pretrained_say_why(unlabelled, tmp_path, values, text):
    config = changed(config_of(unlabelled, tmp_path / "run"), **values)
    if values.get("model__scorer"):
        config["model"]["scorer_args"] = {"example_hidden_layer_dims": [4]}
    with pytest.raises(ConfigError, match=text):
        build_pipeline(config)


def test_settings_about_scores_do_not_count(run, tmp_path) -> None:
    config, _ = run
    told = {"max_neighbors": 1, "multiplier": 5.0}
    config = changed(
        config, model_dir=str(tmp_path), pipeline__graph=told, pipeline__num_epochs=1
    )
    model = build_pipeline(config).train()
    assert getattr(model, "regularization", None) is None
