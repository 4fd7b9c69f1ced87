"""Which column of a table plays which role, and what feature each becomes."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tfr_pipeline.data.sources import column_types
from tfr_pipeline.data.sources.column_types import NAMES, is_scalar
from tfr_pipeline.data.sources.options import Options
from tfr_pipeline.errors import ConfigError, DataError, unknown_name
from tfr_pipeline.features import Feature, Features

if TYPE_CHECKING:
    import pyarrow as pa

# What pandas calls the index that it writes unasked, and a column without a name.
_INDEX = re.compile(r"(Unnamed: \d+(\.\d+)*|__index_level_\d+__)?")


@dataclasses.dataclass(frozen=True)
class Columns:
    """Which column plays which role; None where there is none.

    Attributes:
      labels: Labels, of several tasks or of one.
      query: The query id; None where each row is a list of its own.
      classes: Whether the label is the name of a class, which is text.
      document: The document id.
      weight: The document weight.
      features: Features of documents that are one float32, side by side in a matrix.
      context: Features of queries.
      others: Features of documents that stand by themselves: texts, integers, lists.
      types: Types of those of `features` that are no plain numbers.
      whole: Those of `features` that are stored as whole numbers.
      ignored: Columns without a role that nobody asked for.
      index: Numeric ones that are the row numbers of pandas.
    """

    labels: tuple[str, ...]
    query: str | None
    document: str | None
    weight: str | None
    features: tuple[str, ...]
    context: dict[str, Feature]
    others: dict[str, Feature] = dataclasses.field(default_factory=dict)
    types: dict[str, str] = dataclasses.field(default_factory=dict)
    whole: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    index: tuple[str, ...] = ()
    classes: bool = False

    @property
    def used(self) -> dict[str, Feature]:
        """What each column that is read is delivered as."""
        number, text = Feature(), Feature("string")
        result = dict.fromkeys(self.labels, text if self.classes else number)
        if self.query:
            result[self.query] = text
        if self.document:
            result[self.document] = text
        if self.weight:
            result[self.weight] = number
        scalars = {
            name: column_types.feature_of(self.types.get(name, "numeric"))
            for name in self.features
        }
        return {**result, **self.context, **scalars, **self.others}

    def role(self, name: str) -> str:
        """Returns `query id`, `label` and so on; nothing for a feature."""
        roles = dict.fromkeys(self.labels, "label")
        roles |= {self.query or "": "query id", self.document or "": "document id"}
        roles[self.weight or ""] = "weight"
        return roles.get(name, "") if name else ""


def known_columns(features: Features) -> dict[str, Feature]:
    """Returns what each column of a table is, by a description of what became of it."""
    result = dict(features.context)
    for name, feature in features.example.items():
        if not feature.columns:
            result[name] = feature
        types = feature.types or ("numeric",) * len(feature.columns)
        for column, kind in zip(feature.columns, types, strict=False):
            result[column] = column_types.feature_of(kind)
    return result


def find_columns(
    schema: pa.Schema,
    where: str,
    options: Options,
    sample: Callable[[str], Any],
    *,
    typed: bool,
) -> Columns:
    """Finds the columns of a table and their roles.

    Args:
      schema: Names and types of the columns.
      where: The file; for messages.
      options: How to read.
      sample: Returns some values of a column, as an Arrow array.
      typed: Whether the types are those of a file that has types, by which columns
        are taken that nobody named; of text only numbers are.

    Raises:
      ConfigError: A column that an option names is not in the file, or has two roles.
      DataError: The file has no feature column, or a column is of no such type.
    """
    return _Finder(schema, where, options, sample, typed).columns()


class _Finder:
    def __init__(
        self,
        schema: pa.Schema,
        where: str,
        options: Options,
        sample: Callable[[str], Any],
        typed: bool,
    ):
        self._names = schema.names
        self._where, self._options = where, options
        self._sample, self._typed = sample, typed
        self._stored = dict(zip(schema.names, schema.types, strict=True))

    def columns(self) -> Columns:
        """Returns the columns."""
        options, checked = self._options, self._checked
        labels = tuple(
            checked(name, "--label_columns")
            for name in dict.fromkeys(options.label_columns)
        )
        if not labels and (
            options.require_label or options.label_column in self._names
        ):
            labels = (checked(options.label_column, "--label_column"),)
        classifies = options.classes is not None
        query = None
        if not classifies:
            query = checked(options.qid_column, "--qid_column")
        document = options.docid_column or None
        weight = options.weight_column or None
        if document:
            checked(document, "--docid_column")
        if weight:
            checked(weight, "--weight_column")
        taken = {*labels, query, document, weight}
        self._check_types(taken)
        context = {
            checked(name, "--context_columns"): self._context_feature(name)
            for name in options.context_columns
        }
        taken |= {*context}
        found = [n for n in self._names if n not in taken and self._is_default(n)]
        index = tuple(name for name in found if self._is_index(name))
        named = options.feature_columns or [n for n in found if n not in index]
        named = [checked(name, "--feature_columns") for name in named]
        named += [n for n in options.types if n not in taken and n not in named]
        features = {name: self._feature(name) for name in named}
        scalars = [n for n in features if is_scalar(features[n])]
        self._check_some(features, taken)
        integers = column_types.arrow().types.is_integer
        ignored = [
            name
            for name in self._names
            if name not in {"", *taken, *features, *index}  # "": a delimiter at the end
        ]
        return Columns(
            labels,
            query,
            document,
            weight,
            tuple(scalars),
            context,
            others={n: f for n, f in features.items() if n not in scalars},
            types={n: features[n].types[0] for n in scalars if features[n].types},
            whole=tuple(n for n in scalars if integers(self._stored[n])),
            ignored=() if options.feature_columns else tuple(ignored),
            index=() if options.feature_columns else index,
            classes=classifies,
        )

    def _checked(self, name: str, flag: str) -> str:
        known = self._names
        if name not in known:
            message = unknown_name("column", name, known, f"{self._where} ({flag})")
            if any("," in column for column in known):
                message += " Names with a comma stand in double quotes."
            raise ConfigError(message)
        if known.count(name) > 1:
            raise DataError(
                f"{self._where}: expected columns with different names, found "
                f"{known.count(name)} called {name!r}. Rename all but one."
            )
        return name

    def _check_types(self, taken: set[str | None]) -> None:
        """Refuses types that there are not, or of columns that are no features."""
        for name, kind in self._options.types.items():
            self._checked(name, f"type {kind}")
            if kind not in NAMES:
                raise ConfigError(unknown_name(f"type of column {name!r}", kind, NAMES))
            if name in taken:
                raise ConfigError(
                    f"column {name!r} ({kind}): expected a feature, found the column "
                    "of a label, an id or a weight. Leave it out of the types."
                )

    def _is_default(self, name: str) -> bool:
        """Whether a column is a feature though nobody named it."""
        if name in self._options.known or name in self._options.types:
            return True
        found = column_types.of_arrow(self._stored[name])
        return bool(found) if self._typed else found in ("numeric", "boolean")

    def _is_index(self, name: str) -> bool:
        asked = name in self._options.known or name in self._options.types
        number = column_types.of_arrow(self._stored[name]) == "numeric"
        return number and not asked and bool(_INDEX.fullmatch(name))

    def _feature(self, name: str) -> Feature:
        options, found = self._options, column_types.of_arrow(self._stored[name])
        if name not in options.types and name in options.known:
            return options.known[name]
        kind = options.types.get(name, "")
        if not kind:
            # Text that should be numbers is refused where it stands.
            ours = found and (self._typed or found in ("numeric", "boolean"))
            kind = found if ours else "numeric"
        place = f"{self._where}: column {name!r}"
        if kind == "categorical" and self._has_points(name):
            raise DataError(
                f"{place}: expected categories, found numbers with a point. Write "
                "whole numbers without one (pandas: astype('Int64')), or leave it out "
                "of the types: numbers are features as they are."
            )
        sample = self._sample(name) if kind in ("list", "ragged") else None
        return column_types.feature_of(kind, sample, place)

    def _has_points(self, name: str) -> bool:
        """Whether values are floats; of text, such as `INF`, whether they look so."""
        if not column_types.arrow().types.is_floating(self._stored[name]):
            return False
        cells = [] if self._typed else self._sample(name).to_pylist()
        return self._typed or any("." in (cell or "") for cell in cells)

    def _context_feature(self, name: str) -> Feature:
        if name in self._options.types or name in self._options.known:
            return self._feature(name)
        found = column_types.of_arrow(self._stored[name])
        types = column_types.arrow().types
        kind = self._stored[name]
        if types.is_integer(kind) or types.is_boolean(kind):
            return Feature("int64", (1,), 0)
        if found == "numeric" or (found and self._typed):
            return self._feature(name)
        return Feature("string", (1,), "")

    def _check_some(self, features: dict[str, Feature], taken: set[str | None]) -> None:
        if not features:
            kind = "feature" if self._typed else "numeric"
            raise DataError(
                f"{self._where}: expected at least one {kind} column beside "
                f"{', '.join(sorted(name for name in taken if name))}, found none "
                f"among {', '.join(self._names)}. Name the features with "
                "--feature_columns."
            )
        expected = self._options.num_features
        found = sum(
            math.prod(feature.shape)
            for feature in features.values()
            if (feature.dtype, feature.kind) == ("float32", "fixed")
        )
        if expected not in (None, found):
            raise DataError(
                f"{self._where}: expected {expected} feature columns, found "
                f"{found}: {', '.join(list(features)[:10])}. Name the features with "
                "--feature_columns."
            )
