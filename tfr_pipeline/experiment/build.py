"""From a config to a pipeline: what `tfr-pipeline train` runs."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import glob
import inspect
import os
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from tfr_pipeline import files, serialization, urls
from tfr_pipeline.errors import ConfigError, DataError, unknown_name
from tfr_pipeline.experiment import preprocessing, registry, settings
from tfr_pipeline.features import DEFAULT_MASK, Feature, Features
from tfr_pipeline.graph.names import without_neighbours
from tfr_pipeline.losses.keys import parse_losses
from tfr_pipeline.metrics.keys import ClassMetricKey
from tfr_pipeline.model.builders import ModelBuilder
from tfr_pipeline.model.inputs import FeatureSpecInputCreator
from tfr_pipeline.model.interactions import InteractionScorer
from tfr_pipeline.model.position_bias import PositionSettings
from tfr_pipeline.model.pretraining import Pretrain
from tfr_pipeline.outputs import check_output
from tfr_pipeline.pipeline.datasets.adapter import check_folds
from tfr_pipeline.pipeline.datasets.hparams import DatasetHparams
from tfr_pipeline.pipeline.datasets.kept_lists import KeptLists
from tfr_pipeline.pipeline.fit import ModelFitPipeline
from tfr_pipeline.pipeline.hparams import PipelineHparams
from tfr_pipeline.pipeline.simple import is_function_of_batches
from tfr_pipeline.regularization.distillation import COLUMN, DistillSettings
from tfr_pipeline.regularization.settings import QUERIES

# What the default model builder is told; another one has arguments of its own.
_OF_DEFAULT_BUILDER = (
    "scorer",
    "scorer_args",
    "preprocess",
    "preprocess_args",
    "interactions",
    "position_bias",
    "name",
)
# How arguments end that name parts of layers.
_LAYER_PARTS = ("activation", "initializer", "regularizer", "constraint")
_INSTEAD_OF_DIR = ("train", "valid", "test", "features")


def _known(section: str, found: Mapping[str, Any]) -> dict[str, Any]:
    keys = settings.KEYS[section]
    if not isinstance(found, Mapping):
        raise ConfigError(f"config.{section}: expected a dict, found {found!r}.")
    for key, value in found.items():
        full = f"{section}.{key}" if section else key
        if key not in keys:
            names = [f"{section}.{name}" if section else name for name in keys]
            raise ConfigError(unknown_name("config key", full, names))
        if problem := settings.problem(full, value):
            raise ConfigError(f"config.{full}: {problem}, found {value!r:.80}.")
    return dict(found)


def _with_text_for_paths(value: Any) -> Any:
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, Mapping):
        return {key: _with_text_for_paths(item) for key, item in value.items()}
    return value


def _required(config: Mapping[str, Any], section: str, key: str) -> Any:
    value = config.get(key)
    if value in (None, ""):
        name = f"{section}.{key}" if section else key
        raise ConfigError(f"config.{name}: a value is required (--config.{name}=...).")
    return value


def build_pipeline(
    config: Mapping[str, Any],
    *,
    kept: KeptLists | None = None,
    callbacks: Iterable[Callable[[], Any]] = (),
) -> ModelFitPipeline:
    """Returns the pipeline that a config describes, for as many tasks as the data has.

    Whatever a config names is a part: a built-in name, a registered one, or
    `module:callable`; see `registry` and `docs/training.md`.

    Args:
      config: `data` (`dir`, or `train`, `valid`, `test` and `features`; the parameters
        of `DatasetHparams` on batches; `builder` with `builder_args`), `model`
        (`scorer` with `scorer_args` and `preprocess` with `preprocess_args`, or
        `builder` with `builder_args`), `pipeline` (the parameters of
        `PipelineHparams`; `pipeline` with `pipeline_args`), `model_dir`, `seed`.
      kept: What other pipelines have read, and this one may read for the next; where
        the dataset builder shares at all.
      callbacks: Makers of callbacks beside those of the config.

    Raises:
      ConfigError: A key is unknown, missing, or has a value that cannot be.
      DataError: The data is not there.
    """
    config = _known("", _with_text_for_paths(config))
    serialization.plain(config, "config", strict=True)
    if config.get("model_dir"):
        config["model_dir"] = files.local(config["model_dir"], "config.model_dir")
    config["data"] = _at_home(config.get("data", {}))
    data = _known("data", config.get("data", {}))
    model = _known("model", config.get("model", {}))
    pipeline = _known("pipeline", config.get("pipeline", {}))
    seed = config.get("seed")
    model_dir = _required(config, "", "model_dir")
    _required(pipeline, "pipeline", "loss")
    for key in ("num_epochs", "learning_rate"):
        _required(pipeline, "pipeline", key)
    pretrains = Pretrain.of(pipeline.get("pretrain")) is not None
    features, patterns = _data(data)
    positions = PositionSettings.of(model.get("position_bias"))
    if positions is not None:
        features = positions.taken_from(features)
        _check_for_positions(data, pipeline, pretrains)
    features, teacher = _without_teacher(features, pipeline.get("distill"))
    _check_model_dir(model_dir, data, patterns)
    batches = {k: v for k, v in data.items() if k in settings.OF_DATASETS}
    graph = pipeline.get("graph") or {}
    if graph.get("edges"):
        graph = pipeline["graph"] = dict(graph)
        graph["edges"] = files.local(graph["edges"], "config.pipeline.graph.edges")
        if graph.get("nodes") != QUERIES:  # which have their names anyway
            batches["keep_document_ids"] = True
    dataset_hparams = DatasetHparams(**patterns, **batches, seed=seed)
    name, args = (pipeline.pop(key, None) for key in settings.OF_PIPELINES)
    kind = "multi_task" if features.labels else "simple"
    read = features
    if pretrains:
        # One label is enough of those that are not looked at, and has a default.
        kind, read = "pretraining", dataclasses.replace(features, labels={}, classes=())
    dataset_builder = _dataset_builder(data, read, dataset_hparams)
    if teacher is not None:
        if not hasattr(dataset_builder, "read_teacher"):
            raise ConfigError(
                f"config.pipeline.distill.teacher: {COLUMN!r} needs a dataset builder "
                "with read_teacher, such as SimpleDatasetBuilder."
            )
        dataset_builder.read_teacher(*teacher)
    check_folds(dataset_builder, dataset_hparams)
    if kept is not None and hasattr(dataset_builder, "kept"):
        dataset_builder.kept = kept
    parts = _named_parts(pipeline, features)
    parts["callbacks"] = (*parts["callbacks"], *callbacks)
    return registry.make(
        "pipeline",
        name or kind,
        {"config": config, **(args or {})},
        "config.pipeline.pipeline",
        _model_builder(model, without_neighbours(features)),
        dataset_builder,
        PipelineHparams(model_dir=model_dir, seed=seed, **parts),
    )


def _check_for_positions(
    data: Mapping[str, Any], pipeline: Mapping[str, Any], pretrains: bool
) -> None:
    others = [key for key in ("graph", "adversarial", "distill") if pipeline.get(key)]
    others += ["pretrain"] if pretrains else []
    if others:
        raise ConfigError(
            f"config.model.position_bias: expected training without pipeline."
            f"{others[0]}, whose steps know no positions. Leave one of the two out."
        )
    if data.get("folds") and not data.get("sessions"):
        raise ConfigError(
            "config.data.sessions: expected true beside data.folds and "
            "model.position_bias: sessions of a query, by what stands before the "
            "last '/' of their ids, belong in one fold."
        )


def without_test(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a config that reads the same data for training, and none for a test.

    Example:
      >>> without_test({"data": {"dir": "letor"}})["data"]["train"]
      'letor/train-*'
    """
    data = dict(config.get("data") or {})
    folder = data.get("dir")
    if folder:
        for split in ("train", "valid"):
            data[split] = data.get(split) or _in_folder(data, split)
        data["features"] = data.get("features") or folder
        data["dir"] = None
    data["test"] = None
    return {**config, "data": data}


