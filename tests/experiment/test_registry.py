"""Parts of a user's own, named in a config."""

from __future__ import annotations

import pathlib

import pytest

from tests.pipeline.training_helpers import (
    ROOT,
    changed,
    make_config,
    read_history,
    read_json,
)
from tfr_pipeline.cli.main import main
from tfr_pipeline.errors import ConfigError
from tfr_pipeline.experiment import config_files, registry
from tfr_pipeline.experiment.build import build_pipeline
from tfr_pipeline.losses import SoftmaxLoss

PARTS = """
import tensorflow as tf
import tfr_pipeline as tfr
from tfr_pipeline.features import DEFAULT_MASK

USED = []


class Model(tfr.keras.model.ModelBuilder):
    def __init__(self, features, units=3):
        super().__init__(
            tfr.keras.model.FeatureSpecInputCreator(
                features.context_spec, features.example_spec),
            {}, tfr.keras.model.DNNScorer(hidden_layer_dims=[units]), DEFAULT_MASK)
        USED.append(("model", units))


class Data(tfr.keras.pipeline.SimpleDatasetBuilder):
    def make_dataset(self, *args, **kwargs):
        USED.append(("data", type(self).__name__))
        return super().make_dataset(*args, **kwargs)


class Pipeline(tfr.keras.pipeline.SimplePipeline):
    def __init__(self, *args, word="", **kwargs):
        super().__init__(*args, **kwargs)
        USED.append(("pipeline", word))


class Loss(tfr.keras.losses.SoftmaxLoss):
    def __init__(self, scale=1.0, **kwargs):
        super().__init__(**kwargs)
        USED.append(("loss", scale))
        self.scale = scale

    def call(self, y_true, y_pred):
        return self.scale * super().call(y_true, y_pred)


def squared(y_true, y_pred):
    mask = tf.cast(y_true >= 0, tf.float32)
    return tf.reduce_mean(mask * (y_true - y_pred) ** 2, axis=-1)


def constant(y_true, y_pred, value=0.0):
    return tf.fill(tf.shape(y_pred)[:1], value)


class Mean(tf.keras.metrics.Mean):
    def __init__(self, name="mean_score", shift=0.0, **kwargs):
        super().__init__(name=name, **kwargs)
        self.shift = shift

    def update_state(self, y_true, y_pred, sample_weight=None):
        return super().update_state(tf.zeros(()) + self.shift)


class Callback(tf.keras.callbacks.Callback):
    def __init__(self, word):
        super().__init__()
        self.word = word

    def on_epoch_end(self, epoch, logs=None):
        USED.append(("callback", self.word, epoch))


def halved(values, by=2.0):
    USED.append(("preprocess", by))
    return values / by


def optimizer(learning_rate, momentum=0.0):
    USED.append(("optimizer", momentum))
    return tf.keras.optimizers.SGD(learning_rate, momentum=momentum)


def schedule(peak, total_steps, drop=1.0):
    USED.append(("schedule", peak, total_steps, drop))
    return tf.keras.optimizers.schedules.PolynomialDecay(peak, total_steps, drop)
"""


@pytest.fixture(name="used")
def _used(tmp_path, monkeypatch):
    """What the parts of the module `parts_of_mine` write down."""
    (tmp_path / "parts_of_mine.py").write_text(PARTS)
    monkeypatch.syspath_prepend(tmp_path)
    yield lambda: __import__("parts_of_mine").USED
    import sys

    sys.modules.pop("parts_of_mine", None)


def own(data, folder, **values):
    return changed(
        make_config(
            data,
            folder,
            num_epochs=1,
            loss="parts_of_mine:Loss",
            loss_args={"scale": 2.0},
            metrics=[
                "ndcg_5",
                "parts_of_mine:Mean",
                {"name": "parts_of_mine:constant", "value": 0.25},
            ],
            callbacks=[{"name": "parts_of_mine:Callback", "word": "here"}],
            optimizer="parts_of_mine:optimizer",
            optimizer_args={"momentum": 0.5},
            schedule={"name": "parts_of_mine:schedule", "drop": 0.001},
            pipeline="parts_of_mine:Pipeline",
            pipeline_args={"word": "mine"},
        ),
        model={"builder": "parts_of_mine:Model", "builder_args": {"units": 5}},
        data__builder="parts_of_mine:Data",
        **values,
    )


def test_every_part_of_a_config_may_be_ones_own(data, tmp_path, used):
    config = own(data, tmp_path / "run")
    build_pipeline(config).train_and_validate()
    assert {
        ("model", 5),
        ("data", "Data"),
        ("pipeline", "mine"),
        ("loss", 2.0),
        ("callback", "here", 0),
        ("optimizer", 0.5),
        ("schedule", 0.01, 10, 0.001),
    } <= set(used())
    (row,) = read_history(tmp_path / "run")
    assert row["val_constant"] == 0.25
    assert row["val_mean_score"] == 0.0
    assert read_json(tmp_path / "run" / "config.json") == config
    assert set(read_json(tmp_path / "run" / "metrics.json")["test"]) >= {"ndcg@10"}


