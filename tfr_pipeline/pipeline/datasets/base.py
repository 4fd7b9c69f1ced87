"""Dataset builders: training and validation data, and serving signatures.

The classes have TF-Ranking's names, parameters and behaviour for code that calls or
overrides them. Beside that they are what a pipeline asks for (see `protocol`), packed
batches among it, which it takes when nothing that was overridden expects padded ones.
"""

from __future__ import annotations

import abc
import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from tfr_pipeline.compat import tfr
from tfr_pipeline.data.batching import teacher_scores
from tfr_pipeline.data.batching.gather import gather, tensors_of, value_name
from tfr_pipeline.data.batching.neighbours import Neighbours
from tfr_pipeline.data.batching.plan import plain
from tfr_pipeline.data.batching.selection import Selection
from tfr_pipeline.data.batching.stored_neighbours import without_neighbours
from tfr_pipeline.data.batching.windowed import WindowedPlan
from tfr_pipeline.data.lists import Lists
from tfr_pipeline.data.reading.place import PREPARED_BYTES
from tfr_pipeline.data.store import map_values
from tfr_pipeline.errors import ConfigError
from tfr_pipeline.features import Features
from tfr_pipeline.model.steps.base import compares_documents
from tfr_pipeline.pipeline.datasets import graphs
from tfr_pipeline.pipeline.datasets.abstract import (
    AbstractDatasetBuilder,
    NullDatasetBuilder,
)
from tfr_pipeline.pipeline.datasets.batches import (
    WindowReader,
    batches,
    padder,
    selection,
)
from tfr_pipeline.pipeline.datasets.hparams import (
    NO_SHARDING,
    DatasetHparams,
    setting,
    warn_of_unused,
)
from tfr_pipeline.pipeline.datasets.protocol import (
    BatchRequest,
    FeatureSpecs,
    Plan,
    Prepare,
    Specs,
)
from tfr_pipeline.pipeline.datasets.split_lists import SplitLists
from tfr_pipeline.pipeline.datasets.streamed import streamed
from tfr_pipeline.serving import teachers
from tfr_pipeline.serving.teachers import Teacher

__all__ = [
    "AbstractDatasetBuilder",
    "BaseDatasetBuilder",
    "NullDatasetBuilder",
    "Specs",
]


# Name of the tensor with the scores of a teacher.
_OF_TEACHER = value_name(teacher_scores.SCORES)
# Documents, with padding, whose texts are looked at together.
_TEXTS_AT_ONCE = 50_000


