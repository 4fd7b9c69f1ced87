"""What happens after the last step: export, check of the export, evaluation."""

from __future__ import annotations

import functools
import json
import os
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from tfr_pipeline import files
from tfr_pipeline.errors import RunError
from tfr_pipeline.features import FILE_NAME
from tfr_pipeline.metrics.query_table import QueryTable
from tfr_pipeline.pipeline.datasets.adapter import some_lists
from tfr_pipeline.pipeline.run import template
from tfr_pipeline.pipeline.run.checkpoints import Checkpoints
from tfr_pipeline.pipeline.run.directory import RunDirectory
from tfr_pipeline.pipeline.run.shared_evaluation import EVALUATED, SharedEvaluation
from tfr_pipeline.serving import versions
from tfr_pipeline.serving.export import (
    PLACES,
    export_other_weights,
    export_saved_model,
)
from tfr_pipeline.serving.predictor import (
    Predictor,
    can_score,
    load,
    restore_weights,
)
from tfr_pipeline.serving.rank_inputs import input_name
from tfr_pipeline.serving.signatures import CLASSIFY, PREDICT, RANK

LATEST, BEST = "latest_model", "best_model_by_metric"
# Largest difference, relative to the spread of the scores, between a model and its
# export: room for float32 rounding in another order, not for other weights.
_TOLERANCE = 1e-4
_LISTS_TO_COMPARE = 32


def check_places(run: RunDirectory, export_best: bool) -> None:
    """Checks, before training, that what comes out of it can be exported.

    Args:
      run: The run directory.
      export_best: Whether the best model will be exported.

    Raises:
      RunError: A model of others stands in the place.
    """
    for name in (LATEST, BEST) if export_best else (LATEST,):
        # The chief's folder, so that all workers end.
        versions.check(os.path.join(run.path, "export", name))


def finish(
    exporter: Exporter,
    builder: Any,
    model: tf.keras.Model,
    checkpoints: Checkpoints,
    run: RunDirectory,
    export_best: bool,
    evaluation: SharedEvaluation,
    more: Mapping[str, Any],
) -> dict[str, Any]:
    """Exports the latest and the best model, checks both, evaluates, writes metrics.

    Args:
      exporter: Exports the model.
      builder: Dataset builder.
      model: The trained model; has the weights of the last step, also afterwards.
      checkpoints: Checkpoints of the run, for this model.
      run: The run directory.
      export_best: Whether to export the best model.
      evaluation: Has the help of other workers, if there are any.
      more: What `metrics.json` has beside what is measured here.

    Returns:
      The content of `metrics.json`.

    Raises:
      RunError: An export failed, or does not score as the model does.
    """
    state = checkpoints.state
    start = time.perf_counter()
    for folder in ("", "checkpoints", f"export/{LATEST}", f"export/{BEST}"):
        files.remove_stale(run.join(folder))
    headline = exporter.publish(run.join("export", LATEST), checkpoints.step)
    last = model.get_weights()
    if export_best and checkpoints.restore_best():
        headline = exporter.publish(run.join("export", BEST), state.best_step)
        model.set_weights(last)
    exported = time.perf_counter()
    results: dict[str, Any] = {}
    queries = QueryTable()
    shared = evaluation.lead(headline, exporter.load_seconds)
    if headline is not None:
        for split in EVALUATED:
            if split in builder.splits:
                measured = shared.get(split)
                if measured is None:
                    measured = evaluation.alone(headline, split)
                measured.record(functools.partial(queries.add, split))
                results[split] = measured.means()
    run.write_queries(queries)
    if state.history:  # that of a run that has ended may have been lost since
        run.write_history(state)
    content = {**results, **more, **of_history(checkpoints)}
    content["seconds"] |= {
        "export": round(exported - start, 3),
        "evaluation": round(time.perf_counter() - exported, 3),
    }
    run.write_json("metrics.json", content)
    return content


