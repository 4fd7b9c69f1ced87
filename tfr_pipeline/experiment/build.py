"""From a config to a pipeline: what `tfr-pipeline train` runs."""

from __future__ import annotations

import dataclasses
import glob
import importlib
import inspect
import os
from collections.abc import Mapping
from typing import Any

from tfr_pipeline.errors import ConfigError, DataError, unknown_name
from tfr_pipeline.features import DEFAULT_MASK, Features
from tfr_pipeline.losses.keys import parse_losses
from tfr_pipeline.model.attention_scorers import AttentionScorer, DASALCScorer
from tfr_pipeline.model.builders import ModelBuilder
from tfr_pipeline.model.inputs import FeatureSpecInputCreator
from tfr_pipeline.model.preprocess import signed_log1p
from tfr_pipeline.model.scorers import DNNScorer, GAMScorer
from tfr_pipeline.pipeline.datasets.hparams import DatasetHparams
from tfr_pipeline.pipeline.datasets.multi_label import builder_from_features
from tfr_pipeline.pipeline.hparams import PipelineHparams
from tfr_pipeline.pipeline.multi_task import MultiTaskPipeline
from tfr_pipeline.pipeline.simple import SimplePipeline

SCORERS = {
    "dnn": DNNScorer,
    "gam": GAMScorer,
    "attention": AttentionScorer,
    "dasalc": DASALCScorer,
}
PREPROCESSING = {"none": None, "log1p": signed_log1p}
_DATA_KEYS = ("dir", "train", "valid", "test", "features")
_MODEL_KEYS = (
    "builder",
    "builder_args",
    "scorer",
    "scorer_args",
    "preprocess",
    "name",
)
_TOP_KEYS = ("data", "model", "pipeline", "model_dir", "seed")


def _fields(cls: type, without: tuple[str, ...]) -> list[str]:
    names = [field.name for field in dataclasses.fields(cls)]
    return [name for name in names if name not in without]


_DATASET_FIELDS = _fields(
    DatasetHparams,
    (
        "train_input_pattern",
        "valid_input_pattern",
        "test_input_pattern",
        "dataset_reader",
        "seed",
    ),
)
_PIPELINE_FIELDS = _fields(
    PipelineHparams, ("model_dir", "seed", "cluster_resolver", "variable_partitioner")
)


def _known(section: str, found: Mapping[str, Any], keys: list[str]) -> dict[str, Any]:
    if not isinstance(found, Mapping):
        raise ConfigError(f"config.{section}: expected a dict, found {found!r}.")
    for key in found:
        if key not in keys:
            names = [f"{section}.{name}" if section else name for name in keys]
            full = f"{section}.{key}" if section else key
            raise ConfigError(unknown_name("config key", full, names))
    return dict(found)


def _required(config: Mapping[str, Any], section: str, key: str) -> Any:
    value = config.get(key)
    if value in (None, ""):
        name = f"{section}.{key}" if section else key
        raise ConfigError(f"config.{name}: a value is required (--config.{name}=...).")
    return value


def build_pipeline(config: Mapping[str, Any]) -> SimplePipeline | MultiTaskPipeline:
    """Returns the pipeline that a config describes, for as many tasks as the data has.

    Args:
      config: `data` (`dir`, or `train`, `valid`, `test` and `features`; and the
        parameters of `DatasetHparams` on batches), `model` (`scorer` with
        `scorer_args` and `preprocess`, or `builder` as `module:callable` with
        `builder_args`), `pipeline` (the parameters of `PipelineHparams`),
        `model_dir`, `seed`.

    Raises:
      ConfigError: A key is unknown, missing, or has a value that cannot be.
      DataError: The data is not there.
    """
    config = _known("", config, list(_TOP_KEYS))
    data = _known("data", config.get("data", {}), [*_DATA_KEYS, *_DATASET_FIELDS])
    model = _known("model", config.get("model", {}), list(_MODEL_KEYS))
    pipeline = _known("pipeline", config.get("pipeline", {}), _PIPELINE_FIELDS)
    seed = config.get("seed")
    model_dir = _required(config, "", "model_dir")
    _required(pipeline, "pipeline", "loss")
    features, patterns = _data(data)
    for loss in _each_task(pipeline["loss"], features):
        parse_losses(loss, "pipeline.loss")
    settings: dict[str, Any] = {k: v for k, v in data.items() if k in _DATASET_FIELDS}
    dataset_hparams = DatasetHparams(**patterns, **settings, seed=seed or 0)
    pipeline.setdefault("steps_per_epoch", None)
    pipeline.setdefault("validation_steps", None)
    for key in ("num_epochs", "learning_rate"):
        _required(pipeline, "pipeline", key)
    metrics = pipeline["metrics"] = pipeline.get("metrics") or PipelineHparams.metrics
    for names in _each_task(metrics, features):
        if isinstance(names, str) or not all(isinstance(name, str) for name in names):
            raise ConfigError(
                f"config.pipeline.metrics: expected a tuple of names, found {names!r}."
            )
    return (MultiTaskPipeline if features.labels else SimplePipeline)(
        _model_builder(model, features),
        builder_from_features(features, dataset_hparams),
        PipelineHparams(model_dir=model_dir, seed=seed, **pipeline),
        config=config,
    )


