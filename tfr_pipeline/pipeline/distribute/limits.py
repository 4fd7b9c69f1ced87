"""Batches against replicas: what cannot be distributed, and how foreign data is."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf

from tfr_pipeline import declared
from tfr_pipeline.data.batching.plan import BatchPlan
from tfr_pipeline.data.batching.windowed import WindowedPlan
from tfr_pipeline.errors import ConfigError
from tfr_pipeline.model import parts


def check_batch_sizes(hparams: Any, replicas: int) -> None:
    """Checks that there are batches for all replicas, before data is read.

    Args:
      hparams: The dataset builder's hyperparameters; of a builder of another kind,
        whatever it has, or None.
      replicas: Number of replicas that share a global batch.

    Raises:
      ConfigError: A global training batch has fewer lists than replicas.
    """
    train = getattr(hparams, "train_batch_size", None)
    budget = getattr(hparams, "documents_per_batch", None)
    name, size = "train_batch_size", train
    if budget is not None:
        name, size = "documents_per_batch", budget
    if size is not None and size < replicas:
        raise ConfigError(
            f"{name}: expected at least one list for each of {replicas} replicas, "
            f"found {size}. It is the size of the global batch, over all replicas; "
            f"set it to {replicas} or more, better to a multiple of what one took."
        )
    valid = getattr(hparams, "valid_batch_size", None)
    if valid is not None and valid < replicas:
        warnings.warn(
            f"valid_batch_size={valid}, over {replicas} replicas: some have nothing to "
            "do in validation.",
            stacklevel=3,
        )


def check_plan(plan: BatchPlan | WindowedPlan, documents_per_batch: int | None) -> None:
    """Checks that each global batch of the data has a list for each replica.

    Raises:
      ConfigError: There are too few lists.
    """
    replicas = plan.replicas
    if plan.num_lists < replicas:
        raise ConfigError(
            f"training data: expected at least {replicas} lists, one for each replica, "
            f"found {plan.num_lists}. Take fewer workers or devices."
        )
    if documents_per_batch is not None and plan.has_few_lists:
        raise ConfigError(
            f"documents_per_batch: expected batches of at least {replicas} lists, one "
            f"for each replica; found {plan.num_lists} lists in total, too long for "
            f"batches of {documents_per_batch} documents. Raise it, or take fewer "
            "replicas."
        )


def check_static_shapes(
    hparams: Any, specs: Mapping[str, Any], validates: bool
) -> None:
    """Checks that every batch has the same shape and only what a TPU can hold.

    Args:
      hparams: The dataset builder's hyperparameters.
      specs: Maps the features that a model gets to their `tf.io` specs.
      validates: Whether there is validation data.

    Raises:
      ConfigError: A setting or a feature makes shapes that change, or has a dtype that
        TPUs have not.
    """
    problems = []
    for name in ["list_size"] + ["valid_list_size"] * validates:
        if not getattr(hparams, name, None):
            problems.append(f"{name} is None; set it, all lists are padded to it")
    if getattr(hparams, "documents_per_batch", None):
        problems.append("documents_per_batch makes unequal batches; leave it out")
    for name, spec in specs.items():
        if not isinstance(spec, tf.io.FixedLenFeature):
            kind = type(spec).__name__
            problems.append(
                f"feature {name!r} is a {kind}; use a tf.io.FixedLenFeature"
            )
        elif tf.as_dtype(spec.dtype) in (tf.string, tf.int64):
            dtype = tf.as_dtype(spec.dtype).name
            problems.append(f"feature {name!r} is {dtype}; make it float32")
    if problems:
        raise ConfigError(
            "TPUStrategy: expected static shapes and float32 features, found: "
            f"{'; '.join(problems)}."
        )


def check_regularization(
    strategy: Any, graph: Any, adversarial: Any, distill: Any, has_layouts: bool
) -> None:
    """Checks that training steps can count what graph, adversary and teacher add.

    Args:
      strategy: The strategy, or None.
      graph: `PipelineHparams.graph`, or None.
      adversarial: `PipelineHparams.adversarial`, or None.
      distill: `PipelineHparams.distill`, or None.
      has_layouts: Whether the dataset builder makes its batches in our way.

    Raises:
      ConfigError: They cannot.
    """
    told = {"graph": graph, "adversarial": adversarial, "distill": distill}
    for name, given in told.items():
        if given is None:
            continue
        kinds = tf.distribute.ParameterServerStrategy, tf.distribute.TPUStrategy
        if isinstance(strategy, kinds):
            raise ConfigError(
                f"pipeline.{name}: expected no strategy, MirroredStrategy or "
                f"MultiWorkerMirroredStrategy, found {type(strategy).__name__}."
            )
    if graph is not None and not has_layouts:
        raise ConfigError(
            "pipeline.graph: expected a dataset builder that keeps its lists, such as "
            "SimpleDatasetBuilder, found one that makes its datasets in its own way, "
            "without neighbours."
        )
    if distill is not None and not has_layouts:
        raise ConfigError(
            "pipeline.distill: expected a dataset builder that keeps its lists, such "
            "as SimpleDatasetBuilder, found one that makes its datasets in its own "
            "way, without the scores of a teacher."
        )
    if distill is not None and graph is not None and not graph.edges:
        raise ConfigError(
            "pipeline.distill: expected no graph beside it, or one with edges; found "
            "neighbours that are packed in the data, which the teacher does not score."
        )


def check_positions(strategy: Any) -> None:
    """Checks that training steps can take positions into account.

    Args:
      strategy: The strategy, or None.

    Raises:
      ConfigError: They cannot: what is learnt of positions is no weight of the model.
    """
    kinds = tf.distribute.ParameterServerStrategy, tf.distribute.TPUStrategy
    if isinstance(strategy, kinds):
        raise ConfigError(
            "model.position_bias: expected no strategy, MirroredStrategy or "
            f"MultiWorkerMirroredStrategy, found {type(strategy).__name__}."
        )


def check_elements(split: str, specs: Any) -> None:
    """Checks that all batches have one shape and what a TPU can hold.

    Args:
      split: `train` or `valid`, for the message.
      specs: The `element_spec` of a dataset.

    Raises:
      ConfigError: A tensor has a shape that changes, or a dtype that TPUs have not.
    """
    wrong = [
        str(spec)
        for spec in tf.nest.flatten(specs)
        if not isinstance(spec, tf.TensorSpec)
        or not spec.shape.is_fully_defined()
        or spec.dtype in (tf.string, tf.int64, tf.float64)
    ]
    if wrong:
        raise ConfigError(
            f"TPUStrategy: expected {split} batches of one shape, of float32, int32 or "
            f"bool, found {', '.join(wrong)}. Pad lists to a list_size and batch with "
            "drop_remainder=True; leave strings out and cast."
        )


def check_tpu_host(tpu: str | None) -> None:
    """Checks that this process runs on the TPU's own machine, where its data has to be.

    Batches are put together by Python code, which does not run anywhere else.

    Raises:
      ConfigError: The TPU is another machine's.
    """
    if tpu != "local":
        raise ConfigError(
            f"pipeline.tpu: expected 'local', found {tpu!r}. Start the run on the TPU "
            "VM itself, for instance with launch/tpu_vm.sh."
        )


def check_tpu_ready(model_builder: Any, losses: Sequence[Any]) -> None:
    """Checks that scorer, steps and losses are declared to work on TPUs (`tpu_ready`).

    Raises:
      ConfigError: One of them is not.
    """
    chains = getattr(parts.preprocessor(model_builder), "chains", {})
    for feature, chain in chains.items():
        for step in chain.steps:
            if not getattr(step, "tpu_ready", True):
                raise ConfigError(
                    f"TPUStrategy: expected steps of preprocessing that XLA can "
                    f"compile, found {type(step).__name__} of feature {feature!r}."
                )
    items = [parts.scorer(model_builder), *losses]
    names = [type(item).__name__ for item in items if not declared.tpu_ready(item)]
    if names:
        raise ConfigError(
            "TPUStrategy: expected a scorer and losses that XLA can compile, found "
            f"{', '.join(names)}. Take scorers and losses of tfr_pipeline, or set "
            "`tpu_ready = True` in a class of yours that "
            "`tf.function(jit_compile=True)` compiles with fixed shapes."
        )


def share_out(dataset: Any) -> Any:
    """Lets workers share a dataset by its elements, unless its options say how.

    TensorFlow's default shares by file, and fails with fewer files than workers.
    """
    if not isinstance(dataset, tf.data.Dataset):
        return dataset
    policies = tf.data.experimental.AutoShardPolicy
    if dataset.options().experimental_distribute.auto_shard_policy != policies.AUTO:
        return dataset
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = policies.DATA
    return dataset.with_options(options)
