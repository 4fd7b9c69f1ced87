"""Folders of versions: as TensorFlow Serving wants them, and one SavedModel as a whole.

    latest_model/30/                    a version: a SavedModel
    latest_model/.newest -> 30          the version that was published last
    latest_model/saved_model.pb -> .newest/saved_model.pb, and so on for its other files

TF-Ranking's scripts load `latest_model`, TensorFlow Serving takes its versions and
leaves names that are no numbers alone. Links cost no room, and one rename switches all
of them: what stands there is one version or another, never parts of two. They are
relative, so the folder may be moved; a copy that follows links is a SavedModel too.
Without links on a file system, the files are hard links or copies.
"""

from __future__ import annotations

import contextlib
import filecmp
import os
import shlex
import shutil
import uuid
import warnings
from collections.abc import Iterator

from tfr_pipeline.errors import DataError, RunError

MODEL = "saved_model.pb"
# The model last: without it there is nothing to load.
PARTS = (
    "variables",
    "assets",
    "assets.extra",
    "fingerprint.pb",
    "keras_metadata.pb",
    MODEL,
)
NEWEST = ".newest"


def find_export(path: str) -> str:
    """Returns the folder of a SavedModel: `path` itself or its newest version.

    The newest is the one that was published last, whatever its number. A run directory
    stands for its best model, or else its latest.

    Raises:
      DataError: There is none.
    """
    for candidate in (
        path,
        os.path.join(path, "export", "best_model_by_metric"),
        os.path.join(path, "export", "latest_model"),
    ):
        found = _newest(candidate)
        if found:
            return found
    raise no_export(path, os.path.isdir(os.path.join(path, "checkpoints")))


def no_export(path: str, has_checkpoints: bool) -> DataError:
    """Returns the error for a place without a SavedModel.

    Args:
      path: The place.
      has_checkpoints: Whether something could be exported from there.
    """
    advice = ""
    if has_checkpoints:
        advice = (
            f" A run that has not ended exports its last checkpoint with 'tfr-pipeline "
            f"export --run={shlex.quote(path)} --output=DIR'."
        )
    return DataError(
        f"{path}: expected a SavedModel, a folder of versions or a run directory; "
        f"found no {MODEL}.{advice}"
    )


def _newest(folder: str) -> str | None:
    name = _published(folder)
    if name and _is_model(os.path.join(folder, name)):
        return os.path.join(folder, name)
    if _is_model(folder):
        return folder
    found = [os.path.join(folder, name) for name in numbers(folder)]
    # Of a copy that lost its links: the one that was written last.
    return max(filter(_is_model, found), key=_written, default=None)


def _written(version: str) -> tuple[int, int]:
    """Returns when a version was written, and its number."""
    path = os.path.join(version, "variables", "variables.index")
    path = path if os.path.exists(path) else os.path.join(version, MODEL)
    return os.stat(path).st_mtime_ns, int(os.path.basename(version))


def _is_model(folder: str) -> bool:
    return os.path.isfile(os.path.join(folder, MODEL))


def _published(folder: str) -> str | None:
    """Returns the name of the version that was published last, if it is known."""
    pointer = os.path.join(folder, NEWEST)
    if os.path.islink(pointer):
        return os.readlink(pointer)
    if os.path.isfile(pointer):
        with open(pointer, encoding="utf-8", errors="replace") as file:
            return file.read().strip()
    return None


def numbers(folder: str) -> list[str]:
    """Returns the names of the versions in a folder, the smallest number first."""
    if not os.path.isdir(folder):
        return []
    names = [n for n in os.listdir(folder) if n.isascii() and n.isdigit()]
    return sorted((n for n in names if os.path.isdir(os.path.join(folder, n))), key=int)


def check(folder: str) -> None:
    """Checks that versions may be published in a folder.

    Raises:
      RunError: It holds a model, or parts of one, that was not published there.
    """
    if os.path.lexists(os.path.join(folder, NEWEST)):
        return
    foreign = [name for name in _files(folder) if not _is_link(folder, name)]
    if foreign and not any(
        _same_files(foreign, folder, os.path.join(folder, version))
        for version in numbers(folder)
    ):
        raise RunError(
            f"{os.path.join(folder, foreign[0])}: expected a folder of versions, found "
            "part of a model that this package did not put there. Move it away, or "
            "choose another folder."
        )


def publish(version: str) -> None:
    """Makes a version the one that its folder stands for.

    Warns when TensorFlow Serving, left to itself, would serve another one.

    Args:
      version: A SavedModel, in a folder that `check` has accepted.

    Raises:
      RunError: The disk is full, or the folder cannot be written.
    """
    folder, name = os.path.split(os.path.abspath(version))
    try:
        try:
            _link(folder, name)
        except OSError:
            # A file system, or a user, without links.
            _copy(folder, name)
    except OSError as error:
        raise RunError(
            f"{version}: exported, but {folder} cannot be made to stand for it: {error}"
        ) from error
    larger = [other for other in numbers(folder) if int(other) > int(name)]
    if larger:
        warnings.warn(
            f"{folder}: version {name} is the newest, but TensorFlow Serving takes the "
            f"largest number, which is {larger[-1]}. Remove the versions that are not "
            "wanted any more, or name the one to serve in its configuration.",
            stacklevel=2,
        )


