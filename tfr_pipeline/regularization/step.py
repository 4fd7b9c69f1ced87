"""The loss of a training step with what graph, adversary and teacher add to it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from tfr_pipeline import compat, global_batch
from tfr_pipeline.data.batching import neighbours, teacher_scores
from tfr_pipeline.data.batching.neighbours import Edges
from tfr_pipeline.errors import ConfigError
from tfr_pipeline.layout import DISTINCT, BlockLayout
from tfr_pipeline.regularization import distances, distillation
from tfr_pipeline.regularization.adversary import Adversary, Points, gradients_of
from tfr_pipeline.regularization.distillation import DistillSettings
from tfr_pipeline.regularization.settings import (
    NONE,
    OF_VECTORS,
    QUERIES,
    SUM,
    AdversarialSettings,
    GraphSettings,
)

GRAPH_LOSS, ADVERSARIAL_LOSS = "graph_loss", "adversarial_loss"
DISTILLATION_LOSS = "distillation_loss"


class Regularization:
    """What a `RankingModel` asks for the loss of a training step.

    The logs have `graph_loss`, `adversarial_loss` and `distillation_loss`, each with
    its multiplier, beside the `loss` of the labels: what training makes smaller is
    their sum, where a teacher has taken its share from the labels.

    Args:
      model: The model, compiled; in the scope that it was compiled in.
      graph: Settings of the graph, or None.
      adversarial: Settings of the adversary, or None.
      layout: Where document features stand in packed batches.
      distill: Settings of the teacher, or None.
    """

    def __init__(
        self,
        model: Any,
        graph: GraphSettings | None,
        adversarial: AdversarialSettings | None,
        layout: BlockLayout | None = None,
        distill: DistillSettings | None = None,
    ):
        self._graph, self._distill = graph, distill
        self._adversary = None
        names = [GRAPH_LOSS] if graph else []
        if adversarial:
            names.append(ADVERSARIAL_LOSS)
            self._adversary = Adversary(model, adversarial, layout)
            # Counts apart from the loss that the logs show.
            self._losses = compat.losses_again(model)
        if distill:
            names.append(DISTILLATION_LOSS)
        self._means = {name: tf.keras.metrics.Mean(name) for name in names}

    @property
    def metrics(self) -> list[Any]:
        """The means of an epoch, which the logs show."""
        return list(self._means.values())

    def losses(
        self, model: Any, x: Any, y: Any, sample_weight: Any, batch: Any
    ) -> tuple[Any, Any, Any]:
        """Computes a training step up to its gradient.

        Args:
          model: The model.
          x: Features; with neighbours among them where there is a graph.
          y: Labels.
          sample_weight: Weights, or None.
          batch: What is known of the global batch; see `global_batch.of`.

        Returns:
          The scores of the lists that have labels; their loss, as `compute_loss`
          returns it; and what comes to it, as a replica counts it.

        Raises:
          ConfigError: The batch has no neighbours, or nothing to perturb.
        """
        x, edges = neighbours.take(x)
        x, teacher = teacher_scores.take(x)
        if self._distill is not None and teacher is None:
            raise ConfigError(
                "pipeline.distill: expected batches with the scores of a teacher, "
                f"found features {sorted(x)[:8]}. Take a dataset builder of ours."
            )
        if self._graph is not None and edges is None:
            raise ConfigError(
                "pipeline.graph: expected batches with neighbours, found features "
                f"{sorted(x)[:8]}. Take a dataset builder of tfr_pipeline, with edges "
                "or with data that `tfr-pipeline graph pack` wrote."
            )
        lists = _num_lists(y)
        width = _width(y, edges, lists)
        own = x if edges is None else _part(x, slice(None, lists))
        found: Any = None
        points: Points = {}
        gradients: Points = {}
        adversary = self._adversary
        if adversary is not None:
            points = adversary.points(own)
            kept = []

            def loss_of(watched: Points) -> Any:
                scores = adversary.scores(model, own, watched)
                found = _loss(model, own, y, scores, sample_weight, batch, width)
                kept.append((scores, found))
                return found

            gradients = gradients_of(points, loss_of)
            ((y_pred, loss),) = kept
        elif edges is not None and _is_packed(x):
            # All lists are rows of one matrix.
            found = model.scores(x, training=True)
            y_pred = tf.nest.map_structure(lambda value: value[:lists], found)
            loss = _loss(model, own, y, y_pred, sample_weight, batch, width)
        else:
            y_pred = model.scores(own, training=True)
            loss = _loss(model, own, y, y_pred, sample_weight, batch, width)
        added = tf.zeros_like(loss)
        if self._graph is not None and edges is not None:
            if found is None:
                more = model.scores(_part(x, slice(lists, None)), training=True)
                found = tf.nest.map_structure(_joined, y_pred, more)
            term = self._of_graph(self._graph, found, edges, lists)
            averages = self._graph.reduction != SUM
            added += self._counted(GRAPH_LOSS, term, averages, lists, batch)
        if adversary is not None:
            term = self._of_adversary(
                adversary, model, own, points, gradients, y, sample_weight, batch, width
            )
            averages = model.averages
            added += self._counted(ADVERSARIAL_LOSS, term, averages, lists, batch)
        if self._distill is not None:
            told, averages = self._distill, model.averages
            teacher = model.for_members(teacher[:lists])
            found = distillation.distance(told, y_pred, teacher)
            term = tf.reduce_sum(told.weight * found) / model.members
            if averages:
                term /= tf.maximum(tf.cast(lists, term.dtype), 1.0)
            term = self._counted(DISTILLATION_LOSS, term, averages, lists, batch)
            added += tf.cast(term, loss.dtype)
            # Regularisation of weights is no part of what the two share.
            penalty = model.penalty(loss.dtype)
            loss = (loss - penalty) * (1.0 - told.weight) + penalty
        return y_pred, loss, added

    def _counted(
        self, name: str, term: Any, averages: bool, lists: Any, batch: Any
    ) -> Any:
        """Notes what a replica adds, and returns it as the gradient counts it.

        Args:
          name: One of the means.
          term: Mean over the lists of the replica, or a sum.
          averages: Whether it is a mean.
          lists: Lists of the replica.
          batch: See `losses`.
        """
        self._means[name].update_state(term, sample_weight=lists)
        if not averages:
            return term
        # Gradients of replicas are added up.
        term /= tf.distribute.get_strategy().num_replicas_in_sync
        return term if batch is None else term * tf.cast(batch.share, term.dtype)

    def _of_graph(
        self, settings: GraphSettings, scores: Any, edges: Edges, lists: Any
    ) -> Any:
        """Returns the distance of neighbours, of all tasks together."""
        of_lists = settings.nodes == QUERIES
        places = lists if of_lists else tf.reduce_sum(edges.lengths[:lists])
        places = tf.cast(places, tf.int32) * settings.max_neighbors
        terms = []
        for value in tf.nest.flatten(scores):
            nodes, real = _nodes(value, edges.lengths, of_lists)
            _check_numbers(settings, nodes)
            sources, targets = (
                tf.gather(nodes, ends) for ends in (edges.sources, edges.targets)
            )
            mask = None
            if real is not None:
                mask = tf.gather(real, edges.sources) & tf.gather(real, edges.targets)
            terms.append(
                distances.total(settings, sources, targets, edges.weights, places, mask)
            )
        return settings.multiplier * tf.add_n(terms)

    def _of_adversary(
        self,
        adversary: Adversary,
        model: Any,
        x: Any,
        points: Points,
        gradients: Points,
        y: Any,
        sample_weight: Any,
        batch: Any,
        width: Any,
    ) -> Any:
        """Returns the loss of perturbed features."""

        def loss_of(moved: Points) -> Any:
            y_pred = adversary.scores(model, x, moved)
            with global_batch.known(batch):
                y_true, weights = model.for_members((y, sample_weight))
                found = self._losses(*_cut((y_true, y_pred, weights), width))
            if model.averages:  # as a mean over replicas, which it is not yet
                found *= tf.distribute.get_strategy().num_replicas_in_sync
            return found

        moved = adversary.perturbed(points, loss_of, gradients)
        return adversary.settings.multiplier * loss_of(moved)


def _loss(
    model: Any, x: Any, y: Any, y_pred: Any, weights: Any, batch: Any, width: Any
) -> Any:
    y, y_pred, weights = _cut((y, y_pred, weights), width)
    with global_batch.known(batch):
        return model.member_loss(x, y, y_pred, weights)


def _width(y: Any, edges: Edges | None, lists: Any) -> Any:
    """Returns how long the longest list with labels is, where neighbours are longer.

    Some losses are means over the cells of a padded batch, those of padding included.
    """
    first = tf.nest.flatten(y)[0]
    ragged = isinstance(first, tf.RaggedTensor)
    if edges is None or ragged or first.shape.rank < 2 or first.shape[1] is not None:
        return None
    return tf.cast(tf.maximum(tf.reduce_max(edges.lengths[:lists]), 1), tf.int32)


def _cut(values: Any, width: Any) -> Any:
    """Leaves columns out that are there for neighbours alone."""
    if width is None:
        return values

    def cut(value: Any) -> Any:
        return value if value is None or value.shape.rank == 1 else value[:, :width]

    return tf.nest.map_structure(cut, values)


def _num_lists(y: Any) -> Any:
    first = tf.nest.flatten(y)[0]
    ragged = isinstance(first, tf.RaggedTensor)
    return tf.cast(first.nrows(), tf.int32) if ragged else tf.shape(first)[0]


def _is_packed(x: Any) -> bool:
    return any(isinstance(value, tf.RaggedTensor) for value in x.values())


def _part(x: Mapping[str, Any], lists: slice) -> dict[str, Any]:
    """Returns the features of some lists in a row."""
    return {
        name: value if name.startswith(DISTINCT) else _sliced(value, lists)
        for name, value in x.items()
    }


def _sliced(value: Any, lists: slice) -> Any:
    if not isinstance(value, tf.SparseTensor):
        return value[lists]
    first = tf.cast(lists.start or 0, tf.int64)
    shape = value.dense_shape
    last = shape[0] if lists.stop is None else tf.cast(lists.stop, tf.int64)
    start = tf.concat([[first], tf.zeros_like(shape[1:])], axis=0)
    return tf.sparse.slice(value, start, tf.concat([[last - first], shape[1:]], 0))


def _joined(one: Any, other: Any) -> Any:
    """Returns the scores of two batches as those of one."""
    return tf.concat([one, other], axis=0)


def _nodes(value: Any, lengths: Any, of_lists: bool) -> tuple[Any, Any]:
    """Returns the numbers of nodes, and which of them are there.

    Args:
      value: Scores, ragged `[batch, (list)]` or `[batch, (list), k]`, or padded.
      lengths: int64 `[batch]`, documents a list.
      of_lists: Whether nodes are lists.

    Returns:
      float32 `[nodes, numbers]`, and bool of that shape; None if all are there.
    """
    ragged = isinstance(value, tf.RaggedTensor)
    if of_lists:
        dense = value.to_tensor(0.0) if ragged else value
        if dense.shape.rank != 2:  # classes, of examples that are lists of one
            check = tf.debugging.assert_less_equal(
                tf.reduce_max(lengths),
                tf.cast(1, lengths.dtype),
                "graph.nodes: expected 'documents' for lists of documents with several "
                "numbers each, found 'queries'.",
            )
            with tf.control_dependencies([check] if check is not None else []):
                return tf.identity(dense[:, 0]), None
        return dense, tf.sequence_mask(lengths, tf.shape(dense)[1])
    if ragged:
        values = value.values
    else:
        # Real documents stand first in padded lists.
        real = tf.sequence_mask(lengths, tf.shape(value)[1])
        values = tf.boolean_mask(value, real)
    return (values[:, tf.newaxis] if values.shape.rank == 1 else values), None


def _check_numbers(settings: GraphSettings, nodes: Any) -> None:
    """Refuses what compares several numbers for nodes that have one."""
    if nodes.shape[-1] != 1:
        return
    for name, value, needs in (
        ("transform_fn", settings.transform_fn, settings.transform_fn != NONE),
        (
            "distance_type",
            settings.distance_type,
            settings.distance_type in OF_VECTORS,
        ),
    ):
        if needs:
            raise ConfigError(
                f"graph.{name}: expected several numbers a node for {value!r}, found "
                "one score a document, of which it makes the same whatever it is. Take "
                "distance_type='l2' without transform_fn, or nodes='queries', which "
                "compares the scores of lists."
            )
