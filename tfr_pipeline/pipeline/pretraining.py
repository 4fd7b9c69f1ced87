"""`PretrainingPipeline`: what a model can learn before it has seen a label."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from collections.abc import Mapping
from typing import Any, NoReturn

import tensorflow as tf

from tfr_pipeline import files
from tfr_pipeline.declared import BOTH
from tfr_pipeline.errors import ConfigError, DataError, RunError
from tfr_pipeline.features import FILE_NAME
from tfr_pipeline.model import pretraining
from tfr_pipeline.model.pretraining import Pretrain
from tfr_pipeline.pipeline import checks, tasks
from tfr_pipeline.pipeline.datasets.adapter import adapt
from tfr_pipeline.pipeline.fit import ModelFitPipeline
from tfr_pipeline.pipeline.run import learning
from tfr_pipeline.pipeline.run.finish import of_history
from tfr_pipeline.pipeline.run.shared_evaluation import SharedEvaluation
from tfr_pipeline.pipeline.run.trained import Trained
from tfr_pipeline.serving.export import EXTRA_ASSETS


class PretrainingLoss(tf.keras.losses.Loss):
    """The mean over lists of the mean of what a `PretrainingScorer` says of documents.

    Labels and weights are not looked at.

    Example:
      >>> losses = tf.ragged.constant([[1.0, 3.0], [4.0]])
      >>> float(PretrainingLoss()(tf.zeros_like(losses), losses))
      3.0
    """

    layouts = BOTH
    outputs = 1

    def __init__(self, name: str | None = None):
        super().__init__(name=name)

    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        """Returns float32, 0 without lists.

        Args:
          y_true: Not read.
          y_pred: Losses of documents, ragged `[batch, (list)]` or dense
            `[batch, list_size]` with negative numbers for padding.
          sample_weight: Not read.
        """
        if isinstance(y_pred, tf.RaggedTensor):
            rows, lists = y_pred.value_rowids(), y_pred.nrows()
            sums = tf.math.unsorted_segment_sum(y_pred.values, rows, lists)
            counts = tf.cast(y_pred.row_lengths(), tf.float32)
        else:
            real = tf.cast(y_pred >= 0.0, tf.float32)
            sums = tf.reduce_sum(y_pred * real, axis=1)
            counts, lists = tf.reduce_sum(real, axis=1), tf.shape(y_pred)[0]
        means = tf.math.divide_no_nan(sums, counts)
        return tf.math.divide_no_nan(tf.reduce_sum(means), tf.cast(lists, tf.float32))


class Pretrained(Trained):
    """What pretraining leaves: checkpoints, and what warm starts ask beside them."""

    def keep_template(self) -> None:
        """Writes what the data has and what preprocessing has learnt of it."""
        if not self._run.is_ours:
            return
        self._run.check()
        contents = learning.assets(self._run)
        with contextlib.suppress(DataError):  # specs that no file can describe
            if (features := adapt(self._builder).features) is not None:
                contents[FILE_NAME] = json.dumps(features.to_json(), indent=1)
        folder = os.path.join("checkpoints", EXTRA_ASSETS)
        os.makedirs(self._run.join(folder), exist_ok=True)
        for name, text in contents.items():
            path = os.path.join(folder, name)
            with files.replacing(self._run.join(path)) as draft:
                with open(draft, "w", encoding="utf-8") as file:
                    file.write(text)
            self._run.has_written(path)

    def finish(
        self,
        export_best: bool,
        evaluation: SharedEvaluation,
        more: Mapping[str, Any],
    ) -> dict[str, Any]:
        """Writes `metrics.json`; there is no model that ranks, so none is exported."""
        self._run.check()
        self.keep_template()
        evaluation.lead(None, 0.0)
        state = self._checkpoints.state
        if state.history:
            self._run.write_history(state)
        content = of_history(self._checkpoints)
        last = state.history[-1] if state.history else {}
        losses = {key: last[key] for key in ("loss", "val_loss") if key in last}
        content = {"pretraining": losses, **content}
        self._run.write_json("metrics.json", content)
        return content


class PretrainingPipeline(ModelFitPipeline):
    """Trains the network of a model on features alone, for a warm start.

    Epochs are chosen, and training ends early, by the validation loss; `loss`,
    `metrics` and `best_exporter_metric` of the hyperparameters are those of the model
    that will rank, and are not looked at. Nothing is exported or evaluated: a run with
    `warm_start={"from": MODEL_DIR}` takes the weights, and has a head of its own.

    Args:
      model_builder: A `ModelBuilder` of the model that will rank; see
        `tfr_pipeline.model.pretraining.for_pretraining`.
      dataset_builder: A dataset builder with one label, which is not looked at.
      hparams: `PipelineHparams` with `pretrain`.
      config: See `ModelFitPipeline` (keyword only).

    Raises:
      ConfigError: The model cannot be pretrained, or see `ModelFitPipeline`.
    """

    _trained_kind = Pretrained
    _pretrains = True

    def __init__(
        self,
        model_builder: Any,
        dataset_builder: Any,
        hparams: Any,
        *,
        config: dict[str, Any] | None = None,
    ):
        hparams = checks.with_our_fields(hparams)
        checks.pretraining(hparams, True)
        told = Pretrain.of(hparams.pretrain)
        assert told is not None
        if found := tasks.of_data(dataset_builder):
            raise ConfigError(
                "pretrain: expected a dataset builder with one label, which is not "
                f"looked at, found one of the tasks {', '.join(found)}. Take "
                "SimpleDatasetBuilder, with any of them."
            )
        super().__init__(
            pretraining.for_pretraining(model_builder, told),
            dataset_builder,
            dataclasses.replace(
                hparams,
                loss_weights=None,
                graph=None,  # of scores, which there are none of yet
                adversarial=None,
                metrics=(),
                training_metrics=False,
                use_weighted_metrics=False,
                best_exporter_metric="loss",
                best_exporter_metric_higher_better=False,
            ),
            config=config,
        )

    def build_loss(self) -> tf.keras.losses.Loss:
        """See `AbstractPipeline`."""
        return PretrainingLoss()

    def build_metrics(self) -> list[tf.keras.metrics.Metric]:
        """See `AbstractPipeline`; none."""
        return []

    def build_weighted_metrics(self) -> list[tf.keras.metrics.Metric]:
        """See `AbstractPipeline`; none."""
        return []

    def export_checkpoint(
        self, output: str, best: bool = False, version: int | None = None
    ) -> NoReturn:
        """Raises a `RunError`: there is no model that ranks."""
        raise RunError(
            f"{self._hparams.model_dir}: expected a run with a model that ranks, found "
            "one of pretraining. Train with config.pipeline.warm_start.from="
            f"{self._hparams.model_dir}, and export that run."
        )