def test_a_dry_run_builds_the_same_parts(data, tmp_path, used):
    lines = build_pipeline(own(data, tmp_path / "run")).dry_run()
    assert any(line.startswith("loss of the first step") for line in lines)
    assert ("pipeline", "mine") in used() and ("loss", 2.0) in used()
    assert not (tmp_path / "run").exists()


def test_preprocessing_may_be_ones_own_for_all_features_or_for_one(
    data,
    tmp_path,
    used,
):
    config = make_config(data, tmp_path / "run")
    name = "parts_of_mine:halved"
    for wanted in (name, {"features": name}):
        changes = {"model__preprocess": wanted, "model__preprocess_args": {"by": 4.0}}
        build_pipeline(changed(config, **changes)).dry_run()
        assert ("preprocess", 4.0) in used()
        used().clear()
    with pytest.raises(ConfigError, match=r"unknown feature 'feature'.*'features'"):
        build_pipeline(changed(config, model__preprocess={"feature": name}))


def test_a_function_of_labels_and_scores_is_a_loss(data, tmp_path, used):
    config = make_config(data, tmp_path / "run", loss="parts_of_mine:squared")
    assert used() == []
    lines = build_pipeline(config).dry_run()
    assert any(line.startswith("layout: padded") for line in lines)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("model__scorer", "no_such_module:Scorer", "config.model.scorer.*No module"),
        ("model__scorer", "math:nothing", "config.model.scorer.*no attribute"),
        ("model__scorer", "math:pi", "cannot be called"),
        ("model__scorer", "dn", "unknown scorer 'dn'.*'dnn'.*module:callable"),
        ("model__scorer_args", {"hiden": 1}, "hidden_layer_dims.*hiden"),
        ("model__preprocess", "log", "unknown preprocessing 'log'.*'log1p'"),
        ("pipeline__pipeline", "simpl", "unknown pipeline 'simpl'.*'simple'"),
        ("pipeline__callbacks", ["tensorboard"], "unknown callback 'tensorboard'"),
        ("pipeline__callbacks", "a:b", "callbacks: expected a tuple"),
        ("pipeline__metrics", [{"nam": "mrr"}], "metrics: expected a tuple"),
        ("pipeline__metrics", [{"name": "ndcg_5", "topn": 3}], "takes no arguments"),
        ("data__builder", "mult_label", "unknown dataset builder.*'multi_label'"),
        ("data__builder_args", {"a": 1}, "no effect without data.builder"),
        ("pipeline__metrics", [{"name": ["mrr"]}], "metrics: expected a tuple"),
        ("model__preprocess", {"features": [5]}, "expected the name of a step"),
        # As a config.json may have them, or a config file.
        ("data__dir", 5, r"config\.data\.dir: expected text, found 5"),
        ("data__test", {"a": 1}, r"config\.data\.test: expected text, found"),
        ("data__shuffle", "x", r"config\.data\.shuffle: expected true or false"),
        ("model__name", True, r"config\.model\.name: expected text, found True"),
        ("model__scorer", ["dnn"], r"config\.model\.scorer: expected text"),
        ("model__scorer_args", [1], r"config\.model\.scorer_args: expected a dict"),
        ("pipeline__loss_args", "x", r"config\.pipeline\.loss_args: expected a dict"),
        ("pipeline__metrics", 5, r"metrics: expected a tuple or a dict, found 5"),
        ("pipeline__num_epochs", 1.5, r"num_epochs: expected a whole number"),
        ("seed", [1], r"config\.seed: expected a whole number, found \[1\]"),
    ],
)
def test_a_part_that_cannot_be_is_named_with_its_key(
    data,
    tmp_path,
    key,
    value,
    message,
):
    with pytest.raises(ConfigError, match=message):
        build_pipeline(changed(make_config(data, tmp_path), **{key: value}))


@pytest.mark.parametrize("args", [{"dropout": -1}, {"kernel_initializer": 3}])
def test_what_a_layer_cannot_do_with_is_no_fault_without_a_cause(data, tmp_path, args):
    config = make_config(data, tmp_path / "run")
    config["model"]["scorer_args"] |= args
    with pytest.raises(ConfigError, match=r"cannot be built: .*scorer_args"):
        build_pipeline(config).dry_run()


@pytest.fixture(name="kinds")
def _kinds(monkeypatch):
    monkeypatch.setattr(registry, "_registered", {kind: {} for kind in registry.KINDS})


