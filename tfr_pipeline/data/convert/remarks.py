"""What `convert` says of its input: columns, labels, lists that may be mistakes."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

import numpy as np

from tfr_pipeline.data import ids
from tfr_pipeline.data.convert.cut import Cut
from tfr_pipeline.data.convert.statistics import Statistics
from tfr_pipeline.data.sources import class_names
from tfr_pipeline.data.sources.source import Source

# Features from which on dense rows deserve a word.
_WIDE = 1 << 16


_SHOWN_COLUMNS = 20


# LightGBM knows 31 grades; from 32 on a label is more likely a count.
_LIKE_COUNTS = 32


_TOO_LARGE = 128  # 2^128 is infinite as float32


_EXACT = 1 << 24  # up to which float32 has every whole number


_REMEDY = (
    "--label_transform=log, =cap:4 or =quantiles:5 makes grades of them (docs/"
    "conversion.md)."
)


def hint_at_width(width: int, report: Callable[[str], None]) -> None:
    """Says what so many features cost, where they are very many."""
    if width >= _WIDE:
        report(
            f"warning: with {width:,} features each document takes "
            f"{4 * width / 2**20:.1f} MiB, for rows are dense. If most are never "
            "there, number those that are from 1 on"
        )


def report_columns(source: Source, report: Callable[[str], None]) -> None:
    """Says which columns of a table become features, where nobody named them."""
    roles = source.columns()
    if source.options.feature_columns:
        return
    if roles.ignored:
        report(
            f"columns left out, not numeric: {', '.join(roles.ignored)}. To take them, "
            "say what they are: --text_columns, --categorical_columns or --types."
        )
    if roles.index:
        report(
            "columns left out, row numbers of pandas: "
            f"{', '.join(map(repr, roles.index))}. Write tables with index=False, or "
            "name the columns in --feature_columns."
        )
    types = {name: f" ({kind})" for name, kind in roles.types.items()}
    types |= {name: f" ({f.types[0]})" for name, f in roles.others.items() if f.types}
    names = [name + types.get(name, "") for name in (*roles.features, *roles.others)]
    shown = ", ".join(names[:_SHOWN_COLUMNS])
    more = ", ..." if len(names) > _SHOWN_COLUMNS else ""
    report(f"columns taken as features, {len(names)}: {shown}{more}")


def warn(
    statistics: Statistics,
    num_shards: int,
    report: Callable[[str], None],
    classes: Sequence[str] = (),
) -> None:
    """Reports what is legal but may be a mistake."""
    if classes:
        _report_classes(statistics, classes, report)
    else:
        _warn_of_grades(statistics, report)
    for line in statistics.oddities.warnings() + ids.warnings(statistics.repeated):
        report(line)
    if nonfinite := int(statistics.nonfinite.sum()):
        report(
            f"warning: {nonfinite:,} features are NaN or infinite. `train` takes NaN "
            "where a step of model.preprocess does, such as 'missing', and refuses "
            "what is infinite; --nan=zero makes all of them 0."
        )
    if statistics.queries < num_shards:
        report(
            f"warning: {statistics.queries} lists leave some of the {num_shards} "
            "shards empty"
        )


def _report_classes(
    statistics: Statistics, classes: Sequence[str], report: Callable[[str], None]
) -> None:
    counts = statistics.of_classes(classes)
    found = {name: count for name, count in counts.items() if count}
    common = sorted(found, key=found.__getitem__, reverse=True)
    shown = ", ".join(f"{name} {found[name]:,}" for name in common[:_SHOWN_COLUMNS])
    more = f", and {len(found) - _SHOWN_COLUMNS} more classes"
    report(
        f"examples by class: {shown or 'none'}"
        f"{more if len(found) > _SHOWN_COLUMNS else ''}; without a class "
        f"{statistics.documents - sum(found.values()):,}"
    )
    if missing := [name for name in classes if name not in found]:
        report(f"warning: no example of {class_names.shown(missing)}")


def _warn_of_grades(statistics: Statistics, report: Callable[[str], None]) -> None:
    count, query = statistics.single
    if count:
        report(
            f"warning: {count} of {statistics.queries} lists have one document, e.g. "
            f"query {query!r}"
        )
    count, query = statistics.irrelevant
    if statistics.grades and count == statistics.queries:
        report(
            "warning: no list has a relevant document (every label is 0): training "
            "on this split is pointless"
        )
    elif count:
        report(
            f"warning: {count} of {statistics.queries} lists have no relevant "
            f"document, e.g. query {query!r}"
        )
    if statistics.top >= _TOO_LARGE:
        report(
            f"warning: labels up to {statistics.top:g}: their gain 2^label - 1 is no "
            "float32, so losses and metrics that take gains cannot tell them apart. "
            f"{_REMEDY}"
        )
    elif statistics.top >= _LIKE_COUNTS:
        report(
            f"warning: labels up to {statistics.top:g} look like counts, not grades: "
            "with the gain 2^label - 1, the largest label decides alone. "
            f"{_REMEDY}"
        )


def prefixed(split: str, report: Callable[[str], None]) -> Callable[[str], None]:
    """Returns a `report` that says of which split a line is."""

    def told(line: str) -> None:
        head, found, rest = line.partition("warning: ")
        report(f"warning: {split}: {rest}" if found and not head else line)

    return told


def report_cut(cut: Cut, others: list[str], report: Callable[[str], None]) -> None:
    """Warns of shards that another conversion has left beside the new splits."""
    if others:
        names = sorted({os.path.basename(path).split("-")[0] for path in others})
        report(
            f"warning: --splits={cut}: the folder also has {', '.join(names)} of an "
            "earlier conversion, whose queries may be among these. Remove what you do "
            "not want evaluated."
        )


def warn_of_rounded(
    statistics: Statistics,
    columns: Sequence[str],
    whole: Sequence[str],
    report: Callable[[str], None],
) -> None:
    """Warns of whole numbers that float32 may not hold.

    Args:
      statistics: Counts of the columns.
      columns: Names of all columns of numbers.
      whole: Those that are stored as whole numbers.
      report: Takes lines for the user.
    """
    sizes = np.maximum(-statistics.minimum, statistics.maximum)
    found = {name for name, size in zip(columns, sizes, strict=True) if size >= _EXACT}
    if names := [name for name in whole if name in found]:
        report(
            "warning: whole numbers from 16,777,216 on are rounded as float32: "
            f"{', '.join(names[:_SHOWN_COLUMNS])}. Where each digit counts, such as in "
            'ids, name the column {"NAME": "integer"} in the file of --types.'
        )
