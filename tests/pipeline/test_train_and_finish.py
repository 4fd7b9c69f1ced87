"""Training and the end of a run as two calls, and actions beside the steps."""

from __future__ import annotations

import pathlib
import shutil
import sys

import pytest

from tests.pipeline.test_fit import parts
from tests.pipeline.training_helpers import (
    changed,
    make_config,
    read_history,
    read_json,
    tree,
)
from tfr_pipeline.compat import tf
from tfr_pipeline.errors import ConfigError, RunError
from tfr_pipeline.experiment.build import build_pipeline
from tfr_pipeline.pipeline.run import actions
from tfr_pipeline.pipeline.simple import SimplePipeline


def result(run):
    """Returns what is in `metrics.json` but does not depend on the clock."""
    content = read_json(run / "metrics.json")
    return {k: v for k, v in content.items() if "second" not in k}


def test_train_and_finish_leave_what_both_at_once_do(finished, tmp_path):
    together, run = finished[0], tmp_path / "apart"
    pipeline = build_pipeline({**together, "model_dir": str(run)})
    pipeline.train()
    assert not (run / "export").exists()
    assert not (run / "metrics.json").exists()
    assert not (run / "lock").exists()
    content = pipeline.finish()
    assert content == read_json(run / "metrics.json")
    wanted = result(pathlib.Path(together["model_dir"]))
    assert result(run) == wanted
    # Another process knows nothing of the training.
    (run / "metrics.json").unlink()
    build_pipeline(pipeline._config).finish()
    assert result(run) == wanted


def test_a_run_that_failed_is_finished_from_its_last_checkpoint(data, tmp_path):
    class Fails(SimplePipeline):
        def build_callbacks(self):
            def fail(epoch, logs):
                if epoch:
                    raise ZeroDivisionError

            return [actions.every_epoch(fail), *super().build_callbacks()]

    pipeline = Fails(*parts(data, tmp_path / "run"))
    with pytest.raises(ZeroDivisionError):
        pipeline.train()
    assert len(read_history(tmp_path / "run")) == 1
    assert pipeline.finish()["step"] == read_history(tmp_path / "run")[0]["step"]


def test_a_run_that_has_ended_gets_back_what_it_has_lost(finished, tmp_path):
    config, run = finished[0], tmp_path / "run"
    shutil.copytree(config["model_dir"], run)
    history = (run / "history.csv").read_bytes()
    (run / "history.csv").write_text("")
    (run / "metrics.json").unlink()
    build_pipeline({**config, "model_dir": str(run)}).train_and_validate()
    assert (run / "history.csv").read_bytes() == history
    assert read_json(run / "metrics.json")["best_step"] is not None


def test_a_run_that_has_ended_and_lost_its_best_weights_stays_as_it_was(
    finished, tmp_path
):
    config, run = finished[0], tmp_path / "run"
    shutil.copytree(config["model_dir"], run)
    for path in (run / "checkpoints").glob("best-*.index"):
        path.unlink()
    before = tree(run)
    pipeline = build_pipeline({**config, "model_dir": str(run)})
    for call in (pipeline.train_and_validate, pipeline.finish):
        with pytest.raises(RunError, match=r"best-.*No epoch is to come"):
            call()
        assert tree(run) == before


def test_finish_of_nothing_and_of_another_run_is_refused(finished, tmp_path):
    config = finished[0]
    with pytest.raises(RunError, match="found no checkpoint"):
        build_pipeline({**config, "model_dir": str(tmp_path / "run")}).finish()
    assert not (tmp_path / "run").exists()
    before = tree(config["model_dir"])
    with pytest.raises(ConfigError, match=r"learning_rate is 2\.0 there and 0\.5"):
        build_pipeline(changed(config, pipeline__learning_rate=0.5)).finish()
    assert tree(config["model_dir"]) == before


@pytest.mark.parametrize("name", ["latest_model", "best_model_by_metric"])
def test_a_model_of_others_where_an_export_goes_is_refused_before_training(
    data, tmp_path, name
):
    place = tmp_path / "run" / "export" / name
    place.mkdir(parents=True)
    (place / "saved_model.pb").write_text("mine")
    config = make_config(data, tmp_path / "run", export_best_model=True)
    for start in ("train", "dry_run"):
        with pytest.raises(RunError, match=rf"{name}.*did not put there"):
            getattr(build_pipeline(config), start)()
    assert list(tree(tmp_path / "run").values()) == [b"mine"]


