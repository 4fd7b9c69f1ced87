"""Folders of versions in object stores, where there are neither links nor renames.

They have the same files as local ones (see `versions`), copies in the place of links:
`.newest` is a text with the number of a version. A version is written with its
`saved_model.pb` last, then `.newest`, then what makes the whole folder a SavedModel.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping

from tfr_pipeline import copies, remote, urls
from tfr_pipeline.errors import DataError, RunError
from tfr_pipeline.serving import versions
from tfr_pipeline.serving.versions import MODEL, NEWEST, PARTS

_MODEL_OF_VERSION = re.compile(rf"(\d+)/{re.escape(MODEL)}")
_PLACES = ("", "export/best_model_by_metric/", "export/latest_model/")


def find_export(path: str) -> str:
    """Returns the folder of a SavedModel, a local copy where it is remote.

    Raises:
      DataError: As `versions.find_export`.
      RunError: A store cannot be reached.
    """
    if not urls.is_remote(path):
        return versions.find_export(path)
    there = remote.find(path)
    for place in _PLACES:
        below = {n[len(place) :]: e for n, e in there.items() if n.startswith(place)}
        inner = _newest(urls.join(path, place) if place else path, below)
        if inner is not None:
            url = (
                urls.join(path, (place + inner).rstrip("/")) if place + inner else path
            )
            return copies.fetch_folder(url, _is_of_model)
    has_checkpoints = any(name.startswith("checkpoints/") for name in there)
    raise versions.no_export(urls.redact(path), has_checkpoints)


def _newest(url: str, below: Mapping[str, remote.Entry]) -> str | None:
    """Returns the path in a folder of its newest model, None where there is none."""
    found = [m[1] for name in below if (m := _MODEL_OF_VERSION.fullmatch(name))]
    if NEWEST in below:
        name = remote.read(urls.join(url.rstrip("/"), NEWEST)).decode().strip()
        if name in found:
            return name
    if MODEL in below:
        return ""
    # Of a copy that lost its pointer: the one that TensorFlow Serving takes.
    return max(found, key=int, default=None)


def _is_of_model(name: str) -> bool:
    return name.split("/")[0] in PARTS


@contextlib.contextmanager
def published(output: str) -> Iterator[str]:
    """Yields a local folder of versions for a remote one, or a local one as it is.

    What the block publishes there is uploaded when it succeeds.

    Raises:
      RunError: The folder holds a model of others, or not all could be written.
    """
    if not urls.is_remote(output):
        yield output
        return
    there = remote.find(output)
    if MODEL in there and NEWEST not in there:
        raise RunError(
            f"{urls.join(output, MODEL)}: expected a folder of versions, found a model "
            "that this package did not put there. Choose another folder."
        )
    folder = tempfile.mkdtemp(dir=copies.root("staging"))
    urls.copy_of(folder, output)
    keep = False
    try:
        # By their numbers, `versions.publish` knows which one would be served.
        for name in there:
            if match := _MODEL_OF_VERSION.fullmatch(name):
                os.mkdir(os.path.join(folder, match[1]))
        yield folder
        try:
            _upload(folder, output, list(there))
        except (RunError, DataError) as error:
            keep = True
            urls.forget(folder)
            raise RunError(
                f"{error} The export is kept in {folder}: copy it, or export again."
            ) from error
    finally:
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)


def _upload(folder: str, output: str, there: list[str]) -> None:
    """Uploads the version that was published last, and what stands for the folder."""
    name = os.path.basename(versions.find_export(folder))
    inside = _files(os.path.join(folder, name))
    at = f"{name}/"
    before = [n.removeprefix(at) for n in there if n.startswith(at)]
    copies.publish(
        os.path.join(folder, name),
        urls.join(output, name),
        [[n for n in inside if n != MODEL], [MODEL]],
        [n for n in before if n not in inside],
    )
    pointer = os.path.join(folder, "newest.txt")
    with open(pointer, "w", encoding="utf-8") as text:
        text.write(f"{name}\n")
    remote.put(pointer, urls.join(output, NEWEST))
    copies.publish(
        os.path.join(folder, name),
        output,
        [[n for n in inside if n != MODEL], [MODEL]],
        [n for n in there if _is_of_model(n) and n not in inside],
    )


def _files(folder: str) -> list[str]:
    return [
        os.path.relpath(os.path.join(place, name), folder)
        for place, _, names in os.walk(folder)
        for name in sorted(names)
    ]
