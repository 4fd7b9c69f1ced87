"""Serving signatures: what a SavedModel answers, and to which inputs."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import tensorflow as tf

from tfr_pipeline.compat import tfr
from tfr_pipeline.data.batching import loose
from tfr_pipeline.data.batching.gather import pad
from tfr_pipeline.data.reading.parser import RecordParser
from tfr_pipeline.errors import ConfigError
from tfr_pipeline.layout import DISTINCT, PACKED_INPUT, are_packed
from tfr_pipeline.model import sampling
from tfr_pipeline.serving import ranking
from tfr_pipeline.serving.rank_inputs import IDS, Pair, RankInputs
from tfr_pipeline.serving.unkept import padded_features

# What has raw tensors as inputs: of models that rank, and of those that classify.
RANK, CLASSIFY = "rank", "classify"
# Outputs of `rank` beside the scores.
RANKS = "ranks"
PREDICT = tf.saved_model.PREDICT_METHOD_NAME
REGRESS = tf.saved_model.REGRESS_METHOD_NAME
SERVING_DEFAULT = tf.saved_model.DEFAULT_SERVING_SIGNATURE_DEF_KEY
# Score of padding in `predict`, TF-Ranking's value.
PADDING_SCORE = math.log(1e-10)


class Signatures(tfr.keras.saved_model.Signatures):
    """Makes the serving functions of a ranking model, packed or padded.

    | key | input | output |
    |---|---|---|
    | `tensorflow/serving/predict` | serialized ExampleListWithContext `[batch]` | scores `[batch, longest list]` |
    | `tensorflow/serving/regress` | serialized Example `[batch]` | scores `[batch]` |
    | `serving_default` | as regress, or as predict | |
    | `rank` | features `[documents, ...]`, query features `[batch, ...]`, `row_splits`, `ids` | scores, ranks, ids `[documents]` |

    A `RaggedFeature` or `VarLenFeature` is two inputs of `rank`: its values, one document
    (or query) after the other, and `<name>_row_splits`, int64, where those of each begin
    and the last end.

    `rank` exists when a document has one score, or one of each task; it raises where its
    inputs do not fit each other. Its `ids` default to none in
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
        specs = {**example_feature_spec, **context_feature_spec}
        keeps = bool(example_feature_spec) and all(map(loose.can_keep, specs.values()))
        self._parser = None
        if keeps:
            self._parser = RecordParser(context_feature_spec, example_feature_spec)
        # Features that stand in no matrix, of documents and of queries.
        self._beside = loose.separate(example_feature_spec)[1]
        self._ragged_context = {
            name: spec
            for name, spec in context_feature_spec.items()
            if not isinstance(spec, tf.io.FixedLenFeature)
        }
        self._packed = keeps and self._is_packed(names)
        outputs = getattr(model, "output", None)
        self._tasks = list(outputs) if isinstance(outputs, dict) else []
        self._ranks = keeps and all(
            _numbers(output) == 1 for output in tf.nest.flatten(outputs)
        )

    def _is_packed(self, inputs: Iterable[str]) -> bool:
        """Whether a model takes packed batches, by the names of its inputs."""
        if self._mask_feature_name in inputs:
            return False
        # One of ragged numbers alone has the names of features, and no mask.
        ragged = [
            name
            for name, spec in self._beside.items()
            if not isinstance(spec, tf.io.FixedLenFeature)
        ]
        all_ragged = len(ragged) == len(self._example_feature_spec)
        return are_packed(inputs) or (all_ragged and bool(inputs))

    def scores(
        self,
        values: Mapping[str, Any],
        context: Mapping[str, Any],
        row_splits: Any,
        beside: Mapping[str, Pair] | None = None,
        ragged_context: Mapping[str, Pair] | None = None,
    ) -> dict[str, Any]:
        """Scores packed documents with the model.

        Args:
          values: Maps a dtype to `[documents, columns]`.
          context: Maps a query feature to `[batch, ...]`.
          row_splits: int64 `[batch + 1]`.
          beside: Maps a document feature that stands in no matrix to its values
            `[values]` and their row splits, int64 `[documents + 1]`.
          ragged_context: The same for query features, int64 `[batch + 1]`.

        Returns:
          Scores `[documents]`, or `[documents, numbers]` of a scorer with several, by
          output name; one output is called `outputs`.
        """
        assert self._parser is not None

        def ragged(rows: Any, splits: Any) -> Any:
            return tf.RaggedTensor.from_row_splits(rows, splits, validate=False)

        features = {
            PACKED_INPUT + dtype: ragged(block, row_splits)
            for dtype, block in values.items()
        }
        features.update(context)
        for name, pair in (ragged_context or {}).items():
            features[name] = ragged(*pair)
        for name, pair in (beside or {}).items():
            features[name] = ragged(ragged(*pair), row_splits)
        specs = {**self._beside, **self._ragged_context}
        if self._packed:
            for name, spec in self._beside.items():
                if spec.dtype == tf.string:
                    distinct, features[name] = loose.numbered(features[name])
                    features[DISTINCT + name] = distinct
            features = loose.packed(features, specs)
        else:
            defaults = {
                name: spec.default_value
                for name, spec in self._example_feature_spec.items()
                if name not in self._beside
            }
            lengths = row_splits[1:] - row_splits[:-1]
            mask = self._mask_feature_name
            layout = self._parser.layout
            features = pad(features, layout, None, defaults, mask, specs, lengths)
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
            return self._unkept_tf_function()
        parser = self._parser

        @tf.function(
            input_signature=[
                tf.TensorSpec([None], tf.string, tf.saved_model.PREDICT_INPUTS)
            ],
            autograph=False,
        )
        def predict(serialized: Any) -> dict[str, Any]:
            parsed = parser(serialized)
            splits = _splits(parsed["lengths"])
            scores = self.scores(
                parsed["values"],
                parsed["context"],
                splits,
                _pairs(parsed["loose"]),
                _pairs(parsed["loose_context"]),
            )
            return {
                task: tf.RaggedTensor.from_row_splits(
                    value, splits, validate=False
                ).to_tensor(PADDING_SCORE)
                for task, value in scores.items()
            }

        return predict

    def _unkept_tf_function(self) -> Callable[[Any], dict[str, Any]]:
        specs = self._context_feature_spec, self._example_feature_spec

        @tf.function(
            input_signature=[
                tf.TensorSpec([None], tf.string, tf.saved_model.PREDICT_INPUTS)
            ],
            autograph=False,
        )
        def predict(serialized: Any) -> dict[str, Any]:
            features = padded_features(serialized, *specs, self._mask_feature_name)
            outputs = self._model(inputs=features, training=False)
            found: dict[str, Any] = self.normalize_outputs(
                tf.saved_model.PREDICT_OUTPUTS, outputs
            )
            return found

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
            return self._of_examples(parser, serialized)

        return regress

    def _of_examples(self, parser: RecordParser, serialized: Any) -> dict[str, Any]:
        """Scores serialized Examples `[batch]`; see `scores`."""
        parsed = parser.examples(serialized)
        # Each example is a list of its own and carries its query's features.
        splits = tf.range(tf.size(serialized, tf.int64) + 1, dtype=tf.int64)
        queries = parser.queries(serialized)
        return self.scores(
            parsed["values"],
            queries["context"],
            splits,
            _pairs(parsed["loose"]),
            _pairs(queries["loose_context"]),
        )

    def _matrix_scores(self, *inputs: Any) -> dict[str, Any]:
        """What the function of matrices computes: here, `scores`."""
        return self.scores(*inputs)

    def packed_tf_function(
        self, within: Callable[[Any], Any] = contextlib.nullcontext
    ) -> Callable[..., dict[str, Any]]:
        """Makes `scores` a function of its own, which `rank` calls.

        Whoever has whole matrices need not cut them into features.

        Args:
          within: Called with the model; makes a context in which it scores.
        """
        assert self._parser is not None
        values = {
            dtype: tf.TensorSpec([None, slots[-1].stop], dtype)
            for dtype, slots in self._parser.layout.slots.items()
        }
        context = {
            name: tf.TensorSpec([None, *spec.shape], spec.dtype)
            for name, spec in self._context_feature_spec.items()
            if name not in self._ragged_context
        }
        splits = tf.TensorSpec([None], tf.int64)
        signature: list[Any] = [values, context, splits]
        others = self._beside, self._ragged_context
        if any(others):
            signature += [
                {n: (tf.TensorSpec([None], s.dtype), splits) for n, s in specs.items()}
                for specs in others
            ]

        @tf.function(input_signature=signature, autograph=False)
        def packed(*inputs: Any) -> dict[str, Any]:
            with within(self._model):
                return self._matrix_scores(*inputs)

        return packed

    def rank_tf_function(self) -> Callable[..., dict[str, Any]]:
        """Makes the function behind `rank`; see `RankInputs`.

        Its attribute `packed` is the function of `packed_tf_function`, and `sampled`
        the same of a model that drops out; None where there is no dropout.
        """
        assert self._parser is not None
        packed = self.packed_tf_function()
        inputs = RankInputs(
            self._context_feature_spec,
            self._example_feature_spec,
            self._parser.layout,
            len(self._tasks) > 1,
        )

        def rank(*given: Any) -> dict[str, Any]:
            arguments, ids, task = inputs.checked(*given)
            scores = packed(*arguments)
            value = self._choose(scores, task)
            if list(scores) == [tf.saved_model.PREDICT_OUTPUTS]:  # without a name
                scores = {"scores": value}
            ranks, ids = ranking.ranked(value, arguments[2], ids)
            return {**scores, RANKS: ranks, IDS: ids}

        made = signed(rank, inputs, packed)
        made.sampled = None
        if sampling.dropouts(self._model):
            made.sampled = self.packed_tf_function(sampling.dropping_out)
        return made

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


def _splits(lengths: Any) -> Any:
    return tf.concat([[0], tf.cumsum(lengths)], axis=0)


def _pairs(parsed: Mapping[str, loose.Flat]) -> dict[str, Pair]:
    """Returns parsed features that stand in no matrix as values and row splits."""
    return {
        name: (flat["values"], _splits(flat["lengths"]))
        for name, flat in parsed.items()
    }


def _numbers(scores: Any) -> int | None:
    """Returns how many numbers a document has in scores `[batch, list, ...]`."""
    rank = scores.shape.rank
    return 1 if rank is None or rank < 3 else scores.shape[-1]


def signed(function: Any, inputs: RankInputs, packed: Any) -> Any:
    """Returns a `tf.function` of raw tensors, with `packed` as an attribute."""
    function.__signature__ = inputs.signature
    made = tf.function(function, input_signature=inputs.specs, autograph=False)
    made.packed = packed
    return made
