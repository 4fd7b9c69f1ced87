"""The training loop: `model.fit`, from wherever a run stands to its last step."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from tfr_pipeline.cluster import beat, heartbeat
from tfr_pipeline.data.reading import explain
from tfr_pipeline.errors import ConfigError, DataError, PipelineError, RunError
from tfr_pipeline.model import position_bias
from tfr_pipeline.model.ranking_model import NON_FINITE_LOSS
from tfr_pipeline.pipeline.distribute.parameter_server import Validate
from tfr_pipeline.pipeline.hparams import PipelineHparams
from tfr_pipeline.pipeline.run import actions, averaging, diagnosis, pulse
from tfr_pipeline.pipeline.run import callbacks as callbacks_lib
from tfr_pipeline.pipeline.run.checkpoint_files import latest, step_of
from tfr_pipeline.pipeline.run.checkpoints import Checkpoints
from tfr_pipeline.pipeline.run.freezing import Freezing
from tfr_pipeline.pipeline.run.progress import Progress
from tfr_pipeline.pipeline.warm_start import WarmStart


def check_progress(done: int, steps: int, epochs: int) -> None:
    """Checks that a run is not asked to end before where it stands.

    Args:
      done: Steps that it has taken.
      steps: Steps of an epoch.
      epochs: Epochs that it is to have in the end.

    Raises:
      ConfigError: It has taken more.
    """
    if done > steps * epochs:
        raise ConfigError(
            f"num_epochs: expected at least {-(-done // steps)}, found {epochs}. The "
            f"run in this model_dir has taken {done} steps, more than the "
            f"{steps * epochs} of {epochs} epochs. Choose more epochs or another "
            "model_dir."
        )


def standing(done: int, steps: int, epochs: int, stopped: str) -> str:
    """Says where a run stands when it is started; empty for one that begins.

    Args:
      done: See `check_progress`.
      steps: See `check_progress`.
      epochs: See `check_progress`.
      stopped: Why training ended early, or an empty string.
    """
    total = steps * epochs
    if stopped:
        return f"this run stopped at step {done} ({stopped}): it is exported again"
    if done >= total:
        return (
            f"this run has ended, at step {done} of {total}: it is exported again; "
            "with a larger num_epochs it goes on"
        )
    return f"going on from step {done} of {total}" if done else ""


def early_end(hparams: PipelineHparams, steps: int, monitor: str) -> str:
    """Says when training ends before its last epoch; empty where it never does.

    Args:
      hparams: Hyperparameters.
      steps: Steps of an epoch.
      monitor: Key of the logs by which epochs are better.
    """
    patience, epochs = hparams.early_stopping_patience, hparams.num_epochs
    if not patience:
        return ""
    if patience >= epochs - 1:
        return (
            f"never stops early: {patience} epochs of patience, {epochs} epochs of "
            f"{steps} steps"
        )
    least = hparams.early_stopping_min_delta
    better = f"better by more than {least:g}" if least else "better"
    return (
        f"stops early after {patience} epochs of {steps} steps ({patience * steps:,} "
        f"steps) without a {monitor} that is {better}, {epochs} epochs at the most"
    )


def go_on(
    checkpoints: Checkpoints, steps: int, hparams: PipelineHparams, shares: int | None
) -> str:
    """Checks that a restored run can go on, cleans up, and says from where it does.

    Args:
      checkpoints: Checkpoints of the run, restored.
      steps: Steps of an epoch.
      hparams: Hyperparameters.
      shares: See `RunState`; of this process.

    Raises:
      ConfigError: See `check_progress`; or lists would come in another order.
      RunError: The run has ended, and the weights of its best epoch are gone.
    """
    done, epochs = checkpoints.step, hparams.num_epochs
    check_progress(done, steps, epochs)
    before = checkpoints.state.shares
    if before is not None and shares is not None and before != shares:
        other = f", or with a number of replicas that divides {before}"
        raise ConfigError(
            f"the run dealt its training lists into {_shown(before)}, and with this "
            f"number of replicas, or data.sharding, there are {_shown(shares)}: lists "
            "would come in another order, some of them twice in an epoch. Go on as it "
            f"began{other if before > 0 else ''}."
        )
    checkpoints.state.shares = shares
    stopped = checkpoints.state.stopped
    if hparams.export_best_model:
        checkpoints.check_best(ended=bool(stopped) or done >= steps * epochs)
    checkpoints.clean()
    return standing(done, steps, epochs, stopped)


def _shown(shares: int) -> str:
    return (
        f"{abs(shares)} shares{' of whole files' * (shares < 0)}" if shares else "none"
    )


@contextlib.contextmanager
def explaining_interrupts(folder: str) -> Iterator[None]:
    """Says at Ctrl-C what has been saved, and how to go on.

    Args:
      folder: Where the checkpoints of the run are.
    """
    try:
        yield
    except KeyboardInterrupt:
        path = latest(folder)
        raise KeyboardInterrupt(
            f"{path} is saved; the same command goes on from step {step_of(path)}"
            if path
            else "nothing was saved; the same command begins again"
        ) from None


def explained(error: tf.errors.OpError) -> PipelineError | None:
    """Returns what an error of a training step says of the data; None for nothing."""
    wrong = position_bias.complaint(error)
    return DataError(wrong) if wrong else explain.in_python(error)


def train(
    pipeline: Any,
    model: tf.keras.Model,
    layout: str | None,
    steps: int,
) -> None:
    """Trains until the last step, or until a callback ends the run.

    Args:
      pipeline: The `ModelFitPipeline`, with its checkpoints restored.
      model: Its model, compiled.
      layout: The batch layout.
      steps: Steps of an epoch.

    Raises:
      RunError: The loss became NaN, or a parameter server was lost.
      DataError: A file that is read while training is damaged.
      PipelineError: Whatever else went wrong while reading.
    """
    checkpoints, dispatcher = pipeline._checkpoints, pipeline._dispatcher
    epochs, done = pipeline._hparams.num_epochs, checkpoints.step
    heartbeat.moves(beat.REST, done)
    if done >= steps * epochs or checkpoints.state.stopped:
        return
    feed = pipeline._feed
    told = feed.for_workers("train", layout, done)
    data = told.elements if told else feed.dataset("train", layout, done, model)
    judged = None
    if dispatcher is not None and dispatcher.can_judge:
        judged = feed.for_workers("valid", layout)
    valid = (
        judged.elements
        if judged
        else feed.dataset(
            "valid", layout, model=dispatcher.twin if dispatcher else model
        )
    )
    valid_steps = None if valid is None else feed.steps("valid", layout)
    callbacks, validate = pipeline.build_callbacks(), None
    if dispatcher is not None:
        # Keras begins a finite dataset anew each epoch.
        make = told.make if told else None
        dispatcher.feed(data.repeat(), done, feed.take_sizes, make)
        measures = [item for item in callbacks if isinstance(item, Progress)]
        judge = judged.make if judged else None
        validate = Validate(dispatcher, valid, valid_steps, measures, judge)
        model.train_function, data, valid = dispatcher, dispatcher.no_data(), None
    freezing = Freezing(model, WarmStart.of(pipeline._hparams.warm_start))
    callbacks = actions.guarded(
        [*freezing.callbacks(dispatcher), *callbacks],
        lambda: diagnosis.explain_zero(pipeline._dataset_builder, layout),
        dispatcher is not None or getattr(model, "check_loss", False),
        validate,
    )
    callbacks = [*averaging.callbacks(model, dispatcher), *callbacks]
    callbacks = pulse.around(callbacks, checkpoints)

    def fit(first: int, last: int, steps_per_epoch: int) -> None:
        try:
            model.fit(
                data,
                epochs=last,
                initial_epoch=first,
                steps_per_epoch=steps_per_epoch,
                validation_data=valid,
                validation_steps=valid_steps,
                callbacks=callbacks,
                verbose=0,  # `Progress` says what there is to say
            )
        except tf.errors.OpError as error:
            if (cause := explained(error)) is not None:
                raise cause from None
            raise

    epoch, within = divmod(done, steps)
    try:
        if within:  # the rest of the epoch in which the run was interrupted
            fit(epoch, epoch + 1, steps - within)
            epoch += 1
            if dispatcher is None:
                data = feed.dataset("train", layout, epoch * steps, model)
        if epoch < epochs and not checkpoints.state.stopped:
            fit(epoch, epochs, steps)
        for action in callbacks:
            if isinstance(action, actions.AtEnd):
                action.run()
        for callback in callbacks:
            if isinstance(callback, callbacks_lib.Backup):
                callback.stop_if_told()  # after the last epoch
    except (tf.errors.UnavailableError, tf.errors.AbortedError) as error:
        if dispatcher is None:
            raise
        # Lost workers are replaced; what servers held is gone.
        raise RunError(
            f"lost a parameter server at step {checkpoints.step} "
            f"({error.message[:100]}). Start all tasks again: the run goes on from its "
            "last checkpoint."
        ) from None
    except tf.errors.DataLossError as error:
        raise diagnosis.explain_data_loss(pipeline._dataset_builder, error) from error
    except tf.errors.InvalidArgumentError as error:
        if NON_FINITE_LOSS not in str(error):
            raise
        if dispatcher is not None:
            raise RunError(
                f"the loss is NaN or infinite in one of the steps handed out before "
                f"step {dispatcher.step}. No checkpoint was written after it. The same "
                "config without strategy names the batch and what is wrong with it."
            ) from None
        # A finite loss may have an infinite gradient; the step after notices.
        # Moving statistics do not count: the step that fails has moved them.
        finite = all(
            np.isfinite(weight.numpy()).all() for weight in model.trainable_weights
        )
        step = checkpoints.step if finite else checkpoints.step - 1
        raise RunError(
            diagnosis.explain_non_finite(
                pipeline._model_builder,
                pipeline._dataset_builder,
                layout,
                feed.replicas,
                step,
                feed.by_length("train"),
                feed.distilling.teacher if feed.distilling else None,
            )
        ) from None
    finally:
        heartbeat.moves(beat.REST)
        for callback in callbacks:
            if isinstance(callback, callbacks_lib.Backup):
                callback.release()
