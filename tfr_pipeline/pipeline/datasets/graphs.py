"""The graph of the training lists: whose neighbours batches bring along."""

from __future__ import annotations

import sys
import warnings
from typing import Any

import numpy as np

from tfr_pipeline import urls
from tfr_pipeline.data.batching.neighbours import IndexedNeighbours
from tfr_pipeline.data.batching.stored_neighbours import StoredNeighbours
from tfr_pipeline.data.batching.windowed import WindowedPlan
from tfr_pipeline.data.lists import Lists
from tfr_pipeline.errors import ConfigError
from tfr_pipeline.graph import names, packing
from tfr_pipeline.graph.packing import Rules
from tfr_pipeline.pipeline.datasets.hparams import setting
from tfr_pipeline.pipeline.datasets.kept_lists import Reading
from tfr_pipeline.pipeline.datasets.planning import shares
from tfr_pipeline.pipeline.datasets.protocol import BatchRequest, Plan
from tfr_pipeline.regularization.settings import QUERIES, GraphSettings


def check_whole(hparams: Any, plan: Plan, request: BatchRequest, lists: Any) -> None:
    """Checks that all lists are in memory, for any may be somebody's neighbour.

    Raises:
      ConfigError: They are not.
    """
    _, workers = request.shard
    windowed = isinstance(plan, WindowedPlan)
    if hasattr(lists, "read") or (windowed and shares(hparams, workers)):
        where = "on disk" if hasattr(lists, "read") else "shared by workers"
        raise ConfigError(
            f"pipeline.graph.edges: expected training lists in memory, found them "
            f"{where}. Set data.cache='memory' and data.sharding='none', or bring "
            "neighbours along in the data: tfr-pipeline graph pack."
        )


def check_order(hparams: Any, settings: GraphSettings) -> None:
    """Checks that documents stand in the order of the data where places are compared.

    Raises:
      ConfigError: They are shuffled or drawn.
    """
    drawn = hparams.list_size and setting(hparams, "truncation") != "first"
    if settings.nodes == QUERIES and (drawn or setting(hparams, "shuffle_examples")):
        raise ConfigError(
            "pipeline.graph.nodes: 'queries' compares lists document by document, in "
            "the order of the data; expected shuffle_examples=False and "
            "truncation='first'."
        )


def stored(settings: GraphSettings, reading: Reading) -> StoredNeighbours:
    """Returns the neighbours that the data has with it, of `graph pack`.

    Raises:
      ConfigError: There are none, or fewer than asked, or not of all features.
    """
    found = names.count(reading.neighbours)
    if not found:
        raise ConfigError(
            "pipeline.graph: expected edges, or data with neighbours in it, found "
            "neither. Write them with `tfr-pipeline graph pack`, or set "
            "pipeline.graph.edges to a file of edges between the training lists."
        )
    if found < settings.max_neighbors:
        raise ConfigError(
            f"pipeline.graph.max_neighbors: expected at most {found}, for so many "
            f"neighbours are packed in the data, found {settings.max_neighbors}. Pack "
            "more (--max_nbrs), or take fewer."
        )
    if settings.nodes == QUERIES:
        raise ConfigError(
            "pipeline.graph.nodes: expected 'documents', for of a query nothing but "
            "its features can be packed, which have no score; found 'queries'. Set "
            "pipeline.graph.edges, with which lists are neighbours."
        )
    beside = sorted(reading.beside)
    if beside:
        raise ConfigError(
            f"pipeline.graph: expected packed neighbours of numeric features, found "
            f"{beside[:5]}, which are texts or have any number of values. Set "
            "pipeline.graph.edges: with lists in memory all features will do."
        )
    return StoredNeighbours(settings.max_neighbors, found)


def check_shapes(request: BatchRequest) -> None:
    """Checks that batches may have any shape.

    Raises:
      ConfigError: They must have one.
    """
    if request.fixed:
        raise ConfigError(
            "pipeline.graph: expected batches of any shape, found TPUStrategy, which "
            "needs one shape. Train with another strategy."
        )


def neighbours_of(settings: GraphSettings, lists: Lists) -> IndexedNeighbours:
    """Returns the neighbours of all nodes of lists, by `GraphSettings.edges`.

    Args:
      settings: Says which graph.
      lists: Lists with ids.

    Raises:
      DataError: The graph cannot be read, or is of another data set.
      ConfigError: The lists have no ids.
    """
    of_lists = settings.nodes == QUERIES
    if not of_lists and not any(lists.document_ids[:1]):
        raise ConfigError(
            "pipeline.graph.edges: expected training lists with ids of documents, "
            "found none. Set data.keep_document_ids=True."
        )
    rules = Rules(
        max_nbrs=settings.max_neighbors,
        add_undirected_edges=settings.add_undirected_edges,
        unknown=settings.unknown_ids,
    )
    found = packing.neighbours_of(lists, settings.edges, rules, settings.nodes)
    for remark in found.found.remarks():
        _say(f"{settings.edges}: {remark}")
    _say_how_many(settings, np.where(found.weights != 0, found.numbers, -1))
    return IndexedNeighbours(found.numbers, found.weights, of_lists)


def _say_how_many(settings: GraphSettings, numbers: np.ndarray) -> None:
    """Says how many neighbours nodes have, and warns where that is fewer than asked."""
    degrees = (numbers >= 0).sum(axis=1)
    most = int(degrees.max(initial=0))
    _say(
        f"{settings.edges}: {int((degrees > 0).sum()):,} of {len(degrees):,} "
        f"{settings.nodes} have neighbours, {degrees.mean():.2f} on average"
    )
    if 0 < most < settings.max_neighbors:
        warnings.warn(
            f"pipeline.graph.max_neighbors={settings.max_neighbors}: no node of "
            f"{settings.edges} has more than {most}.",
            stacklevel=2,
        )


def _say(text: str) -> None:
    print(urls.shown(text), file=sys.stderr, flush=True)
