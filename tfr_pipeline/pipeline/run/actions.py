"""Actions: what happens beside the training steps, and in which order.

An action is a Keras callback. At each step, each epoch and the end, those of a run are
called in this order:

| action | does | stands there because |
|---|---|---|
| `Validate` | with parameter servers: evaluates after each epoch | all others read its results |
| `StopOnNaN` | for models that do not look at their own loss | nothing broken may be saved |
| `ExplainZeroLoss` | warns of a loss of exactly zero | |
| `Progress` | measures, and says so | the next two read its figures |
| `Record` | `history.csv`; refuses a validation loss that is not finite | before all that save |
| `TensorBoard` | logs | |
| `SelectBest` | keeps the best epoch, stops early | |
| `ReduceOnPlateau` | lowers the learning rate | |
| yours | `PipelineHparams.callbacks` | they see what was measured |
| `Backup` | saves the run; ends it at SIGTERM | saves what the others decided |

`of_run` makes those from `Progress` on, which `ModelFitPipeline.build_callbacks`
returns and overriding code may change; `guarded` puts the first three before them,
which no run goes without. Around all of them stand two that tell the launcher when a
step ends and the next begins; see `pulse`.

`every_steps`, `every_epoch` and `at_end` make an action of a plain function. What it
raises ends the run; with several workers, all of them have to decide the same.
"""  # noqa: E501

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import tensorflow as tf

from tfr_pipeline.errors import ConfigError
from tfr_pipeline.pipeline import checks
from tfr_pipeline.pipeline.hparams import PipelineHparams
from tfr_pipeline.pipeline.run import callbacks as callbacks_lib
from tfr_pipeline.pipeline.run import progress
from tfr_pipeline.pipeline.run.checkpoints import Checkpoints
from tfr_pipeline.pipeline.run.directory import RunDirectory


def of_run(
    run: RunDirectory,
    checkpoints: Checkpoints,
    hparams: PipelineHparams,
    measured: progress.Progress,
    monitor: str | None,
    agree: Callable[[int], int] = int,
    after_first_save: Callable[[], None] | None = None,
) -> list[tf.keras.callbacks.Callback]:
    """Returns the actions of a run in their order.

    Args:
      run: The run directory.
      checkpoints: The run's.
      hparams: Hyperparameters.
      measured: What measures the run.
      monitor: Key of the logs by which epochs are better; None where nothing depends
        on that.
      agree: Gives the largest of the workers' values to all of them.
      after_first_save: See `Backup`.
    """
    state = checkpoints.state
    result: list[tf.keras.callbacks.Callback] = [
        measured,
        callbacks_lib.Record(run, state, measured),
        progress.TensorBoard(run.join("logs"), measured),
    ]
    if monitor is not None:
        result.append(
            callbacks_lib.SelectBest(
                checkpoints,
                monitor,
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
            agree,
            hparams.checkpoint_every_seconds,
            after_first_save,
        )
    )
    return result


def guarded(
    actions: Iterable[tf.keras.callbacks.Callback],
    explain_zero_loss: Callable[[], str],
    looks_at_loss: bool,
    validate: tf.keras.callbacks.Callback | None = None,
) -> list[tf.keras.callbacks.Callback]:
    """Returns actions after those that no run goes without.

    Args:
      actions: What `build_callbacks` returned.
      explain_zero_loss: Returns the warning for a loss of zero.
      looks_at_loss: Whether the training step itself refuses a loss that is not finite.
      validate: What evaluates where `model.fit` does not.
    """
    first: list[tf.keras.callbacks.Callback] = [] if validate is None else [validate]
    if not looks_at_loss:
        first.append(callbacks_lib.StopOnNaN())
    return [*first, callbacks_lib.ExplainZeroLoss(explain_zero_loss), *actions]


class _Action(progress.RunCallback):
    """Calls a function."""

    def __init__(self, function: Callable[..., Any]):
        super().__init__()
        if not callable(function):
            raise ConfigError(f"function: expected a function, found {function!r}.")
        self._function = function


class _EverySteps(_Action):
    def __init__(self, steps: int, function: Callable[..., Any]):
        super().__init__(function)
        if not isinstance(steps, int) or steps < 1:
            raise ConfigError(
                f"steps: expected an integer of at least 1, found {steps!r}."
            )
        self._every = steps
        self._before = self._last = 0

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """See `tf.keras.callbacks.Callback`."""
        self._before = self._last = int(self.model.optimizer.iterations.numpy())

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """See `tf.keras.callbacks.Callback`."""
        step = self._before + batch + 1
        # Several steps may have passed since the last call.
        if step // self._every > self._last // self._every:
            self._function(step, logs or {})
        self._last = step


class _EveryEpoch(_Action):
    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """See `tf.keras.callbacks.Callback`."""
        self._function(epoch, _values(logs))


class AtEnd(_Action):
    """See `at_end`. Keras ends training twice where a run goes on within an epoch."""

    def __init__(self, function: Callable[..., Any]):
        super().__init__(function)
        self._logs: dict[str, float] = {}

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """See `tf.keras.callbacks.Callback`."""
        self._logs = _values(logs)

    def run(self) -> None:
        """Calls the function."""
        self._function(self._logs)


def _values(logs: Any) -> dict[str, float]:
    return {name: float(value) for name, value in (logs or {}).items()}


def every_steps(
    steps: int, function: Callable[[int, Any], Any]
) -> tf.keras.callbacks.Callback:
    """Returns an action that calls a function every so many training steps.

    Args:
      steps: How many. Keras reports every `steps_per_execution` steps: the function
        comes at the first report at or after its turn.
      function: Takes the number of steps done and the logs, whose values are tensors:
        to read one waits for the step.

    Raises:
      ConfigError: An argument cannot be.
    """
    return _EverySteps(steps, function)


def every_epoch(
    function: Callable[[int, dict[str, float]], Any],
) -> tf.keras.callbacks.Callback:
    """Returns an action that calls a function after each epoch and its validation.

    Args:
      function: Takes the epoch, from 0 as in `history.csv`, and the logs, such as
        `val_metric/ndcg_10`.

    Raises:
      ConfigError: It is no function.
    """
    return _EveryEpoch(function)


def at_end(function: Callable[[dict[str, float]], Any]) -> tf.keras.callbacks.Callback:
    """Returns an action that calls a function when the last step is done and saved.

    Args:
      function: Takes the logs of the last epoch. It is not called where training ends
        with an error or is interrupted.

    Raises:
      ConfigError: It is no function.
    """
    return AtEnd(function)
