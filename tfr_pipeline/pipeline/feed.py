"""What a pipeline feeds to `model.fit`: layout, training and validation data."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tfr_pipeline import files
from tfr_pipeline.data.batching.windowed import WindowedPlan
from tfr_pipeline.errors import ConfigError
from tfr_pipeline.model.ranking_model import RankingModel
from tfr_pipeline.pipeline import layouts
from tfr_pipeline.pipeline.checks import plateau_arguments
from tfr_pipeline.pipeline.datasets.adapter import adapt, check_folds, reads_files
from tfr_pipeline.pipeline.datasets.batches import WindowReader, fetched_ahead
from tfr_pipeline.pipeline.datasets.protocol import BatchRequest, Plan
from tfr_pipeline.pipeline.distilling import Distilling
from tfr_pipeline.pipeline.distribute import limits, reading, strategies
from tfr_pipeline.pipeline.hparams import PipelineHparams
from tfr_pipeline.regularization import settings


class ForWorkers(NamedTuple):
    """Batches that are read where they are used.

    Attributes:
      elements: A dataset of what is sent.
      make: Makes a batch of an element; a part of the step.
    """

    elements: tf.data.Dataset
    make: Callable[..., Any]


class Feed:
    """Chooses the batch layout and makes the datasets of a run.

    Args:
      model_builder: The pipeline's model builder.
      dataset_builder: The pipeline's dataset builder.
      hparams: Hyperparameters.
      strategy: The distribution strategy, or None.
    """

    def __init__(
        self,
        model_builder: Any,
        dataset_builder: Any,
        hparams: PipelineHparams,
        strategy: tf.distribute.Strategy | None,
    ):
        self._model_builder = model_builder
        self._dataset_builder = adapt(dataset_builder)
        check_folds(dataset_builder, self._dataset_builder.hparams)
        self._hparams = hparams
        self._strategy = strategy
        self._workers = 1
        self._by_length = False  # `choose_layout` finds out
        self._sizes: Iterator[np.ndarray] | None = None
        self._graph, self._adversarial = settings.active(
            hparams.graph, hparams.adversarial
        )
        self.distilling = Distilling.of(hparams.distill, self._dataset_builder)
        self._readers: dict[tuple[str, str], WindowReader | None] = {}

    @property
    def replicas(self) -> int:
        """Number of replicas that share a global batch."""
        return 1 if self._strategy is None else self._strategy.num_replicas_in_sync

    @property
    def _on_tpu(self) -> bool:
        return isinstance(self._strategy, tf.distribute.TPUStrategy)

    def choose_layout(self, objects: list[Any]) -> str | None:
        """Returns the batch layout, or None for datasets that are not ours.

        Args:
          objects: Losses and metrics, which say what they take (see `declared`); those
            of TF-Ranking and Keras take padded batches only.
        """
        builder = self._dataset_builder
        hparams, data = builder.hparams, builder.layouts
        limits.check_batch_sizes(hparams, self.replicas)
        on_tpu = self._on_tpu
        limits.check_regularization(
            self._strategy,
            self._graph,
            self._adversarial,
            self.distilling,
            bool(data),
        )
        if self.distilling is not None:
            _ = self.distilling.teacher  # known before anything is read
        if on_tpu:
            losses = [
                item for item in objects if isinstance(item, tf.keras.losses.Loss)
            ]
            limits.check_tpu_ready(self._model_builder, losses)
        if on_tpu and data:
            limits.check_static_shapes(
                hparams,
                {**builder.specs.context, **builder.specs.example},
                "valid" in builder.splits,
            )
        if not data:
            if self._hparams.layout:
                warnings.warn(
                    f"layout={self._hparams.layout!r} has no effect: the dataset "
                    "builder makes its batches in its own way.",
                    stacklevel=3,
                )
            return None
        layout, packs = layouts.agreed(
            self._model_builder, builder, objects, self._hparams.layout, on_tpu
        )
        self._by_length = (
            not packs  # or padding is asked for, and nothing else
            # They count on `list_size`; lists of neighbours are as long.
            and not (on_tpu or self._graph)
            and layouts.takes_any_length(self._model_builder, builder, objects)
        )
        return layout

    def by_length(self, split: str) -> bool:
        """Whether lists of about one length come together; see `BatchRequest`.

        Args:
          split: `train` or `valid`, whose batches are as they are.
        """
        return split == "train" and self._by_length

    def plan(self, split: str, layout: str) -> Plan:
        """Returns which lists stand in which batch of `train` or `valid`.

        Args:
          split: See `dataset`.
          layout: Likewise.
        """
        settings = {"by_length": True} if self.by_length(split) else {}
        return self._dataset_builder.plan(split, layout, self.replicas, **settings)

    def steps(self, split: str, layout: str | None) -> int | None:
        """Returns the batches of an epoch of `train` or `valid`; None if unknown."""
        builder, hparams = self._dataset_builder, self._hparams
        train = split == "train"
        given = hparams.steps_per_epoch if train else hparams.validation_steps
        if layout is None or not (train or "valid" in builder.splits):
            return given
        steps = self.plan(split, layout).steps
        if train:
            return given or steps
        return min(steps, given or steps)

    def shares(self, layout: str | None) -> int | None:
        """Returns how many shares the training lists are dealt into; see `RunState`."""
        if layout is None:
            return None
        plan = self.plan("train", layout)
        return plan.dealt if isinstance(plan, WindowedPlan) else 0

    def dataset(
        self, split: str, layout: str | None, start_step: int = 0, model: Any = None
    ) -> Any:
        """Returns the data of `train` or `valid` for `model.fit`; None for no data.

        Args:
          split: `train` or `valid`.
          layout: The batch layout.
          start_step: Global training batches to leave out.
          model: Packed batches hold what its `preparation` makes of the features, all
            batches the vectors of its `encoding`.
        """
        builder = self._dataset_builder
        if layout is None:
            if split == "train":
                return limits.share_out(builder.build_train_dataset())
            return limits.share_out(builder.build_valid_dataset())
        if split == "valid" and "valid" not in builder.splits:
            return None
        if split == "train":
            plan = self.plan(split, layout)
            self._sizes = plan.sizes(start_step)
        graph = self._graph if split == "train" else None
        teacher = None
        if self.distilling is not None and split == "train":
            teacher = self.distilling.teacher
        # The adversary perturbs features as they are.
        prepare = None if self._adversarial else getattr(model, "preparation", None)
        # Workers of a coordinator read texts by themselves.
        coordinates = strategies.is_coordinator(self._strategy)
        by_length = self.by_length(split)
        encode = None if coordinates else getattr(model, "encoding", None)
        if self._strategy is None or coordinates:
            return BatchRequest(
                split=split,
                layout=layout,
                start_step=start_step,
                prepare=prepare,
                encode=encode,
                by_length=by_length,
                graph=graph,
                teacher=teacher,
            ).ask(builder)

        fixed = self._on_tpu
        step = "train_step" if split == "train" else "test_step"
        # Else replicas would have to ask each other, which costs an exchange a step,
        # and lists that fill a batch would count.
        sized = (
            (self.replicas > 1 or fixed)
            and isinstance(model, RankingModel)
            and getattr(type(model), step) is getattr(RankingModel, step)
        )

        def shard(context: tf.distribute.InputContext) -> tf.data.Dataset:
            pipelines = (context.input_pipeline_id, context.num_input_pipelines)
            self._workers = context.num_input_pipelines
            return BatchRequest(
                split=split,
                layout=layout,
                replicas=self.replicas,
                start_step=start_step,
                shard=pipelines,
                prepare=prepare,
                encode=encode,
                sized=sized,
                fixed=fixed,
                by_length=by_length,
                graph=graph,
                teacher=teacher,
            ).ask(builder)

        return self._strategy.distribute_datasets_from_function(shard)

    def reader_for_workers(self, split: str, layout: str) -> WindowReader | None:
        """Returns what workers of a coordinator read batches with, if they do."""
        builder = self._dataset_builder
        make = getattr(builder, "reader_for_workers", None)
        if make is None or not builder.layouts or split not in builder.splits:
            return None
        by_length = self.by_length(split)
        found: WindowReader | None = make(
            BatchRequest(split=split, layout=layout, by_length=by_length)
        )
        return found

    def _reader(self, split: str, layout: str | None) -> WindowReader | None:
        if layout is None or not strategies.is_coordinator(self._strategy):
            return None
        if (split, layout) not in self._readers:
            found = self.reader_for_workers(split, layout)
            self._readers[split, layout] = found
        return self._readers[split, layout]

    def for_workers(
        self, split: str, layout: str | None, start_step: int = 0
    ) -> ForWorkers | None:
        """Returns what workers read and make batches of; None where they are sent them.

        Args:
          split: See `dataset`, as the others.
          layout: Likewise.
          start_step: Likewise.
        """
        reader = self._reader(split, layout)
        if reader is None or layout is None:
            return None
        plan = self.plan(split, layout)
        train = split == "train"
        if train:
            self._sizes = plan.sizes(start_step)

        def make(index: Any, number: Any) -> Any:
            places, arrays = reading.read(reader, split, layout, index)
            return reader.batch(places, number, None, arrays)

        numbers = plan.dataset(start_step, train, numbered=True)
        return ForWorkers(fetched_ahead(numbers), make)

    def take_sizes(self, steps: int) -> np.ndarray | None:
        """Counts what the next steps on the last training dataset are made of.

        Args:
          steps: Global batches, from where the last call ended.

        Returns:
          int64 `[workers, 2]`, lists and documents by worker; None for datasets that
          are not ours.
        """
        if self._sizes is None:
            return None
        rows = list(itertools.islice(self._sizes, steps * self.replicas))
        # A global batch is so many local ones in a row, worker by worker.
        shape = (steps, self._workers, self.replicas // self._workers, 2)
        return np.array(rows, np.int64).reshape(shape).sum(axis=(0, 2))

    def check(self, layout: str | None) -> int:
        """Checks that there is the data that the settings need; reads all of it.

        Returns:
          Training steps of an epoch.

        Raises:
          ConfigError: Something that the settings need is not there.
          DataError: Data is missing or malformed.
        """
        builder, hparams = self._dataset_builder, self._hparams
        steps = self.steps("train", layout)
        if steps is None:
            raise ConfigError(
                "steps_per_epoch: expected a number, because the dataset builder "
                "does not say how long its data is."
            )
        needs = [
            name
            for name, does in (
                ("export_best_model", hparams.export_best_model),
                ("early_stopping_patience", hparams.early_stopping_patience),
                ("the schedule 'plateau'", plateau_arguments(hparams) is not None),
            )
            if does
        ]
        if layout is None:
            has_validation = self.dataset("valid", layout) is not None
        else:
            has_validation = "valid" in builder.splits
        if needs and not has_validation:
            raise ConfigError(
                "valid_input_pattern: expected files, found none, but "
                f"{' and '.join(needs)} needs them."
            )
        if self._on_tpu:
            self._check_elements(layout, has_validation)
        if layout is None:
            return steps
        limits.check_plan(
            self.plan("train", layout),
            getattr(builder.hparams, "documents_per_batch", None),
        )
        if has_validation:
            whole = self.plan("valid", layout).steps
            if hparams.validation_steps and hparams.validation_steps < whole:
                warnings.warn(
                    f"validation_steps={hparams.validation_steps} leaves out "
                    f"{whole - hparams.validation_steps} of {whole} batches.",
                    stacklevel=2,
                )
        shard = strategies.place_among_workers(self._strategy)
        for split in ["train"] + ["valid"] * has_validation:
            windowed = isinstance(self.plan(split, layout), WindowedPlan)
            if windowed and self._reader(split, layout) is None:
                # Planned by their index: they are read now, and not while training.
                BatchRequest(
                    split=split,
                    layout=layout,
                    replicas=self.replicas,
                    shard=shard,
                    by_length=self.by_length(split),
                ).ask(builder)
        if self._graph is not None or self.distilling is not None:
            self.dataset("train", layout)  # says what is wrong with them
        if "test" in builder.splits and reads_files(builder):
            # Read after training; whether it is there had better be known before.
            files.expand(builder.splits["test"].pattern, "test data")
        return steps

    def _check_elements(self, layout: str | None, validates: bool) -> None:
        builder = self._dataset_builder
        for split in ["train"] + ["valid"] * validates:
            if layout is not None:
                data = BatchRequest(
                    split=split, layout=layout, replicas=self.replicas, fixed=True
                ).ask(builder)
            elif split == "train":
                data = builder.build_train_dataset()
            else:
                data = builder.build_valid_dataset()
            limits.check_elements(split, data.element_spec)
