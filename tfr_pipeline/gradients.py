"""Lets TensorFlow forget the gradients of graphs that nobody has any more.

Whatever is traced with a `tf.custom_gradient` in it, and every function of a SavedModel
that is loaded, registers its gradient in a table for good. The gradient holds on to the
graph, and the graph to all that stands around it: a process that trains one model after
the other grows by tens of MiB with each.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any

from tfr_pipeline.compat import gradient_table, tf

_NAME = "CustomGradient-"
_KEPT = "_tfr_pipeline_gradients"
_DEPTH = 6
_PATIENCE_SECONDS = 10.0


def forget_unused() -> int:
    """Drops models that are not used any more, with the gradients of their graphs.

    From then on a gradient lives as long as a graph that it belongs to, and no longer:
    whatever can still be called can still be differentiated.

    Returns:
      How many gradients went.
    """
    tf.keras.backend.clear_session()
    table = gradient_table()
    for name, entry in list(table.items()):
        if name.startswith(_NAME):
            _leave_to_graphs(entry)
    _collect()
    dead = [
        name
        for name, entry in table.items()
        if isinstance(entry["type"], _OfGraph) and entry["type"].function() is None
    ]
    for name in dead:
        del table[name]
    return len(dead)


def _leave_to_graphs(entry: dict[str, Any]) -> None:
    """Makes the graphs of a gradient its only owners."""
    function = entry["type"]
    if isinstance(function, _OfGraph):
        return
    graphs = {id(graph): graph for graph in _graphs(function, _DEPTH)}
    for graph in graphs.values():
        setattr(graph, _KEPT, (*getattr(graph, _KEPT, ()), function))
    if graphs:
        entry["type"] = _OfGraph(function)


def _collect() -> None:
    """Collects garbage, also if another thread is just at it: it then does nothing."""
    me, begun = threading.get_ident(), threading.Event()

    def begins(phase: str, info: dict[str, int]) -> None:
        if info["generation"] == 2 and threading.get_ident() == me:
            begun.set()

    gc.callbacks.append(begins)
    try:
        limit = time.monotonic() + _PATIENCE_SECONDS
        while not begun.is_set() and time.monotonic() < limit:
            gc.collect()
            time.sleep(0.001)
    finally:
        gc.callbacks.remove(begins)


class _OfGraph:
    """A gradient that something else keeps alive."""

    def __init__(self, function: Callable[..., Any]):
        self.function = weakref.ref(function)

    def __call__(self, *args: Any, **options: Any) -> Any:
        function = self.function()
        assert function is not None, "the graph of this gradient is gone"
        return function(*args, **options)


def _graphs(found: Any, depth: int) -> Iterator[Any]:
    """Yields the graphs of functions that something is made of, or holds tensors of."""
    if depth == 0 or found is None or isinstance(found, str | int | float | type):
        return
    graph = getattr(found, "graph", None)
    if getattr(graph, "building_function", False):
        yield graph
        return
    if isinstance(found, list | tuple):
        for item in found:
            yield from _graphs(item, depth - 1)
        return
    if isinstance(found, functools.partial):
        yield from _graphs((found.func, found.args), depth - 1)
    for cell in getattr(found, "__closure__", None) or ():
        with contextlib.suppress(ValueError):  # an empty cell
            yield from _graphs(cell.cell_contents, depth - 1)
