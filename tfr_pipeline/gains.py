"""The gain `2^y - 1` for grades of any size, where only ratios of gains count.

NDCG, and what is normalised as it is, divides gains by gains of the same list. A power
of two that a list's gains have in common cancels, and multiplying by it is exact.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tfr_pipeline.compat import tf, tfr

# Gains up to 2^64 may be squared, weighted and summed in float32; lists of lower grades
# are left as they are.
_TOP_GRADE = 64.0


@tf.keras.utils.register_keras_serializable(package="tfr_pipeline")
def scaled_gains(labels: Any) -> Any:
    """Returns `(2^y - 1) / c` with one `c` a list: 1 unless it has a grade above 64.

    TF-Ranking's `pow_minus_1` is infinite from grade 128 on.

    Args:
      labels: float32 `[batch, list_size]`.

    Example:
      >>> scaled_gains([[2.0, 1.0, 0.0], [202.0, 201.0, 0.0]]).numpy().tolist()[0]
      [3.0, 1.0, 0.0]
    """
    labels = tf.convert_to_tensor(labels)
    top = tf.reduce_max(labels, axis=1, keepdims=True)
    excess = tf.nn.relu(top - _TOP_GRADE)
    return tf.pow(2.0, labels - excess) - tf.pow(2.0, -excess)


def for_ratios(gain_fn: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Returns a gain function that gives the same ratios within each list.

    Args:
      gain_fn: Maps labels to gains. `pow_minus_1` becomes `scaled_gains`; any other is
        returned as it is.
    """
    return scaled_gains if gain_fn is tfr.keras.utils.pow_minus_1 else gain_fn