class BaseDatasetBuilder(
    SplitLists, AbstractDatasetBuilder, tfr.keras.pipeline.BaseDatasetBuilder
):
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
        self._training_only_context_spec = training_only_context_spec or {}
        self._query_id = query_id
        SplitLists.__init__(self, hparams)
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
        plan = self.plan(split, layout, request.replicas, request.by_length)
        lists, places = self._needed(plan, request)
        if request.teacher is not None:
            lists = self._taught(request, request.teacher, lists)
        found = None
        if request.graph is not None:
            found = self._neighbours(plan, request, lists)
        if isinstance(plan, WindowedPlan) and hasattr(lists, "read"):
            encode = self._encoder(request, lists)
            reader = self._window_reader(plan, request, lists, places, encode, found)
            return reader.dataset(plan)
        select = self._selection(split, lists)
        raw = tensors_of(lists)
        choose = None if select is None else functools.partial(select, raw)
        tensors = raw
        compares = getattr(request.prepare, "needs_lists", False)
        size = self._list_size(split)
        cut = select or (size and size < lists.lengths.max(initial=0))
        if request.prepare and layout == "packed" and not (compares and cut):
            name = "" if isinstance(places, np.ndarray) else split  # as `_needed` does
            name += "" if request.teacher is None else " taught"
            tensors = tensors_of(self._prepare(name, lists, request.prepare))
        make = self._gatherer(plan, request, self._encoder(request, lists), found)
        return batches(plan, request, make(tensors), choose, places)

    def _taught(self, request: BatchRequest, teacher: Teacher, lists: Any) -> Any:
        """Returns lists with the scores of a teacher, which sees each of them once."""
        if hasattr(lists, "read"):
            if teachers.stands_in_data(teacher):
                return lists
            raise ConfigError(
                "pipeline.distill.teacher: expected training lists in memory, which "
                "the teacher scores before training, found them on disk. Set "
                "data.cache='memory', or have its scores in the data, as "
                "teacher='column:NAME'."
            )
        return self._once(
            ("taught", request.split),
            (lists, teacher),
            lambda: teachers.taught(lists, teacher),
        )

    def _neighbours(self, plan: Plan, request: BatchRequest, lists: Any) -> Neighbours:
        """Returns what adds neighbours to the batches of lists; see `graphs`."""
        settings = request.graph
        assert settings is not None
        graphs.check_shapes(request)
        if not settings.edges:
            return graphs.stored(settings, self._reading())
        graphs.check_whole(self._hparams, plan, request, lists)
        graphs.check_order(self._hparams, settings)
        return self._once(
            ("neighbours", request.split),
            (lists, settings),
            lambda: graphs.neighbours_of(settings, lists),
        )

    def reader_for_workers(self, request: BatchRequest) -> WindowReader | None:
        """Returns what reads single batches in any process that has the files.

        Returns:
          None where that would be slow: unless lists stand ready in packed shards, and
          there are many.
        """
        split, layout = request.split, request.layout
        sharding = setting(self._hparams, "sharding")
        index = self._index(split, 1)
        plan = None
        if index is not None:
            plan = self.plan(split, layout, by_length=request.by_length)
        if sharding == NO_SHARDING or not isinstance(plan, WindowedPlan):
            return None
        assert index is not None
        lists = self._reading().straight(self._split(split).pattern, index.shards)
        if lists is None:
            return None
        return self._window_reader(
            plan, request, self._as_trained(split, layout, lists)
        )

    def _window_reader(
        self,
        plan: Plan,
        request: BatchRequest,
        lists: Any,
        places: int | np.ndarray = 0,
        encode: Callable[[Any], Any] | None = None,
        neighbours: Neighbours | None = None,
    ) -> WindowReader:
        make = self._gatherer(plan, request, encode, neighbours)
        select = self._selection(request.split, lists)
        return WindowReader(request, make, select, lists, places)

    def _selection(self, split: str, lists: Any) -> Selection | None:
        if split != "train":
            return None
        return selection(self._hparams, self._reading(), lists)

    def _encoder(
        self, request: BatchRequest, lists: Any
    ) -> Callable[[Any], Any] | None:
        """Returns what puts vectors in the place of the texts of a batch, or None."""
        encode = request.encode
        if encode is None:
            return None
        longest = int(lists.lengths.max(initial=0)) + 1

        def all_features() -> Iterator[Any]:
            # One more than there are, so that there is padding.
            assemble = functools.partial(
                self._assembler, layout=request.layout, list_size=longest
            )
            count, total = max(1, _TEXTS_AT_ONCE // longest), len(lists.lengths)
            for start in range(0, total, count):
                stop = min(start + count, total)
                if hasattr(lists, "read"):
                    some = lists.read(np.arange(start, stop))
                else:
                    some = lists.slice(start, stop)
                tensors = tensors_of(some)
                yield assemble(functools.partial(gather, tensors))(
                    tf.range(stop - start, dtype=tf.int64)
                )[0]

        return self._once(
            ("encoded", request.split, request.layout),
            (lists, encode),
            lambda: encode(all_features()),
        )

    def _gatherer(
        self,
        plan: Plan,
        request: BatchRequest,
        encode: Callable[[Any], Any] | None = None,
        neighbours: Neighbours | None = None,
    ) -> Callable[[Any], Callable[[Any], Any]]:
        """Returns a function from tensors of lists to one from indices to a batch."""
        list_size = self._list_size(request.split)
        num_lists = plan.most_lists if request.fixed else None

        def make(tensors: Any) -> Callable[[Any], Any]:
            def of_lists(index: Any) -> Any:
                return gather(tensors, index, list_size, num_lists)

            assembler = functools.partial(
                self._assembler,
                layout=request.layout,
                list_size=None if request.by_length else list_size,
            )
            if request.teacher is None:
                tensors = {n: t for n, t in tensors.items() if n != _OF_TEACHER}
            if neighbours is None:
                tensors = without_neighbours(tensors)
                batch = assembler(plain(of_lists))
            else:
                padded = request.layout == "padded"
                batch = neighbours.around(assembler, tensors, list_size, padded)
            if encode is None:
                return batch

            @plain
            def of_vectors(index: Any) -> Any:
                features, *others = batch(index)
                return encode(features), *others

            return of_vectors

        return make

    def _prepare(self, name: str, lists: Lists, prepare: Prepare) -> Lists:
        if sum(matrix.nbytes for matrix in lists.values.values()) > PREPARED_BYTES:
            return lists
        if any(
            str(matrix.dtype) != dtype
            for dtype, matrix in lists.values.items()
            if dtype != teacher_scores.SCORES
        ):
            return lists  # kept in half the room: not to have twice as much beside it
        return self._once(
            ("prepared", name),
            (lists, prepare),
            lambda: map_values(
                lists, prepare, with_splits=getattr(prepare, "needs_lists", False)
            ),
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

        signatures = Signatures(
            model,
            context_feature_spec=self._context_feature_spec,
            example_feature_spec=self._example_feature_spec,
            mask_feature_name=self._mask_feature_name,
        )
        # What compares documents has to see them together.
        return signatures("predict" if compares_documents(model) else "regress")
