"""Which data trains, validates and is measured in each fold of a cross-validation.

As in LETOR (Qin and Liu, "Introducing LETOR 4.0 Datasets", 2013): of `n` parts fold `k`
trains on the parts from `k` on, `n - 2` of them, validates on the next and is measured
on the last, beginning again at the first part behind the last.
"""

from __future__ import annotations

import contextlib
import dataclasses
import glob
import os
import re
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from tfr_pipeline import files, urls
from tfr_pipeline.errors import ConfigError, DataError
from tfr_pipeline.experiment.build import without_test
from tfr_pipeline.features import FILE_NAME, Features
from tfr_pipeline.pipeline.run import comparison

FOLDS, PARTS, FOLDERS = "folds", "parts", "folders"
DEFAULT_FOLDS = 5
_SHARDS = "*-of-*.tfrecord*"
_OWN = ("folds", "fold", "test_fold")


@dataclasses.dataclass(frozen=True)
class Rotations:
    """The folds of a cross-validation.

    Attributes:
      kind: `folds` by query, `parts` that are files each, or `folders` that have
        training, validation and test data each.
      data: The section `data` of the config of each fold.
      parts: Patterns of the files: of each part, of each folder's three splits, or the
        one of the training files.
    """

    kind: str
    data: tuple[dict[str, Any], ...]
    parts: tuple[str, ...]

    def __len__(self) -> int:
        """Number of folds."""
        return len(self.data)


def rotations_of(
    config: Mapping[str, Any], folds: int | None = None, parts: str = ""
) -> Rotations:
    """Returns the folds of a config.

    Args:
      config: A config, see `build_pipeline`.
      folds: Number of folds by query of the training files; 5 by default.
      parts: Folders or globs of files with commas between, or a glob of folders, that
        are a part each; then there are no folds by query.

    Raises:
      ConfigError: There are fewer than three, or the config has folds of its own.
      DataError: Parts are not there.
    """
    data = dict(config.get("data") or {})
    model = config.get("model") or {}
    if data.get("sessions") or model.get("position_bias"):
        raise ConfigError(
            "data.sessions, model.position_bias: expected grades, found clicks. Those "
            "held out have the bias of those trained on, and would call it right. "
            "Train one run, and measure it on grades, by data.test or `evaluate`; see "
            "docs/clicks.md."
        )
    for key in _OWN:
        if data.get(key) is not None:
            raise ConfigError(
                f"data.{key}: expected none, found {data[key]!r}: each run of a "
                "cross-validation has its own. Leave it out."
            )
    if parts:
        return _of_parts(data, parts, folds)
    folders = _folders(data)
    if folders:
        if folds not in (None, len(folders)):
            raise ConfigError(
                f"--folds: expected {len(folders)} or none, found {folds}: "
                f"{data['dir']} has the folders Fold1 to Fold{len(folders)}."
            )
        return _of_folders(data, folders)
    return _by_query(config, DEFAULT_FOLDS if folds is None else folds)


def rotated(folds: int, fold: int) -> tuple[list[int], int, int]:
    """Returns the parts that train, the one that validates, and the one measured.

    Args:
      folds: How many parts there are.
      fold: Number of the fold, from 0.

    Example:
      >>> rotated(5, 0), rotated(5, 1)
      (([0, 1, 2], 3, 4), ([1, 2, 3], 4, 0))
    """
    *train, valid, test = ((fold + i) % folds for i in range(folds))
    return train, valid, test


def _check_count(count: int, what: str) -> None:
    if count < 3:
        raise ConfigError(
            f"{what}: expected 3 or more, found {count}: one is measured, another one "
            "validates, and the others train."
        )


def _by_query(config: Mapping[str, Any], folds: int) -> Rotations:
    _check_count(folds, "--folds")
    given = config.get("data") or {}
    for key in ("valid", "test"):
        if given.get(key):
            warnings.warn(
                f"data.{key} has no effect in a cross-validation: folds of the "
                "training files validate and are measured. To have these files in the "
                "folds, name them in data.train, with a comma between.",
                stacklevel=4,
            )
    data = {**without_test(config)["data"], "valid": None}
    if not data.get("train"):
        raise ConfigError(
            "config.data.train: files are required, by --config.data.dir=DIR with "
            "train-* in it or by --config.data.train=GLOB."
        )
    made = []
    for fold in range(folds):
        _, valid, test = rotated(folds, fold)
        made.append({**data, "folds": folds, "fold": valid, "test_fold": test})
    return Rotations(FOLDS, tuple(made), (data["train"],))


