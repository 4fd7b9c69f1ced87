"""Temporary folders that go with their process, or else with the next one."""

from __future__ import annotations

import contextlib
import fcntl
import glob
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator


@contextlib.contextmanager
def temporary_folder(prefix: str) -> Iterator[str]:
    """Yields a temporary folder of this process, and removes it afterwards.

    Who is killed cannot remove its own. So a folder holds a file that is locked as long
    as its process lives, and the next process removes folders of the same prefix and
    the same user whose file is not.

    Args:
      prefix: Of the folder's name.

    Example:
      >>> with temporary_folder("tfr_pipeline_doctest_") as folder:
      ...     sorted(name.split("-")[0] for name in os.listdir(folder))
      ['.lock']
      >>> os.path.exists(folder)
      False
    """
    _remove_left(prefix)
    folder = tempfile.mkdtemp(prefix=prefix)
    lock = _lock(folder)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def _lock_path(folder: str) -> str:
    # Locks of other hosts are not always seen in folders that hosts share.
    return os.path.join(folder, f".lock-{socket.gethostname()}")


def _lock(folder: str) -> int | None:
    """Returns a locked file in a folder; None where files cannot be locked."""
    path = _lock_path(folder)
    with contextlib.suppress(OSError):
        file = os.open(f"{path}.new", os.O_CREAT | os.O_RDWR, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Nobody finds it before it is locked.
            os.rename(f"{path}.new", path)
        except OSError:
            os.close(file)
            raise
        return file
    return None


def _remove_left(prefix: str) -> None:
    pattern = os.path.join(glob.escape(tempfile.gettempdir()), f"{prefix}*")
    for folder in glob.glob(pattern):
        with contextlib.suppress(OSError):
            if os.lstat(folder).st_uid != os.getuid():
                continue
            file = os.open(_lock_path(folder), os.O_RDWR)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(file)
