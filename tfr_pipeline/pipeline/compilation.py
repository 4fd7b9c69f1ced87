"""The model of a run: built as the layout and the precision ask, then compiled."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import tensorflow as tf

from tfr_pipeline.errors import ConfigError, PipelineError, unknown_name
from tfr_pipeline.layout import BlockLayout
from tfr_pipeline.model import layer_names
from tfr_pipeline.model.gradient_norms import GradientNorms
from tfr_pipeline.model.layers.members import members_of
from tfr_pipeline.model.ranking_model import RankingModel
from tfr_pipeline.optimizers import by_layer
from tfr_pipeline.optimizers.averaging import Averages, WeightAveraging
from tfr_pipeline.optimizers.factory import build_optimizer
from tfr_pipeline.optimizers.late import check_start
from tfr_pipeline.pipeline.distribute import strategies
from tfr_pipeline.pipeline.hparams import PipelineHparams
from tfr_pipeline.pipeline.run.freezing import Freezing
from tfr_pipeline.pipeline.warm_start import WarmStart
from tfr_pipeline.regularization import settings
from tfr_pipeline.regularization.distillation import DistillSettings
from tfr_pipeline.regularization.step import Regularization


def build_model(
    builder: Any, layout: str | None, precision: str | None
) -> tf.keras.Model:
    """Returns the model of a model builder, not compiled.

    Args:
      builder: The model builder.
      layout: `packed` for the model that takes packed batches.
      precision: A Keras policy; None leaves the global one.

    Raises:
      ConfigError: The parts of the builder cannot do with what they were told.
    """
    policy = tf.keras.mixed_precision.global_policy()
    tf.keras.mixed_precision.set_global_policy(precision or policy)
    try:
        return builder.build_packed() if layout == "packed" else builder.build()
    except PipelineError:
        raise
    except (TypeError, ValueError, OverflowError) as error:
        # Layers say what is wrong with their arguments, but not whose those are.
        raise ConfigError(
            f"{type(builder).__name__}: the model cannot be built: "
            f"{type(error).__name__}: {str(error)[:400]} Look at what it was told, "
            "such as config.model.scorer_args."
        ) from error
    finally:
        tf.keras.mixed_precision.set_global_policy(policy)


def compile_model(
    model: tf.keras.Model,
    hparams: PipelineHparams,
    total_steps: int,
    loss: Any,
    metrics: Any,
    weighted_metrics: Any,
    check_loss: bool,
    packed: BlockLayout | None = None,
) -> None:
    """Compiles a model within the scope of the strategy that the caller is in.

    Args:
      model: What `build_model` returned in the same scope.
      hparams: Hyperparameters.
      total_steps: Steps of all epochs, for the schedule.
      loss: As Keras takes it.
      metrics: As Keras takes them.
      weighted_metrics: As Keras takes them.
      check_loss: Whether the step itself looks for losses that are not finite, in a
        model that can.
      packed: Where document features stand in packed batches; None for others.

    Raises:
      ConfigError: A setting cannot be, or the model cannot be regularised.
    """
    warm_start = WarmStart.of(hparams.warm_start)
    freezing = Freezing(model, warm_start)
    optimizer = make_optimizer(hparams, total_steps)
    _share(optimizer, model, hparams, total_steps)
    for one in by_layer.all_of(optimizer):
        if warm_start.source or freezing.freezes:
            check_start(one)
        freezing.set_terms(one, total_steps // hparams.num_epochs)
    model.compile(
        optimizer=optimizer,
        loss=loss,
        metrics=metrics,
        loss_weights=hparams.loss_weights,
        weighted_metrics=weighted_metrics,
        # Workers of parameter servers are sent one step at a time.
        steps_per_execution=(
            1
            if strategies.is_coordinator(tf.distribute.get_strategy())
            else hparams.steps_per_execution
        ),
    )
    # TensorFlow traces a step twice that makes variables, such as the slots.
    if isinstance(model.optimizer, tf.keras.optimizers.Optimizer):
        model.optimizer.build(freezing.trained)
    if isinstance(model, RankingModel):
        model.training_metrics = hparams.training_metrics
        model.check_loss = check_loss
    _check_members(model, hparams)
    _regularize(model, hparams, packed)
    if hparams.gradient_norms:
        _check_step(model, "pipeline.gradient_norms")
        model.gradient_norms = GradientNorms(model)
    _average(model, hparams, freezing.trained, total_steps // hparams.num_epochs)


def make_optimizer(hparams: PipelineHparams, total_steps: int) -> Any:
    """Returns the optimizer of hyperparameters, or of one of `other_optimizers`.

    Args:
      hparams: Hyperparameters.
      total_steps: Steps of all epochs, for the schedule.

    Raises:
      ConfigError: See `build_optimizer`.
    """
    return build_optimizer(
        hparams.optimizer,
        hparams.learning_rate,
        total_steps,
        hparams.schedule,
        hparams.optimizer_args,
    )


_OF_OPTIMIZERS = ("optimizer", "learning_rate", "schedule", "optimizer_args")


def other_optimizers(hparams: PipelineHparams) -> dict[str, PipelineHparams]:
    """Returns what `hparams.optimizers` says, as hyperparameters by glob.

    Raises:
      ConfigError: A key is unknown, or a value cannot be.
    """
    found = {}
    for glob, told in (hparams.optimizers or {}).items():
        where = f"optimizers[{glob!r}]"
        if not isinstance(told, Mapping):
            raise ConfigError(f"{where}: expected a dict, found {told!r:.80}.")
        for key in told:
            if key not in _OF_OPTIMIZERS:
                raise ConfigError(unknown_name("key", key, _OF_OPTIMIZERS, where))
        own = {key: value for key, value in told.items() if value is not None}
        if "optimizer" in own:  # whose arguments are those of another one
            own = {"optimizer_args": {}, **own}
        with _naming(where):
            found[glob] = dataclasses.replace(hparams, **own)
    return found


def make_others(hparams: PipelineHparams, total_steps: int) -> dict[str, Any]:
    """Returns the optimizers of `other_optimizers` by glob.

    Args:
      hparams: Hyperparameters.
      total_steps: See `make_optimizer`.

    Raises:
      ConfigError: See `build_optimizer`; it says of which glob.
    """
    made = {}
    for glob, told in other_optimizers(hparams).items():
        with _naming(f"optimizers[{glob!r}]"):
            made[glob] = make_optimizer(told, total_steps)
    return made


@contextlib.contextmanager
def _naming(where: str) -> Iterator[None]:
    """Puts a place before what is said of a wrong setting."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error