def _of_parts(data: dict[str, Any], parts: str, folds: int | None) -> Rotations:
    patterns, features = _parts(parts)
    _check_count(len(patterns), "--parts")
    if folds not in (None, len(patterns)):
        raise ConfigError(
            f"--folds: expected none beside --parts, found {folds}, and "
            f"{len(patterns)} parts."
        )
    for key in ("dir", "train", "valid", "test"):
        if data.get(key):
            warnings.warn(f"data.{key} has no effect beside --parts.", stacklevel=4)
        data[key] = None
    described = data.get("features") or (features[0] if features else None)
    if not described:
        raise ConfigError(
            "config.data.features: the path of features.json is required beside parts "
            "that are files."
        )
    _check_same([described, *features])
    data["features"] = described
    made = []
    for fold in range(len(patterns)):
        train, valid, test = rotated(len(patterns), fold)
        made.append(
            {
                **data,
                "train": ",".join(patterns[i] for i in train),
                "valid": patterns[valid],
                "test": patterns[test],
            }
        )
    return Rotations(PARTS, tuple(made), tuple(patterns))


def _parts(text: str) -> tuple[list[str], list[str]]:
    """Returns the pattern of the files of each part, and their features.json."""
    patterns: list[str] = []
    features: list[str] = []
    for word in filter(None, text.split(",")):
        word = files.local(word, "--parts")
        folders = [word]
        if not urls.is_remote(word):
            found = sorted(glob.glob(word) or glob.glob(glob.escape(word)))
            folders = [path for path in found if os.path.isdir(path)]
        elif glob.has_magic(word):
            folders = []
        for folder in folders:
            patterns.append(os.path.join(glob.escape(folder), _SHARDS))
            described = os.path.join(folder, FILE_NAME)
            if files.exists(described):
                features.append(described)
        if not folders:
            patterns.append(word)
    for pattern in patterns:
        files.expand(pattern, "--parts", fetch=False)
    twice = [pattern for pattern in patterns if patterns.count(pattern) > 1]
    if twice:
        raise ConfigError(f"--parts: {twice[0]!r} is named more than once.")
    return patterns, features


def _check_same(paths: Sequence[str]) -> None:
    """Checks that parts have the same features."""
    first = Features.load(paths[0]).to_json()
    for path in paths[1:]:
        for key, one, other in comparison.differences(
            first, Features.load(path).to_json()
        ):
            raise DataError(
                f"{path}: expected the features of {paths[0]}, found another {key}: "
                f"{other}, not {one}. Convert all parts with the same flags."
            )


def _folders(data: Mapping[str, Any]) -> list[str]:
    """Returns `Fold1`, `Fold2` and so on of `data.dir`, if it has no training files."""
    folder = data.get("dir")
    if not folder or data.get("train") or _has(folder, "train-*"):
        return []
    folder = files.local(folder)
    above = os.path.join(glob.escape(folder), "Fold*")
    found = {os.path.basename(path) for path in glob.glob(above) if os.path.isdir(path)}
    with contextlib.suppress(DataError):
        shards = files.expand(os.path.join(above, "train-*"), fetch=False)
        found |= {os.path.basename(os.path.dirname(path)) for path in shards}
    names = [name for name in found if re.fullmatch(r"Fold\d+", name)]
    wanted = [f"Fold{number}" for number in range(1, len(names) + 1)]
    if {*names} != {*wanted}:
        raise DataError(
            f"{folder}: expected {wanted[0]} to {wanted[-1]} for {len(names)} folds, "
            f"found {', '.join(sorted(names))}."
        )
    return [os.path.join(folder, name) for name in wanted]


def _has(folder: str, pattern: str) -> bool:
    with contextlib.suppress(DataError):
        return bool(
            files.expand(
                os.path.join(glob.escape(files.local(folder)), pattern), fetch=False
            )
        )
    return False


def _of_folders(data: dict[str, Any], folders: Sequence[str]) -> Rotations:
    for folder in folders:
        for split in ("train", "valid", "test"):
            if not _has(folder, f"{split}-*"):
                raise DataError(
                    f"{folder}: expected training, validation and test data that "
                    f"`tfr-pipeline convert` wrote, found no {split}-*. Convert the "
                    "three files of each fold into a folder of that name; "
                    "docs/choosing.md has the commands."
                )
    _check_count(len(folders), f"folders in {os.path.dirname(folders[0])}")
    for key in ("valid", "test"):
        if data.get(key):
            warnings.warn(
                f"data.{key} has no effect beside the folders {folders[0]} and so on.",
                stacklevel=4,
            )
            data[key] = None
    if not data.get("features"):
        _check_same(folders)
    patterns = [
        os.path.join(glob.escape(folder), f"{split}-*")
        for folder in folders
        for split in ("train", "valid", "test")
    ]
    made = tuple({**data, "dir": folder} for folder in folders)
    return Rotations(FOLDERS, made, tuple(patterns))
