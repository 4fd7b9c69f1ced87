"""`convert`: ranking files to sharded TFRecord files, `features.json`, statistics."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any

from tfr_pipeline import outputs, signals, urls
from tfr_pipeline.data.convert import output_folder, remote_output, workers
from tfr_pipeline.data.convert.cut import Cut
from tfr_pipeline.data.convert.description import (
    describe_output,
    names_of_floats,
)
from tfr_pipeline.data.convert.embed import Embed
from tfr_pipeline.data.convert.job import (
    OUTPUT_FORMATS,
    Engine,
    Job,
)
from tfr_pipeline.data.convert.narrow import check_dtype
from tfr_pipeline.data.convert.processes import in_processes
from tfr_pipeline.data.convert.remarks import (
    prefixed,
    report_cut,
    warn,
    warn_of_rounded,
)
from tfr_pipeline.data.records import index
from tfr_pipeline.data.sources import class_names, libsvm, spooled
from tfr_pipeline.data.sources.options import RECORD_FORMATS, Options
from tfr_pipeline.data.sources.source import Source
from tfr_pipeline.data.sources.table_columns import known_columns
from tfr_pipeline.errors import ConfigError, unknown_name
from tfr_pipeline.features import FILE_NAME
from tfr_pipeline.layout import FEATURE_DTYPES

# Starting processes takes longer than converting less than this in one.
_SMALL_INPUT = 8 << 20


def convert(
    paths: str | list[str],
    output: str,
    *,
    input_format: str = "libsvm",
    split: str = "train",
    splits: str = "",
    num_shards: int = 1,
    output_format: str = "elwc",
    scalar_features: bool = False,
    options: Options | None = None,
    label_transform: str = "",
    feature_dtype: str = FEATURE_DTYPES[0],
    embed: Sequence[str] = (),
    num_workers: int | None = None,
    report: Callable[[str], None] | None = None,
    engine: Engine | None = None,
) -> dict[str, Any]:
    """Converts ranking files of one split, or of several at once.

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
      splits: Instead, names and shares of several, such as `train:.8,valid:.1,test:.1`;
        see `Cut`.
      num_shards: Number of files of each split.
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
      embed: Texts that become vectors: `title=PATH` of a module that takes the place of
        the text, `title:title_vector=PATH` beside it; see `Embed`.
      num_workers: Processes that parse and encode; by default one for each core, or
        one for another engine.
      report: Takes lines for the user; by default they go to standard error.
      engine: Reads the input and writes the shards; by default `in_processes`.

    Returns:
      The content of `<split>.stats.json`; of several splits, by name.

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
    if not re.fullmatch(r"[A-Za-z0-9_.]+", split):
        raise ConfigError(
            f"--split: expected letters, digits, '_' and '.', found {split!r}."
        )
    cut = Cut.parse(splits) if splits else None
    if cut is not None and split != "train":
        raise ConfigError(
            f"expected --split or --splits, found both: {split!r} and {splits!r}."
        )
    written = cut.names if cut else (split,)
    output_folder.check_shards(num_shards, len(written))
    report = report or _print_line
    options = options or Options()
    embeds = tuple(map(Embed.parse, embed))
    if embeds and input_format not in RECORD_FORMATS:
        types = {one.text: "text" for one in embeds}
        options = dataclasses.replace(options, types={**types, **options.types})
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
        options = _with_classes(options, output, written)
        source = Source(list(names), input_format, options)
        if options.classes is not None:
            _check_for_classes(label_transform, engine)
        if cut is not None and source.counts_queries:
            raise ConfigError(
                "--splits: expected query ids, by which lists are cut; found lists "
                "that are numbered only. Give each split its own files, with --split."
            )
        for path in output_folder.replaced(output, written):
            outputs.check_output(path, source.inputs, what="--output")
        size = sum(os.path.getsize(path) for path in source.paths)
        if num_workers is None:
            several = engine is None and size >= _SMALL_INPUT
            num_workers = workers.available_cores() if several else 1
        output_folder.check_ours(output, written)
        before = output_folder.earlier_features(output, written)
        if before is not None:
            # The rest is compared when it is known, these two before the work.
            as_asked = dataclasses.replace(
                before, data_format=output_format, feature_dtype=feature_dtype
            )
            output_folder.check_same(before, as_asked, os.path.join(output, FILE_NAME))
        staging = stack.enter_context(output_folder.staging_folder(output, written[0]))
        known = {} if before is None else known_columns(before)
        classes = options.classes
        if classes == ():
            report("reading the labels first, for the names of the classes")
            classes = class_names.found_in(source.labels(), ", ".join(source.paths))
            report(f"classes, {len(classes)}: {class_names.shown(classes)}")
        source.options = dataclasses.replace(
            options, work_dir=staging, known=known, classes=classes
        )
        describe = functools.partial(
            describe_output,
            source,
            output_format=output_format,
            feature_dtype=feature_dtype,
            scalar=scalar_features,
            before=before,
            embeds=embeds,
        )
        streams = [name for path, name in names.items() if path != name]
        job = Job(
            *(source, written, num_shards, staging, num_workers, describe),
            *(label_transform, before, streams, report, cut, embeds),
        )
        features, results = (engine or in_processes)(job)
        columns = names_of_floats(features)
        stats: dict[str, dict[str, Any]] = {}
        for name, (statistics, shards) in zip(written, results, strict=True):
            index.write(staging, name, shards)
            stats[name] = {
                "split": name,
                "num_shards": num_shards,
                **statistics.to_json(columns, features.classes),
                **({"splits": str(cut)} if cut else {}),
                "files": [
                    {"path": names[path], "bytes": os.path.getsize(path)}
                    for path in source.paths
                ],
            }
        output_folder.commit(
            staging, output, features, stats, described=options.features
        )
    if cut is not None:
        report_cut(cut, output_folder.other_shards(output, written), report)
    whole = () if source.is_text or source.is_records else source.columns().whole
    for name, (statistics, _) in zip(written, results, strict=True):
        told = prefixed(name, report) if cut else report
        warn(statistics, num_shards, told, features.classes)
        warn_of_rounded(statistics, columns, whole, told)
        if statistics.losses is not None:
            for line in statistics.losses.warnings(columns, options.nan):
                told(line)
    return stats if cut else stats[split]


def _with_classes(options: Options, output: str, written: Sequence[str]) -> Options:
    """Returns how to read with the classes of splits that are there already."""
    before = output_folder.earlier_features(output, written)
    if before is None or not before.classes:
        return options
    if options.classes:  # compared where all of the description is
        return options
    return dataclasses.replace(options, classes=before.classes)


def _check_for_classes(label_transform: str, engine: Engine | None) -> None:
    if label_transform:
        raise ConfigError(
            f"--label_transform={label_transform}: it makes grades of numbers, and "
            "with --classes labels are names. Leave one of the two out."
        )
    if engine is not None:
        raise ConfigError(
            "--runner: expected lists to rank; with --classes, convert on this machine."
        )


def _print_line(line: str) -> None:
    print(urls.shown(line), file=sys.stderr, flush=True)
