"""Pipelines that train with `model.fit`."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf

from tfr_pipeline.cluster import cluster_spec, heartbeat
from tfr_pipeline.compat import tfr
from tfr_pipeline.errors import ConfigError, RunError
from tfr_pipeline.model import parts
from tfr_pipeline.pipeline import checks, tasks, without_effect
from tfr_pipeline.pipeline.abstract import AbstractPipeline
from tfr_pipeline.pipeline.compilation import build_model, compile_model
from tfr_pipeline.pipeline.distribute import limits, strategies
from tfr_pipeline.pipeline.distribute.parameter_server import Dispatcher, serve
from tfr_pipeline.pipeline.feed import Feed
from tfr_pipeline.pipeline.run import (
    actions,
    data_fingerprint,
    dry_run,
    evaluator,
    loop,
    peers,
    progress,
    seeds,
)
from tfr_pipeline.pipeline.run.checkpoints import Checkpoints, latest
from tfr_pipeline.pipeline.run.console import Console
from tfr_pipeline.pipeline.run.directory import RunDirectory, RunState
from tfr_pipeline.pipeline.run.finish import export
from tfr_pipeline.pipeline.run.trained import Trained
from tfr_pipeline.serialization import plain
from tfr_pipeline.serving import versions


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
        self._config = None if config is None else plain(config, "config")
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
        self._keep_template: Callable[[], None] | None = None
        self._dispatcher: Dispatcher | None = None
        self._trained: Trained | None = None
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
        measured = tf.nest.flatten(items[1:])
        without_effect.warn(self._hparams, self._dataset_builder, measured)
        return self._feed.choose_layout(tf.nest.flatten(items))

    def build_callbacks(self) -> list[tf.keras.callbacks.Callback]:
        """Returns the callbacks of `model.fit`; called after the model is compiled.

        Overriding code may add to them: put its own before the last one, which saves
        the run.
        """
        if self._checkpoints is None:
            raise RuntimeError("build_callbacks: call it through train.")
        measured = progress.Progress(
            self._run,
            (self._dispatcher or self._feed).take_sizes,
            progress.gathering(self._strategy),
            self._console,
        )
        return actions.of_run(
            self._run,
            self._checkpoints,
            self._hparams,
            measured,
            self._monitor() if checks.selects(self._hparams) else None,
            self._agree,
            self._keep_template,
        )

    # Training

    def _build(self, layout: str | None) -> tf.keras.Model:
        return build_model(self._model_builder, layout, self._hparams.precision)

    def _compile(self, layout: str | None, total_steps: int) -> tf.keras.Model:
        # TensorFlow variables must be made within the scope of the strategy, which
        # is why everything is built here and nothing is passed in.
        hparams, model = self._hparams, self._build(layout)
        self._outputs = tasks.name_outputs(model)
        self._check_model(model)
        compile_model(
            model,
            hparams,
            total_steps,
            self.build_loss(),
            self.build_metrics(),
            self.build_weighted_metrics() if hparams.use_weighted_metrics else None,
            check_loss=not isinstance(self._strategy, tf.distribute.TPUStrategy),
        )
        return model

    def _told(self) -> dict[str, Any]:
        return self._config or checks.described(self._hparams, self._dataset_builder)

    def train_and_validate(
        self, verbose: int = 0, *, accept_changed_data: bool = False
    ) -> tf.keras.Model:
        """Trains, or goes on training, then exports and evaluates.

        That is `train` and `finish`, with the run directory held over both.

        Args:
          verbose: See `train`.
          accept_changed_data: See `train`.

        Returns:
          The trained model, with the weights of the last epoch.

        Raises:
          PipelineError: See `train` and `finish`.
          SystemExit: See `train`.
        """
        with self._run.kept_held():
            model = self.train(verbose, accept_changed_data=accept_changed_data)
            self.finish()
        return model

    def train(
        self, verbose: int = 0, *, accept_changed_data: bool = False
    ) -> tf.keras.Model:
        """Trains, or goes on training, without exporting or evaluating.

        Every task of a job calls it. `finish` may follow, here or in another process.

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
          RunError: The loss became NaN, the signatures cannot be exported, the run
            directory is in use or was removed, or no checkpoint in it can be read.
          SystemExit: SIGTERM came; the code is 143 and the run can go on later. It is
            also how workers and parameter servers end.
        """
        hparams = self._hparams
        self._trained = None
        if self._serves:
            serve(self._resolver)
        told = self._told()
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
        distributed = strategies.is_distributed(self._strategy)
        twin = None
        if strategies.is_coordinator(self._strategy):
            twin = self._compile(self._layout(), 1)
        with (
            contextlib.ExitStack() as lock,
            strategies.strategy_scope(self._strategy),
        ):
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
            self._checkpoints = Checkpoints(model, self._run, state, self._dispatcher)
            self._checkpoints.check_same(self._agree)
            if self._checkpoints.restore():
                self._go_on(steps, data, accept_changed_data)
            self._run.claim(told)
            self._run.write_environment(
                state.seed,
                {"layout": layout, "replicas": self._feed.replicas, "data": data},
            )
            if self._skips:
                console.say("metrics skip queries without relevant documents")
            trained = Trained(
                model,
                self._run,
                self._checkpoints,
                self._dataset_builder,
                self._dispatcher,
                functools.partial(self._compile, layout, 1) if distributed else None,
            )
            self._keep_template = trained.keep_template
            with self._explaining_interrupts():
                loop.train(self, model, layout, steps)
            self._trained = trained
        return self._dispatcher.twin if self._dispatcher else model

    def finish(self, *, accept_changed_data: bool = False) -> dict[str, Any]:
        """Exports the model, compares and evaluates the exports, writes `metrics.json`.

        After `train` it takes the model of that; without, as of a run that was
        interrupted, the last checkpoint of the run directory. Every task of a job calls
        it; those that write nothing wait for the one that does.

        Args:
          accept_changed_data: Takes other data than the run was trained on, where
            `train` has not been called.

        Returns:
          The content of `metrics.json`; an empty dict in tasks that write nothing.

        Raises:
          ConfigError: The run directory is that of a run with other settings or data.
          RunError: An export failed, there is no checkpoint, or the run directory is in
            use or was removed.
        """
        if self._serves:
            serve(self._resolver)
        content: dict[str, Any] = {}
        if self._run.is_ours and not self._evaluates:
            if self._trained is None and latest(self._run.checkpoints) is None:
                raise RunError(
                    f"{self._run.checkpoints}: found no checkpoint to finish a run "
                    "from; train first."
                )
            with (
                self._run.held(),
                self._explaining_interrupts(),
                self._console.stage(
                    "exporting and evaluating", "exported and evaluated"
                ),
            ):
                trained = self._trained or self._restored(accept_changed_data)
                self._trained = trained
                content = trained.finish(self._hparams.export_best_model)
        # A worker that left while the chief exports would end the chief.
        self._agree(0)
        return content

    def _restored(self, accept_data: bool) -> Trained:
        """Takes the last checkpoint of the run for the trained model."""
        self._run.compare(self._told())
        layout = self._layout()
        model, bare = self._compile(layout, 1), self._build(layout)
        self._checkpoints = Checkpoints(model, self._run, RunState())
        self._checkpoints.restore_for_export(bare, bare.weights)
        if self._hparams.export_best_model:
            self._checkpoints.check_best(ended=True)
        data = data_fingerprint.of_builder(self._dataset_builder)
        self._run.check_data(data, accept_data)
        return Trained(model, self._run, self._checkpoints, self._dataset_builder)

    def _go_on(self, steps: int, data: dict[str, Any], accept_data: bool) -> None:
        """Checks that a restored run can go on, and says from where."""
        checkpoints, epochs = self._checkpoints, self._hparams.num_epochs
        assert checkpoints is not None
        self._run.check_data(data, accept_data)
        loop.check_progress(checkpoints.step, steps, epochs)
        stopped = checkpoints.state.stopped
        ends = stopped or checkpoints.step >= steps * epochs
        if self._hparams.export_best_model:
            checkpoints.check_best(ended=bool(ends))
        standing = loop.standing(checkpoints.step, steps, epochs, stopped)
        self._console.say(f"{self._run.path}: {standing}")
        checkpoints.clean()

    @contextlib.contextmanager
    def _explaining_interrupts(self) -> Iterator[None]:
        """Says at Ctrl-C how to go on."""
        try:
            yield
        except KeyboardInterrupt:
            if self._checkpoints is None:
                raise
            raise KeyboardInterrupt(self._checkpoints.how_to_go_on()) from None

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
        if self._serves:
            serve(self._resolver)
        return dry_run.lines(self)

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
        model, bare = self._compile(layout, 1), self._build(layout)
        checkpoints = Checkpoints(model, self._run, RunState())
        step = checkpoints.restore_for_export(bare, bare.weights, best)
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
        if checkpoint:
            model.load_weights(checkpoint)
        export(self._dataset_builder, model, export_to)
