"""What happens after the last step: export, check of the export, evaluation."""

from __future__ import annotations

import functools
import json
import os
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from tfr_pipeline import files
from tfr_pipeline.data.lists import Lists
from tfr_pipeline.errors import RunError
from tfr_pipeline.features import FILE_NAME
from tfr_pipeline.metrics.evaluation import QueryMetrics
from tfr_pipeline.metrics.query_table import QueryTable
from tfr_pipeline.pipeline.datasets.adapter import some_lists
from tfr_pipeline.pipeline.run import template
from tfr_pipeline.pipeline.run.checkpoints import Checkpoints
from tfr_pipeline.pipeline.run.directory import RunDirectory
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
from tfr_pipeline.serving.signatures import PREDICT, RANK, input_name

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
) -> dict[str, Any]:
    """Exports the latest and the best model, checks both, evaluates, writes metrics.

    Args:
      exporter: Exports the model.
      builder: Dataset builder.
      model: The trained model; has the weights of the last step, also afterwards.
      checkpoints: Checkpoints of the run, for this model.
      run: The run directory.
      export_best: Whether to export the best model.

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
    if headline is not None:
        for split in ("valid", "test"):
            if split in builder.splits:
                lists = builder.lists(split, "packed")
                record = functools.partial(queries.add, split)
                results[split] = evaluate(headline, lists, record)
    run.write_queries(queries)
    history = state.history
    if history:  # that of a run that has ended may have been lost since
        run.write_history(state)
    # The first epoch of a process also traces; leave it out where there are others.
    steady = [row for row in history[1:] or history if "documents" in row]
    documents = sum(row["documents"] for row in steady)
    seconds = sum(row["seconds"] for row in steady)
    content = {
        **results,
        "documents_per_second": round(documents / seconds, 1) if seconds else None,
        "seconds": {
            "training": round(sum(row["seconds"] for row in history), 3),
            "export": round(exported - start, 3),
            "evaluation": round(time.perf_counter() - exported, 3),
        },
        "step": checkpoints.step,
        "best_step": state.best_step if state.best_value is not None else None,
        "best_value": state.best_value,
        "stopped": state.stopped or None,
    }
    run.write_json("metrics.json", content)
    return content


def export(builder: Any, model: tf.keras.Model, path: str) -> Predictor | None:
    """Exports a model once; see `Exporter.export`."""
    return Exporter(builder, model).export(path)


class Exporter:
    """Exports a model, time and again with other weights.

    Args:
      builder: Dataset builder: it has the signatures, and data to compare on.
      model: A Keras model.
    """

    def __init__(self, builder: Any, model: tf.keras.Model):
        self._builder, self._model = builder, model
        self._signatures = builder.build_signatures(model) or {}
        features = getattr(builder, "features", None)
        self._assets = {}
        if features is not None and {RANK, PREDICT} & set(self._signatures):
            self._assets[FILE_NAME] = json.dumps(features.to_json(), indent=1)
        if not self._signatures:
            self._signatures = _call_signature(model)
        self._first: str | None = None
        self._module: Any = None
        self._scores = False

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
            self._module = load(folder)
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


def labels_by_task(predictor: Predictor, lists: Lists) -> dict[str, np.ndarray]:
    """Returns what each score of a model is measured by.

    Args:
      predictor: The model.
      lists: The lists, with labels.

    Returns:
      Labels, float32 `[documents]`, by the name of the score; by an empty text where
      there is one. Without those of tasks of which these lists have no label.
    """
    labels = lists.labels
    assert labels is not None
    if labels.ndim == 1:
        return dict.fromkeys(predictor.tasks if predictor.several else [""], labels)
    return {
        task: column
        for label, column in zip(predictor.features.labels, labels.T, strict=True)
        for task in predictor.tasks_of(label)
        if (column >= 0).any()
    }


def evaluate(
    predictor: Predictor,
    lists: Lists,
    record: Callable[[str, Any, QueryMetrics], None] | None = None,
) -> dict[str, Any]:
    """Evaluates an exported model on whole lists; see `evaluate_lists`.

    Args:
      predictor: The model.
      lists: The lists, with labels.
      record: Called with the name of each task (empty for the only one), the query ids
        and what was measured of each query; such as `QueryTable.add` of a split.

    Returns:
      The result of `evaluate_lists`; a dict of them by `labels_by_task` where that has
      names.
    """

    def measured(task: str, labels: Any, scores: Any) -> dict[str, Any]:
        metrics = QueryMetrics.of(labels, scores, lists.row_splits)
        if record is not None:
            record(task, lists.query_ids, metrics)
        return metrics.means()

    by_task = labels_by_task(predictor, lists)
    if "" in by_task:
        scores = predictor.score(lists, task=predictor.tasks[0])
        return measured("", by_task[""], scores)
    found = predictor.score_tasks(lists)
    return {task: measured(task, by_task[task], found[task]) for task in by_task}
