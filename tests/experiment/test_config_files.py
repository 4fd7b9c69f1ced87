"""Configs: files, arguments, overrides, and what is said of wrong ones."""

from __future__ import annotations

import json
import shlex

import numpy as np
import pytest

from tests.cli.command_helpers import LETOR
from tests.pipeline.training_helpers import ROOT, changed, make_config
from tfr_pipeline import serialization
from tfr_pipeline.cli.main import main
from tfr_pipeline.errors import ConfigError, DataError
from tfr_pipeline.experiment import config_files as config_lib
from tfr_pipeline.experiment import registry, settings
from tfr_pipeline.experiment.build import build_pipeline


def load(*overrides, argument="dnn"):
    words = [f"--config.{word}" for word in overrides]
    return config_lib.load(f"{LETOR}:{argument}", words)


@pytest.fixture
def write(tmp_path):
    """Writes a config file; returns its path."""

    def write_config(text):
        path = tmp_path / "own.py"
        path.write_text(text)
        return str(path)

    return write_config


@pytest.fixture
def dry_run(project, tmp_path, capsys):
    """Runs `train --dry_run`, which has to fail as wrong usage; returns the error."""

    def run(*overrides, argument="dnn"):
        flags = [f"--config.{word}" for word in overrides]
        flags += [f"--config.data.dir={project.data}"]
        flags += [f"--config.model_dir={tmp_path / 'run'}"]
        code = main(["train", f"--config={LETOR}:{argument}", "--dry_run", *flags])
        error = capsys.readouterr().err
        assert code == 2, error
        assert error.count("\n") == 1
        assert not (tmp_path / "run").exists()
        return error

    return run


# The file


def test_the_argument_after_the_colon_chooses_the_model():
    assert load(argument="dnn")["model"]["scorer"] == "dnn"
    assert load(argument="gam")["model"]["scorer"] == "gam"
    assert "scorer" not in load(argument="builder")["model"]


def test_an_unknown_argument_is_refused_with_the_cause_of_the_config(capsys):
    assert main(["train", f"--config={LETOR}:gma"]) == 2
    error = capsys.readouterr().err
    assert error.endswith(
        "ValueError: expected dnn, gam, dasalc, attention, tabm, best, dcn or builder, "
        "found 'gma'\n"
    )
    assert "Traceback" not in error


def test_a_missing_file_is_named_with_the_folder_looked_from(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=rf"no such file 'a\.py' \(from {tmp_path}\)"):
        config_lib.load("a.py:dnn", [])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def get_config():\n    raise KeyError('k')\n", "KeyError: 'k'"),
        ("def get_config():\n    open('/no/such')\n", "FileNotFoundError: .*/no/such"),
        ("import nothing_of_the_kind\n", "ModuleNotFoundError: .*nothing_of_the_kind"),
        ("def get_config(:\n", "SyntaxError"),
        ("get_conf = 1\n", "AttributeError: .*get_config"),
        ("def get_config():\n    return {}\n", "must return a ConfigDict"),
        ("def get_config():\n    pass\n", "must return a ConfigDict"),
        ("import sys\ndef get_config():\n    sys.exit('no')\n", "SystemExit: no"),
        (
            "from ml_collections import ConfigDict\n"
            "from ml_collections.config_dict import required_placeholder\n"
            "def get_config():\n    config = ConfigDict({'a': {}})\n"
            "    config.a.b = required_placeholder(int)\n    return config\n",
            r"expected a value for a\.b, found none \(--config\.a\.b=",
        ),
    ],
)
def test_a_config_that_fails_is_named_with_the_cause(write, text, message):
    path = write(text)
    with pytest.raises(ConfigError, match=message) as caught:
        config_lib.load(path, [])
    assert path in str(caught.value)


def test_a_config_may_import_from_its_project(tmp_path):
    for folder in ("configs", "ours"):
        (tmp_path / folder).mkdir()
    (tmp_path / "ours" / "words_of_ours.py").write_text("NAME = 'ours'\n")
    (tmp_path / "configs" / "own.py").write_text(
        "from ml_collections import ConfigDict\n"
        "from ours.words_of_ours import NAME\n"
        "def get_config():\n    return ConfigDict({'model': {'name': NAME}})\n"
    )
    config = config_lib.load(str(tmp_path / "configs" / "own.py"), [])
    assert config == {"model": {"name": "ours"}}


