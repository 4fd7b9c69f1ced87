"""Values of a column of a table as its feature has them, and which of them are not."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tfr_pipeline.data import ids
from tfr_pipeline.data.sources.column_types import (
    SEPARATOR,
    arrow,
    deliver,
    has_items,
)
from tfr_pipeline.errors import DataError
from tfr_pipeline.features import Feature

if TYPE_CHECKING:
    import pyarrow as pa


def cast(
    values: Any,
    name: str,
    feature: Feature,
    role: str,
    first: int,
    place: Callable[[int, str], str],
) -> Any:
    """Returns the values of a column as its feature has them.

    Args:
      values: An Arrow array.
      name: The column.
      feature: What it becomes.
      role: See `Columns.role`.
      first: Number of the first row.
      place: Returns the place of a row and a column, for messages.

    Raises:
      DataError: A value is something else; names its row.
    """
    pa = arrow()

    def fits(rows: int) -> bool:
        try:
            deliver(values.slice(0, rows), feature).validate(full=True)
        except pa.ArrowException:
            return False
        return True

    try:
        found = deliver(values, feature)
        found.validate(full=True)  # text that is not UTF-8
    except pa.ArrowException as error:
        row = first_bad(fits, len(values))
        where = place(first + row, name)
        if _is_binary(values.type):
            raw = values.cast(pa.binary())[row].as_py() or b""
            try:
                shown = repr(raw[:60].decode())
            except UnicodeDecodeError:
                raise not_utf8(raw, role, where) from None
        else:
            shown = f"{values[row].as_py()!r:.60} ({values.type})"
        raise DataError(
            f"{where}: expected {expected_of(feature)}, found {shown}. "
            f"{remedy(name, feature, role)}".rstrip()
        ) from error
    return found


def not_utf8(raw: bytes, role: str, where: str) -> DataError:
    """Returns the error for text that is not UTF-8.

    Args:
      raw: The text.
      role: See `Columns.role`.
      where: File, line and column.
    """
    kind, _, is_id = role.partition(" ")
    return ids.not_utf8(raw, kind if is_id else "", where)


def _is_binary(kind: pa.DataType) -> bool:
    types = arrow().types
    return (
        types.is_string(kind)
        or types.is_large_string(kind)
        or types.is_binary(kind)
        or types.is_large_binary(kind)
    )


def first_bad(fits: Callable[[int], bool], count: int) -> int:
    """Returns the first of some rows up to which they do not fit.

    Args:
      fits: Whether so many rows from the first on do.
      count: How many do not.
    """
    good = 0
    while count - good > 1:
        middle = (good + count) // 2
        if fits(middle):
            good = middle
        else:
            count = middle
    return good


def expected_of(feature: Feature) -> str:
    """Returns what a cell should hold, in words."""
    if has_items(feature):
        items = {"float32": "numbers", "int64": "whole numbers", "string": "texts"}
        return f"{items[feature.dtype]} with {SEPARATOR!r} between"
    if feature.types == ("date",):
        return "a date as 2024-01-31 or 2024-01-31T12:00:00"
    if feature.types == ("boolean",):
        return "true or false"
    return {"int64": "a whole number", "string": "text"}.get(feature.dtype, "a number")


def remedy(name: str, feature: Feature, role: str) -> str:
    """Says how to take a column that is not what it was taken for."""
    if role or feature.types in (("text",), ("categorical",)):
        return ""
    kinds = f"--text_columns={name}, --categorical_columns={name}"
    return f"A column of something else is named in {kinds} or the file of --types."
