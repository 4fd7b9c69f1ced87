"""`tfr-pipeline evaluate --against`: whether a model is better than another one."""

from __future__ import annotations

from typing import Any

BETTER, WORSE, UNDECIDED = 0, 3, 4
HELP = (
    "another model, measured on the same lists; the exit code says by the 95%% "
    "interval of the difference in NDCG@10 (accuracy, for classes) whether --model is "
    f"better ({BETTER}), worse ({WORSE}) or neither ({UNDECIDED})"
)
METRIC, OF_CLASSES = "ndcg@10", "accuracy"


def measure_other(path: str, data: Any, measured: Any) -> Any:
    """Measures another model on lists that one was measured on.

    Args:
      path: The other model.
      data: Patterns of the lists.
      measured: What was measured of the first model.

    Raises:
      DataError: They have no score in common, or not the same lists.
    """
    from tfr_pipeline.errors import DataError
    from tfr_pipeline.pipeline.datasets.hparams import DatasetHparams
    from tfr_pipeline.pipeline.datasets.multi_label import builder_from_features
    from tfr_pipeline.pipeline.run.measuring import measure
    from tfr_pipeline.serving.predictor import Predictor

    predictor = Predictor(path)
    classes = [getattr(found, "classes", ()) for found in measured.tasks.values()]
    if any(tuple(predictor.classes) != tuple(found) for found in classes):
        raise DataError(
            f"--against: {path!r} and --model do not have the same classes, or one of "
            "the two ranks; they cannot be compared."
        )
    # Each reads the features that it knows.
    builder = builder_from_features(predictor.features, DatasetHparams("", data, 1, 1))
    found = measure(predictor, builder.lists("valid", "packed"))
    if not found.tasks.keys() & measured.tasks.keys():
        raise DataError(
            f"--against: {path!r} scores {_named(found)}, --model {_named(measured)}; "
            "expected a task that both have."
        )
    if found.query_ids.tolist() != measured.query_ids.tolist():
        raise DataError(
            f"--against: {path!r} was measured on {len(found.query_ids)} lists, "
            f"--model on {len(measured.query_ids)}, or on others: the files have "
            "changed, or the models know queries by other features."
        )
    return found


def _named(measured: Any) -> str:
    return ", ".join(task or "one task" for task in measured.tasks)


def _metric(differences: dict[str, Any]) -> str:
    return METRIC if METRIC in differences else OF_CLASSES


def verdict(differences: dict[str, Any]) -> int:
    """Returns the exit code for what `paired_differences` returned.

    Without an interval, of fewer than two queries, nothing is shown.

    Example:
      >>> verdict({"ndcg@10": {"difference": 0.1, "ci": [-0.1, 0.3]}})
      4
    """
    low, high = differences[_metric(differences)]["ci"]
    if low is None or low <= 0.0 <= high:
        return UNDECIDED
    return BETTER if low > 0.0 else WORSE


def together(codes: list[int]) -> int:
    """Returns the exit code of several tasks: worse if one is, better if some are.

    Example:
      >>> together([0, 4]), together([0, 3])
      (0, 3)
    """
    return WORSE if WORSE in codes else min(codes)


def line(differences: dict[str, Any]) -> str:
    """Says what came out, in one line."""
    from tfr_pipeline.cli.tables import interval, number

    found, metric = differences[_metric(differences)], _metric(differences)
    words = {BETTER: "better", WORSE: "worse", UNDECIDED: "no difference shown"}
    return (
        f"{metric}: model less against {number(found['difference'])}, 95% interval "
        f"{interval(found['ci'])} over paired queries: {words[verdict(differences)]}"
    )
