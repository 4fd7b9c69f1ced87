"""Serving signatures: what a SavedModel answers, and to which inputs."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Iterable, Mapping
from keyword import iskeyword
from typing import Any

import tensorflow as tf

from tfr_pipeline.compat import tfr
from tfr_pipeline.data.batching.gather import pad
from tfr_pipeline.data.reading.parser import RecordParser
from tfr_pipeline.errors import ConfigError
from tfr_pipeline.layout import PACKED_INPUT, PACKED_INPUTS, BlockLayout
from tfr_pipeline.serving import ranking

RANK = "rank"
# Inputs of `rank` beside the features; `task` only for a model with several outputs.
ROW_SPLITS, IDS, TASK = "row_splits", "ids", "task"
# Outputs of `rank` beside the scores.
RANKS = "ranks"
PREDICT = tf.saved_model.PREDICT_METHOD_NAME
REGRESS = tf.saved_model.REGRESS_METHOD_NAME
SERVING_DEFAULT = tf.saved_model.DEFAULT_SERVING_SIGNATURE_DEF_KEY
# Score of padding in `predict`, TF-Ranking's value.
PADDING_SCORE = math.log(1e-10)


def input_name(feature: str) -> str:
    """Name of a feature among the inputs of `rank`; signatures need identifiers.

    Example:
      >>> input_name("bm25.title"), input_name("17")
      ('bm25_title', 'feature_17')
    """
    name = re.sub(r"\W", "_", feature, flags=re.ASCII)
    # TensorFlow takes a parameter `self` for that of a method.
    good = name[:1].isalpha() and not iskeyword(name) and name != "self"
    return name if good else f"feature_{name}"


def input_names(features: Iterable[str], tasks: bool = False) -> dict[str, str]:
    """Maps features to their inputs of `rank`, which differ from each other.

    Where two would be the same, one that was renamed gets underscores at its end.

    Args:
      features: Names of the features.
      tasks: Whether the model has several outputs.

    Example:
      >>> input_names(["a.b", "a_b", "ids"])
      {'a_b': 'a_b', 'ids': 'ids_', 'a.b': 'a_b_'}
    """
    taken, result = {ROW_SPLITS, IDS, *([TASK] if tasks else [])}, {}
    for feature in sorted(features, key=lambda name: (input_name(name) != name, name)):
        name = input_name(feature)
        while name in taken:
            name += "_"
        taken.add(name)
        result[feature] = name
    return result


class Signatures(tfr.keras.saved_model.Signatures):
    """Makes the serving functions of a ranking model, packed or padded.

    | key | input | output |
    |---|---|---|
    | `tensorflow/serving/predict` | serialized ExampleListWithContext `[batch]` | scores `[batch, longest list]` |
    | `tensorflow/serving/regress` | serialized Example `[batch]` | scores `[batch]` |
    | `serving_default` | as regress, or as predict | |
    | `rank` | features `[documents, ...]`, query features `[batch, ...]`, `row_splits`, `ids` | scores, ranks, ids `[documents]` |

    `rank` exists when all features have fixed shapes and a document has one score, or
    one of each task; it raises where its inputs do not fit each other. Its `ids` default to none in
    TensorFlow Serving, and then come out as row numbers. A model with several outputs
    has the scores of each task under its name; the input `task` of `rank` says by which
    it ranks, by default the first of the scorer's.

    Args:
      model: A Keras ranking model.
      context_feature_spec: Maps query features to `tf.io` specs.
      example_feature_spec: Maps document features to `tf.io` specs.
      mask_feature_name: Name of the mask among the model's inputs.
    """  # noqa: E501

    def __init__(
        self,
        model: tf.keras.Model,
        context_feature_spec: Mapping[str, Any],
        example_feature_spec: Mapping[str, Any],
        mask_feature_name: str,
    ):
        super().__init__(
            model,
            context_feature_spec=dict(context_feature_spec),
            example_feature_spec=dict(example_feature_spec),
            mask_feature_name=mask_feature_name,
        )
        names = getattr(model, "input_names", None) or []
        self._packed = any(name in PACKED_INPUTS for name in names)
        self._fixed = BlockLayout.can_pack(example_feature_spec) and all(
            isinstance(spec, tf.io.FixedLenFeature)
            for spec in context_feature_spec.values()
        )
        self._parser = (
            RecordParser(context_feature_spec, example_feature_spec)
            if self._fixed
            else None
        )
        outputs = getattr(model, "output", None)
        self._tasks = list(outputs) if isinstance(outputs, dict) else []
        self._ranks = self._fixed and all(
            _numbers(output) == 1 for output in tf.nest.flatten(outputs)
        )

    def scores(
        self, values: Mapping[str, Any], context: Mapping[str, Any], row_splits: Any
    ) -> dict[str, Any]:
        """Scores packed documents with the model.

        Args:
          values: Maps a dtype to `[documents, columns]`.
          context: Maps a query feature to `[batch, ...]`.
          row_splits: int64 `[batch + 1]`.

        Returns:
          Scores `[documents]`, or `[documents, numbers]` of a scorer with several, by
          output name; one output is called `outputs`.
        """
        assert self._parser is not None
        features = {
            PACKED_INPUT + dtype: tf.RaggedTensor.from_row_splits(
                block, row_splits, validate=False
            )
            for dtype, block in values.items()
        }
        features.update(context)
        if not self._packed:
            specs = self._example_feature_spec
            defaults = {name: spec.default_value for name, spec in specs.items()}
            layout = self._parser.layout
            features = pad(features, layout, None, defaults, self._mask_feature_name)
        outputs = self._model(features, training=False)

        def flat(scores: Any) -> Any:
            if isinstance(scores, tf.RaggedTensor):
                return scores.values
            scores = tf.cast(scores, tf.float32)
            mask = tf.sequence_mask(row_splits[1:] - row_splits[:-1])
            numbers = [_numbers(scores)] if _numbers(scores) != 1 else []
            shape = tf.concat([tf.shape(mask), numbers], axis=0)
            return tf.boolean_mask(tf.reshape(scores, shape), mask)

        if isinstance(outputs, dict):
            return {task: flat(scores) for task, scores in outputs.items()}
        return {tf.saved_model.PREDICT_OUTPUTS: flat(outputs)}

    def predict_tf_function(self) -> Callable[[Any], dict[str, Any]]:
        """Makes the function behind `tensorflow/serving/predict`."""
        if self._parser is None:
            return super().predict_tf_function()
        parser = self._parser

        @tf.function(
            input_signature=[
                tf.TensorSpec([None], tf.string, tf.saved_model.PREDICT_INPUTS)
            ],
            autograph=False,
        )
        def predict(serialized: Any) -> dict[str, Any]:
            parsed = parser(serialized)
            splits = tf.concat([[0], tf.cumsum(parsed["lengths"])], axis=0)
            scores = self.scores(parsed["values"], parsed["context"], splits)
            return {
                task: tf.RaggedTensor.from_row_splits(
                    value, splits, validate=False
                ).to_tensor(PADDING_SCORE)
                for task, value in scores.items()
            }

        return predict

    def regress_tf_function(self) -> Callable[[Any], dict[str, Any]]:
        """Makes the function behind `tensorflow/serving/regress`."""
        if self._parser is None:
            return super().regress_tf_function()
        parser = self._parser

        @tf.function(
            input_signature=[
                tf.TensorSpec([None], tf.string, tf.saved_model.REGRESS_INPUTS)
            ],
            autograph=False,
        )
        def regress(serialized: Any) -> dict[str, Any]:
            parsed = parser.examples(serialized)
            # Each example is a list of its own and carries its query's features.
            splits = tf.range(tf.size(serialized, tf.int64) + 1, dtype=tf.int64)
            context = parser.contexts(serialized)
            return self.scores(parsed["values"], context, splits)

        return regress

    def packed_tf_function(self) -> Callable[..., dict[str, Any]]:
        """Makes `scores` a function of its own, which `rank` calls.

        Whoever has whole matrices need not cut them into features.
        """
        assert self._parser is not None
        values = {
            dtype: tf.TensorSpec([None, slots[-1].stop], dtype)
            for dtype, slots in self._parser.layout.slots.items()
        }
        context = {
            name: tf.TensorSpec([None, *spec.shape], spec.dtype)
            for name, spec in self._context_feature_spec.items()
        }
        splits = tf.TensorSpec([None], tf.int64)

        @tf.function(input_signature=[values, context, splits], autograph=False)
        def packed(values: Any, context: Any, row_splits: Any) -> dict[str, Any]:
            return self.scores(values, context, row_splits)

        return packed

    def rank_tf_function(self) -> Callable[..., dict[str, Any]]:
        """Makes the function behind `rank`; see `input_names`.

        Its attribute `packed` is the function of `packed_tf_function`.
        """
        assert self._parser is not None
        packed = self.packed_tf_function()
        layout = self._parser.layout
        slots = [slot for row in layout.slots.values() for slot in row]
        context_names = list(self._context_feature_spec)
        example_names = [slot.name for slot in slots]
        several = len(self._tasks) > 1
        inputs = called = input_names([*context_names, *example_names], several)
        specs = [tf.TensorSpec([None], tf.int64, ROW_SPLITS)]
        for name in context_names:
            spec = self._context_feature_spec[name]
            specs.append(tf.TensorSpec([None, *spec.shape], spec.dtype, inputs[name]))
        for slot in slots:
            dtype = self._example_feature_spec[slot.name].dtype
            specs.append(tf.TensorSpec([None, *slot.shape], dtype, inputs[slot.name]))
        specs.append(tf.TensorSpec([None], tf.string, IDS))
        if several:
            specs.append(tf.TensorSpec([], tf.string, TASK))
        names = [spec.name for spec in specs]

        def rank(row_splits: Any, *inputs: Any) -> dict[str, Any]:
            context = dict(zip(context_names, inputs, strict=False))
            columns = inputs[len(context_names) :]
            named = dict(zip(example_names, columns, strict=False))
            ids, *task = columns[len(example_names) :]
            checks = ranking.check_splits(row_splits)
            checks += ranking.check_shapes(
                row_splits, context, named, ids, slots, called
            )
            with tf.control_dependencies(checks):
                row_splits = tf.identity(row_splits)
                values = {
                    dtype: tf.concat(
                        [tf.reshape(named[s.name], [-1, s.width]) for s in row], axis=1
                    )
                    for dtype, row in layout.slots.items()
                }
            scores = packed(values, context, row_splits)
            value = self._choose(scores, *task)
            if list(scores) == [tf.saved_model.PREDICT_OUTPUTS]:  # without a name
                scores = {"scores": value}
            ranks, ids = ranking.ranked(value, row_splits, ids)
            return {**scores, RANKS: ranks, IDS: ids}

        # One parameter an input, so that TensorFlow takes names and the default.
        parameter = inspect.Parameter
        kind = parameter.POSITIONAL_OR_KEYWORD
        defaults = {IDS: tf.constant([], tf.string), TASK: tf.constant("")}
        rank.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
            [
                parameter(name, kind, default=defaults.get(name, parameter.empty))
                for name in names
            ]
        )
        function = tf.function(rank, input_signature=specs, autograph=False)
        function.packed = packed
        return function

    def _choose(self, scores: dict[str, Any], task: Any = None) -> Any:
        """Returns the scores of a task; of the first if it is an empty text or None."""
        if task is None:
            return next(iter(scores.values()))
        names = tf.constant(self._tasks)
        hits = names == tf.where(task == "", names[0], task)
        check = tf.debugging.assert_equal(
            tf.reduce_any(hits),
            True,
            message=f"task: expected one of {', '.join(self._tasks)}",
        )
        with tf.control_dependencies([check] if check is not None else []):
            number = tf.argmax(hits)
        return tf.stack([scores[name] for name in self._tasks])[number]

    def __call__(
        self, serving_default: str = "regress"
    ) -> dict[str, Callable[..., dict[str, Any]]]:
        """Returns the serving functions by signature key.

        Args:
          serving_default: `regress` or `predict`: which one `serving_default` is.

        Raises:
          ConfigError: `serving_default` is something else.
        """
        if serving_default not in ("regress", "predict"):
            raise ConfigError(
                "serving_default: expected 'regress' or 'predict', found "
                f"{serving_default!r}."
            )
        functions: dict[str, Callable[..., dict[str, Any]]] = {
            PREDICT: self.predict_tf_function(),
            REGRESS: self.regress_tf_function(),
        }
        functions[SERVING_DEFAULT] = functions[
            REGRESS if serving_default == "regress" else PREDICT
        ]
        if self._ranks:
            functions[RANK] = self.rank_tf_function()
        return functions


def _numbers(scores: Any) -> int | None:
    """Returns how many numbers a document has in scores `[batch, list, ...]`."""
    rank = scores.shape.rank
    return 1 if rank is None or rank < 3 else scores.shape[-1]
