"""Which commit of the user's project a run is made from."""

from __future__ import annotations

import os
import subprocess
from typing import Any

_SECONDS = 10.0  # a repository on a slow disk is not worth waiting longer for


def of_folder(folder: str = ".") -> dict[str, Any] | None:
    """Returns `commit`, and whether tracked files are `changed`.

    None where the folder is in no Git repository, or there is no Git.

    Example:
      >>> of_folder(os.sep) is None
      True
    """
    commit = _git(folder, "rev-parse", "HEAD")
    if not commit:
        return None
    changes = _git(folder, "status", "--porcelain", "--untracked-files=no")
    return {"commit": commit, "changed": None if changes is None else bool(changes)}


def _git(folder: str, *words: str) -> str | None:
    # Looking must not take the lock of the index from somebody at work.
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}
    try:
        done = subprocess.run(
            ["git", "-C", folder, *words],
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            env=environment,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