def of_history(checkpoints: Checkpoints) -> dict[str, Any]:
    """Returns what `metrics.json` says of training itself."""
    state = checkpoints.state
    history = state.history
    # The first epoch of a process also traces; leave it out where there are others.
    steady = [row for row in history[1:] or history if "documents" in row]
    documents = sum(row["documents"] for row in steady)
    seconds = sum(row["seconds"] for row in steady)
    epochs = None
    if history:  # which lacks the last epoch if the process died while it validated
        last = history[-1]
        epochs = int(checkpoints.step * (last["epoch"] + 1) // last["step"])
    return {
        "documents_per_second": round(documents / seconds, 1) if seconds else None,
        "seconds": {"training": round(sum(row["seconds"] for row in history), 3)},
        "step": checkpoints.step,
        "epochs": epochs,
        "best_step": state.best_step if state.best_value is not None else None,
        "best_value": state.best_value,
        "stopped": state.stopped or None,
    }


def export(builder: Any, model: tf.keras.Model, path: str) -> Predictor | None:
    """Exports a model once; see `Exporter.export`."""
    return Exporter(builder, model).export(path)


class Exporter:
    """Exports a model, time and again with other weights.

    Args:
      builder: Dataset builder: it has the signatures, and data to compare on.
      model: A Keras model.
      assets: Maps names of files to texts that go into `assets.extra`, too.

    Attributes:
      load_seconds: What it took to load an export for the first time.
    """

    def __init__(
        self,
        builder: Any,
        model: tf.keras.Model,
        assets: Mapping[str, str] | None = None,
    ):
        self._builder, self._model = builder, model
        self._signatures = builder.build_signatures(model) or {}
        features = getattr(builder, "features", None)
        self._assets = dict(assets or {})
        known = {RANK, PREDICT, CLASSIFY}
        if features is not None and known & set(self._signatures):
            self._assets[FILE_NAME] = json.dumps(features.to_json(), indent=1)
        if not self._signatures:
            self._signatures = _call_signature(model)
        self._first: str | None = None
        self._module: Any = None
        self._scores = False
        self.load_seconds = 0.0

    def write_template(self, folder: str) -> None:
        """Writes what all exports to come are made of; see `template`.

        It is traced here, so that this is most of the work of the next export.

        Raises:
          RunError: As `export_saved_model`.
        """
        where = {PLACES: json.dumps(template.places(self._model))}
        export_saved_model(
            self._model, self._signatures, folder, {**self._assets, **where}
        )
        self._first = folder

    def publish(self, folder: str, step: int) -> Predictor | None:
        """Exports a version into a folder, and makes it the one loaded from there.

        Args:
          folder: Folder of versions; see `tfr_pipeline.serving.versions`.
          step: Number of the version. A rerun replaces its own.

        Returns:
          See `export`.

        Raises:
          RunError: As `export`, and when the folder holds a model of others.
        """
        versions.check(folder)
        path = os.path.join(folder, str(step))
        predictor = self.export(path)
        versions.publish(path)
        return predictor

    def export(self, path: str) -> Predictor | None:
        """Exports the model with its weights of now, if it then scores as the model.

        It is loaded and compared under another name beside its place, and renamed
        after that: an export that is there is one that was compared.

        Args:
          path: Folder of the SavedModel.

        Returns:
          A predictor for this export, good until the next one, or None where the
          builder has no description of features or signatures of its own kind.

        Raises:
          RunError: The export failed, or scores otherwise than the model.
        """
        if self._first is None:
            export_saved_model(
                self._model, self._signatures, path, self._assets, self._verify
            )
        else:
            weights = self._model.variables
            export_other_weights(weights, self._first, path, self._verify)
        self._first = self._first or path
        return Predictor(path, module=self._module) if self._scores else None

    def _verify(self, folder: str) -> None:
        if self._module is None:
            start = time.perf_counter()
            self._module = load(folder)
            self.load_seconds = time.perf_counter() - start
            self._scores = bool(self._assets) and can_score(self._module.signatures)
        else:
            # The functions are copies: to load them again would take long.
            restore_weights(self._module, folder)
        if self._scores:
            predictor = Predictor(folder, module=self._module)
            _compare(self._builder, self._signatures, predictor)


def _call_signature(model: tf.keras.Model) -> dict[str, Any]:
    """A signature for builders without one: the model itself, by input name."""
    specs = {
        tensor.name: tf.TensorSpec(tensor.shape, tensor.dtype, input_name(tensor.name))
        for tensor in model.inputs
    }

    @tf.function(input_signature=[specs], autograph=False)
    def call(features: Any) -> Any:
        outputs = model(features, training=False)
        return outputs if isinstance(outputs, dict) else {"outputs": outputs}

    return {tf.saved_model.DEFAULT_SERVING_SIGNATURE_DEF_KEY: call}


def _compare(builder: Any, signatures: dict[str, Any], predictor: Predictor) -> None:
    split = "valid" if "valid" in builder.splits else "train"
    plan = builder.plan(split, "packed")
    count = min(_LISTS_TO_COMPARE, plan.num_lists)
    some = some_lists(builder, split, np.arange(count), "packed")
    in_model = predictor.score_tasks(some, signatures[predictor.signature])
    # What a server does, and what a predictor does.
    both = [predictor.score_tasks(some, f) for f in (predictor.function, None)]
    for task, loaded in (pair for scores in both for pair in scores.items()):
        in_memory = in_model[task]
        difference = float(np.max(np.abs(loaded - in_memory), initial=0.0))
        if difference > _TOLERANCE * (1.0 + float(np.ptp(in_memory))):
            raise RunError(
                "the export scores differently from the model, by up to "
                f"{difference:g} on {some.num_documents} documents. It was not "
                "published."
            )