def _each_task(value: Any, features: Features) -> list[Any]:
    """Returns the values of a setting that may be by task."""
    by_task = features.labels and isinstance(value, Mapping)
    return list(value.values()) if by_task else [value]


def _data(data: Mapping[str, Any]) -> tuple[Features, dict[str, Any]]:
    """Returns the features, and patterns for the fields of `DatasetHparams`."""
    folder = data.get("dir")
    patterns = {}
    for split in ("train", "valid", "test"):
        pattern = data.get(split) or ""
        if not pattern and folder:
            pattern = os.path.join(glob.escape(folder), f"{split}-*")
            if split == "test" and not glob.glob(pattern):
                pattern = ""
        if not pattern and split != "test":
            raise ConfigError(
                f"config.data.{split}: files are required, by --config.data.dir=DIR "
                f"with {split}-* in it or by --config.data.{split}=GLOB."
            )
        patterns[f"{split}_input_pattern"] = pattern
    if folder and not os.path.isdir(folder):
        raise DataError(f"config.data.dir: no such folder {folder!r}.")
    described = data.get("features") or folder
    if not described:
        raise ConfigError("config.data.features: path of features.json is required.")
    return Features.load(described), patterns


def _model_builder(model: Mapping[str, Any], features: Features) -> Any:
    """Returns the default builder, or the one that `model.builder` names."""
    name = model.get("builder")
    if name:
        for key in ("scorer", "scorer_args", "preprocess", "name"):
            if model.get(key):
                raise ConfigError(
                    f"config.model.{key}: it has no effect beside model.builder; put "
                    "it into model.builder_args."
                )
        return _call(name, {"features": features, **(model.get("builder_args") or {})})
    if model.get("builder_args"):
        raise ConfigError(
            "config.model.builder_args: it has no effect without model.builder."
        )
    scorer = model.get("scorer") or "dnn"
    if scorer not in SCORERS:
        raise ConfigError(unknown_name("scorer", scorer, SCORERS, "model.scorer"))
    preprocess = model.get("preprocess") or "none"
    if preprocess not in PREPROCESSING:
        raise ConfigError(
            unknown_name("preprocessing", preprocess, PREPROCESSING, "model.preprocess")
        )
    function = PREPROCESSING[preprocess]
    numeric = [
        name
        for group in (features.context, features.example)
        for name, feature in group.items()
        if feature.dtype == "float32"
    ]
    args = dict(model.get("scorer_args") or {})
    for key in ("hidden_layer_dims", "example_hidden_layer_dims"):
        if key in args:
            args[key] = list(args[key])
    return ModelBuilder(
        FeatureSpecInputCreator(features.context_spec, features.example_spec),
        dict.fromkeys(numeric, function) if function else {},
        SCORERS[scorer](**args),
        DEFAULT_MASK,
        model.get("name"),
    )


def _call(name: str, arguments: Mapping[str, Any]) -> Any:
    """Calls what `module:callable` names, the model builder of a user."""
    module, colon, attribute = str(name).partition(":")
    if not colon:
        raise ConfigError(
            f"config.model.builder: expected 'module:callable', found {name!r}."
        )
    try:
        function = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"config.model.builder: {name!r}: {error}.") from error
    if not callable(function):
        raise ConfigError(f"config.model.builder: {name!r} cannot be called.")
    parameters = inspect.signature(function).parameters
    if "features" not in parameters:
        raise ConfigError(
            f"config.model.builder: {name!r} must take the argument 'features'."
        )
    if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        for key in arguments:
            if key not in parameters:
                known = [p for p in parameters if p != "features"]
                raise ConfigError(
                    unknown_name("argument", key, known, "config.model.builder_args")
                )
    return function(**arguments)
