"""Scores lists with an exported model."""

from __future__ import annotations

import dataclasses
import os
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError

from tfr_pipeline.data.batching.loose import separate
from tfr_pipeline.data.lists import Lists, Ragged
from tfr_pipeline.data.records import encode
from tfr_pipeline.errors import ConfigError, DataError, RunError, unknown_name
from tfr_pipeline.features import FILE_NAME, Features
from tfr_pipeline.layout import BlockLayout
from tfr_pipeline.serving.class_signatures import PROBABILITIES
from tfr_pipeline.serving.export import EXTRA_ASSETS, READ_ERRORS
from tfr_pipeline.serving.rank_inputs import (
    IDS,
    ROW_SPLITS,
    TASK,
    Pair,
    input_names,
    splits_names,
)
from tfr_pipeline.serving.remote_versions import find_export
from tfr_pipeline.serving.signatures import CLASSIFY, PREDICT, RANK, RANKS
from tfr_pipeline.serving.versions import MODEL

_DOCUMENTS_PER_CALL = 16384
# An id in records that no model has a feature of.
_NO_FEATURE = "tfr_pipeline/document_id"

__all__ = ["Predictor", "can_score", "find_export", "load", "restore_weights"]


def load(path: str) -> Any:
    """Loads a SavedModel; returns what `tf.saved_model.load` does.

    Raises:
      DataError: It cannot be loaded; the message names the file that is damaged.
    """
    try:
        return tf.saved_model.load(path)
    # Which class a damaged file raises depends on the byte that is wrong.
    except Exception as error:
        cause = " ".join(str(error).split())[:300]
        raise DataError(
            f"{_damaged(path)}: cannot load the model: {cause}. Is the copy complete? "
            "Export it again."
        ) from error


def _damaged(path: str) -> str:
    """Returns the file of a SavedModel that is to blame, or the folder of it."""
    from tensorflow.core.protobuf import saved_model_pb2

    model = os.path.join(path, MODEL)
    variables = os.path.join(path, "variables", "variables")
    with open(model, "rb") as file:
        try:
            saved_model_pb2.SavedModel.FromString(file.read())
        except DecodeError:
            return model
    try:
        reader = tf.train.load_checkpoint(variables)
    except Exception:
        return f"{variables}.index"
    try:
        for name in reader.get_variable_to_shape_map():
            reader.get_tensor(name)
    except Exception:
        return f"{variables}.*"
    return path


def restore_weights(module: Any, path: str) -> None:
    """Gives a loaded model the weights of another export of the same model.

    Args:
      module: What `load` returned for the other one.
      path: Folder of a SavedModel.

    Raises:
      DataError: Its weights are others, or cannot be read.
    """
    variables = os.path.join(path, "variables", "variables")
    try:
        status = tf.train.Checkpoint(weights=module.weights).read(variables)
        status.assert_existing_objects_matched().expect_partial()
    except READ_ERRORS as error:
        raise DataError(f"{variables}: cannot load the weights: {error}") from error


def can_score(signatures: Mapping[str, Any]) -> bool:
    """Whether some signatures of a loaded model are those that a `Predictor` asks."""
    if RANK in signatures or CLASSIFY in signatures:
        return True
    if PREDICT not in signatures:
        return False
    _, inputs = signatures[PREDICT].structured_input_signature
    outputs = signatures[PREDICT].structured_outputs.values()
    return [spec.dtype for spec in inputs.values()] == [tf.string] and all(
        tensor.dtype.is_floating and tensor.shape.rank in (2, 3) for tensor in outputs
    )