@pytest.mark.parametrize("kind", registry.KINDS)
def test_a_registered_part_of_any_kind_has_a_name(kind, kinds):
    @registry.register(kind, "mine")
    def part():
        return None

    assert registry.find(kind, "mine", "here") is part
    with pytest.raises(ConfigError, match=f"unknown {kind} 'mne'.*'mine'"):
        registry.find(kind, "mne", "here")


def test_two_parts_do_not_share_a_name(kinds):
    registry.register("scorer", "mine")(pathlib.Path)
    registry.register("scorer", "mine")(pathlib.Path)  # the module was loaded again
    with pytest.raises(ConfigError, match="is there already"):
        registry.register("scorer", "mine")(pathlib.PurePath)
    with pytest.raises(ConfigError, match="is there already"):
        registry.register("loss", "softmax_loss")(pathlib.Path)
    with pytest.raises(ConfigError, match="unknown kind of part"):
        registry.register("scorers", "mine")
    with pytest.raises(ConfigError, match="expected a name"):
        registry.register("scorer", "a:b")


def test_the_example_of_every_kind_of_part_trains(data, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    words = [f"--config.data.dir={data}", f"--config.model_dir={tmp_path / 'run'}"]
    config = config_files.load("configs/own_parts.py", words)
    pipeline = build_pipeline(config)
    parts = __import__("builders.parts").parts
    assert type(pipeline) is parts.PipelineWithMRR
    assert type(pipeline._model_builder) is parts.LinearModelBuilder
    functions = pipeline._model_builder._preprocessor._preprocess_spec
    assert set(functions.values()) == {parts.clipped_log1p}
    assert type(pipeline._dataset_builder) is parts.CappedGrades
    assert type(pipeline.build_loss()) is parts.SharpSoftmaxLoss
    names = [metric.name for metric in pipeline.build_metrics()]
    assert names == ["metric/ndcg_10", "score_spread", "metric/mrr"]
    assert [type(make()) for make in pipeline._hparams.callbacks] == [parts.StopAt]
    words = ["--config=configs/own_parts.py", *words, "--dry_run"]
    assert main(["train", *words]) == 0
    assert "loss of the first step" in capsys.readouterr().out


OWN_LOSS = "parts_of_mine:Loss"


@pytest.mark.parametrize(
    "loss",
    [
        f"softmax_loss:0.75,{OWN_LOSS}:0.25",
        {"softmax_loss": 0.75, OWN_LOSS: 0.25},
        {"softmax_loss": 0.75, "mine": {"loss": OWN_LOSS, "weight": 0.25}},
        {"softmax_loss": 0.75, "registered_loss": 0.25},
        "softmax_loss:0.75,registered_loss:0.25",
    ],
)
def test_a_loss_of_ones_own_is_a_part_of_a_sum(data, tmp_path, used, kinds, loss):
    used()
    own_loss = __import__("parts_of_mine").Loss
    registry.register("loss", "registered_loss")(own_loss)
    config = make_config(data, tmp_path / "run", loss=loss, loss_reduction="sum")
    pipeline = build_pipeline(config)
    found = pipeline.build_loss()
    assert [type(part) for part in found.losses] == [SoftmaxLoss, own_loss]
    assert found.weights == [0.75, 0.25]
    y_true, y_pred = [[1.0, 0.0, 2.0]], [[0.1, 0.5, 0.2]]
    wanted = SoftmaxLoss(reduction="sum")(y_true, y_pred)  # 0.75 + 0.25 of the same
    assert float(found(y_true, y_pred)) == pytest.approx(float(wanted))
    assert pipeline._layout() == "padded"  # what the class of one's own declares


@pytest.mark.slow
def test_a_part_of_a_sum_has_arguments_of_its_own(data, tmp_path, used):
    mine = {"loss": OWN_LOSS, "weight": 0.5, "scale": 3.0}
    loss = {"softmax_loss": {"weight": 1, "temperature": 0.5}, "mine": mine}
    config = make_config(data, tmp_path / "run", num_epochs=1, loss=loss)
    build_pipeline(config).train_and_validate()
    assert ("loss", 3.0) in used()
    assert read_json(tmp_path / "run" / "config.json")["pipeline"]["loss"] == loss


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        ("softmax_loss:0.9,parts_of_mine:Lss:0.1", "no attribute 'Lss'"),
        ("softmax_loss:0.9,mine:0.1", "unknown loss 'mine'"),
        ({"softmax_loss": 1, "parts_of_mine:squared": 1}, "expected a class of Keras"),
        ({"softmax_loss": 1, "parts_of_mine:Callback": {"word": ""}}, "expected a cla"),
        ({"softmax_loss": 1, "a": {"loss": "parts_of_mine:Mae", "b": 1}}, "no attrib"),
    ],
)
def test_a_part_of_a_sum_that_cannot_be_is_named(data, tmp_path, used, loss, message):
    config = make_config(data, tmp_path / "run", loss=loss)
    with pytest.raises(ConfigError, match=message):
        build_pipeline(config).build_loss()
