"""The local child process of a task: how it starts, what it says, how it ends."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence

from tfr_pipeline.cluster import ports
from tfr_pipeline.cluster.beat import Beat, take
from tfr_pipeline.cluster.output import Output
from tfr_pipeline.cluster.tf_config import Task

_LONGEST_LINE = 1 << 20
# Of Linux's prctl: PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER.
_DEATH_SIGNAL, _ADOPT = 1, 36
# Errors of a start that come again.
_HOPELESS = (errno.ENOENT, errno.EACCES, errno.ENOEXEC, errno.ENOTDIR)
_prctl = ctypes.CDLL(None).prctl if sys.platform == "linux" else None


class Process:
    """A task that runs.

    Args:
      task: The task.
      words: Command of the local child process.
      environment: Its environment.
      output: Gets its lines.
      now: A clock.
      remote: Whether the task runs elsewhere, below `tfr_pipeline.cluster.task`, so
        that words over its standard input do what signals do here.

    Attributes:
      task: The task.
      started: When it was started.
      heard: When it was last heard, or None before its first beat.
      beat: What it said last of where it stands, or None.
      reached: Whether its port has been seen open.
    """

    def __init__(
        self,
        task: Task,
        words: Sequence[str],
        environment: Mapping[str, str],
        output: Output,
        now: Callable[[], float],
        remote: bool = False,
    ):
        self.task, self._output, self._now = task, output, now
        self.started, self.reached = now(), False
        self.heard: float | None = None
        self.beat: Beat | None = None
        self._moved = now()
        self._said, self._showing, self._told = 0.0, False, False
        self._child = subprocess.Popen(
            words,
            env=environment,
            stdin=subprocess.PIPE if remote else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            # A terminal's Ctrl-C comes to the supervisor alone, and is passed on once.
            start_new_session=True,
            preexec_fn=die_with(os.getpid()),
        )
        if self._child.stdin is not None:
            os.set_blocking(self._child.stdin.fileno(), False)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        if task.address is not None:
            threading.Thread(target=self._probe, daemon=True).start()

    @property
    def up(self) -> bool:
        """Whether the task has shown life."""
        return self.reached or self.heard is not None

    @property
    def silence(self) -> float:
        """Seconds since it was last heard, by whatever it says; 0 before it ever was.

        0 also while its output is not taken from us, as by a terminal after Ctrl-S:
        then nobody listens to it.
        """
        if self.heard is None or self._showing:
            return 0.0
        return self._now() - self.heard

    @property
    def still(self) -> float:
        """Seconds for which it has said the same of where it stands.

        Those for which its output was not taken do not count: it may have waited.
        """
        return 0.0 if self._showing else self._now() - self._moved

    def poll(self) -> int | None:
        """Returns the exit code, below zero for signals, or None while it runs.

        A task that was told to end runs as long as anybody of it: a shell may have
        ended at once, and what it started is saving.
        """
        code = self._child.poll()
        if self._told and code is not None and not group_is_empty(self._child):
            return None
        return code

    def terminate(self) -> None:
        """Asks the task to save and to end, once."""
        if self._told or self._child.poll() is not None:
            return
        if self._child.stdin is None:
            self._told = True
            signal_group(self._child, signal.SIGTERM)
        elif self._say(b"TERM\n"):
            self._told = True

    def trace(self) -> None:
        """Asks the task to say where its threads are; it is killed afterwards.

        Whatever of it has no answer may end by that.
        """
        if self._child.stdin is None:
            signal_group(self._child, signal.SIGUSR1)
        else:
            self._say(b"WHERE\n")

    def keep(self) -> None:
        """Tells a remote task, once a second, that it is still looked after."""
        if self._child.stdin is not None and self._now() - self._said >= 1.0:
            self._said = self._now()
            self._say(b"\n")

    def kill(self) -> None:
        """Kills whatever still runs of the task."""
        signal_group(self._child, signal.SIGKILL)

    def finish(self) -> int:
        """Kills what runs, and reads its last lines; returns the exit code."""
        self.kill()
        code = self._child.wait()
        if self._child.stdin is not None:
            with contextlib.suppress(OSError):
                self._child.stdin.close()
        # Somebody who left the group may hold the pipe open.
        self._reader.join(timeout=1.0)
        group_is_empty(self._child)
        return code

    def _say(self, words: bytes) -> bool:
        assert self._child.stdin is not None
        with contextlib.suppress(OSError):  # it has ended, or its host is away
            os.write(self._child.stdin.fileno(), words)
            return True
        return False

    def _read(self) -> None:
        assert self._child.stdout is not None
        with self._output.task(self.task) as write, self._child.stdout as pipe:
            rest = b""
            while chunk := os.read(pipe.fileno(), 1 << 16):
                rest += chunk
                rest, heard = take(rest)
                if heard:
                    self.heard = self._now()
                for beat in heard:
                    if beat is not None and beat != self.beat:
                        self.beat, self._moved = beat, self._now()
                # A beat may be cut in two, but no line ends within one.
                *lines, rest = rest.split(b"\n")
                if len(rest) > _LONGEST_LINE:
                    lines, rest = [*lines, rest], b""
                self._showing, before = True, self._now()
                for line in lines:
                    write(line + b"\n")
                if self.heard is not None:
                    self.heard = self._now()
                self._moved += self._now() - before
                self._showing = False
            if rest:
                write(rest + b"\n")

    def _probe(self) -> None:
        assert self.task.address is not None
        while self._child.returncode is None and not self.reached:
            self.reached = ports.answers(self.task.address)
            time.sleep(0.5)


def environment(tf_config: str, folder: str | None, beats: bool) -> dict[str, str]:
    """Returns the environment of a task.

    Args:
      tf_config: Its TF_CONFIG.
      folder: For its temporary files, or None for that of this process.
      beats: Whether somebody takes its beats out of its output again.
    """
    return {
        **os.environ,
        "TF_CONFIG": tf_config,
        # A peer that is away for a moment is waited for.
        "GRPC_FAIL_FAST": "use_caller",
        **({"TFR_PIPELINE_HEARTBEAT": "1"} if beats else {}),
        **({"TMPDIR": folder} if folder else {}),
    }


def signal_group(child: subprocess.Popen[bytes], number: int) -> None:
    """Sends a signal to a process that leads a group, and to what it started."""
    # All have ended, or are another user's.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, number)


def group_is_empty(child: subprocess.Popen[bytes]) -> bool:
    """Whether nobody is left of the group that a process led, which has ended."""
    # Those whom `adopt_orphans` made ours count until they are collected.
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-child.pid, os.WNOHANG)[0]:
            pass
    try:
        os.killpg(child.pid, 0)
    except (ProcessLookupError, PermissionError):
        return True
    return False


def adopt_orphans() -> None:
    """Makes orphans below this process its own: the first one may not collect them."""
    if _prctl is not None:
        _prctl(_ADOPT, 1, 0, 0, 0)


def is_hopeless(error: OSError) -> bool:
    """Whether a process that could not be started never can be."""
    return error.errno in _HOPELESS


def die_with(parent: int) -> Callable[[], None]:
    """Returns what a child does before it starts, to be killed with its parent."""

    def prepare() -> None:
        if _prctl is not None:
            _prctl(_DEATH_SIGNAL, signal.SIGKILL)
            if os.getppid() != parent:  # which ended before
                os._exit(1)

    return prepare
