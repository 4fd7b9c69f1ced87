"""Several workers on one machine: processes, each with its share of the cores."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

from tfr_pipeline.cores import environment_of, shares
from tfr_pipeline.errors import RunError
from tfr_pipeline.sweep.live import LiveConsole

# Exit code of a worker that was to train some trials only, while there are more.
MORE = 75
# The storage of workers; its password is not for the list of processes.
STORAGE = "TFR_PIPELINE_STORAGE"
# A worker that a signal ended is started again so often.
_RESTARTS = 5
_GRACE_SECONDS = 120.0
_POLL_SECONDS = 0.2


class Processes:
    """Starts workers, and starts those again that die.

    Args:
      command: What a worker runs, after `tfr-pipeline`.
      url: Its storage.
      workers: How many there are.
      seconds: No trial begins so many seconds from now; None for no limit.
      console: On a terminal, says what workers say.
    """

    def __init__(
        self,
        command: Sequence[str],
        url: str,
        workers: int,
        seconds: float | None = None,
        console: LiveConsole | None = None,
    ):
        self._command, self._url = list(command), url
        self._console = console
        self._shares = shares(workers, sorted(os.sched_getaffinity(0)))
        self._end = None if seconds is None else time.monotonic() + seconds
        self._running: dict[int, subprocess.Popen[bytes]] = {}
        self._restarts = [0] * workers

    def run(self) -> int:
        """Runs the workers to the end of the study; returns the exit code.

        Raises:
          RunError: Workers died time and again, without an error of their own.
          SystemExit: SIGTERM came; the workers have parked their trials.
        """
        worst, died = 0, 0
        with self._forwarding():
            for slot in range(len(self._shares)):
                self._start(slot)
            while self._running:
                time.sleep(_POLL_SECONDS)
                for slot, process in list(self._running.items()):
                    code = process.poll()
                    if code is None:
                        continue
                    del self._running[slot]
                    if code == MORE:
                        if self._end is None or time.monotonic() < self._end:
                            self._start(slot)
                    elif code < 0:
                        died = code
                        self._again(slot, code)
                    else:
                        worst = max(worst, code)
        if died and not worst and all(n > _RESTARTS for n in self._restarts):
            raise RunError(
                f"all workers died of signals ({signal.Signals(-died).name} was the "
                "last): is there memory enough for so many? The same command goes on."
            )
        return worst

    def _start(self, slot: int) -> None:
        cores = self._shares[slot]
        environment = {**os.environ, STORAGE: self._url, **environment_of(cores)}
        words = ["--cores=" + ",".join(map(str, cores))]
        if self._end is not None:
            left = max(0.0, self._end - time.monotonic())
            words.append(f"--time_budget={left:.3f}s")
        live = self._console is not None and self._console.terminal
        output = subprocess.PIPE if live else None
        process = subprocess.Popen(
            [sys.executable, "-m", "tfr_pipeline", *self._command, *words],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
        self._running[slot] = process
        if live and self._console is not None:
            self._console.pass_on(process)

    def _again(self, slot: int, code: int) -> None:
        self._restarts[slot] += 1
        name = signal.Signals(-code).name
        if self._restarts[slot] > _RESTARTS:
            self._say(f"worker {slot}: ended by {name} once too often")
            return
        self._say(f"worker {slot}: ended by {name}, started again")
        self._start(slot)

    def _say(self, text: str) -> None:
        if self._console is None:
            print(text, flush=True)
        else:
            self._console.say(text)

    @contextlib.contextmanager
    def _forwarding(self) -> Iterator[None]:
        """Stops the workers, and waits for them, however the block ends early."""
        try:
            yield
        except BaseException as error:
            hurry: Any = signal.SIGINT if isinstance(error, KeyboardInterrupt) else None
            for process in self._running.values():
                with contextlib.suppress(ProcessLookupError):
                    process.send_signal(hurry or signal.SIGTERM)
            limit = time.monotonic() + _GRACE_SECONDS
            for process in self._running.values():
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(max(0.0, limit - time.monotonic()))
            for process in self._running.values():
                if process.poll() is None:
                    process.kill()
            raise
