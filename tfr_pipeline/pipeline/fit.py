"""Pipelines that train with `model.fit`."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import tensorflow as tf

from tfr_pipeline.cluster import cluster_spec, heartbeat
from tfr_pipeline.compat import tfr
from tfr_pipeline.errors import ConfigError, RunError
from tfr_pipeline.model import parts
from tfr_pipeline.model.ranking_model import RankingModel
from tfr_pipeline.optimizers.factory import build_optimizer
from tfr_pipeline.pipeline import checks, tasks
from tfr_pipeline.pipeline.abstract import AbstractPipeline
from tfr_pipeline.pipeline.distribute import limits, strategies
from tfr_pipeline.pipeline.distribute.parameter_server import Dispatcher, serve
from tfr_pipeline.pipeline.feed import Feed
from tfr_pipeline.pipeline.run import callbacks as callbacks_lib
from tfr_pipeline.pipeline.run import (
    data_fingerprint,
    evaluator,
    loop,
    peers,
    progress,
    seeds,
)
from tfr_pipeline.pipeline.run.checkpoints import Checkpoints
from tfr_pipeline.pipeline.run.console import Console
from tfr_pipeline.pipeline.run.directory import RunDirectory, RunState


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
        # Strategies wait for other tasks, one of which may hang.
        heartbeat.start()
        self._validate_parameters(model_builder, dataset_builder)
        self._model_builder = model_builder
        self._dataset_builder = dataset_builder
        self._hparams = checks.with_our_fields(hparams)
        self._config = config
        name, resolver = self._hparams.strategy, self._hparams.cluster_resolver
        cluster_spec.check(name, resolver)
        self._resolver = resolver or strategies.resolver_of_environment()
        task = self._resolver.task_type
        self._evaluates = task == strategies.EVALUATOR
        self._serves = name == strategies.PS_STRATEGY and task in strategies.SERVERS
        if name == strategies.TPU_STRATEGY:
            limits.check_tpu_host(self._hparams.tpu)
        # Only one task of a job with parameter servers knows the strategy.
        helps = self._evaluates or self._serves
        self._strategy = strategies.get_strategy(
            None if helps else name,
            resolver,
            # None stands for the default here, or nothing would ever be split.
            self._hparams.variable_partitioner or strategies.DEFAULT_PARTITIONER,
            self._hparams.tpu,
        )
        self._agree = strategies.agreement(self._strategy)
        self._feed = Feed(model_builder, dataset_builder, self._hparams, self._strategy)
        self._run = RunDirectory(
            self._hparams.model_dir, not helps and strategies.is_chief(self._strategy)
        )
        self._checkpoints: Checkpoints | None = None
        self._dispatcher: Dispatcher | None = None
        self._outputs: tuple[str, ...] = ()
        self._console = Console(False)

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
    def is_chief(self) -> bool:
        """Whether this process writes into the run directory."""
        return self._run.is_ours

    def _metrics(self) -> dict[str, list[Any]]:
        return tasks.by_task(self.build_metrics(), tasks.of_data(self._dataset_builder))

    @property
    def _skips(self) -> bool:
        """Whether metrics leave queries without relevant documents out."""
        metrics = [item for group in self._metrics().values() for item in group]
        return any(getattr(m, "without_relevant", "") == "skip" for m in metrics)

    def _monitor(self) -> str:
        return checks.monitor(
            self._hparams, self._metrics(), prefixed=len(self._outputs) > 1
        )

    def _check_model(self, model: tf.keras.Model) -> None:
        """Raises a `ConfigError` if a task that there are labels for has no scores.

        Keras would take the labels of another task.
        """
        labelled = tasks.of_data(self._dataset_builder)
        tasks.check_outputs(model, self._outputs, labelled, "label_spec")
        scorer = parts.scorer(self._model_builder)
        tasks.check_numbers(model, self.build_loss(), self._metrics(), scorer)

    def _layout(self) -> str | None:
        """Checks the settings; returns the batch layout, None for foreign datasets."""
        metrics = self._metrics()
        checks.check(self._hparams, metrics)
        items = [self.build_loss(), metrics]
        if self._hparams.use_weighted_metrics:
            items.append(self.build_weighted_metrics())
        return self._feed.choose_layout(tf.nest.flatten(items))

    def build_callbacks(self) -> list[tf.keras.callbacks.Callback]:
        """Returns the callbacks of `model.fit`; called after the model is compiled.

        Overriding code may add to them: put its own before the last one, which saves
        the run.
        """
        hparams, checkpoints = self._hparams, self._checkpoints
        if checkpoints is None:
            raise RuntimeError("build_callbacks: call it through train_and_validate.")
        state = checkpoints.state
        measured = progress.Progress(
            self._run,
            (self._dispatcher or self._feed).take_sizes,
            progress.gathering(self._strategy),
            self._console,
        )
        result: list[tf.keras.callbacks.Callback] = [
            measured,
            callbacks_lib.Record(self._run, state, measured),
            progress.TensorBoard(self._run.join("logs"), measured),
        ]
        if checks.selects(hparams):
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
        plateau = checks.plateau_arguments(hparams)
        if plateau is not None:
            result.append(callbacks_lib.ReduceOnPlateau(state, **plateau))
        result += [make() for make in hparams.callbacks]
        result.append(
            callbacks_lib.Backup(
                checkpoints,
                hparams.checkpoint_every_steps,
                self._agree,
                hparams.checkpoint_every_seconds,
            )
        )
        return result

    # Training

    def _build(self, layout: str | None) -> tf.keras.Model:
        builder, precision = self._model_builder, self._hparams.precision
        policy = tf.keras.mixed_precision.global_policy()
        tf.keras.mixed_precision.set_global_policy(precision or policy)
        try:
            return builder.build_packed() if layout == "packed" else builder.build()
        finally:
            tf.keras.mixed_precision.set_global_policy(policy)

    def _compile(self, layout: str | None, total_steps: int) -> tf.keras.Model:
        hparams, model = self._hparams, self._build(layout)
        self._outputs = tasks.name_outputs(model)
        self._check_model(model)
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
            # Workers of parameter servers are sent one step at a time.
            steps_per_execution=(
                1
                if strategies.is_coordinator(tf.distribute.get_strategy())
                else hparams.steps_per_execution
            ),
        )
        # TensorFlow traces a step twice that makes variables, such as the slots.
        if isinstance(model.optimizer, tf.keras.optimizers.Optimizer):
            model.optimizer.build(model.trainable_variables)
        if isinstance(model, RankingModel):
            model.training_metrics = hparams.training_metrics
            model.check_loss = not isinstance(self._strategy, tf.distribute.TPUStrategy)
        return model

    def train_and_validate(
        self, verbose: int = 0, *, accept_changed_data: bool = False
    ) -> tf.keras.Model:
        """Trains, or goes on training, then exports and evaluates.

        Args:
          verbose: 0 for silence; 1 or 2 for a line an epoch and a stage, with a bar
            below them on a terminal.
          accept_changed_data: Lets a run go on with other training or validation data
            than it began with.

        Returns:
          The trained model, with the weights of the last epoch.

        Raises:
          ConfigError: A setting is wrong, workers were told different things, or the
            run directory is that of a run with other settings or data.
          DataError: Data is missing or malformed.
          RunError: The loss became NaN, an export failed, the run directory is in use
            or was removed, or no checkpoint in it can be read.
          SystemExit: SIGTERM came; the code is 143 and the run can go on later. It is
            also how workers and parameter servers end.
        """
        hparams = self._hparams
        if self._serves:
            serve(self._resolver)
        told = self._config or checks.described(hparams, self._dataset_builder)
        data = data_fingerprint.of_builder(self._dataset_builder)
        task = f"{self._resolver.task_type} {self._resolver.task_id}"
        peers.check_same(self._strategy, task, told, data)
        if self._evaluates:
            return self._watch(told)
        seed, drawn = seeds.choose(hparams.seed, self._run, self._agree)
        seeds.plant(seed, self._dataset_builder)
        if drawn:
            told = {**told, "seed": seed}
        self._console = console = Console(bool(verbose) and self._run.is_ours)
        if drawn:
            console.say(f"seed {seed}, drawn; give it to repeat the run")
        state = RunState(seed=seed)
        twin = None
        if strategies.is_coordinator(self._strategy):
            twin = self._compile(self._layout(), 1)
        with contextlib.ExitStack() as lock:
            with strategies.strategy_scope(self._strategy):
                layout = self._layout()
                with console.stage("reading data", "data read"):
                    steps = self._feed.check(layout)
                with console.stage("building the model", "model built"):
                    model = self._compile(layout, steps * hparams.num_epochs)
                lock.enter_context(self._run.held())
                self._run.compare(told)
                if twin is not None:
                    self._dispatcher = Dispatcher(
                        model, twin, self._strategy, self._resolver
                    )
                self._checkpoints = Checkpoints(
                    model, self._run, state, self._dispatcher
                )
                self._checkpoints.check_same(self._agree)
                if self._checkpoints.restore():
                    self._go_on(steps, data, accept_changed_data)
                self._run.claim(told)
                self._run.write_environment(
                    state.seed,
                    {
                        "layout": layout,
                        "replicas": self._feed.replicas,
                        "data": data,
                    },
                )
                if self._skips:
                    console.say("metrics skip queries without relevant documents")
                with self._explaining_interrupts():
                    loop.train(self, model, layout, steps)
            if self._run.is_ours:
                from tfr_pipeline.pipeline.run.finish import finish

                self._run.check()
                with (
                    self._explaining_interrupts(),
                    console.stage("exporting and evaluating", "exported and evaluated"),
                ):
                    finish(self, *self._without_strategy(model, layout), self._run)
                self._run.check()
            # A worker that left while the chief exports would end the chief.
            self._agree(0)
        return self._dispatcher.twin if self._dispatcher else model

    def _go_on(self, steps: int, data: dict[str, Any], accept_data: bool) -> None:
        """Checks that a restored run can go on, and says from where."""
        checkpoints, epochs = self._checkpoints, self._hparams.num_epochs
        assert checkpoints is not None
        self._run.check_data(data, accept_data)
        loop.check_progress(checkpoints.step, steps, epochs)
        stopped = checkpoints.state.stopped
        ends = stopped or checkpoints.step >= steps * epochs
        if self._hparams.export_best_model and not ends:
            checkpoints.check_best()
        standing = loop.standing(checkpoints.step, steps, epochs, stopped)
        self._console.say(f"{self._run.path}: {standing}")
        checkpoints.clean()

    @contextlib.contextmanager
    def _explaining_interrupts(self) -> Iterator[None]:
        """Says at Ctrl-C how to go on."""
        try:
            yield
        except KeyboardInterrupt:
            assert self._checkpoints is not None
            raise KeyboardInterrupt(self._checkpoints.how_to_go_on()) from None

    def _without_strategy(
        self, model: tf.keras.Model, layout: str | None
    ) -> tuple[tf.keras.Model, Checkpoints]:
        """Returns a model that one process can read without asking the others.

        A model whose variables live in several processes is made again, from its
        twin or the last checkpoint.
        """
        assert self._checkpoints is not None
        if not strategies.is_distributed(self._strategy):
            return model, self._checkpoints
        if self._dispatcher is not None:
            return self._dispatcher.gather(), self._checkpoints
        local = self._compile(layout, 1)
        checkpoints = Checkpoints(local, self._run, RunState())
        checkpoints.restore()
        return local, checkpoints

    def _watch(self, told: dict[str, Any]) -> tf.keras.Model:
        """Evaluates what the others train, until SIGTERM."""
        layout = self._layout()
        valid = self._feed.dataset("valid", layout)
        if valid is None:
            raise ConfigError(
                "valid_input_pattern: expected files, found none, but the job has an "
                "evaluator. Start it without."
            )
        model = self._compile(layout, 1)
        evaluator.watch(
            model,
            self._build(layout),
            Checkpoints(model, self._run, RunState()),
            self._run.checkpoints,
            lambda: self._run.compare(told),
            valid,
            self._feed.steps("valid", layout),
            os.path.join(self._run.path, "logs", "evaluator"),
        )
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
        if self._serves:
            serve(self._resolver)
        seed, drawn = seeds.choose(hparams.seed, self._run, self._agree)
        seeds.plant(seed, self._dataset_builder)
        # The chief of parameter servers takes its step alone.
        alone = strategies.is_coordinator(self._strategy)
        with strategies.strategy_scope(None if alone else self._strategy):
            layout = self._layout()
            steps = self._feed.check(layout)
            valid_steps = self._feed.steps("valid", layout)
            model = self._compile(layout, steps * hparams.num_epochs)
            train, valid = (
                self._feed.dataset(split, layout, model=model)
                for split in ("train", "valid")
            )
            logs = model.fit(train, steps_per_epoch=1, epochs=1, verbose=0).history
        validation = "none" if valid is None else f"{valid_steps or 'all'} batches"
        if checks.selects(hparams):
            validation += f", selects by {self._monitor()}"
        return [
            f"model: {model.count_params():,} parameters",
            f"layout: {layout}, {self._feed.replicas} replica(s)",
            f"training: {hparams.num_epochs} epochs of {steps} steps",
            f"validation: {validation}",
            f"seed: {seed}{', drawn' if drawn else ''}",
            f"loss of the first step: {logs['loss'][0]:.6g}",
        ]

    def export_checkpoint(self, output: str, best: bool = False) -> str:
        """Exports from the checkpoints of the run, whether it has ended or not.

        Args:
          output: Folder of versions, which then stands for this one.
          best: Takes the best epoch instead of the latest checkpoint.

        Returns:
          `output/<step>`, the folder of the SavedModel.

        Raises:
          RunError: There is no such checkpoint, or the export failed.
        """
        layout = self._layout()
        model = self._compile(layout, 1)
        checkpoints = Checkpoints(model, self._run, RunState())
        found = checkpoints.restore_weights(self._build(layout))
        if not found or (best and not checkpoints.restore_best()):
            kind = "best" if best else "latest"
            raise RunError(f"{self._run.checkpoints}: found no {kind} checkpoint.")
        from tfr_pipeline.serving import versions

        step = checkpoints.state.best_step if best else checkpoints.step
        path = os.path.join(output, str(step))
        versions.check(output)
        self.export_saved_model(model, path)
        versions.publish(path)
        return path

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
        from tfr_pipeline.pipeline.run.finish import export

        if checkpoint:
            model.load_weights(checkpoint)
        export(self._dataset_builder, model, export_to)