def _named_parts(pipeline: dict[str, Any], features: Features) -> dict[str, Any]:
    """Returns the settings of a pipeline with objects for the names of own parts."""
    where = "config.pipeline"
    pipeline = {"steps_per_epoch": None, "validation_steps": None, **pipeline}
    for key in ("loss_args", "optimizer_args"):
        pipeline[key] = pipeline.get(key) or {}
    pipeline["loss"] = _each_task(
        pipeline["loss"], features, functools.partial(_loss, where=f"{where}.loss")
    )
    if pipeline.get("metrics") is None:
        accuracy = (ClassMetricKey.ACCURACY,)
        pipeline["metrics"] = accuracy if features.classes else PipelineHparams.metrics
    pipeline["metrics"] = _each_task(
        pipeline["metrics"], features, functools.partial(_several, kind="metric")
    )
    pipeline["callbacks"] = _several(pipeline.get("callbacks") or (), kind="callback")
    pipeline["optimizer"] = pipeline.get("optimizer") or PipelineHparams.optimizer
    if pipeline.get("optimizers"):
        pipeline["optimizers"] = {
            glob: _named_optimizer(told, f"{where}.optimizers[{glob!r}]")
            for glob, told in pipeline["optimizers"].items()
        }
    return _named_optimizer(pipeline, where)


