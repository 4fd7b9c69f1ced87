"""Lines of a file of edges: source, target and perhaps a weight, with tabs between."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
from pyarrow import csv

from tfr_pipeline.errors import DataError

_COLUMNS = ("source", "target", "weight")
_BLOCK = 1 << 24  # bytes that are parsed at once


def read_lines(path: str) -> Iterator[tuple[str, str, float]]:
    """Yields source, target and weight of each line of a file.

    Raises:
      DataError: A line is malformed, or a weight is not finite.
    """
    for sources, targets, weights in blocks(path):
        columns = sources.to_pylist(), targets.to_pylist(), weights.tolist()
        yield from zip(*columns, strict=True)


def blocks(path: str) -> Iterator[tuple[pa.Array, pa.Array, np.ndarray]]:
    """Yields sources, targets and weights of a file, some lines at a time.

    Raises:
      DataError: A line is malformed, or a weight is not finite.
    """
    columns = _num_columns(path)
    if not columns:
        return
    names = _COLUMNS[:columns]
    others: list[list[str]] = []
    wrong: list[csv.InvalidRow] = []

    def other(row: csv.InvalidRow) -> str:
        others.append(row.text.split("\t"))
        if len(others[-1]) in (2, 3):
            return "skip"
        wrong.append(row)  # nothing can be raised from here
        return "error"

    text = {"source": pa.large_string(), "target": pa.large_string()}
    try:
        reader = csv.open_csv(
            path,
            csv.ReadOptions(block_size=_BLOCK, column_names=names, use_threads=False),
            csv.ParseOptions(
                delimiter="\t", quote_char=False, invalid_row_handler=other
            ),
            csv.ConvertOptions(
                column_types={**text, "weight": pa.float64()}, null_values=[]
            ),
        )
        for batch in reader:
            weights = np.ones(len(batch))
            if columns == 3:
                weights = batch.column(2).to_numpy(zero_copy_only=False)
            yield _checked(path, batch.column(0), batch.column(1), weights)
    except (pa.ArrowInvalid, UnicodeDecodeError) as error:
        if wrong:
            raise _malformed(path, wrong[0].text, wrong[0].number) from error
        raise DataError(
            f"{path}: expected lines of source, target and weight with tabs between "
            f"({error})."
        ) from error
    if others:
        try:
            floats = [float(cells[2]) if len(cells) > 2 else 1.0 for cells in others]
        except ValueError as error:
            raise DataError(f"{path}: expected a weight ({error}).") from error
        ends = [pa.array([c[i] for c in others], pa.large_string()) for i in (0, 1)]
        yield _checked(path, ends[0], ends[1], np.array(floats))


def _num_columns(path: str) -> int:
    """Returns 2 or 3, or 0 if nothing is in the file."""
    with pa.input_stream(path, compression="detect") as stream:
        beginning = stream.read(1 << 16)
    # `splitlines` would also part ids at rarer line ends, which may stand in them.
    for line in beginning.decode(errors="replace").replace("\r", "\n").split("\n"):
        if line.strip():
            cells = line.split("\t")
            if len(cells) not in (2, 3):
                raise _malformed(path, line, 1)
            return len(cells)
    return 0


def _malformed(path: str, line: str, number: int | None) -> DataError:
    place = path if number is None else f"{path}:{number}"
    return DataError(
        f"{place}: expected source, target and perhaps a weight, with tabs between, "
        f"found {line[:80]!r}."
    )


def _checked(
    path: str, sources: pa.Array, targets: pa.Array, weights: np.ndarray
) -> tuple[pa.Array, pa.Array, np.ndarray]:
    wrong = np.flatnonzero(~np.isfinite(weights))
    if len(wrong):
        place = int(wrong[0])
        raise DataError(
            f"{path}: expected finite weights, found {weights[place]} from "
            f"{sources[place].as_py()!r} to {targets[place].as_py()!r}."
        )
    return sources, targets, weights
