"""`export`: runs that it cannot make a SavedModel of."""

from __future__ import annotations

import json
import shutil

import pytest

from tfr_pipeline.cli.main import main


def export(run, output, *flags):
    return main(["export", f"--run={run}", f"--output={output}", *flags])


def test_a_run_from_python_that_ended_before_its_template_is_refused(tmp_path, capsys):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text('{"num_epochs": 3}')
    assert export(tmp_path / "run", tmp_path / "e") == 1
    error = capsys.readouterr().err
    assert "was started from Python" in error and "checkpoints/template" in error
    assert not (tmp_path / "e").exists()


def test_a_best_checkpoint_that_was_removed_is_named(trained, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(trained.run, run)
    for path in (run / "checkpoints").glob("best-*"):
        path.unlink()
    assert export(run, tmp_path / "e", "--best") == 1
    error = capsys.readouterr().err
    assert "the checkpoint of the best epoch is gone" in error
    assert not (tmp_path / "e").exists()


@pytest.mark.parametrize("content", ["[", "5", '{"pipeline": 5}', "[" * 100_000])
def test_a_config_that_is_none_is_named(tmp_path, capsys, content):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text(content)
    assert export(tmp_path / "run", tmp_path / "e") == 1
    assert f"error: {tmp_path}/run/config.json: " in capsys.readouterr().err
    assert not (tmp_path / "e").exists()


def test_a_config_that_another_version_wrote_is_named(trained, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(trained.run, run)
    shutil.rmtree(run / "checkpoints" / "template")
    config = json.loads((run / "config.json").read_text())
    config["pipeline"]["new_setting"] = 1
    (run / "config.json").write_text(json.dumps(config))
    assert export(run, tmp_path / "e") == 2
    assert "pipeline.new_setting" in capsys.readouterr().err
    assert not (tmp_path / "e").exists()
