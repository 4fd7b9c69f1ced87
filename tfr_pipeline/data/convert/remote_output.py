"""The folder that `convert` fills where it is remote: filled here, then published."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator

from tfr_pipeline import copies, remote, urls
from tfr_pipeline.errors import DataError, PipelineError, RunError
from tfr_pipeline.features import FILE_NAME

_MARKER = ".stats.json"


@contextlib.contextmanager
def published(output: str) -> Iterator[str]:
    """Yields a local folder in the place of a remote one, or a local one as it is.

    The names of what is there stand in it, and the description; of the rest a
    conversion asks no more. What the block has put there is published at its end: the
    description, the shards, and last the statistics, for which readers look.

    Args:
      output: The folder that the user named.

    Raises:
      DataError: Another conversion has changed the description meanwhile.
      RunError: Not all could be written; the message says where it is kept.
    """
    if not urls.is_remote(output):
        yield output
        return
    folder = tempfile.mkdtemp(dir=copies.root("staging"))
    urls.copy_of(folder, output)
    keep = False
    try:
        before = remote.find(output, deep=False)
        for name in before:
            content = b""
            if name == FILE_NAME:
                content = remote.read(urls.join(output, name))
            with open(os.path.join(folder, name), "wb") as file:
                file.write(content)
        known = _inodes(folder)
        yield folder
        now = _inodes(folder)
        new = [name for name in now if now[name] != known.get(name)]
        try:
            _check_description(folder, output, before.get(FILE_NAME))
            copies.publish(
                folder,
                output,
                [
                    [name for name in new if name == FILE_NAME],
                    [n for n in new if n != FILE_NAME and not n.endswith(_MARKER)],
                    [name for name in new if name.endswith(_MARKER)],
                ],
                [name for name in known if name not in now],
            )
        except PipelineError as error:
            keep = True
            urls.forget(folder)
            raise RunError(
                f"{error} What was converted is kept in {folder}; it "
                f"is not in {output}. Convert again, or copy it there, "
                f"the file {_MARKER} last."
            ) from error
    finally:
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)


def _inodes(folder: str) -> dict[str, int]:
    found = os.scandir(folder)
    return {entry.name: entry.stat().st_ino for entry in found if entry.is_file()}


def _check_description(folder: str, output: str, before: remote.Entry | None) -> None:
    """Raises a DataError if another conversion has written its description since."""
    url = urls.join(output, FILE_NAME)
    if remote.stat(url) == before:
        return
    with open(os.path.join(folder, FILE_NAME), "rb") as file:
        if file.read() != remote.read(url):
            raise DataError(
                f"{url}: another conversion has written another description since "
                "this one began."
            )
