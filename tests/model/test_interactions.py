"""Interactions of vectors of query and document, padded and packed."""

from __future__ import annotations

import numpy as np
import pytest

from tfr_pipeline.compat import tf
from tfr_pipeline.errors import ConfigError
from tfr_pipeline.experiment.build import _model_builder
from tfr_pipeline.features import Feature, Features
from tfr_pipeline.model.interactions import InteractionScorer
from tfr_pipeline.model.layers.interaction import PARTS, Interaction
from tfr_pipeline.model.scorers import UnivariateScorer

FEATURES = Features(
    context={"query": Feature("float32", (3,), 0.0)},
    example={"title": Feature("float32", (3,), 0.0), "bm25": Feature()},
)
MATCH = {"query": "query", "document": "title", "of": ["cosine", "difference"]}
LENGTHS = [2, 1]


class Seen(UnivariateScorer):
    """Scores by the sum of all features, and remembers their names."""

    def _score_flattened(self, context_features, example_features):
        self.names = sorted(context_features), sorted(example_features)
        values = [example_features[name] for name in self.names[1]]
        return tf.reduce_sum(tf.concat(values, axis=1), axis=1, keepdims=True)


def vectors():
    random = np.random.default_rng(0)
    query = random.normal(size=(2, 3)).astype(np.float32)
    title = random.normal(size=(3, 3)).astype(np.float32)
    title[1] = 0.0
    return query, title, np.float32([[1.0], [2.0], [3.0]])


def expected_scores():
    query, title, bm25 = vectors()
    query = np.repeat(query, LENGTHS, axis=0)
    norms = np.linalg.norm(query, axis=1) * np.linalg.norm(title, axis=1)
    cosine = np.divide((query * title).sum(1), norms, where=norms > 0, out=norms * 0)
    return bm25[:, 0] + cosine + (title - query).sum(1)


def test_parts_equal_those_of_numpy():
    query, title, _ = vectors()
    query = np.repeat(query, LENGTHS, axis=0)
    found = Interaction(PARTS)((tf.constant(query), tf.constant(title))).numpy()
    parts = [query * title, title - query, query, title]
    np.testing.assert_allclose(found[:, 1:], np.concatenate(parts, 1), rtol=1e-6)
    assert found[1, 0] == 0.0  # of a vector of zeros


def test_packed_and_padded_models_see_the_same():
    query, title, bm25 = vectors()
    builder = _model_builder(
        {
            "scorer_args": {"hidden_layer_dims": [1]},
            "interactions": {"match": MATCH},
        },
        FEATURES,
    )
    builder._scorer._scorer = scorer = Seen()
    assert builder.layouts == ("packed", "padded")
    packed = builder.build_packed()(
        {
            "query": query,
            "documents_float32": tf.RaggedTensor.from_row_lengths(
                np.concatenate([bm25, title], axis=1), LENGTHS
            ),
        }
    )
    assert scorer.names == ([], ["bm25", "match"])
    np.testing.assert_allclose(packed.values, expected_scores(), rtol=1e-5)

    def padded(values):
        return tf.RaggedTensor.from_row_lengths(values, LENGTHS).to_tensor()

    mask = tf.sequence_mask(LENGTHS)
    scores = builder.build()(
        {
            "query": query,
            "title": padded(title),
            "bm25": padded(bm25),
            "__list_mask__": mask,
        }
    )
    assert scorer.names == ([], ["bm25", "match"])
    np.testing.assert_allclose(scores[mask], expected_scores(), rtol=1e-5)


def test_scorers_of_lists_see_them_too():
    query, title, bm25 = vectors()
    found = {}

    def scorer(context, documents, mask):
        found.update(documents)
        return documents["bm25"][..., 0]

    told = {**MATCH, "of": "product"}
    lists = {"title": title[tf.newaxis], "bm25": bm25[tf.newaxis]}
    InteractionScorer(scorer, {"match": told})({"query": query[:1]}, lists, None)
    np.testing.assert_allclose(found["match"][0], title * query[0], rtol=1e-6)


def test_wrong_interactions_are_refused():
    def refused(message, features=({}, {}), **told):
        with pytest.raises(ConfigError, match=message):
            scorer = InteractionScorer(Seen(), {"match": {**MATCH, **told}})
            scorer._score_flattened(*features)

    query, title = {"query": tf.ones([2, 3])}, {"title": tf.ones([2, 3])}
    refused("unknown part 'cosin' in interactions; did you mean 'cosine'", of=["cosin"])
    refused("expected a dict of query, document, of", more=1)
    refused("unknown query feature 'qery' in", (query, title), query="qery")
    refused("unknown document feature 'titel'", (query, title), document="titel")
    refused("vectors of one length", (query, {"title": tf.ones([2, 4])}))
    refused("'match' is a feature already", (query, {**title, "match": title["title"]}))
