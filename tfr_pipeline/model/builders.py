"""Model builders: inputs, preprocessing and scorer put together."""

from __future__ import annotations

import abc
import itertools
import math
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tfr_pipeline import declared
from tfr_pipeline.compat import tfr
from tfr_pipeline.data.batching import loose
from tfr_pipeline.errors import ConfigError
from tfr_pipeline.layout import DISTINCT, PACKED_INPUT, BlockLayout
from tfr_pipeline.model import parts
from tfr_pipeline.model.feature_block import FeatureBlock
from tfr_pipeline.model.inputs import FeatureSpecInputCreator
from tfr_pipeline.model.layers.packing import Unpack
from tfr_pipeline.model.position_bias import PositionBias, PositionSettings
from tfr_pipeline.model.prepared import Preparation
from tfr_pipeline.model.preprocess import (
    BesideMatrices,
    PreprocessorWithSpec,
    preprocess_packed,
)
from tfr_pipeline.model.probing import mixes_documents
from tfr_pipeline.model.ranking_model import RankingModel
from tfr_pipeline.model.scorers import score_packed
from tfr_pipeline.model.steps.chain import Chain

_theirs = tfr.keras.model  # a value for `isinstance`; classes name it in full


class AbstractModelBuilder(tfr.keras.model.AbstractModelBuilder):
    """Interface: builds a `tf.keras.Model`, within the scope of the strategy.

    Raises:
      ConfigError: A class that is derived from it has the three methods of
        `ModelBuilderWithMask` and no `build`.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Checks a class as it is defined: nobody could make an object of it."""
        super().__init_subclass__(**kwargs)
        steps = ("create_inputs", "preprocess", "score")
        missing = [
            name
            for name in ("build", *steps)
            if not hasattr(cls, name)
            or getattr(getattr(cls, name), "__isabstractmethod__", False)
        ]
        if missing == ["build"]:
            raise ConfigError(
                f"{cls.__name__}: expected a method `build`, found {', '.join(steps)}; "
                "subclass ModelBuilderWithMask, which builds a model of these three."
            )

    @abc.abstractmethod
    def build(self) -> tf.keras.Model:
        """Returns a model that maps a dict of features to scores."""


