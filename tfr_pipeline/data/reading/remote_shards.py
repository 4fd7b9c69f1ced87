"""Large data in a store, of which each process fetches what it needs alone."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable

from tfr_pipeline import copies, files, remote, remote_ranges, remote_splits, urls
from tfr_pipeline.data import room
from tfr_pipeline.data.batching import windowed
from tfr_pipeline.data.reading.ranges import RecordRange
from tfr_pipeline.data.records import index
from tfr_pipeline.remote_ranges import Part

# What is left free on the disk of the cache: checkpoints have to be written, too.
LEFT_FREE = 1 << 30


def paths_of(patterns: str) -> list[str]:
    """Returns the files of patterns: local paths, or URLs of what is read in place.

    That is what may be more than is shuffled at once, and has the index of `convert`.
    Other remote files are fetched.

    Raises:
      DataError: See `files.expand`.
      RunError: Likewise.
    """
    names = files.expand(patterns, "data", fetch=False)
    entries = remote.states(filter(urls.is_remote, names))
    sizes = [entry.size for entry in entries.values()]
    if len(entries) == len(names) and _is_large(sizes):
        # Refuses splits that are not whole.
        beside = remote_splits.beside(entries)
        there = {url for pairs in beside.values() for url, _ in pairs}
        if all(index.beside(name) in there for name in names):
            return names
    return copies.fetch(names)


def may_be_large(paths: list[str]) -> bool:
    """Whether files may hold more than is shuffled at once."""
    entries = remote.states(filter(urls.is_remote, paths))
    return _is_large(
        entries[path].size if path in entries else os.path.getsize(path)
        for path in paths
    )


def _is_large(sizes: Iterable[int]) -> bool:
    # In 16 bits a matrix takes half of what counts; in no other way can it be smaller.
    return 2 * sum(sizes) > windowed.WINDOW


def bring(records: RecordRange, kept: bool) -> RecordRange:
    """Fetches the bytes of remote records into the cache, where there is room for them.

    Says in a line whether it does, and why.

    Args:
      records: One run of records.
      kept: Whether they are read once, and not in each epoch.

    Returns:
      The records, in local copies if they fit the disk, else in the store.

    Raises:
      DataError: A file is another than it was.
      RunError: The store does not answer, or the cache cannot be written.
    """
    bounds: dict[str, tuple[int, int]] = {}
    for path, start, stop in records.pieces():
        bounds[path] = bounds.get(path, (start, stop))[0], stop
    parts = records.parts((path, *both) for path, both in bounds.items())
    what = f"{urls.split(parts[0].url)[0]}, {records}"
    need, free = remote_ranges.missing(parts), room.disk(copies.root())
    if need and need > free.bytes - LEFT_FREE:
        how = "once" if kept else "in each epoch"
        copies.say(
            f"{urls.redact(what)}: {room.shown(_size(parts))}, read from the store "
            f"{how}, for there is no room for a copy: {room.shown(need)}, and "
            f"{room.shown(LEFT_FREE)} for other things, are more than "
            f"{room.shown(free.bytes)} {free.why}"
        )
        return records
    found = remote_ranges.fetch(parts, what)
    names = (part.url for part in parts)
    return dataclasses.replace(records, copies=dict(zip(names, found, strict=True)))


def _size(parts: list[Part]) -> int:
    return sum(part.size for part in parts)
