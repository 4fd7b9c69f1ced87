"""`tfr-pipeline graph`: ids, a similarity graph, data with neighbours."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from tfr_pipeline.cli import arguments
from tfr_pipeline.cli.convert import runner_flags

if TYPE_CHECKING:
    from tfr_pipeline.data.convert.beam_runner import Chosen

# The steps: `cli/graph_<word>.py`.
COMMANDS = {
    "identify": "an id for each document or example",
    "build": "a graph of those that are alike",
    "pack": "features of neighbours in each document or example",
}


def add_reading_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags that say how to read data; all steps have them."""
    add = parser.add_argument
    add(
        "--input",
        required=True,
        type=arguments.patterns,
        help="TFRecord files: path, folder, glob, or several with commas between",
    )
    add(
        "--input_format",
        default="auto",
        help="of ranked lists elwc, packed, eie or seq; example for tf.train.Examples, "
        "each a node (default: auto, by the first records)",
    )
    add(
        "--features_file",
        type=arguments.path,
        help="features.json of lists (default: that beside them, or what their first "
        "records have)",
    )
    add("--id_feature", default="id", help="of examples: the id (default: id)")
    add("--label_column", default="label", help="the label (default: label)")


def add_runner_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags that say where the work is done."""
    add = parser.add_argument
    add(
        "--runner",
        nargs="?",
        const="in_process",
        help="work as an Apache Beam pipeline: in_process, flink, spark, dataflow, or "
        "what Beam calls a runner (--runner alone: in_process; default: none)",
    )
    add("--runner_args", help="flags of Beam, such as '--flink_master=HOST:8081'")


def chosen(args: argparse.Namespace) -> Chosen | None:
    """Returns the runner that the flags say; None for this process.

    Raises:
      ConfigError: There is no such runner, or Beam is missing.
    """
    flags = runner_flags(args)
    if flags is None:
        return None
    from tfr_pipeline.data.convert.beam_runner import Chosen

    return Chosen(args.runner, flags)


def add_writing_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags that say where and how data is written."""
    add = parser.add_argument
    add(
        "--output",
        required=True,
        type=arguments.path,
        help="folder to write into; of examples, a file NAME.tfrecord will do",
    )
    add("--split", default="train", help="name of the split (default: train)")
    add(
        "--num_shards",
        type=arguments.positive,
        default=1,
        help="number of files (default: 1)",
    )
    add("--output_format", help="of lists: elwc or packed (default: as the input)")
