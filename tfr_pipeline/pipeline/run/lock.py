"""The lock of a run directory: one job at a time, until that job ends or dies."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import struct
import threading
import time
import warnings
from collections.abc import Iterator, Mapping

from tfr_pipeline.cluster import cluster_spec
from tfr_pipeline.errors import RunError

NAME = "lock"
# A supervisor may start a chief again moments before the old one is dead.
PATIENCE_SECONDS = 10.0
_POLL_SECONDS = 0.25
# How many processes a job scheduler has started beside this one, and its number.
_SCHEDULERS = (
    ("SLURM_STEP_NUM_TASKS", "SLURM_PROCID"),
    ("SLURM_NTASKS", "SLURM_PROCID"),
    ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"),
    ("PMI_SIZE", "PMI_RANK"),
    ("WORLD_SIZE", "RANK"),
)
# A process does not lock out itself, and loses its lock when it closes the file once.
_held: set[str] = set()
_mutex = threading.Lock()


class InUseError(RunError):
    """Another process holds the lock."""


class RunLock:
    """A lock that its holder's death gives free, also on network file systems.

    It is a POSIX lock on the file `lock` in the folder: kernels give it free when the
    process ends in whatever way, and children do not inherit it. The file says who
    holds it, as `host:process:since`, and is removed with the lock.

    Args:
      folder: The run directory; made if it is not there.
      patience: Seconds to wait for a holder to leave.

    Raises:
      InUseError: Another process holds the lock, which is a `RunError`.
      RunError: The folder cannot be written to.
    """

    def __init__(self, folder: str, patience: float = PATIENCE_SECONDS):
        self._patience = patience
        self._folder, self._path = folder, os.path.join(folder, NAME)
        self._real = os.path.realpath(folder)
        with _mutex:
            if self._real in _held:
                raise in_use(self._folder, _name())
            _held.add(self._real)
        self._file = -1
        try:
            os.makedirs(folder, exist_ok=True)
            self._file = self._lock()
            os.ftruncate(self._file, 0)
            os.write(self._file, _name().encode())
        except OSError as error:
            self.release()
            raise RunError(
                f"{folder}: cannot write into this run directory ({error.strerror}). "
                "Choose another model_dir."
            ) from error
        except BaseException:
            self.release()
            raise

    def _lock(self) -> int:
        """Returns the file, once it is locked."""
        limit, said = time.monotonic() + self._patience, False
        while True:
            file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                holder = os.read(file, 500).decode(errors="replace")
                if error.errno not in (errno.EACCES, errno.EAGAIN):
                    warnings.warn(
                        f"{self._path}: this file system has no locks "
                        f"({error.strerror}). See to it that no other job writes into "
                        "the same run directory.",
                        stacklevel=4,
                    )
                    return file
                os.close(file)
                if time.monotonic() >= limit:
                    raise in_use(self._folder, holder) from None
                if not said:
                    print(f"waiting for {holder} to leave {self._folder}", flush=True)
                    said = True
                time.sleep(_POLL_SECONDS)
                continue
            if self._is_there(file):
                return file
            os.close(file)  # Its last holder has just removed it.

    def _is_there(self, file: int) -> bool:
        """Whether the path still leads to the file."""
        try:
            return os.path.samestat(os.fstat(file), os.stat(self._path))
        except OSError:
            return False

    def check(self) -> None:
        """Checks that the lock is still there.

        Raises:
          RunError: It was removed, with the run directory or alone.
        """
        if not self._is_there(self._file):
            raise RunError(
                f"{self._path} is gone, or another job's: the run directory was "
                "removed or replaced while this run trained. Nothing more is written "
                "there. Start again with a model_dir that stays."
            )

    def release(self) -> None:
        """Gives the lock free and removes its file."""
        if self._file >= 0:
            if self._is_there(self._file):
                with contextlib.suppress(OSError):
                    os.remove(self._path)
            os.close(self._file)
            self._file = -1
        with _mutex:
            _held.discard(self._real)


def in_use(folder: str, holder: str | None = None) -> InUseError:
    """Returns what a process is told that does not get a lock.

    Args:
      folder: The run directory.
      holder: Who holds the lock, as `host:process:since`; by default as its file says.
    """
    path = os.path.join(folder, NAME)
    if holder is None:
        with contextlib.suppress(OSError), open(path, "rb") as file:
            holder = file.read(500).decode(errors="replace")
    return InUseError(
        f"{folder}: in use by another job, {holder or 'unknown'} (host:process:since). "
        "Wait for its end, stop it, or choose another model_dir."
        f"{_unconfigured(os.environ)} If that host is gone for good, remove {path}."
    )


def is_held(folder: str) -> bool:
    """Whether a process has the lock of a run directory now.

    It is not asked for, so that nobody who wants it meets somebody who only looks.
    False also where file systems have no locks.
    """
    with _mutex:
        if os.path.realpath(folder) in _held:
            return True
    try:
        file = os.open(os.path.join(folder, NAME), os.O_RDWR)
    except OSError:
        return False
    try:
        wanted = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        found = fcntl.fcntl(file, fcntl.F_GETLK, wanted)
        return struct.unpack("hhqqi4x", found)[0] != fcntl.F_UNLCK
    except OSError:
        return False
    finally:
        os.close(file)


@contextlib.contextmanager
def held(folder: str, patience: float = PATIENCE_SECONDS) -> Iterator[RunLock]:
    """Holds the lock of a run directory within a block; see `RunLock`."""
    lock = RunLock(folder, patience)
    try:
        yield lock
    finally:
        lock.release()


def _name() -> str:
    since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    return f"{socket.gethostname()}:{os.getpid()}:{since}"


def _unconfigured(environment: Mapping[str, str]) -> str:
    """Says that this is one of several processes that do not know of each other."""
    if environment.get("TF_CONFIG") or environment.get(cluster_spec.READERS):
        return ""
    for count, rank in _SCHEDULERS:
        tasks = environment.get(count, "")
        if tasks.isdecimal() and int(tasks) > 1:
            return (
                f" There is no TF_CONFIG, but {count}={tasks} ({rank}="
                f"{environment.get(rank)}): each of these processes trains alone. "
                "Start them with one of the launchers (launch/), which give them "
                "their places in one job, or start one process."
            )
    return ""
