"""The folder that `convert` fills: what stands in it, and how it is filled at once."""

from __future__ import annotations

import contextlib
import fcntl
import glob
import json
import os
import re
import resource
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

from tfr_pipeline import files, outputs
from tfr_pipeline.data.records import index
from tfr_pipeline.errors import ConfigError, DataError, RunError
from tfr_pipeline.features import FILE_NAME, Feature, Features

_MOST_SHARDS = 99_999


def shard_names(split: str, num_shards: int) -> list[str]:
    """Returns the file names of a split."""
    return [
        f"{split}-{shard:05d}-of-{num_shards:05d}.tfrecord"
        for shard in range(num_shards)
    ]


def check_shards(num_shards: int, splits: int = 1) -> None:
    """Refuses more files than names have digits for, or than may be open at once.

    Raises:
      ConfigError: There are too many.
    """
    if num_shards > _MOST_SHARDS:
        raise ConfigError(
            f"--num_shards: expected at most {_MOST_SHARDS}, found {num_shards}."
        )
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    files_at_once = num_shards * splits
    needed = files_at_once + 256  # what else a process opens
    if soft != resource.RLIM_INFINITY and soft < needed:
        if hard != resource.RLIM_INFINITY and hard < needed:
            raise ConfigError(
                f"--num_shards: {files_at_once} files are written at once, but a "
                f"process may open {hard} here. Expected fewer, or a higher ulimit -n."
            )
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


def is_shard(name: str, split: str) -> bool:
    """Whether a file name is one of a shard of a split."""
    return bool(re.fullmatch(re.escape(split) + r"-\d{5}-of-\d{5}\.tfrecord", name))


def _is_shard_of(name: str, splits: Sequence[str]) -> bool:
    return any(is_shard(name, split) for split in splits)


def replaced(output: str, splits: Sequence[str]) -> list[str]:
    """Returns the files that a conversion would replace or remove.

    `features.json` is not among them: it may stay as it is, see `check_description`.
    """
    beside = {*map(stats_name, splits), *map(index.file_name, splits)}
    names = os.listdir(output) if os.path.isdir(output) else []
    return [
        os.path.join(output, name)
        for name in sorted(names)
        if name in beside or _is_shard_of(name, splits)
    ]


def stats_name(split: str) -> str:
    """Returns the name of the file with the statistics of a split."""
    return f"{split}.stats.json"


def check_description(described: str, features: Features, output: str) -> None:
    """Checks that the description which the input was read by is not changed.

    Raises:
      ConfigError: It is the `features.json` of the output, and would be another.
    """
    path = os.path.join(output, FILE_NAME)
    if os.path.isdir(described):
        described = os.path.join(described, FILE_NAME)
    if outputs.same_file(described, path) and Features.load(path) != features:
        raise ConfigError(
            f"--features: {described!r} describes the input, and would be replaced by "
            "the description of the output. Choose another --output."
        )


def check_ours(output: str, splits: Sequence[str]) -> None:
    """Checks that what a conversion will replace was written by one.

    Raises:
      DataError: There are shards that no `features.json` describes, or a
        `features.json` of somebody else.
    """
    if os.path.exists(os.path.join(output, FILE_NAME)):
        Features.load(output)
        return
    names = sorted(os.listdir(output)) if os.path.isdir(output) else []
    for name in names:
        if _is_shard_of(name, splits):
            raise DataError(
                f"{os.path.join(output, name)}: a file of this name would be replaced, "
                f"but without {FILE_NAME} beside it is not ours. Choose another "
                "--output or --split, or move it away."
            )


def other_shards(output: str, splits: Sequence[str]) -> list[str]:
    """Returns the shards of other splits in the folder."""
    return [
        path
        for path in glob.glob(os.path.join(glob.escape(output), "*-of-*.tfrecord"))
        if not _is_shard_of(os.path.basename(path), splits)
    ]


def earlier_features(output: str, splits: Sequence[str]) -> Features | None:
    """Returns the description that other splits in the folder were written by."""
    others = other_shards(output, splits)
    if others and os.path.exists(os.path.join(output, FILE_NAME)):
        return Features.load(output)
    return None


@contextlib.contextmanager
def staging_folder(output: str, split: str) -> Iterator[str]:
    """Yields a folder inside `output` that is gone afterwards, whatever happens.

    After SIGKILL it stays; its name starts with a dot, so no glob for a split finds it.

    Raises:
      RunError: The folder cannot be written: full disk, no permission.
    """
    existed = os.path.isdir(output)
    folder = ""
    try:
        os.makedirs(output, exist_ok=True)
        folder = tempfile.mkdtemp(prefix=f".{split}.", suffix=".tmp", dir=output)
        yield folder
    except OSError as error:
        raise RunError(
            f"{output}: cannot be written: {error.strerror or error}. Nothing was "
            "changed; make room or choose another --output."
        ) from error
    finally:
        if folder:
            shutil.rmtree(folder, ignore_errors=True)
        if not existed:
            with contextlib.suppress(OSError):  # not empty: the run succeeded
                os.rmdir(output)


