"""Serving signatures of models that classify."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tensorflow as tf

from tfr_pipeline import class_scores
from tfr_pipeline.errors import ConfigError
from tfr_pipeline.serving import ranking
from tfr_pipeline.serving.rank_inputs import IDS, RankInputs
from tfr_pipeline.serving.signatures import (
    CLASSIFY,
    PREDICT,
    SERVING_DEFAULT,
    Signatures,
    signed,
)

CLASSIFY_EXAMPLES = tf.saved_model.CLASSIFY_METHOD_NAME
CLASSES = tf.saved_model.CLASSIFY_OUTPUT_CLASSES
PROBABILITIES = tf.saved_model.CLASSIFY_OUTPUT_SCORES
# Output of `classify` beside them: the name of the likeliest class.
BEST = "class"


class ClassSignatures(Signatures):
    """Makes the serving functions of a model that classifies, packed or padded.

    | key | input | output |
    |---|---|---|
    | `tensorflow/serving/classify` | serialized Example `[batch]` | `classes` and `scores` `[batch, classes]` |
    | `serving_default` | as that, or as predict | |
    | `classify` | features `[examples, ...]`, `ids` | `classes` and `scores` `[examples, classes]`, `class` and `ids` `[examples]` |
    | `tensorflow/serving/predict` | serialized ExampleListWithContext `[batch]` | what the scorer gives, `[batch, longest list, classes]` |

    `scores` are probabilities and `class` is the likeliest class, of equals the first.
    Inputs are named as those of `rank`, see `Signatures`; `ids` default to none in
    TensorFlow Serving, and then come out as row numbers.

    Args:
      model: A Keras model with a score for each class, or with one for the second of
        two.
      context_feature_spec: See `Signatures`, as the next two.
      example_feature_spec: See there.
      mask_feature_name: See there.
      classes: Names of the classes.
    """  # noqa: E501

    def __init__(
        self,
        model: tf.keras.Model,
        context_feature_spec: Mapping[str, Any],
        example_feature_spec: Mapping[str, Any],
        mask_feature_name: str,
        classes: Sequence[str],
    ):
        super().__init__(
            model, context_feature_spec, example_feature_spec, mask_feature_name
        )
        self._classes = tuple(classes)

    def _matrix_scores(self, *inputs: Any) -> dict[str, Any]:
        """See base class; here probabilities."""
        return self._probabilities(self.scores(*inputs))

    def _probabilities(self, scores: Mapping[str, Any]) -> dict[str, Any]:
        """Returns float32 `[examples, classes]` of the scores of the only output."""
        (found,) = scores.values()
        found = tf.cast(found, tf.float32)
        if found.shape.rank == 1:
            found = found[:, tf.newaxis]
        return {PROBABILITIES: tf.nn.softmax(class_scores.logits(found))}

    def _with_names(self, probabilities: dict[str, Any]) -> dict[str, Any]:
        """Returns probabilities with the names of the classes beside them."""
        count = tf.shape(probabilities[PROBABILITIES])[0]
        names = tf.constant(self._classes)[tf.newaxis, :]
        return {CLASSES: tf.tile(names, [count, 1]), **probabilities}

    def classify_examples_tf_function(self) -> Callable[[Any], dict[str, Any]]:
        """Makes the function behind `tensorflow/serving/classify`."""
        assert self._parser is not None
        parser = self._parser

        @tf.function(
            input_signature=[
                tf.TensorSpec([None], tf.string, tf.saved_model.CLASSIFY_INPUTS)
            ],
            autograph=False,
        )
        def classify(serialized: Any) -> dict[str, Any]:
            scores = self._of_examples(parser, serialized)
            return self._with_names(self._probabilities(scores))

        return classify

    def classify_tf_function(self) -> Callable[..., dict[str, Any]]:
        """Makes the function behind `classify`; see `RankInputs`.

        Its attribute `packed` is the function of `packed_tf_function`.
        """
        assert self._parser is not None
        packed = self.packed_tf_function()
        inputs = RankInputs(
            self._context_feature_spec,
            self._example_feature_spec,
            self._parser.layout,
            tasks=False,
            of_examples=True,
        )

        def classify(*given: Any) -> dict[str, Any]:
            arguments, ids, _ = inputs.checked(*given)
            found = self._with_names(packed(*arguments))
            best = tf.argmax(found[PROBABILITIES], axis=1)
            ids = ranking.named(ids, tf.size(best, tf.int64))
            return {
                **found,
                BEST: tf.gather(tf.constant(self._classes), best),
                IDS: ids,
            }

        return signed(classify, inputs, packed)

    def __call__(
        self, serving_default: str = "classify"
    ) -> dict[str, Callable[..., dict[str, Any]]]:
        """Returns the serving functions by signature key.

        Args:
          serving_default: `classify` or `predict`: which one `serving_default` is.

        Raises:
          ConfigError: `serving_default` is something else, or there are features that
            only TensorFlow's own parser knows.
        """
        if serving_default not in ("classify", "predict"):
            raise ConfigError(
                "serving_default: expected 'classify' or 'predict', found "
                f"{serving_default!r}."
            )
        if self._parser is None:
            raise ConfigError(
                "classes: expected features of fixed, variable or ragged length, found "
                "others, of which there are no signatures that classify."
            )
        functions: dict[str, Callable[..., dict[str, Any]]] = {
            PREDICT: self.predict_tf_function(),
            CLASSIFY_EXAMPLES: self.classify_examples_tf_function(),
            CLASSIFY: self.classify_tf_function(),
        }
        default = PREDICT if serving_default == "predict" else CLASSIFY_EXAMPLES
        return {**functions, SERVING_DEFAULT: functions[default]}
