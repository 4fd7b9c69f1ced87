"""The scope of a distribution strategy, and how to be outside of it."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def outside_scope(function: Callable[[], T]) -> T:
    """Returns what a function returns in a thread, which has no strategy.

    What a model is loaded or made with within the scope of one can be called by its
    replicas alone.

    Args:
      function: Takes nothing.

    Example:
      >>> outside_scope(lambda: 3)
      3
    """
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        return pool.submit(function).result()