def commit(
    staging: str,
    output: str,
    features: Features,
    stats: dict[str, dict[str, Any]],
    described: str = "",
) -> None:
    """Moves the shards to their place and writes the descriptions.

    One conversion at a time, each after a look at what stands there by then: another
    split may have come since this one began.

    Shards of an earlier run are removed first, so that none is ever mixed with these.
    The statistics go first and come last: where they are, the split is whole. The
    description comes before the shards, which without it would not be ours.

    Args:
      staging: Folder with the shards, and the index of each split.
      output: Where they go.
      features: Their description.
      stats: Maps each split to its statistics, to which the sizes of shards are added.
      described: Path of the description that the input was read by, if there is one.

    Raises:
      DataError: Other splits have other features.
      ConfigError: The description of the input would be replaced.
    """
    splits = list(stats)
    paths = {split: os.path.join(output, stats_name(split)) for split in splits}
    indices = [index.file_name(split) for split in splits]
    with _locked(output):
        check_description(described, features, output)
        before = earlier_features(output, splits)
        if before is not None:
            check_same(before, features, os.path.join(output, FILE_NAME))
        for path in (*paths.values(), *(os.path.join(output, n) for n in indices)):
            with contextlib.suppress(FileNotFoundError):
                os.remove(path)
        features.save(output)
        for name in os.listdir(output):
            if _is_shard_of(name, splits):
                os.remove(os.path.join(output, name))
        sizes: dict[str, list[int]] = {split: [] for split in splits}
        for name in sorted(os.listdir(staging)):
            for split in splits:
                if is_shard(name, split):
                    sizes[split].append(os.path.getsize(os.path.join(staging, name)))
            if _is_shard_of(name, splits) or name in indices:
                os.replace(os.path.join(staging, name), os.path.join(output, name))
        for split, path in paths.items():
            stats[split]["shard_bytes"] = sizes[split]
            text = json.dumps(stats[split], indent=1, allow_nan=False)
            files.write_text(path, text + "\n")


@contextlib.contextmanager
def _locked(folder: str) -> Iterator[None]:
    """Holds a lock on a folder, where the file system has locks for folders."""
    number = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(number, fcntl.LOCK_EX)
        yield
    finally:
        os.close(number)


def check_same(before: Features, now: Features, path: str) -> None:
    """Raises a `DataError` that names the first difference of two descriptions."""
    advice = (
        "All splits of a folder need the same features: convert this one with the "
        "same options, or into another folder."
    )
    for kind in ("example", "context"):
        old, new = getattr(before, kind), getattr(now, kind)
        for name in [*old, *(name for name in new if name not in old)]:
            if old.get(name) != new.get(name):
                raise DataError(
                    f"{path}: {kind} feature {name!r}: expected "
                    f"{_in_words(old.get(name))}, found {_in_words(new.get(name))}. "
                    f"{advice}"
                )
    for kind in (
        *("label", "labels", "weight", "list_weight"),
        *("query_id", "document_id", "data_format", "feature_dtype"),
        *("label_transform", "classes"),
    ):
        if getattr(before, kind) != getattr(now, kind):
            raise DataError(
                f"{path}: {kind}: expected {getattr(before, kind)!r}, found "
                f"{getattr(now, kind)!r}. {advice}"
            )
    modules = [features.reading.get("embed") for features in (before, now)]
    if modules[0] != modules[1]:
        raise DataError(
            f"{path}: --embed: expected {modules[0]!r}, found {modules[1]!r}. {advice}"
        )
    if list(before.example) != list(now.example):
        raise DataError(
            f"{path}: expected the features in the order {list(before.example)}, "
            f"found {list(now.example)}. {advice}"
        )


def _in_words(feature: Feature | None) -> str:
    if feature is None:
        return "no such feature"
    columns = f" with columns {', '.join(feature.columns)}" if feature.columns else ""
    types = f", {' and '.join(sorted({*feature.types}))}" if feature.types else ""
    form = "" if feature.kind == "fixed" else f"{feature.kind} "
    text = f"{form}{feature.dtype} of shape {feature.shape}{types}{columns}"
    return text if len(text) < 200 else text[:120] + " ... " + text[-60:]
