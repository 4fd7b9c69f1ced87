"""The model of a run, while it trains and after, and what is exported of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import tensorflow as tf

from tfr_pipeline import outputs
from tfr_pipeline.pipeline.distribute.parameter_server import Dispatcher
from tfr_pipeline.pipeline.run import learning, template
from tfr_pipeline.pipeline.run.checkpoints import Checkpoints
from tfr_pipeline.pipeline.run.directory import RunDirectory
from tfr_pipeline.pipeline.run.finish import Exporter, finish
from tfr_pipeline.pipeline.run.shared_evaluation import SharedEvaluation
from tfr_pipeline.pipeline.run.state import RunState
from tfr_pipeline.scopes import outside_scope


class Trained:
    """What training hands to the end of the run.

    Args:
      model: The model.
      run: The run directory.
      checkpoints: Checkpoints of the run, for this model.
      dataset_builder: Has the signatures, and data to compare and evaluate on.
      dispatcher: Hands out the steps, where others take them.
      make_local: Makes the model again, compiled, in this process alone; None where
        one process can read the model without asking the others.
    """

    def __init__(
        self,
        model: tf.keras.Model,
        run: RunDirectory,
        checkpoints: Checkpoints,
        dataset_builder: Any,
        dispatcher: Dispatcher | None = None,
        make_local: Callable[[], tf.keras.Model] | None = None,
    ):
        self._run, self._checkpoints = run, checkpoints
        self._builder, self._dispatcher = dataset_builder, dispatcher
        self._make_local = None if dispatcher else make_local
        self._local = dispatcher.twin if dispatcher else model
        self._exporter: Exporter | None = None

    def keep_template(self) -> None:
        """Writes what exports are made of, once each time that the run is started.

        Code may have changed since, so that the one of before is not good enough.
        """
        if not self._run.is_ours or self._exporter is not None:
            return
        self._run.check()
        # Within `model.fit` there is a strategy, and nothing of it shall be traced.
        self._exporter = outside_scope(self._write_template)
        self._run.has_written(template.MODEL)

    def _write_template(self) -> Exporter:
        if self._make_local is not None:
            self._local = self._make_local()
        assets = learning.assets(self._run)
        exporter = Exporter(self._builder, self._local, assets)
        exporter.write_template(self._run.join(outputs.TEMPLATE))
        return exporter

    def finish(
        self,
        export_best: bool,
        evaluation: SharedEvaluation,
        more: Mapping[str, Any],
    ) -> dict[str, Any]:
        """Exports, compares and evaluates; returns the content of `metrics.json`.

        Args:
          export_best: Whether to export the best model.
          evaluation: See `finish.finish`.
          more: What `metrics.json` has beside that.
        """
        self._run.check()
        self.keep_template()
        assert self._exporter is not None
        checkpoints = self._checkpoints
        if self._dispatcher is not None:
            self._dispatcher.gather()
        elif self._make_local is not None:
            checkpoints = Checkpoints(self._local, self._run, RunState())
            checkpoints.restore()
        content = finish(
            self._exporter,
            self._builder,
            self._local,
            checkpoints,
            self._run,
            export_best,
            evaluation,
            more,
        )
        self._run.check()
        return content
