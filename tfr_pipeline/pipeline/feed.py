"""What a pipeline feeds to `model.fit`: layout, training and validation data."""

from __future__ import annotations

import warnings
from typing import Any

import tensorflow as tf

from tfr_pipeline import files
from tfr_pipeline.errors import ConfigError
from tfr_pipeline.layout import BlockLayout
from tfr_pipeline.pipeline.hparams import PipelineHparams
from tfr_pipeline.pipeline.settings import plateau_arguments


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
        self._dataset_builder = dataset_builder
        self._hparams = hparams
        self._strategy = strategy

    @property
    def replicas(self) -> int:
        """Number of replicas that share a global batch."""
        return 1 if self._strategy is None else self._strategy.num_replicas_in_sync

    def choose_layout(self, objects: list[Any]) -> str | None:
        """Returns the batch layout, or None for datasets that are not ours.

        Args:
          objects: Losses and metrics; those of TF-Ranking take padded batches only.
        """
        data = getattr(self._dataset_builder, "layouts", ())
        if not data:
            return None
        model = getattr(self._model_builder, "layouts", ("padded",))
        both = [layout for layout in model if layout in data]
        if not all(_is_ours(item) for item in objects) or isinstance(
            self._strategy, tf.distribute.TPUStrategy
        ):
            both = [layout for layout in both if layout == "padded"]
        wanted = self._hparams.layout
        if wanted and wanted not in both:
            raise ConfigError(
                f"layout: {wanted!r} is not possible here; model builder: {model}, "
                f"dataset builder: {data}, possible: {both}."
            )
        layout = wanted or both[0]
        if layout == "packed":
            self._check_same_features()
        return layout

    def _check_same_features(self) -> None:
        """The packed matrices of data and model must have the same columns."""
        expected = self._model_builder._input_creator._example_feature_spec
        found = self._dataset_builder._example_feature_spec
        for name in sorted({*expected, *found}):
            pair = [
                BlockLayout.from_spec({name: specs[name]}).slots
                if name in specs
                else "nothing"
                for specs in (expected, found)
            ]
            if pair[0] != pair[1]:
                raise ConfigError(
                    f"feature {name!r}: the model builder expects {pair[0]}, the "
                    f"dataset builder has {pair[1]}."
                )

    def dataset(self, split: str, layout: str | None, start_step: int) -> Any:
        """Returns the data of `train` or `valid` for `model.fit`, and its steps."""
        builder, hparams = self._dataset_builder, self._hparams
        if layout is None:
            if split == "train":
                return builder.build_train_dataset(), hparams.steps_per_epoch
            return builder.build_valid_dataset(), hparams.validation_steps
        if split == "valid" and not builder._pattern("valid"):
            return None, None
        replicas = self.replicas
        steps = builder.plan(split, layout, replicas).steps
        if split == "train":
            steps = hparams.steps_per_epoch or steps
        elif hparams.validation_steps:
            if hparams.validation_steps < steps:
                warnings.warn(
                    f"validation_steps={hparams.validation_steps} leaves out "
                    f"{steps - hparams.validation_steps} of {steps} batches.",
                    stacklevel=2,
                )
            steps = min(steps, hparams.validation_steps)
        if self._strategy is None:
            dataset = builder.make_dataset(split, layout, start_step=start_step)
            return dataset, steps

        def shard(context: tf.distribute.InputContext) -> tf.data.Dataset:
            pipelines = (context.input_pipeline_id, context.num_input_pipelines)
            return builder.make_dataset(split, layout, replicas, start_step, pipelines)

        return self._strategy.distribute_datasets_from_function(shard), steps

    def datasets(
        self, layout: str | None, start_step: int
    ) -> tuple[Any, int, Any, Any]:
        """Returns `(train, steps, valid, valid_steps)`; `valid` may be None.

        Raises:
          ConfigError: Something that the settings need is not there.
          DataError: Data is missing or malformed.
        """
        train, steps = self.dataset("train", layout, start_step)
        if steps is None:
            raise ConfigError(
                "steps_per_epoch: expected a number, because the dataset builder "
                "does not say how long its data is."
            )
        valid, valid_steps = self.dataset("valid", layout, 0)
        needs = [
            name
            for name, does in (
                ("export_best_model", self._hparams.export_best_model),
                ("early_stopping_patience", self._hparams.early_stopping_patience),
                (
                    "the schedule 'plateau'",
                    plateau_arguments(self._hparams) is not None,
                ),
            )
            if does
        ]
        if valid is None and needs:
            raise ConfigError(
                "valid_input_pattern: expected files, found none, but "
                f"{' and '.join(needs)} needs them."
            )
        if layout is not None and self._dataset_builder._pattern("test"):
            # Read after training; whether it is there had better be known before.
            files.expand(self._dataset_builder._pattern("test"), "test data")
        return train, steps, valid, valid_steps

    def explain_non_finite(self, layout: str | None, step: int) -> str:
        """Says which batch broke the loss or its gradient."""
        message = (
            f"the loss or its gradient is NaN or infinite in step {step} (counted "
            "from 0)."
        )
        if layout is not None:
            builder = self._dataset_builder
            plan = builder.plan("train", layout, self.replicas)
            lists = builder.lists("train", layout)
            index = plan.batch_of_step(step)
            ids = [str(lists.query_ids[i]) for i in index]
            largest = max(
                float(abs(block[lists.row_splits[i] : lists.row_splits[i + 1]]).max())
                for block in lists.values.values()
                for i in index
                if lists.lengths[i]
            )
            shown = ", ".join(ids[:20]) + (", ..." if len(ids) > 20 else "")
            message += (
                f" The batch has the queries {shown}; its largest feature is "
                f"{largest:g}."
            )
        return (
            f"{message} No checkpoint was written after it. Try a lower learning_rate, "
            "optimizer_args.global_clipnorm, or preprocessing for large features."
        )


def _is_ours(item: Any) -> bool:
    return any(cls.__module__.startswith("tfr_pipeline.") for cls in type(item).__mro__)