# Overrides


@pytest.mark.parametrize(
    ("word", "section", "key", "value"),
    [
        ("pipeline.num_epochs=3", "pipeline", "num_epochs", 3),
        ("pipeline.learning_rate=1", "pipeline", "learning_rate", 1.0),
        ("pipeline.metrics=('mrr',)", "pipeline", "metrics", ("mrr",)),
        ("pipeline.metrics=('mrr','map')", "pipeline", "metrics", ("mrr", "map")),
        ("pipeline.checkpoint_every_steps=5", "pipeline", "checkpoint_every_steps", 5),
        (
            "pipeline.checkpoint_every_seconds=600",
            "pipeline",
            "checkpoint_every_seconds",
            600.0,
        ),
        ("data.shuffle=false", "data", "shuffle", False),
        ("data.dir=/a=b/c", "data", "dir", "/a=b/c"),
        (
            "pipeline.loss_args.temperature=0.5",
            "pipeline",
            "loss_args",
            {"temperature": 0.5},
        ),
        (
            "pipeline.loss_args={'temperature': 0.5}",
            "pipeline",
            "loss_args",
            {"temperature": 0.5},
        ),
        # Text for a key of text, whatever it looks like; none in any case.
        ("model.name=10", "model", "name", "10"),
        ("model.name='none'", "model", "name", "none"),
        ("data.cache=None", "data", "cache", None),
        ("data.dir=none", "data", "dir", None),
        ("data.dir=runs#2", "data", "dir", "runs#2"),
        ("data.list_size=None", "data", "list_size", None),
        ("data.shuffle=FALSE", "data", "shuffle", False),
        # Several for a key of several.
        ("pipeline.metrics=ndcg_10,mrr", "pipeline", "metrics", ("ndcg_10", "mrr")),
        ("pipeline.metrics=ndcg@10", "pipeline", "metrics", ("ndcg@10",)),
        ("pipeline.metrics=(ndcg@10, mrr)", "pipeline", "metrics", ("ndcg@10", "mrr")),
        ("pipeline.metrics=", "pipeline", "metrics", ()),
        # What no type is known of.
        *(
            (
                f"pipeline.optimizer_args.x={text}",
                "pipeline",
                "optimizer_args",
                {"x": value},
            )
            for text, value in (
                ("false", False),
                ("True", True),
                ("NONE", None),
                ("1e-4", 1e-4),
                ("-3", -3),
                ("sgd", "sgd"),
                ("'3'", "3"),
                ("3#4", "3#4"),
                ("a/b,c", "a/b,c"),
                ("a,b", ("a", "b")),
                ("[1, (true, none)]", [1, (True, None)]),
                ("{'a': {'b': false}}", {"a": {"b": False}}),
                ("{[]: 1}", "{[]: 1}"),
            )
        ),
        (
            "pipeline.loss_args.lambda_weight.topn=3",
            "pipeline",
            "loss_args",
            {"lambda_weight": {"topn": 3}},
        ),
        (
            "pipeline.schedule={'name': 'cosine'}",
            "pipeline",
            "schedule",
            {"name": "cosine"},
        ),
        (
            "pipeline.schedule.boundaries=(3, 5)",
            "pipeline",
            "schedule",
            {"name": "constant", "warmup_steps": 0, "boundaries": (3, 5)},
        ),
    ],
)
def test_an_override_is_read_as_the_type_of_its_key(word, section, key, value):
    found = load(word)[section][key]
    assert found == value
    assert type(found) is type(value)


LEAKY = {"name": "leaky_relu", "slope": 0.1}
STEPS = ("quantile_normal", {"periodic": 4, "dim": 3})


