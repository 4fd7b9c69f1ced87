"""Dataset builders: training and validation data, and serving signatures.

The classes have TF-Ranking's names, parameters and behaviour for code that calls or
overrides them. Beside that they are what a pipeline asks for (see `protocol`), packed
batches among it, which it takes when nothing that was overridden expects padded ones.
"""

from __future__ import annotations

import abc
import copy
import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import numpy as np
import tensorflow as tf

from tfr_pipeline.compat import tfr
from tfr_pipeline.data.batching.gather import gather, tensors_of
from tfr_pipeline.data.batching.plan import plain
from tfr_pipeline.data.batching.windowed import WindowedPlan
from tfr_pipeline.data.lists import Lists
from tfr_pipeline.data.reading.place import MEMORY, PREPARED_BYTES
from tfr_pipeline.data.reading.record_reader import RecordReader
from tfr_pipeline.data.store import map_values
from tfr_pipeline.errors import ConfigError, unknown_name
from tfr_pipeline.features import Features
from tfr_pipeline.pipeline.datasets.abstract import (
    AbstractDatasetBuilder,
    NullDatasetBuilder,
)
from tfr_pipeline.pipeline.datasets.adapter import SPLITS, splits_of
from tfr_pipeline.pipeline.datasets.batches import (
    batches,
    batches_from_disk,
    padder,
    selection,
)
from tfr_pipeline.pipeline.datasets.hparams import (
    DatasetHparams,
    cache_of,
    setting,
    warn_of_unused,
)
from tfr_pipeline.pipeline.datasets.kept_lists import Index, KeptLists, Reading
from tfr_pipeline.pipeline.datasets.planning import find_index, make_plan, shares
from tfr_pipeline.pipeline.datasets.protocol import (
    BatchRequest,
    FeatureSpecs,
    Plan,
    Prepare,
    Specs,
    Split,
)
from tfr_pipeline.pipeline.datasets.streamed import streamed

__all__ = [
    "AbstractDatasetBuilder",
    "BaseDatasetBuilder",
    "NullDatasetBuilder",
    "Specs",
]

Builder = TypeVar("Builder", bound="BaseDatasetBuilder")
Made = TypeVar("Made")


