"""Keras models of a user's own as scorers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import tensorflow as tf

from tfr_pipeline.errors import ConfigError
from tfr_pipeline.features import DEFAULT_MASK
from tfr_pipeline.model.builders import ModelBuilder
from tfr_pipeline.model.inputs import FeatureSpecInputCreator
from tfr_pipeline.model.scorers import Scorer, UnivariateScorer, concat

MakeModel = Callable[[], tf.keras.Model]


def _make(make_model: MakeModel) -> tf.keras.Model:
    model = make_model()
    if not isinstance(model, tf.keras.Model):
        raise ConfigError(
            f"make_model: expected it to return a tf.keras.Model, found {model!r}."
        )
    return model


def _input_names(model: tf.keras.Model) -> list[str] | None:
    """Returns the names of a model's inputs, None if it has not said what it takes."""
    try:
        inputs = model.input
    except (AttributeError, ValueError):
        return None
    if isinstance(inputs, Mapping):
        return list(inputs)
    return list(model.input_names)


def _call(
    model: tf.keras.Model,
    features: Mapping[str, Any],
    matrix: Callable[[], Any] | None,
) -> Any:
    """Calls a model with the features that it names, all of them, or the matrix."""
    names = _input_names(model)
    if matrix is not None and isinstance(model, tf.keras.Sequential):
        return model(matrix())
    if names is None:
        return model(dict(features))
    if matrix is not None and len(names) == 1 and names[0] not in features:
        return model(matrix())
    for name in names:
        if name not in features:
            raise ConfigError(
                f"make_model: the model has an input {name!r}; expected names among "
                f"{', '.join(sorted(features))}, or one input for all columns."
            )
    return model({name: features[name] for name in names})


class KerasScorer(UnivariateScorer):
    """Scores each document with a Keras model.

    Args:
      make_model: Function without arguments that returns the model: it is called where
        variables have to be made, within the scope of the strategy. A model with one
        input of another name than a feature, such as a `tf.keras.Sequential`, gets all
        features side by side, `[documents, columns]`; another one gets a dict of those
        that it has inputs for, `[documents, ...]`. It returns scores `[documents, 1]`
        or a dict of them by task.

    Raises:
      ConfigError: `make_model` is a model, or cannot be called.

    Example:
      >>> scorer = KerasScorer(
      ...     lambda: tf.keras.Sequential([tf.keras.layers.Dense(1)]))
      >>> mask = tf.constant([[True, False]])
      >>> scorer({}, {"bm25": tf.ones([1, 2, 1])}, mask).shape
      TensorShape([1, 2])
    """

    def __init__(self, make_model: MakeModel):
        self._make_model = _checked(make_model)

    def _score_flattened(
        self,
        context_features: Mapping[str, Any],
        example_features: Mapping[str, Any],
    ) -> Any:
        """See `UnivariateScorer`."""
        return _call(
            _make(self._make_model),
            {**context_features, **example_features},
            lambda: concat(context_features, example_features),
        )


class _ListScorer(Scorer):
    """Scores padded lists with a Keras model; see `KerasModelBuilder`."""

    def __init__(self, make_model: MakeModel, mask_feature_name: str):
        self._make_model = _checked(make_model)
        self._mask_feature_name = mask_feature_name

    def __call__(
        self,
        context_features: dict[str, Any],
        example_features: dict[str, Any],
        mask: Any,
    ) -> Any:
        """See `Scorer`."""
        features = {
            **context_features,
            **example_features,
            self._mask_feature_name: mask,
        }
        return _call(_make(self._make_model), features, None)


def _checked(make_model: Any) -> MakeModel:
    if isinstance(make_model, tf.keras.Model) or not callable(make_model):
        raise ConfigError(
            "make_model: expected a function that returns a Keras model, such as "
            "`lambda: tf.keras.models.load_model(path)`, because its variables have to "
            f"be made within the scope of the strategy; found {make_model!r}."
        )
    return make_model


class KerasModelBuilder(ModelBuilder):
    """Builds a ranking model around a Keras model of one's own.

    Args:
      make_model: Function without arguments that returns the model.
      context_feature_spec: Maps query features to `tf.io` specs.
      example_feature_spec: Maps document features to `tf.io` specs.
      mask_feature_name: Name of the mask of padded batches.
      name: Name of the ranking model.
      preprocess: Maps features to functions or Keras layers (keyword only).
      scores: What the model scores (keyword only). `documents`: it gets documents, one
        a row, as `KerasScorer` says, and is trained on packed or padded batches.
        `lists`: it gets a dict of padded features `[batch, list_size, ...]`, query
        features `[batch, ...]` and the mask, each if it has an input of that name, and
        returns `[batch, list_size]`.

    Raises:
      ConfigError: `scores` is something else, or `make_model` is not a function.

    Example:
      >>> def make_model():
      ...     inputs = {"x": tf.keras.Input((2,)), "q": tf.keras.Input((1,))}
      ...     both = tf.keras.layers.Concatenate()(list(inputs.values()))
      ...     return tf.keras.Model(inputs, tf.keras.layers.Dense(1)(both))
      >>> builder = KerasModelBuilder(
      ...     make_model,
      ...     {"q": tf.io.FixedLenFeature((1,), tf.float32, [0.0])},
      ...     {"x": tf.io.FixedLenFeature((2,), tf.float32, [0.0, 0.0])})
      >>> builder.layouts
      ('packed', 'padded')
    """

    def __init__(
        self,
        make_model: MakeModel,
        context_feature_spec: dict[str, Any],
        example_feature_spec: dict[str, Any],
        mask_feature_name: str = DEFAULT_MASK,
        name: str | None = None,
        *,
        preprocess: dict[str, Callable[[Any], Any]] | None = None,
        scores: str = "documents",
    ):
        if scores not in ("documents", "lists"):
            raise ConfigError(
                f"scores: expected 'documents' or 'lists', found {scores!r}."
            )
        super().__init__(
            FeatureSpecInputCreator(context_feature_spec, example_feature_spec),
            preprocess or {},
            KerasScorer(make_model)
            if scores == "documents"
            else _ListScorer(make_model, mask_feature_name),
            mask_feature_name,
            name,
        )
