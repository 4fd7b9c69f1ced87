"""Runs the tasks of a job until it is done, or given up."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import time
from collections.abc import Callable, Sequence
from types import FrameType

from tfr_pipeline.cluster import stall
from tfr_pipeline.cluster.clock import Clock, Restarts
from tfr_pipeline.cluster.folders import temporary_folder
from tfr_pipeline.cluster.output import Output
from tfr_pipeline.cluster.ports import taken
from tfr_pipeline.cluster.process import (
    Process,
    adopt_orphans,
    environment,
    is_hopeless,
)
from tfr_pipeline.cluster.tf_config import EVALUATOR, Task

DONE, GIVEN_UP, BAD_USAGE, STOPPED = 0, 1, 2, 143
# Ends of a task: its port was taken; it is no use to try again (2: bad usage or a bad
# config; 126 and 127: what a shell says of a command that it cannot start).
PORT_TAKEN = 98
# Bad data, which the job ends with 1 for; see `tfr_pipeline.uncaught`.
_BAD_DATA = 65
_HOPELESS = (BAD_USAGE, _BAD_DATA, 126, 127)
# It was told to end, by somebody else than us.
_TOLD = (STOPPED, -signal.SIGTERM)
_ALL_AGAIN = -1

_POLL_SECONDS = 0.1
# What is left of a job that failed has little to save: its peers are gone.
_GRACE_AFTER_FAILURE = 10.0
# For a task to say where it waits.
_TRACE_SECONDS = 1.0


class Supervisor:
    """Starts the tasks of a job, passes signals on, and restarts what dies.

    Who restarts when somebody dies: without parameter servers, all: the rest cannot go
    on without the one that is gone, and a run goes on from its last checkpoint. With
    servers, a dead worker alone, at its own address, where the coordinator finds it
    again; all when it was the chief or a server. An evaluator alone, always, and its
    restarts are counted apart. Who ends with 143 was told to by somebody else, as when
    its host is needed; that is no failure and counts for nothing.

    The job is done when the chief, or without one all workers, ended with 0; the rest
    is then asked to end.

    A job gives up after so many restarts without a new checkpoint: what it has saved it
    need not do again, so that failures from time to time never end a long one. Tasks
    say in their beats which checkpoint they have saved.

    SIGTERM, SIGINT and SIGHUP are passed on as SIGTERM; tasks save and end, and the
    exit code is 143. At the second signal they are killed, unless that is a SIGHUP: a
    terminal that is closed sends two. Tasks are never left behind: the kernel ends them
    if this process is killed.

    Args:
      start: Returns the command of the local child process that runs a task: of the
        task itself, or of a client such as ssh or srun.
      make_tasks: Returns the tasks of an attempt, given its number from 0: each attempt
        should use other ports.
      remote: The tasks run on other machines, below `tfr_pipeline.cluster.task`: they
        are told to end over their standard input, check their port themselves, and
        have temporary folders there. Here the supervisor does so.
      log_dir: Folder of a log file a task, or None; their output is also shown, each
        line after the name of its task.
      max_restarts: How often to start again, one task or all, after failures, until
        there is a new checkpoint; and as often for the evaluator, until it has
        evaluated one.
      grace: Seconds that tasks have to end by themselves before SIGKILL.
      start_timeout: Seconds until all have to be there, once one of the cluster is; 0
        for no limit.
      hang_timeout: Seconds of silence after which a task that was heard before is
        killed; 0 for no limit.
      stall_timeout: Seconds without a step after which a job that says it trains is
        taken for one that waits for ever, and who holds it up is killed; 0 for no
        limit. See `stall`.
      back_off: Seconds before the first restart; doubles each time, up to a minute.
    """

    def __init__(
        self,
        start: Callable[[Task], Sequence[str]],
        make_tasks: Callable[[int], list[Task]],
        *,
        remote: bool = False,
        log_dir: str | None = None,
        max_restarts: int = 3,
        grace: float = 60.0,
        start_timeout: float = 300.0,
        hang_timeout: float = 120.0,
        stall_timeout: float = 1800.0,
        back_off: float = 1.0,
    ):
        self._start_words, self._make_tasks, self._remote = start, make_tasks, remote
        self._log_dir, self._grace = log_dir, grace
        self._start_timeout, self._hang_timeout = start_timeout, hang_timeout
        self._stall_timeout = stall_timeout
        self._restarts = Restarts(max_restarts, back_off)
        self._evaluator_restarts = Restarts(max_restarts, back_off)
        self._clock = Clock()
        self._now = self._clock.now
        self._first_up: float | None = None
        self._step = -1  # the furthest that was heard of, in this attempt
        self._folder: str | None = None
        self._running: dict[str, Process] = {}
        self._ended: dict[str, int] = {}
        self._due: dict[str, tuple[Task, float]] = {}
        self._signals = 0

    def run(self) -> int:
        """Runs the job; returns its exit code: 0, 143, 2, or 1 when given up."""
        handled = [signal.SIGTERM, signal.SIGINT]
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # not under nohup
            handled.append(signal.SIGHUP)
        previous = {
            number: signal.signal(number, self._on_signal) for number in handled
        }
        adopt_orphans()
        try:
            with (
                contextlib.nullcontext()
                if self._remote
                else temporary_folder("tfr_pipeline_job_")
            ) as self._folder:
                return self._run()
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _run(self) -> int:
        try:
            try:
                self._output = Output(self._log_dir)
            except OSError as error:
                self._output = Output(None)
                self._say(f"--log_dir: {error}; choose another folder")
                return BAD_USAGE
            attempt, code = 0, _ALL_AGAIN
            while code == _ALL_AGAIN:
                code = self._attempt(self._make_tasks(attempt))
                attempt += 1
            return code
        finally:
            self._end(0.0)
            self._output.close(hurry=lambda: self._signals > 0)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if number != signal.SIGHUP or not self._signals:
            self._signals += 1

    # The job

    def _attempt(self, tasks: list[Task]) -> int:
        """Runs all tasks until the job is done, or has to start again or to end."""
        self._tasks = tasks
        self._ended.clear()
        self._due.clear()
        self._first_up, self._step = None, -1
        for task in tasks:
            if task.name not in self._running:  # an evaluator goes on
                code = self._start(task)
                if code is not None:
                    return code
        while not self._signals:
            for process in list(self._running.values()):
                code = self._look_after(process)
                if code is not None:
                    return code
            if self._is_done():
                self._end(self._grace)
                return DONE
            code = self._check_progress()
            if code is not None:
                return code
            code = self._start_what_is_due()
            if code is not None:
                return code
            self._tick()
        return self._stop()

    def _is_done(self) -> bool:
        first = "chief" if self._has("chief") else "worker"
        for task in self._tasks:
            if task.job == first:
                running = self._running.get(task.name)
                code = running.poll() if running else self._ended.get(task.name)
                if code != 0:
                    return False
        return True

    def _has(self, job: str) -> bool:
        return any(task.job == job for task in self._tasks)

    def _stop(self) -> int:
        done = self._is_done()
        for process in self._running.values():
            process.terminate()
        if not done:
            self._say("stopping")
        self._end(self._grace)
        return DONE if self._is_done() else STOPPED

    # One task

    def _start(self, task: Task) -> int | None:
        """Starts a task; returns a code when that decides the job."""
        problem = None if self._remote or not task.address else taken(task.address)
        if problem:
            self._say(f"{task.name}: {problem}")
            return self._fail(None)
        words = self._start_words(task)
        try:
            variables = environment(task.tf_config, self._folder_of(task), beats=True)
            self._running[task.name] = Process(
                task, words, variables, self._output, self._now, self._remote
            )
        except OSError as error:
            self._say(f"{task.name}: cannot start {words[0]!r}: {error.strerror}")
            self._ended[task.name] = GIVEN_UP
            if not is_hopeless(error):  # no memory, no processes, no space
                return self._fail(task if self._is_alone(task) else None)
            self._end(self._grace)
            return BAD_USAGE
        return None

    def _folder_of(self, task: Task) -> str | None:
        """An empty folder: what a killed task left behind goes before the next one."""
        if self._folder is None:
            return None
        folder = os.path.join(self._folder, task.name.replace(" ", "-"))
        shutil.rmtree(folder, ignore_errors=True)
        os.makedirs(folder)
        return folder

    def _is_alone(self, task: Task) -> bool:
        """Whether a task starts again without the others."""
        return task.job == EVALUATOR or (task.job == "worker" and self._has("ps"))

    def _look_after(self, process: Process) -> int | None:
        """Looks whether a task lives; returns a code when that decides the job."""
        code, task = process.poll(), process.task
        self._learn(process)
        if self._first_up is None and process.up and task.address is not None:
            self._first_up = self._now()
        if code is None:
            if not process.silence > self._hang_timeout > 0:
                return self._check_start(process)
            silence = f"{process.silence:.0f} s"
            self._say(f"{_where(task)} has not been heard for {silence}; killing it")
            code = -signal.SIGKILL
        process.finish()
        self._learn(process)  # from its last words
        del self._running[task.name]
        self._ended[task.name] = code
        # A worker of parameter servers waits until it is told to end.
        waits = task.job == "worker" and self._has("ps")
        if (code == 0 and not waits) or self._is_done():
            return None
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        if code in _HOPELESS or code == PORT_TAKEN or not self._is_alone(task):
            others = [task for task in self._tasks if task.name in self._running]
            rest = "; stopping the others" if others else ""
            self._say(f"{task.name} ended with {how}{rest}")
            if code in _HOPELESS:
                self._say("not started again: a restart would end the same way")
                self._end(self._grace)
                return GIVEN_UP if code == _BAD_DATA else BAD_USAGE
            return self._fail(None, told=code in _TOLD)
        self._say(f"{task.name} ended with {how}")
        return self._fail(task, told=code in _TOLD)

    def _check_start(self, process: Process) -> int | None:
        # A command that never shows life may be one that has no need to.
        if self._first_up is None or process.up or process.task.address is None:
            return None
        since = max(self._first_up, process.started)
        if not self._now() - since > self._start_timeout > 0:
            return None
        missing = [
            _where(other.task)
            for other in self._running.values()
            if other.task.address is not None and not other.up
        ]
        self._say(
            f"missing after {self._start_timeout:g} s: {', '.join(missing)}; neither "
            "open nor ended. Stopping all"
        )
        return self._fail(None)

    def _learn(self, process: Process) -> None:
        """Notes what a task says of itself: how far it is, and how far for good."""
        if process.beat is None:
            return
        evaluates = process.task.job == EVALUATOR
        restarts = self._evaluator_restarts if evaluates else self._restarts
        if restarts.keep(process.beat.kept):
            what = "evaluated" if evaluates else "saved"
            self._say(
                f"step {restarts.kept} is {what}: {restarts.most} restarts are left "
                "again"
            )
        if not evaluates:
            self._step = max(self._step, process.beat.step)

    def _check_progress(self) -> int | None:
        """Looks whether the job moves on; returns a code when that decides it."""
        if self._due:
            return None  # who is away is waited for
        members = [p for p in self._running.values() if p.task.job != EVALUATOR]
        blamed = stall.blamed(members, self._stall_timeout)
        if not blamed:
            return None
        for process in blamed:
            assert process.beat is not None
            since = time.strftime("%X", time.localtime(time.time() - process.still))
            self._say(
                f"{_where(process.task)} has not moved for {process.still:.0f} s, "
                f"since {since}: {stall.where(process.beat)}; killing it"
            )
        why = stall.why(blamed, members)
        self._say(
            f"{why}if that was no deadlock, allow for more than "
            f"--stall_timeout={self._stall_timeout:g}"
        )
        for process in blamed:
            process.trace()
        limit = self._now() + _TRACE_SECONDS
        while self._now() < limit and not self._signals:
            self._tick()
        for process in blamed:
            process.finish()
            del self._running[process.task.name]
            self._ended[process.task.name] = -signal.SIGKILL
        return self._fail(None)

    # Restarts

    def _fail(self, alone: Task | None, told: bool = False) -> int | None:
        """Plans a restart, of one task or of all, or gives up."""
        evaluates = alone is not None and alone.job == EVALUATOR
        restarts = self._evaluator_restarts if evaluates else self._restarts
        if not told:
            restarts.failed(-1 if evaluates else self._step)
        pause, most = restarts.next(self._now(), counts=not told), restarts.most
        grace = min(self._grace, _GRACE_AFTER_FAILURE)
        if pause is None:
            if alone is not None and evaluates:
                self._say(f"{alone.name} stays away: no restarts are left")
                return None
            self._end(grace)
            self._say(f"given up after {restarts}")
            return GIVEN_UP
        which = "(not counted)" if told else f"{restarts.count} of {most}"
        whom = "" if alone is None else f", {alone.name} alone"
        self._say(f"restart {which} in {pause:g} s{whom}")
        when = self._now() + pause
        if alone is not None:
            self._due[alone.name] = alone, when
            return None
        # The peers of who was told to end have agreed to, and are saving.
        self._end(self._grace if told else grace, spare=EVALUATOR)
        while self._now() < when and not self._signals:
            self._tick()
        return self._stop() if self._signals else _ALL_AGAIN

    def _start_what_is_due(self) -> int | None:
        for name, (task, when) in list(self._due.items()):
            if self._now() >= when:
                del self._due[name]
                self._ended.pop(name, None)
                code = self._start(task)
                if code is not None:
                    return code
        return None

    def _end(self, grace: float, spare: str | None = None) -> None:
        """Asks what still runs to end, and kills what does not within `grace`."""
        ending = [p for p in self._running.values() if p.task.job != spare]
        self._output.ending = True
        limit = self._now() + grace
        while any(process.poll() is None for process in ending):
            if self._now() >= limit or self._signals > 1:
                break
            for process in ending:
                process.terminate()
            self._tick()
        for process in ending:
            if process.poll() is None and grace > 0:
                self._say(f"{process.task.name} has not ended; killing it")
            process.kill()
        for process in ending:
            self._ended[process.task.name] = process.finish()
            del self._running[process.task.name]
        self._output.ending = False

    def _tick(self) -> None:
        time.sleep(_POLL_SECONDS)
        self._clock.tick()
        for process in self._running.values():
            process.keep()

    def _say(self, text: str) -> None:
        self._output.say(text)


def _where(task: Task) -> str:
    return task.name if task.address is None else f"{task.name} ({task.address})"
