"""Dataset builders: training and validation data, and serving signatures.

The classes have TF-Ranking's names, parameters and behaviour for code that calls or
overrides them. Beside that, `make_dataset` gives the pipeline packed batches, which
it takes when nothing that was overridden expects padded ones.
"""

from __future__ import annotations

import abc
import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from tfr_pipeline import files, global_batch
from tfr_pipeline.compat import tfr
from tfr_pipeline.data.batching.gather import packed_gather, pad
from tfr_pipeline.data.batching.loose import KEPT, separate
from tfr_pipeline.data.batching.plan import BatchPlan
from tfr_pipeline.data.batching.selection import FIRST, SAMPLE, Selection, score_column
from tfr_pipeline.data.batching.tensors import as_tensor
from tfr_pipeline.data.lists import Lists
from tfr_pipeline.data.store import map_values
from tfr_pipeline.errors import ConfigError
from tfr_pipeline.features import Features
from tfr_pipeline.layout import BlockLayout
from tfr_pipeline.pipeline.datasets.abstract import (
    AbstractDatasetBuilder,
    NullDatasetBuilder,
)
from tfr_pipeline.pipeline.datasets.hparams import DatasetHparams
from tfr_pipeline.pipeline.datasets.kept_lists import KeepsLists, Specs
from tfr_pipeline.pipeline.datasets.streamed import streamed

__all__ = [
    "AbstractDatasetBuilder",
    "BaseDatasetBuilder",
    "NullDatasetBuilder",
    "Specs",
]

# Hyperparameters that TF-Ranking's own way to build datasets does not know.
_OF_OUR_READING = (
    "input_format",
    "reader_args",
    "compression",
    "truncation",
    "shuffle_examples",
)
# Maps the matrices of documents by dtype to others.
Prepare = Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]
# Prepared features stand in memory beside the raw ones.
PREPARED_BYTES = 1 << 31


