"""Further losses of whole lists, through TF-Ranking's padded code."""

from __future__ import annotations

from tfr_pipeline.compat import tfr
from tfr_pipeline.losses.base import TwoLayouts, register

_theirs = tfr.keras.losses


@register
class ListMLELoss(TwoLayouts, _theirs.ListMLELoss):
    """Minus the Plackett-Luce log-likelihood of the order of the labels.

    Xia et al., "Listwise Approach to Learning to Rank: Theory and Algorithm", ICML
    2008. Equal labels are ordered by chance.

    Example:
      >>> round(float(ListMLELoss()([[1.0, 0.0]], [[0.6, 0.8]])), 4)
      0.7981
    """


@register
class MixtureEMLoss(TwoLayouts, _theirs.MixtureEMLoss):
    """Sigmoid cross-entropy under a mixture of models, one a score.

    Scores have the shape `[batch, list_size, models]` (Yan et al., "Revisiting
    Two-tower Models for Unbiased Learning to Rank", SIGIR 2022).

    Example:
      >>> loss = MixtureEMLoss()
      >>> round(float(loss([[1.0, 0.0]], [[[0.6, 0.9], [0.8, 0.2]]])), 4)
      1.3199
    """


@register
class CoupledRankDistilLoss(TwoLayouts, _theirs.CoupledRankDistilLoss):
    """Cross-entropy of the student's and the teacher's top-k Plackett-Luce model.

    Labels are the teacher's scores (Reddi et al., "RankDistil: Knowledge
    Distillation for Ranking", AISTATS 2021).

    Example:
      >>> loss = CoupledRankDistilLoss(sample_size=1, topk=2)
      >>> float(loss([[0.0, 2.0, 1.0]], [[0.0, 1.1, 0.7]])) > 0.0
      True
    """
