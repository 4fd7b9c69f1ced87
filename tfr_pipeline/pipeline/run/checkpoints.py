"""Checkpoints of a run: weights, optimizer and where the run stands, in one file."""

from __future__ import annotations

import os
import re
import shutil
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from tfr_pipeline import files
from tfr_pipeline.cluster import beat, heartbeat
from tfr_pipeline.errors import RunError
from tfr_pipeline.pipeline.distribute.parameter_server import Dispatcher
from tfr_pipeline.pipeline.run import averaging, checkpoint_files
from tfr_pipeline.pipeline.run.directory import RunDirectory
from tfr_pipeline.pipeline.run.state import RunState
from tfr_pipeline.serving.export import READ_ERRORS

# What TensorFlow writes under the names of checkpoints, with its temporary files.
_OURS = re.compile(r"(ckpt|best)-\d+[._]|checkpoint\.tmp")
_KEPT = 2


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
        averages = averaging.of_model(model)
        # The weights that train; those of the model are the averages then.
        beside: dict[str, Any] = {"raw": averages.variables} if averages else {}
        # It trains with the model, but is none of the weights that are exported.
        if (bias := getattr(model, "position_bias", None)) is not None:
            beside["position_bias"] = bias
        self._checkpoint = tf.train.Checkpoint(
            model=model, optimizer=model.optimizer, state=_SavedState(state), **beside
        )
        self._found: str | None = None
        self._has_looked = self._fell_back = False

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
        path = self._find()
        step = checkpoint_files.step_of(path) if path else 0
        latest = agree(step)
        if latest != step:
            raise RunError(
                f"{self._run.checkpoints}: this worker found step {step}, another one "
                f"step {latest}. All workers need the same model_dir: a folder that "
                "they share."
            )

    def save(self) -> None:
        """Saves the state of the run at the current step.

        Raises:
          RunError: The run directory is not what it was, or cannot be written to.
        """
        if self._dispatcher is not None:
            self._dispatcher.settle()
        self._run.check()
        name = f"ckpt-{self.step}"
        folder = self._run.join("checkpoints")
        with averaging.kept_in_place(self._model):
            self._write(self._checkpoint, os.path.join(folder, name), self._options)
        kept = self._kept("ckpt")
        lines = [f'model_checkpoint_path: "{name}"']
        lines += [f'all_model_checkpoint_paths: "{other}"' for other in reversed(kept)]
        files.write_text(
            os.path.join(folder, checkpoint_files.LATEST), "\n".join(lines) + "\n"
        )
        self._run.has_written(
            f"checkpoints/{name}.index",
            instead_of=tuple(
                f"checkpoints/ckpt-{step}.index"
                for step in checkpoint_files.steps(folder, "ckpt")
                if step != self.step
            ),
        )
        self._fell_back = False
        if self._run.is_ours:
            heartbeat.keeps(self.step)
        self.clean()
        self._run.mirror()

    def _write(
        self,
        checkpoint: tf.train.Checkpoint,
        path: str,
        options: tf.train.CheckpointOptions | None = None,
    ) -> None:
        """Writes a checkpoint where nothing is, or what cannot be read."""
        folder, name = os.path.split(path)
        try:
            for other in checkpoint_files.names(folder):
                place, ours = os.path.join(folder, other), other.startswith(f"{name}.")
                # Files alone are replaced. What somebody keeps there stays.
                if (ours or other == checkpoint_files.LATEST) and os.path.isdir(place):
                    os.rmdir(place)
            with heartbeat.doing(beat.SAVE):
                checkpoint.write(path, options)
        except (OSError, tf.errors.OpError) as error:
            raise RunError(
                f"{path}: the checkpoint cannot be written: {str(error)[:300]}. Once "
                "that is mended, the same command goes on from the one before."
            ) from error

    def _kept(self, kind: str) -> list[str]:
        """Names of the last checkpoints up to this step, the newest first."""
        steps = checkpoint_files.steps(self._run.join("checkpoints"), kind)
        last = self.step if kind == "ckpt" else self.state.best_step
        return [f"{kind}-{step}" for step in steps if step <= last][:_KEPT]

    def clean(self) -> None:
        """Removes what is of no use: checkpoints of before, and halves of some.

        The latter come from processes that were killed while they saved. Call it only
        where nobody else saves. Where an older checkpoint had to do, all stays until
        the next save.
        """
        if self._fell_back:
            return
        # The checkpoint before the last one may have had another best epoch.
        kept = (*self._kept("ckpt"), *self._kept("best"))
        names = tuple(f"{name}." for name in kept)
        folder = self._run.join("checkpoints")
        for name in checkpoint_files.names(folder):
            if _OURS.match(name) and not name.startswith(names):
                path = os.path.join(folder, name)
                shutil.rmtree(path) if os.path.isdir(path) else os.remove(path)

    def _find(self) -> str | None:
        """Returns the newest checkpoint that can be read, None where there is none.

        Raises:
          RunError: There have been checkpoints, but none is left that can be read.
        """
        if self._has_looked:
            return self._found
        folder, broken = self._run.checkpoints, []
        for step in sorted(
            {*checkpoint_files.steps(folder, "ckpt"), *checkpoint_files.named(folder)},
            reverse=True,
        ):
            path = os.path.join(folder, f"ckpt-{step}")
            problem = checkpoint_files.problem(path)
            if problem is None:
                self._found = path
                break
            broken.append(f"{path}: {problem}")
        if broken and self._found is None:
            raise RunError(
                f"{'; '.join(broken)}. No other checkpoint is there. Copy the folder "
                f"{folder} again, whole, or choose another model_dir."
            )
        if broken:
            self._fell_back = True
            warnings.warn(
                f"{'; '.join(broken)}. The run goes on from an older checkpoint, "
                f"{self._found}. Nothing is removed before the next save.",
                stacklevel=3,
            )
        if self._found is None:
            self._check_new()
        self._has_looked = True
        return self._found

    def _check_new(self) -> None:
        """Raises a RunError if a run without checkpoints has come far."""
        history = os.path.join(self._run.path, "history.csv")
        if not os.path.isfile(history):
            return
        with open(history, "rb") as file:
            epochs = sum(1 for _ in file) - 1
        # One that was killed while it saved for the first time has one epoch.
        if epochs > 1 or os.path.exists(os.path.join(self._run.path, "metrics.json")):
            raise RunError(
                f"{self._run.checkpoints}: expected a checkpoint, found none, although "
                f"{history} tells of {epochs} epochs. Copy that folder, too; to begin "
                "at step 0, choose another model_dir."
            )

    def restore(self) -> bool:
        """Restores the newest checkpoint that can be read.

        Returns:
          Whether there was one.

        Raises:
          RunError: There were checkpoints, but none can be read, or it is another
            model's.
        """
        path = self._find()
        if not path:
            return False
        # Slots are made first, so that the restore below fills them.
        self._model.optimizer.build(self._model.trainable_variables)
        try:
            status = self._checkpoint.read(path, options=self._options)
            status.assert_existing_objects_matched()
        except READ_ERRORS as error:
            raise _unusable(path, error) from error
        if averages := averaging.of_model(self._model):
            averages.in_place = True
        if self._dispatcher is not None:
            self._dispatcher.step = int(self._model.optimizer.iterations.numpy())
        return True

    def restore_weights(
        self, bare: Any, weights: Sequence[tf.Variable], path: str | None = None
    ) -> bool:
        """Restores all but the optimizer; returns whether there was a checkpoint.

        That of servers, with its variables in parts, fits no optimizer elsewhere.

        Args:
          bare: The same model, not compiled: it would bring an optimizer along.
          weights: Its weights.
          path: The checkpoint; by default the newest that can be read.
        """
        path = path or self._find()
        if not path:
            return False
        try:
            whole = tf.train.Checkpoint(model=bare, state=_SavedState(self.state))
            status = whole.read(path)
            status.assert_existing_objects_matched().expect_partial()
        except READ_ERRORS as error:
            raise _unusable(path, error) from error
        self._model.set_weights([weight.numpy() for weight in weights])
        self._model.optimizer.iterations.assign(checkpoint_files.step_of(path))
        return True

    def restore_for_export(
        self, bare: Any, weights: Sequence[tf.Variable], best: bool = False
    ) -> int:
        """Restores the weights of the latest checkpoint or of the best epoch.

        Args:
          bare: See `restore_weights`.
          weights: See `restore_weights`.
          best: Takes those of the best epoch.

        Returns:
          The step that they are of.

        Raises:
          RunError: There is no such checkpoint, or it cannot be read.
        """
        found = self.restore_weights(bare, weights)
        if not found or (best and not self.restore_best()):
            kind = "best" if best else "latest"
            raise RunError(f"{self._run.checkpoints}: found no {kind} checkpoint.")
        return self.state.best_step if best else self.step

    def save_best(self) -> None:
        """Saves the current weights as the best so far."""
        self._run.check()
        self._write(self._weights(), self._best_prefix(self.step))

    def check_best(self, ended: bool) -> None:
        """Forgets the best epoch, with a warning, where its weights are gone.

        Else the run would fail at its end, when other exports have been replaced.

        Args:
          ended: Whether the run has no epochs to come, of which one would be the best.

        Raises:
          RunError: The weights are gone, and no epoch is to come.
        """
        if self.state.best_value is None:
            return
        # The same for all workers, who save together.
        path = os.path.join(self._run.checkpoints, f"best-{self.state.best_step}")
        problem = checkpoint_files.problem(path)
        if problem and ended:
            raise RunError(
                f"{path}: {problem}. No epoch is to come that could be exported as "
                "the best. Bring the file back; 'tfr-pipeline export "
                f"--run={self._run.path} --output=DIR' exports the latest."
            )
        if problem:
            warnings.warn(
                f"{path}: {problem}. The best epoch so far "
                f"({self.state.best_value:.6g}) cannot be exported; of those to come "
                "the best will be.",
                stacklevel=2,
            )
            self.state.best_value, self.state.best_step = None, 0

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
        except READ_ERRORS as error:
            raise RunError(
                f"{path}: the checkpoint of the best epoch cannot be read "
                f"({str(error)[:200]}); export the latest."
            ) from error
        return True

    def _weights(self) -> tf.train.Checkpoint:
        """The weights alone: as a whole, the model would bring its optimizer along."""
        return tf.train.Checkpoint(weights=self._whole.weights)

    def _best_prefix(self, step: int) -> str:
        return self._run.join("checkpoints", f"best-{step}")


def _unusable(path: str, error: Exception) -> RunError:
    return RunError(
        f"{path}: cannot resume from this checkpoint ({str(error)[:300]}). "
        "Was the model changed? Choose another model_dir, or remove that one."
    )