@pytest.mark.parametrize("argument", ["dnn", "gam", "tabm", "dcn", "best", "attention"])
def test_a_name_is_overridden_by_a_dict_or_by_several(argument):
    words = [f"model.scorer_args.activation={LEAKY}", f"model.preprocess={[*STEPS]}"]
    found = load(*words, argument=argument)["model"]
    assert found["scorer_args"]["activation"] == LEAKY
    assert found["preprocess"] == STEPS
    # As a dict over which several are put, and by the rule of `a,b`.
    words = ["model.preprocess={'*': 'log1p'}", "model.preprocess=log1p,clip"]
    with pytest.warns(UserWarning, match="more than once"):
        found = load(*words, argument=argument)["model"]
    assert found["preprocess"] == ("log1p", "clip")


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("model.name", "[a]", "[a]"),
        ("data.train", "a,b", "a,b"),
        ("data.dir", "{'name': 'x'}", "{'name': 'x'}"),
        ("model.scorer_args.activation", "{'slope': 1}", "{'slope': 1}"),
        ("model.scorer_args.activation", "[1, 2]", "[1, 2]"),
        ("model.scorer_args.activation", "\"{'name': 1}\"", "{'name': 1}"),
        ("model.preprocess", "'(1, 2)'", "(1, 2)"),
    ],
)
def test_text_that_looks_like_a_literal_stays_text(key, text, value):
    found = load(f"{key}={text}")
    for part in key.split("."):
        found = found[part]
    assert found == value


def test_a_dict_that_stands_for_a_name_is_recorded_as_a_run_compares_it(project):
    words = [f"data.dir={project.data}", "model_dir=unused"]
    words += [f"model.scorer_args.activation={LEAKY}", f"model.preprocess={[*STEPS]}"]
    told = build_pipeline(load(*words))._config
    assert told["model"]["scorer_args"]["activation"] == LEAKY
    assert told["model"]["preprocess"] == [*STEPS]
    assert json.loads(json.dumps(told)) == told


def test_lists_of_a_scorer_are_overridden_as_tuples():
    found = load("model.scorer_args.hidden_layer_dims=(4, 2)")["model"]["scorer_args"]
    assert found["hidden_layer_dims"] == (4, 2)


def test_the_last_of_two_overrides_counts_and_is_named():
    words = ["pipeline.num_epochs=3", "pipeline.num_epochs=4"]
    with pytest.warns(UserWarning, match=r"num_epochs is given .* '4', counts"):
        assert load(*words)["pipeline"]["num_epochs"] == 4


@pytest.mark.parametrize("default", ["None", "placeholder(int)", "placeholder(object)"])
@pytest.mark.parametrize("text", ["5", "none"])
def test_a_key_whose_default_is_none_can_be_set(write, default, text):
    path = write(
        "from ml_collections import ConfigDict\n"
        "from ml_collections.config_dict import placeholder\n"
        f"def get_config():\n    return ConfigDict({{'a': {{'b': {default}}}}})\n"
    )
    found = config_lib.load(path, [f"--config.a.b={text}"])["a"]["b"]
    assert found == (5 if text == "5" else None)


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("pipeline.layout=padded", "padded"),
        ("pipeline.layout=none", None),
        ("pipeline.early_stopping_min_delta=1", 1.0),
        ("pipeline.use_weighted_metrics=true", True),
        ("pipeline.loss_weights={'a': 2}", {"a": 2}),
        ("pipeline.callbacks=a:b", ("a:b",)),
        ("pipeline.pipeline_args.word=x", "x"),
        ("data.valid_list_size=3", 3),
        ("data.reader_args=GZIP", ("GZIP",)),
        ("model.preprocess_args.by=2", 2),
        # Two types, of which the file has the other one.
        ("pipeline.loss={'softmax_loss': 0.9}", {"softmax_loss": 0.9}),
        ("pipeline.schedule=cosine", "cosine"),
        ("model.preprocess={'1': 'none'}", {"1": "none"}),
        ("pipeline.distill.teacher=three", "three"),
        ("model.position_bias.dropout=0.3", 0.3),
        ("model.interactions.text={'query': 'q'}", {"query": "q"}),
    ],
)
def test_a_setting_that_the_file_does_not_have_can_be_set(word, value):
    found = load(word)
    for part in word.partition("=")[0].split("."):
        found = found[part]
    assert found == value and type(found) is type(value)


def test_a_key_is_added_to_a_dict_that_was_given():
    words = ["pipeline.distill={'teacher': 'three'}", "pipeline.distill.weight=0.9"]
    assert load(*words)["pipeline"]["distill"] == {"teacher": "three", "weight": 0.9}


