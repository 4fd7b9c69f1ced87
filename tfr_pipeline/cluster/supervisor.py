"""Runs the tasks of a job on this machine until they are done, or given up."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from types import FrameType

from tfr_pipeline.cluster.tf_config import Task

# Bad usage and bad configs do not get better by trying again.
_NO_RESTART = (2,)
_STOPPED = 143
_POLL_SECONDS = 0.1
_LONGEST_PAUSE = 60.0
_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of Linux's prctl


class Supervisor:
    """Starts tasks, passes signals on, and restarts all of them when one dies.

    Workers under MultiWorkerMirroredStrategy live and die together: the rest cannot go
    on without the one that is gone, and a run goes on from its last checkpoint.

    SIGTERM and SIGINT are passed on; the tasks save and end, and the exit code is 143.
    Tasks are never left behind: the kernel ends them if this process is killed.

    Args:
      command: What each task runs.
      make_tasks: Returns the tasks of one attempt, with ports that are free.
      log_dir: Folder of a log file a task, or None; their output is also shown, each
        line after the name of its task.
      max_restarts: How often to start again after a failure.
      grace: Seconds that tasks have to end by themselves before SIGKILL.
      back_off: Seconds before the first restart; doubles each time, up to a minute.
    """

    def __init__(
        self,
        command: Sequence[str],
        make_tasks: Callable[[], list[Task]],
        log_dir: str | None = None,
        max_restarts: int = 3,
        grace: float = 60.0,
        back_off: float = 1.0,
    ):
        self._command, self._make_tasks = list(command), make_tasks
        self._log_dir, self._max_restarts = log_dir, max_restarts
        self._grace, self._back_off = grace, back_off
        self._stop = False
        self._print = threading.Lock()

    def run(self) -> int:
        """Runs the job; returns its exit code: 0, 143, 2, or 1 when given up."""
        handled = (signal.SIGTERM, signal.SIGINT)
        previous = {
            number: signal.signal(number, self._on_signal) for number in handled
        }
        try:
            for attempt in range(self._max_restarts + 1):
                code = self._attempt()
                if self._stop:
                    return _STOPPED
                if code == 0 or code in _NO_RESTART:
                    return code
                if attempt < self._max_restarts:
                    pause = min(self._back_off * 2**attempt, _LONGEST_PAUSE)
                    self._say(
                        f"restart {attempt + 1} of {self._max_restarts} in {pause:g} s"
                    )
                    self._sleep(pause)
                    if self._stop:
                        return _STOPPED
            self._say(f"given up after {self._max_restarts} restarts")
            return 1
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._stop = True

    def _attempt(self) -> int:
        """Starts all tasks; returns 0 when all ended well, else the first bad code."""
        running: list[tuple[Task, subprocess.Popen[str]]] = []
        readers = []
        try:
            for task in self._make_tasks():
                process = self._start(task)
                running.append((task, process))
                readers.append(
                    threading.Thread(target=self._copy, args=(task, process))
                )
                readers[-1].start()
            return self._watch(running)
        finally:
            self._end([process for _, process in running], signal.SIGKILL, 0.0)
            for reader in readers:
                reader.join()

    def _watch(self, running: list[tuple[Task, subprocess.Popen[str]]]) -> int:
        processes = [process for _, process in running]
        while True:
            for task, process in running:
                code = process.poll()
                if code:
                    how = f"signal {-code}" if code < 0 else f"exit code {code}"
                    if not self._stop:
                        self._say(f"{task.name} ended with {how}; stopping the others")
                    self._end(processes, signal.SIGTERM, self._grace)
                    return code
            if all(process.poll() == 0 for process in processes):
                return 0
            if self._stop:
                self._say("stopping")
                self._end(processes, signal.SIGTERM, self._grace)
                return _STOPPED
            time.sleep(_POLL_SECONDS)

    def _end(
        self, processes: list[subprocess.Popen[str]], number: int, grace: float
    ) -> None:
        """Sends a signal to what still runs, and SIGKILL to what does after `grace`."""
        for process in processes:
            if process.poll() is None:
                process.send_signal(number)
        limit = time.monotonic() + grace
        for process in processes:
            try:
                process.wait(max(0.0, limit - time.monotonic()))
            except subprocess.TimeoutExpired:
                _kill_group(process)
                process.wait()
            else:
                _kill_group(process)  # what it may have started

    def _start(self, task: Task) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self._command,
            env={**os.environ, "TF_CONFIG": task.tf_config},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            # A terminal's Ctrl-C comes here alone, and is passed on once.
            start_new_session=True,
            preexec_fn=_die_with_parent,
        )

    def _copy(self, task: Task, process: subprocess.Popen[str]) -> None:
        """Copies the output of a task to its log file and to ours."""
        log = None
        if self._log_dir is not None:
            os.makedirs(self._log_dir, exist_ok=True)
            name = task.name.replace(" ", "-") + ".log"
            log = open(os.path.join(self._log_dir, name), "a", encoding="utf-8")  # noqa: SIM115
        assert process.stdout is not None
        for line in process.stdout:
            if log is not None:
                log.write(line)
                log.flush()
            with self._print:
                sys.stdout.write(f"[{task.name}] {line}")
                sys.stdout.flush()
        if log is not None:
            log.close()

    def _say(self, text: str) -> None:
        with self._print:
            print(f"[job] {text}", flush=True)

    def _sleep(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while not self._stop and time.monotonic() < end:
            time.sleep(min(_POLL_SECONDS, seconds))


def _kill_group(process: subprocess.Popen[str]) -> None:
    """Kills a task with the processes that it started."""
    with contextlib.suppress(ProcessLookupError):  # all have ended
        os.killpg(process.pid, signal.SIGKILL)


def _die_with_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_DEATH_SIGNAL, signal.SIGKILL)
