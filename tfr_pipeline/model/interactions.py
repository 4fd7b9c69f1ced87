"""Scorers that see vectors of query and document together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from tfr_pipeline import declared
from tfr_pipeline.errors import ConfigError, unknown_name
from tfr_pipeline.model.feature_block import FeatureBlock
from tfr_pipeline.model.layers.interaction import Interaction
from tfr_pipeline.model.scorers import Scorer

_KEYS = ("query", "document", "of")


class InteractionScorer(Scorer):
    """Gives another scorer what vectors of query and document say together.

    An interaction takes the place of the two vectors that it is made of. A scorer that
    is to see these as well has `query` or `document` in `of`.

    Args:
      scorer: The scorer, of any kind.
      interactions: Maps the name of a new document feature to a dict with `query` and
        `document`, the names of two vectors, and `of`; see `Interaction`.

    Raises:
      ConfigError: An interaction lacks one of these, or has more.

    Example:
      >>> from tfr_pipeline.model.scorers import DNNScorer
      >>> scorer = InteractionScorer(
      ...     DNNScorer(hidden_layer_dims=[4]),
      ...     {"match": {"query": "query", "document": "title", "of": ["cosine"]}})
      >>> mask = tf.constant([[True, False]])
      >>> scorer(
      ...     {"query": tf.ones([1, 3])}, {"title": tf.ones([1, 2, 3])}, mask).shape
      TensorShape([1, 2])
    """

    def __init__(self, scorer: Any, interactions: Mapping[str, Mapping[str, Any]]):
        self._scorer = scorer
        self._pairs: dict[str, tuple[str, str]] = {}
        self._of: dict[str, Any] = {}
        for name, told in interactions.items():
            where = f"model.interactions.{name}"
            if not isinstance(told, Mapping) or {*told} != {*_KEYS}:
                raise ConfigError(
                    f"{where}: expected a dict of {', '.join(_KEYS)}, found {told!r}."
                )
            self._pairs[name] = told["query"], told["document"]
            self._of[name] = Interaction(told["of"]).of
        self.layouts = declared.layouts(scorer)
        self.tpu_ready = declared.tpu_ready(scorer)
        self.any_list_size = declared.any_list_size(scorer)

    def __call__(
        self,
        context_features: dict[str, Any],
        example_features: dict[str, Any],
        mask: Any,
    ) -> Any:
        """See `Scorer`."""
        lists = {
            query: tf.expand_dims(context_features[query], 1)
            for query, _ in self._pairs.values()
            if query in context_features
        }
        context, documents = self._changed(context_features, example_features, lists)
        return self._scorer(context, documents, mask)

    def _score_flattened(
        self,
        context_features: Mapping[str, Any],
        example_features: Mapping[str, Any],
    ) -> Any:
        """See `UnivariateScorer`."""
        return self._scorer._score_flattened(
            *self._changed(context_features, example_features, context_features)
        )

    def _changed(
        self, context: Mapping[str, Any], documents: Any, queries: Mapping[str, Any]
    ) -> tuple[dict[str, Any], Any]:
        """Returns features with interactions, and without what those are made of.

        Args:
          context: Query features.
          documents: Document features.
          queries: Vectors of queries that fit those of documents.
        """
        made = {}
        for name, (query, document) in self._pairs.items():
            where = f"model.interactions.{name}"
            if query not in context:
                raise ConfigError(unknown_name("query feature", query, context, where))
            if document not in documents:
                known = list(documents)
                raise ConfigError(
                    unknown_name("document feature", document, known, where)
                )
            layer = Interaction(self._of[name], name=name)
            made[name] = layer((queries[query], documents[document]))
        gone = {name for pair in self._pairs.values() for name in pair}
        for name in made:
            if name in {*context, *documents} - gone:
                raise ConfigError(f"model.interactions: {name!r} is a feature already.")
        kept = {name: value for name, value in context.items() if name not in gone}
        if isinstance(documents, FeatureBlock):
            return kept, documents.replaced(gone, made)
        others = {name: x for name, x in documents.items() if name not in gone}
        return kept, {**others, **made}
