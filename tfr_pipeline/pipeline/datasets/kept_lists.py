"""Lists that are read out of files once, and kept."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from tfr_pipeline import copies, files, urls
from tfr_pipeline.cluster import cluster_spec
from tfr_pipeline.data.batching import teacher_scores
from tfr_pipeline.data.batching.loose import separate
from tfr_pipeline.data.batching.stored_neighbours import Columns, set_apart
from tfr_pipeline.data.lists import Lists
from tfr_pipeline.data.reading import cache, loading, place, remote_shards
from tfr_pipeline.data.reading.described import check_columns
from tfr_pipeline.data.reading.indexing import Indexing
from tfr_pipeline.data.reading.parser import RecordParser
from tfr_pipeline.data.reading.ranges import RecordRange
from tfr_pipeline.data.reading.record_lists import RecordLists
from tfr_pipeline.data.reading.record_reader import RecordReader
from tfr_pipeline.data.reading.scanning import names_of
from tfr_pipeline.data.records import formats, index
from tfr_pipeline.data.records.formats import AUTO, ELWC, PACKED
from tfr_pipeline.data.records.index import ShardIndex
from tfr_pipeline.errors import DataError
from tfr_pipeline.features import Features
from tfr_pipeline.graph import names
from tfr_pipeline.layout import BlockLayout
from tfr_pipeline.pipeline.datasets.protocol import FeatureSpecs, Specs, Split

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
      neighbours: Specs of the features of neighbours that are packed in documents;
        they stand apart from those of the documents, see `stored_neighbours`.
      teacher: Spec of the document feature that is the score of a teacher, by name, or
        nothing; it stands apart, see `teacher_scores`.
    """

    specs: FeatureSpecs
    reader: RecordReader
    label: str | tuple[str, ...] | None = None
    weight: str | None = None
    document_id: str | None = None
    input_format: str = AUTO
    cache: str = place.AUTO
    features: Callable[[], Features | None] = lambda: None
    neighbours: Specs = dataclasses.field(default_factory=dict)
    teacher: Specs = dataclasses.field(default_factory=dict)

    def parser(self, data_format: str = "") -> RecordParser:
        """Returns the parser of records in a format."""
        apart = self.label is not None
        return RecordParser(
            self.specs.all_context,
            {**self.in_lists, **self.neighbours, **self.teacher},
            self.specs.training_only_example if apart else None,
            query_id=self.specs.query_id,
            document_id=self.document_id,
            data_format=data_format,
            keeps_nan=self._keeps_nan,
        )

    @property
    def _keeps_nan(self) -> bool:
        """Whether the data is described as having NaN for what is missing."""
        with contextlib.suppress(DataError):  # specs that no file can describe
            features = self.features()
            return features is not None and features.reading.get("nan") == "keep"
        return False

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
    def beside(self) -> Specs:
        """Specs of features that stand in no matrix, of documents and of queries."""
        found = dict(separate(self.in_lists)[1])
        for name, spec in self.specs.all_context.items():
            if not isinstance(spec, tf.io.FixedLenFeature):
                found[name] = spec
        return found

    @property
    def key(self) -> tuple[Any, ...]:
        """Equal for those, and only those, that make the same lists of files."""
        rest = self.reader, self.input_format, self.cache
        return cache.describe_parsing(self.parser(), self.label, self.weight), *rest

    @property
    def of_lengths(self) -> tuple[str, ...]:
        """Names of features by which lists of some formats have other lengths."""
        return tuple(names_of(self.parser(formats.SEQ)))

    def index(
        self,
        pattern: str,
        by_files: bool = False,
        worth: Callable[[float], bool] | None = None,
    ) -> list[ShardIndex] | None:
        """Returns the index of the files of a pattern; None if there is none.

        Args:
          pattern: See `read`.
          by_files: Whether one of files that are read as a whole will do.
          worth: See `Indexing.find`.

        Raises:
          DataError: The files are missing or damaged, or others than the index was
            made for.
        """
        paths = remote_shards.paths_of(pattern)
        if self.reader.reads_plain_files:
            # By files means not to open those of others.
            found = index.read(paths, contents=not by_files)
            if found is not None:
                return found
        paths = copies.fetch(paths)
        made = Indexing(paths, self.reader, self.parser, self.input_format)
        return made.find(worth) if by_files or made.ranged else None

    def _separated(self, lists: Any) -> Any:
        """Returns lists of files with what is no feature of theirs apart."""
        every = {**self.in_lists, **self.neighbours}
        for name in self.teacher:
            in_files = BlockLayout.from_spec(separate({**every, **self.teacher})[0])
            dtype, column = in_files.place(name)
            lists = lists.changed(
                functools.partial(teacher_scores.set_apart, dtype, column)
            )
        return self._without_neighbours(lists, every) if self.neighbours else lists

    def _without_neighbours(self, lists: Any, specs: Specs) -> Any:
        every = BlockLayout.from_spec(separate(specs)[0])
        count = names.count(self.neighbours)
        named = [functools.partial(names.feature, i) for i in range(count)]
        columns = Columns.of(self.layout, every, named)
        return lists.changed(functools.partial(set_apart, columns))

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
        return self._separated(self._read(pattern, part, straight))

    def _read(
        self,
        pattern: str,
        part: Part | None,
        straight: tuple[ShardIndex, ...],
    ) -> Lists | RecordLists:
        reader, paths = self._source(pattern, part, straight)
        in_place = None
        if isinstance(reader, RecordRange) and not reader.local:
            in_place = reader
        sniffer = in_place or self.reader
        data_format = self.format(paths, sniffer)
        if data_format == PACKED and not isinstance(self.label, str):
            raise DataError(
                f"{paths[0]}: packed files have one label and one weight. Labels of "
                "several tasks, or of another kind, need ELWC, --output_format=elwc."
            )
        parser = self.parser(data_format)
        parser = loading.of_stored(parser, paths, sniffer)
        label, weight = self.label, self.weight
        how = parser, label, weight
        size = place.SizeOf(paths, *how, reader)
        here = cluster_spec.readers_here(os.environ.get("TF_CONFIG"))
        stays = bool(straight) and self._may_stay(parser, straight)
        folder = place.choose(self.cache, here, size, stays)
        trained_on = folder and stays
        # Parsed lists that are written to the disk are found there by later runs.
        if in_place and straight and (trained_on or not folder):
            reader = remote_shards.bring(in_place, kept=not trained_on)
        if trained_on and isinstance(label, str):
            if not isinstance(reader, RecordRange):
                reader = RecordRange(self.reader, straight, _all_of(straight))
            return RecordLists(reader, parser, label, weight)
        lists = loading.load(
            paths, *how, reader, folder, before_building=lambda: size.check_disk(folder)
        )
        if isinstance(reader, RecordRange):
            reader.check(lists.lengths)
        return lists

    def query_ids(self, pattern: str) -> np.ndarray | None:
        """Returns the query ids of files without reading the rest of their records.

        Args:
          pattern: See `read`.

        Returns:
          `str`, `[lists]`; None where that cannot be: in other formats than ELWC and
          packed lists, in data without ids, or in damaged files, of which `read` tells.

        Raises:
          DataError: Files are missing, or have other columns.
        """
        paths = files.expand(pattern, "data")
        data_format = self.format(paths)
        parser = self.parser(data_format)
        parses = {ELWC: parser.without_documents, PACKED: parser.queries}
        if self.specs.query_id is None or data_format not in parses:
            return None
        parse = parses[data_format]
        found: list[np.ndarray] = []
        with contextlib.suppress(tf.errors.OpError):
            batches = self.reader(paths).batch(loading.RECORDS_PER_PARSE)
            ids = batches.map(lambda x: parse(x)["query_ids"], tf.data.AUTOTUNE)
            found = list(ids.as_numpy_iterator())
        return loading.texts(np.concatenate(found)) if found else None

    def straight(
        self, pattern: str, shards: tuple[ShardIndex, ...]
    ) -> RecordLists | None:
        """Returns lists that stay in packed shards, however small; None if they cannot.

        Args:
          pattern: See `read`.
          shards: Index of the files.

        Raises:
          DataError: Files are missing, or do not match the specs.
        """
        if not isinstance(self.label, str):
            return None
        reader, paths = self._source(pattern, None, shards)
        if not isinstance(reader, RecordRange):
            reader = RecordRange(self.reader, shards, _all_of(shards))
        sniffer = self.reader if reader.local else reader
        parser = self.parser(self.format(paths, sniffer))
        parser = loading.of_stored(parser, paths, sniffer)
        if not self._may_stay(parser, shards):
            return None
        found = RecordLists(reader, parser, self.label, self.weight)
        lists: RecordLists = self._separated(found)
        return lists

    def _may_stay(self, parser: RecordParser, shards: tuple[ShardIndex, ...]) -> bool:
        """Whether lists that are not in memory can be trained on as they stand."""
        return (
            self.cache in (place.AUTO, place.DISK)
            and parser.data_format == PACKED
            and all(shard.ranged for shard in shards)
            and RecordLists.possible(parser)
        )

    def _source(
        self, pattern: str, part: Part | None, straight: tuple[ShardIndex, ...]
    ) -> tuple[RecordReader | RecordRange, list[str]]:
        """Returns the reader for `read`, and paths of all files, or their URLs."""
        shards, runs = part or (straight, _all_of(straight))
        reader = RecordRange(self.reader, shards, runs)
        if any(urls.is_remote(shard.path) for shard in shards):
            return reader, [shard.path for shard in shards]
        if part is None:
            return self.reader, files.expand(pattern, "data")
        reader = reader.narrowed
        return reader, [shard.path for shard in reader.shards]

    def format(
        self, paths: list[str], reader: RecordReader | RecordRange | None = None
    ) -> str:
        """Returns the format of files: what was said, or what their records are.

        Args:
          paths: The files.
          reader: Reads their first records, if not as all are read.

        Raises:
          DataError: They are of another format, or have other columns.
        """
        wanted = formats.canonical(self.input_format)
        found = loading.sniff_format(paths, reader or self.reader, wanted)
        features = None
        with contextlib.suppress(DataError):  # specs that no file can describe
            features = self.features()
        if features is not None:
            check_columns(paths, features, found)
        return found


