"""What is compared: models, losses, lists, input."""

from __future__ import annotations

import dataclasses

BATCH = 32
# Hidden layers and dropout.
NETWORKS = {"dnn": ([1024, 512, 256], 0.4), "small": ([64, 32], 0.0)}


@dataclasses.dataclass(frozen=True)
class Case:
    """One configuration that is run by both systems.

    Attributes:
      model: `dnn` (1024-512-256), `small` (64-32) or `gam` ([16, 8] a feature).
      loss: A loss key, or `lambda`: pairwise logistic with NDCG@10 weights.
      list_size: Documents of a list that are used; None for whole lists.
      input: `elwc` or `packed`; TF-Ranking reads ELWC only.
      precision: As of our `PipelineHparams`; TF-Ranking has none.
      epochs: Epochs; the first is not counted as steady.
      steps: Training steps an epoch.
      systems: Who runs it.
      speed: Least ratio of steady documents a second that issue 3 asks for.
      start: Least ratio of the time from start to both exports.
      rounds: At most so many runs of each system; None for as many as asked for.
    """

    model: str
    loss: str = "softmax_loss"
    list_size: int | None = 200
    input: str = "elwc"
    precision: str | None = None
    epochs: int = 3
    steps: int = 60
    systems: tuple[str, ...] = ("ours", "tf_ranking")
    speed: float | None = None
    start: float | None = None
    rounds: int | None = None


CASES = {
    "dnn": Case("dnn", systems=("ours", "tf_ranking", "limit"), speed=3.0, start=3.0),
    "dnn_bfloat16": Case("dnn", precision="mixed_bfloat16", systems=("ours",)),
    "small": Case(
        "small", systems=("ours", "tf_ranking", "limit"), speed=15.0, start=6.0
    ),
    "gam": Case("gam", epochs=2, steps=30, speed=15.0, start=15.0),
    "small_lambda": Case("small", "lambda", speed=15.0),
    "small_approx_ndcg": Case("small", "approx_ndcg_loss", speed=8.0),
    "dnn_whole_lists": Case("dnn", list_size=None, rounds=1),
    "small_whole_lists": Case("small", list_size=None, rounds=1),
    "small_packed": Case("small", input="packed", systems=("ours",)),
    "lightgbm": Case(
        "small",
        "approx_ndcg_loss",
        list_size=None,
        epochs=12,
        systems=("ours", "lightgbm"),
        rounds=1,
    ),
}