class BaseDatasetBuilder(AbstractDatasetBuilder, tfr.keras.pipeline.BaseDatasetBuilder):
    """Builds datasets of TFRecord files of any format from feature specs.

    Files are parsed once and kept, in memory or in a folder (`DatasetHparams.cache`);
    an epoch only gathers. Validation goes over every list once, whole and in order.

    Subclasses implement `_features_and_labels`, which takes a dict of padded
    tensors `[batch, list_size, ...]` with labels among them and returns
    `(features, labels)` or `(features, labels, weights)`.

    Args:
      context_feature_spec: Maps query features to `tf.io` specs.
      example_feature_spec: Maps document features to `tf.io` specs.
      training_only_example_spec: Specs of labels and document weights.
      mask_feature_name: Name of the mask among the features of padded batches.
      hparams: A `DatasetHparams`.
      training_only_context_spec: Specs of list weights.
      query_id: Name of the string query feature with the query id, if any
        (keyword only); evaluation and error messages use it.

    Attributes:
      kept: The `KeptLists` that has read the files. Of several builders one may be
        given to the others, so that files are read once.
    """

    def __init__(
        self,
        context_feature_spec: Specs,
        example_feature_spec: Specs,
        training_only_example_spec: Specs,
        mask_feature_name: str,
        hparams: DatasetHparams,
        training_only_context_spec: Specs | None = None,
        *,
        query_id: str | None = None,
    ):
        self._context_feature_spec = context_feature_spec
        self._example_feature_spec = example_feature_spec
        self._training_only_example_spec = training_only_example_spec
        self._mask_feature_name = mask_feature_name
        self._hparams = hparams
        self._training_only_context_spec = training_only_context_spec or {}
        self._query_id = query_id
        self._document_id: str | None = None
        self.kept = KeptLists()
        self._reader = RecordReader(
            hparams.dataset_reader,
            tuple(setting(hparams, "reader_args") or ()),
            setting(hparams, "compression"),
        )
        self._own_splits: dict[str, Split] | None = None
        self._made: dict[tuple[Any, ...], tuple[tuple[Any, ...], Any]] = {}
        for specs in (self.specs.all_example, self.specs.all_context):
            if mask_feature_name in specs:
                raise ConfigError(
                    f"mask_feature_name: expected a name of its own, found "
                    f"{mask_feature_name!r}, which is a feature, too. The mask is made "
                    "of the lengths of lists; give it another name."
                )

    @abc.abstractmethod
    def _features_and_labels(self, features: dict[str, Any]) -> Any:
        """Separates labels and optional weights from padded features."""

    @property
    def features(self) -> Features | None:
        """Description of the data, None where it has no labels of its own."""
        return None

    @property
    def specs(self) -> FeatureSpecs:
        """What records hold."""
        return FeatureSpecs(
            self._context_feature_spec,
            self._example_feature_spec,
            self._training_only_context_spec,
            self._training_only_example_spec,
            self._mask_feature_name,
            self._query_id,
        )

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

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of the tasks; none for one label, or if unknown."""
        return ()

    @property
    def makes_own_features(self) -> bool:
        """Whether a subclass of the user's makes padded batches of what is read."""
        return True

    @property
    def layouts(self) -> tuple[str, ...]:
        """Layouts that `make_dataset` has; none when it must not be called.

        It must not where features have specs that cannot be kept, or where a subclass
        has its own way to build datasets.
        """
        own = any(
            getattr(type(self), name) is not getattr(BaseDatasetBuilder, name)
            for name in ("build_train_dataset", "build_valid_dataset", "_build_dataset")
        )
        return ("padded",) if self.specs.can_keep and not own else ()

    def _reading(self) -> Reading:
        """How files become lists: here, with labels among the features."""
        return Reading(
            specs=self.specs,
            reader=self._reader,
            document_id=self._kept_document_id,
            input_format=setting(self._hparams, "input_format"),
            cache=cache_of(self._hparams),
            features=lambda: self.features,
        )

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
        wanted = self._split(split)
        lists = self.kept.get(wanted.pattern, self._reading())
        if wanted.keep is None:
            return lists
        return self._once(
            ("lists", split), (lists, wanted.keep), lambda: wanted.choose(lists)
        )

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
        index = self._index(split, 1)
        if index is None:
            return self.lists(split, layout).take(numbers)
        wanted, places = np.unique(numbers, return_inverse=True)
        ends = np.flatnonzero(np.diff(wanted) > 1)
        firsts = [wanted[0], *wanted[ends + 1]]
        lasts = [*wanted[ends], wanted[-1]]
        runs = tuple((int(a), int(b) + 1) for a, b in zip(firsts, lasts, strict=True))
        pattern = self._split(split).pattern
        reading = dataclasses.replace(self._reading(), cache=MEMORY)
        found = reading.read(pattern, (index.shards, runs))
        return self._as_trained("", layout, found).take(places)

    def _list_size(self, split: str) -> int | None:
        hparams = self._hparams
        return hparams.list_size if split == "train" else hparams.valid_list_size

    def plan(self, split: str, layout: str = "padded", replicas: int = 1) -> Plan:
        """Returns which lists stand in which batch.

        A `WindowedPlan` where there is more data than a window, wherever it is kept.
        """
        index = self._index(split, replicas)
        if index is not None:
            documents = source = index.documents
        else:
            lists = self.lists(split, layout)
            documents, source = lists.lengths, lists.row_splits
        hparams = self._hparams
        names = ("train_batch_size", "valid_batch_size", "documents_per_batch", "seed")
        told = tuple(setting(hparams, n) for n in (*names, "shuffle"))

        def make() -> Plan:
            where = self._reading().layout
            return make_plan(
                hparams, split, replicas, documents, where, index is not None
            )

        # One plan for all who ask: it remembers what takes time to find out.
        name = ("plan", split, self._list_size(split), replicas, *told)
        return self._once(name, (source,), make)

    def _index(self, split: str, replicas: int) -> Index | None:
        """Returns what is known of a split before it is read; see `find_index`."""
        if not type(self).lists.__module__.startswith("tfr_pipeline."):
            return None  # a subclass has lists of its own making
        sharding = setting(self._hparams, "sharding")
        wanted, reading = self._split(split), self._reading()
        return find_index(self.kept, reading, wanted, sharding, replicas)

    def _needed(self, plan: Plan, request: BatchRequest) -> tuple[Any, int]:
        """Returns the lists that a worker needs, and the number of the first one."""
        split, layout = request.split, request.layout
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

    def make_dataset(
        self, split: str | BatchRequest, layout: str = "padded", **settings: Any
    ) -> tf.data.Dataset:
        """Returns batches in one of `layouts`.

        Args:
          split: `train` or `valid`; or a whole `BatchRequest`, with nothing beside it.
          layout: See `BatchRequest`.
          **settings: The other fields of `BatchRequest`.

        Returns:
          A dataset of `(features, labels)` or `(features, labels, weights)`.
        """
        if isinstance(split, BatchRequest):
            return self._batches(split)
        return self._batches(BatchRequest(split=split, layout=layout, **settings))

    def _batches(self, request: BatchRequest) -> tf.data.Dataset:
        split, layout = request.split, request.layout
        list_size = self._list_size(split)
        plan = self.plan(split, layout, request.replicas)
        lists, first = self._needed(plan, request)
        select = None
        if split == "train":
            select = selection(self._hparams, self._reading(), lists)
        num_lists = plan.most_lists if request.fixed else None

        def assembler(tensors: Any) -> Callable[[Any], Any]:
            def of_lists(index: Any) -> Any:
                return gather(tensors, index, list_size, num_lists)

            return self._assembler(plain(of_lists), layout, list_size)

        if isinstance(plan, WindowedPlan) and hasattr(lists, "read"):
            return batches_from_disk(plan, request, assembler, select, lists, first)
        raw = tensors_of(lists)
        choose = None if select is None else functools.partial(select, raw)
        tensors = raw
        if request.prepare and layout == "packed":
            tensors = tensors_of(self._prepare(split, lists, request.prepare))
        return batches(plan, request, assembler(tensors), choose, first)

    def _prepare(self, split: str, lists: Lists, prepare: Prepare) -> Lists:
        if sum(matrix.nbytes for matrix in lists.values.values()) > PREPARED_BYTES:
            return lists
        if any(str(matrix.dtype) != name for name, matrix in lists.values.items()):
            return lists  # kept in half the room: not to have twice as much beside it
        return self._once(
            ("prepared", split), (lists, prepare), lambda: map_values(lists, prepare)
        )

    def _assembler(
        self, gather: Callable[[Any], Any], layout: str, list_size: int | None
    ) -> Callable[[Any], Any]:
        """Returns the function from list indices to a batch; see `packed_gather`."""
        padded = padder(self._reading(), list_size)

        def batch(index: Any) -> Any:
            features, labels, weights = gather(index)
            of_labels = self._padded_labels(labels, weights, list_size)
            return self._features_and_labels({**padded(features, labels), **of_labels})

        return batch

    def _padded_labels(
        self, labels: Any, weights: Any, list_size: int | None
    ) -> dict[str, Any]:
        """Returns what stands apart in lists as it stands among padded features."""
        return {}

    def _streamed(self, split: str) -> tf.data.Dataset:
        """Features that cannot be kept go through TF-Ranking's parser, step by step."""
        pattern = self._split(split).pattern
        dataset = streamed(self._hparams, split == "train", pattern, self._reading())
        return dataset.map(
            self._features_and_labels, num_parallel_calls=tf.data.AUTOTUNE
        )

    def _build(self, split: str) -> tf.data.Dataset:
        theirs = tfr.keras.pipeline.BaseDatasetBuilder
        own = type(self)._build_dataset is not theirs._build_dataset
        can_keep = self.specs.can_keep
        warn_of_unused(self._hparams, can_keep and not own, own)
        if own:
            # A subclass has TF-Ranking's step of building in its own way.
            if split == "train":
                return theirs.build_train_dataset(self)
            return theirs.build_valid_dataset(self)
        return self.make_dataset(split, "padded") if can_keep else self._streamed(split)

    def build_train_dataset(self) -> tf.data.Dataset:
        """Returns padded training batches without end."""
        return self._build("train")

    def build_valid_dataset(self) -> tf.data.Dataset:
        """Returns padded validation batches: every list once, in order."""
        return self._build("valid")

    def build_signatures(self, model: tf.keras.Model) -> Any:
        """Returns the serving functions of a model; see `Signatures`."""
        from tfr_pipeline.serving.signatures import Signatures

        return Signatures(
            model,
            context_feature_spec=self._context_feature_spec,
            example_feature_spec=self._example_feature_spec,
            mask_feature_name=self._mask_feature_name,
        )()
