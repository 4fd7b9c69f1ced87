"""Pipelines that train with `model.fit`."""

from __future__ import annotations

import dataclasses
import os
import random
import warnings
from typing import Any

import numpy as np
import tensorflow as tf

from tfr_pipeline import files, losses, metrics
from tfr_pipeline.compat import tfr
from tfr_pipeline.errors import ConfigError, RunError, unknown_name
from tfr_pipeline.layout import BlockLayout
from tfr_pipeline.model.ranking_model import NON_FINITE_LOSS, RankingModel
from tfr_pipeline.pipeline import callbacks as callbacks_lib
from tfr_pipeline.pipeline import strategies
from tfr_pipeline.pipeline.abstract import AbstractPipeline
from tfr_pipeline.pipeline.hparams import PipelineHparams
from tfr_pipeline.pipeline.run import RunDirectory, RunState
from tfr_pipeline.pipeline.schedules import PLATEAU, build_optimizer, split_schedule

# Named so by TF-Ranking; monitors of callbacks depend on it.
_METRIC, _WEIGHTED = "metric/", "weighted_metric/"


class ModelFitPipeline(AbstractPipeline, tfr.keras.pipeline.ModelFitPipeline):
    """Trains the model of a builder on the data of a builder with `model.fit`.

    A run writes checkpoints as it goes and, started again with the same arguments,
    goes on where it was. At the end it exports, loads the export back, compares it
    with the model, and evaluates it; see `docs/training.md` for the files.

    Subclasses implement `build_loss`, `build_metrics` and `build_weighted_metrics`.

    Args:
      model_builder: An `AbstractModelBuilder`, ours or TF-Ranking's.
      dataset_builder: An `AbstractDatasetBuilder`, ours or TF-Ranking's.
      hparams: `PipelineHparams`, ours or TF-Ranking's.
      config: What `config.json` of the run directory will say (keyword only); by
        default the hyperparameters.

    Raises:
      ConfigError: An argument has the wrong type, or a name is unknown.
    """

    def __init__(
        self,
        model_builder: Any,
        dataset_builder: Any,
        hparams: Any,
        *,
        config: dict[str, Any] | None = None,
    ):
        self._validate_parameters(model_builder, dataset_builder)
        self._model_builder = model_builder
        self._dataset_builder = dataset_builder
        self._hparams = _with_our_fields(hparams)
        self._config = config
        self._strategy = strategies.get_strategy(
            self._hparams.strategy,
            self._hparams.cluster_resolver,
            # None stands for the default here, or nothing would ever be split.
            self._hparams.variable_partitioner or strategies.DEFAULT_PARTITIONER,
            self._hparams.tpu,
        )
        self._run = RunDirectory(self._hparams.model_dir)
        self._checkpoints: callbacks_lib.Checkpoints | None = None

    def _validate_parameters(self, model_builder: Any, dataset_builder: Any) -> None:
        for name, value, kind in (
            ("model_builder", model_builder, tfr.keras.model.AbstractModelBuilder),
            (
                "dataset_builder",
                dataset_builder,
                tfr.keras.pipeline.AbstractDatasetBuilder,
            ),
        ):
            if not isinstance(value, kind):
                raise ConfigError(
                    f"{name}: expected a subclass of {kind.__name__}, found {value!r}."
                )

    @property
    def _replicas(self) -> int:
        return 1 if self._strategy is None else self._strategy.num_replicas_in_sync

    # Choosing the layout

    def _choose_layout(self, objects: list[Any]) -> str | None:
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

    # Data

    def _dataset(self, split: str, layout: str | None, start_step: int) -> Any:
        """Returns the data of `train` or `valid` for `model.fit`, and its steps."""
        builder, hparams = self._dataset_builder, self._hparams
        if layout is None:
            if split == "train":
                return builder.build_train_dataset(), hparams.steps_per_epoch
            return builder.build_valid_dataset(), hparams.validation_steps
        if split == "valid" and not builder._pattern("valid"):
            return None, None
        replicas = self._replicas
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

    def _datasets(
        self, layout: str | None, start_step: int
    ) -> tuple[Any, int, Any, Any]:
        """Returns `(train, steps, valid, valid_steps)`; `valid` may be None.

        Raises:
          ConfigError: Something that the settings need is not there.
          DataError: Data is missing or malformed.
        """
        train, steps = self._dataset("train", layout, start_step)
        if steps is None:
            raise ConfigError(
                "steps_per_epoch: expected a number, because the dataset builder "
                "does not say how long its data is."
            )
        valid, valid_steps = self._dataset("valid", layout, 0)
        needs = [
            name
            for name, does in (
                ("export_best_model", self._hparams.export_best_model),
                ("early_stopping_patience", self._hparams.early_stopping_patience),
                ("the schedule 'plateau'", self._plateau is not None),
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

    # Settings

    @property
    def _selects(self) -> bool:
        """Whether anything depends on which epoch is the best."""
        hparams = self._hparams
        return bool(hparams.export_best_model or hparams.early_stopping_patience)

    @property
    def _plateau(self) -> dict[str, Any] | None:
        """Arguments of `ReduceOnPlateau`, or None if the rate is not reduced so."""
        name, args = split_schedule(self._hparams.schedule)
        if name != PLATEAU and not self._hparams.automatic_reduce_lr:
            return None
        args = dict(args) if name == PLATEAU else {}
        args.pop("warmup_steps", None)  # 0; see `build_optimizer`
        args.setdefault("min_delta", 0.01 * self._hparams.learning_rate)
        return args

    def _check_settings(self) -> list[Any]:
        """Checks names and settings before any data is read.

        Returns:
          The losses and metrics, to choose the layout by.
        """
        hparams = self._hparams
        items = [self.build_loss(), self.build_metrics()]
        if hparams.use_weighted_metrics:
            items.append(self.build_weighted_metrics())
        if self._selects:
            self._monitor()
        elif hparams.best_exporter_metric != "loss":
            warnings.warn(
                f"best_exporter_metric={hparams.best_exporter_metric!r} has no effect "
                "without export_best_model or early_stopping_patience.",
                stacklevel=3,
            )
        if hparams.early_stopping_min_delta and not hparams.early_stopping_patience:
            warnings.warn(
                "early_stopping_min_delta has no effect without "
                "early_stopping_patience.",
                stacklevel=3,
            )
        name, args = split_schedule(hparams.schedule)
        scheduled = name not in ("constant", PLATEAU) or (
            name == "constant" and args.get("warmup_steps")
        )
        if hparams.automatic_reduce_lr and scheduled:
            raise ConfigError(
                "automatic_reduce_lr: expected no schedule beside it, found "
                f"{name!r}. Set one of the two."
            )
        # Knows all names, and makes nothing that lasts.
        build_optimizer(
            hparams.optimizer,
            hparams.learning_rate,
            1,
            hparams.schedule,
            hparams.optimizer_args,
        )
        return tf.nest.flatten(items)

    # Callbacks

    def _monitor(self) -> str:
        """Returns the log key of `best_exporter_metric`, after checking it."""
        wanted = self._hparams.best_exporter_metric
        names = ["loss"]
        built = self.build_metrics()
        groups = built if isinstance(built, dict) else {"": built}
        for task, items in groups.items():
            prefix = f"{task}_" if task else ""
            if task:
                names.append(f"{task}_loss")
            names += [prefix + item.name for item in tf.nest.flatten(items)]
        for name in (wanted, _METRIC + wanted, wanted.replace("@", "_")):
            for full in (name, _METRIC + name):
                if full in names:
                    self._warn_if_reversed(full)
                    return f"val_{full}"
        short = [name.removeprefix(_METRIC) for name in names]
        raise ConfigError(unknown_name("metric", wanted, short, "best_exporter_metric"))

    def _warn_if_reversed(self, name: str) -> None:
        lower_better = name.endswith("loss") or "arp" in name
        if lower_better == self._hparams.best_exporter_metric_higher_better:
            better = "lower" if lower_better else "higher"
            warnings.warn(
                f"best_exporter_metric={name!r}: {better} is better, but "
                "best_exporter_metric_higher_better="
                f"{self._hparams.best_exporter_metric_higher_better} selects the "
                "worst epoch.",
                stacklevel=2,
            )

    def build_callbacks(self) -> list[tf.keras.callbacks.Callback]:
        """Returns the callbacks of `model.fit`; called after the model is compiled.

        Overriding code may add to them: put its own before the last one, which saves
        the run.
        """
        hparams, checkpoints = self._hparams, self._checkpoints
        if checkpoints is None:
            raise RuntimeError("build_callbacks: call it through train_and_validate.")
        state = checkpoints.state
        result: list[tf.keras.callbacks.Callback] = [
            callbacks_lib.Record(self._run, state),
            tf.keras.callbacks.TensorBoard(
                self._run.join("logs"), write_graph=False, profile_batch=0
            ),
        ]
        if self._selects:
            result.append(
                callbacks_lib.SelectBest(
                    checkpoints,
                    self._monitor(),
                    hparams.best_exporter_metric_higher_better,
                    hparams.export_best_model,
                    hparams.early_stopping_patience,
                    hparams.early_stopping_min_delta,
                )
            )
        if self._plateau is not None:
            result.append(callbacks_lib.ReduceOnPlateau(state, **self._plateau))
        result.append(callbacks_lib.Backup(checkpoints, hparams.checkpoint_every_steps))
        return result

    # Training

    def _compile(self, layout: str | None, total_steps: int) -> tf.keras.Model:
        hparams = self._hparams
        packed = layout == "packed"
        builder = self._model_builder
        model = builder.build_packed() if packed else builder.build()
        # TensorFlow variables must be made within the scope of the strategy, which
        # is why everything is built here and nothing is passed in.
        model.compile(
            optimizer=build_optimizer(
                hparams.optimizer,
                hparams.learning_rate,
                total_steps,
                hparams.schedule,
                hparams.optimizer_args,
            ),
            loss=self.build_loss(),
            metrics=self.build_metrics(),
            loss_weights=hparams.loss_weights,
            weighted_metrics=(
                self.build_weighted_metrics() if hparams.use_weighted_metrics else None
            ),
            steps_per_execution=hparams.steps_per_execution,
        )
        if isinstance(model, RankingModel):
            model.training_metrics = hparams.training_metrics
            model.check_loss = not isinstance(self._strategy, tf.distribute.TPUStrategy)
        return model

    def train_and_validate(self, verbose: int = 0) -> tf.keras.Model:
        """Trains, or goes on training, then exports and evaluates.

        Args:
          verbose: As of `tf.keras.Model.fit`.

        Returns:
          The trained model, with the weights of the last epoch.

        Raises:
          ConfigError: A setting is wrong, or the run directory is another run's.
          DataError: Data is missing or malformed.
          RunError: The loss became NaN, or an export failed.
          SystemExit: SIGTERM came; the code is 143 and the run can go on later.
        """
        hparams = self._hparams
        state = RunState(
            seed=random.SystemRandom().randrange(2**31)
            if hparams.seed is None
            else hparams.seed
        )
        tf.keras.utils.set_random_seed(state.seed)
        with strategies.strategy_scope(self._strategy):
            layout = self._choose_layout(self._check_settings())
            _, steps, _, _ = self._datasets(layout, 0)
            model = self._compile(layout, steps * hparams.num_epochs)
            self._run.claim(self._config or _plain(hparams))
            self._checkpoints = callbacks_lib.Checkpoints(model, self._run, state)
            self._checkpoints.restore()
            self._run.write_environment(
                state.seed, {"layout": layout, "replicas": self._replicas}
            )
            self._fit(model, layout, steps, verbose)
        from tfr_pipeline.serving.finish import finish

        finish(self, model, self._run, self._checkpoints)
        return model

    def dry_run(self) -> list[str]:
        """Checks settings and data, builds the model and takes one step.

        Nothing is written, and the weights are thrown away.

        Returns:
          Lines that say what a run would do.

        Raises:
          PipelineError: What `train_and_validate` would raise up to its first step.
        """
        hparams = self._hparams
        with strategies.strategy_scope(self._strategy):
            layout = self._choose_layout(self._check_settings())
            train, steps, valid, valid_steps = self._datasets(layout, 0)
            model = self._compile(layout, steps * hparams.num_epochs)
            logs = model.fit(train, steps_per_epoch=1, epochs=1, verbose=0).history
        validation = "none" if valid is None else f"{valid_steps or 'all'} batches"
        if self._selects:
            validation += f", selects by {self._monitor()}"
        return [
            f"model: {model.count_params():,} parameters",
            f"layout: {layout}, {self._replicas} replica(s)",
            f"training: {hparams.num_epochs} epochs of {steps} steps",
            f"validation: {validation}",
            f"loss of the first step: {logs['loss'][0]:.6g}",
        ]

    def export_checkpoint(self, output: str, best: bool = False) -> str:
        """Exports from the checkpoints of the run, whether it has ended or not.

        Args:
          output: Folder of versions.
          best: Takes the best epoch instead of the latest checkpoint.

        Returns:
          `output/<step>`, the folder of the SavedModel.

        Raises:
          RunError: There is no such checkpoint, or the export failed.
        """
        with strategies.strategy_scope(self._strategy):
            items = tf.nest.flatten([self.build_loss(), self.build_metrics()])
            model = self._compile(self._choose_layout(items), 1)
        checkpoints = callbacks_lib.Checkpoints(model, self._run, RunState())
        if not checkpoints.restore() or (best and not checkpoints.restore_best()):
            kind = "best" if best else "latest"
            raise RunError(f"{self._run.checkpoints}: found no {kind} checkpoint.")
        step = checkpoints.state.best_step if best else checkpoints.step
        path = os.path.join(output, str(step))
        self.export_saved_model(model, path)
        return path

    def _fit(
        self, model: tf.keras.Model, layout: str | None, steps: int, verbose: int
    ) -> None:
        """Runs `model.fit` from wherever the run stands to its last step."""
        assert self._checkpoints is not None
        hparams, checkpoints = self._hparams, self._checkpoints
        done = checkpoints.step
        if done >= steps * hparams.num_epochs or checkpoints.state.stopped:
            return
        train, _, valid, valid_steps = self._datasets(layout, done)
        callbacks = self.build_callbacks()
        if not isinstance(model, RankingModel):
            # First, so that none of the others saves what is broken.
            callbacks.insert(0, callbacks_lib.StopOnNaN())

        def fit(first: int, last: int, steps_per_epoch: int) -> None:
            model.fit(
                train,
                epochs=last,
                initial_epoch=first,
                steps_per_epoch=steps_per_epoch,
                validation_data=valid,
                validation_steps=valid_steps,
                callbacks=callbacks,
                verbose=verbose,
            )

        epoch, within = divmod(done, steps)
        try:
            if within:  # the rest of the epoch in which the run was interrupted
                fit(epoch, epoch + 1, steps - within)
                epoch += 1
                train, _ = self._dataset("train", layout, epoch * steps)
            if epoch < hparams.num_epochs and not checkpoints.state.stopped:
                fit(epoch, hparams.num_epochs, steps)
        except tf.errors.InvalidArgumentError as error:
            if NON_FINITE_LOSS not in str(error):
                raise
            finite = all(np.isfinite(weight).all() for weight in model.get_weights())
            # A finite loss may have an infinite gradient; the step after notices.
            step = checkpoints.step if finite else checkpoints.step - 1
            raise RunError(self._explain_non_finite(layout, step)) from None
        finally:
            for callback in callbacks:
                if isinstance(callback, callbacks_lib.Backup):
                    callback.release()

    def _explain_non_finite(self, layout: str | None, step: int) -> str:
        """Says which batch broke the loss or its gradient."""
        message = (
            f"the loss or its gradient is NaN or infinite in step {step} (counted "
            "from 0)."
        )
        if layout is not None:
            builder = self._dataset_builder
            plan = builder.plan("train", layout, self._replicas)
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

    # Export

    def export_saved_model(
        self, model: tf.keras.Model, export_to: str, checkpoint: str | None = None
    ) -> None:
        """Exports a model with the signatures of the dataset builder.

        Args:
          model: The model.
          export_to: Folder of the SavedModel, replaced as a whole.
          checkpoint: Takes the weights of this checkpoint.
        """
        from tfr_pipeline.serving.finish import export

        if checkpoint:
            model.load_weights(checkpoint)
        export(self._dataset_builder, model, export_to)


class SimplePipeline(ModelFitPipeline):
    """Pipeline for one loss, with NDCG as metrics.

    `docs/training.md` has an example; in short, `SimplePipeline(model_builder,
    dataset_builder, hparams).train_and_validate()`.
    """

    def build_loss(self) -> tf.keras.losses.Loss:
        """See `AbstractPipeline`."""
        if not isinstance(self._hparams.loss, str):
            raise ConfigError(
                f"loss: expected the name of one loss, found {self._hparams.loss!r}."
            )
        return losses.get(
            loss=self._hparams.loss,
            reduction=self._hparams.loss_reduction,
            **self._hparams.loss_args,
        )

    def build_metrics(self) -> list[tf.keras.metrics.Metric]:
        """See `AbstractPipeline`."""
        return [metric_by_name(name, _METRIC) for name in self._hparams.metrics]

    def build_weighted_metrics(self) -> list[tf.keras.metrics.Metric]:
        """See `AbstractPipeline`."""
        return [metric_by_name(name, _WEIGHTED) for name in self._hparams.metrics]


def metric_by_name(name: str, prefix: str = "") -> tf.keras.metrics.Metric:
    """Returns the metric of a name such as `ndcg_10`, `ndcg@10` or `mrr`.

    Example:
      >>> metric_by_name("ndcg_10", "metric/").name
      'metric/ndcg_10'
    """
    name = name.replace("@", "_")
    key, _, topn = name.rpartition("_")
    if not topn.isdigit():
        key, topn = name, ""
    return metrics.get(key, name=prefix + name, topn=int(topn) if topn else None)


def _is_ours(item: Any) -> bool:
    return any(cls.__module__.startswith("tfr_pipeline.") for cls in type(item).__mro__)


def _with_our_fields(hparams: Any) -> PipelineHparams:
    """Takes TF-Ranking's hyperparameters, which lack our fields."""
    if isinstance(hparams, PipelineHparams):
        return hparams
    if not isinstance(hparams, tfr.keras.pipeline.PipelineHparams):
        raise ConfigError(f"hparams: expected PipelineHparams, found {hparams!r}.")
    fields = dataclasses.fields(tfr.keras.pipeline.PipelineHparams)
    return PipelineHparams(**{f.name: getattr(hparams, f.name) for f in fields})


def _plain(hparams: PipelineHparams) -> dict[str, Any]:
    """Returns hyperparameters as JSON; objects by the name of their class."""
    result = {}
    for field in dataclasses.fields(hparams):
        value = getattr(hparams, field.name)
        if not isinstance(value, str | int | float | list | tuple | dict | type(None)):
            value = type(value).__name__
        result[field.name] = value
    return result