def _share(
    optimizer: Any, model: tf.keras.Model, hparams: PipelineHparams, total_steps: int
) -> None:
    """Lets other optimizers train the layers that are theirs."""
    if not hparams.optimizers:
        return
    rest = {
        path: [v for v in weights if v.trainable]
        for path, weights in layer_names.weights(model).items()
    }
    known, others = [path for path in rest if rest[path]], []
    for glob, other in make_others(hparams, total_steps).items():
        paths = [path for path in known if layer_names.matches(path, [glob])]
        if not paths:
            raise ConfigError(unknown_name("layers", glob, known, "optimizers"))
        own = [variable for path in paths for variable in rest.pop(path, [])]
        others.append((other, own))
    by_layer.share(optimizer, others)


def _check_members(model: tf.keras.Model, hparams: PipelineHparams) -> None:
    """Checks that a model of several members can have the loss of each.

    Raises:
      ConfigError: Its training step, its loss or its graph cannot be so.
    """
    members = members_of(model)
    if members == 1:
        return
    what = f"a scorer whose {members} members have losses of their own"
    if (
        not isinstance(model, RankingModel)
        or type(model).train_step is not RankingModel.train_step
    ):
        raise ConfigError(
            f"{what}: expected a model whose training step is ours, a RankingModel, "
            f"found {type(model).__name__}. Take a model builder of tfr_pipeline."
        )
    if not model.averages:
        raise ConfigError(
            f"pipeline.loss_reduction: {what}, takes the mean over members: expected a "
            "mean over lists too, found a sum. Leave loss_reduction out."
        )
    if settings.active(hparams.graph, None)[0] is not None:
        raise ConfigError(
            f"pipeline.graph: {what}, cannot be regularised by neighbours. Take the "
            "scorer 'dnn', or leave pipeline.graph out."
        )


def _regularize(
    model: tf.keras.Model, hparams: PipelineHparams, packed: BlockLayout | None
) -> None:
    """Lets training steps of a compiled model count what others than labels add."""
    graph, adversarial = settings.active(hparams.graph, hparams.adversarial)
    distill = DistillSettings.of(hparams.distill)
    if distill is not None and not distill.weight:
        distill = None
    if graph is None and adversarial is None and distill is None:
        return
    _check_step(model, "pipeline.graph, pipeline.adversarial, pipeline.distill")
    model.regularization = Regularization(model, graph, adversarial, packed, distill)


def _average(
    model: tf.keras.Model, hparams: PipelineHparams, trained: list[Any], steps: int
) -> None:
    """Lets training steps of a compiled model average its weights."""
    setting = WeightAveraging.of(hparams.weight_averaging)
    if setting is None:
        return
    _check_step(model, "pipeline.weight_averaging")
    # Moving statistics; not the weights of frozen layers, which have none of these.
    moving = [
        weight
        for weight in model.non_trainable_weights
        if weight.dtype.is_floating and not weight.trainable
    ]
    model.weight_averages = Averages([*trained, *moving], setting, steps)


def _check_step(model: tf.keras.Model, where: str) -> None:
    """Raises a ConfigError if the training step of a model is not ours."""
    if (
        not isinstance(model, RankingModel)
        or type(model).train_step is not RankingModel.train_step
    ):
        raise ConfigError(
            f"{where}: expected a model whose training step is ours, a RankingModel, "
            f"found {type(model).__name__}. Take a model builder of tfr_pipeline."
        )
