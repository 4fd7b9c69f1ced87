"""What one process is in its job, and the strategy that it trains with."""

from __future__ import annotations

from typing import Any

from tfr_pipeline.cluster import cluster_spec
from tfr_pipeline.pipeline.distribute import limits, reading, strategies
from tfr_pipeline.pipeline.distribute.parameter_server import serve
from tfr_pipeline.pipeline.hparams import PipelineHparams


class Role:
    """What a process is in its job.

    Args:
      hparams: Say which strategy, and where the cluster and the TPU are.

    Attributes:
      resolver: Knows the cluster, and which of its tasks this is.
      strategy: The distribution strategy; None for none, and in processes that do not
        train.
      agree: See `strategies.agreement`.
      evaluates: Whether it evaluates what others train, and nothing else.
      is_chief: Whether it writes into the run directory.

    Raises:
      ConfigError: The cluster, or the machine, does not fit the strategy.
    """

    def __init__(self, hparams: PipelineHparams):
        name, resolver = hparams.strategy, hparams.cluster_resolver
        cluster_spec.check(name, resolver)
        self.resolver: Any = resolver or strategies.resolver_of_environment()
        task = self.resolver.task_type
        self.evaluates = task == strategies.EVALUATOR
        self._serves = name == strategies.PS_STRATEGY and task in strategies.SERVERS
        if name == strategies.TPU_STRATEGY:
            limits.check_tpu_host(hparams.tpu)
        # Only one task of a job with parameter servers knows the strategy.
        helps = self.evaluates or self._serves
        self.strategy = strategies.get_strategy(
            None if helps else name,
            resolver,
            # None stands for the default here, or nothing would ever be split.
            hparams.variable_partitioner or strategies.DEFAULT_PARTITIONER,
            hparams.tpu,
        )
        self.agree = strategies.agreement(self.strategy)
        self.is_chief = not helps and strategies.is_chief(self.strategy)

    def __str__(self) -> str:
        return f"{self.resolver.task_type} {self.resolver.task_id}"

    @property
    def coordinates(self) -> bool:
        """Whether it hands out the steps that others take."""
        return strategies.is_coordinator(self.strategy)

    @property
    def shares_variables(self) -> bool:
        """Whether variables live in several processes."""
        return strategies.is_distributed(self.strategy)

    def scope(self) -> Any:
        """Returns the scope in which models are made."""
        return strategies.strategy_scope(self.strategy)

    def serve_others(self, reader: reading.Reader | None = None) -> None:
        """Runs what the chief sends, in a process that does nothing else.

        Args:
          reader: See `reading.get_ready`; None if nothing is to be read.

        Raises:
          SystemExit: It was such a process, and SIGTERM came.
        """
        if reader is not None and (self._serves or self.coordinates):
            reading.get_ready(reader)
        if self._serves:
            serve(self.resolver)
