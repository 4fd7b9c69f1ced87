"""The lists of training, validation and test data: how they are planned and read."""

from __future__ import annotations

import abc
import copy
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import numpy as np

from tfr_pipeline.data.batching.windowed import WindowedPlan
from tfr_pipeline.data.lists import Lists
from tfr_pipeline.data.reading.place import MEMORY
from tfr_pipeline.data.reading.ranges import runs_of
from tfr_pipeline.data.reading.record_reader import RecordReader
from tfr_pipeline.errors import ConfigError, unknown_name
from tfr_pipeline.features import Features
from tfr_pipeline.layout import BlockLayout
from tfr_pipeline.pipeline.datasets.adapter import SPLITS, splits_of
from tfr_pipeline.pipeline.datasets.hparams import NO_SHARDING, cache_of, setting
from tfr_pipeline.pipeline.datasets.kept_lists import Index, KeptLists, Reading
from tfr_pipeline.pipeline.datasets.planning import (
    PLANNED_BY,
    find_index,
    make_plan,
    shares,
)
from tfr_pipeline.pipeline.datasets.protocol import (
    BatchRequest,
    FeatureSpecs,
    Plan,
    Specs,
    Split,
)

# Documents that are looked at at once.
_PIECE = 1 << 14
Builder = TypeVar("Builder", bound="SplitLists")
Made = TypeVar("Made")


