"""A bounded, ordered map over worker processes that never outlive their parent."""

from __future__ import annotations

import collections
import concurrent.futures
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from tfr_pipeline.errors import RunError

Item = TypeVar("Item")
Result = TypeVar("Result")


def available_cores() -> int:
    """Returns how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def ordered_map(
    function: Callable[[Item], Result], items: Iterable[Item], workers: int
) -> Iterator[Result]:
    """Yields `function(item)` in the order of `items`.

    At most `2 * workers + 1` items are in flight, so that memory is bounded however
    long `items` is. With one worker everything runs in this process. When the
    generator is closed, or the consumer raises, the processes are gone.

    Args:
      function: Picklable, for more than one worker.
      items: Read by this process.
      workers: Number of processes.

    Raises:
      RunError: A worker process died.
    """
    if workers <= 1:
        yield from map(function, items)
        return
    executor = concurrent.futures.ProcessPoolExecutor(
        workers,
        # Not fork: TensorFlow or pyarrow may already run threads in this process.
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_begin,
    )
    pending: collections.deque[concurrent.futures.Future[Any]] = collections.deque()
    try:
        for item in items:
            pending.append(executor.submit(function, item))
            if len(pending) > 2 * workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    except BrokenProcessPool as error:
        raise RunError(
            "a worker process died; the usual cause is too little memory. Try again "
            "with fewer --workers."
        ) from error
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


def _begin() -> None:
    """Leaves what a terminal sends to the parent, and ends when that is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: Any) -> None:
    parent.join()
    os._exit(1)
