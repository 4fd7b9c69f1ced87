"""Input that can be read but once, kept for as long as it is needed."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator

from tfr_pipeline import files, urls
from tfr_pipeline.errors import PipelineError


@contextlib.contextmanager
def regular_files(
    patterns: str | list[str], what: str = "input"
) -> Iterator[dict[str, str]]:
    """Yields files that can be read any number of times, and how the user calls them.

    What comes through a pipe is copied to a temporary file, because conversion looks
    at its input before it reads it, and what is remote to the cache. Errors have the
    name that the user gave.

    Args:
      patterns: As `files.expand` takes them.
      what: How messages call them, such as `--input`.

    Raises:
      DataError: As `files.expand`.
    """
    paths = files.expand(patterns, what, streams=True)
    names = {}
    with contextlib.ExitStack() as stack:
        for number, path in enumerate(paths):
            if not files.is_stream(path):
                names[path] = urls.redact(urls.origin(path))
                continue
            folder = stack.enter_context(
                tempfile.TemporaryDirectory(prefix="tfr_pipeline_")
            )
            copy = os.path.join(folder, str(number))
            with open(path, "rb") as stream, open(copy, "wb") as file:
                shutil.copyfileobj(stream, file)
            names[copy] = path
        try:
            yield names
        except PipelineError as error:
            text = str(error)
            for copy, path in names.items():
                text = text.replace(copy, path)
            if text == str(error):
                raise
            raise type(error)(text) from error
