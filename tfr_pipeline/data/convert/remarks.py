"""What `convert` says of its input: columns, labels, lists that may be mistakes."""

from __future__ import annotations

from collections.abc import Callable

from tfr_pipeline.data import ids
from tfr_pipeline.data.convert.statistics import Statistics
from tfr_pipeline.data.sources.source import Source

# Features from which on dense rows deserve a word.
_WIDE = 1 << 16


_SHOWN_COLUMNS = 20


# LightGBM knows 31 grades; from 32 on a label is more likely a count.
_LIKE_COUNTS = 32


_TOO_LARGE = 128  # 2^128 is infinite as float32


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
        report(f"columns left out, not numeric: {', '.join(roles.ignored)}")
    if roles.index:
        report(
            "columns left out, row numbers of pandas: "
            f"{', '.join(map(repr, roles.index))}. Write tables with index=False, or "
            "name the columns in --feature_columns."
        )
    shown = ", ".join(roles.features[:_SHOWN_COLUMNS])
    more = ", ..." if len(roles.features) > _SHOWN_COLUMNS else ""
    report(f"columns taken as features, {len(roles.features)}: {shown}{more}")


def warn(
    statistics: Statistics, num_shards: int, report: Callable[[str], None]
) -> None:
    """Reports what is legal but may be a mistake."""
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
    for line in ids.warnings(statistics.unnamed, statistics.repeated):
        report(line)
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
    if nonfinite := int(statistics.nonfinite.sum()):
        report(
            f"warning: {nonfinite:,} features are NaN or infinite: `train` refuses "
            "them. Use --nan=zero unless something else reads these files."
        )
    if statistics.queries < num_shards:
        report(
            f"warning: {statistics.queries} lists leave some of the {num_shards} "
            "shards empty"
        )
