"""`convert`: ranking files to sharded TFRecord files, `features.json`, statistics."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import glob
import json
import os
import re
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from typing import IO, Any

from tfr_pipeline import files
from tfr_pipeline.data import encode, libsvm, sources, tfrecord, workers
from tfr_pipeline.data.options import Options
from tfr_pipeline.data.progress import Progress
from tfr_pipeline.data.statistics import Statistics
from tfr_pipeline.errors import ConfigError, DataError, unknown_name
from tfr_pipeline.features import FILE_NAME, Feature, Features

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
    """

    features: Features
    num_features: int
    nan: str


@dataclasses.dataclass
class Converted:
    """A part of the input, ready to be written.

    Attributes:
      parsed: Query ids and places of its lists, without their documents.
      records: One TFRecord with checksums a list.
      statistics: Its counts; None if it has no list.
      bytes_read: Size of the input consumed so far.
    """

    parsed: list[libsvm.Parsed]
    records: list[bytes]
    statistics: Statistics | None
    bytes_read: int


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
    num_workers: int | None = None,
    report: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Converts ranking files of one split.

    Writes `<split>-00000-of-0000N.tfrecord` ..., `features.json` and
    `<split>.stats.json` into `output`; all of them at the end, or none. List `i` goes
    to shard `i % num_shards`, so the result depends on nothing but the input.

    Args:
      paths: A path, a glob, comma-separated globs, or a list of those.
      output: Folder to write into.
      input_format: `libsvm`, `csv`, `tsv` or `parquet`.
      split: Name of the split, such as `train`.
      num_shards: Number of files.
      output_format: `elwc` (a serialized `ExampleListWithContext` a list) or `packed`
        (a `tf.train.Example` with raw matrices a list).
      scalar_features: Whether to write one feature for each column rather than one
        vector feature named `features`.
      options: How to read.
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
    if num_shards < 1 or (num_workers or 1) < 1:
        raise ConfigError(
            "expected at least 1 for --num_shards and --workers, found "
            f"{num_shards} and {num_workers}."
        )
    if not re.fullmatch(r"[A-Za-z0-9_.]+", split):
        raise ConfigError(
            f"--split: expected letters, digits, '_' and '.', found {split!r}."
        )
    report = report or _print_line
    options = options or Options()
    source = sources.Source(paths, input_format, options)
    if os.path.exists(output) and not os.path.isdir(output):
        raise DataError(f"--output: expected a folder, found the file {output!r}.")
    size = sum(os.path.getsize(path) for path in source.paths)
    if num_workers is None:
        num_workers = workers.available_cores() if size >= _SMALL_INPUT else 1
    before = _earlier_features(output, split)
    with _staging(output, split) as staging, _sigterm_raises():
        source.options = dataclasses.replace(options, work_dir=staging)
        describe = functools.partial(
            _describe, source, output_format=output_format, scalar=scalar_features
        )
        write = functools.partial(
            _write, source, staging, num_shards, num_workers, split, size
        )
        if not source.is_text:
            features = describe(0)
            statistics = write(Target(features, 0, options.nan))
        else:
            width, certain = _first_width(source, before)
            try:
                features = describe(width)
                statistics = write(Target(features, width, options.nan))
            except libsvm.FeatureIndexError:
                if certain:
                    raise
                report(f"more than {width} features: reading the input once more")
                width = max(
                    workers.ordered_map(libsvm.max_index, source.texts(), num_workers)
                )
                features = describe(width)
                statistics = write(Target(features, width, options.nan))
        if before is not None:
            _check_same(before, features, os.path.join(output, FILE_NAME))
        names = [name for f in features.example for name in _column_names(f, features)]
        stats = {
            "split": split,
            "num_shards": num_shards,
            **statistics.to_json(names),
            "files": [
                {"path": path, "bytes": os.path.getsize(path)} for path in source.paths
            ],
        }
        _commit(staging, output, split, features, stats)
    _warn(statistics, num_shards, report)
    return stats