class SplitLists(abc.ABC):
    """What a dataset builder has of its files; a part of `BaseDatasetBuilder`.

    Args:
      hparams: A `DatasetHparams`, ours or TF-Ranking's.

    Attributes:
      kept: See `BaseDatasetBuilder`.
    """

    def __init__(self, hparams: Any):
        self._hparams = hparams
        self._document_id: str | None = None
        self.kept = KeptLists()
        self._reader = RecordReader(
            hparams.dataset_reader,
            tuple(setting(hparams, "reader_args") or ()),
            setting(hparams, "compression"),
        )
        self._neighbours_in_files: Specs = {}
        self._teacher_in_files: Specs = {}
        self._own_splits: dict[str, Split] | None = None
        self._made: dict[tuple[Any, ...], tuple[tuple[Any, ...], Any]] = {}

    @property
    @abc.abstractmethod
    def features(self) -> Features | None:
        """Description of the data, None where it has no labels of its own."""

    @property
    @abc.abstractmethod
    def specs(self) -> FeatureSpecs:
        """What records hold."""

    @property
    @abc.abstractmethod
    def layouts(self) -> tuple[str, ...]:
        """Layouts of batches; none when files are not read in our way."""

    @property
    def hparams(self) -> Any:
        """The `DatasetHparams`, ours or TF-Ranking's."""
        return self._hparams

    @hparams.setter
    def hparams(self, hparams: Any) -> None:
        # Subclasses written for TF-Ranking have an attribute of this name.
        self._hparams = hparams

    @property
    def splits(self) -> Mapping[str, Split]:
        """What there is of `train`, `valid` and `test`, by name."""
        if self._own_splits is not None:
            return dict(self._own_splits)
        return splits_of(self._hparams)

    def with_splits(self: Builder, splits: Mapping[str, Split]) -> Builder:
        """Returns a builder for other splits that shares what this one has read.

        Args:
          splits: All splits that it shall have, of `train`, `valid` and `test`.

        Raises:
          ConfigError: There is another split, or files are not read in our way.
        """
        for name in splits:
            if name not in SPLITS:
                raise ConfigError(unknown_name("split", name, SPLITS))
        if not self.layouts:
            raise ConfigError(
                f"with_splits: {type(self).__name__} reads its files in a way of its "
                "own, or has features that are not kept; give it the files of each "
                "split."
            )
        other = copy.copy(self)
        other._own_splits, other._made = dict(splits), {}
        return other

    def _split(self, name: str) -> Split:
        if name not in SPLITS:
            raise ConfigError(unknown_name("split", name, SPLITS))
        return self.splits.get(name, Split(""))

    def _reading(self) -> Reading:
        """How files become lists: here, with labels among the features."""
        return Reading(
            specs=self.specs,
            reader=self._reader,
            document_id=self._kept_document_id,
            input_format=setting(self._hparams, "input_format"),
            cache=cache_of(self._hparams),
            features=lambda: self._described,
            neighbours=self._neighbours_in_files,
            teacher=self._teacher_in_files,
        )

    @property
    def _described(self) -> Features | None:
        """Description of the files."""
        return self.features

    @property
    def _kept_document_id(self) -> str | None:
        """Name of the document id if it is to be read, None if not.

        Raises:
          ConfigError: It is to be, and has no name.
        """
        if not setting(self._hparams, "keep_document_ids"):
            return None
        if self._document_id is None:
            raise ConfigError(
                "keep_document_ids: expected the name of the feature that holds the id "
                f"of a document, found none in {type(self).__name__}. Give document_id "
                "to the dataset builder, or name it in features.json."
            )
        return self._document_id

    def _once(
        self, name: tuple[Any, ...], made_of: tuple[Any, ...], make: Callable[[], Made]
    ) -> Made:
        """Returns what `make` made of these very objects, or makes it anew."""
        known = self._made.get(name)
        if known is None or any(
            one is not other for one, other in zip(known[0], made_of, strict=True)
        ):
            self._made[name] = known = made_of, make()
        return known[1]

    def lists(self, split: str, layout: str = "padded") -> Lists:
        """Returns the lists of `train`, `valid` or `test`, read once and then kept.

        Raises:
          DataError: Files are missing, empty, corrupt or do not match the specs.
        """
        lists, numbers = self._all_lists(split), self._numbers(split)
        if numbers is None:
            return lists
        return self._once(
            ("lists", split), (lists, numbers), lambda: lists.take(numbers)
        )

    def query_ids(self, split: str) -> np.ndarray:
        """Returns the query ids of `lists`, if it can without their features.

        Raises:
          DataError: See `lists`.
        """
        wanted, reading = self._split(split), self._reading()
        if not self.has_own_lists and wanted.keep is None and not self._has_read(split):
            found = reading.query_ids(wanted.pattern)
            if found is not None:
                return found
        return self.lists(split, "packed").query_ids

    def _all_lists(self, split: str) -> Lists:
        """Returns all lists of the files of a split."""
        return self.kept.get(self._split(split).pattern, self._reading())

    def _numbers(self, split: str) -> np.ndarray | None:
        """Returns the numbers of those that belong to it, rising; None if all do."""
        return self.kept.numbers(self._split(split), self._reading())

    def _chosen(self, split: str) -> np.ndarray | None:
        """Returns `_numbers` where nothing but files says what lists there are."""
        return None if self.has_own_lists else self._numbers(split)

    def some_lists(
        self, split: str, numbers: np.ndarray, layout: str = "padded"
    ) -> Lists:
        """Returns some lists of a split, without reading all of a large one.

        Args:
          split: `train`, `valid` or `test`.
          numbers: int64 `[lists]`, their numbers, in any order.
          layout: See `lists`.

        Raises:
          DataError: See `lists`.
        """
        chosen = self._chosen(split)
        if chosen is not None:
            every = self._as_trained("", layout, self._all_lists(split))
            return _some(every, chosen[numbers])
        index = None if self._has_read(split) else self._index(split, 1)
        if index is None:
            return _some(self.lists(split, layout), numbers)
        wanted, places = np.unique(numbers, return_inverse=True)
        pattern = self._split(split).pattern
        reading = dataclasses.replace(self._reading(), cache=MEMORY)
        found = reading.read(pattern, (index.shards, runs_of(wanted)))
        found = _some(self._as_trained("", layout, found), places)
        if self.specs.query_id is not None:
            return found
        # They are named by their numbers: among all lists, not among these.
        names = np.array([str(number) for number in numbers], object)
        return dataclasses.replace(found, query_ids=names)

    @property
    def list_layout(self) -> BlockLayout:
        """Where features stand in the matrices of `lists`."""
        return self._reading().layout

    def pieces(
        self, replicas: int = 1, shard: tuple[int, int] = (0, 1)
    ) -> Iterator[Lists]:
        """Yields a worker's share of the training lists, as they are in the files.

        Each list is in one share. Of data that workers read parts of, it is the part
        that this one reads.

        Args:
          replicas: Number of replicas that share a global batch.
          shard: `(i, n)` for the share of worker `i` of `n`.

        Raises:
          DataError: See `lists`.
        """
        layout = self.layouts[0]
        plan = self.plan("train", layout, replicas)
        request = BatchRequest(
            split="train", layout=layout, replicas=replicas, shard=shard
        )
        lists, where = self._needed(plan, request)
        worker, workers = shard
        if isinstance(where, np.ndarray):  # of all lists of the files, as of a fold
            yield from in_pieces(lists, worker, workers, where)
            return
        if isinstance(plan, WindowedPlan) and shares(self._hparams, workers):
            worker, workers = 0, 1  # it has read its own ones only
        yield from in_pieces(lists, worker, workers)

    def known_lengths(self, split: str) -> np.ndarray | None:
        """Returns how many documents the lists of a split have, if that is known.

        Args:
          split: `train`, `valid` or `test`.

        Returns:
          int64 `[lists]` where all lists have been read, or where there is an index by
          which workers read parts of large data; None elsewhere.
        """
        if self._has_read(split):
            return self._lengths(split)
        if setting(self._hparams, "sharding") == NO_SHARDING:
            return None
        index = self._index(split, 1)
        return index.documents if index is not None and index.ranged else None

    def _lengths(self, split: str) -> np.ndarray:
        numbers, lengths = self._numbers(split), self._all_lists(split).lengths
        return lengths if numbers is None else lengths[numbers]

    def _has_read(self, split: str) -> bool:
        if self.has_own_lists:
            return False
        return self.kept.has(self._split(split).pattern, self._reading())

    @property
    def has_own_lists(self) -> bool:
        """Whether a subclass of the user's has lists of its own making."""
        return not type(self).lists.__module__.startswith("tfr_pipeline.")

    def _list_size(self, split: str) -> int | None:
        hparams = self._hparams
        return hparams.list_size if split == "train" else hparams.valid_list_size

    def plan(
        self,
        split: str,
        layout: str = "padded",
        replicas: int = 1,
        by_length: bool = False,
    ) -> Plan:
        """Returns which lists stand in which batch; see `BatchRequest`.

        A `WindowedPlan` where there is more data than a window, wherever it is kept.
        """
        index = self._index(split, replicas)
        chosen = self._chosen(split)
        if index is not None:
            documents = source = index.documents
        elif chosen is not None:
            documents, source = self._lengths(split), chosen
        else:
            lists = self.lists(split, layout)
            documents, source = lists.lengths, lists.row_splits
        hparams = self._hparams
        told = tuple(setting(hparams, name) for name in PLANNED_BY)

        def make() -> Plan:
            where = self._reading().layout
            return make_plan(
                hparams, split, replicas, documents, where, index, by_length
            )

        # One plan for all who ask: it remembers what takes time to find out.
        name = ("plan", split, self._list_size(split), replicas, by_length, *told)
        return self._once(name, (source,), make)

    def _index(self, split: str, replicas: int) -> Index | None:
        """Returns what is known of a split before it is read; see `find_index`."""
        if self.has_own_lists:
            return None
        sharding, train = setting(self._hparams, "sharding"), split == "train"
        wanted, reading = self._split(split), self._reading()
        return find_index(self.kept, reading, wanted, sharding, replicas, train)

    def _needed(
        self, plan: Plan, request: BatchRequest
    ) -> tuple[Any, int | np.ndarray]:
        """Returns the lists that a worker needs, and where they stand; see `batches`.

        Some of the lists of files, as of a fold, are copied if they are few.
        """
        split, layout = request.split, request.layout
        chosen = self._chosen(split)
        if chosen is not None and isinstance(plan, WindowedPlan):
            # Under one name for all splits of these files.
            return self._as_trained("", layout, self._all_lists(split)), chosen
        worker, workers = request.shard
        index = self._index(split, request.replicas)
        if index is None or not isinstance(plan, WindowedPlan):
            return self.lists(split, layout), 0
        part = None
        if shares(self._hparams, workers):
            part = plan.lists_of(worker, workers)
        pattern = self._split(split).pattern
        lists = self.kept.get_for_batches(pattern, self._reading(), part)
        if part is None and isinstance(lists, Lists):
            return self.lists(split, layout), 0
        return self._as_trained(split, layout, lists), part[0] if part else 0

    def _as_trained(self, split: str, layout: str, lists: Any) -> Any:
        """Returns lists of files with the labels and weights that training takes."""
        return lists