def _all_of(shards: tuple[ShardIndex, ...]) -> tuple[tuple[int, int], ...]:
    return ((0, sum(len(shard.documents) for shard in shards)),)


class KeptLists:
    """Reads the lists of each pattern once for each way of reading, and keeps them.

    Dataset builders that share one, whatever batches they make, read files once.
    Nothing is dropped before all of them are gone: the next fold wants what the last
    one read, and whoever is done with files makes a builder anew for the next ones.
    """

    is_of_files = True

    def __init__(self) -> None:
        self._known: list[tuple[str, tuple[Any, ...], Any]] = []
        self._indices: dict[tuple[Any, ...], Index | None] = {}
        self._large: dict[str, bool] = {}

    def get(self, pattern: str, reading: Reading) -> Lists:
        """Returns all lists of a pattern; they are shared, so must not be changed.

        Raises:
          DataError: See `Reading.read`.
        """
        return self._once(pattern, (*reading.key, "all"), lambda: reading.read(pattern))

    def numbers(self, split: Split, reading: Reading) -> np.ndarray | None:
        """Returns which of all lists belong to a split; None if all do.

        Raises:
          DataError: See `Reading.read` and `Split.choose`.
          ConfigError: See `Split.choose`.
        """
        if split.keep is None:
            return None
        ids = self.get(split.pattern, reading).query_ids
        key = *reading.key, split.keep
        return self._once(split.pattern, key, lambda: split.choose(ids))

    def has(self, pattern: str, reading: Reading) -> bool:
        """Whether all lists of a pattern have been read."""
        return self._find(pattern, (*reading.key, "all")) is not None

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
        index = self.known_index(pattern, reading)
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

    def may_be_large(self, pattern: str) -> bool:
        """Whether the files of a pattern may hold more than is shuffled at once."""
        if pattern in self._large:
            return self._large[pattern]
        try:
            paths = files.expand(pattern, "data", fetch=False)
        except DataError:
            return False  # whoever reads them says so
        found = remote_shards.may_be_large(paths)
        if any(map(urls.is_remote, paths)):
            # A store is not asked again each time. What is there now counts.
            self._large[pattern] = found
        return found

    def index(
        self,
        pattern: str,
        reading: Reading,
        by_files: bool = False,
        worth: Callable[[float], bool] | None = None,
    ) -> Index | None:
        """Returns the index of the files of a pattern, where there is one.

        Args:
          pattern: See `Reading.index`, as the others.
          reading: How files become lists.
          by_files: See `Reading.index`.
          worth: Likewise.

        Raises:
          DataError: See `Reading.index`.
        """
        known = self.known_index(pattern, reading)
        if known is not None and (by_files or known.ranged):
            return known
        key = pattern, reading.of_lengths, by_files, worth is None
        if key not in self._indices:
            shards = reading.index(pattern, by_files, worth)
            self._indices[key] = Index(tuple(shards)) if shards else None
        return self._indices[key]

    def known_index(self, pattern: str, reading: Reading) -> Index | None:
        """Returns what `index` has returned for a pattern, if that was an index."""
        of = pattern, reading.of_lengths
        found = (index for key, index in self._indices.items() if key[:2] == of)
        return next((index for index in found if index is not None), None)


class Index:
    """The lists of all files of a pattern, before they are read.

    Attributes:
      shards: The index of each file.
      documents: int64 `[lists]`, documents a list.
      ranged: Whether lists can be read without those before them.
    """

    def __init__(self, shards: tuple[ShardIndex, ...]):
        self.shards = shards
        self.documents = np.concatenate([shard.documents for shard in shards])
        self.ranged = all(shard.ranged for shard in shards)
