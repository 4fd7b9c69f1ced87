"""Names under which metrics can be had; plain Python, so checking a config is cheap."""

from __future__ import annotations


class RankingMetricKey:
    """Keys of `tfr_pipeline.metrics.get`: TF-Ranking's, and
    those that it has for Estimators only or without a key.

    Example:
      >>> RankingMetricKey.NDCG
      'ndcg'
    """

    MRR = "mrr"
    ARP = "arp"
    NDCG = "ndcg"
    DCG = "dcg"
    PRECISION = "precision"
    RECALL = "recall"
    MAP = "map"
    PRECISION_IA = "precision_ia"
    ORDERED_PAIR_ACCURACY = "ordered_pair_accuracy"
    ALPHA_DCG = "alpha_dcg"
    HITS = "hits"
    BPREF = "bpref"
    PWA = "pwa"

    @classmethod
    def all_keys(cls) -> list[str]:
        """Returns every key."""
        return [value for name, value in vars(cls).items() if name.isupper()]


class ClassMetricKey:
    """Keys of `tfr_pipeline.metrics.get` for examples of classes.

    Example:
      >>> ClassMetricKey.ACCURACY
      'accuracy'
    """

    ACCURACY = "accuracy"

    @classmethod
    def all_keys(cls) -> list[str]:
        """Returns every key."""
        return [value for name, value in vars(cls).items() if name.isupper()]
