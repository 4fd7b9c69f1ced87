"""Workers of one job that tell each other something, such as what they were told."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from tfr_pipeline import __version__
from tfr_pipeline.cluster import beat, heartbeat
from tfr_pipeline.errors import ConfigError
from tfr_pipeline.pipeline.distribute import strategies
from tfr_pipeline.pipeline.run import data_fingerprint
from tfr_pipeline.pipeline.run.comparison import FREE_OF_WORKERS, differences

_PIECE = 1 << 24  # bytes that are sent at once


def exchange(strategy: Any, mine: bytes) -> list[bytes]:
    """Returns the bytes of all workers, to each of them.

    Every worker has to call it as often as the others, for each waits for the last.

    Args:
      strategy: A `MultiWorkerMirroredStrategy`.
      mine: What this worker has to say.
    """
    lengths = _lengths(strategy, mine)
    rows = _gather(strategy, _padded(mine, max(lengths)))
    return [one.tobytes()[:length] for one, length in zip(rows, lengths, strict=True)]


def send(strategy: Any, content: bytes | None) -> bytes:
    """Returns the bytes of the chief to each worker, at the cost of one copy a worker.

    Every worker has to call it as often as the others, for each waits for the last.

    Args:
      strategy: A `MultiWorkerMirroredStrategy`.
      content: What the chief has to say; None from others.
    """
    mine, parts = content or b"", []
    length = max(_lengths(strategy, mine))
    for start in range(0, length, _PIECE):
        stop = min(start + _PIECE, length)
        piece = _padded(mine[start:stop], stop - start)
        # All but one add nothing to it. Gathered, it would take its room for each.
        parts.append(_sum(strategy, piece).tobytes()[: stop - start])
    return b"".join(parts)


def _lengths(strategy: Any, mine: bytes) -> list[int]:
    """Returns how many bytes each worker has to say."""
    halves = _gather(strategy, np.array([len(mine)], np.int64).view(np.int32))
    return [int(row.view(np.int64)[0]) for row in halves]


def _padded(content: bytes, length: int) -> np.ndarray:
    """Returns bytes, with zeros up to a length, as int32."""
    return np.frombuffer(content.ljust(-(-length // 4) * 4, b"\0"), np.int32)


def _gather(strategy: Any, row: np.ndarray) -> np.ndarray:
    """Returns int32 `[workers, n]` of the row `[n]` of each worker."""
    values = strategy.experimental_distribute_values_from_function(
        lambda _: tf.constant(row[np.newaxis])
    )
    replicas = len(strategy.experimental_local_results(values))
    with heartbeat.doing(beat.WAIT):
        rows: np.ndarray = strategy.gather(values, axis=0).numpy()[::replicas]
    return rows


def _sum(strategy: Any, row: np.ndarray) -> np.ndarray:
    """Returns int32 `[n]`, the sum of the rows of all workers."""
    workers = strategies.place_among_workers(strategy)[1]
    replicas = strategy.num_replicas_in_sync // workers
    values = strategy.experimental_distribute_values_from_function(
        # Once a worker, however many replicas it has.
        lambda context: tf.constant(
            row if context.replica_id_in_sync_group % replicas == 0 else row * 0
        )
    )
    with heartbeat.doing(beat.WAIT):
        total: np.ndarray = strategy.reduce(
            tf.distribute.ReduceOp.SUM, values, axis=None
        ).numpy()
    return total


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
