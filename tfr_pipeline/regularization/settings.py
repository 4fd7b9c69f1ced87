"""`PipelineHparams.graph` and `.adversarial`, checked; names and defaults are NSL's."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from tfr_pipeline.errors import ConfigError, unknown_name

DOCUMENTS, QUERIES = "documents", "queries"
NODES = (DOCUMENTS, QUERIES)
L1, L2, COSINE = "l1", "l2", "cosine"
JENSEN_SHANNON, KL = "jensen_shannon_divergence", "kl_divergence"
DISTANCES = (L1, L2, COSINE, JENSEN_SHANNON, KL)
# Those that look at the numbers of a node together.
OF_VECTORS = (COSINE, JENSEN_SHANNON, KL)
INFINITY = "infinity"
NORMS = (INFINITY, L1, L2)
NONE, SOFTMAX = "none", "softmax"
SUM, MEAN = "weighted_sum", "weighted_mean"
BY_NONZERO = "weighted_sum_by_nonzero_weights"
OVER_BATCH = "weighted_sum_over_batch_size"
REDUCTIONS = (SUM, MEAN, BY_NONZERO, OVER_BATCH)
UNKNOWN = ("error", "skip")


@dataclasses.dataclass(frozen=True)
class GraphSettings:
    """How scores of neighbours are kept together; NSL's `GraphRegConfig` and ours.

    Attributes:
      max_neighbors: Neighbours of a node that count, at most; the heaviest ones.
      multiplier: Factor of the mean distance in the loss; 0 turns it off.
      distance_type: `l1`, `l2` (the square, as in NSL), `cosine`,
        `jensen_shannon_divergence` or `kl_divergence`; the last three need
        `sum_over_axis=-1`.
      sum_over_axis: -1: the distance of two nodes is the sum over the numbers that a
        node has; None: their mean.
      transform_fn: `softmax` over the numbers of a node first, or `none`.
      reduction: What becomes of the weighted distances of a batch: `weighted_sum`,
        `weighted_mean` (over the sum of weights), `weighted_sum_by_nonzero_weights`
        (over the number of neighbours; the default) or
        `weighted_sum_over_batch_size` (over the number of places for neighbours).
      edges: TSV file of edges between the training lists in memory, as `graph build`
        writes it. Empty: the data has its neighbours with it, from `graph pack`.
      nodes: `documents`, or `queries`: a node has the scores of its list.
      add_undirected_edges: Whether an edge of `edges` leads both ways.
      unknown_ids: What to do with edges whose ends are not among the training lists:
        `error` or `skip`.
    """

    max_neighbors: int = 0
    multiplier: float = 0.01
    distance_type: str = L2
    sum_over_axis: int | None = None
    transform_fn: str = NONE
    reduction: str = BY_NONZERO
    edges: str = ""
    nodes: str = DOCUMENTS
    add_undirected_edges: bool = False
    unknown_ids: str = UNKNOWN[0]

    def __post_init__(self) -> None:
        where = "graph"
        _check_name(where, "distance_type", self.distance_type, DISTANCES)
        _check_name(where, "transform_fn", self.transform_fn, (NONE, SOFTMAX))
        _check_name(where, "reduction", self.reduction, REDUCTIONS)
        _check_name(where, "nodes", self.nodes, NODES)
        _check_name(where, "unknown_ids", self.unknown_ids, UNKNOWN)
        _check_number(where, "multiplier", self.multiplier, 0.0)
        _check_whole(where, "max_neighbors", self.max_neighbors, 1)
        if self.sum_over_axis not in (None, -1):
            raise ConfigError(
                "graph.sum_over_axis: expected None, or -1 for the numbers that a node "
                f"has, found {self.sum_over_axis!r}."
            )
        if self.distance_type in OF_VECTORS and self.sum_over_axis is None:
            raise ConfigError(
                f"graph.sum_over_axis: expected -1 with distance_type="
                f"{self.distance_type!r}, which compares the numbers of two nodes as "
                "wholes, found None."
            )
        for name in ("unknown_ids", "add_undirected_edges"):
            default = getattr(GraphSettings, name)
            if getattr(self, name) != default and not self.edges:
                raise ConfigError(f"graph.{name}: it has no effect without edges.")

    @classmethod
    def of(cls, value: Mapping[str, Any] | None) -> GraphSettings | None:
        """Returns the settings that a dict is; None for None or an empty one.

        Raises:
          ConfigError: A key is unknown, or a value cannot be.
        """
        found = dict(given(cls, "graph", value))
        if "reduction" in found and found["reduction"] in _SHORT:
            found["reduction"] = _SHORT[found["reduction"]]
        return cls(**found) if found else None


_SHORT = {name.removeprefix("weighted_"): name for name in REDUCTIONS}


@dataclasses.dataclass(frozen=True)
class AdversarialSettings:
    """How features are perturbed against the model; NSL's `AdvRegConfig`.

    Attributes:
      multiplier: Factor of the loss on perturbed features in the loss; 0 turns it off.
      adv_step_size: Length of a step against the gradient, in the norm.
      adv_grad_norm: `infinity`, `l1` or `l2`: of all features of a list together, as
        in NSL, where a list is an example; of each vector of an embedding.
      pgd_iterations: Steps. 1 is the fast gradient (sign) method, more are projected
        gradient descent.
      pgd_epsilon: Radius of the ball around the features that steps end in, in the
        norm `infinity` or `l2`; None for no ball.
      random_init: Whether the first step begins at a random point of the ball, or of
        one of the radius `adv_step_size`.
      clip_value_min: Least value of a perturbed feature: a number, or a dict of numbers
        by feature.
      clip_value_max: Likewise the largest.
      feature_mask: Factors in `[0, 1]` of the gradient: a number, or a dict by feature
        of numbers or of as many as a feature has values. 0: the feature stays as it
        is. Features that a dict does not name have 1.
    """

    multiplier: float = 0.2
    adv_step_size: float = 0.001
    adv_grad_norm: str = L2
    pgd_iterations: int = 1
    pgd_epsilon: float | None = None
    random_init: bool = False
    clip_value_min: Any = None
    clip_value_max: Any = None
    feature_mask: Any = None

    def __post_init__(self) -> None:
        where = "adversarial"
        _check_name(where, "adv_grad_norm", self.adv_grad_norm, NORMS)
        _check_number(where, "multiplier", self.multiplier, 0.0)
        _check_number(where, "adv_step_size", self.adv_step_size, 0.0)
        _check_whole(where, "pgd_iterations", self.pgd_iterations, 1)
        if self.pgd_epsilon is not None:
            _check_number(where, "pgd_epsilon", self.pgd_epsilon, 0.0)
            if self.adv_grad_norm == L1:
                raise ConfigError(
                    "adversarial.pgd_epsilon: expected the norm 'infinity' or 'l2', "
                    "found adv_grad_norm='l1', for which there is no projection."
                )
        for name in ("clip_value_min", "clip_value_max", "feature_mask"):
            for feature, bound in _by_feature(getattr(self, name)).items():
                at = f"{name}[{feature!r}]" if feature else name
                self._check_bound(where, name, at, bound)

    def _check_bound(self, where: str, name: str, at: str, bound: Any) -> None:
        values = bound if isinstance(bound, list | tuple) else [bound]
        for value in values:
            least = 0.0 if name == "feature_mask" else -math.inf
            _check_number(where, at, value, least, infinite=True)
            if name == "feature_mask" and value > 1:
                raise ConfigError(
                    f"{where}.{at}: expected a factor in [0, 1], found {value!r}."
                )

    @classmethod
    def of(cls, value: Mapping[str, Any] | None) -> AdversarialSettings | None:
        """Returns the settings that a dict is; None for None or an empty one.

        Raises:
          ConfigError: A key is unknown, or a value cannot be.
        """
        found = given(cls, "adversarial", value)
        return cls(**found) if found else None

    def bound(self, name: str, feature: str) -> Any:
        """Returns a mask or bound, by its name, of a feature; None for none."""
        found = _by_feature(getattr(self, name))
        return found.get(feature, found.get(""))

    def features(self) -> set[str]:
        """Returns the names of the features that have a bound or mask of their own."""
        names = ("feature_mask", "clip_value_min", "clip_value_max")
        found = {key for name in names for key in _by_feature(getattr(self, name))}
        return found - {""}


def active(
    graph: Mapping[str, Any] | None, adversarial: Mapping[str, Any] | None
) -> tuple[GraphSettings | None, AdversarialSettings | None]:
    """Returns both settings, None for one that is not given or has the multiplier 0.

    Args:
      graph: `PipelineHparams.graph`.
      adversarial: `PipelineHparams.adversarial`.
    """
    one, other = GraphSettings.of(graph), AdversarialSettings.of(adversarial)
    return (
        one if one and one.multiplier else None,
        other if other and other.multiplier else None,
    )


def _by_feature(value: Any) -> dict[str, Any]:
    if value is None:
        return {}
    if isinstance(value, Mapping):
        return {name: item for name, item in value.items() if item is not None}
    return {"": value}


def given(cls: Any, where: str, value: Any) -> dict[str, Any]:
    """Returns what a dict says of settings, without what is None.

    Args:
      cls: The dataclass of the settings.
      where: Their name in messages.
      value: The dict, or None.

    Raises:
      ConfigError: It is no dict, or has an unknown key.
    """
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise ConfigError(f"{where}: expected a dict, found {value!r:.80}.")
    names = [field.name for field in dataclasses.fields(cls)]
    for key in value:
        if key not in names:
            raise ConfigError(unknown_name("key", str(key), names, where))
    return {key: item for key, item in value.items() if item is not None}


def _check_name(where: str, key: str, value: Any, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ConfigError(unknown_name("value", str(value), known, f"{where}.{key}"))


def _check_number(
    where: str, key: str, value: Any, least: float, infinite: bool = False
) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not value >= least or (math.isinf(value) and not infinite):
        raise ConfigError(
            f"{where}.{key}: expected a number of at least {least:g}, found {value!r}."
        )


def _check_whole(where: str, key: str, value: Any, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ConfigError(
            f"{where}.{key}: expected a whole number of at least {least}, found "
            f"{value!r}."
        )