class ModelBuilderWithMask(AbstractModelBuilder, tfr.keras.model.ModelBuilderWithMask):
    """Builds a model on padded tensors and a mask, in three steps to implement.

    Args:
      mask_feature_name: Name of the mask, bool `[batch, list_size]`.
      name: Name of the model.

    Raises:
      ConfigError: `mask_feature_name` is None.
    """

    def __init__(self, mask_feature_name: str, name: str | None = None):
        if mask_feature_name is None:
            raise ConfigError("mask_feature_name: expected a name, found None.")
        self._mask_feature_name = mask_feature_name
        self._name = name

    @property
    def layouts(self) -> tuple[str, ...]:
        """Batch layouts that models of this builder can be built for."""
        return ("padded",)

    @abc.abstractmethod
    def create_inputs(self) -> tuple[dict[str, Any], dict[str, Any], Any]:
        """Returns `(context_inputs, example_inputs, mask)`, `tf.keras.Input`s."""

    @abc.abstractmethod
    def preprocess(
        self, context_inputs: dict[str, Any], example_inputs: dict[str, Any], mask: Any
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Returns `(context_features, example_features)`; see `Preprocessor`."""

    @abc.abstractmethod
    def score(
        self,
        context_features: dict[str, Any],
        example_features: dict[str, Any],
        mask: Any,
    ) -> Any:
        """Returns scores `[batch, list_size]` or a dict of them; see `Scorer`."""

    def build(self) -> tf.keras.Model:
        """Returns a model for padded batches."""
        context_inputs, example_inputs, mask = self.create_inputs()
        features = self.preprocess(context_inputs, example_inputs, mask)
        return RankingModel(
            inputs={
                **context_inputs,
                **example_inputs,
                self._mask_feature_name: mask,
            },
            outputs=self.score(*features, mask),
            name=self._name,
        )


class ModelBuilder(ModelBuilderWithMask, tfr.keras.model.ModelBuilder):
    """Builds a model of an input creator, a preprocessor and a scorer.

    With feature specs, a preprocessor by name and a univariate scorer, which is what
    most rankers are made of, the model is also built for packed batches
    (`build_packed`), where it scores real documents only. As soon as a part is
    something else, or a method is overridden, the model gets TF-Ranking's padded
    tensors.

    Args:
      input_creator: An `InputCreator` or a function.
      preprocessor: A `Preprocessor`, a function, or a dict from feature to steps, see
        `PreprocessorWithSpec`.
      scorer: A `Scorer` or a function.
      mask_feature_name: Name of the mask of padded batches.
      name: Name of the model.
      position_bias: How training on clicks takes positions into account, keyword
        only: `PositionSettings`; None for data without positions.

    Example:
      >>> from tfr_pipeline.model.inputs import FeatureSpecInputCreator
      >>> from tfr_pipeline.model.scorers import DNNScorer
      >>> spec = {"bm25": tf.io.FixedLenFeature((1,), tf.float32, 0.0)}
      >>> builder = ModelBuilder(
      ...     FeatureSpecInputCreator({}, spec), {"bm25": tf.math.log1p},
      ...     DNNScorer(hidden_layer_dims=[16]), "mask")
      >>> builder.layouts
      ('packed', 'padded')
    """

    def __init__(
        self,
        input_creator: Any,
        preprocessor: Callable[..., Any] | dict[str, Any],
        scorer: Callable[..., Any],
        mask_feature_name: str,
        name: str | None = None,
        *,
        position_bias: PositionSettings | None = None,
    ):
        super().__init__(mask_feature_name, name)
        if isinstance(preprocessor, dict):
            preprocessor = PreprocessorWithSpec(preprocessor)
        for part, value in (
            ("input_creator", input_creator),
            ("preprocessor", preprocessor),
            ("scorer", scorer),
        ):
            if not callable(value):
                raise ConfigError(f"{part}: expected a callable, found {value!r}.")
        self._input_creator = input_creator
        self._preprocessor = preprocessor
        self._scorer = scorer
        self._position_bias = position_bias

    @property
    def layouts(self) -> tuple[str, ...]:
        """`packed` and `padded`, less what the parts rule out."""
        if not (
            self._has_known_steps
            and (
                "packed" in declared.layouts(self._scorer)
                or _calls_as(self._scorer, _theirs.UnivariateScorer)
            )
        ):
            return ("padded",)
        creator = self._input_creator
        examples = creator._example_feature_spec
        specs = [*examples.values(), *creator._context_feature_spec.values()]
        if not examples or not all(map(loose.can_keep, specs)):
            return ("padded",)
        return ("padded",) if self._mixes_documents() else ("packed", "padded")

    @property
    def any_list_size(self) -> bool:
        """Whether nothing here depends on how far lists are padded."""
        return (
            self._has_known_steps
            and declared.any_list_size(self._scorer)
            and not self._mixes_documents()
        )

    @property
    def _has_known_steps(self) -> bool:
        own_steps = any(
            getattr(type(self), name) is not getattr(ModelBuilder, name)
            for name in ("create_inputs", "preprocess", "score", "build")
        )
        return (
            not own_steps
            and _calls_as(self._input_creator, _theirs.FeatureSpecInputCreator)
            and _calls_as(
                self._preprocessor, _theirs.PreprocessorWithSpec, PreprocessorWithSpec
            )
        )

    def _mixes_documents(self) -> bool:
        spec = getattr(self._preprocessor, "_preprocess_spec", {})
        parts_of = [
            [(name, part) for part in (x.functions if isinstance(x, Chain) else [x])]
            for name, x in spec.items()
        ]
        examples = self._input_creator._example_feature_spec
        # Those that come first of all features, then those that come next, and so on.
        return any(
            mixes_documents(dict(filter(None, of_place)), examples)
            for of_place in itertools.zip_longest(*parts_of)
        )

    def create_inputs(self) -> tuple[dict[str, Any], dict[str, Any], Any]:
        """See `ModelBuilderWithMask`."""
        context_inputs, example_inputs = self._input_creator()
        mask = tf.keras.Input((None,), name=self._mask_feature_name, dtype=tf.bool)
        return context_inputs, example_inputs, mask

    def preprocess(
        self, context_inputs: dict[str, Any], example_inputs: dict[str, Any], mask: Any
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """See `ModelBuilderWithMask`."""
        return self._preprocessor(context_inputs, example_inputs, mask)

    def score(
        self,
        context_features: dict[str, Any],
        example_features: dict[str, Any],
        mask: Any,
    ) -> Any:
        """See `ModelBuilderWithMask`."""
        return self._scorer(context_features, example_features, mask)

    def build(self) -> tf.keras.Model:
        """See `ModelBuilderWithMask`."""
        return self._with_positions(super().build())

    def _with_positions(self, model: RankingModel) -> RankingModel:
        if self._position_bias is not None:
            model.position_bias = PositionBias.of(self._position_bias)
        return model

    def build_packed(self) -> tf.keras.Model:
        """Returns a model for packed batches.

        Its inputs are query features `[batch, ...]` by name and a ragged
        `[batch, (list), columns]` for each dtype, `documents_<dtype>`; for document
        features that stand in no matrix a ragged `[batch, (list), values]` each, by
        name, and where they are texts these are numbers of `distinct_of_<name>`, string
        `[distinct]`. Its outputs are ragged scores `[batch, (list)]`.

        Raises:
          ConfigError: `layouts` has no `packed`.
        """
        if "packed" not in self.layouts:
            raise ConfigError(
                "build_packed: a part of this builder needs padded batches; call "
                "build()."
            )
        creator = self._input_creator
        packed, others = loose.separate(creator._example_feature_spec)
        layout = BlockLayout.from_spec(packed)
        context_inputs = FeatureSpecInputCreator(creator._context_feature_spec, {})()[0]
        inputs, matrices = {}, {}
        row_ids = row_splits = None
        for dtype in layout.slots:
            name = PACKED_INPUT + dtype
            inputs[name] = tf.keras.Input(
                (None, layout.width(dtype)), name=name, dtype=dtype, ragged=True
            )
            matrices[dtype], row_ids, row_splits = Unpack()(inputs[name])
        beside, inputs_beside = {}, {}
        for name, spec in others.items():
            found = _inputs_beside(name, spec)
            inputs_beside.update(found)
            values, *rows = Unpack()(found[name])
            if row_ids is None:  # those of matrices serve the prepared model, too
                row_ids, row_splits = rows
            texts = found.get(DISTINCT + name)
            beside[name] = BesideMatrices(name, spec, values, texts)
        names = creator._example_feature_spec
        functions = parts.preprocessing(self) or {}
        context, block = preprocess_packed(
            functions,
            getattr(self._preprocessor, "_default_value_spec", {}),
            context_inputs,
            FeatureBlock.from_matrices(layout, matrices, names),
            beside,
            (row_ids, row_splits),
        )
        scores = score_packed(self._scorer, context, block, row_ids, row_splits)
        model = RankingModel(
            inputs={**context_inputs, **inputs, **inputs_beside},
            outputs=scores,
            name=self._name,
        )
        preparation = Preparation(layout, functions)
        if preparation.layout.slots:
            model.preparation = preparation
            others = {**context_inputs, **inputs_beside}
            model.prepared_call = preparation.view(
                others, matrices, block, row_ids, row_splits, scores
            )
        return self._with_positions(model)


def _inputs_beside(name: str, spec: Any) -> dict[str, Any]:
    """Returns the inputs of a packed model for a feature that stands in no matrix."""
    fixed = isinstance(spec, tf.io.FixedLenFeature)
    size = math.prod(tf.TensorShape(spec.shape).as_list()) if fixed else None
    text = spec.dtype == tf.string
    dtype = tf.int32 if text else spec.dtype
    inputs = {name: tf.keras.Input((None, size), name=name, dtype=dtype, ragged=True)}
    if text:
        key = DISTINCT + name
        inputs[key] = tf.keras.Input((), name=key, dtype=tf.string)
    return inputs


def _calls_as(value: Any, theirs: type, *ours: type) -> bool:
    """Whether a part is of a TF-Ranking class, with its `__call__` or that of ours."""
    calls = [kind.__call__ for kind in (theirs, *ours)]
    return isinstance(value, theirs) and type(value).__call__ in calls
