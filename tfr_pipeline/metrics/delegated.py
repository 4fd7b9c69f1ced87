"""Metrics that TF-Ranking computes, on ragged batches too."""

from __future__ import annotations

from tfr_pipeline.metrics.base import TwoLayouts, register, theirs


@register
class OPAMetric(TwoLayouts, theirs.OPAMetric):
    """Share of pairs with different labels that are ranked the right way round.

    A tie is a wrong pair.

    Example:
      >>> float(OPAMetric()([[0.0, 1.0]], [[0.1, 0.5]]))
      1.0
    """


@register
class PrecisionIAMetric(TwoLayouts, theirs.PrecisionIAMetric):
    """Intent-aware precision; labels have the shape `[batch, list, subtopics]`.

    Clarke et al., "Overview of the TREC 2009 Web Track". Ties are broken by chance.

    Example:
      >>> float(PrecisionIAMetric(topn=1)([[[1.0, 0.0], [0.0, 1.0]]], [[0.9, 0.1]]))
      0.5
    """


@register
class AlphaDCGMetric(TwoLayouts, theirs.AlphaDCGMetric):
    """DCG that pays less for a subtopic seen before; labels as in `PrecisionIAMetric`.

    Clarke et al., "Novelty and Diversity in Information Retrieval Evaluation", SIGIR
    2008. Ties are broken by chance, drawn from `seed`.

    Example:
      >>> float(AlphaDCGMetric(topn=1)([[[1.0, 1.0], [0.0, 1.0]]], [[0.9, 0.1]]))
      2.0
    """