def test_sections_that_the_file_does_not_have_can_be_set(write):
    path = write(
        "from ml_collections import ConfigDict\n"
        "def get_config():\n    return ConfigDict({'pipeline': None})\n"
    )
    words = ["--config.pipeline.num_epochs=3", "--config.model.scorer_args.x=y"]
    words += ["--config.seed=4", "--config.model_dir=12"]
    assert config_lib.load(path, words) == {
        "pipeline": {"num_epochs": 3},
        "model": {"scorer_args": {"x": "y"}},
        "seed": 4,
        "model_dir": "12",
    }


@pytest.mark.parametrize(
    ("word", "words"),
    [
        ("pipeline.layuot=packed", "did you mean 'pipeline.layout'"),
        ("pipeline.early_stopping_min_delta=x", "expected a number, found 'x'"),
        ("pipeline.use_weighted_metrics=3", "expected true or false, found '3'"),
        ("pipeline.variable_partitioner=x", "unknown config key"),
        ("pipeline.layout.x=y", "layout holds|unknown config key 'pipeline.layout'"),
        ("data.train_input_pattern=x", "unknown config key"),
    ],
)
def test_a_setting_that_the_file_does_not_have_is_checked(word, words):
    with pytest.raises(ConfigError, match=words):
        load(word)


def test_the_types_of_all_settings_are_known():
    for key in settings.all_keys():
        assert settings.kinds(key), key


def test_a_required_key_can_be_set(write):
    path = write(
        "from ml_collections import ConfigDict\n"
        "from ml_collections.config_dict import required_placeholder\n"
        "def get_config():\n    config = ConfigDict()\n"
        "    config.a = required_placeholder(int)\n    return config\n"
    )
    assert config_lib.load(path, ["--config.a=5"]) == {"a": 5}


@pytest.mark.parametrize("start", [b"\xef\xbb\xbf", b"# coding: latin-1\r\n# \xe9\r\n"])
def test_a_config_of_a_windows_editor_loads(tmp_path, start):
    path = tmp_path / "own.py"
    text = "from ml_collections import FrozenConfigDict\r\n"
    text += "def get_config():\r\n    return FrozenConfigDict({'a': 1})\r\n"
    path.write_bytes(start + text.encode())
    assert config_lib.load(str(path), ["--config.a=2"]) == {"a": 2}


def test_a_folder_in_place_of_a_config_is_named(tmp_path):
    with pytest.raises(ConfigError, match="is a folder; expected a Python file"):
        config_lib.load(str(tmp_path), [])


@pytest.mark.parametrize(
    ("word", "nearest"),
    [
        ("pipeline.num_epoch=3", "pipeline.num_epochs"),
        ("pipelin.num_epochs=3", "pipeline"),
        ("modeldir=x", "model_dir"),
        ("data.shufle=true", "data.shuffle"),
        ("pipeline.num_epochs.x=3", ""),
    ],
)
def test_an_unknown_key_offers_the_nearest(word, nearest):
    with pytest.raises(ConfigError, match="unknown config key") as caught:
        load(word)
    assert f"'{nearest}'" in str(caught.value) or not nearest
    assert "letor.py" in str(caught.value)


@pytest.mark.parametrize(
    "word",
    [
        "pipeline.num_epochs=many",
        "pipeline.num_epochs=2.5",
        "pipeline.learning_rate=fast",
        "data.shuffle=perhaps",
        "pipeline.loss_args=3",
        "pipeline.num_epochs=true",
        "pipeline.checkpoint_every_steps=often",
        "data.shuffle=none",
        "data.cache=true",
    ],
)
def test_a_value_of_the_wrong_type_names_its_key(word):
    with pytest.raises(ConfigError) as caught:
        load(word)
    assert word.split("=")[0] in str(caught.value)


@pytest.mark.parametrize("word", ["--config.pipeline.num_epochs", "num_epochs=3"])
def test_a_word_that_is_no_override_is_refused(word):
    with pytest.raises(ConfigError, match="or an override such as"):
        config_lib.load(f"{LETOR}:dnn", [word])


# What the keys of a file say


