"""`convert`: ranking files to sharded TFRecord files, `features.json`, statistics."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import os
import re
import sys
from collections.abc import Callable
from typing import IO, Any

import tfr_pipeline.data.ids as ids
import tfr_pipeline.outputs as outputs
import tfr_pipeline.signals as signals
from tfr_pipeline.data.convert import label_transform as label_transforms
from tfr_pipeline.data.convert import output_folder, workers
from tfr_pipeline.data.convert.label_transform import Counts, LabelTransform
from tfr_pipeline.data.convert.progress import Progress
from tfr_pipeline.data.convert.statistics import Statistics
from tfr_pipeline.data.records import encode, tfrecord
from tfr_pipeline.data.sources import libsvm, libsvm_chunks, spooled
from tfr_pipeline.data.sources.numbering import column_names
from tfr_pipeline.data.sources.options import Options
from tfr_pipeline.data.sources.source import Part, QueryOrder, Source, parse
from tfr_pipeline.errors import ConfigError, DataError, unknown_name
from tfr_pipeline.features import FILE_NAME, PADDING_LABEL, Feature, Features

OUTPUT_FORMATS = {"elwc": encode.elwc, "packed": encode.packed}
# Starting processes takes longer than converting less than this in one.
_SMALL_INPUT = 8 << 20
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


@dataclasses.dataclass(frozen=True)
class Target:
    """How a worker writes.

    Attributes:
      features: Description of what is written.
      num_features: Width of a row of the input; for text.
      nan: What to do with NaN and infinite features.
      transform: How labels become grades, if they are not the same.
    """

    features: Features
    num_features: int
    nan: str
    transform: LabelTransform | None = None


@dataclasses.dataclass
class Converted:
    """A part of the input, ready to be written.

    Attributes:
      parsed: Query ids and places of its lists, without their documents.
      records: One TFRecord with checksums a list.
      statistics: Its counts; None if it has no list.
      bytes_read: Size of the input consumed so far.
      unnamed: Number of documents whose cell for the id is empty.
    """

    parsed: list[libsvm.Parsed]
    records: list[bytes]
    statistics: Statistics | None
    bytes_read: int
    unnamed: int = 0


def convert(
    paths: str | list[str],
    output: str,
    *,
    input_format: str = "libsvm",
    split: str = "train",
    num_shards: int = 1,
    output_format: str = "elwc",
    scalar_features: bool = False,
    options: Options | None = None,
    label_transform: str = "",
    num_workers: int | None = None,
    report: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Converts ranking files of one split.

    Writes `<split>-00000-of-0000N.tfrecord` ..., `features.json` and
    `<split>.stats.json` into `output`; all of them at the end, or none. List `i` goes
    to shard `i % num_shards`, so the result depends on nothing but the input.

    Args:
      paths: A path, a folder, a glob, several with commas between, or a list of those;
        what comes through a pipe is copied to a temporary file first.
      output: Folder to write into.
      input_format: `libsvm`, `csv`, `tsv` or `parquet`; or, for TFRecord files, `elwc`,
        `eie`, `seq` or `example`.
      split: Name of the split, such as `train`.
      num_shards: Number of files.
      output_format: `elwc` (a serialized `ExampleListWithContext` a list) or `packed`
        (a `tf.train.Example` with raw matrices a list).
      scalar_features: Whether to write one feature for each column rather than one
        vector feature named `features`.
      options: How to read.
      label_transform: `log`, `cap:TOP` or `quantiles:GRADES`; by default that of the
        splits that `output` already has, or none. See `LabelTransform`.
      num_workers: Processes that parse and encode; by default one for each core.
      report: Takes lines for the user; by default they go to standard error.

    Returns:
      The content of `<split>.stats.json`.

    Raises:
      DataError: The input is missing or malformed, or does not match the
        `features.json` of the splits that `output` already has.
      ConfigError: A setting is wrong.
    """
    if output_format not in OUTPUT_FORMATS:
        raise ConfigError(unknown_name("output format", output_format, OUTPUT_FORMATS))
    if num_shards < 1 or (num_workers is not None and num_workers < 1):
        raise ConfigError(
            "expected at least 1 for --num_shards and --workers, found "
            f"{num_shards} and {num_workers}."
        )
    output_folder.check_shards(num_shards)
    if not re.fullmatch(r"[A-Za-z0-9_.]+", split):
        raise ConfigError(
            f"--split: expected letters, digits, '_' and '.', found {split!r}."
        )
    report = report or _print_line
    options = options or Options()
    width = options.num_features
    if width is not None and not 1 <= width <= libsvm.MAX_INDEX:
        raise ConfigError(
            "--num_features: expected at least 1 and at most "
            f"{libsvm.MAX_INDEX}, found {width}."
        )
    outputs.check_output(output, folder=True, what="--output")
    with contextlib.ExitStack() as stack:
        stack.enter_context(signals.unwinding())
        names = stack.enter_context(spooled.regular_files(paths, "--input"))
        source = Source(list(names), input_format, options)
        for path in output_folder.replaced(output, split):
            outputs.check_output(path, source.inputs, what="--output")
        size = sum(os.path.getsize(path) for path in source.paths)
        if num_workers is None:
            num_workers = workers.available_cores() if size >= _SMALL_INPUT else 1
        output_folder.check_ours(output, split)
        before = output_folder.earlier_features(output, split)
        staging = stack.enter_context(output_folder.staging_folder(output, split))
        source.options = dataclasses.replace(options, work_dir=staging)
        transform = _transform(source, label_transform, before, num_workers, report)
        describe = functools.partial(
            _describe,
            source,
            output_format=output_format,
            scalar=scalar_features,
            transform=transform,
        )
        write = functools.partial(
            _write, source, staging, num_shards, num_workers, split, size
        )
        if source.is_records:
            features = source.records().output_as(output_format)
            features = _remember(features, transform, before.reading if before else {})
            statistics = write(Target(features, 0, options.nan, transform))
        elif not source.is_text:
            _report_columns(source, report)
            features = describe(0)
            statistics = write(Target(features, 0, options.nan, transform))
        else:
            width, certain = _first_width(source, before)
            _hint_at_width(width, report)
            try:
                features = describe(width)
                statistics = write(Target(features, width, options.nan, transform))
            except libsvm.FeatureIndexError:
                if certain:
                    raise
                report(f"more than {width} features: reading the input once more")
                width = max(
                    workers.ordered_map(libsvm.max_index, source.texts(), num_workers)
                )
                _hint_at_width(width, report)
                features = describe(width)
                statistics = write(Target(features, width, options.nan, transform))
        columns = [
            name
            for key, feature in features.example.items()
            if (feature.dtype, feature.kind) == ("float32", "fixed")
            for name in _column_names(key, features)
        ]
        stats = {
            "split": split,
            "num_shards": num_shards,
            **statistics.to_json(columns),
            "files": [
                {"path": names[path], "bytes": os.path.getsize(path)}
                for path in source.paths
            ],
        }
        output_folder.commit(
            staging, output, split, features, stats, described=options.features
        )
    _warn(statistics, num_shards, report)
    return stats


