"""What the values of a table's columns are, and the features that they become.

| type | feature | a missing value |
|---|---|---|
| numeric, boolean | float32, a column of the vector of numbers | NaN |
| date | float32, days since 1970-01-01 UTC, likewise | NaN |
| integer | int64 | an error, or 0 by `--nan=zero` |
| text, categorical | string | the empty text |
| list | float32, int64 or string, of one length or ragged | NaN; an empty list |
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from tfr_pipeline.errors import ConfigError, DataError
from tfr_pipeline.features import TYPES, Feature

if TYPE_CHECKING:
    import pyarrow as pa

# Those that stand side by side in one matrix.
SCALARS = ("numeric", "boolean", "date")
# What a column may be said to be. A list is looked at to see whether it is ragged.
NAMES = (*TYPES, "ragged")
# Between the items of a list in a cell of text.
SEPARATOR = "|"
# Rows whose lists are looked at.
SAMPLED = 2000
_MICROSECONDS_A_DAY = 86_400 * 10**6
_FEATURES = {
    "integer": Feature("int64", (1,), 0, types=("integer",)),
    "text": Feature("string", (1,), "", types=("text",)),
    "categorical": Feature("string", (1,), "", types=("categorical",)),
    "numeric": Feature("float32", (1,), 0.0),
    "boolean": Feature("float32", (1,), 0.0, types=("boolean",)),
    "date": Feature("float32", (1,), 0.0, types=("date",)),
}


def arrow() -> Any:
    """Returns `pyarrow` with the modules used here.

    Raises:
      ConfigError: It is missing or does not work.
    """
    try:
        import pyarrow
        import pyarrow.compute
        import pyarrow.csv
        import pyarrow.parquet
    except ImportError as error:
        raise ConfigError(
            f"CSV, TSV and Parquet need a working pyarrow ({error}). "
            "Install it with: pip install pyarrow"
        ) from error
    return pyarrow


def of_arrow(kind: pa.DataType) -> str:
    """Returns the type of a column that is stored so; empty if it is none of ours.

    Example:
      >>> import pyarrow as pa
      >>> [of_arrow(kind) for kind in (pa.int8(), pa.date32(), pa.time32("s"))]
      ['numeric', 'date', '']
    """
    types = arrow().types
    if types.is_boolean(kind):
        return "boolean"
    if types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind):
        return "numeric"
    if types.is_date(kind) or types.is_timestamp(kind):
        return "date"
    if types.is_string(kind) or types.is_large_string(kind):
        return "text"
    if types.is_dictionary(kind):
        found = of_arrow(kind.value_type)
        return "categorical" if found == "text" else found
    return "list" if is_list(kind) else ""


def is_list(kind: pa.DataType) -> bool:
    """Whether values of an Arrow type are lists, of as many items or of any number."""
    types = arrow().types
    return (
        types.is_list(kind)
        or types.is_large_list(kind)
        or types.is_fixed_size_list(kind)
    )


def feature_of(name: str, sample: pa.Array | None = None, where: str = "") -> Feature:
    """Returns the feature of one column of a type.

    Args:
      name: One of `NAMES`.
      sample: Of a list, some of its values, text as it stands in a cell or lists.
      where: File and column; for messages.

    Raises:
      DataError: The items of a list are no numbers and no texts.
    """
    assert name in NAMES
    if name in _FEATURES:
        return _FEATURES[name]
    return _list_feature(sample, where, name == "ragged")


def _list_feature(sample: Any, where: str, ragged: bool) -> Feature:
    pa = arrow()
    if not is_list(sample.type) and of_arrow(sample.type) != "text":
        raise DataError(
            f"{where}: expected lists, or texts with {SEPARATOR!r} between items, "
            f"found {sample.type}. Leave the column out of the types."
        )
    lists = sample if is_list(sample.type) else items_of(sample)
    dtype = _dtype_of_items(lists, where)
    if not is_list(sample.type):
        dtype = _dtype_of_texts(lists)
    if ragged or dtype == "string":
        sizes = set()
    elif pa.types.is_fixed_size_list(lists.type):
        sizes = {lists.type.list_size}
    else:
        sizes = set(pa.compute.list_value_length(lists.drop_null()).to_pylist())
    if len(sizes) == 1 and (size := sizes.pop()):
        default = {"float32": 0.0, "int64": 0}[dtype]
        return Feature(dtype, (size,), default, types=("list",))
    return Feature(dtype, (), None, "ragged", types=("list",))


def _dtype_of_items(lists: Any, where: str) -> str:
    pa = arrow()
    kind = lists.type.value_type
    found = of_arrow(kind)
    if found in ("text", "categorical"):
        return "string"
    if found in ("numeric", "boolean") or pa.types.is_null(kind):
        return "int64" if pa.types.is_integer(kind) else "float32"
    raise DataError(
        f"{where}: expected lists of numbers or of texts, found {lists.type}. Name the "
        "features with --feature_columns to leave it out."
    )


def _dtype_of_texts(lists: Any) -> str:
    """Returns what items of text are: whole numbers, numbers or texts."""
    items = arrow().compute.list_flatten(lists)
    for dtype in ("int64", "float32") if len(items) else ():
        try:
            items.cast(dtype)
        except arrow().ArrowException:
            continue
        return dtype
    return "string"


def items_of(texts: Any) -> Any:
    """Returns the items in cells of text, none of an empty cell.

    Example:
      >>> import pyarrow as pa
      >>> items_of(pa.array(["a|b", "", None])).to_pylist()
      [['a', 'b'], None, None]
    """
    return arrow().compute.split_pattern(_without_empty(texts), SEPARATOR)


def _without_empty(texts: Any) -> Any:
    compute = arrow().compute
    return compute.if_else(compute.equal(texts, ""), None, texts)


def has_items(feature: Feature) -> bool:
    """Whether the values of a feature are lists in a table."""
    several = feature.kind != "fixed" or math.prod(feature.shape) > 1
    return several or feature.types == ("list",)


def is_scalar(feature: Feature) -> bool:
    """Whether a feature is one of those that stand side by side in one matrix."""
    one = feature.dtype == "float32" and not has_items(feature)
    return one and (not feature.types or feature.types[0] in SCALARS)


def arrow_type(feature: Feature) -> pa.DataType:
    """Returns the Arrow type in which the values of a feature are delivered."""
    pa = arrow()
    kind = {"float32": pa.float32(), "int64": pa.int64(), "string": pa.string()}
    found = kind[feature.dtype]
    return pa.list_(found) if has_items(feature) else found


def deliver(values: Any, feature: Feature) -> Any:
    """Returns the values of a column as its feature has them, null where missing.

    Args:
      values: An Arrow array, chunked or not.
      feature: What they become.

    Raises:
      pyarrow.ArrowException: They cannot.
    """
    pa = arrow()
    kind, target = values.type, arrow_type(feature)
    if pa.types.is_dictionary(kind):
        values = values.cast(kind.value_type)
        kind = kind.value_type
    if feature.types == ("date",):
        return _days(values).cast(target)
    if has_items(feature) and not is_list(kind):
        return items_of(values.cast(pa.string())).cast(target)
    if pa.types.is_floating(kind) and feature.dtype == "string":
        if feature.types == ("categorical",):
            raise pa.ArrowInvalid("expected categories, found numbers with a point")
        # The id NaN is none: pandas writes missing ids so.
        values = pa.compute.if_else(pa.compute.is_nan(values), None, values)
    if pa.types.is_decimal(kind) and feature.dtype == "float32":
        values = values.cast(pa.float64())
    if pa.types.is_boolean(kind) and feature.dtype == "float32":
        values = values.cast(pa.uint8())
    # Unsafe: the float32 nearest to a large whole number is what is wanted.
    return values.cast(target, safe=feature.dtype != "float32")


def _days(values: Any) -> Any:
    """Returns float64 days since 1970-01-01, UTC where a time zone is known."""
    pa = arrow()
    zone = getattr(values.type, "tz", None)
    if of_arrow(values.type) == "text":
        values = _without_empty(values)
    elif of_arrow(values.type) != "date":
        raise pa.ArrowInvalid(f"expected dates, found {values.type}")
    times = values.cast(pa.timestamp("us", zone), safe=False).cast(pa.int64())
    return pa.compute.divide(times.cast(pa.float64()), float(_MICROSECONDS_A_DAY))