class Predictor:
    """Scores lists with a SavedModel that this package exported.

    It asks the signature `rank`, or the function behind that, which takes matrices; for
    classes, `classify`.
    Where there is none, because a document has several scores, it asks
    `tensorflow/serving/predict`, with ELWC records that it makes of the lists.

    Args:
      path: A SavedModel, a folder of versions, or a run directory.
      module: What `load` returned for it, to save doing so again (keyword only).

    Attributes:
      path: Folder of the SavedModel.
      features: Description of the data that the model was trained on.
      layout: Where the features with fixed shapes stand in `Lists.values`.
      loose: Names of the other document features, which stand in `Lists.loose`.
      signature: Key of the signature that scores.
      tasks: Names of the scores, those that the data has labels for first. Where a
        document has several numbers, `outputs[0]`, `outputs[1]`, and so on.
      several: Whether a document has several numbers for one label.
      classes: Names of the classes; none for a model that ranks.

    Raises:
      DataError: There is no model, or none that this package exported.
    """

    def __init__(self, path: str, *, module: Any = None):
        self.path = find_export(path)
        # Held on to: the signatures do not keep the variables alive.
        self._module = load(self.path) if module is None else module
        signatures = self._module.signatures
        known = (CLASSIFY, RANK, PREDICT)
        self.signature = next((key for key in known if key in signatures), PREDICT)
        if not can_score(signatures):
            raise DataError(
                f"{self.path}: expected a signature {RANK!r} or {PREDICT!r}, found "
                f"{sorted(signatures)}. Export it with tfr_pipeline."
            )
        self._function = signatures[self.signature]
        assets = os.path.join(self.path, EXTRA_ASSETS, FILE_NAME)
        if not os.path.exists(assets):
            raise DataError(
                f"{assets}: not found; the export does not say its features. Models "
                "are exported with them by dataset builders that describe their data: "
                "SimpleDatasetBuilder, MultiLabelDatasetBuilder."
            )
        self.features = Features.load(assets)
        packed, loose = separate(self.features.example_spec)
        self.loose = tuple(loose)
        self._ragged_context = tuple(
            name
            for name, feature in self.features.context.items()
            if feature.kind != "fixed"
        )
        self.layout = BlockLayout.from_spec(packed)
        self.classes = self.features.classes if self.signature == CLASSIFY else ()
        if self.classes:
            self._numbers, self.several = {PROBABILITIES: (PROBABILITIES, 0)}, False
            self.tasks: tuple[str, ...] = (PROBABILITIES,)
            return
        outputs = {
            name: list(tensor.shape)
            for name, tensor in self._function.structured_outputs.items()
            if self.signature == PREDICT or name not in (RANKS, IDS)
        }
        labels = [task for task in self.features.labels if task in outputs]
        numbers = {}
        for output in (*labels, *sorted(set(outputs) - set(labels))):
            shape = outputs[output]
            if self.signature == PREDICT and len(shape) == 3 and shape[2] != 1:
                names = {f"{output}[{i}]": (output, i) for i in range(shape[2] or 0)}
                numbers.update(names)
            else:
                numbers[output] = (output, 0)
        self._numbers = numbers
        self.tasks = tuple(numbers)
        self.several = len(numbers) > len(outputs)

    def probabilities(self, lists: Lists) -> np.ndarray:
        """Returns float32 `[examples, classes]`, how likely each class is.

        Args:
          lists: The examples, lists of one document each.

        Raises:
          ConfigError: The model ranks.
          DataError: See `score`.
          RunError: See `score`.
        """
        if not self.classes:
            raise ConfigError(f"{self.path}: the model ranks; it knows no classes.")
        return self.score_tasks(lists)[PROBABILITIES]

    def score(
        self,
        lists: Lists,
        function: Callable[..., dict[str, Any]] | None = None,
        task: str | None = None,
    ) -> np.ndarray:
        """Returns float32 `[documents]`, the score of each document.

        Args:
          lists: The documents.
          function: Another function with the signature `signature` to score with.
          task: Name of the task; may be left out for a model that has one.

        Raises:
          ConfigError: The model has several tasks, and not this one.
          DataError: The lists have other columns than the model.
          RunError: A score is not finite.
        """
        if self.classes:
            raise ConfigError(
                f"{self.path}: the model classifies; it has no scores to rank by."
            )
        task = self.task(task)
        return self.score_tasks(lists, function)[task]

    def sample(
        self, lists: Lists, samples: int, task: str | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Scores documents many times, each time with other units dropped out.

        Args:
          lists: The documents.
          samples: How many times.
          task: See `score`.

        Returns:
          Mean and standard deviation (of `samples - 1` degrees of freedom) of the
          scores of each document, float32 `[documents]`.

        Raises:
          ConfigError: `samples` is less than 2, there is no dropout, the model is an
            ensemble; or see `score`.
          DataError: See `score`.
          RunError: See `score`.
        """
        task = self.sampled_task(samples, task)
        draw = types.SimpleNamespace(packed=self._module.sampled)
        mean = squares = np.zeros(lists.num_documents)
        for count in range(1, samples + 1):  # Welford, 1962
            scores = self.score_tasks(lists, draw)[task].astype(np.float64)
            before, mean = mean, mean + (scores - mean) / count
            squares = squares + (scores - before) * (scores - mean)
        deviation = np.sqrt(squares / (samples - 1))
        return mean.astype(np.float32), deviation.astype(np.float32)

    def sampled_task(self, samples: int, task: str | None) -> str:
        """Returns a name of a task, see `task`, once `sample` is known to work."""
        if samples < 2:
            raise ConfigError(f"samples: expected at least 2, found {samples}.")
        if hasattr(self._module, "members"):
            raise ConfigError(
                f"{self.path}: an ensemble has no samples of its own. Take one of its "
                "members, which ensemble.json names."
            )
        if getattr(self._module, "sampled", None) is None or self.signature != RANK:
            raise ConfigError(
                f"{self.path}: samples differ by dropout; expected a model that has "
                "some, ranks by one number a document, and was exported since "
                "tfr_pipeline samples (`tfr-pipeline export --run=RUN`, once the run "
                "was started again)."
            )
        return self.task(task)

    def task(self, task: str | None) -> str:
        """Returns a name of a task after checking it; None stands for the only one."""
        if task is None and len(self.tasks) == 1:
            return self.tasks[0]
        if task is None:
            raise ConfigError(
                f"{self.path}: the model has several scores a document; expected one "
                f"of {', '.join(self.tasks)} as the task."
            )
        if task not in self.tasks:
            raise ConfigError(unknown_name("task", task, self.tasks, self.path))
        return task

    def tasks_of(self, output: str) -> tuple[str, ...]:
        """Returns those of `tasks` that an output of the model has the numbers of."""
        return tuple(
            task for task, (found, _) in self._numbers.items() if found == output
        )

    def score_tasks(self, lists: Lists, function: Any = None) -> dict[str, np.ndarray]:
        """Returns the scores by task; see `score`."""
        self._check(lists)
        padded = self.signature == PREDICT
        some: Callable[..., dict[str, np.ndarray]]
        some = self._by_predict if padded else self._by_rank
        # The `rank` of a model in memory has its function of matrices, too.
        packed = getattr(function or self._module, "packed", None)
        if packed is not None and not padded:
            some, function = self._by_matrix, packed
        function = function or self._function
        parts = [
            some(lists.slice(first, last).widened(), function)
            for first, last in self.portions(lists.lengths)
        ]
        result = {}
        for task in self.tasks:
            empty = (0, len(self.classes)) if self.classes else (0,)
            scores = [part[task] for part in parts] or [np.zeros(empty, np.float32)]
            result[task] = np.concatenate(scores)
            self._check_scores(lists, result[task])
        return result

    def portions(self, lengths: np.ndarray) -> list[tuple[int, int]]:
        """Returns which lists are scored together, out of so many documents each.

        Lists from the beginning of a portion to the end of one have the same portions
        without the others, so the same scores to the bit.

        Args:
          lengths: int64 `[lists]`, documents a list.

        Returns:
          Pairs of the first list and the one after the last.
        """
        return list(_portions(lengths, self.signature == PREDICT))

    def _check_scores(self, lists: Lists, scores: np.ndarray) -> None:
        finite = np.isfinite(scores)
        if not finite.all():
            row = int(np.argwhere(~finite)[0][0])
            raise RunError(
                f"{self.path}: the score of a document of {lists.place(row)} is "
                f"{scores[row]}; look for features far outside of the training data."
            )

    def _check(self, lists: Lists) -> None:
        for dtype, slots in self.layout.slots.items():
            expected = self.layout.width(dtype)
            block = lists.values.get(dtype)
            found = None if block is None else block.shape[1]
            if found != expected:
                names = ", ".join(slot.name for slot in slots[:5])
                raise DataError(
                    f"{self.path}: the model expects {expected} {dtype} columns "
                    f"({names}...), the data has {found}."
                )
        for name in self.loose:
            if name not in lists.loose:
                raise DataError(
                    f"{self.path}: the model expects the document feature {name!r}, "
                    "a text or any number of values; of such the data has "
                    f"{sorted(lists.loose)}."
                )
        context = {**lists.context, **lists.loose_context}
        for name in self.features.context:
            if name not in context:
                raise DataError(
                    f"{self.path}: the model expects the query feature {name!r}, the "
                    f"data has {sorted(context)}."
                )

    @property
    def packed(self) -> Callable[..., dict[str, Any]] | None:
        """The function of `arguments` that gives the scores, by task.

        Gradients go through it. None where the export has none: that of a document
        with several scores, or of another make.
        """
        return (
            None if self.signature == PREDICT else getattr(self._module, "packed", None)
        )

    def arguments(self, lists: Lists) -> list[Any]:
        """Returns what `packed` takes: matrices, query features, row splits, others.

        Args:
          lists: Lists with matrices as wide as they are named for, see
            `Lists.widened`.
        """
        arguments: list[Any] = [
            {dtype: tf.constant(lists.values[dtype]) for dtype in self.layout.slots},
            {
                name: tf.constant(lists.context[name])
                for name in self.features.context
                if name not in self._ragged_context
            },
            tf.constant(lists.row_splits),
        ]
        if self.loose or self._ragged_context:
            arguments += [
                {name: _pair(lists.loose[name]) for name in self.loose},
                {n: _pair(lists.loose_context[n]) for n in self._ragged_context},
            ]
        return arguments

    def _by_matrix(
        self, lists: Lists, packed: Callable[..., dict[str, Any]]
    ) -> dict[str, np.ndarray]:
        outputs = packed(*self.arguments(lists))
        # One output has no name of its own.
        single = len(outputs) == 1
        values = next(iter(outputs.values()))
        return {
            task: (values if single else outputs[task]).numpy() for task in self.tasks
        }

    @property
    def module(self) -> Any:
        """What `load` returned."""
        return self._module

    @property
    def function(self) -> Callable[..., dict[str, Any]]:
        """The loaded signature that `signature` names."""
        return self._function

    def _by_rank(
        self, lists: Lists, rank: Callable[..., dict[str, Any]]
    ) -> dict[str, np.ndarray]:
        several = len(self.tasks) > 1
        names = input_names([*self.features.context, *self.features.example], several)
        inputs = {IDS: tf.constant([], tf.string)}
        if not self.classes:
            inputs[ROW_SPLITS] = tf.constant(lists.row_splits)
        if several:
            inputs[TASK] = tf.constant("")
        pairs = {}
        for name in self.features.context:
            if name in self._ragged_context:
                pairs[name] = _pair(lists.loose_context[name])
            else:
                inputs[names[name]] = tf.constant(lists.context[name])
        for name in self.loose:
            values, splits = _pair(lists.loose[name])
            feature = self.features.example[name]
            if feature.kind == "fixed":
                inputs[names[name]] = tf.reshape(values, [-1, *feature.shape])
            else:
                pairs[name] = values, splits
        for name, called in splits_names(names, pairs).items():
            inputs[names[name]], inputs[called] = pairs[name]
        for dtype, slots in self.layout.slots.items():
            for slot in slots:
                columns = lists.values[dtype][:, slot.start : slot.stop]
                inputs[names[slot.name]] = tf.constant(columns.reshape(-1, *slot.shape))
        outputs = rank(**inputs)
        return {task: outputs[task].numpy() for task in self.tasks}

    def _by_predict(
        self, lists: Lists, predict: Callable[..., dict[str, Any]]
    ) -> dict[str, np.ndarray]:
        if not lists.num_documents:
            return {task: np.zeros(0, np.float32) for task in self.tasks}
        # No labels, and no ids under the name of a feature.
        features = dataclasses.replace(
            self.features,
            example=dict(sorted(self.features.example.items())),
            query_id=None,
            document_id=_NO_FEATURE,
        )
        bare = dataclasses.replace(lists, labels=None, weights=None)
        outputs = predict(tf.constant(encode.elwc(bare, features), tf.string))
        lengths = lists.lengths
        real = np.arange(lengths.max()) < lengths[:, np.newaxis]
        arrays = {name: outputs[name].numpy() for name, _ in self._numbers.values()}
        documents = {
            name: array[real].reshape(lists.num_documents, -1)
            for name, array in arrays.items()
        }
        return {
            task: documents[output][:, number]
            for task, (output, number) in self._numbers.items()
        }


def _pair(column: Ragged) -> Pair:
    """Returns values and row splits as tensors."""
    values = column.plain_values
    dtype = tf.string if values.dtype == object else None
    return tf.constant(values, dtype), tf.constant(column.row_splits)


def _portions(lengths: np.ndarray, padded: bool) -> Iterator[tuple[int, int]]:
    """Cuts between lists, after about so many documents as one call should take.

    Args:
      lengths: int64 `[lists]`.
      padded: Whether each list takes as much room as the longest.

    Yields:
      The first list of a portion, and the one after its last.
    """
    first = documents = longest = 0
    for number, length in enumerate(lengths.tolist()):
        longest, documents = max(longest, length), documents + length
        room = longest * (number + 1 - first) if padded else documents
        if number > first and room > _DOCUMENTS_PER_CALL:
            yield first, number
            first, longest, documents = number, length, length
    if first < len(lengths):
        yield first, len(lengths)
