"""What a conversion will write: features, and what becomes of labels."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable

from tfr_pipeline.data.convert import label_transform as label_transforms
from tfr_pipeline.data.convert import workers
from tfr_pipeline.data.convert.label_transform import Counts, LabelTransform
from tfr_pipeline.data.sources import libsvm, libsvm_chunks
from tfr_pipeline.data.sources.numbering import column_names
from tfr_pipeline.data.sources.source import Part, Source, parse
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
    """
    if source.is_records:
        features = source.records().output_as(output_format, feature_dtype)
        return remember(features, transform, before.reading if before else {})
    if source.is_text:
        columns = column_names(width)
        context, weight = {}, None
    else:
        roles = source.columns()
        columns, context = roles.features, roles.context
        weight = ("weight", Feature("float32", (1,), 1.0)) if roles.weight else None
    if scalar:
        example = {name: Feature("float32", (1,), 0.0) for name in columns}
    else:
        example = {
            "features": Feature("float32", (len(columns),), 0.0, columns=columns)
        }
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
    )
    return remember(features, transform, source.remembered())


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
) -> LabelTransform | None:
    """Returns the transform that was agreed on, fitted to labels if it needs them."""
    asked = agreed_transform(text, before, report)
    if asked is None or not asked.needs_labels:
        return asked
    report("reading the labels first, for their quantiles")
    counts: Counts = []
    find = functools.partial(_count_labels, source.options.nan)
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


def _count_labels(nan: str, part: Part) -> Counts:
    """Returns the number of documents by label in a part; runs in a worker."""
    counts: Counts = []
    for parsed in parse(part, None, nan):
        found = label_transforms.count(parsed.lists.labels)
        counts = label_transforms.total(counts, found)
    return counts