def _print_line(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _column_names(name: str, features: Features) -> tuple[str, ...]:
    feature = features.example[name]
    size = math.prod(feature.shape)
    numbered = tuple(f"{name}[{i}]" for i in range(size)) if size > 1 else (name,)
    return feature.columns or numbered


def _first_width(source: Source, before: Features | None) -> tuple[int, bool]:
    """Returns the number of features of text to try, and whether it is certain."""
    if source.options.num_features is not None:
        return source.options.num_features, True
    if before is not None:
        width = sum(len(_column_names(name, before)) for name in before.example)
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


def _hint_at_width(width: int, report: Callable[[str], None]) -> None:
    if width >= _WIDE:
        report(
            f"warning: with {width:,} features each document takes "
            f"{4 * width / 2**20:.1f} MiB, for rows are dense. If most are never "
            "there, number those that are from 1 on"
        )


def _describe(
    source: Source,
    width: int,
    *,
    output_format: str,
    scalar: bool,
    transform: LabelTransform | None,
) -> Features:
    """Returns the description of what will be written."""
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
        labels=labels,
    )
    return _remember(features, transform, source.remembered())


def _remember(
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


def _transform(
    source: Source,
    text: str,
    before: Features | None,
    num_workers: int,
    report: Callable[[str], None],
) -> LabelTransform | None:
    """Returns how labels become grades: in all splits of a folder the same way."""
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
    if asked is None or not asked.needs_labels:
        return asked
    report("reading the labels first, for their quantiles")
    counts: Counts = []
    find = functools.partial(_count_labels, source.options.nan)
    for found in workers.ordered_map(find, source.parts(), num_workers):
        counts = label_transforms.total(counts, found)
    asked = asked.fitted(counts)
    for column in asked.thresholds:
        bounds = ", ".join(f"{bound:g}" for bound in column)
        report(f"labels: largest label of the grades from 1 on: {bounds}, any")
    return asked


def _count_labels(nan: str, part: Part) -> Counts:
    """Returns the number of documents by label in a part; runs in a worker."""
    counts: Counts = []
    for parsed in parse(part, None, nan):
        found = label_transforms.count(parsed.lists.labels)
        counts = label_transforms.total(counts, found)
    return counts


def _report_columns(source: Source, report: Callable[[str], None]) -> None:
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


def _convert_part(target: Target, part: Part) -> Converted:
    """Parses and encodes a part of the input; runs in a worker."""
    result = Converted([], [], None, part.bytes_read)
    encoder = OUTPUT_FORMATS[target.features.data_format]
    for parsed in parse(part, target.num_features, target.nan):
        if not parsed.lists.num_lists:
            continue
        if target.transform is not None and parsed.lists.labels is not None:
            parsed.lists.labels = target.transform(parsed.lists.labels)
        result.unnamed += parsed.unnamed
        result.records += tfrecord.frame(encoder(parsed.lists, target.features))
        statistics = Statistics.of(parsed.lists)
        if result.statistics is None:
            result.statistics = statistics
        else:
            result.statistics.add(statistics)
        # Only ids go back to the parent.
        lists = dataclasses.replace(
            parsed.lists, values={}, loose={}, labels=None, weights=None
        )
        lists.document_ids = lists.document_ids[:0]
        result.parsed.append(dataclasses.replace(parsed, lists=lists))
    return result


def _write(
    source: Source,
    staging: str,
    num_shards: int,
    num_workers: int,
    split: str,
    size: int,
    target: Target,
) -> Statistics:
    """Writes the shards into the staging folder; returns the counts."""
    statistics: Statistics | None = None
    order = QueryOrder()
    progress = Progress(size, f"converting {split}")
    number = unnamed = 0
    with contextlib.ExitStack() as stack:
        stack.callback(progress.clear)
        shards: list[IO[bytes]] = [
            stack.enter_context(open(os.path.join(staging, name), "wb"))
            for name in output_folder.shard_names(split, num_shards)
        ]
        results = workers.ordered_map(
            functools.partial(_convert_part, target), source.parts(), num_workers
        )
        stack.callback(results.close)  # type: ignore[attr-defined]
        for result in results:
            for parsed in result.parsed:
                # Lists that come as lists may have the id of another.
                if not source.is_records:
                    order.add(parsed)
            for record in result.records:
                shards[number % num_shards].write(record)
                number += 1
            unnamed += result.unnamed
            if statistics is None:
                statistics = result.statistics
            elif result.statistics is not None:
                statistics.add(result.statistics)
            if statistics is not None:
                progress.update(result.bytes_read, statistics.documents)
    if statistics is None:
        raise source.empty()
    statistics.unnamed = unnamed
    return statistics


def _warn(
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