def _named_optimizer(told: Any, where: str) -> Any:
    """Returns settings with objects for the names of an optimizer and a schedule."""
    if not isinstance(told, Mapping):
        return told  # whoever reads it says what is wrong
    told = dict(told)
    if optimizer := told.get("optimizer"):
        if not registry.is_imported(optimizer):
            optimizer = str(optimizer).lower()
        found = registry.find("optimizer", optimizer, f"{where}.optimizer")
        told["optimizer"] = found
    schedule = told.get("schedule")
    named = schedule.get("name") if isinstance(schedule, Mapping) else schedule
    if named:
        args = dict(schedule) if isinstance(schedule, Mapping) else {}
        found = registry.find("schedule", named, f"{where}.schedule.name")
        told["schedule"] = {**args, "name": found}
    return told


def _each_task(value: Any, features: Features, function: Any) -> Any:
    """Applies a function to a setting, or to each of its values by task."""
    if features.labels and isinstance(value, Mapping):
        return {task: function(item) for task, item in value.items()}
    return function(value)


def _loss(loss: Any, where: str) -> Any:
    is_own = functools.partial(registry.is_own, "loss")
    # `softmax_loss:0.9` is no module; sums of losses are for `losses.get`.
    if isinstance(loss, str) and (
        is_own(loss) or not any(sign in loss for sign in ",.:")
    ):
        return registry.find("loss", loss, where)
    parsed = parse_losses(loss, where.removeprefix("config."), is_own)
    owns = {
        key: registry.find("loss", arguments.get("loss") or key, where)
        for key, arguments in parsed.items()
        if "loss" in arguments or is_own(key)
    }
    if not owns:
        return loss
    return {
        key: {**arguments, **({"loss": owns[key]} if key in owns else {})}
        for key, arguments in parsed.items()
    }


def _several(items: Any, kind: str) -> tuple[Any, ...]:
    """Returns metrics or callbacks: names, or dicts of `name` and arguments."""
    where = f"config.pipeline.{kind}s"
    if isinstance(items, str | Mapping) or not all(
        isinstance(item, str)
        or (isinstance(item, Mapping) and isinstance(item.get("name"), str))
        for item in items
    ):
        raise ConfigError(
            f"{where}: expected a tuple of names, or of dicts with a 'name' and "
            f"arguments, found {items!r}."
        )
    made = []
    for item in items:
        args = dict(item) if isinstance(item, Mapping) else {"name": item}
        name = args.pop("name")
        plain = name.replace("@", "_").rpartition("_")
        built_in = plain[0] if kind == "metric" and plain[2].isdigit() else name
        found = registry.find(kind, built_in, where)
        if kind == "callback" and registry.is_imported(args.get("function")):
            args["function"] = registry.find(kind, args["function"], where)
        if not callable(found):
            if args:
                raise ConfigError(
                    f"{where}: {name!r} takes no arguments here; write its cut-off as "
                    "part of its name, such as 'ndcg_10'."
                )
            made.append(name)
        elif is_function_of_batches(found):
            made.append(
                functools.update_wrapper(functools.partial(found, **args), found)
            )
        else:
            made.append(registry.bound(found, name, args, where))
    return tuple(made)


