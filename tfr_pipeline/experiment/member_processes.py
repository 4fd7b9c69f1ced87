"""The members of an ensemble in processes of their own, several at a time."""

from __future__ import annotations

import collections
import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from tfr_pipeline.cluster.process import die_with
from tfr_pipeline.cores import environment_of, shares
from tfr_pipeline.errors import ConfigError, RunError

_GRACE_SECONDS = 120.0
_POLL_SECONDS = 0.1
Say = Callable[[str], None]


def train(
    configs: Sequence[Mapping[str, Any]],
    command: Sequence[str],
    workers: int,
    say: Say,
) -> None:
    """Trains each member by a command, so many at a time, each on its share of cores.

    Processes end with this one, however that ends.

    Args:
      configs: Configs of the members, see `members.members_of`.
      command: What trains one, after `tfr-pipeline`; seed and run directory are added.
      workers: How many at a time.
      say: Takes each line of a member, with its name before it.

    Raises:
      ConfigError: A member was told something wrong.
      RunError: A member failed, or died of a signal; the others were stopped, and go on
        when the command is given again.
    """
    waiting = collections.deque(enumerate(configs))
    free = shares(min(workers, len(configs)), sorted(os.sched_getaffinity(0)))
    running: list[_Member] = []
    with _stopping(running):
        while waiting or running:
            while waiting and free:
                number, config = waiting.popleft()
                words = [
                    *command,
                    f"--config.seed={config['seed']}",
                    f"--config.model_dir={config['model_dir']!r}",
                ]
                running.append(_Member(f"member-{number}", words, free.pop(), say))
            time.sleep(_POLL_SECONDS)
            for member in [one for one in running if one.ended]:
                running.remove(member)
                free.append(member.cores)
                member.check()


class _Member:
    """A process that trains a member.

    Args:
      name: How messages call it.
      words: What it runs, after `tfr-pipeline`.
      cores: Those that it may use.
      say: Takes its lines.
    """

    def __init__(self, name: str, words: Sequence[str], cores: list[int], say: Say):
        self.name, self.cores, self._say = name, cores, say
        dies = die_with(os.getpid())

        def prepare() -> None:
            if dies is not None:
                dies()
            os.sched_setaffinity(0, cores)

        self._process = subprocess.Popen(
            [sys.executable, "-m", "tfr_pipeline", *words],
            env={**os.environ, **environment_of(cores)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            # A terminal's Ctrl-C comes to this process alone, which passes it on.
            start_new_session=True,
            preexec_fn=prepare,
        )
        self._last = ""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._last = line.decode(errors="replace").rstrip()
            self._say(f"{self.name}: {self._last}")

    @property
    def ended(self) -> bool:
        """Whether it has ended."""
        return self._process.poll() is not None

    def check(self) -> None:
        """Raises what it means for the ensemble that this one has ended as it has."""
        self._reader.join(timeout=5.0)
        code = self._process.returncode
        if code == 0:
            return
        if code < 0:
            raise RunError(
                f"{self.name} died of {signal.Signals(-code).name}: is there memory "
                "enough for so many? The same command goes on."
            )
        kind = ConfigError if code == ConfigError.exit_code else RunError
        raise kind(f"{self.name}: {self._last.removeprefix('error: ')}")

    def stop(self, number: int) -> None:
        """Sends it a signal."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)

    def wait(self, limit: float) -> None:
        """Waits until it has ended, and ends it at some time, by `time.monotonic`."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(max(0.0, limit - time.monotonic()))
        if not self.ended:
            self._process.kill()
            self._process.wait()


@contextlib.contextmanager
def _stopping(running: list[_Member]) -> Iterator[None]:
    """Lets members save their state and end, however the block ends early."""
    try:
        yield
    except BaseException as error:
        stop = signal.SIGINT if isinstance(error, KeyboardInterrupt) else signal.SIGTERM
        for member in running:
            member.stop(stop)
        limit = time.monotonic() + _GRACE_SECONDS
        for member in running:
            member.wait(limit)
        raise
