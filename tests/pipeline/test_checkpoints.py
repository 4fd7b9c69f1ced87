"""Checkpoints and run directories that lost files, or were never whole."""

from __future__ import annotations

import os
import pathlib
import shutil
import warnings
from unittest import mock

import numpy as np
import pytest

from tests.pipeline.training_helpers import tree
from tfr_pipeline.compat import tf
from tfr_pipeline.errors import PipelineError, RunError
from tfr_pipeline.pipeline.run.checkpoints import Checkpoints
from tfr_pipeline.pipeline.run.directory import RunDirectory
from tfr_pipeline.pipeline.run.state import RunState


def open_run(folder, units=3):
    """Returns checkpoints of a run for a small model, whose weights are all 0."""
    model = tf.keras.Sequential([tf.keras.layers.Dense(units, input_shape=(2,))])
    model.compile("adam", "mse")
    model.optimizer.build(model.trainable_variables)
    model.set_weights([np.zeros_like(weight) for weight in model.get_weights()])
    run = RunDirectory(str(folder))
    run.claim({"seed": 1})
    return model, Checkpoints(model, run, RunState())


def save(model, checkpoints, step, best=False):
    """Saves at a step, with weights that are all of this number."""
    model.optimizer.iterations.assign(step)
    model.set_weights([np.full_like(w, step) for w in model.get_weights()])
    if best:
        checkpoints.state.best_value, checkpoints.state.best_step = step, step
        checkpoints.save_best()
    checkpoints.save()


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A run saved at steps 10, 20 and 30, of which the last two are there."""
    folder = tmp_path_factory.mktemp("saved") / "run"
    model, checkpoints = open_run(folder)
    for step in (10, 20, 30):
        save(model, checkpoints, step, best=True)
    return folder


@pytest.fixture
def run(saved, tmp_path):
    return pathlib.Path(shutil.copytree(saved, tmp_path / "run"))


def cut(path):
    os.truncate(path, os.path.getsize(path) - 1)


def flip(path):
    content = bytearray(path.read_bytes())
    content[0] ^= 1
    path.write_bytes(content)


DATA = "ckpt-30.data-00000-of-00001"
DAMAGES = {
    "no file `checkpoint`": ("checkpoint", os.remove, 30),
    "garbage for `checkpoint`": ("checkpoint", lambda p: p.write_bytes(b"\xff\0"), 30),
    "no newest index": ("ckpt-30.index", os.remove, 20),
    "an empty newest index": ("ckpt-30.index", lambda p: p.write_bytes(b""), 20),
    "a cut newest index": ("ckpt-30.index", cut, 20),
    "no newest data": (DATA, os.remove, 20),
    "cut newest data": (DATA, cut, 20),
    "a wrong bit in the newest data": (DATA, flip, 20),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_the_newest_readable_checkpoint_is_restored_and_nothing_removed(run, damage):
    name, spoil, step = DAMAGES[damage]
    spoil(run / "checkpoints" / name)
    before = tree(run)
    model, checkpoints = open_run(run)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        assert checkpoints.restore()
        checkpoints.clean()
    assert checkpoints.step == step
    assert all((weight == step).all() for weight in model.get_weights())
    assert tree(run) == before
    messages = [str(warning.message) for warning in said]
    if step == 20:
        (message,) = [text for text in messages if "ckpt-30" in text]
        assert "ckpt-20" in message
    save(model, checkpoints, 40)
    assert checkpoints.step == 40
    _, again = open_run(run)
    assert again.restore() and again.step == 40


def test_when_no_checkpoint_can_be_read_the_run_does_not_begin_anew(run):
    for path in (run / "checkpoints").glob("ckpt-*.data*"):
        cut(path)
    before = tree(run)
    _, checkpoints = open_run(run)
    with pytest.raises(RunError, match="ckpt-30"):
        checkpoints.restore()
    assert tree(run) == before


def test_lost_checkpoints_of_a_run_with_a_history_are_no_new_run(run):
    (run / "history.csv").write_text("epoch,step\n0,10\n1,20\n2,30\n")
    shutil.rmtree(run / "checkpoints")
    _, checkpoints = open_run(run)
    with pytest.raises(RunError, match=r"checkpoints.*history\.csv"):
        checkpoints.restore()


def test_a_checkpoint_of_another_model_is_no_reason_to_take_an_older_one(run):
    _, checkpoints = open_run(run, units=4)
    with pytest.raises(RunError, match=r"ckpt-30.*Was the model changed"):
        checkpoints.restore()


def test_the_best_weights_of_the_checkpoint_before_are_still_there(run):
    (run / "checkpoints" / "ckpt-30.index").unlink()
    model, checkpoints = open_run(run)
    with pytest.warns(UserWarning, match="ckpt-30"):
        checkpoints.restore()
    assert checkpoints.state.best_step == 20
    assert checkpoints.restore_best()
    assert all((weight == 20).all() for weight in model.get_weights())


@pytest.mark.parametrize("name", ["ckpt-30.index", "best-30.index", DATA, "checkpoint"])
def test_a_folder_in_place_of_a_checkpoint_gives_way_to_it(run, name):
    (run / "checkpoints" / name).unlink()
    (run / "checkpoints" / name).mkdir()
    model, checkpoints = open_run(run)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert checkpoints.restore()
    save(model, checkpoints, 30, best=True)
    _, again = open_run(run)
    assert again.restore() and again.step == 30
    assert again.restore_best()


def test_a_checkpoint_that_cannot_be_written_is_named(run, monkeypatch):
    model, checkpoints = open_run(run)
    assert checkpoints.restore()
    before = tree(run)
    with monkeypatch.context() as patch:
        limit = tf.errors.ResourceExhaustedError(None, None, "No space left on device")
        patch.setattr(tf.train.Checkpoint, "write", mock.Mock(side_effect=limit))
        with pytest.raises(RunError, match=r"ckpt-40: .*No space left.*goes on"):
            save(model, checkpoints, 40)
    assert tree(run) == before


def test_best_weights_that_cannot_be_read_are_named(run):
    cut(run / "checkpoints" / "best-30.data-00000-of-00001")
    _, checkpoints = open_run(run)
    checkpoints.restore()
    with pytest.raises(RunError, match=r"best-30.*export the latest"):
        checkpoints.restore_best()


def test_best_weights_that_are_gone_end_a_run_that_has_ended_and_no_other(run):
    (run / "checkpoints" / "best-30.index").unlink()
    _, checkpoints = open_run(run)
    checkpoints.restore()
    with pytest.raises(RunError, match=r"best-30.*No epoch is to come.*export --run="):
        checkpoints.check_best(ended=True)
    with pytest.warns(UserWarning, match=r"best-30.*of those to come"):
        checkpoints.check_best(ended=False)
    assert checkpoints.state.best_value is None


@pytest.mark.parametrize("lost", ["", "config.json", "checkpoints"])
def test_a_run_whose_files_are_removed_ends_at_the_next_save(tmp_path, lost):
    folder = tmp_path / "run"
    model, checkpoints = open_run(folder)
    save(model, checkpoints, 10)
    path = folder / lost
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(RunError, match=f"{lost or 'config.json'}.* gone"):
        save(model, checkpoints, 20)
    assert path.exists() is False


@pytest.mark.parametrize("name", ["", "checkpoints"])
def test_a_file_in_place_of_a_folder_is_named(tmp_path, name):
    if name:
        (tmp_path / "run").mkdir()
    path = tmp_path / "run" / name
    path.write_text("")
    with pytest.raises(PipelineError, match=f"{path}.*expected a folder"):
        open_run(tmp_path / "run")[1].restore()


@pytest.mark.parametrize("name", ["config.json", "environment.json", "history.csv"])
def test_a_folder_in_place_of_a_file_is_named(tmp_path, name):
    (tmp_path / "run" / name).mkdir(parents=True)
    with pytest.raises(PipelineError, match=f"run/{name}.*expected a file"):
        open_run(tmp_path / "run")


@pytest.mark.parametrize("content", [b"\xff\xfe\0", b"", b"[1, 2]", b'{"seed": 1'])
def test_a_config_that_cannot_be_read_is_named(tmp_path, content):
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(PipelineError, match=f"{tmp_path}/config.json"):
        open_run(tmp_path)
    assert (tmp_path / "config.json").read_bytes() == content
