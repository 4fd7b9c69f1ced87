"""What a pipeline asks of a dataset builder, and in which words."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

import numpy as np
import tensorflow as tf

from tfr_pipeline.data.batching.loose import can_keep
from tfr_pipeline.data.batching.plan import BatchPlan
from tfr_pipeline.data.batching.windowed import WindowedPlan
from tfr_pipeline.data.lists import Lists
from tfr_pipeline.errors import ConfigError, DataError
from tfr_pipeline.features import Features
from tfr_pipeline.layout import BlockLayout
from tfr_pipeline.regularization.settings import GraphSettings
from tfr_pipeline.serving.teachers import Teacher

Specs = dict[str, Any]
Plan = BatchPlan | WindowedPlan
# Maps the matrices of documents by dtype to others.
# One that has `needs_lists`, and it is True, takes row splits, too.
Prepare = Callable[..., dict[str, np.ndarray]]
# Makes of the features of all batches a function of those of one, or None.
Encode = Callable[
    [Iterable[Mapping[str, Any]]], Callable[[Mapping[str, Any]], Any] | None
]
# Maps query ids, an array of `str`, to bool of the same length.
Keep = Callable[[np.ndarray], np.ndarray]


@dataclasses.dataclass(frozen=True)
class FeatureSpecs:
    """What records hold: `tf.io` specs by name.

    Attributes:
      context: Specs of query features.
      example: Specs of document features.
      training_only_context: Specs of list weights.
      training_only_example: Specs of labels and document weights.
      mask_feature_name: Name of the mask among the features of padded batches.
      query_id: Name of the query feature with the query id, or None.
    """

    context: Specs
    example: Specs
    training_only_context: Specs
    training_only_example: Specs
    mask_feature_name: str
    query_id: str | None = None

    @property
    def all_context(self) -> Specs:
        """Specs of all that a query has."""
        return {**self.context, **self.training_only_context}

    @property
    def all_example(self) -> Specs:
        """Specs of all that a document has."""
        return {**self.example, **self.training_only_example}

    @property
    def can_pack(self) -> bool:
        """Whether there are packed batches: labels and weights are numbers."""
        return (
            self.can_keep
            and BlockLayout.can_pack(self.training_only_example)
            and all(
                isinstance(spec, tf.io.FixedLenFeature)
                for spec in self.training_only_context.values()
            )
        )

    @property
    def can_keep(self) -> bool:
        """Whether lists can be parsed once and kept."""
        specs = {**self.all_example, **self.all_context}
        return bool(self.all_example) and all(map(can_keep, specs.values()))


@dataclasses.dataclass(frozen=True)
class Split:
    """Some lists of some files.

    Attributes:
      pattern: Glob, or comma-separated globs, of the files.
      keep: Maps the query ids of these files, an array of `str`, to a bool for each:
        whether its list belongs to the split. None: all do.
    """

    pattern: str
    keep: Keep | None = None

    def choose(self, query_ids: np.ndarray) -> np.ndarray:
        """Returns which lists belong to a split that has `keep`.

        Args:
          query_ids: Array of `str`, `[lists]`, those of all lists of the files.

        Returns:
          int64 `[lists of the split]`, their numbers, rising.

        Raises:
          ConfigError: `keep` returns something else than a bool for each list.
          DataError: No list belongs to it.
        """
        assert self.keep is not None
        count = len(query_ids)
        kept = np.asarray(self.keep(query_ids))
        if kept.dtype != bool or kept.shape != (count,):
            raise ConfigError(
                f"Split.keep: expected bool of shape ({count},), one for each query "
                f"id, found {kept.dtype} of shape {kept.shape}."
            )
        if not kept.any():
            raise DataError(
                f"{self.pattern}: expected lists that the split keeps, found none "
                f"among {count}."
            )
        return np.flatnonzero(kept)


@dataclasses.dataclass(frozen=True, kw_only=True)
class BatchRequest:
    """Which batches are wanted, and how they are to be.

    Attributes:
      split: `train` (without end) or `valid` (every list once, in order).
      layout: `padded` for TF-Ranking's tensors, or `packed` (see `packed_gather`).
      replicas: Number of replicas that share a global batch: elements are local
        batches, and so many in a row make a global batch.
      start_step: Global training batches to leave out.
      shard: `(i, n)` for the share of worker `i` of `n` in each global batch.
      prepare: Applied to the matrices of packed batches, all documents at once and
        ahead, unless the data is too large for that; or, where it compares documents,
        lists are cut.
      encode: Makes of all batches a function that puts vectors in the place of texts,
        or None; see `tfr_pipeline.model.encoded`.
      sized: Adds what replicas have to know of each other to the features; see
        `global_batch`.
      fixed: Fills padded batches with lists without documents, so that all have the
        same shape; for batches by number of lists.
      by_length: Padded training batches are as long as their longest list, at most
        `list_size`, and shuffled ones have lists of about one length, so that there is
        little padding; see `BatchPlan`.
      graph: Adds the neighbours of what stands in training batches, see
        `data.batching.neighbours`; None for none.
      teacher: Adds its scores to the features of training batches, see
        `data.batching.teacher_scores`; None for none.
    """

    split: str
    layout: str = "padded"
    replicas: int = 1
    start_step: int = 0
    shard: tuple[int, int] = (0, 1)
    prepare: Prepare | None = None
    encode: Encode | None = None
    sized: bool = False
    fixed: bool = False
    by_length: bool = False
    graph: GraphSettings | None = None
    teacher: Teacher | None = None

    def ask(self, builder: DatasetBuilder) -> tf.data.Dataset:
        """Returns what `make_dataset` of a builder makes of it.

        A subclass that overrides it finds split and layout where they ever were, and
        by name only what is not as usual.
        """
        settings = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.name not in ("split", "layout")
            and getattr(self, field.name) != field.default
        }
        return builder.make_dataset(self.split, self.layout, **settings)


class DatasetBuilder(Protocol):
    """A dataset builder that a pipeline can ask for more than TF-Ranking's.

    TF-Ranking's own builders, and those of users that have its methods only, become
    one by `adapt`.
    """

    @property
    def specs(self) -> FeatureSpecs:
        """What records hold."""

    @property
    def hparams(self) -> Any:
        """Its `DatasetHparams`, ours or TF-Ranking's; None if it has none."""

    @property
    def splits(self) -> Mapping[str, Split]:
        """What there is of `train`, `valid` and `test`."""

    @property
    def layouts(self) -> tuple[str, ...]:
        """Layouts that `make_dataset` has; none when it must not be called.

        Then `plan` and `lists` must not, either.
        """

    @property
    def features(self) -> Features | None:
        """Description of the data, None where it has no labels of its own."""

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of the tasks that have labels; none for one label, or if unknown."""

    @property
    def makes_own_features(self) -> bool:
        """Whether padded batches are made of what is read in a way of the user's."""

    def lists(self, split: str, layout: str = "padded") -> Lists:
        """Returns the lists of a split, read once and then kept."""

    def plan(
        self,
        split: str,
        layout: str = "padded",
        replicas: int = 1,
        by_length: bool = False,
    ) -> Plan:
        """Returns which lists stand in which batch; see `BatchRequest`."""

    def make_dataset(
        self, split: str | BatchRequest, layout: str = "padded", **settings: Any
    ) -> tf.data.Dataset:
        """Returns batches in one of `layouts`; `settings` are of a `BatchRequest`."""

    def build_train_dataset(self) -> tf.data.Dataset:
        """Returns training batches."""

    def build_valid_dataset(self) -> tf.data.Dataset:
        """Returns validation batches."""

    def build_signatures(self, model: tf.keras.Model) -> Any:
        """Returns the serving signatures of a model: names to functions, or None."""
