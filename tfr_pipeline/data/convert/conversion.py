"""`convert`: ranking files to sharded TFRecord files, `features.json`, statistics."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import re
import sys
from collections.abc import Callable
from typing import IO, Any

from tfr_pipeline import outputs, signals, urls
from tfr_pipeline.data.convert import output_folder, remote_output, workers
from tfr_pipeline.data.convert.description import (
    describe_output,
    find_transform,
    first_width,
    names_of_columns,
    remember,
)
from tfr_pipeline.data.convert.label_transform import LabelTransform
from tfr_pipeline.data.convert.progress import Progress
from tfr_pipeline.data.convert.remarks import hint_at_width, report_columns, warn
from tfr_pipeline.data.convert.statistics import Statistics
from tfr_pipeline.data.records import encode, tfrecord
from tfr_pipeline.data.sources import libsvm, spooled
from tfr_pipeline.data.sources.options import Options
from tfr_pipeline.data.sources.source import Part, QueryOrder, Source, parse
from tfr_pipeline.errors import ConfigError, unknown_name
from tfr_pipeline.features import Features

OUTPUT_FORMATS = {"elwc": encode.elwc, "packed": encode.packed}
# Starting processes takes longer than converting less than this in one.
_SMALL_INPUT = 8 << 20


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
        output = stack.enter_context(remote_output.published(output))
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
        transform = find_transform(source, label_transform, before, num_workers, report)
        describe = functools.partial(
            describe_output,
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
            features = remember(features, transform, before.reading if before else {})
            statistics = write(Target(features, 0, options.nan, transform))
        elif not source.is_text:
            report_columns(source, report)
            features = describe(0)
            statistics = write(Target(features, 0, options.nan, transform))
        else:
            width, certain = first_width(source, before)
            hint_at_width(width, report)
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
                hint_at_width(width, report)
                features = describe(width)
                statistics = write(Target(features, width, options.nan, transform))
        columns = [
            name
            for key, feature in features.example.items()
            if (feature.dtype, feature.kind) == ("float32", "fixed")
            for name in names_of_columns(key, features)
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
    warn(statistics, num_shards, report)
    return stats


def _print_line(line: str) -> None:
    print(urls.shown(line), file=sys.stderr, flush=True)


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
