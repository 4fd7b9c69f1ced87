"""What runs in the pods of a job: one waits for a supervisor, one reaches out to it.

The supervisor, in the first pod, has a client process for each other pod, as it has an
ssh for each other host elsewhere:

    python -m tfr_pipeline.cluster.pod HOST:PORT

The client says over TCP which task the pod is (TF_CONFIG); the pod then starts its own
command, below `tfr_pipeline.cluster.task`, whose standard input and output are that
connection. A pod runs nothing but the command that it was started with.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

from tfr_pipeline.cluster.ports import port_of
from tfr_pipeline.cluster.process import die_with, signal_group
from tfr_pipeline.cluster.supervisor import DONE, GIVEN_UP, STOPPED

_POLL_SECONDS = 0.2
# Seconds for a connection, and for a task to clean up before it is killed.
_PATIENCE = 5.0
_SAY_AGAIN = 60.0
_LONGEST_CONFIG = 1 << 20
# Ends the connection, with the exit code; what the job says once it is done.
_EXIT, _END = b"\0exit ", b"END"
_LOST = 1


def wait_for_tasks(port: int, words: Callable[[str], Sequence[str]]) -> int:
    """Runs the tasks of a pod, one after the other, until the job is done.

    A supervisor that connects while a task runs is a new one: the task of the one
    before is killed.

    Args:
      port: Where to listen.
      words: Returns the command that runs a task, given its TF_CONFIG.

    Returns:
      The exit code: 0 for a job that is done, 143 after SIGTERM.
    """
    stop = False

    def on_signal(*_: object) -> None:
        nonlocal stop
        stop = True

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_signal)
    running: _Running | None = None
    try:
        server = _listen(port)
    except OSError as error:
        print(f"[pod] port {port}: {error.strerror}; choose another --port", flush=True)
        return GIVEN_UP
    with server:
        print(f"[pod] waiting for the supervisor, at port {port}", flush=True)
        said = time.monotonic()
        while not stop:
            if running and running.ended():
                running, said = None, time.monotonic()
            if select.select([server], [], [], _POLL_SECONDS)[0]:
                connection, (address, *_) = server.accept()
                word = _read_line(connection)
                name = _task_name(word)
                if name is None and word != _END:
                    connection.close()
                    continue
                if running:
                    running.kill()
                if word == _END:
                    print("[pod] the job is done", flush=True)
                    return DONE
                print(f"[pod] {name} for {address}, which has its log", flush=True)
                running = _Running(connection, words(word.decode()))
            elif running is None and time.monotonic() - said > _SAY_AGAIN:
                said = time.monotonic()
                print("[pod] no supervisor yet: is the first pod running?", flush=True)
    if running:
        running.stop()
    return STOPPED


def _listen(port: int) -> socket.socket:
    if socket.has_dualstack_ipv6():
        return socket.create_server(
            ("", port), family=socket.AF_INET6, dualstack_ipv6=True
        )
    return socket.create_server(("", port))


def _read_line(connection: socket.socket) -> bytes:
    """Returns the first line, or what there is of it."""
    text, limit = b"", time.monotonic() + _PATIENCE
    with contextlib.suppress(OSError):
        while not text.endswith(b"\n") and len(text) < _LONGEST_CONFIG:
            connection.settimeout(max(0.001, limit - time.monotonic()))
            # One by one: the lines after the first are for the task.
            byte = connection.recv(1)
            if not byte:
                break
            text += byte
    connection.settimeout(None)
    return text.rstrip(b"\n")


def _task_name(word: bytes) -> str | None:
    """The task of a TF_CONFIG; None for what is none, from whoever tries the port."""
    try:
        task = json.loads(word)["task"]
        return f"{task['type']} {task['index']}"
    except (ValueError, KeyError, TypeError):
        return None


class _Running:
    """A task, and the connection to its supervisor."""

    def __init__(self, connection: socket.socket, words: Sequence[str]):
        self._connection = connection
        self._child = subprocess.Popen(
            words,
            stdin=connection.fileno(),
            stdout=connection.fileno(),
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=die_with(os.getpid()),
        )

    def ended(self) -> bool:
        """Whether the task has ended; if so, the supervisor was told."""
        if self._child.poll() is None:
            return False
        with contextlib.suppress(OSError):
            self._connection.sendall(b"%s%d\n" % (_EXIT, self._child.returncode))
        self._connection.close()
        return True

    def stop(self) -> None:
        """Asks the task to save, and waits for it: Kubernetes kills who is late."""
        self._child.send_signal(signal.SIGTERM)
        self._child.wait()
        self.ended()

    def kill(self) -> None:
        """Ends the task at once, and all that it has started."""
        with contextlib.suppress(OSError):
            # `cluster.task` kills and cleans up when its supervisor is gone.
            self._connection.shutdown(socket.SHUT_RDWR)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._child.wait(_PATIENCE)
        signal_group(self._child, signal.SIGKILL)
        self._child.wait()
        self._connection.close()


def end(address: str) -> str | None:
    """Tells the pod at an address that the job is done; returns what went wrong."""
    try:
        with _connect(address) as connection:
            connection.sendall(_END + b"\n")
    except OSError as error:
        return _why(error)
    return None


def attach(address: str) -> int:
    """Runs the task of TF_CONFIG in the pod at an address; returns its exit code.

    Waits until the pod is there: who is late, or gone, is known by name only. Words
    from the standard input go to the task, its output comes to the standard output.
    """
    said, connection, asked = 0.0, None, b""
    while connection is None:
        try:
            connection = _connect(address)
        except OSError as error:
            if time.monotonic() - said > _SAY_AGAIN or not said:
                said = time.monotonic()
                print(f"waiting for {address}: {_why(error)}", flush=True)
        if select.select([0], [], [], 0.0 if connection else 1.0)[0]:
            words = os.read(0, 4096)
            asked = (asked + words)[-4096:]
            if not words or b"TERM\n" in asked:
                return STOPPED
    with connection:
        config = json.dumps(json.loads(os.environ["TF_CONFIG"]))  # in one line
        connection.sendall(config.encode() + b"\n")
        try:
            return _relay(connection)
        except OSError as error:
            print(f"lost {address}: {_why(error)}", flush=True)
            return _LOST


def _relay(connection: socket.socket) -> int:
    """Copies both ways until the task has ended; returns its exit code."""
    rest, inputs = b"", [0, connection.fileno()]
    while True:
        ready = select.select(inputs, [], [])[0]
        if 0 in ready:
            words = os.read(0, 4096)
            if not words:  # the supervisor is gone
                return GIVEN_UP
            connection.sendall(words)
        if connection.fileno() in ready:
            chunk = connection.recv(1 << 16)
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                line, exit, code = line.partition(_EXIT)
                _write(line if exit else line + b"\n")
                if exit:
                    return int(code)
            if not chunk:
                raise ConnectionError("the connection has ended")


def _write(text: bytes) -> None:
    while text:
        text = text[os.write(1, text) :]


def _connect(address: str) -> socket.socket:
    host = address.rpartition(":")[0]
    connection = socket.create_connection((host, port_of(address)), timeout=_PATIENCE)
    connection.settimeout(None)
    return connection


def _why(error: OSError) -> str:
    if isinstance(error, socket.gaierror):
        return "its name does not resolve (yet); is its pod scheduled?"
    return error.strerror or str(error)


if __name__ == "__main__":
    sys.exit(attach(sys.argv[1]))
