"""What commands say of models that classify."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TextIO

import numpy as np

from tfr_pipeline.cli.tables import interval, table
from tfr_pipeline.errors import DataError

COLUMNS = ("accuracy", "macro_f1", "log_loss")
_MOST_CLASSES = 30
_BREAKS = re.compile(r"[\t\n\r]")


def report(rows: Mapping[str, Mapping[str, Any]], out: TextIO) -> None:
    """Prints the headline numbers, and those of each class of the first row.

    Args:
      rows: Maps a name to what `ClassMetrics.means` returned.
      out: Where to.
    """
    print(table(rows, COLUMNS), file=out)
    means = next(iter(rows.values()))
    classes = means["classes"]
    names = sorted(classes, key=lambda name: -classes[name]["examples"])
    width = max(map(len, ["class", *names[:_MOST_CLASSES]]))
    heads = ("examples", "predicted", "precision", "recall", "f1")
    print(f"{'class':<{width}}" + "".join(f"{h:>11}" for h in heads), file=out)
    for name in names[:_MOST_CLASSES]:
        found = classes[name]
        counts = "".join(f"{found[head]:>11,}" for head in heads[:2])
        shares = "".join(f"{found[head]:>11.4f}" for head in heads[2:])
        print(f"{name:<{width}}{counts}{shares}", file=out)
    if len(names) > _MOST_CLASSES:
        more = len(names) - _MOST_CLASSES
        print(f"and {more} more classes, in the file of --output", file=out)
    ends = interval(means["accuracy"].get("skip_ci"))
    print(
        f"{means['documents']} examples, and {means['unlabelled']} without a class, "
        f"left out above; accuracy 95% interval {ends}",
        file=out,
    )


def most_frequent(labels: Any, classes: Sequence[str]) -> dict[str, Any]:
    """Measures what needs no features: always the class that these labels have most.

    Args:
      labels: `[examples]`, numbers of classes, negative for none.
      classes: Names of the classes.
    """
    from tfr_pipeline.metrics.classification import ClassMetrics

    labels = np.asarray(labels).astype(int)
    counts = np.bincount(labels[labels >= 0], minlength=len(classes))
    shares = np.tile(counts / counts.sum(), (len(labels), 1))
    return ClassMetrics.of(labels, shares, classes).means()


def header(classes: Sequence[str]) -> str:
    """Returns the first line of predictions.

    Example:
      >>> header(["cat", "dog"])
      'id\\tclass\\tcat\\tdog\\n'
    """
    return "\t".join(["id", "class", *classes]) + "\n"


def lines(
    lists: Any, probabilities: np.ndarray, classes: Sequence[str]
) -> Iterator[str]:
    """Yields a line for each example: its id, the likeliest class, all probabilities.

    Args:
      lists: The `Lists`, of one document each.
      probabilities: float32 `[examples, classes]`.
      classes: Names of the classes.

    Raises:
      DataError: An id has a tab or a line end.
    """
    best = probabilities.argmax(axis=1)
    for name, place, row in zip(lists.document_ids, best, probabilities, strict=True):
        if _BREAKS.search(str(name)):
            raise DataError(
                f"id {str(name)[:60]!r}: expected one without tab and line end, which "
                "separate the fields. Give it another id."
            )
        shares = "\t".join(f"{share:.6g}" for share in row)
        yield f"{name}\t{classes[place]}\t{shares}\n"
