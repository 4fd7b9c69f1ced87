"""Settings that do nothing beside others: a table of them, and when they do nothing.

Where a setting is looked at when it is made, as `DatasetHparams.truncation` is, the
warning stands there.
"""

from __future__ import annotations

import contextlib
import dataclasses
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from tfr_pipeline.errors import DataError
from tfr_pipeline.optimizers.averaging import WeightAveraging
from tfr_pipeline.pipeline.checks import selects
from tfr_pipeline.pipeline.datasets.adapter import adapt
from tfr_pipeline.pipeline.datasets.hparams import DatasetHparams
from tfr_pipeline.pipeline.distribute.strategies import PS_STRATEGY, TPU_STRATEGY
from tfr_pipeline.pipeline.hparams import PipelineHparams


@dataclasses.dataclass(frozen=True)
class Told:
    """What a pipeline was told.

    Attributes:
      hparams: Its hyperparameters.
      data: Those of its dataset builder, ours or TF-Ranking's; None of other builders.
      measures: Whether there is a metric.
      described: Whether the dataset builder describes its features.
    """

    hparams: PipelineHparams
    data: Any = None
    measures: bool = True
    described: bool = True

    @property
    def selects(self) -> bool:
        """Whether anything depends on which epoch is the best."""
        return selects(self.hparams)

    @property
    def validates(self) -> bool:
        """Whether there may be validation data."""
        return (
            self.data is None or bool(self.data.valid_input_pattern) or self.has_folds
        )

    @property
    def has_folds(self) -> bool:
        """Whether a fold of the training data validates."""
        return getattr(self.data, "folds", None) is not None

    @property
    def averages_from(self) -> int:
        """The epoch, from 0, from which weights are averaged."""
        setting = WeightAveraging.of(self.hparams.weight_averaging)
        return setting.start_epoch if setting else 0

    @property
    def names_loss(self) -> bool:
        """Whether a loss is made of its name; callables do as they like."""
        loss = self.hparams.loss
        losses = loss.values() if isinstance(loss, Mapping) else [loss]
        return not all(callable(item) for item in losses)


_UNSELECTED = "without export_best_model or early_stopping_patience"
_NO_METRICS = "without metrics"
_NO_VALIDATION = "without validation data"
# Setting, when it has no effect, and why. A setting with its default is none.
_OF_PIPELINES: tuple[tuple[str, Callable[[Told], bool], str], ...] = (
    ("best_exporter_metric", lambda told: not told.selects, _UNSELECTED),
    (
        "early_stopping_min_delta",
        lambda told: not told.hparams.early_stopping_patience,
        "without early_stopping_patience",
    ),
    (
        "weight_averaging",
        lambda told: told.averages_from >= told.hparams.num_epochs,
        "before its start_epoch: epochs count from 0",
    ),
    ("validation_steps", lambda told: not told.validates, _NO_VALIDATION),
    ("use_weighted_metrics", lambda told: not told.measures, _NO_METRICS),
    ("training_metrics", lambda told: not told.measures, _NO_METRICS),
    (
        "loss_reduction",
        lambda told: not told.names_loss,
        "beside a loss of your own, which has its reduction; give it in loss_args",
    ),
    (
        "variable_partitioner",
        lambda told: told.hparams.strategy != PS_STRATEGY,
        f"without strategy={PS_STRATEGY!r}",
    ),
    (
        "tpu",
        lambda told: told.hparams.strategy != TPU_STRATEGY,
        f"without strategy={TPU_STRATEGY!r}",
    ),
    (
        "steps_per_execution",
        lambda told: told.hparams.strategy == PS_STRATEGY,
        f"with strategy={PS_STRATEGY!r}, whose workers are sent one step at a time",
    ),
)
_OF_DATA: tuple[tuple[str, Callable[[Told], bool], str], ...] = (
    ("valid_list_size", lambda told: not told.validates, _NO_VALIDATION),
    (
        "valid_input_pattern",
        lambda told: told.has_folds,
        "with data.folds: one fold of the training files validates. To have these "
        "files in the folds, name them beside those, with a comma between",
    ),
    (
        "test_input_pattern",
        lambda told: getattr(told.data, "test_fold", None) is not None,
        "with data.test_fold: that fold of the training files is measured",
    ),
    (
        "test_input_pattern",
        lambda told: not told.described,
        "with a dataset builder that does not describe its features",
    ),
)


def messages(told: Told) -> Iterator[str]:
    """Yields a sentence for each setting that does nothing beside the others."""
    for hparams, defaults, table in (
        (told.hparams, PipelineHparams, _OF_PIPELINES),
        (told.data, DatasetHparams, _OF_DATA),
    ):
        for name, useless, why in table:
            # Those of TF-Ranking lack our fields; some of its fields have no default.
            value, default = (getattr(x, name, None) for x in (hparams, defaults))
            if value not in (None, "", default) and useless(told):
                yield f"{name}={value!r} has no effect {why}."


def warn(hparams: PipelineHparams, dataset_builder: Any, metrics: list[Any]) -> None:
    """Warns of the settings of a pipeline that do nothing.

    Args:
      hparams: Its hyperparameters.
      dataset_builder: Its dataset builder.
      metrics: All that it measures.
    """
    builder, described = adapt(dataset_builder), True
    with contextlib.suppress(DataError):  # specs that no file can describe
        described = builder.features is not None
    for message in messages(Told(hparams, builder.hparams, bool(metrics), described)):
        warnings.warn(message, stacklevel=3)