def _data(data: Mapping[str, Any]) -> tuple[Features, dict[str, Any]]:
    """Returns the features, and patterns for the fields of `DatasetHparams`."""
    folder = data.get("dir")
    patterns = {}
    for split in ("train", "valid", "test"):
        pattern = data.get(split) or ""
        if not pattern and folder:
            pattern = _in_folder(data, split)
        if not pattern and _is_needed(data, split):
            raise ConfigError(
                f"config.data.{split}: files are required, by --config.data.dir=DIR "
                f"with {split}-* in it or by --config.data.{split}=GLOB."
            )
        patterns[f"{split}_input_pattern"] = pattern
    if folder and all(data.get(key) for key in _INSTEAD_OF_DIR):
        warnings.warn(
            f"config.data.dir has no effect beside {', '.join(_INSTEAD_OF_DIR)}.",
            stacklevel=3,
        )
    if folder and not urls.is_remote(folder) and not os.path.isdir(folder):
        raise DataError(f"config.data.dir: no such folder {folder!r}.")
    described = data.get("features") or folder
    if not described:
        raise ConfigError("config.data.features: path of features.json is required.")
    return Features.load(described), patterns


def _without_teacher(
    features: Features, distill: Any
) -> tuple[Features, tuple[str, Feature] | None]:
    """Returns the features of the student, and that which is its teacher, if one is."""
    told = DistillSettings.of(distill)
    if told is None or not told.column:
        return features, None
    name, where = told.column, "config.pipeline.distill.teacher"
    described = features.example.get(name)
    if described is None:
        vectors = [key for key, one in features.example.items() if name in one.columns]
        if vectors:
            raise ConfigError(
                f"{where}: expected {name!r} as a feature of its own, found it within "
                f"the vector {vectors[0]!r}. Convert with --scalar_features."
            )
        raise ConfigError(unknown_name("document feature", name, features.example))
    numeric = described.kind == "fixed" and described.dtype == "float32"
    if not numeric or described.shape not in ((), (1,)):
        raise ConfigError(
            f"{where}: expected {name!r} to be one float32 a document, found "
            f"{described.kind} {described.dtype} of shape {list(described.shape)}."
        )
    rest = {key: one for key, one in features.example.items() if key != name}
    return dataclasses.replace(features, example=rest), (name, described)


def _is_needed(data: Mapping[str, Any], split: str) -> bool:
    return split == "train" or (split == "valid" and data.get("folds") is None)


def _in_folder(data: Mapping[str, Any], split: str) -> str:
    """Returns the pattern of a split in `data.dir`; empty if it need not be there."""
    pattern = os.path.join(glob.escape(data["dir"]), f"{split}-*")
    if _is_needed(data, split):
        return pattern
    found = set(_matches(pattern))
    if split == "valid" and data.get("train"):
        found -= set(_matches(data["train"]))  # they are in the folds
    return pattern if found else ""


def _matches(pattern: str) -> list[str]:
    with contextlib.suppress(DataError):
        return files.expand(pattern, fetch=False)
    return []


def _at_home(data: Any) -> Any:
    """Returns the section `data` with `~` expanded; patterns are when they are read."""
    if not isinstance(data, Mapping):
        return data
    expanded = {
        key: files.local(data[key])
        for key in ("dir", "features", "cache")
        if isinstance(data.get(key), str) and data[key].strip()
    }
    return {**data, **expanded}