class BaseDatasetBuilder(
    KeepsLists, AbstractDatasetBuilder, tfr.keras.pipeline.BaseDatasetBuilder
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
        self._prepared: dict[str, tuple[Any, Lists]] = {}
        self._plans: dict[tuple[Any, ...], BatchPlan] = {}
        self._open()
        for specs in (self._all_example_specs, self._all_context_specs):
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
    def layouts(self) -> tuple[str, ...]:
        """Layouts that `make_dataset` has; none when it must not be called.

        It must not where features have specs that cannot be kept, or where a subclass
        has its own way to build datasets.
        """
        own = any(
            getattr(type(self), name) is not getattr(BaseDatasetBuilder, name)
            for name in ("build_train_dataset", "build_valid_dataset", "_build_dataset")
        )
        return ("padded",) if self._in_memory and not own else ()

    def plan(self, split: str, layout: str = "padded", replicas: int = 1) -> BatchPlan:
        """Returns which lists stand in which batch; see `BatchPlan`."""
        # Hyperparameters of TF-Ranking's own class lack our fields.
        hparams, train = self._hparams, split == "train"
        lengths = self.lists(split, layout).lengths
        list_size = hparams.list_size if train else hparams.valid_list_size
        if list_size:
            lengths = lengths.clip(max=list_size)
        shuffle = train and getattr(hparams, "shuffle", True)
        settings = (
            hparams.train_batch_size if train else hparams.valid_batch_size,
            getattr(hparams, "documents_per_batch", None) if train else None,
            replicas,
            (getattr(hparams, "seed", 0) or 0) if shuffle else None,
            train,
        )
        # One plan for all who ask: it remembers what takes time to find out.
        key = (split, layout, hparams.list_size, *settings)
        if key not in self._plans:
            self._plans[key] = BatchPlan(lengths, *settings)
        return self._plans[key]

    def make_dataset(
        self,
        split: str,
        layout: str = "padded",
        replicas: int = 1,
        start_step: int = 0,
        shard: tuple[int, int] = (0, 1),
        prepare: Prepare | None = None,
        sized: bool = False,
        fixed: bool = False,
    ) -> tf.data.Dataset:
        """Returns batches in one of `layouts`.

        Args:
          split: `train` (without end) or `valid` (every list once, in order).
          layout: `padded` for TF-Ranking's tensors, or `packed` (see
            `packed_gather`) where `layouts` has it.
          replicas: Number of replicas that share a global batch: elements are local
            batches, and so many in a row make a global batch.
          start_step: Global training batches to leave out.
          shard: `(i, n)` for the share of worker `i` of `n` in each global batch.
          prepare: Applied to the matrices of packed batches, all documents at once
            and ahead, unless the data is larger than `PREPARED_BYTES`.
          sized: Adds what replicas have to know of each other to the features; see
            `global_batch`.
          fixed: Fills padded batches with lists without documents, so that all have
            the same shape; for batches by number of lists.

        Returns:
          A dataset of `(features, labels)` or `(features, labels, weights)`.
        """
        train = split == "train"
        hparams = self._hparams
        list_size = hparams.list_size if train else hparams.valid_list_size
        lists = self.lists(split, layout)
        if prepare and layout == "packed":
            lists = self._prepare(split, lists, prepare)
        plan = self.plan(split, layout, replicas)
        num_lists = plan.most_lists if fixed else None
        gather = packed_gather(lists, list_size, num_lists)
        batch = self._assembler(gather, layout, list_size)
        select = self._selection(split, layout)
        index = plan.dataset(
            start_step if train else 0,
            train,
            shard,
            numbered=select is not None,
            sized=sized,
        )
        # Gathering a packed batch takes a fraction of a step: more threads than the
        # one that fetches ahead would only disturb those that compute.
        parallel = None if layout == "packed" else tf.data.AUTOTUNE

        def assemble(index: Any, sizes: Any) -> Any:
            features, *others = batch(index)
            if isinstance(features, dict):
                features = {**features, global_batch.SIZES: sizes}
            return features, *others

        if select is not None:
            choose = select
            if sized:
                index = index.map(lambda pair, sizes: (choose(*pair), sizes))
            else:
                index = index.map(choose)
        if sized:
            dataset = index.map(assemble, num_parallel_calls=parallel)
        elif select is not None:
            dataset = index.map(
                lambda *chosen: batch(chosen), num_parallel_calls=parallel
            )
        else:
            dataset = index.map(batch, num_parallel_calls=parallel)
        dataset = dataset.prefetch(2)
        # tf.data rewrites a dataset as a graph in which all that it captures is a
        # constant: a copy of the data, in memory even where the data is on disk.
        options = tf.data.Options()
        options.experimental_optimization.apply_default_optimizations = False
        return dataset.with_options(options)

    def _prepare(self, split: str, lists: Lists, prepare: Prepare) -> Lists:
        if sum(matrix.nbytes for matrix in lists.values.values()) > PREPARED_BYTES:
            return lists
        if self._prepared.get(split, (None,))[0] is not prepare:
            self._prepared[split] = prepare, map_values(lists, prepare)
        return self._prepared[split][1]

    def _assembler(
        self, gather: Callable[[Any], Any], layout: str, list_size: int | None
    ) -> Callable[[Any], Any]:
        """Returns the function from list indices to a batch; see `packed_gather`."""
        block_layout = self._block_layout(layout)
        matrices, beside = separate(self._all_example_specs)
        defaults = {name: spec.default_value for name, spec in matrices.items()}
        for name, spec in self._all_context_specs.items():
            if not isinstance(spec, tf.io.FixedLenFeature):
                beside[name] = spec

        def batch(index: Any) -> Any:
            features, _, _ = gather(index)
            mask = self._mask_feature_name
            padded = pad(features, block_layout, list_size, defaults, mask, beside)
            return self._features_and_labels(padded)

        return batch

    def _block_layout(self, layout: str) -> BlockLayout:
        """Where features stand in the matrices of `lists`."""
        packed = layout == "packed"
        specs = self._example_feature_spec if packed else self._all_example_specs
        return BlockLayout.from_spec(separate(specs)[0])

    def _selection(self, split: str, layout: str) -> Selection | None:
        """Returns what chooses documents; None for the first ones of each list."""
        hparams = self._hparams
        name = getattr(hparams, "truncation", FIRST)
        shuffle = getattr(hparams, "shuffle_examples", False)
        if split != "train" or (name == FIRST and not shuffle):
            return None
        # Of the features as they are, whatever a model makes of them.
        lists, scores = self.lists(split, layout), None
        if name not in (FIRST, SAMPLE):
            described = self.features.example if self.features else {}
            dtype, column = score_column(
                name,
                self._example_feature_spec,
                {key: feature.columns for key, feature in described.items()},
                self._block_layout(layout),
            )
            scores = as_tensor(lists.values[dtype]), column
        if not shuffle and lists.lengths.max() <= (hparams.list_size or math.inf):
            return None
        seed = getattr(hparams, "seed", 0) or 0
        return Selection(lists, hparams.list_size, scores, shuffle, seed)

    def _streamed(self, split: str) -> tf.data.Dataset:
        """Features that cannot be kept go through TF-Ranking's parser, step by step."""
        paths = files.expand(self._pattern(split), "data")
        # TensorFlow takes a file that ends inside a header for a whole one.
        self._reader.refuse_damaged(paths, checksums=False)
        dataset = streamed(
            self._hparams,
            split == "train",
            paths,
            self._format(paths),
            self._reader,
            context_feature_spec=self._all_context_specs,
            example_feature_spec=self._all_example_specs,
            mask_feature_name=self._mask_feature_name,
        )
        return dataset.map(
            self._features_and_labels, num_parallel_calls=tf.data.AUTOTUNE
        )

    def _build(self, split: str) -> tf.data.Dataset:
        theirs = tfr.keras.pipeline.BaseDatasetBuilder
        own = type(self)._build_dataset is not theirs._build_dataset
        of_keeping = ["cache", "keep_document_ids"]
        useless = of_keeping if own or not self._in_memory else []
        if own:
            useless += _OF_OUR_READING
        for name in useless:
            value = getattr(self._hparams, name, None)
            if value and value != getattr(DatasetHparams, name):
                why = (
                    "the dataset builder reads its files in its own way."
                    if own
                    else f"only features with the specs {', '.join(KEPT)} are kept."
                )
                warnings.warn(f"{name}={value!r} has no effect: {why}", stacklevel=3)
        if own:
            # A subclass has TF-Ranking's step of building in its own way.
            if split == "train":
                return theirs.build_train_dataset(self)
            return theirs.build_valid_dataset(self)
        if self._in_memory:
            return self.make_dataset(split, "padded")
        return self._streamed(split)

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
