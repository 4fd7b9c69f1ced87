"""`PipelineHparams`: what a pipeline is told about training."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import math
import warnings
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tfr_pipeline.compat import tfr
from tfr_pipeline.errors import ConfigError, unknown_name
from tfr_pipeline.model.pretraining import Pretrain
from tfr_pipeline.optimizers.averaging import WeightAveraging
from tfr_pipeline.pipeline.warm_start import WarmStart
from tfr_pipeline.regularization.distillation import DistillSettings
from tfr_pipeline.regularization.settings import AdversarialSettings, GraphSettings

# Parameter, least value, whether it may be None.
_INTEGERS = (
    ("num_epochs", 1, False),
    ("steps_per_epoch", 1, True),
    ("validation_steps", 1, True),
    ("steps_per_execution", 1, False),
    ("early_stopping_patience", 0, False),
    ("checkpoint_every_steps", 1, True),
)
_LARGEST = 2**63 - 1  # that a tensor holds
PRECISIONS = ("float32", "mixed_bfloat16")


@dataclasses.dataclass
class PipelineHparams(tfr.keras.pipeline.PipelineHparams):
    """Hyperparameters of `ModelFitPipeline`.

    The parameters up to `tpu` are TF-Ranking's; the others are keyword only.
    `num_train_steps` (in all epochs together) and `num_valid_steps`, the spelling of
    TF-Ranking's published guide, are accepted for `steps_per_epoch` and
    `validation_steps`.

    Attributes:
      model_dir: Run directory.
      num_epochs: Epochs of training.
      steps_per_epoch: Steps an epoch; None for one pass over the data.
      validation_steps: At most so many batches of validation data; None for all.
        Lists are never seen twice.
      learning_rate: Learning rate, the highest one where a schedule changes it.
      loss: Name of a loss, a weighted sum as `losses.get` reads it, a function of
        `(y_true, y_pred)`, or what returns a loss when it is called with `loss_args`;
        for `MultiTaskPipeline` also a dict of them by task.
      loss_reduction: A `tf.losses.Reduction`.
      optimizer: Name of a Keras optimizer, such as `adam`, or what returns one.
      loss_weights: Weight of each loss by task.
      steps_per_execution: Steps in one call of the training function.
      automatic_reduce_lr: Reduces the learning rate when the validation loss stalls,
        as `schedule="plateau"` does.
      early_stopping_patience: Epochs without improvement after which to stop; 0
        never stops.
      early_stopping_min_delta: Least change of `best_exporter_metric` that counts.
      use_weighted_metrics: Also reports metrics weighted by document weights.
      export_best_model: Also exports the weights of the best epoch.
      best_exporter_metric_higher_better: Whether more is better.
      best_exporter_metric: `loss`, or a metric such as `ndcg_10`.
      strategy: None or the name of a `tf.distribute` strategy.
      cluster_resolver: Cluster resolver of the strategy.
      variable_partitioner: Partitioner of `ParameterServerStrategy`; None for one
        that splits large variables over all servers.
      tpu: For `TPUStrategy`: "local", the TPU of this machine.
      optimizer_args: Further arguments of the optimizer: `weight_decay`,
        `global_clipnorm`, `clipnorm`, `clipvalue`, `beta_1`, ...
      schedule: Name of a schedule or a dict with its `name` and arguments; see
        `pipeline.schedules`. None for a constant rate.
      loss_args: Further arguments of the loss, such as `temperature`; or dicts of them
        by task.
      metrics: Names of the metrics to report, functions of `(y_true, y_pred)`, or what
        returns a metric; or a dict of them by task.
      training_metrics: Computes the metrics in training steps too, which costs a
        sort of every list a metric.
      layout: `packed` or `padded`; None takes the best that model, data and strategy
        can do.
      precision: `mixed_bfloat16` computes layers in bfloat16 and keeps weights, losses
        and scores in float32: faster on processors with bfloat16 instructions, slower
        without. `float32`, or None for Keras's global policy, which is float32 too
        unless somebody has set it.
      checkpoint_every_steps: Saves the state so often, beside the end of each epoch.
      checkpoint_every_seconds: Saves the state at the first step boundary after so
        many seconds without a save; the chief's clock counts. None or 0 for never.
      callbacks: What returns a Keras callback each, called before training; they come
        after ours and before the one that saves.
      seed: Seed of everything random; None draws one, which `config.json` records.
      warm_start: What the run begins with and which layers train when: a dict of
        `from`, `layers`, `frozen`, `unfreeze_epoch` and `unfreeze_rate`; see
        `WarmStart`. None for weights of its own, which all train.
      pretrain: What `PretrainingPipeline` learns without labels: a dict of `task` and
        its settings; see `Pretrain`. None for a model that ranks.
      graph: How scores of neighbours in a graph are kept together: a dict with the
        attributes of `GraphSettings`, whose names are NSL's. None for no graph.
      adversarial: How features are perturbed against the model, which learns to bear
        it: a dict with the attributes of `AdversarialSettings`, likewise.
      distill: Whose scores the model learns of beside the labels: a dict with the
        attributes of `DistillSettings`. None for the labels alone.
      weight_averaging: Evaluates, keeps and exports averages of the weights over
        training steps: `ema`, `swa` or a dict of the `name` and arguments; see
        `WeightAveraging.of`. None for the weights of the last step.
      gradient_norms: Writes norms of the gradient, of all weights and by layer, for
        TensorBoard.
      optimizers: Other optimizers of some layers: a dict from globs of layers, see
        `WarmStart`, to dicts of `optimizer`, `learning_rate`, `schedule` and
        `optimizer_args`, those that are not there being as above. The first glob that
        names a weight counts; the optimizer above trains the rest.
    """

    model_dir: str
    num_epochs: int
    steps_per_epoch: int | None
    validation_steps: int | None
    learning_rate: float
    loss: str | dict[str, Any] | Callable[..., Any]
    loss_reduction: str = tf.losses.Reduction.AUTO
    optimizer: str | Callable[..., Any] = "adam"
    loss_weights: float | dict[str, float] | None = None
    steps_per_execution: int = 10
    automatic_reduce_lr: bool = False
    early_stopping_patience: int = 0
    early_stopping_min_delta: float = 0.0
    use_weighted_metrics: bool = False
    export_best_model: bool = False
    best_exporter_metric_higher_better: bool = False
    best_exporter_metric: str = "loss"
    strategy: str | None = None
    cluster_resolver: Any = None
    variable_partitioner: Any = None
    tpu: str | None = ""
    _: dataclasses.KW_ONLY
    optimizer_args: dict[str, Any] = dataclasses.field(default_factory=dict)
    schedule: str | dict[str, Any] | None = None
    loss_args: dict[str, Any] = dataclasses.field(default_factory=dict)
    metrics: tuple[Any, ...] | dict[str, tuple[Any, ...]] = (
        "ndcg_1",
        "ndcg_5",
        "ndcg_10",
        "ndcg",
    )
    training_metrics: bool = False
    layout: str | None = None
    precision: str | None = None
    checkpoint_every_steps: int | None = None
    checkpoint_every_seconds: float | None = 600.0
    callbacks: tuple[Callable[[], Any], ...] = ()
    seed: int | None = None
    warm_start: dict[str, Any] | None = None
    pretrain: dict[str, Any] | None = None
    graph: dict[str, Any] | None = None
    adversarial: dict[str, Any] | None = None
    distill: dict[str, Any] | None = None
    weight_averaging: str | dict[str, Any] | None = None
    gradient_norms: bool = False
    optimizers: dict[str, dict[str, Any]] | None = None

    def __post_init__(self) -> None:
        for name, least, optional in _INTEGERS:
            value = getattr(self, name)
            if value is None and optional:
                continue
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ConfigError(
                    f"PipelineHparams.{name}: expected an integer of at least {least}"
                    f"{' or None' if optional else ''}, found {value!r}."
                )
            if value > _LARGEST:
                raise ConfigError(
                    f"PipelineHparams.{name}: expected at most {_LARGEST}, found "
                    f"{value}."
                )
        rate, delta = self.learning_rate, self.early_stopping_min_delta
        if not isinstance(rate, int | float) or not 0 < rate < math.inf:
            raise ConfigError(
                "PipelineHparams.learning_rate: expected a positive number, found "
                f"{rate!r}."
            )
        if not isinstance(delta, int | float) or not delta >= 0:
            raise ConfigError(
                "PipelineHparams.early_stopping_min_delta: expected a number of at "
                f"least 0, found {delta!r}."
            )
        seconds = self.checkpoint_every_seconds
        if seconds is not None and (
            not isinstance(seconds, int | float)
            or isinstance(seconds, bool)
            or not 0 <= seconds < math.inf
        ):
            raise ConfigError(
                "PipelineHparams.checkpoint_every_seconds: expected a positive number, "
                f"or 0 or None for never, found {seconds!r}."
            )
        if self.precision not in (None, *PRECISIONS):
            raise ConfigError(
                unknown_name("precision", str(self.precision), PRECISIONS)
            )
        if self.layout not in (None, "packed", "padded"):
            raise ConfigError(
                unknown_name("layout", str(self.layout), ("packed", "padded"))
            )
        WarmStart.of(self.warm_start)
        Pretrain.of(self.pretrain)
        WeightAveraging.of(self.weight_averaging)
        graph = GraphSettings.of(self.graph)
        adversarial = AdversarialSettings.of(self.adversarial)
        for name, given in (("graph", graph), ("adversarial", adversarial)):
            if given is not None and not given.multiplier:
                warnings.warn(
                    f"{name}: it has no effect, for its multiplier is 0.", stacklevel=3
                )
        distill = DistillSettings.of(self.distill)
        if distill is not None and self.pretrain:
            raise ConfigError(
                "distill: expected a model that ranks, found pretrain beside it. Leave "
                "one of the two out."
            )
        if distill is not None and not distill.weight:
            warnings.warn(
                "distill: it has no effect, for its weight is 0.", stacklevel=3
            )
        elif distill is not None and distill.ignores_temperature:
            warnings.warn(
                f"distill: temperature={distill.temperature:g} has no effect with "
                "mean_squared_loss, to which the scale of scores is nothing.",
                stacklevel=3,
            )


# The spelling of TF-Ranking's published guide.
_GUIDE = {"num_train_steps": "steps_per_epoch", "num_valid_steps": "validation_steps"}


def _accept_guide_names(init: Callable[..., None]) -> Callable[..., None]:
    """Lets `__init__` take `num_train_steps` and `num_valid_steps`.

    A wrapper, because the signature has to stay TF-Ranking's.
    """
    signature = inspect.signature(init)

    @functools.wraps(init)
    def wrapped(self: Any, *args: Any, **kwargs: Any) -> None:
        guide = {name: kwargs.pop(name) for name in _GUIDE if name in kwargs}
        given = signature.bind_partial(self, *args, **kwargs).arguments
        for name in guide:
            if given.get(_GUIDE[name]) is not None:
                raise ConfigError(
                    f"PipelineHparams: expected {name} or {_GUIDE[name]}, found both."
                )
        if "num_valid_steps" in guide:
            kwargs["validation_steps"] = guide["num_valid_steps"]
        total = guide.get("num_train_steps")
        if total is not None:
            epochs = given.get("num_epochs")
            if not epochs or total % epochs:
                raise ConfigError(
                    "num_train_steps: expected a multiple of num_epochs "
                    f"({epochs}), found {total}."
                )
            kwargs["steps_per_epoch"] = total // epochs
        init(self, *args, **kwargs)

    return wrapped


PipelineHparams.__init__ = _accept_guide_names(  # type: ignore[method-assign]
    PipelineHparams.__init__
)
