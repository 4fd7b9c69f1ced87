"""What data a run is trained on, so that other data in its place is noticed."""

from __future__ import annotations

import os
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

from tfr_pipeline import files, remote, urls
from tfr_pipeline.data.folds import Fold
from tfr_pipeline.data.reading import remote_shards
from tfr_pipeline.errors import DataError
from tfr_pipeline.pipeline.datasets.adapter import SPLITS, is_ours, reads_files
from tfr_pipeline.pipeline.run.comparison import differences

# Of the test data no weight depends.
COMPARED = ("train", "valid")
_NAMED = 3


def of_builder(
    builder: Any, graph: str | None = None, teacher: Sequence[str] = ()
) -> dict[str, Any]:
    """Returns what there is to know of a dataset builder's data, as JSON.

    Args:
      builder: The dataset builder.
      graph: Path of the file of edges between training lists.
      teacher: Paths of the files of what training lists are scored by.

    Returns:
      For each split, a dict from the names of its files, in the order in which they
      are read, to their size and a checksum of parts of them, and `queries` to which
      queries it keeps, if not all; and `features`, the content of
      `features.json`. Empty for builders that are not ours.
    """
    result: dict[str, Any] = {}
    if not is_ours(builder):
        return result
    for name, split in builder.splits.items():
        if not reads_files(builder):
            result[name] = builder.kept.fingerprint(split.pattern)
            continue
        try:
            paths = remote_shards.paths_of(split.pattern)
        except DataError:
            continue  # Whoever reads them says so.
        result[name] = of_files(paths)
        if split.keep is not None:
            result[name]["queries"] = _queries(builder, name, split.keep)
    for kind, beside in (("graph", [graph] if graph else []), ("teacher", teacher)):
        if beside and "train" in result:
            found = of_files(beside).items()
            result["train"] |= {f"{kind} {name}": text for name, text in found}
    if builder.features is not None:
        result["features"] = builder.features.to_json()
    return result


def _queries(builder: Any, name: str, keep: Any) -> str:
    if isinstance(keep, Fold):
        return str(keep)
    ids = "\n".join(builder.lists(name).query_ids)
    return f"checksum {zlib.crc32(ids.encode()):08x}"


def of_files(paths: Sequence[str]) -> dict[str, str]:
    """Returns size and checksum of files by name, without the folder of them all.

    So it is the same for a copy elsewhere, whatever its times.
    """
    # Of a local copy of something remote it is the place of that.
    places = [os.path.abspath(urls.origin(os.path.abspath(path))) for path in paths]
    folder = os.path.commonpath([os.path.dirname(place) for place in places])
    return {
        os.path.relpath(place, folder): f"{size} bytes, {checksum:08x}"
        for place, (size, checksum) in zip(
            places, remote.at_once(files.probe, paths), strict=True
        )
    }


def lists_of(data: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Returns what `of_builder` says of the lists alone, by split.

    Example:
      >>> lists_of({"train": {"a": "9 bytes", "teacher b": "5 bytes"}, "features": {}})
      {'train': {'a': '9 bytes'}}
    """
    return {
        split: {
            name: text
            for name, text in data[split].items()
            if not name.startswith(("graph ", "teacher "))
        }
        for split in SPLITS
        if split in data
    }


def difference(
    old: Mapping[str, Any], new: Mapping[str, Any], splits: Sequence[str] = COMPARED
) -> str:
    """Says how data differs that training depends on; empty where it does not.

    Args:
      old: See `of_builder`.
      new: The same, of what is in its place.
      splits: Which splits are compared; by default those of training.
    """
    parts = []
    for split in splits:
        before, after = old.get(split) or {}, new.get(split) or {}
        for names, what in (
            ([name for name in after if name not in before], "new"),
            ([name for name in before if name not in after], "gone"),
        ):
            if names:
                more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
                parts.append(f"{split}: {what} {', '.join(names[:_NAMED])}{more}")
        changed = [n for n in after if n in before and after[n] != before[n]]
        if changed:
            name = changed[0]
            more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
            parts.append(f"{split}: {name} was {before[name]}, is {after[name]}{more}")
        if not parts and list(before) != list(after):
            parts.append(f"{split}: the files are read in another order")
    if "features" in old and "features" in new:
        for key, before, after in differences(old["features"], new["features"]):
            parts.append(f"features.json: {key} was {before}, is {after}")
            break
    return "; ".join(parts)
