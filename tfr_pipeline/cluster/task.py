"""Runs one task on the machine where it belongs: what ssh and srun start there.

    python -m tfr_pipeline.cluster.task [--supervised] [--tf_config=JSON] -- COMMAND ...

Checks that the task's port is free, gives the command a temporary folder that goes with
it, passes SIGTERM on, and leaves no process behind. The exit code is the command's, 98
for a port that is taken, and 128 + n for signal n.

`--supervised` says that a supervisor holds the other end of the standard input: `TERM`
asks the command to end, `WHERE` to say where its threads are, and the end of the input,
or its silence, kills it: the supervisor cannot be reached, and may have started
somebody else in this one's place.
"""

from __future__ import annotations

import argparse
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence

from tfr_pipeline.cluster.clock import Clock
from tfr_pipeline.cluster.flags import parse
from tfr_pipeline.cluster.folders import temporary_folder
from tfr_pipeline.cluster.ports import taken
from tfr_pipeline.cluster.process import (
    adopt_orphans,
    die_with,
    environment,
    group_is_empty,
    is_hopeless,
    signal_group,
)
from tfr_pipeline.cluster.supervisor import BAD_USAGE, GIVEN_UP, PORT_TAKEN
from tfr_pipeline.cluster.tf_config import address_of

_POLL_SECONDS, _ANSWER_SECONDS = 0.1, 0.5


def main(words: Sequence[str] | None = None) -> int:
    """Runs the task; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m tfr_pipeline.cluster.task",
        usage="%(prog)s [flags] -- COMMAND ...",
        allow_abbrev=False,
    )
    parser.add_argument("--tf_config", default=os.environ.get("TF_CONFIG", "{}"))
    parser.add_argument("--supervised", action="store_true")
    parser.add_argument(
        "--grace",
        type=float,
        default=60.0,
        help="seconds between SIGTERM and SIGKILL",
    )
    parser.add_argument(
        "--silence",
        type=float,
        default=120.0,
        help="seconds of a silent supervisor after which to end; 0 for no limit",
    )
    arguments = parse(parser, sys.argv[1:] if words is None else words)
    address = address_of(arguments.tf_config)
    problem = None if address is None else taken(address)
    if problem:
        print(problem, flush=True)
        return PORT_TAKEN
    # A TMPDIR of the machine that sent us here may be absent; tempfile sees to that.
    with temporary_folder("tfr_pipeline_task_") as folder:
        variables = environment(arguments.tf_config, folder, arguments.supervised)
        return _run(arguments, variables)


def _run(arguments: argparse.Namespace, variables: dict[str, str]) -> int:
    asked = False

    def on_signal(*_: object) -> None:
        nonlocal asked
        asked = True

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, on_signal)
    adopt_orphans()
    try:
        child = subprocess.Popen(
            arguments.command,
            env=variables,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=die_with(os.getpid()),
        )
    except OSError as error:
        print(f"cannot start {arguments.command[0]!r}: {error.strerror}", flush=True)
        return BAD_USAGE if is_hopeless(error) else GIVEN_UP
    supervisor = _Supervisor(arguments.silence) if arguments.supervised else None
    traced = False
    limit: float | None = None  # until which it is waited for, once it was told to end
    try:
        # A shell that is told to ends at once, when what it started is saving.
        while child.poll() is None or (limit and not group_is_empty(child)):
            if supervisor is None:
                time.sleep(_POLL_SECONDS)
            elif not supervisor.listen():
                break
            if limit is not None and time.monotonic() > limit:
                break
            if not traced and supervisor and supervisor.says_where:
                traced = True
                signal_group(child, signal.SIGUSR1)
                # A shell ends by that, before what it has started has answered.
                time.sleep(_ANSWER_SECONDS)
            if limit is None and (asked or (supervisor and supervisor.says_term)):
                limit = time.monotonic() + arguments.grace
                signal_group(child, signal.SIGTERM)
    finally:
        signal_group(child, signal.SIGKILL)
        code = child.wait()
    return 128 - code if code < 0 else code


class _Supervisor:
    """The supervisor at the other end of the standard input."""

    def __init__(self, patience: float):
        self.says_term = self.says_where = False
        self._patience, self._clock, self._heard = patience, Clock(), 0.0
        self._text = b""

    def listen(self) -> bool:
        """Waits a little for words; returns whether the supervisor is still there."""
        ready, _, _ = select.select([0], [], [], _POLL_SECONDS)
        self._clock.tick()
        if not ready:
            return not self._clock.now() - self._heard > self._patience > 0
        words = os.read(0, 4096)
        self._heard = self._clock.now()
        self._text = (self._text + words)[-4096:]
        self.says_term = self.says_term or b"TERM\n" in self._text
        self.says_where = self.says_where or b"WHERE\n" in self._text
        return bool(words)


if __name__ == "__main__":
    sys.exit(main())
