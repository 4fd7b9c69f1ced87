"""The lock of a run directory in an object store: a small file that is kept fresh.

A store knows no locks that die with a process. So the file `lock` says who holds it and
is written anew every few seconds; one that stays the same for long is nobody's any
more. Two jobs that start within the same second on a store without conditional writes
may both believe to hold it; the next beat of either one notices.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
import uuid
from typing import Any

from tfr_pipeline import remote, urls
from tfr_pipeline.errors import DataError, PipelineError, RunError
from tfr_pipeline.pipeline.run.lock import NAME

BEAT_SECONDS = 15.0
# A holder whose beat is not seen for so long is dead.
STALE_SECONDS = 60.0
# By the clocks of two machines, which differ by less.
_LONG_AGO_SECONDS = 600.0
_POLL_SECONDS = 1.0
_ours: set[str] = set()  # tokens of this process


class RemoteLock:
    """Held from the moment it is made until `release`.

    Args:
      url: The run directory.

    Raises:
      RunError: Another job holds it, or the store cannot be reached.
    """

    def __init__(self, url: str):
        self._url, self._place = url, urls.join(url, NAME)
        self._token, self._beat = uuid.uuid4().hex, 0
        self._since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        self._lost = ""
        _ours.add(self._token)
        self._acquire()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._keep_fresh, daemon=True)
        self._thread.start()

    def _acquire(self) -> None:
        seen: dict[str, Any] | None = None
        since, beats, said = time.monotonic(), 0, False
        while True:
            if self._write(new=True):
                return
            found = self._read()
            if found is None:
                continue  # its holder has just removed it
            if found.get("token") == self._token:
                return  # written by a try whose answer was lost
            if seen is None or found != seen:
                beats += seen is not None and found.get("token") == seen.get("token")
                seen, since = found, time.monotonic()
            if _is_dead(found) or time.monotonic() - since >= STALE_SECONDS:
                self._write()
                time.sleep(_POLL_SECONDS)  # others may have had the same thought
                if (now := self._read()) and now.get("token") == self._token:
                    return
                continue
            if beats:  # it lives
                raise self._refusal(found)
            if not said:
                said = True
                print(
                    f"waiting to see whether {_owner(found)}, who holds "
                    f"{urls.redact(self._place)}, is at work",
                    flush=True,
                )
            time.sleep(_POLL_SECONDS)

    def _write(self, new: bool = False, seconds: float | None = None) -> bool:
        self._beat += 1
        content = {
            "owner": f"{socket.gethostname()}:{os.getpid()}:{self._since}",
            "token": self._token,
            "beat": self._beat,
            "time": time.time(),
        }
        text = json.dumps(content).encode()
        return remote.write(self._place, text, new=new, seconds=seconds)

    def _read(self, seconds: float | None = None) -> dict[str, Any] | None:
        try:
            found = json.loads(remote.read(self._place, seconds))
        except remote.GoneError:
            return None
        except ValueError:
            found = None
        return found if isinstance(found, dict) else {}

    def _refusal(self, found: dict[str, Any]) -> RunError:
        return RunError(
            f"{self._url}: in use by another job, {_owner(found)} "
            "(host:process:since). Wait for its end, stop it, or choose another "
            "model_dir."
        )

    def _keep_fresh(self) -> None:
        while not self._stop.wait(BEAT_SECONDS):
            # A store that does not answer lets nobody else in either.
            with contextlib.suppress(RunError, DataError):
                found = self._read(0)
                if found is None:
                    self._lost = (
                        f"{self._place} is gone: the run directory was removed while "
                        "this run trained."
                    )
                elif found.get("token") != self._token:
                    self._lost = str(self._refusal(found))
                else:
                    self._write(seconds=0)
            if self._lost:
                return

    @property
    def lost(self) -> str:
        """Why it is not held any more; empty while it is."""
        return self._lost

    def release(self) -> None:
        """Gives it free, if it is still held."""
        self._stop.set()
        self._thread.join()
        if not self._lost:
            # One that stays is found to be dead by whoever comes next.
            with contextlib.suppress(PipelineError):
                found = self._read(0)
                if found and found.get("token") == self._token:
                    remote.remove(self._place, 0)


def _owner(found: dict[str, Any]) -> str:
    return str(found.get("owner", "unknown"))[:200]


def _is_dead(found: dict[str, Any]) -> bool:
    """Whether the holder of a lock is dead for sure, without waiting for its beat."""
    host, _, rest = _owner(found).partition(":")
    process = rest.partition(":")[0]
    if host == socket.gethostname() and process.isdecimal():
        if int(process) == os.getpid():
            # Of a process before this one with the same number, as in a pod.
            return found.get("token") not in _ours
        try:
            os.kill(int(process), 0)
        except ProcessLookupError:
            return True
        except OSError:
            pass
    moment = found.get("time")
    return isinstance(moment, int | float) and (
        time.time() - moment > _LONG_AGO_SECONDS
    )
