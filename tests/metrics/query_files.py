"""Reads files of queries, and takes their means in a plain loop."""

from __future__ import annotations

import csv
import math
from typing import Any

import pyarrow.parquet

TEXTS = ("split", "task", "query", "class", "predicted")
COUNTS = ("documents", "relevant")
SUM = "label_sum"


def read_rows(path: Any) -> list[dict[str, Any]]:
    """Returns the rows of a Parquet file or a TSV; NaN for what is undefined."""
    if str(path).endswith(".tsv"):
        with open(path, encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    else:
        rows = pyarrow.parquet.read_table(path).to_pylist()

    def value(name: str, cell: Any) -> Any:
        if name in TEXTS:
            return cell
        if name in COUNTS:
            return int(cell)
        # One object, so that rows with it are equal.
        return math.nan if cell in (None, "") else float(cell)

    return [{name: value(name, cell) for name, cell in row.items()} for row in rows]


def means(rows: list[dict[str, Any]]) -> dict[str, dict[str, float | None]]:
    """Returns the means of each metric as the documentation says how to take them."""
    result: dict[str, dict[str, float | None]] = {}
    for name in rows[0]:
        if name in (*TEXTS, *COUNTS, SUM):
            continue
        there = [row for row in rows if not math.isnan(row[name])]
        weights = [row[SUM] if name == "arp" else 1.0 for row in there]
        total = sum(row[name] * w for row, w in zip(there, weights, strict=True))
        result[name] = {"skip": total / sum(weights) if there else None}
        if name == "arp":
            continue
        result[name]["zero"] = total / len(rows)
        if name.startswith("ndcg"):
            result[name]["one"] = (total + len(rows) - len(there)) / len(rows)
    return result
