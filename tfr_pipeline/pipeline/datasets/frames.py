"""Dataset builders of data frames: `tfr.data.from_dataframe`."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tfr_pipeline.data.convert.description import features_of
from tfr_pipeline.data.lists import Lists
from tfr_pipeline.data.sources import class_names, table_files, table_groups
from tfr_pipeline.data.sources.column_types import SAMPLED, arrow, deliver
from tfr_pipeline.data.sources.options import Options
from tfr_pipeline.data.sources.table_columns import Columns, find_columns
from tfr_pipeline.data.sources.table_lists import in_order, to_lists
from tfr_pipeline.data.sources.table_values import cast
from tfr_pipeline.errors import DataError
from tfr_pipeline.features import Features
from tfr_pipeline.pipeline.datasets import class_labels
from tfr_pipeline.pipeline.datasets.given import WEIGHT, builder_of, checked_nan
from tfr_pipeline.pipeline.datasets.simple import SimpleDatasetBuilder


def from_dataframe(
    frame: Any,
    *,
    label: str = "label",
    qid: str = "qid",
    classes: int | str | Sequence[str] | None = None,
    docid: str = "",
    weight: str = "",
    features: Sequence[str] = (),
    context: Sequence[str] = (),
    types: Mapping[str, str] | None = None,
    valid: Any = None,
    test: Any = None,
    splits: str = "",
    nan: str = "error",
    train_batch_size: int = 32,
    valid_batch_size: int | None = None,
    **batches: Any,
) -> SimpleDatasetBuilder:
    """Returns a dataset builder of a data frame; see `from_arrays`.

    Columns become what `convert` makes of those of Parquet.

    Args:
      frame: A data frame of pandas or polars, a `pyarrow.Table`, or whatever
        `pyarrow.table` takes.
      label: Name of the column of the relevance label.
      qid: Name of the column of the query id.
      classes: For labels that are classes: how many, numbered from 0; their names; or
        `auto` for those that training data has. Rows then are examples of their own
        without a query id; those without a class have a missing label.
      docid: The same of the document id; by default the number of the row.
      weight: The same of the document weight; none by default.
      features: Columns to take; all others by default.
      context: Columns that belong to the query; the value in its first row is taken.
      types: What some columns are, such as `{"brand": "categorical"}`; see `--types`
        of `convert`. By default, what they are stored as.
      valid: Another frame with the same columns; none by default.
      test: The same, for what is evaluated once, after training.
      splits: See `from_arrays`, as the others.
      nan: See there.
      train_batch_size: See there.
      valid_batch_size: See there.
      **batches: See there.

    Raises:
      DataError: A value cannot be; the message has row and column.
      ConfigError: A column is not there, or a setting is wrong.

    Example:
      >>> import pyarrow as pa
      >>> frame = pa.table({"qid": [7, 7], "label": [1, 0], "price": [0.5, 2]})
      >>> from_dataframe(frame).features.example["features"].columns
      ('price',)
    """
    options = Options(
        nan=checked_nan(nan),
        label_column=label,
        qid_column=qid,
        docid_column=docid,
        weight_column=weight,
        feature_columns=tuple(features),
        context_columns=tuple(context),
        types=dict(types or {}),
        classes=None if classes is None else (),
    )
    frames = {"train": frame, "valid": valid, "test": test}
    tables = {
        split: _table(split, found)
        for split, found in frames.items()
        if found is not None
    }
    roles = find_columns(
        tables["train"].schema,
        "train",
        options,
        lambda name: tables["train"][name].slice(0, SAMPLED),
        typed=True,
    )
    if classes is not None:
        found = _classes(classes, tables["train"], roles)
        options = dataclasses.replace(options, classes=found)
    example = features_of(roles)
    description = Features(
        context=roles.context,
        example=dict(sorted(example.items())),
        weight=WEIGHT if weight else None,
        classes=options.classes or (),
    )
    lists = {
        split: in_order(_of_table(split, table, roles, options), example)
        for split, table in tables.items()
    }
    return builder_of(
        lists, description, splits, train_batch_size, valid_batch_size, batches
    )


def _classes(
    classes: int | str | Sequence[str], table: Any, roles: Columns
) -> tuple[str, ...]:
    """Returns the names of the classes."""
    if classes == class_names.AUTO:
        (name,) = roles.labels
        column = deliver(table[name], roles.used[name])
        return class_names.found_in(column.fill_null("").to_pylist(), "train")
    return class_labels.names_of(classes)


def _table(split: str, frame: Any) -> Any:
    """Returns a frame as an Arrow table.

    Raises:
      DataError: It is none, or empty.
    """
    pa = arrow()
    if type(frame).__module__.partition(".")[0] == "pandas":
        table = pa.Table.from_pandas(frame, preserve_index=False)
    elif isinstance(frame, pa.Table):
        table = frame
    elif hasattr(frame, "to_arrow"):  # polars
        table = frame.to_arrow()
    else:
        try:
            table = pa.table(frame)
        except (TypeError, ValueError, pa.ArrowException) as error:
            raise DataError(
                f"{split}: expected a data frame of pandas or polars, or a "
                f"pyarrow.Table, found {type(frame)} ({error})."
            ) from error
    if not table.num_rows:
        raise DataError(f"{split}: expected at least one document, found none.")
    return table


def _of_table(split: str, table: Any, roles: Columns, options: Options) -> Lists:
    pa = arrow()

    def place(row: int, column: str) -> str:
        return f"{split}:{row}: column {column!r}"

    missing = [name for name in roles.used if name not in table.column_names]
    if missing:
        raise DataError(
            f"{split}: expected the columns of the training data, found no "
            f"{', '.join(map(repr, missing[:10]))}."
        )
    arrays = [
        cast(table[name], name, feature, roles.role(name), 0, place)
        for name, feature in roles.used.items()
    ]
    found = pa.Table.from_arrays(arrays, names=list(roles.used))
    rows = np.arange(table.num_rows)
    found = found.append_column(table_files.FILE, pa.array(np.zeros(len(rows), "i4")))
    found = found.append_column(table_files.LINE, pa.array(rows))
    if roles.query is None:
        lists = to_lists(found, np.append(rows, len(rows)), [split], roles, options)
        class_labels.check_ids(split, lists.lists.document_ids)
        return lists.lists
    whole, splits = table_groups.together(found, roles.query)
    parsed = to_lists(whole, splits, [split], roles, options)
    for line in parsed.oddities.warnings():
        warnings.warn(line.removeprefix("warning: "), stacklevel=4)
    return parsed.lists
