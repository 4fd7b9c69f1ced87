"""Commands whose standard output or error nobody takes, and paths that are no text."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.pipeline.training_helpers import environment
from tfr_pipeline.cli.main import main


@pytest.mark.parametrize(
    ("redirection", "code", "error"),
    [
        ("| true", 0, ""),
        (">&-", 0, ""),
        (">&- 2>&-", 0, ""),
        ("2>&-", 0, ""),
        (">/dev/full", 1, "error: standard output: No space left on device\n"),
        ("2>/dev/full", 0, ""),
    ],
)
def test_what_was_written_to_files_is_kept_when_a_stream_is_closed(
    project, tmp_path, redirection, code, error
):
    # One list has one document, which is a warning on standard error.
    text = f"--input={project.text}/train.txt"
    words = f"-m tfr_pipeline convert {text} --output={tmp_path}/o {redirection}"
    done = subprocess.run(
        f"{sys.executable} {words}; exit ${{PIPESTATUS[0]}}",
        shell=True,
        executable="/bin/bash",
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
    )
    lines = done.stderr.splitlines(keepends=True)
    assert "".join(x for x in lines if not x.startswith(("warning", "conv"))) == error
    assert done.returncode == code
    assert sorted(os.listdir(tmp_path / "o")) == [
        "features.json",
        "train-00000-of-00001.tfrecord",
        "train.index.npz",
        "train.stats.json",
    ]


@pytest.mark.slow
def test_training_goes_on_when_its_readers_have_gone(project, tmp_path, monkeypatch):
    read, write = os.pipe()
    os.close(read)
    with open(write, "w", buffering=1) as out, open(os.dup(write), "w") as error:
        monkeypatch.setattr(sys, "stdout", out)
        monkeypatch.setattr(sys, "stderr", error)
        assert main(["train", *project.train_flags(tmp_path / "run")]) == 0
        monkeypatch.undo()
    assert (tmp_path / "run" / "metrics.json").exists()
    assert list((tmp_path / "run" / "export" / "latest_model").glob("*/*.pb"))


def test_a_path_whose_bytes_are_no_text_is_read_written_and_printed(project, tmp_path):
    folder = os.path.join(os.fsencode(tmp_path), b"caf\xe9")
    os.mkdir(folder)
    source = os.path.join(folder, b"\xff.txt")
    with open(source, "wb") as file:
        file.write((project.text / "test.txt").read_bytes())
    done = subprocess.run(
        [
            *(sys.executable, "-m", "tfr_pipeline", "convert"),
            *(b"--input=" + source, b"--output=" + folder + b"/o"),
        ],
        # As in a locale that is not the C locale.
        env={**environment(), "PYTHONIOENCODING": "utf-8:strict"},
        capture_output=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert rb"caf\udce9/o: train: " in done.stdout
    assert len(os.listdir(folder + b"/o")) == 4
