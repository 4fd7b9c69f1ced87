"""Workers of one job that compare what they were told, before they train."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from tfr_pipeline import __version__
from tfr_pipeline.errors import ConfigError
from tfr_pipeline.pipeline.run import data_fingerprint
from tfr_pipeline.pipeline.run.comparison import FREE_OF_WORKERS, differences
from tfr_pipeline.pipeline.run.progress import gathering


def exchange(strategy: Any, mine: bytes) -> list[bytes]:
    """Returns the bytes of all workers, to each of them.

    Every worker has to call it as often as the others, for each waits for the last.

    Args:
      strategy: A `MultiWorkerMirroredStrategy`.
      mine: What this worker has to say.
    """
    lengths = [int(length) for length in gathering(strategy)(float(len(mine)))]
    row = np.zeros([max(lengths)], np.uint8)
    row[: len(mine)] = np.frombuffer(mine, np.uint8)
    values = strategy.experimental_distribute_values_from_function(
        lambda _: tf.constant(row[np.newaxis], tf.int32)
    )
    replicas = len(strategy.experimental_local_results(values))
    rows = strategy.gather(values, axis=0).numpy()[::replicas].astype(np.uint8)
    return [one[:length].tobytes() for one, length in zip(rows, lengths, strict=True)]


def check_same(
    strategy: Any, task: str, settings: Mapping[str, Any], data: Mapping[str, Any]
) -> None:
    """Checks that all workers were told the same, and have the same data.

    Else they would train a model that none of them describes.

    Args:
      strategy: The strategy.
      task: Name of this worker.
      settings: What it was told, as JSON.
      data: See `data_fingerprint`.

    Raises:
      ConfigError: One differs; it says in what. All workers raise it.
    """
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return
    mine = {
        "task": task,
        "versions": {"tfr_pipeline": __version__, "tensorflow": tf.__version__},
        "settings": settings,
        "data": data,
    }
    packed = zlib.compress(json.dumps(mine).encode())
    everyone = [json.loads(zlib.decompress(one)) for one in exchange(strategy, packed)]
    problem = difference(everyone)
    if problem:
        raise ConfigError(problem)


def difference(workers: list[dict[str, Any]]) -> str:
    """Says in what the first worker that differs from the chief does; else empty."""
    chief = workers[0]
    for worker in workers[1:]:
        names = chief["task"], worker["task"]
        advice = "Give all workers of a job the same command, package and data."
        for part in ("versions", "settings"):
            for key, here, there in differences(
                chief[part], worker[part], FREE_OF_WORKERS
            ):
                return (
                    f"workers differ: {key} is {here} for {names[0]} and {there} for "
                    f"{names[1]}. {advice}"
                )
        found = data_fingerprint.difference(chief["data"], worker["data"])
        if found:
            return f"data of {names[1]} against {names[0]}: {found}. {advice}"
    return ""
