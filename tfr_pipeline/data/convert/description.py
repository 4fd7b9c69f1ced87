"""What a conversion will write: features, and what becomes of labels."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping

from tfr_pipeline.data.convert import label_transform as label_transforms
from tfr_pipeline.data.convert import workers
from tfr_pipeline.data.convert.cut import Cut
from tfr_pipeline.data.convert.embed import Embed, described
from tfr_pipeline.data.convert.label_transform import Counts, LabelTransform
from tfr_pipeline.data.records.formats import PACKED
from tfr_pipeline.data.sources import libsvm, libsvm_chunks
from tfr_pipeline.data.sources.column_types import feature_of
from tfr_pipeline.data.sources.numbering import column_names
from tfr_pipeline.data.sources.source import Part, Source, parse
from tfr_pipeline.data.sources.table_columns import Columns
from tfr_pipeline.errors import ConfigError, DataError
from tfr_pipeline.features import FILE_NAME, PADDING_LABEL, Feature, Features


def names_of_columns(name: str, features: Features) -> tuple[str, ...]:
    """Returns a name for each column of a feature of documents."""
    feature = features.example[name]
    size = math.prod(feature.shape)
    numbered = tuple(f"{name}[{i}]" for i in range(size)) if size > 1 else (name,)
    return feature.columns or numbered


def names_of_floats(features: Features) -> list[str]:
    """Returns the names of the columns of float32 features, in their order."""
    return [
        name
        for key, feature in features.example.items()
        if (feature.dtype, feature.kind) == ("float32", "fixed")
        for name in names_of_columns(key, features)
    ]


def first_width(source: Source, before: Features | None) -> tuple[int, bool]:
    """Returns the number of features of text to try, and whether it is certain."""
    if source.options.num_features is not None:
        return source.options.num_features, True
    if before is not None:
        width = sum(len(names_of_columns(name, before)) for name in before.example)
        return width, True
    some = False
    for chunk in source.texts():
        if width := libsvm.max_index(chunk):
            return width, False
        some = some or any(map(libsvm_chunks.is_data, chunk.text.split(b"\n")))
    if not some:
        raise source.empty()
    raise DataError(
        f"{', '.join(source.paths)}: expected features 'index:value', found none in "
        "any line. If that is right, say how many there are: --num_features."
    )


def describe_output(
    source: Source,
    width: int,
    *,
    output_format: str,
    feature_dtype: str,
    scalar: bool,
    transform: LabelTransform | None,
    before: Features | None = None,
    embeds: tuple[Embed, ...] = (),
) -> Features:
    """Returns the description of what will be written.

    Args:
      source: The input.
      width: Number of features; of text.
      output_format: `elwc` or `packed`.
      feature_dtype: What packed files hold float32 features as.
      scalar: Whether each column is a feature; of text and tables.
      transform: What becomes of labels.
      before: Description of the splits that are there already.
      embeds: Texts that become vectors.
    """
    texts = {embed.text for embed in embeds if embed.vector == embed.text}
    if source.is_records:
        features = source.records().output_as(output_format, feature_dtype, texts)
        features = remember(features, transform, before.reading if before else {})
        return described(features, embeds)
    if source.is_text:
        example = _of_columns(column_names(width), {}, scalar)
        context, weight = {}, None
    else:
        roles = source.columns()
        example, context = features_of(roles, scalar), roles.context
        weight = ("weight", Feature("float32", (1,), 1.0)) if roles.weight else None
        written = {name: x for name, x in example.items() if name not in texts}
        check_format(written, context, output_format)
    labels = {
        name: (name, Feature("float32", (1,), PADDING_LABEL))
        for name in ([] if source.is_text else source.options.label_columns)
    }
    if labels and output_format == "packed":
        raise ConfigError(
            "--label_columns: the packed format holds one label; several tasks need "
            "--output_format=elwc."
        )
    taken = {"docid", "qid", *(labels or ["label"]), *(["weight"] if weight else [])}
    if clash := sorted(taken & ({*example, *context})):
        raise ConfigError(
            f"expected other names than {', '.join(sorted(taken))} for features and "
            f"context columns, found {', '.join(clash)}. Rename the columns."
        )
    features = Features(
        context=context,
        example=example,
        weight=weight,
        data_format=output_format,
        feature_dtype=feature_dtype,
        labels=labels,
        classes=source.options.classes or (),
    )
    return described(remember(features, transform, source.remembered()), embeds)


def features_of(roles: Columns, scalar: bool = False) -> dict[str, Feature]:
    """Returns the features of documents that a table has, as lists have their columns.

    Raises:
      ConfigError: Two have one name.
    """
    example = _of_columns(roles.features, roles.types, scalar)
    if clash := [name for name in roles.others if name in example]:
        raise ConfigError(
            f"column {clash[0]!r}: expected another name, for the vector of numbers is "
            "called so. Rename the column, or use --scalar_features."
        )
    return {**example, **roles.others}


def _of_columns(
    columns: tuple[str, ...], types: Mapping[str, str], scalar: bool
) -> dict[str, Feature]:
    if scalar:
        return {name: feature_of(types.get(name, "numeric")) for name in columns}
    if not columns:
        return {}
    found = tuple(types.get(name, "numeric") for name in columns) if types else ()
    vector = Feature("float32", (len(columns),), 0.0, columns=columns, types=found)
    return {"features": vector}


def check_format(
    example: Mapping[str, Feature], context: Mapping[str, Feature], output_format: str
) -> None:
    """Refuses features of documents that a format does not hold.

    Raises:
      ConfigError: There is one.
    """
    loose = [
        name
        for name, feature in example.items()
        if feature.kind != "fixed" or feature.dtype == "string"
    ]
    loose += [name for name, feature in context.items() if feature.kind != "fixed"]
    if loose and output_format == PACKED:
        raise ConfigError(
            "--output_format=packed holds numbers, as many in each document; found "
            f"{', '.join(loose[:8])}. Use --output_format=elwc, or choose others with "
            "--feature_columns."
        )


def remember(
    features: Features,
    transform: LabelTransform | None,
    reading: dict[str, str],
) -> Features:
    """Returns the description with what the input was and what became of its labels."""
    return dataclasses.replace(
        features,
        label_transform=None if transform is None else transform.to_json(),
        reading=reading,
    )


def agreed_transform(
    text: str, before: Features | None, report: Callable[[str], None]
) -> LabelTransform | None:
    """Returns how labels become grades: in all splits of a folder the same way.

    It may still need the labels, see `LabelTransform.needs_labels`.
    """
    asked = LabelTransform.parse(text) if text else None
    if before is not None:
        known = None
        if before.label_transform is not None:
            known = LabelTransform.from_json(before.label_transform, FILE_NAME)
        if asked is not None and str(asked) != str(known):
            raise ConfigError(
                f"--label_transform={text}: expected that of the splits already in "
                f"--output, {known or 'none'}. All splits of a folder need the same: "
                "convert into another folder."
            )
        if known is not None:
            report(f"labels: --label_transform={known}, as the splits already there")
        return known
    return asked


def find_transform(
    source: Source,
    text: str,
    before: Features | None,
    num_workers: int,
    report: Callable[[str], None],
    cut: Cut | None = None,
) -> LabelTransform | None:
    """Returns the transform that was agreed on, fitted to labels if it needs them.

    Where the input is cut into splits, to those of the first of them.
    """
    asked = agreed_transform(text, before, report)
    if asked is None or not asked.needs_labels:
        return asked
    report("reading the labels first, for their quantiles")
    counts: Counts = []
    told = source.options.nan, source.options.require_label
    find = functools.partial(_count_labels, told, cut)
    for found in workers.ordered_map(find, source.parts(), num_workers):
        counts = label_transforms.total(counts, found)
    asked = asked.fitted(counts)
    report_thresholds(asked, report)
    return asked


def report_thresholds(transform: LabelTransform, report: Callable[[str], None]) -> None:
    """Says which labels have which grade."""
    for column in transform.thresholds:
        bounds = ", ".join(f"{bound:g}" for bound in column)
        report(f"labels: largest label of the grades from 1 on: {bounds}, any")


def _count_labels(told: tuple[str, bool], cut: Cut | None, part: Part) -> Counts:
    """Returns the number of documents by label in a part; runs in a worker."""
    counts: Counts = []
    for parsed in parse(part, None, *told):
        lists = parsed.lists
        if cut is not None:
            lists = lists.take(cut.choose(lists, cut.names[0]))
        found = label_transforms.count(lists.labels)
        counts = label_transforms.total(counts, found)
    return counts
