"""A dataset builder of lists that are given rather than read out of files."""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from tfr_pipeline.data import store
from tfr_pipeline.data.convert.cut import SPLITS, Cut
from tfr_pipeline.data.lists import Lists
from tfr_pipeline.data.reading.record_lists import RecordLists
from tfr_pipeline.data.sources.options import NAN
from tfr_pipeline.errors import ConfigError, DataError, unknown_name
from tfr_pipeline.features import Feature, Features
from tfr_pipeline.pipeline.datasets.hparams import DatasetHparams
from tfr_pipeline.pipeline.datasets.kept_lists import Index, KeptLists, Reading
from tfr_pipeline.pipeline.datasets.simple import SimpleDatasetBuilder

WEIGHT = ("weight", Feature("float32", (1,), 1.0))
# Settings of `DatasetHparams` that say how files are read.
_OF_FILES = {
    *(f"{split}_input_pattern" for split in SPLITS),
    *("dataset_reader", "reader_args", "cache", "input_format", "compression"),
    *("keep_document_ids", "sharding"),
}
_BATCHES = [
    field.name
    for field in dataclasses.fields(DatasetHparams)
    if field.name not in _OF_FILES
]

# Of a large array, so many stretches of so many bytes are looked at.
_STRETCHES, _STRETCH = 64, 1 << 16


class GivenLists(KeptLists):
    """What a dataset builder finds instead of files.

    Args:
      lists: The lists of each split; their columns stand as a `BlockLayout` says.
    """

    is_of_files = False

    def __init__(self, lists: Mapping[str, Lists]):
        super().__init__()
        self._lists = {pattern_of(split): found for split, found in lists.items()}

    def get(self, pattern: str, reading: Reading) -> Lists:
        """Returns the lists of a pattern."""
        return self._lists[pattern]

    def has(self, pattern: str, reading: Reading) -> bool:
        """Whether all lists of a pattern are at hand: yes."""
        return True

    def may_be_large(self, pattern: str) -> bool:
        """Whether lists are better not held in memory: they are there already."""
        return False

    def index(
        self,
        pattern: str,
        reading: Reading,
        by_files: bool = False,
        worth: Callable[[float], bool] | None = None,
    ) -> Index | None:
        """Returns the index of files; there are none."""
        return None

    def get_for_batches(
        self, pattern: str, reading: Reading, part: tuple[int, int] | None
    ) -> Lists | RecordLists:
        """Returns lists of a pattern, all or those from a number to another."""
        lists = self._lists[pattern]
        return lists if part is None else lists.slice(*part)

    def fingerprint(self, pattern: str) -> dict[str, str]:
        """Returns size and checksum of parts of each array, as of files."""
        return {
            name: f"{array.nbytes} bytes, {_checksum(array):08x}"
            for name, array in store.columns(self._lists[pattern]).items()
        }


def pattern_of(split: str) -> str:
    """Returns what stands in the place of the files of a split.

    Example:
      >>> pattern_of("train")
      '<train data in memory>'
    """
    return f"<{split} data in memory>"


def _checksum(array: np.ndarray) -> int:
    if array.dtype == object:  # texts
        step = max(1, len(array) * 8 // _STRETCH)
        return zlib.crc32("\n".join(map(str, array[::step])).encode())
    raw = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    result = 0
    for start in np.linspace(0, max(0, len(raw) - _STRETCH), _STRETCHES, dtype=int):
        result = zlib.crc32(raw[start : start + _STRETCH].data, result)
        if len(raw) <= _STRETCH:
            break
    return result


def builder_of(
    lists: dict[str, Lists],
    features: Features,
    splits: str,
    train_batch_size: int,
    valid_batch_size: int | None,
    batches: dict[str, Any],
) -> SimpleDatasetBuilder:
    """Returns a dataset builder of lists.

    Args:
      lists: Those of each split; or those of `train`, to be cut.
      features: What they have.
      splits: How to cut them, see `from_arrays`; empty for not.
      train_batch_size: See `from_arrays`, as the next two.
      valid_batch_size: See `from_arrays`.
      batches: See `from_arrays`.

    Raises:
      ConfigError: A setting is wrong.
      DataError: A split would be empty.
    """
    for name in batches:
        if name not in _BATCHES:
            raise ConfigError(unknown_name("setting of batches", name, _BATCHES))
    if splits:
        lists = _cut(splits, lists)
    patterns = [pattern_of(split) if split in lists else "" for split in SPLITS]
    hparams = DatasetHparams(
        train_input_pattern=patterns[0],
        valid_input_pattern=patterns[1],
        test_input_pattern=patterns[2],
        train_batch_size=train_batch_size,
        valid_batch_size=valid_batch_size or train_batch_size,
        **batches,
    )
    builder = SimpleDatasetBuilder.from_features(features, hparams)
    builder.kept = GivenLists(lists)
    return builder


def _cut(splits: str, lists: dict[str, Lists]) -> dict[str, Lists]:
    cut = Cut.parse(splits, "splits")
    if len(lists) > 1:
        raise ConfigError(
            f"splits={splits!r}: expected it instead of other data, found "
            f"{' and '.join(name for name in lists if name != 'train')} as well."
        )
    if "train" not in cut.names:
        raise ConfigError(f"splits: expected train among them, found {splits!r}.")
    result = {}
    for name in cut.names:
        numbers = cut.choose(lists["train"], name)
        if not len(numbers):
            raise DataError(
                f"splits={splits!r}: expected queries in each split, found none of "
                f"{lists['train'].num_lists} for {name!r}. Choose larger shares."
            )
        result[name] = lists["train"].take(numbers)
    return result


def checked_nan(nan: str) -> str:
    """Returns what to do with NaN, if that can be."""
    if nan not in NAN:
        raise ConfigError(unknown_name("value of nan", nan, NAN))
    return nan
