"""URLs as texts: which paths are remote, what is secret in them, how copies are called.

What lies in an object store is read through a local copy. Messages name what the user
named: `shown` puts the URL in the place of the copy, and takes secrets out.
"""

from __future__ import annotations

import os
import re

_REMOTE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
# `user:password@` of a URL, and what stands behind a key with such a name.
_USER = re.compile(r"(?<=://)[^/@\s\"'?]+@")
_SECRET = re.compile(
    r"([?&][^=&\s\"']*(?:token|key|secret|sig|signature|password|passwd|pwd|credential)"
    r"[^=&\s\"']*=)[^&\s\"']+",
    re.IGNORECASE,
)
_copies: dict[str, str] = {}


def is_remote(path: object) -> bool:
    """Whether a path is a URL, such as `s3://bucket/folder`, and not of this machine.

    Example:
      >>> is_remote("s3://bucket/train-*"), is_remote("data/train-*")
      (True, False)
    """
    return isinstance(path, str) and bool(_REMOTE.match(path))


def redact(text: str) -> str:
    """Returns a text without the passwords and tokens of the URLs in it.

    Example:
      >>> redact("hdfs://ann:secret@host/a, https://b/c?token=123&part=1")
      'hdfs://***@host/a, https://b/c?token=***&part=1'
    """
    if "://" not in text:
        return text
    return _SECRET.sub(r"\1***", _USER.sub("***@", text))


def copy_of(path: str, url: str) -> None:
    """Notes that a local file or folder stands for a URL; see `shown`."""
    _copies[path] = url


def forget(path: str) -> None:
    """Undoes `copy_of`: from now on messages name the local path itself."""
    _copies.pop(path, None)


def origin(path: str) -> str:
    """Returns the URL that a local path stands for, or that path.

    Example:
      >>> copy_of("/cache/7f", "s3://bucket/data")
      >>> origin("/cache/7f/train-0"), origin("/data/train-0")
      ('s3://bucket/data/train-0', '/data/train-0')
    """
    above, rest = path, ""
    while above not in _copies:
        above, name = os.path.split(above)
        if not name:
            return path
        rest = f"/{name}{rest}"
    return _copies[above] + rest


def shown(text: str) -> str:
    """Returns a message with URLs for their local copies, and without secrets."""
    if _copies and "/" in text:
        # The longest first: a copy may lie in the folder of another.
        for path in sorted(_copies, key=len, reverse=True):
            if path in text:
                text = text.replace(path, _copies[path])
    return redact(text)


def join(url: str, *names: str) -> str:
    """Returns the URL of what is below another one.

    Example:
      >>> join("s3://bucket/run/", "checkpoints", "ckpt-1.index")
      's3://bucket/run/checkpoints/ckpt-1.index'
    """
    # `memory://` alone is a folder.
    start = url if url.endswith("://") else url.rstrip("/") + "/"
    return start + "/".join(names)


def split(url: str) -> tuple[str, str]:
    """Returns the URL of the folder of a file, and the file's name.

    Example:
      >>> split("s3://bucket/data/train-0")
      ('s3://bucket/data', 'train-0')
    """
    folder, _, name = url.rstrip("/").rpartition("/")
    return (folder if not folder.endswith(":/") else f"{folder}/"), name
