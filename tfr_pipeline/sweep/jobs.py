"""Trials as jobs: a launcher starts the processes that train one.

The worker of the sweep and the job's chief speak through files of the run directory,
which all machines of a job see. The chief says what an epoch came to, the worker of the
sweep whether the trial is pruned; see `job_task` for the other side.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from tfr_pipeline import files
from tfr_pipeline.cluster.process import die_with, group_is_empty, signal_group
from tfr_pipeline.cluster.supervisor import STOPPED
from tfr_pipeline.errors import ConfigError, DataError, RunError
from tfr_pipeline.experiment.config_files import ConfigFile

TASK, EPOCH, ANSWER, LOG = "job.json", "job_epoch.json", "job_answer.json", "job.log"
_SECONDS = 0.05
# What a job that is stopped has for saving, and one that is pruned for leaving; a
# launcher kills its tasks after 60 s by default.
_GRACE_SECONDS = 90.0
# Later than any epoch.
_LAST = 1 << 53
# After the name of the task, or of the program.
_ERROR = re.compile(r"(?:\[[^]]*\] )?(?:\S+: )?error: (.+)")
# Of a log, the end is searched for it.
_LOG_BYTES = 1 << 20
# Ends an error that nobody expected, as a task has whose peers are gone.
_UNEXPECTED = "(--debug shows where)"


class Judge(Protocol):
    """Decides on a run while it trains."""

    @property
    def asks(self) -> bool:
        """Whether it has to be told of epochs."""

    def check(self) -> None:
        """Raises an error if the run is to end at once."""

    def judge(self, epoch: int, logs: Mapping[str, Any]) -> bool:
        """Takes the logs of an epoch, from 1; returns whether the run is pruned."""


class Launcher:
    """What starts the processes of a trial.

    Args:
      text: A command as in a shell, which runs the command that is put behind it in
        all tasks of a job, and ends with its exit code: `launch/local.sh --workers=2
        --`.
      file: The config file of the sweep.

    Raises:
      ConfigError: It is no such command.
    """

    def __init__(self, text: str, file: ConfigFile):
        self._words, self._file = _words(text), file

    def command(self, run: str) -> list[str]:
        """Returns the command that trains in a run directory."""
        file = ":".join(filter(None, [self._file.file, self._file.argument]))
        task = os.path.join(os.path.abspath(run), TASK)
        python = [sys.executable, "-m", "tfr_pipeline"]
        return [*self._words, *python, "train", f"--config={file}", f"--job={task}"]

    def run(self, config: Mapping[str, Any], judge: Judge) -> bool:
        """Trains as a job, which ends before this does, however it ends.

        Its output is added to `job.log` in the run directory.

        Args:
          config: The config, as JSON.
          judge: Decides whether it goes on.

        Returns:
          Whether it was pruned.

        Raises:
          RunError: The job failed.
          SystemExit: Somebody else told it to end; it can go on later.
        """
        run = os.path.abspath(config["model_dir"])
        os.makedirs(run, exist_ok=True)
        command, log = self.command(run), os.path.join(run, LOG)
        with _mail(run), open(log, "ab") as output:
            task = {"config": {**config, "model_dir": run}, "asks": judge.asks}
            _write_private(os.path.join(run, TASK), json.dumps(task))
            output.write(f"$ {shlex.join(command)}\n".encode())
            output.flush()
            begin = output.tell()
            try:
                process = subprocess.Popen(
                    command,
                    # Scripts of `launch` take the interpreter from there.
                    env={"PYTHON": sys.executable, **os.environ},
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    preexec_fn=die_with(os.getpid()),
                )
            except OSError as error:
                raise ConfigError(
                    f"--launch: cannot start {command[0]!r}: {error.strerror}."
                ) from error
            try:
                pruned = _attend(process, run, judge)
            finally:
                _stop(process, run)
        if pruned:
            return True
        if not process.returncode:
            _check_done(run)
            return False
        if process.returncode == STOPPED:
            raise SystemExit(STOPPED)
        code = process.returncode
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        raise RunError(f"{_cause(log, begin)} (job ended with {how}; see {log})")


def _check_done(run: str) -> None:
    path = os.path.join(run, "metrics.json")
    if not os.path.exists(path):
        raise RunError(
            f"{path}: expected it from a job that ended with exit code 0, found none. "
            "What --launch names has to run the command behind it, and to wait for "
            "its end."
        )


def _words(text: str) -> list[str]:
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise ConfigError(f"--launch: {error}: {text!r}.") from None
    if len(words) < 2 or words[-1] != "--":
        raise ConfigError(
            "--launch: expected a command that ends with --, behind which that of a "
            f"trial is put, such as 'launch/local.sh --workers=2 --', found {text!r}."
        )
    program = os.path.expanduser(words[0])
    if shutil.which(program) is None:
        problem = "no such command"
        if os.path.exists(program):
            problem = "not a file that can be executed (chmod +x)"
        raise ConfigError(
            f"--launch: {words[0]!r}: {problem} (looked from {os.getcwd()})."
        )
    return [program, *words[1:]]


def _attend(process: subprocess.Popen[bytes], run: str, judge: Judge) -> bool:
    """Answers a job until it ends; returns whether it was pruned."""
    answered: Any = None
    limit = float("inf")
    while process.poll() is None and time.monotonic() < limit:
        judge.check()
        asked = read(os.path.join(run, EPOCH))
        if asked is not None and asked != answered:
            answered = asked
            pruned = judge.judge(asked["epoch"], asked["logs"])
            _answer(run, asked["epoch"], pruned)
            if pruned:
                limit = min(limit, time.monotonic() + _GRACE_SECONDS)
        time.sleep(_SECONDS)
    return limit < float("inf")


def _stop(process: subprocess.Popen[bytes], run: str) -> None:
    """Ends what still runs of a job, and waits for it."""
    if process.poll() is None:
        # Nobody decides any more, and who waits for an answer could not save.
        with contextlib.suppress(OSError):
            _answer(run, _LAST, False)
        signal_group(process, signal.SIGTERM)
        limit = time.monotonic() + _GRACE_SECONDS
        while time.monotonic() < limit:
            if process.poll() is not None and group_is_empty(process):
                break
            time.sleep(_SECONDS)
    signal_group(process, signal.SIGKILL)
    process.wait()


def _answer(run: str, epoch: int, pruned: bool) -> None:
    text = json.dumps({"epoch": epoch, "pruned": pruned})
    files.write_text(os.path.join(run, ANSWER), text)


def read(path: str) -> dict[str, Any] | None:
    """Returns what a file of the two sides says, or None if it is not there."""
    try:
        return files.read_json(path)
    except DataError:
        return None


@contextlib.contextmanager
def _mail(run: str) -> Iterator[None]:
    """Removes the files of the two sides, also those of a job that was killed."""

    def remove() -> None:
        for name in (TASK, EPOCH, ANSWER):
            with contextlib.suppress(FileNotFoundError):
                os.remove(os.path.join(run, name))

    remove()
    try:
        yield
    finally:
        remove()


def _write_private(path: str, text: str) -> None:
    """Writes a file for this user: URLs of data may have passwords."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with open(file, "w", encoding="utf-8") as opened:
        opened.write(text)


def _cause(log: str, begin: int) -> str:
    """Returns what a job said last of why it failed.

    Args:
      log: Its output.
      begin: Where it begins there.
    """
    with open(log, "rb") as file:
        file.seek(max(begin, os.path.getsize(log) - _LOG_BYTES))
        lines = file.read().decode(errors="replace").splitlines()
    errors = [match[1] for line in lines if (match := _ERROR.match(line))]
    expected = [line for line in errors if not line.endswith(_UNEXPECTED)]
    said = expected or errors or [line for line in lines if line.strip()]
    return said[-1] if said else "the job said nothing"
