"""Distribution strategies by name."""

from __future__ import annotations

import contextlib
import functools
import itertools
import logging
import os
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tfr_pipeline.cluster import beat, heartbeat
from tfr_pipeline.errors import ConfigError, unknown_name

TPU_STRATEGY = "TPUStrategy"
PS_STRATEGY = "ParameterServerStrategy"
MIRRORED_STRATEGY = "MirroredStrategy"
MWMS_STRATEGY = "MultiWorkerMirroredStrategy"
STRATEGIES = (MIRRORED_STRATEGY, MWMS_STRATEGY, PS_STRATEGY, TPU_STRATEGY)

DEFAULT_PARTITIONER = object()

# Jobs of a cluster: those that `ParameterServerStrategy` sends work to, and the one
# that trains nothing.
SERVERS = ("worker", "ps")
EVALUATOR = "evaluator"
# Functions that are made for each model, or for each value.
_OURS = ("compute_gathered_values", "agreement.<locals>", "RankingModel._many_steps")


class _Mirrored(tf.distribute.MirroredStrategy):
    """A `MirroredStrategy` that does not mind others in the same process.

    TensorFlow numbers the collective operations of each one from the same number on,
    and remembers the shape that belongs to a number: a second model fails.
    """

    _key_bases = itertools.count(0, 100_000)

    def __init__(self, devices: list[str] | None):
        self._collective_key_base = next(self._key_bases)
        super().__init__(devices)


def get_strategy(
    strategy: str | None,
    cluster_resolver: Any = None,
    variable_partitioner: Any = DEFAULT_PARTITIONER,
    tpu: str | None = "",
) -> tf.distribute.Strategy | None:
    """Creates a `tf.distribute` strategy.

    Args:
      strategy: One of `STRATEGIES`, or None for none; so are an empty string and
        "None", which is how a command line says it.
      cluster_resolver: Cluster resolver; None reads TF_CONFIG where one is needed.
      variable_partitioner: For `ParameterServerStrategy`. By default, variables over
        256 kB are split over all servers; None splits nothing.
      tpu: Address of the TPU for `TPUStrategy`.

    Raises:
      ConfigError: An unknown name, or no cluster where one is needed.
    """
    if not strategy or strategy == "None":
        return None
    if strategy == MIRRORED_STRATEGY:
        # On a machine without GPU its default is one replica a logical CPU device.
        devices = None
        if not tf.config.list_logical_devices("GPU"):
            devices = [d.name for d in tf.config.list_logical_devices("CPU")]
        return _Mirrored(devices)
    if strategy == MWMS_STRATEGY:
        tf.get_logger().addFilter(_is_news)
        if cluster_resolver is None and (told := os.environ.get("TF_CONFIG")):
            return _of_job(told)
        return tf.distribute.MultiWorkerMirroredStrategy(
            cluster_resolver=cluster_resolver
        )
    if strategy == TPU_STRATEGY:
        try:
            resolver = tf.distribute.cluster_resolver.TPUClusterResolver(tpu=tpu)
            tf.config.experimental_connect_to_cluster(resolver)
            tf.tpu.experimental.initialize_tpu_system(resolver)
        except (ValueError, tf.errors.OpError) as error:
            raise ConfigError(
                f"{TPU_STRATEGY}: no TPU answers at pipeline.tpu={tpu!r} "
                f"({str(error)[:200]}). 'local' is that of the machine itself."
            ) from error
        return tf.distribute.TPUStrategy(resolver)
    if strategy == PS_STRATEGY:
        cluster_resolver = cluster_resolver or resolver_of_environment()
        servers = cluster_resolver.cluster_spec().as_dict().get("ps", [])
        if not servers:
            raise ConfigError(
                f"{PS_STRATEGY}: the cluster has no 'ps' task; set TF_CONFIG or start "
                "the job with a launcher."
            )
        if variable_partitioner is DEFAULT_PARTITIONER:
            partitioners = tf.distribute.experimental.partitioners
            variable_partitioner = partitioners.MinSizePartitioner(
                max_shards=len(servers)
            )
        return tf.distribute.ParameterServerStrategy(
            cluster_resolver, variable_partitioner
        )
    raise ConfigError(unknown_name("strategy", strategy, STRATEGIES))


