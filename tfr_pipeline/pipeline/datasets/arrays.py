"""Dataset builders of arrays: `tfr.data.from_arrays`."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tfr_pipeline.data import ids
from tfr_pipeline.data.lists import Lists
from tfr_pipeline.data.sources import class_names
from tfr_pipeline.data.sources.class_names import ClassNumbers
from tfr_pipeline.data.sources.numbering import column_names
from tfr_pipeline.errors import ConfigError, DataError, unknown_name
from tfr_pipeline.features import Feature, Features
from tfr_pipeline.pipeline.datasets import class_labels
from tfr_pipeline.pipeline.datasets.given import WEIGHT, builder_of, checked_nan
from tfr_pipeline.pipeline.datasets.simple import SimpleDatasetBuilder


def from_arrays(
    X: Any,
    y: Any,
    qid: Any = None,
    *,
    classes: int | str | Sequence[Any] | None = None,
    weight: Any = None,
    docid: Any = None,
    feature_names: Sequence[str] | None = None,
    valid: Sequence[Any] | Mapping[str, Any] | None = None,
    test: Sequence[Any] | Mapping[str, Any] | None = None,
    splits: str = "",
    nan: str = "error",
    train_batch_size: int = 32,
    valid_batch_size: int | None = None,
    **batches: Any,
) -> SimpleDatasetBuilder:
    """Returns a dataset builder of arrays, which a pipeline takes as one of files.

    Documents of a query are brought together wherever they stand: queries in the order
    of their first documents, documents of a query as they came.

    Args:
      X: Features, `[documents, features]`; they become float32.
      y: Relevance labels of 0 or more, `[documents]`.
      qid: The query of each document, whole numbers or texts, `[documents]`. Left out
        with `classes`, where each row is an example of its own.
      classes: For labels that are classes: how many, numbered from 0; or what `y` has
        for each, texts or numbers; or `auto` for those that training data has. Examples
        without a class have -1, NaN, None or an empty text.
      weight: Weight of each document, `[documents]`; none by default.
      docid: Id of each document, `[documents]`; by default the number of its row.
      feature_names: Names of the columns; by default those that `X` has as a data
        frame, or `feature_1`, `feature_2` and so on.
      valid: `(X, y, qid)` of the validation data, or a dict with more of the arguments
        up to `docid`; `(X, y)` with `classes`; none by default.
      test: The same of data that is evaluated once, after training.
      splits: Instead of these two, what to cut off by a hash of the query id, such as
        `train:.8,valid:.1,test:.1`; the same queries as `convert --splits` does.
      nan: What to do with NaN and infinite features: `error`, `keep`, or `zero`.
      train_batch_size: Lists a training batch.
      valid_batch_size: Lists a validation batch; as many by default.
      **batches: Further parameters of `DatasetHparams` on batches.

    Raises:
      DataError: Lengths differ, there is no document, or a value cannot be.
      ConfigError: A setting is wrong.

    Example:
      >>> import numpy as np
      >>> data = from_arrays(np.eye(4), [1, 0, 2, 0], ["a", "b", "a", "b"])
      >>> data.lists("train").row_splits.tolist()
      [0, 2, 4]
      >>> from_arrays(np.eye(3), ["cat", "dog", None], classes="auto").classes
      ('cat', 'dog')
    """
    if (qid is None) == (classes is None):
        raise ConfigError(
            "from_arrays: expected qid, for documents to rank, or classes, for examples"
            f" of their own; found {'neither' if qid is None else 'both'}."
        )
    names = feature_names
    if names is None and hasattr(X, "columns"):
        names = [str(name) for name in X.columns]
    arguments: dict[str, dict[str, Any]] = {
        "train": {"X": X, "y": y, "qid": qid, "weight": weight, "docid": docid}
    }
    for split, found in (("valid", valid), ("test", test)):
        if found is not None:
            arguments[split] = _arguments(split, found, arguments["train"])
    names_of_classes: tuple[str, ...] = ()
    if classes is not None:
        names_of_classes = _classes(classes, y)
        for split, found in arguments.items():
            labels = _names(split, found["y"])
            places = functools.partial("{}: y[{}]".format, split)
            found["y"] = ClassNumbers(names_of_classes)(labels, places)
            found["qid"] = found["docid"]
            if found["qid"] is None:
                found["qid"] = np.arange(len(labels))
    width = np.shape(X)[1] if np.ndim(X) == 2 else 0
    columns = column_names(width) if names is None else tuple(names)
    if len(columns) != width and np.ndim(X) == 2:
        raise ConfigError(
            f"feature_names: expected {width} names, for X has so many columns, found "
            f"{len(columns)}."
        )
    lists = {
        split: _of_arrays(split, len(columns), nan, bool(names_of_classes), **found)
        for split, found in arguments.items()
    }
    vector = Feature("float32", (len(columns),), 0.0, columns=columns)
    features = Features(
        example={"features": vector},
        weight=None if weight is None else WEIGHT,
        classes=names_of_classes,
    )
    return builder_of(
        lists, features, splits, train_batch_size, valid_batch_size, batches
    )


def _arguments(split: str, found: Any, train: Mapping[str, Any]) -> dict[str, Any]:
    """Returns arrays by name; of validation and test there are those of training."""
    needed = [name for name in ("X", "y", "qid") if train[name] is not None]
    result = dict.fromkeys(train)
    if isinstance(found, Mapping):
        for name in found:
            if name not in result:
                raise ConfigError(unknown_name(f"array of {split}", name, result))
        result |= found
    elif isinstance(found, list | tuple) and len(found) == len(needed):
        result |= dict(zip(needed, found, strict=True))
    if any(result[name] is None for name in needed):
        raise ConfigError(
            f"{split}: expected ({', '.join(needed)}), or a dict of them, found "
            f"{type(found)}."
        )
    if "qid" not in needed and result["qid"] is not None:
        raise ConfigError(f"{split}: qid: with classes there is none; found one.")
    if (result["weight"] is None) != (train["weight"] is None):
        raise ConfigError(
            f"{split}: expected weights in all of the data or in none of it."
        )
    return result


def _classes(classes: int | str | Sequence[Any], y: Any) -> tuple[str, ...]:
    """Returns the names of the classes.

    Raises:
      ConfigError: They are none.
      DataError: There are none in training data.
    """
    if isinstance(classes, str):
        if classes != class_names.AUTO:
            raise ConfigError(
                "classes: expected how many there are, a list of them, or 'auto', "
                f"found {classes!r}."
            )
        return class_names.found_in(_names("train", y), "y")
    if not isinstance(classes, int):
        classes = [class_names.canonical(name) for name in _names("train", classes)]
    return class_labels.names_of(classes)


def _names(split: str, labels: Any) -> list[str]:
    """Returns labels as text, empty where there is none."""
    found = np.asarray(labels)
    if found.dtype.kind not in "biufUSO" or found.ndim > 2:
        raise DataError(
            f"{split}: y: expected numbers or texts [examples], found {found.dtype} of "
            f"the shape {list(found.shape)}."
        )
    if found.ndim == 2 and found.shape[1] == 1:
        found = found[:, 0]
    return [
        ""
        if value is None or value != value
        else value.decode()
        if isinstance(value, bytes)
        else str(value)
        for value in found.tolist()
    ]


def _of_arrays(
    split: str,
    width: int,
    nan: str,
    of_classes: bool,
    X: Any,
    y: Any,
    qid: Any,
    weight: Any,
    docid: Any,
) -> Lists:
    """Returns the lists of arrays.

    Raises:
      DataError: They do not fit each other, or have values that cannot be.
    """
    matrix = _matrix(split, X, width, checked_nan(nan))
    count = len(matrix)
    labels = _column(split, "y", y, count, np.float32)
    queries = _texts(split, "qid", qid, count)
    documents = np.array([str(row) for row in range(count)], object)
    if docid is not None:
        documents = _texts(split, "docid", docid, count)
    weights = None
    if weight is not None:
        weights = _column(split, "weight", weight, count, np.float32)
    for name, values in (("y", labels), ("weight", weights)):
        least = -1 if of_classes and name == "y" else 0
        if values is None:
            continue
        if (bad := ~(np.isfinite(values) & (values >= least))).any():
            row = int(np.argmax(bad))
            raise DataError(
                f"{split}: {name}[{row}]: expected a number of 0 or more, found "
                f"{values[row]}."
            )
    ids.check(queries, "query", lambda row: f"{split}: qid[{row}]")
    ids.check(documents, "document", lambda row: f"{split}: docid[{row}]")
    if of_classes:
        class_labels.check_ids(split, documents)
    rows, splits = _together(queries)
    return Lists(
        values={"float32": matrix if rows is None else matrix[rows]},
        row_splits=splits,
        labels=labels if rows is None else labels[rows],
        query_ids=queries[splits[:-1]] if rows is None else queries[rows[splits[:-1]]],
        document_ids=documents if rows is None else documents[rows],
        weights=weights if rows is None or weights is None else weights[rows],
    )


def _matrix(split: str, X: Any, width: int, nan: str) -> np.ndarray:
    try:
        matrix = np.asarray(X, np.float32)
    except (TypeError, ValueError) as error:
        raise DataError(
            f"{split}: X: expected numbers [documents, features], found {type(X)} "
            f"({error}). Frames with texts and dates go through from_dataframe."
        ) from error
    if matrix.ndim != 2 or not matrix.size:
        raise DataError(
            f"{split}: X: expected [documents, features], at least one of each, found "
            f"the shape {list(matrix.shape)}."
        )
    if matrix.shape[1] != width:
        raise DataError(
            f"{split}: X: expected {width} features, as the training data has, found "
            f"{matrix.shape[1]}."
        )
    finite = np.isfinite(matrix)
    if nan == "keep" or finite.all():
        return matrix
    if nan == "zero":
        return np.where(finite, matrix, np.float32(0))
    row, column = np.argwhere(~finite)[0]
    raise DataError(
        f"{split}: X[{row}, {column}]: expected a finite float32, found "
        f"{matrix[row, column]}. Use nan='zero' to make such values 0."
    )


def _column(split: str, name: str, values: Any, count: int, dtype: Any) -> np.ndarray:
    try:
        found = np.asarray(values, dtype)
    except (TypeError, ValueError) as error:
        raise DataError(f"{split}: {name}: expected numbers ({error}).") from error
    if found.shape == (count, 1):
        found = found[:, 0]
    if found.shape != (count,):
        raise DataError(
            f"{split}: {name}: expected one for each of the {count} rows of X, found "
            f"the shape {list(found.shape)}."
        )
    return found


def _texts(split: str, name: str, values: Any, count: int) -> np.ndarray:
    """Returns ids as an object array of `str`."""
    found = _column(split, name, values, count, None)
    if found.dtype.kind == "f":
        if (bad := found != np.floor(found)).any():  # NaN, too
            row = int(np.argmax(bad))
            raise DataError(
                f"{split}: {name}[{row}]: expected a whole number or a text, found "
                f"{found[row]}."
            )
        found = found.astype(np.int64)
    result = np.empty(count, object)
    # None and NaN among texts are no ids.
    result[:] = [
        "" if v is None or v != v else v.decode() if isinstance(v, bytes) else str(v)
        for v in found.tolist()
    ]
    return result


def _together(queries: np.ndarray) -> tuple[np.ndarray | None, np.ndarray]:
    """Returns the order that brings queries together, None if they are, and splits."""
    codes: dict[str, int] = {}
    of = np.array([codes.setdefault(name, len(codes)) for name in queries], np.int64)
    sizes = np.bincount(of, minlength=len(codes))
    splits = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    return (np.argsort(of, kind="stable") if (np.diff(of) < 0).any() else None), splits
