"""Graphs of documents or queries: ids, similarity graphs, neighbours in the data.

    identify -> build -> pack

Each is a command (`tfr-pipeline graph identify`), a function and a Beam transform.
"""

from __future__ import annotations

from typing import Any

# What is asked for is imported then: most of it needs what the rest does not.
_HOMES = {
    "Edges": "edges",
    "read_edges": "edges",
    "check_fingerprint": "edges",
    "Fingerprint": "nodes",
    "document_node": "nodes",
    "Reading": "dataset",
    "identify": "identification",
    "Wanted": "similarity",
    "Encoder": "encoders",
    "build": "building",
    "Rules": "packing",
    "neighbours_of": "packing",
    "pack": "packing",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
