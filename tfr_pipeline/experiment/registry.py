"""Named parts: what a config may name, and how the name becomes an object.

A name is a built-in one, such as `dnn`; one that somebody has registered; or
`module:callable`, which is imported. Registration is for parts that are used by many
configs:

    from tfr_pipeline.experiment.registry import register

    @register("scorer", "two_towers")
    class TwoTowers(tfr.keras.model.UnivariateScorer):
        ...

The config file then imports the module of the part, so that its name is known.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from tfr_pipeline.errors import ConfigError, unknown_name

Part = TypeVar("Part", bound=Callable[..., Any])
_IMPORTED = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")


def _scorers() -> dict[str, Any]:
    from tfr_pipeline.model.attention_scorers import AttentionScorer, DASALCScorer
    from tfr_pipeline.model.scorers import DNNScorer, GAMScorer
    from tfr_pipeline.model.tabular_scorers import DCNScorer, TabMScorer

    return {
        "dnn": DNNScorer,
        "gam": GAMScorer,
        "attention": AttentionScorer,
        "dasalc": DASALCScorer,
        "tabm": TabMScorer,
        "dcn": DCNScorer,
    }


def _preprocessing() -> dict[str, Any]:
    from tfr_pipeline.model.layers.hub import HubEncoder
    from tfr_pipeline.model.preprocess import signed_log1p
    from tfr_pipeline.model.steps import categories, lists, numeric, text, vectors

    return {
        "none": None,
        "log1p": signed_log1p,
        "clip": numeric.Clip,
        "clip_quantiles": numeric.ClipQuantiles,
        "standardize": numeric.Standardize,
        "quantile_normal": numeric.QuantileNormal,
        "list_standardize": lists.ListStandardize,
        "list_quantile_normal": lists.ListQuantileNormal,
        "missing": numeric.Missing,
        "discretize": numeric.Discretize,
        "piecewise_linear": vectors.PiecewiseLinear,
        "periodic": vectors.Periodic,
        "one_hot": categories.OneHot,
        "hashing": categories.Hashing,
        "embedding": categories.Embedding,
        "tokens": text.Tokens,
        "tf_idf": text.TfIdf,
        "hub": HubEncoder,
    }


def _dataset_builders() -> dict[str, Any]:
    from tfr_pipeline.pipeline.datasets.multi_label import MultiLabelDatasetBuilder
    from tfr_pipeline.pipeline.datasets.simple import SimpleDatasetBuilder

    return {
        "simple": SimpleDatasetBuilder.from_features,
        "multi_label": MultiLabelDatasetBuilder.from_features,
    }


def _pipelines() -> dict[str, Any]:
    from tfr_pipeline.pipeline.multi_task import MultiTaskPipeline
    from tfr_pipeline.pipeline.pretraining import PretrainingPipeline
    from tfr_pipeline.pipeline.simple import SimplePipeline

    return {
        "simple": SimplePipeline,
        "multi_task": MultiTaskPipeline,
        "pretraining": PretrainingPipeline,
    }


def _losses() -> Iterable[str]:
    from tfr_pipeline.losses.keys import ClassLossKey, RankingLossKey

    return [*RankingLossKey.all_keys(), *ClassLossKey.all_keys()]


def _metrics() -> Iterable[str]:
    from tfr_pipeline.metrics.keys import ClassMetricKey, RankingMetricKey

    return [*RankingMetricKey.all_keys(), *ClassMetricKey.all_keys()]


def _optimizers() -> Iterable[str]:
    from tfr_pipeline.optimizers.factory import optimizer_classes

    return optimizer_classes()


def _schedules() -> Iterable[str]:
    from tfr_pipeline.optimizers.schedules import NAMES

    return NAMES


def _callbacks() -> dict[str, Any]:
    from tfr_pipeline.pipeline.run import actions

    return {
        "every_steps": actions.every_steps,
        "every_epoch": actions.every_epoch,
        "at_end": actions.at_end,
    }


# The kinds of parts, and what is built in: objects by name, or the names of those that
# the part of the library makes which they belong to.
_BUILT_IN: dict[str, Callable[[], Mapping[str, Any] | Iterable[str]]] = {
    "scorer": _scorers,
    "model builder": dict,
    "preprocessing": _preprocessing,
    "dataset builder": _dataset_builders,
    "pipeline": _pipelines,
    "loss": _losses,
    "metric": _metrics,
    "optimizer": _optimizers,
    "schedule": _schedules,
    "callback": _callbacks,
}
KINDS = tuple(_BUILT_IN)
_registered: dict[str, dict[str, Any]] = {kind: {} for kind in KINDS}


def register(kind: str, name: str) -> Callable[[Part], Part]:
    """Returns a decorator that gives a part a name of its own in configs.

    Args:
      kind: One of `KINDS`.
      name: The name; letters, digits and `_`.

    Raises:
      ConfigError: There is no such kind, or the name is taken or cannot be one.

    Example:
      >>> @register("preprocessing", "halved")
      ... def halved(values):
      ...     return values / 2
      >>> find("preprocessing", "halved", "config.model.preprocess")(3.0)
      1.5
    """
    if kind not in KINDS:
        raise ConfigError(unknown_name("kind of part", kind, KINDS, "register"))
    if not name.isidentifier():
        raise ConfigError(
            f"register: expected a name of letters, digits and '_', found {name!r}."
        )

    def decorate(part: Part) -> Part:
        taken = _registered[kind].get(name)
        # A module that is loaded again brings the same part anew.
        same = taken is None or (
            (taken.__module__, taken.__qualname__)
            == (part.__module__, part.__qualname__)
        )
        if name in _BUILT_IN[kind]() or not same:
            raise ConfigError(f"register: the {kind} {name!r} is there already.")
        _registered[kind][name] = part
        return part

    return decorate


def is_imported(name: Any) -> bool:
    """Whether a name is `module:callable`.

    Example:
      >>> is_imported("mine.losses:MyLoss"), is_imported("softmax_loss:0.9")
      (True, False)
    """
    return isinstance(name, str) and _IMPORTED.fullmatch(name) is not None


def names(kind: str) -> list[str]:
    """Returns the names that parts of a kind have, but for `module:callable`.

    Example:
      >>> names("scorer")[:2]
      ['dnn', 'gam']
    """
    return [*_BUILT_IN[kind](), *_registered[kind]]


def is_own(kind: str, name: Any) -> bool:
    """Whether a name is one that somebody has registered, or `module:callable`."""
    return isinstance(name, str) and (name in _registered[kind] or is_imported(name))


def find(kind: str, name: Any, where: str) -> Any:
    """Returns what a name stands for.

    Args:
      kind: One of `KINDS`.
      name: A name, or `module:callable`.
      where: The config key, for messages.

    Returns:
      The callable; for built-in parts that the library makes by their names (losses,
      metrics, optimizers, schedules) the name as it is.

    Raises:
      ConfigError: Nothing has that name, or what it names cannot be called.

    Example:
      >>> find("loss", "softmax_loss", "config.pipeline.loss")
      'softmax_loss'
    """
    if is_imported(name):
        return _import(name, where)
    built_in, registered = _BUILT_IN[kind](), _registered[kind]
    if not isinstance(name, str):
        raise ConfigError(
            f"{where}: expected the name of a {kind}, found {name!r:.80}."
        )
    if name in registered:
        return registered[name]
    if name in built_in:
        return built_in[name] if isinstance(built_in, Mapping) else name
    known = names(kind)
    if not known:
        raise ConfigError(f"{where}: expected 'module:callable', found {name!r}.")
    raise ConfigError(
        unknown_name(kind, name, known, where)
        + " A part of your own is named as 'module:callable'."
    )


def make(
    kind: str, name: Any, args: Mapping[str, Any] | None, where: str, *given: Any
) -> Any:
    """Returns what the callable of a name makes of arguments from a config.

    Args:
      kind: One of `KINDS`.
      name: See `find`.
      args: Keyword arguments, the key `where` with `_args`.
      where: The config key, for messages.
      *given: What parts of this kind are called with, before those.

    Raises:
      ConfigError: See `find`; or the callable has no such arguments.

    Example:
      >>> scorer = make("scorer", "dnn", {"hidden_layer_dims": (4,)}, "model.scorer")
      >>> type(scorer).__name__
      'DNNScorer'
    """
    return bound(find(kind, name, where), name, args, where, *given)()


def bound(
    function: Callable[..., Any],
    name: Any,
    args: Mapping[str, Any] | None,
    where: str,
    *given: Any,
) -> Callable[[], Any]:
    """Returns a callable with its arguments, once they are known to fit; see `make`."""
    args = {key: _plain(value) for key, value in (args or {}).items()}
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # some built-in callables have none
        return functools.partial(function, *given, **args)
    try:
        signature.bind(*given, **args)
    except TypeError as error:
        known = [
            parameter.name
            for parameter in list(signature.parameters.values())[len(given) :]
            if parameter.kind
            in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
        ]
        for key in args:
            if key not in known:
                raise ConfigError(
                    unknown_name("argument", key, known, f"{where}_args")
                ) from None
        raise ConfigError(f"{where}: {name!r}: {error}.") from error
    return functools.partial(function, *given, **args)


def _plain(value: Any) -> Any:
    """Returns lists for the tuples of a config, as constructors spell them."""
    return list(value) if isinstance(value, tuple) else value


def _import(name: str, where: str) -> Any:
    module, _, attribute = name.partition(":")
    try:
        found: Any = importlib.import_module(module)
        for part in attribute.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"{where}: {name!r}: {error}. Expected 'module:callable', with the module "
            "in the working folder or installed."
        ) from error
    if not callable(found):
        raise ConfigError(f"{where}: {name!r} cannot be called.")
    return found
