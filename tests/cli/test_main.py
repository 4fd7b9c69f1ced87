"""The command itself: help, unknown words, exit codes, signals."""

from __future__ import annotations

import pathlib
import signal
import subprocess
import sys
import time

import pytest

from tests.cli.command_helpers import command
from tests.pipeline.training_helpers import environment
from tfr_pipeline import __version__
from tfr_pipeline.cli.main import COMMANDS, main


def python(code, *args):
    return subprocess.run(
        [sys.executable, "-c", code, *args],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize("words", [["--help"], ["-h"], ["help"]])
def test_help_lists_every_command(words, capsys):
    assert main(words) == 0
    out = capsys.readouterr().out
    for name, text in COMMANDS.items():
        assert f"{name} " in out
        assert text in out


def test_no_command_at_all_is_wrong_usage(capsys):
    assert main([]) == 2
    assert "usage: tfr-pipeline COMMAND" in capsys.readouterr().out


def test_the_help_of_all_commands_needs_no_tensorflow():
    code = """
import sys
from tfr_pipeline.cli.main import COMMANDS, main
main(["--help"])
main(["--version"])
for name in COMMANDS:
    try:
        main([name, "--help"])
    except SystemExit as end:
        assert end.code == 0, name
heavy = {"tensorflow", "tf_keras", "keras", "pyarrow"} & set(sys.modules)
assert not heavy, heavy
"""
    done = python(code)
    assert done.returncode == 0, done.stderr
    assert "--dry_run" in done.stdout
    assert "--query_file" in done.stdout
    assert __version__ in done.stdout


def test_an_unknown_command_offers_the_nearest(capsys):
    assert main(["trian"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: unknown command 'trian'; did you mean 'train'")
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "flag", "nearest"),
    [
        (
            ["convert", "--input=a", "--output=b", "--num_shard=3"],
            "num_shard",
            "shards",
        ),
        (["new", "somewhere", "--debugg"], "debugg", "--debug"),
        (["predict", "--model=m", "--input=i", "--output=o", "--formt=x"], "formt", ""),
        (["train", "--config=c.py", "--dryrun"], "dryrun", "--dry_run"),
        (["train", "--config=c.py", "--confg.seed=1"], "confg.seed", "--config"),
    ],
)
def test_an_unknown_flag_offers_the_nearest(words, flag, nearest, capsys):
    assert main(words) == 2
    error = capsys.readouterr().err
    assert f"unknown flag '--{flag}'" in error
    assert nearest in error
    assert error.count("\n") == 1


def test_a_missing_flag_is_wrong_usage(capsys):
    with pytest.raises(SystemExit) as end:
        main(["evaluate", "--model=m"])
    assert end.value.code == 2
    assert "--data" in capsys.readouterr().err


def test_a_failure_is_one_line_and_debug_adds_the_traceback(tmp_path, capsys):
    words = ["predict", "--model=m", "--input=nothing", f"--output={tmp_path}/o"]
    assert main(words) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: --input: no such file 'nothing'")
    assert error.count("\n") == 1
    assert main([*words, "--debug"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("Traceback")
    assert "error: --input: no such file 'nothing'" in error


def test_an_unexpected_failure_names_its_class(capsys):
    assert main(["new", "/proc/nothing"]) == 1
    error = capsys.readouterr().err
    assert "FileNotFoundError" in error or "PermissionError" in error
    assert "--debug shows where" in error


def test_an_interrupt_exits_with_130_and_says_so(tmp_path):
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "tfr_pipeline",
            "synthesize",
            f"--output={tmp_path}",
            "--queries=1000000",
        ],
        env=environment(),
        stderr=subprocess.PIPE,
        text=True,
    )
    # The command is at work, as its address space shows, long before it could end.
    while "numpy" not in pathlib.Path(f"/proc/{process.pid}/maps").read_text():
        time.sleep(0.05)
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert error == "interrupted\n"
    assert not list(tmp_path.iterdir())


def test_a_reader_that_goes_away_is_no_failure():
    done = subprocess.run(
        f"{sys.executable} -m tfr_pipeline --help | head -n 1; exit ${{PIPESTATUS[0]}}",
        shell=True,
        executable="/bin/bash",
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0
    assert "Traceback" not in done.stderr


def test_the_module_runs_as_the_command():
    done = command("--version")
    assert done.returncode == 0
    assert done.stdout == f"tfr_pipeline {__version__}\n"


def test_exit_codes_tell_data_from_settings(tmp_path, capsys):
    # DataError
    assert main(["convert", "--input=nothing", f"--output={tmp_path}/o"]) == 1
    assert capsys.readouterr().err.startswith("error: ")
    # ConfigError
    words = ["synthesize", f"--output={tmp_path}/o", "--features=2"]
    assert main(words) == 2
    assert "at least" in capsys.readouterr().err
    assert main(["new", str(pathlib.Path(__file__).parent)]) == 2
    assert "expected a new or empty folder" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()