@functools.lru_cache(maxsize=1)
def _of_job(tf_config: str) -> tf.distribute.Strategy:
    """Returns the strategy of the job that TF_CONFIG describes, one for all pipelines.

    A process takes part in its job once: TensorFlow would open the same port again, and
    number the exchanges of a second strategy as those of the first.
    """
    return tf.distribute.MultiWorkerMirroredStrategy()


def _is_news(record: logging.LogRecord) -> bool:
    """Leaves out that TensorFlow makes a function anew, as each model of ours does."""
    message = record.getMessage()
    return "retracing" not in message or not any(name in message for name in _OURS)


def resolver_of_environment() -> Any:
    """Returns the cluster resolver that reads TF_CONFIG."""
    if not os.environ.get("TF_CONFIG"):
        os.environ.pop("TF_CONFIG", None)  # TensorFlow stumbles over an empty one.
    return tf.distribute.cluster_resolver.TFConfigClusterResolver()


def strategy_scope(strategy: tf.distribute.Strategy | None) -> Any:
    """Returns the scope of a strategy, or a scope that does nothing for None."""
    return contextlib.nullcontext() if strategy is None else strategy.scope()


def is_chief(strategy: tf.distribute.Strategy | None) -> bool:
    """Whether this process is the one that writes into the run directory."""
    resolver = getattr(strategy, "cluster_resolver", None)
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return True
    if resolver is None or not resolver.cluster_spec().as_dict():
        return True
    return resolver.task_type == "chief" or (
        "chief" not in resolver.cluster_spec().as_dict()
        and resolver.task_type == "worker"
        and resolver.task_id == 0
    )


def place_among_workers(strategy: tf.distribute.Strategy | None) -> tuple[int, int]:
    """Returns the number of this worker, as `tf.distribute` counts, and of all."""
    resolver = getattr(strategy, "cluster_resolver", None)
    if resolver is None or not isinstance(
        strategy, tf.distribute.MultiWorkerMirroredStrategy
    ):
        return 0, 1
    jobs = resolver.cluster_spec().as_dict()
    if not jobs:
        return 0, 1
    chiefs, workers = (len(jobs.get(job, [])) for job in ("chief", "worker"))
    place = resolver.task_id + (chiefs if resolver.task_type == "worker" else 0)
    return place, max(1, chiefs + workers)


def is_distributed(strategy: tf.distribute.Strategy | None) -> bool:
    """Whether variables live in several processes."""
    return isinstance(
        strategy,
        (
            tf.distribute.MultiWorkerMirroredStrategy,
            tf.distribute.ParameterServerStrategy,
        ),
    )


def is_coordinator(strategy: tf.distribute.Strategy | None) -> bool:
    """Whether this process hands out the steps that others take."""
    return isinstance(strategy, tf.distribute.ParameterServerStrategy)


def agreement(strategy: tf.distribute.Strategy | None) -> Callable[[int], int]:
    """Returns a function that gives the largest of the workers' values to all of them.

    Every worker has to call it as often as the others: each waits for the last, so it
    is a barrier as well. Without other workers the value comes straight back.

    Args:
      strategy: The strategy.
    """
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return lambda value: value

    # One trace a value: as an argument, a tensor would have no device to gather on.
    @tf.function(autograph=False)
    def gather(value: int) -> Any:
        def on_replica() -> Any:
            context = tf.distribute.get_replica_context()
            # Every replica fills in its own place: a sum is one exchange, where
            # `all_gather` takes two.
            place = tf.one_hot(
                context.replica_id_in_sync_group,
                context.num_replicas_in_sync,
                dtype=tf.int32,
            )
            return context.all_reduce(tf.distribute.ReduceOp.SUM, place * value)

        return strategy.experimental_local_results(strategy.run(on_replica))[0]

    def agree(value: int) -> int:
        with heartbeat.doing(beat.WAIT):
            return int(tf.reduce_max(gather(int(value))))

    return agree
