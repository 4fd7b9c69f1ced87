"""Whether the splits are whole that `convert` wrote into a store.

The file `<split>.stats.json` goes first and comes last; it tells of the shards.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping

from tfr_pipeline import remote, urls
from tfr_pipeline.errors import DataError
from tfr_pipeline.remote import Entry

# As `convert` names what it writes.
_SHARD = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.tfrecord")
_DESCRIPTION = "features.json"


def check_splits(names: Iterable[str]) -> None:
    """Refuses remote shards of splits that are not whole; for who reads them in place.

    Raises:
      DataError: `convert` has not written all of a split, or a shard is gone.
    """
    beside(remote.states(names))


def beside(entries: Mapping[str, Entry]) -> dict[str, list[tuple[str, Entry]]]:
    """Returns by shard URL what `convert` wrote beside it: pairs of URL and state.

    First the statistics, which mark that a split is whole, then the index.

    Raises:
      DataError: A split is not whole.
    """
    found: dict[str, list[tuple[str, Entry]]] = {}
    listed: dict[str, dict[str, Entry]] = {}
    checked: set[tuple[str, str]] = set()
    for url in entries:
        folder, name = urls.split(url)
        match = _SHARD.fullmatch(name)
        if not match:
            continue
        if folder not in listed:
            listed[folder] = remote.find(folder, deep=False)
        there, marker = listed[folder], f"{match[1]}.stats.json"
        if marker not in there:
            if _DESCRIPTION in there:
                raise DataError(
                    f"{url}: expected {marker} beside it, which `convert` writes when "
                    "all of a split is there, found none: a conversion is under way, "
                    "or was interrupted. Wait for it, or convert again."
                )
            continue  # of others, who write no such file
        found[url] = [
            (urls.join(folder, name), there[name])
            for name in (marker, f"{match[1]}.index.npz")
            if name in there
        ]
        if (folder, marker) not in checked:
            checked.add((folder, marker))
            _check_split(folder, match[1], there)
    return found


def _check_split(folder: str, split: str, there: Mapping[str, Entry]) -> None:
    """Refuses a split whose shards are not those that its statistics tell of."""
    url = urls.join(folder, f"{split}.stats.json")
    try:
        stats = json.loads(remote.read(url))
        count, sizes = stats["num_shards"], stats.get("shard_bytes")
    except (ValueError, KeyError, TypeError, AttributeError):
        return  # not of ours: `wholeness` says so
    names = [name for name in there if (m := _SHARD.fullmatch(name)) and m[1] == split]
    expected = [f"{split}-{i:05d}-of-{count:05d}.tfrecord" for i in range(count)]
    problem = ""
    if wrong := sorted(set(expected) ^ set(names)):
        state = "is missing" if wrong[0] in expected else "is not of this conversion"
        problem = f"{wrong[0]} {state}"
    elif sizes is not None:
        for name, size in zip(expected, sizes, strict=False):
            if there[name].size != size:
                problem = f"{name} has {there[name].size} bytes instead of {size}"
    if problem:
        raise DataError(
            f"{url}: expected the {count} shards that it tells of, found others: "
            f"{problem}. A conversion is under way, or was interrupted, or files were "
            "copied in part: convert again."
        )
