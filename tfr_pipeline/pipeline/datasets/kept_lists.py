"""Lists that are read out of files once, and kept."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Callable
from typing import Any

import numpy as np

from tfr_pipeline import files
from tfr_pipeline.cluster import cluster_spec
from tfr_pipeline.data.batching.loose import separate
from tfr_pipeline.data.lists import Lists
from tfr_pipeline.data.reading import cache, loading, place
from tfr_pipeline.data.reading.described import check_columns
from tfr_pipeline.data.reading.parser import RecordParser
from tfr_pipeline.data.reading.ranges import RecordRange
from tfr_pipeline.data.reading.record_lists import RecordLists
from tfr_pipeline.data.reading.record_reader import RecordReader
from tfr_pipeline.data.records import formats, index
from tfr_pipeline.data.records.formats import AUTO, PACKED
from tfr_pipeline.data.records.index import ShardIndex
from tfr_pipeline.errors import DataError
from tfr_pipeline.features import Features
from tfr_pipeline.layout import BlockLayout
from tfr_pipeline.pipeline.datasets.protocol import FeatureSpecs, Specs

# Indices of files, and runs of lists over all of them; see `RecordRange`.
Part = tuple[tuple[ShardIndex, ...], tuple[tuple[int, int], ...]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reading:
    """How files become lists.

    Attributes:
      specs: What records hold.
      reader: Opens files.
      label: Name of the label, or names of the labels of several tasks, that stand
        apart in `Lists.labels`; None if they stand among the features.
      weight: Name of the document weight that stands apart, or None.
      document_id: Name of the document feature with the document id, if it is kept.
      input_format: See `DatasetHparams`.
      cache: Where lists are kept: `auto`, `memory`, `disk` or a folder.
      features: Returns the description that the files should fit, or None.
    """

    specs: FeatureSpecs
    reader: RecordReader
    label: str | tuple[str, ...] | None = None
    weight: str | None = None
    document_id: str | None = None
    input_format: str = AUTO
    cache: str = place.AUTO
    features: Callable[[], Features | None] = lambda: None

    def parser(self, data_format: str = "") -> RecordParser:
        """Returns the parser of records in a format."""
        apart = self.label is not None
        return RecordParser(
            self.specs.all_context,
            self.in_lists,
            self.specs.training_only_example if apart else None,
            query_id=self.specs.query_id,
            document_id=self.document_id,
            data_format=data_format,
        )

    @property
    def in_lists(self) -> Specs:
        """Specs of what stands in the matrices of lists, or beside them."""
        apart = self.label is not None
        return self.specs.example if apart else self.specs.all_example

    @property
    def layout(self) -> BlockLayout:
        """Where features stand in the matrices of lists."""
        return BlockLayout.from_spec(separate(self.in_lists)[0])

    @property
    def key(self) -> tuple[Any, ...]:
        """Equal for those, and only those, that make the same lists of files."""
        rest = self.reader, self.input_format, self.cache
        return cache.describe_parsing(self.parser(), self.label, self.weight), *rest

    def index(self, pattern: str) -> list[ShardIndex] | None:
        """Returns the index of the files of a pattern; None if it cannot be used.

        Raises:
          DataError: The files are missing, or others than the index was made for.
        """
        paths = files.expand(pattern, "data")
        if not self.reader.reads_plain_files or self.format(paths) == formats.EXAMPLE:
            return None
        return index.read(paths)

    def read(
        self,
        pattern: str,
        part: Part | None = None,
        straight: tuple[ShardIndex, ...] = (),
    ) -> Lists | RecordLists:
        """Reads the files of a pattern.

        Args:
          pattern: Glob, or comma-separated globs.
          part: Reads these lists, and nothing else; all by default.
          straight: Index of the files, if lists that do not fit the memory are to stay
            where they are, where that can be.

        Raises:
          DataError: Files are missing, empty, corrupt or do not match the specs.
          ConfigError: They do not fit the memory, which was asked for.
          RunError: They do not fit the disk.
        """
        paths = files.expand(pattern, "data")
        data_format = self.format(paths)
        if data_format == PACKED and not isinstance(self.label, str):
            raise DataError(
                f"{paths[0]}: packed files have one label and one weight. Labels of "
                "several tasks, or of another kind, need ELWC, --output_format=elwc."
            )
        parser = self.parser(data_format)
        parser = loading.of_stored(parser, paths, self.reader)
        label, weight = self.label, self.weight
        how = parser, label, weight
        reader = self.reader if part is None else RecordRange(self.reader, *part)
        size = place.SizeOf(paths, *how, reader)
        here = cluster_spec.readers_here(os.environ.get("TF_CONFIG"))
        stays = (
            bool(straight)
            and self.cache in (place.AUTO, place.DISK)
            and data_format == PACKED
            and RecordLists.possible(parser)
        )
        folder = place.choose(self.cache, here, size, stays)
        if folder and stays and isinstance(label, str):
            if not isinstance(reader, RecordRange):
                count = sum(len(shard.documents) for shard in straight)
                reader = RecordRange(self.reader, straight, ((0, count),))
            return RecordLists(reader, parser, label, weight)
        lists = loading.load(
            paths, *how, reader, folder, before_building=lambda: size.check_disk(folder)
        )
        if isinstance(reader, RecordRange):
            reader.check(lists.lengths)
        return lists

    def format(self, paths: list[str]) -> str:
        """Returns the format of files: what was said, or what their records are.

        Raises:
          DataError: They are of another format, or have other columns.
        """
        wanted = formats.canonical(self.input_format)
        found = loading.sniff_format(paths, self.reader, wanted)
        features = None
        with contextlib.suppress(DataError):  # specs that no file can describe
            features = self.features()
        if features is not None:
            check_columns(paths, features, found)
        return found


class KeptLists:
    """Reads the lists of each pattern once for each way of reading, and keeps them.

    Dataset builders that share one, whatever batches they make, read files once.
    Nothing is dropped before all of them are gone: the next fold wants what the last
    one read, and whoever is done with files makes a builder anew for the next ones.
    """

    def __init__(self) -> None:
        self._known: list[tuple[str, tuple[Any, ...], Any]] = []
        self._indices: dict[str, Index | None] = {}

    def get(self, pattern: str, reading: Reading) -> Lists:
        """Returns all lists of a pattern; they are shared, so must not be changed.

        Raises:
          DataError: See `Reading.read`.
        """
        return self._once(pattern, (*reading.key, "all"), lambda: reading.read(pattern))

    def get_for_batches(
        self, pattern: str, reading: Reading, part: tuple[int, int] | None
    ) -> Lists | RecordLists:
        """Returns lists of a pattern that has an `index`, for nothing but batches.

        Args:
          pattern: See `Reading.read`.
          reading: How files become lists.
          part: Number of the first list and of the one behind the last; None for all.

        Raises:
          DataError: See `Reading.read`.
        """
        index = self.index(pattern, reading)
        assert index is not None
        ranged = None if part is None else (index.shards, (part,))
        whole = (*reading.key, "all")
        if part is None and (known := self._find(pattern, whole)) is not None:
            return known
        lists = self._once(
            pattern,
            (*reading.key, part),
            lambda: reading.read(pattern, ranged, index.shards),
        )
        if part is None and isinstance(lists, Lists):  # as `get` would return them
            return self._once(pattern, whole, lambda: lists)
        return lists

    def _find(self, pattern: str, key: tuple[Any, ...]) -> Any:
        return next((x for p, k, x in self._known if (p, k) == (pattern, key)), None)

    def _once(self, pattern: str, key: tuple[Any, ...], read: Callable[[], Any]) -> Any:
        lists = self._find(pattern, key)
        if lists is None:
            lists = read()
            self._known.append((pattern, key, lists))
        return lists

    def index(self, pattern: str, reading: Reading) -> Index | None:
        """Returns the index of the files of a pattern, where there is one.

        Raises:
          DataError: See `Reading.index`.
        """
        if pattern not in self._indices:
            shards = reading.index(pattern)
            self._indices[pattern] = Index(tuple(shards)) if shards else None
        return self._indices[pattern]


class Index:
    """The lists of all files of a pattern, before they are read.

    Attributes:
      shards: The index of each file.
      documents: int64 `[lists]`, documents a list.
    """

    def __init__(self, shards: tuple[ShardIndex, ...]):
        self.shards = shards
        self.documents = np.concatenate([shard.documents for shard in shards])