def test_a_place_for_the_best_model_is_of_no_concern_where_none_is_exported(
    data, tmp_path
):
    place = tmp_path / "run" / "export" / "best_model_by_metric"
    place.mkdir(parents=True)
    (place / "saved_model.pb").write_text("mine")
    assert build_pipeline(make_config(data, tmp_path / "run")).dry_run()


MINE = """
from tfr_pipeline.pipeline.simple import SimplePipeline

SEEN = {"fours": [], "threes": [], "epochs": [], "ends": [], "held": []}

def fours(step, logs):
    SEEN["fours"].append(step)

def threes(step, logs):
    SEEN["threes"].append(step)

def epoch(epoch, logs):
    SEEN["epochs"].append((epoch, logs))

def end(logs):
    SEEN["ends"].append(logs)

class Watch(SimplePipeline):
    def build_callbacks(self):
        SEEN["actions"] = super().build_callbacks()
        return SEEN["actions"]

    def train(self, *args, **keywords):
        result = super().train(*args, **keywords)
        SEEN["held"].append(self._run._lock is not None)
        return result

    def finish(self, **keywords):
        SEEN["held"].append(self._run._lock is not None)
        return super().finish(**keywords)
"""


@pytest.fixture(scope="module")
def watched(data, tmp_path_factory):
    """A run whose config names actions, and what they saw."""
    folder = tmp_path_factory.mktemp("watched")
    (folder / "watching.py").write_text(MINE)
    config = make_config(
        data,
        folder / "run",
        num_epochs=2,
        steps_per_execution=2,
        pipeline="watching:Watch",
        schedule="plateau",
        callbacks=[
            {"name": "every_steps", "steps": 4, "function": "watching:fours"},
            {"name": "every_steps", "steps": 3, "function": "watching:threes"},
            {"name": "every_epoch", "function": "watching:epoch"},
            {"name": "at_end", "function": "watching:end"},
        ],
        export_best_model=True,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        build_pipeline(config).train_and_validate()
        seen = sys.modules.pop("watching").SEEN
    return folder / "run", seen


def test_the_run_directory_is_held_from_the_first_step_to_the_last_export(watched):
    run, seen = watched
    assert seen["held"] == [True, True]
    assert not (run / "lock").exists()


def test_actions_see_every_so_many_steps_at_the_next_report(watched):
    # 10 steps an epoch, of which Keras reports every second one.
    assert watched[1]["fours"] == [4, 8, 12, 16, 20]
    assert watched[1]["threes"] == [4, 6, 10, 12, 16, 18]


def test_actions_see_what_the_history_has_of_each_epoch_and_at_the_end(watched):
    run, seen = watched
    assert [epoch for epoch, _ in seen["epochs"]] == [0, 1]
    for row, (_, logs) in zip(read_history(run), seen["epochs"], strict=True):
        assert {key: row[key] for key in logs} == logs
    assert seen["ends"] == [seen["epochs"][-1][1]]


def test_the_order_of_the_actions_is_the_one_that_is_documented(watched):
    class Validate(tf.keras.callbacks.Callback):
        """Stands where parameter servers have what validates."""

    built = actions.guarded(watched[1]["actions"], str, False, Validate())
    own = {type(item) for item in built} - {
        type(item) for item in built if "Every" in type(item).__name__
    }
    names = [type(item).__name__ for item in built if type(item) in own]
    names[names.index("AtEnd")] = "yours"
    rows = [line for line in actions.__doc__.splitlines() if line.startswith("| ")]
    assert [row.split("|")[1].strip(" `") for row in rows[1:]] == names


@pytest.mark.parametrize(
    ("action", "message"),
    [
        ({"name": "every_epoch", "function": "report"}, "expected a function"),
        ({"name": "every_epoc", "function": "a:b"}, "did you mean 'every_epoch'"),
        ({"name": "every_steps", "function": "json:loads"}, "'steps'"),
        ({"name": "every_steps", "function": "json:loads", "steps": 0}, "at least 1"),
    ],
)
def test_an_action_that_cannot_be_is_refused(data, tmp_path, action, message):
    config = make_config(data, tmp_path / "run", callbacks=[action])
    with pytest.raises(ConfigError, match=message):
        for make in build_pipeline(config)._hparams.callbacks:
            make()