@pytest.mark.parametrize(
    ("path", "nearest"),
    [
        ("piepline", "pipeline"),
        ("data__train_batchsize", "data.train_batch_size"),
        ("model__scorer_arg", "model.scorer_args"),
        ("pipeline__num_epoch", "pipeline.num_epochs"),
        # These are the config's own.
        ("pipeline__model_dir", ""),
        ("pipeline__seed", ""),
        ("data__train_input_pattern", ""),
    ],
)
def test_an_unknown_key_of_a_file_offers_the_nearest(project, tmp_path, path, nearest):
    config = changed(make_config(project.data, tmp_path), **{path: 1})
    with pytest.raises(ConfigError, match="unknown config key") as caught:
        build_pipeline(config)
    assert path.replace("__", ".") in str(caught.value)
    assert not nearest or f"did you mean '{nearest}'" in str(caught.value)


@pytest.mark.parametrize("section", ["data", "model", "pipeline"])
def test_a_section_that_is_no_dict_is_refused(project, tmp_path, section):
    config = changed(make_config(project.data, tmp_path), **{section: 3})
    with pytest.raises(ConfigError, match=f"config.{section}: expected"):
        build_pipeline(config)


@pytest.mark.parametrize(
    "path",
    ["model_dir", "pipeline__loss", "pipeline__num_epochs", "pipeline__learning_rate"],
)
def test_a_required_value_is_asked_for_by_its_flag(project, tmp_path, path):
    config = changed(make_config(project.data, tmp_path), **{path: None})
    name = path.replace("__", ".")
    with pytest.raises(ConfigError, match=rf"--config\.{name}=\.\.\."):
        build_pipeline(config)


def test_data_is_asked_for_by_its_flag(tmp_path):
    config = make_config("", tmp_path)
    with pytest.raises(ConfigError, match=r"--config\.data\.dir=DIR"):
        build_pipeline(config)
    with pytest.raises(DataError, match="no such folder '/no/such'"):
        build_pipeline(changed(config, data__dir="/no/such"))


def test_patterns_and_features_may_stand_instead_of_a_folder(project, tmp_path):
    config = changed(
        make_config("", tmp_path),
        data__train=str(project.data / "train-*"),
        data__valid=str(project.data / "valid-*"),
    )
    with pytest.raises(ConfigError, match=r"data\.features: path of features\.json"):
        build_pipeline(config)
    config["data"]["features"] = str(project.data / "features.json")
    lines = build_pipeline(config).dry_run()
    assert any("packed" in line for line in lines)


@pytest.mark.parametrize(
    ("override", "nearest"),
    [
        ("pipeline.loss=softmx_loss", "softmax_loss"),
        ("pipeline.metrics=('ndgc_5',)", "ndcg"),
        ("pipeline.best_exporter_metric=ndcg_7", "ndcg_1"),
        ("pipeline.optimizer=adamm", "adam"),
        ("pipeline.strategy=MirrorStrategy", "MirroredStrategy"),
        ("pipeline.schedule.name=cosin", "cosine"),
        ("model.scorer=dn", "dnn"),
        ("model.preprocess=log1", "log1p"),
    ],
)
def test_an_unknown_name_offers_the_nearest(dry_run, override, nearest):
    error = dry_run(override)
    assert nearest in error.split("did you mean")[1]


@pytest.mark.parametrize(
    ("override", "name"),
    [
        ("pipeline.loss_args.temprature=2", "temprature"),
        ("pipeline.optimizer_args.weight_decya=2", "weight_decya"),
        ("pipeline.schedule.warmup_step=2", "warmup_step"),
        ("model.scorer_args.dropot=0.1", "dropot"),
        ("pipeline.loss_args.reduction=sum", "as pipeline.loss_reduction, found 'sum'"),
        ("pipeline.distill.teachr=x", "teachr"),
        ("pipeline.optimizer_args.weight_decay=abc", "from 0 on, found 'abc'"),
        ("pipeline.schedule.warmup_steps=-5", "warmup_steps: expected"),
        ("pipeline.metrics=(1, 2)", "config.pipeline.metrics"),
        ("pipeline.num_epochs=0", "num_epochs"),
        ("pipeline.learning_rate=-1", "learning_rate"),
        ("data.train_batch_size=0", "train_batch_size"),
    ],
)
def test_a_wrong_argument_is_wrong_usage_and_named(dry_run, override, name):
    assert name in dry_run(override)


# Settings without effect


