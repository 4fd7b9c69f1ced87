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
    names_of_floats,
)
from tfr_pipeline.data.convert.job import (
    OUTPUT_FORMATS,
    Engine,
    Job,
    Result,
    Target,
    encode_lists,
)
from tfr_pipeline.data.convert.narrow import check_dtype
from tfr_pipeline.data.convert.remarks import hint_at_width, report_columns, warn
from tfr_pipeline.data.convert.statistics import Statistics
from tfr_pipeline.data.progress import Progress
from tfr_pipeline.data.records import index
from tfr_pipeline.data.sources import libsvm, spooled
from tfr_pipeline.data.sources.options import Options
from tfr_pipeline.data.sources.source import Part, QueryOrder, Source, parse
from tfr_pipeline.errors import ConfigError, unknown_name
from tfr_pipeline.features import FILE_NAME
from tfr_pipeline.layout import FEATURE_DTYPES

# Starting processes takes longer than converting less than this in one.
_SMALL_INPUT = 8 << 20


@dataclasses.dataclass
class Converted:
    """A part of the input, ready to be written.

    Attributes:
      parsed: Query ids and places of its lists, without their documents.
      records: One TFRecord with checksums a list.
      statistics: Its counts; None if it has no list.
      bytes_read: Size of the input consumed so far.
      unnamed: Number of documents whose cell for the id is empty.
      documents: Number of documents of each list.
    """

    parsed: list[libsvm.Parsed]
    records: list[bytes]
    statistics: Statistics | None
    bytes_read: int
    unnamed: int = 0
    documents: list[int] = dataclasses.field(default_factory=list)


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
    feature_dtype: str = FEATURE_DTYPES[0],
    num_workers: int | None = None,
    report: Callable[[str], None] | None = None,
    engine: Engine | None = None,
) -> dict[str, Any]:
    """Converts ranking files of one split.

    Writes `<split>-00000-of-0000N.tfrecord` ..., `<split>.index.npz`, `features.json`
    and `<split>.stats.json` into `output`; all of them at the end, or none. The result
    depends on nothing but the input and the engine.

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
      feature_dtype: What packed files hold float32 features as: `float32`, `float16` or
        `bfloat16`. A finite value that is infinite in 16 bits is an error, unless
        `options.nan` makes it 0 or keeps it; other losses are counted and reported.
      num_workers: Processes that parse and encode; by default one for each core, or
        one for another engine.
      report: Takes lines for the user; by default they go to standard error.
      engine: Reads the input and writes the shards; by default `in_processes`.

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
    check_dtype(feature_dtype, output_format)
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
            several = engine is None and size >= _SMALL_INPUT
            num_workers = workers.available_cores() if several else 1
        output_folder.check_ours(output, split)
        before = output_folder.earlier_features(output, split)
        if before is not None:
            # The rest is compared when it is known, these two before the work.
            as_asked = dataclasses.replace(
                before, data_format=output_format, feature_dtype=feature_dtype
            )
            output_folder.check_same(before, as_asked, os.path.join(output, FILE_NAME))
        staging = stack.enter_context(output_folder.staging_folder(output, split))
        source.options = dataclasses.replace(options, work_dir=staging)
        describe = functools.partial(
            describe_output,
            source,
            output_format=output_format,
            feature_dtype=feature_dtype,
            scalar=scalar_features,
            before=before,
        )
        streams = [name for path, name in names.items() if path != name]
        job = Job(
            *(source, split, num_shards, staging, num_workers, describe),
            *(label_transform, before, streams, report),
        )
        features, statistics, shards = (engine or in_processes)(job)
        index.write(staging, split, shards)
        columns = names_of_floats(features)
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
    if statistics.losses is not None:
        for line in statistics.losses.warnings(columns, options.nan):
            report(line)
    return stats


def _print_line(line: str) -> None:
    print(urls.shown(line), file=sys.stderr, flush=True)


def in_processes(job: Job) -> Result:
    """The engine of one machine: list `i` goes to shard `i % num_shards`."""
    source, report, nan = job.source, job.report, job.source.options.nan
    transform = find_transform(
        source, job.label_transform, job.before, job.num_workers, report
    )
    describe = functools.partial(job.describe, transform=transform)
    if not source.is_text:
        if not source.is_records:
            report_columns(source, report)
        features = describe(0)
        return features, *_write(job, Target(features, 0, nan, transform))
    width, certain = first_width(source, job.before)
    hint_at_width(width, report)
    try:
        features = describe(width)
        return features, *_write(job, Target(features, width, nan, transform))
    except libsvm.FeatureIndexError:
        if certain:
            raise
        report(f"more than {width} features: reading the input once more")
        found = workers.ordered_map(libsvm.max_index, source.texts(), job.num_workers)
        width = max(found)
        hint_at_width(width, report)
        features = describe(width)
        return features, *_write(job, Target(features, width, nan, transform))


def _convert_part(target: Target, part: Part) -> Converted:
    """Parses and encodes a part of the input; runs in a worker."""
    result = Converted([], [], None, part.bytes_read)
    for parsed in parse(part, target.num_features, target.nan):
        if not parsed.lists.num_lists:
            continue
        records, statistics = encode_lists(target, parsed)
        result.unnamed += parsed.unnamed
        result.documents += parsed.lists.lengths.tolist()
        result.records += records
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


def _write(job: Job, target: Target) -> tuple[Statistics, list[index.ShardIndex]]:
    """Writes the shards into the staging folder; returns the counts and the index."""
    source, num_shards = job.source, job.num_shards
    statistics: Statistics | None = None
    order = QueryOrder()
    size = sum(os.path.getsize(path) for path in source.paths)
    progress = Progress(size, f"converting {job.split}")
    number = unnamed = 0
    names = output_folder.shard_names(job.split, num_shards)
    written = [index.Writing(os.path.join(job.staging, name)) for name in names]
    with contextlib.ExitStack() as stack:
        stack.callback(progress.clear)
        shards: list[IO[bytes]] = [
            stack.enter_context(open(shard.path, "wb")) for shard in written
        ]
        results = workers.ordered_map(
            functools.partial(_convert_part, target), source.parts(), job.num_workers
        )
        stack.callback(results.close)  # type: ignore[attr-defined]
        for result in results:
            for parsed in result.parsed:
                # Lists that come as lists may have the id of another.
                if not source.is_records:
                    order.add(parsed)
            for record, length in zip(result.records, result.documents, strict=True):
                shards[number % num_shards].write(record)
                written[number % num_shards].add(length, len(record))
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
    return statistics, [shard.index() for shard in written]