def _print_line(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _column_names(name: str, features: Features) -> tuple[str, ...]:
    return features.example[name].columns or (name,)


def _first_width(source: sources.Source, before: Features | None) -> tuple[int, bool]:
    """Returns the number of features of text to try, and whether it is certain."""
    if source.options.num_features is not None:
        if source.options.num_features < 1:
            raise ConfigError(
                "--num_features: expected at least 1, found "
                f"{source.options.num_features}."
            )
        return source.options.num_features, True
    if before is not None:
        width = sum(len(_column_names(name, before)) for name in before.example)
        return width, True
    for chunk in source.texts():
        if width := libsvm.max_index(chunk):
            return width, False
    raise source.empty()


def _describe(
    source: sources.Source, width: int, *, output_format: str, scalar: bool
) -> Features:
    """Returns the description of what will be written."""
    if source.is_text:
        columns = tuple(f"feature_{number}" for number in range(1, width + 1))
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
    taken = {"label", "docid", "qid"} | ({"weight"} if weight else set())
    if clash := sorted(taken & ({*example, *context})):
        raise ConfigError(
            f"expected other names than {', '.join(sorted(taken))} for features and "
            f"context columns, found {', '.join(clash)}. Rename the columns."
        )
    return Features(
        context=context, example=example, weight=weight, data_format=output_format
    )


def _convert_part(target: Target, part: sources.Part) -> Converted:
    """Parses and encodes a part of the input; runs in a worker."""
    result = Converted([], [], None, part.bytes_read)
    encoder = OUTPUT_FORMATS[target.features.data_format]
    for parsed in sources.parse(part, target.num_features, target.nan):
        if not parsed.lists.num_lists:
            continue
        result.records += tfrecord.frame(encoder(parsed.lists, target.features))
        statistics = Statistics.of(parsed.lists)
        if result.statistics is None:
            result.statistics = statistics
        else:
            result.statistics.add(statistics)
        # Only ids go back to the parent.
        lists = dataclasses.replace(
            parsed.lists, values={}, labels=None, weights=None, document_ids=[]
        )
        result.parsed.append(dataclasses.replace(parsed, lists=lists))
    return result


def _write(
    source: sources.Source,
    staging: str,
    num_shards: int,
    num_workers: int,
    split: str,
    size: int,
    target: Target,
) -> Statistics:
    """Writes the shards into the staging folder; returns the counts."""
    statistics: Statistics | None = None
    order = sources.QueryOrder()
    progress = Progress(size, f"converting {split}")
    number = 0
    with contextlib.ExitStack() as stack:
        stack.callback(progress.clear)
        shards: list[IO[bytes]] = [
            stack.enter_context(open(os.path.join(staging, name), "wb"))
            for name in _shard_names(split, num_shards)
        ]
        results = workers.ordered_map(
            functools.partial(_convert_part, target), source.parts(), num_workers
        )
        stack.callback(results.close)  # type: ignore[attr-defined]
        for result in results:
            for parsed in result.parsed:
                order.add(parsed)
            for record in result.records:
                shards[number % num_shards].write(record)
                number += 1
            if statistics is None:
                statistics = result.statistics
            elif result.statistics is not None:
                statistics.add(result.statistics)
            if statistics is not None:
                progress.update(result.bytes_read, statistics.documents)
    if statistics is None:
        raise source.empty()
    return statistics


def _shard_names(split: str, num_shards: int) -> list[str]:
    return [
        f"{split}-{shard:05d}-of-{num_shards:05d}.tfrecord"
        for shard in range(num_shards)
    ]


def _earlier_features(output: str, split: str) -> Features | None:
    """Returns the description that other splits in the folder were written by."""
    others = [
        path
        for path in glob.glob(os.path.join(glob.escape(output), "*-of-*.tfrecord"))
        if not _is_shard(os.path.basename(path), split)
    ]
    if others and os.path.exists(os.path.join(output, FILE_NAME)):
        return Features.load(output)
    return None


def _is_shard(name: str, split: str) -> bool:
    return bool(re.fullmatch(re.escape(split) + r"-\d{5}-of-\d{5}\.tfrecord", name))


def _check_same(before: Features, now: Features, path: str) -> None:
    """Raises a `DataError` that names the first difference of two descriptions."""
    advice = (
        "All splits of a folder need the same features: convert this one with the "
        "same options, or into another folder."
    )
    for kind in ("example", "context"):
        old, new = getattr(before, kind), getattr(now, kind)
        for name in [*old, *(name for name in new if name not in old)]:
            if old.get(name) != new.get(name):
                raise DataError(
                    f"{path}: {kind} feature {name!r}: expected "
                    f"{_in_words(old.get(name))}, found {_in_words(new.get(name))}. "
                    f"{advice}"
                )
    for kind in ("label", "weight", "query_id", "document_id", "data_format"):
        if getattr(before, kind) != getattr(now, kind):
            raise DataError(
                f"{path}: {kind}: expected {getattr(before, kind)!r}, found "
                f"{getattr(now, kind)!r}. {advice}"
            )
    if list(before.example) != list(now.example):
        raise DataError(
            f"{path}: expected the features in the order {list(before.example)}, "
            f"found {list(now.example)}. {advice}"
        )


def _in_words(feature: Feature | None) -> str:
    if feature is None:
        return "no such feature"
    columns = f" with columns {', '.join(feature.columns)}" if feature.columns else ""
    text = f"{feature.dtype} of shape {feature.shape}{columns}"
    return text if len(text) < 200 else text[:120] + " ... " + text[-60:]


@contextlib.contextmanager
def _staging(output: str, split: str) -> Iterator[str]:
    """Yields a folder inside `output` that is gone afterwards, whatever happens.

    After SIGKILL it stays; its name starts with a dot, so no glob for a split finds it.
    """
    existed = os.path.isdir(output)
    os.makedirs(output, exist_ok=True)
    folder = tempfile.mkdtemp(prefix=f".{split}.", suffix=".tmp", dir=output)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if not existed:
            with contextlib.suppress(OSError):  # not empty: the run succeeded
                os.rmdir(output)


@contextlib.contextmanager
def _sigterm_raises() -> Iterator[None]:
    """Makes SIGTERM unwind the stack, so that workers and temporaries go."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: object) -> None:
        raise SystemExit(143)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _commit(
    staging: str, output: str, split: str, features: Features, stats: dict[str, Any]
) -> None:
    """Moves the shards to their place and writes the descriptions.

    The statistics go first and come last: where they are, the split is whole.
    """
    path = os.path.join(output, f"{split}.stats.json")
    with contextlib.suppress(FileNotFoundError):
        os.remove(path)
    for name in os.listdir(output):
        if _is_shard(name, split):
            os.remove(os.path.join(output, name))
    for name in sorted(os.listdir(staging)):
        if _is_shard(name, split):
            os.replace(os.path.join(staging, name), os.path.join(output, name))
    features.save(output)
    files.write_text(path, json.dumps(stats, indent=1, allow_nan=False) + "\n")


def _warn(
    statistics: Statistics, num_shards: int, report: Callable[[str], None]
) -> None:
    """Reports what is legal but may be a mistake."""
    count, query = statistics.single
    if count:
        report(f"warning: {count} lists have one document, e.g. query {query!r}")
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
    if statistics.queries < num_shards:
        report(
            f"warning: {statistics.queries} lists leave some of the {num_shards} "
            "shards empty"
        )
