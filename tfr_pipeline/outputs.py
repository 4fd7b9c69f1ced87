"""Where an output may be written: looked at before the work that it takes to fill it.

Nothing here writes; `files.replacing` does.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator

from tfr_pipeline import files, remote, urls
from tfr_pipeline.errors import ConfigError

# What a run directory holds that `evaluate`, `predict` and `export` may read; or a
# folder of several runs beside them.
_RUN_FILES = (
    "config.json",
    "environment.json",
    "preprocessing.json",
    "history.csv",
    "metrics.json",
    "per_query.parquet",
    "ensemble.json",
    "plan.json",
    "cv.json",
    "seeds.json",
)
_RUN_FOLDERS = ("checkpoints", "logs")
# Of a run directory: the SavedModel that takes the weights of its checkpoints.
TEMPLATE = os.path.join("checkpoints", "template")


def check_output(
    path: str, inputs: Iterable[str] = (), *, folder: bool = False, what: str = "output"
) -> None:
    """Checks that a command can write to a place, and reads nothing from there.

    Args:
      path: Where the command will write.
      inputs: Files and folders that it reads.
      folder: Whether a folder will be written, or a file.
      what: How messages call the path, such as `--output`.

    Raises:
      ConfigError: The path is empty, of the other kind, below a file, or an input,
        however either is spelled or linked.
    """
    files.local(path, what)
    if urls.is_remote(path):
        _check_remote(path, inputs, folder, what)
        return
    if folder and files.descriptor(path) is not None:
        raise ConfigError(f"{what}: expected a folder, found the stream {path!r}.")
    if folder and os.path.lexists(path) and not os.path.isdir(path):
        raise ConfigError(f"{what}: expected a folder, found the file {path!r}.")
    if not folder and os.path.isdir(path):
        raise ConfigError(f"{what}: expected a file, found the folder {path!r}.")
    above = os.path.dirname(os.path.realpath(path))
    while not os.path.lexists(above):
        above = os.path.dirname(above)
    if not os.path.isdir(above):
        raise ConfigError(
            f"{what}: {path!r}: expected a folder at {above!r}, found a file."
        )
    for read in inputs:
        if same_file(path, read):
            raise ConfigError(
                f"{what}: {path!r} is {read!r}, which this command reads. Choose "
                "another place."
            )


def _check_remote(path: str, inputs: Iterable[str], folder: bool, what: str) -> None:
    """As `check_output`; what it asks also tells whether the store can be reached."""
    try:
        # All that is below: no driver says of less whether there is a bucket.
        a_folder, a_file = bool(remote.find(path)), remote.stat(path)
    except remote.GoneError as error:
        raise ConfigError(f"{what}: {error}") from error
    if folder and a_file is not None:
        raise ConfigError(f"{what}: expected a folder, found the file {path!r}.")
    if not folder and (a_folder or path.endswith("/")):
        raise ConfigError(f"{what}: expected a file, found the folder {path!r}.")
    for read in inputs:
        if urls.origin(read).rstrip("/") == path.rstrip("/"):
            raise ConfigError(
                f"{what}: {path!r} is what this command reads. Choose another place."
            )


def same_file(one: str, other: str) -> bool:
    """Whether two paths lead to the same file or folder, which is there.

    Two streams may: a terminal is input and output.

    Example:
      >>> same_file(".", "./.")
      True
    """
    if urls.is_remote(here := urls.origin(one)):
        return here == urls.origin(other)
    try:
        same = os.path.samefile(one, other)
    except OSError:
        return False
    return same and (os.path.isfile(one) or os.path.isdir(one))


def files_of_model(path: str) -> Iterator[str]:
    """Yields the files that belong to a SavedModel, its versions or its run."""
    if urls.is_remote(path):
        yield from (urls.join(path, name) for name in remote.find(path))
        return
    for place, _, names in os.walk(path):
        relative = os.path.relpath(place, path)
        whole = relative.split(os.sep)[0] in _RUN_FOLDERS or _in_saved_model(
            place, path
        )
        for name in names:
            if whole or (relative == "." and name in _RUN_FILES):
                yield os.path.join(place, name)


def folders_of_run(path: str) -> list[str]:
    """Returns the folders of a run directory that an export reads, with all below."""
    return [
        place
        for name in _RUN_FOLDERS
        for place, _, _ in os.walk(os.path.join(path, name))
    ]


def _in_saved_model(place: str, top: str) -> bool:
    while True:
        if os.path.exists(os.path.join(place, "saved_model.pb")):
            return True
        if place == top:
            return False
        place = os.path.dirname(place)
