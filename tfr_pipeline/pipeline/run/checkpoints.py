"""Checkpoints of a run: weights, optimizer and where the run stands, in one file."""

from __future__ import annotations

import glob
import os
import re
import shutil
from collections.abc import Callable

import tensorflow as tf

from tfr_pipeline.errors import RunError
from tfr_pipeline.pipeline.distribute.parameter_server import Dispatcher
from tfr_pipeline.pipeline.run.directory import RunDirectory, RunState

# What TensorFlow writes under the names of checkpoints, with its temporary files.
_OURS = re.compile(r"(ckpt|best)-\d+[._]|checkpoint\.tmp")


class _SavedState(tf.train.experimental.PythonState):
    """A `RunState` as part of a checkpoint."""

    def __init__(self, state: RunState):
        super().__init__()
        self._state = state

    def serialize(self) -> str:
        return self._state.to_json()

    def deserialize(self, string_value: str) -> None:
        self._state.__dict__.update(RunState.from_json(string_value).__dict__)


class Checkpoints:
    """Saves and restores weights, optimizer and `RunState` in one file.

    The state travels inside the checkpoint: there is no moment at which the two could
    disagree.

    Args:
      model: A compiled model.
      run: The run directory.
      state: State to save and to restore into.
      dispatcher: Hands out the steps, where others take them.
    """

    def __init__(
        self,
        model: tf.keras.Model,
        run: RunDirectory,
        state: RunState,
        dispatcher: Dispatcher | None = None,
    ):
        self._model, self._run, self.state = model, run, state
        # What servers hold is in one piece there.
        self._whole = dispatcher.twin if dispatcher else model
        self._dispatcher = dispatcher
        # The chief reads and writes, not the servers that hold the variables.
        device = "/job:chief/replica:0/task:0" if dispatcher else None
        self._options = tf.train.CheckpointOptions(experimental_io_device=device)
        self._checkpoint = tf.train.Checkpoint(
            model=model, optimizer=model.optimizer, state=_SavedState(state)
        )
        self._manager = tf.train.CheckpointManager(
            self._checkpoint, run.join("checkpoints"), max_to_keep=2
        )

    @property
    def decides(self) -> bool:
        """Whether this process's clock says when to save: the chief's does."""
        return self._run.is_ours

    @property
    def step(self) -> int:
        """Training steps done."""
        if self._dispatcher is not None:
            return self._dispatcher.step
        return int(self._model.optimizer.iterations.numpy())

    def check_same(self, agree: Callable[[int], int]) -> None:
        """Checks that workers are about to restore the same checkpoint.

        Else they would train different weights, and wait for each other for ever.

        Args:
          agree: Gives the largest of the workers' values to all of them.

        Raises:
          RunError: Another worker found a later one.
        """
        path = tf.train.latest_checkpoint(self._run.checkpoints)
        step = _step_of(path) if path else 0
        latest = agree(step)
        if latest != step:
            raise RunError(
                f"{self._run.checkpoints}: this worker found step {step}, another one "
                f"step {latest}. All workers need the same model_dir: a folder that "
                "they share."
            )

    def save(self) -> None:
        """Saves the state of the run at the current step."""
        if self._dispatcher is not None:
            self._dispatcher.settle()
        self._manager.save(checkpoint_number=self.step, options=self._options)
        self.clean()

    def clean(self) -> None:
        """Removes what is of no use: bests of before, and halves of checkpoints.

        The latter come from processes that were killed while they saved. Call it only
        where nobody else saves.
        """
        kept = [*self._manager.checkpoints, self._best_prefix(self.state.best_step)]
        names = tuple(f"{os.path.basename(path)}." for path in kept)
        for path in glob.glob(glob.escape(self._run.join("checkpoints")) + "/*"):
            name = os.path.basename(path)
            if _OURS.match(name) and not name.startswith(names):
                shutil.rmtree(path) if os.path.isdir(path) else os.remove(path)

    def restore(self) -> bool:
        """Restores the last checkpoint; returns whether there was one."""
        path = tf.train.latest_checkpoint(self._run.checkpoints)
        if not path:
            return False
        # Slots are made first, so that the restore below fills them.
        self._model.optimizer.build(self._model.trainable_variables)
        try:
            status = self._checkpoint.restore(path, options=self._options)
            status.assert_existing_objects_matched()
        except (tf.errors.OpError, AssertionError, ValueError) as error:
            raise _unusable(path, error) from error
        if self._dispatcher is not None:
            self._dispatcher.step = int(self._model.optimizer.iterations.numpy())
        return True

    def restore_weights(self, bare: tf.keras.Model) -> bool:
        """Restores all but the optimizer; returns whether there was a checkpoint.

        That of servers, with its variables in parts, fits no optimizer elsewhere.

        Args:
          bare: The same model, not compiled: it would bring an optimizer along.
        """
        path = tf.train.latest_checkpoint(self._run.checkpoints)
        if not path:
            return False
        try:
            read = tf.train.Checkpoint(model=bare, state=_SavedState(self.state))
            status = read.restore(path)
            status.assert_existing_objects_matched().expect_partial()
        except (tf.errors.OpError, AssertionError, ValueError) as error:
            raise _unusable(path, error) from error
        self._model.set_weights(bare.get_weights())
        self._model.optimizer.iterations.assign(_step_of(path))
        return True

    def save_best(self) -> None:
        """Saves the current weights as the best so far."""
        self._weights().write(self._best_prefix(self.step))

    def restore_best(self) -> bool:
        """Loads the weights of the best epoch; returns whether there are any."""
        if self.state.best_value is None:
            return False
        path = self._best_prefix(self.state.best_step)
        try:
            self._weights().read(path).assert_consumed()
        except tf.errors.NotFoundError as error:
            raise RunError(
                f"{path}: the checkpoint of the best epoch is gone; export the latest."
            ) from error
        return True

    def _weights(self) -> tf.train.Checkpoint:
        """The weights alone: as a whole, the model would bring its optimizer along."""
        return tf.train.Checkpoint(weights=self._whole.weights)

    def _best_prefix(self, step: int) -> str:
        return self._run.join("checkpoints", f"best-{step}")


def _step_of(path: str) -> int:
    return int(path.rpartition("-")[2])


def _unusable(path: str, error: Exception) -> RunError:
    return RunError(
        f"{path}: cannot resume from this checkpoint ({str(error)[:300]}). "
        "Was the model changed? Choose another model_dir, or remove that one."
    )