@pytest.mark.parametrize("key", ["scorer", "scorer_args", "preprocess", "name"])
def test_settings_beside_a_builder_are_refused(project, tmp_path, key):
    config = make_config(project.data, tmp_path)
    value = config["model"].get(key, "mine")
    config["model"] = {"builder": "builders.letor:LetorModelBuilder", key: value}
    with pytest.raises(ConfigError, match=rf"model\.{key}: it has no effect beside"):
        build_pipeline(config)


def test_arguments_of_a_builder_without_one_are_refused(project, tmp_path):
    config = changed(
        make_config(project.data, tmp_path), model__builder_args={"dropout": 0.1}
    )
    with pytest.raises(ConfigError, match=r"builder_args: .* without model\.builder"):
        build_pipeline(config)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("builders.letor", "expected 'module:callable'"),
        ("nowhere.at_all:Builder", "No module named 'nowhere'"),
        ("builders.letor:Builder", "no attribute 'Builder'"),
        ("builders.letor:signed_log1p", "must take the argument 'features'"),
        ("builders.letor:DEFAULT_MASK", "cannot be called"),
        ("json:loads", "must take the argument 'features'"),
    ],
)
def test_a_builder_that_cannot_be_used_is_named(project, tmp_path, name, message):
    config = make_config(project.data, tmp_path)
    config["model"] = {"builder": name}
    config_lib.load(str(LETOR), [])  # puts the project on the path
    with pytest.raises(ConfigError, match=r"model\.builder") as caught:
        build_pipeline(config)
    assert message in str(caught.value)


def test_an_unknown_argument_of_a_builder_is_wrong_usage(dry_run):
    error = dry_run("model.builder_args.dropot=0.1", argument="builder")
    assert "unknown argument 'dropot' in config.model.builder_args" in error
    assert "did you mean 'dropout'" in error


def test_the_documentation_names_every_scorer_and_preprocessing():
    text = (ROOT / "docs" / "training.md").read_text()
    (row,) = [line for line in text.splitlines() if line.startswith("| `model` |")]
    for name in registry.names("scorer"):
        assert f"`{name}`" in row
    steps = (ROOT / "docs" / "preprocessing.md").read_text()
    for name in registry.names("preprocessing"):
        assert f"`{name}`" in steps


def test_the_commands_of_the_documentation_load(monkeypatch):
    monkeypatch.chdir(ROOT)
    text = (ROOT / "docs" / "training.md").read_text().replace("\\\n", " ")
    lines = [
        line for line in text.splitlines() if line.startswith("tfr-pipeline train")
    ]
    assert len(lines) >= 3
    for line in lines:
        words = [word for word in shlex.split(line) if word.startswith("--config")]
        (path,) = [word for word in words if word.startswith("--config=")]
        words.remove(path)
        config = config_lib.load(path[len("--config=") :], words)
        assert config["data"]["dir"].endswith("data")


# What config.json cannot hold


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("loss_args", {(1, 2): 3}, r"x: expected a dict with text .* \(1, 2\)"),
        ("optimizer_args", object(), r"x: expected what config.json can hold"),
        ("optimizer_args", [b"y"], r"x\[0\]: expected what config.json can hold"),
        ("loss_args", float("nan"), r"x: expected a finite"),
        ("loss_args", float("inf"), r"x: expected a finite"),
    ],
)
def test_a_value_that_json_cannot_hold_is_named_by_its_key(
    project, tmp_path, key, value, words
):
    config = changed(
        make_config(project.data, tmp_path), **{f"pipeline__{key}__x": value}
    )
    with pytest.raises(ConfigError, match=rf"^config\.pipeline\.{key}\.{words}"):
        build_pipeline(config)


def test_what_stands_for_text_or_a_list_is_recorded_as_such(project, tmp_path):
    config = make_config(
        project.data,
        tmp_path / "run",
    )
    config["model_dir"] = tmp_path / "run"
    config["pipeline"]["optimizer_args"] = {"weight_decay": np.float32(0.5)}
    told = build_pipeline(config)._config
    assert told["model_dir"] == str(tmp_path / "run")
    assert told["pipeline"]["optimizer_args"] == {"weight_decay": 0.5}
    assert json.loads(json.dumps(told)) == told
    assert serialization.plain({"x": {3, 1}}, "config") == {"x": [1, 3]}