def _some(lists: Lists, numbers: np.ndarray) -> Lists:
    """Returns some lists; those in a row without a copy of them."""
    first, count = int(numbers[0]), len(numbers)
    if np.array_equal(numbers, np.arange(first, first + count)):
        return lists.slice(first, first + count)
    return lists.take(numbers)


def in_pieces(
    lists: Any, worker: int, workers: int, numbers: np.ndarray | None = None
) -> Iterator[Lists]:
    """Yields a share of lists in pieces that take little memory.

    Args:
      lists: `Lists`, or what reads some of them.
      worker: Number of the share.
      workers: How many shares there are, with about as many documents in each.
      numbers: int64, the lists that count, rising; all of them by default.
    """
    lengths = lists.lengths
    ends = np.cumsum(lengths if numbers is None else lengths[numbers])
    total = int(ends[-1]) if len(ends) else 0
    first, last = (
        int(np.searchsorted(ends, total * i // workers, "right"))
        if i < workers
        else len(ends)
        for i in (worker, worker + 1)
    )
    while first < last:
        before = int(ends[first - 1]) if first else 0
        stop = int(np.searchsorted(ends, before + _PIECE, "right"))
        stop = min(max(stop, first + 1), last)
        some = np.arange(first, stop) if numbers is None else numbers[first:stop]
        yield lists.read(some) if hasattr(lists, "read") else _some(lists, some)
        first = stop