def _check_model_dir(
    model_dir: str, data: Mapping[str, Any], patterns: Mapping[str, Any]
) -> None:
    """Checks that the run directory is not a folder of the data."""
    folders = set()
    for pattern in filter(None, patterns.values()):
        with contextlib.suppress(DataError):  # they are read, and named, later
            for path in files.expand(pattern, fetch=False):
                local = path if urls.is_remote(path) else os.path.abspath(path)
                folders.add(os.path.dirname(local))
    check_output(
        model_dir,
        filter(None, [data.get("dir"), *sorted(folders)]),
        folder=True,
        what="config.model_dir",
    )


def _model_builder(model: Mapping[str, Any], features: Features) -> Any:
    """Returns the default builder, or the one that `model.builder` names."""
    name = model.get("builder")
    if name:
        for key in _OF_DEFAULT_BUILDER:
            if model.get(key):
                raise ConfigError(
                    f"config.model.{key}: it has no effect beside model.builder; put "
                    "it into model.builder_args."
                )
        return _make_builder(
            "model", name, {"features": features}, model.get("builder_args")
        )
    if model.get("builder_args"):
        raise ConfigError(
            "config.model.builder_args: it has no effect without model.builder."
        )
    scorer_name = model.get("scorer") or "dnn"
    scorer_args = model.get("scorer_args")
    if features.classes and scorer_name in ("dnn", "tabm", "dcn"):
        scorer_args = {"output_units": len(features.classes), **(scorer_args or {})}
    scorer_args = _imported_parts(scorer_args or {})
    scorer = registry.make("scorer", scorer_name, scorer_args, "config.model.scorer")
    if interactions := model.get("interactions"):
        scorer = InteractionScorer(scorer, interactions)
    return ModelBuilder(
        FeatureSpecInputCreator(features.context_spec, features.example_spec),
        preprocessing.steps(model, features),
        scorer,
        DEFAULT_MASK,
        model.get("name"),
        position_bias=PositionSettings.of(model.get("position_bias")),
    )


def _imported_parts(args: Mapping[str, Any]) -> dict[str, Any]:
    """Returns arguments of a scorer with objects for what `module:callable` names.

    That is an activation, or an initialiser, regulariser or constraint; either as it
    is, or the `name` of a dict, beside arguments.
    """
    made = dict(args)
    for key, value in args.items():
        if key.rpartition("_")[2] not in _LAYER_PARTS:
            continue
        given = dict(value) if isinstance(value, Mapping) else {"name": value}
        name = given.pop("name", None)
        if registry.is_imported(name):
            where = f"config.model.scorer_args.{key}"
            found = registry.find("scorer", name, where)
            if inspect.isclass(found):
                made[key] = registry.bound(found, name, given, where)()
            else:
                made[key] = functools.partial(found, **given) if given else found
    return made


def _dataset_builder(
    data: Mapping[str, Any], features: Features, hparams: DatasetHparams
) -> Any:
    name = data.get("builder")
    if not name:
        if data.get("builder_args"):
            raise ConfigError(
                "config.data.builder_args: it has no effect without data.builder."
            )
        name = "multi_label" if features.labels else "simple"
    given = {"features": features, "hparams": hparams}
    return _make_builder("data", name, given, data.get("builder_args"))


def _make_builder(
    section: str, name: Any, given: dict[str, Any], args: Mapping[str, Any] | None
) -> Any:
    """Calls what makes a builder with what is known here, by name."""
    where = f"config.{section}.builder"
    kind = "model builder" if section == "model" else "dataset builder"
    function = registry.find(kind, name, where)
    # Dataset builders of TF-Ranking's kind are made of specs one by one.
    function = getattr(function, "from_features", function)
    parameters = inspect.signature(function).parameters
    for key in given:
        if key not in parameters:
            raise ConfigError(f"{where}: {name!r} must take the argument {key!r}.")
    return registry.bound(function, name, {**given, **(args or {})}, where)()
