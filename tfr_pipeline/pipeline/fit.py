"""Pipelines that train with `model.fit`."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tfr_pipeline.cluster import heartbeat
from tfr_pipeline.compat import tfr
from tfr_pipeline.model import parts
from tfr_pipeline.pipeline import checks, classes, tasks, without_effect
from tfr_pipeline.pipeline.abstract import AbstractPipeline
from tfr_pipeline.pipeline.compilation import build_model, compile_model
from tfr_pipeline.pipeline.distribute import limits
from tfr_pipeline.pipeline.distribute.parameter_server import Dispatcher
from tfr_pipeline.pipeline.distribute.role import Role
from tfr_pipeline.pipeline.feed import Feed
from tfr_pipeline.pipeline.run import (
    actions,
    at_checkpoint,
    beginning,
    data_fingerprint,
    dry_run,
    evaluator,
    loop,
    peers,
    progress,
    seeds,
)
from tfr_pipeline.pipeline.run.checkpoints import Checkpoints
from tfr_pipeline.pipeline.run.console import Console
from tfr_pipeline.pipeline.run.directory import RunDirectory
from tfr_pipeline.pipeline.run.finish import check_places, export
from tfr_pipeline.pipeline.run.learning import Learning
from tfr_pipeline.pipeline.run.shared_evaluation import SharedEvaluation
from tfr_pipeline.pipeline.run.state import RunState
from tfr_pipeline.pipeline.run.trained import Trained
from tfr_pipeline.serialization import plain


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

    # What training ends with, and whether its model is one of pretraining.
    _trained_kind: type[Trained] = Trained
    _pretrains = False

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
        checks.pretraining(self._hparams, self._pretrains)
        self._config = None if config is None else plain(config, "config")
        self._role = role = Role(self._hparams)
        self._feed = Feed(model_builder, dataset_builder, self._hparams, role.strategy)
        self._run = RunDirectory(self._hparams.model_dir, role.is_chief)
        self._checkpoints: Checkpoints | None = None
        self._keep_template: Callable[[], None] | None = None
        self._dispatcher: Dispatcher | None = None
        self._trained: Trained | None = None
        self._learning = Learning(model_builder, dataset_builder)
        self._outputs: tuple[str, ...] = ()
        self._console = Console(False)

    def _validate_parameters(self, model_builder: Any, dataset_builder: Any) -> None:
        models, data = tfr.keras.model, tfr.keras.pipeline
        checks.kind("model_builder", model_builder, models.AbstractModelBuilder)
        checks.kind("dataset_builder", dataset_builder, data.AbstractDatasetBuilder)

    @property
    def dataset_builder(self) -> Any:
        """The dataset builder."""
        return self._dataset_builder

    @property
    def is_chief(self) -> bool:
        """Whether this process writes into the run directory."""
        return self._run.is_ours

    def _metrics(self) -> dict[str, list[Any]]:
        return tasks.by_task(self.build_metrics(), tasks.of_data(self._dataset_builder))

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
        classes.check_model(model, classes.of_data(self._dataset_builder), scorer)

    def _layout(self) -> str | None:
        """Checks the settings; returns the batch layout, None for foreign datasets."""
        metrics = self._metrics()
        items = [self.build_loss(), metrics]
        classes.check_parts(classes.of_data(self._dataset_builder), *items)
        checks.check(self._hparams, metrics)
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
            progress.gathering(self._role.strategy),
            self._console,
        )
        return actions.of_run(
            self._run,
            self._checkpoints,
            self._hparams,
            measured,
            self._monitor() if checks.selects(self._hparams) else None,
            self._role.agree,
            self._keep_template,
        )

    def _build(self, layout: str | None) -> tf.keras.Model:
        return build_model(self._model_builder, layout, self._hparams.precision)

    def _compile(self, layout: str | None, total_steps: int) -> tf.keras.Model:
        # TensorFlow variables must be made within the scope of the strategy, which
        # is why everything is built here and nothing is passed in.
        hparams, model = self._hparams, self._build(layout)
        self._outputs = tasks.name_outputs(model)
        self._check_model(model)
        weighted: Any = None
        if getattr(model, "position_bias", None) is not None:
            limits.check_positions(self._role.strategy)
            weighted = []  # none are missed: where weights stand there are positions
        if hparams.use_weighted_metrics:
            weighted = self.build_weighted_metrics()
        compile_model(
            model,
            hparams,
            total_steps,
            self.build_loss(),
            self.build_metrics(),
            weighted,
            check_loss=not isinstance(self._role.strategy, tf.distribute.TPUStrategy),
            packed=parts.packed_layout(self._model_builder, layout),
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
          RunError: The loss became NaN, the signatures cannot be exported, a model of
            others stands where the exports go, the run directory is in use or was
            removed, or no checkpoint in it can be read.
          SystemExit: SIGTERM came; the code is 143 and the run can go on later. It is
            also how workers and parameter servers end.
        """
        role = self._role
        self._trained = None
        role.serve_others(self._feed.reader_for_workers)
        told = self._told()
        data = self._data()
        peers.check_same(role.strategy, str(role), told, data)
        if role.evaluates:
            return evaluator.watch(self, told)
        with self._run.brought(role.agree):
            return self._train(told, data, verbose, accept_changed_data)

    def _train(
        self, told: dict[str, Any], data: dict[str, Any], verbose: int, accept: bool
    ) -> tf.keras.Model:
        hparams, role = self._hparams, self._role
        check_places(self._run, hparams.export_best_model)
        seed, drawn = seeds.choose(hparams.seed, self._run, role.agree)
        seeds.plant(seed, self._dataset_builder)
        self._console = console = Console(bool(verbose) and self._run.is_ours)
        if drawn:
            told = {**told, "seed": seed}
            console.say(f"seed {seed}, drawn; give it to repeat the run")
        beginning.learn(self)
        twin = self._compile(self._layout(), 1) if role.coordinates else None
        with contextlib.ExitStack() as lock, role.scope():
            layout = self._layout()
            with console.stage("reading data", "data read"):
                steps = self._feed.check(layout)
            checks.check_warmup(hparams, steps * hparams.num_epochs)
            with console.stage("building the model", "model built"):
                model = self._compile(layout, steps * hparams.num_epochs)
            lock.enter_context(self._run.held())
            self._run.compare(told)
            if twin is not None:
                self._dispatcher = Dispatcher(model, twin, role.strategy, role.resolver)
            state = RunState(seed=seed)
            checkpoints = Checkpoints(model, self._run, state, self._dispatcher)
            self._checkpoints = checkpoints
            beginning.begin_or_go_on(self, model, layout, steps, told, data, accept)
            if checks.skips(self._metrics()):
                console.say("metrics skip queries without relevant documents")
            if hparams.early_stopping_patience:
                console.say(loop.early_end(hparams, steps, self._monitor()))
            trained = self._trained_kind(
                model,
                self._run,
                checkpoints,
                self._dataset_builder,
                self._dispatcher,
                functools.partial(self._compile, layout, 1)
                if role.shares_variables
                else None,
            )
            self._keep_template = trained.keep_template
            with loop.explaining_interrupts(self._run.checkpoints):
                loop.train(self, model, layout, steps)
            self._trained = trained
        return self._dispatcher.twin if self._dispatcher else model

    def finish(self, *, accept_changed_data: bool = False) -> dict[str, Any]:
        """Exports the model, compares and evaluates the exports, writes `metrics.json`.

        After `train` it takes the model of that; without, as of a run that was
        interrupted, the last checkpoint of the run directory. Every task of a job calls
        it; those that write nothing wait for the one that does, and evaluate their part
        of large data for it.

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
        self._role.serve_others()
        content: dict[str, Any] = {}
        evaluation = SharedEvaluation(self._role.strategy, self._dataset_builder)
        if self._run.is_ours:
            with self._run.brought(int):
                content = self._finish(accept_changed_data, evaluation)
        else:
            evaluation.follow(self._run.join())
        # A worker that left while the chief exports would end the chief.
        self._role.agree(0)
        return content

    def _finish(
        self, accept_changed_data: bool, evaluation: SharedEvaluation
    ) -> dict[str, Any]:
        if self._trained is None:
            at_checkpoint.check(self._run)
        with (
            self._run.held(),
            loop.explaining_interrupts(self._run.checkpoints),
            self._console.stage("exporting and evaluating", "exported and evaluated"),
        ):
            self._trained = self._trained or self._restored(accept_changed_data)
            distilling = self._feed.distilling
            return self._trained.finish(
                self._hparams.export_best_model,
                evaluation,
                distilling.metrics() if distilling else {},
            )

    def _data(self) -> dict[str, Any]:
        edges = (self._hparams.graph or {}).get("edges")
        distilling = self._feed.distilling
        return data_fingerprint.of_builder(
            self._dataset_builder, edges, distilling.files if distilling else ()
        )

    def _restored(self, accept_data: bool) -> Trained:
        """Takes the last checkpoint of the run for the trained model."""
        self._run.compare(self._told())
        model, checkpoints, _ = at_checkpoint.model(self)
        if self._hparams.export_best_model:
            checkpoints.check_best(ended=True)
        data = self._data()
        self._run.check_data(data, accept_data)
        return self._trained_kind(model, self._run, checkpoints, self._dataset_builder)

    def dry_run(self) -> list[str]:
        """Checks settings and data, builds the model and takes one step.

        Nothing is written, and the weights are thrown away.

        Returns:
          Lines that say what a run would do.

        Raises:
          PipelineError: What `train_and_validate` would raise up to its first step.
        """
        self._role.serve_others()
        return dry_run.lines(self)

    def export_checkpoint(
        self, output: str, best: bool = False, version: int | None = None
    ) -> str:
        """Exports from the checkpoints of the run, whether it has ended or not.

        Args:
          output: Folder of versions, which then stands for this one.
          best: Takes the best epoch instead of the latest checkpoint.
          version: Number of the version; None for the step.

        Returns:
          `output/<version>`, the folder of the SavedModel.

        Raises:
          RunError: There is no such checkpoint, or the export failed.
        """
        return at_checkpoint.export(self, output, best, version)

    def export_module(self, layer: str, output: str, best: bool = False) -> str:
        """Exports a part of the model as a module for TensorFlow Hub.

        Args:
          layer: Name of a layer of the model, such as `hub_encoder`.
          output: Folder of the module.
          best: See `export_checkpoint`.

        Returns:
          `output`.

        Raises:
          ConfigError: There is no such layer; the message names those that there are.
          RunError: There is no such checkpoint, or the export failed.
        """
        return at_checkpoint.export_part(self, layer, output, best)

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