def remove(folder: str) -> None:
    """Removes the versions in a folder, and what stands for them; all else stays.

    The folder goes too if nothing is left in it.
    """
    known = numbers(folder)
    places = [os.path.join(folder, name) for name in known]
    published = os.path.lexists(os.path.join(folder, NEWEST))
    for name in _files(folder) if published else []:
        copied = any(_same_files([name], folder, place) for place in places)
        if copied or _is_link(folder, name):
            os.remove(os.path.join(folder, name))
    with contextlib.suppress(OSError):
        os.remove(os.path.join(folder, NEWEST))
    for place in filter(_is_model, places):
        shutil.rmtree(place, ignore_errors=True)
    for place, _, _ in os.walk(folder, topdown=False):
        with contextlib.suppress(OSError):
            os.rmdir(place)


def _files(folder: str) -> list[str]:
    """Returns the files of a SavedModel, relative to it, `saved_model.pb` last."""
    result = []
    for part in PARTS:
        path = os.path.join(folder, part)
        if os.path.isdir(path):
            for parent, _, names in os.walk(path):
                below = os.path.relpath(parent, folder)
                result += [os.path.join(below, name) for name in sorted(names)]
        elif os.path.lexists(path):
            result.append(part)
    return result


def _same_files(names: list[str], folder: str, other: str) -> bool:
    pairs = [(os.path.join(folder, n), os.path.join(other, n)) for n in names]
    return all(os.path.isfile(b) for _, b in pairs) and all(
        filecmp.cmp(a, b, shallow=False) for a, b in pairs
    )


def _link_to(name: str) -> str:
    return os.path.relpath(os.path.join(NEWEST, name), os.path.dirname(name) or ".")


def _is_link(folder: str, name: str) -> bool:
    path = os.path.join(folder, name)
    return os.path.islink(path) and os.readlink(path) == _link_to(name)


def _link(folder: str, name: str) -> None:
    wanted, present = _files(os.path.join(folder, name)), _files(folder)
    for file in reversed(present):
        if not _is_link(folder, file):
            os.remove(os.path.join(folder, file))
    # Directories are real: many a tool that copies follows links of files only.
    for file in wanted:
        path = os.path.join(folder, file)
        if not os.path.lexists(path):
            os.makedirs(os.path.dirname(path), exist_ok=True)
            # Leads nowhere until the rename below.
            os.symlink(_link_to(file), path)
    pointer = os.path.join(folder, NEWEST)
    if os.path.isdir(pointer) and not os.path.islink(pointer):
        shutil.rmtree(pointer)  # of a copy that followed links
    with _beside(pointer) as temporary:
        os.symlink(name, temporary)
        os.replace(temporary, pointer)
    for file in set(present).difference(wanted):
        if os.path.lexists(os.path.join(folder, file)):
            os.remove(os.path.join(folder, file))
    _remove_empty(folder)


def _copy(folder: str, name: str) -> None:
    # A reader who comes now finds no model, rather than parts of two.
    for file in reversed(_files(folder)):
        os.remove(os.path.join(folder, file))
    pointer = os.path.join(folder, NEWEST)
    _remove(pointer)
    with open(pointer, "w", encoding="utf-8") as text:
        text.write(f"{name}\n")
    for file in _files(os.path.join(folder, name)):
        place = os.path.join(folder, file)
        os.makedirs(os.path.dirname(place), exist_ok=True)
        with _beside(place) as temporary:
            _same_file(os.path.join(folder, name, file), temporary)
            os.rename(temporary, place)
    _remove_empty(folder)


def _remove_empty(folder: str) -> None:
    for part in PARTS:
        for parent, _, _ in os.walk(os.path.join(folder, part), topdown=False):
            with contextlib.suppress(OSError):
                os.rmdir(parent)  # only where nothing is in it


def _same_file(source: str, place: str) -> None:
    try:
        os.link(source, place)
    except OSError:
        shutil.copyfile(source, place)


@contextlib.contextmanager
def _beside(path: str) -> Iterator[str]:
    """Yields a temporary path, as `files.replacing` names them, and removes it."""
    folder, name = os.path.split(path)
    name = name.removeprefix(".")
    temporary = os.path.join(folder, f".{name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        yield temporary
    finally:
        _remove(temporary)


def _remove(path: str) -> None:
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path)
    elif os.path.lexists(path):
        os.remove(path)
