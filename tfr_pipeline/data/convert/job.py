"""A conversion whose settings were checked, and what any engine does with its lists."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from tfr_pipeline.data.convert.cut import Cut
from tfr_pipeline.data.convert.embed import Embed
from tfr_pipeline.data.convert.label_transform import LabelTransform
from tfr_pipeline.data.convert.narrow import narrow
from tfr_pipeline.data.convert.statistics import Statistics
from tfr_pipeline.data.records import encode, tfrecord
from tfr_pipeline.data.records.index import ShardIndex
from tfr_pipeline.data.sources.libsvm import Parsed
from tfr_pipeline.data.sources.source import Source
from tfr_pipeline.features import Features

OUTPUT_FORMATS = {"elwc": encode.elwc, "packed": encode.packed}


@dataclasses.dataclass(frozen=True)
class Job:
    """What an engine has to do.

    Attributes:
      source: The input.
      splits: Names of the splits.
      num_shards: Number of files.
      staging: Where the files go, with the names of `output_folder.shard_names`.
      num_workers: Processes on this machine.
      describe: Given the number of features of text, or 0, and a `transform` that is
        fitted, returns the description; picklable.
      label_transform: `--label_transform`.
      before: Description of the splits that are there already.
      streams: What came through a pipe, and is a file of this machine now.
      report: Takes lines for the user.
      cut: Which list is in which of the splits, where there are several.
      embeds: Texts that become vectors.
    """

    source: Source
    splits: tuple[str, ...]
    num_shards: int
    staging: str
    num_workers: int
    describe: Callable[..., Features]
    label_transform: str
    before: Features | None
    streams: list[str]
    report: Callable[[str], None]
    cut: Cut | None = None
    embeds: tuple[Embed, ...] = ()

    @property
    def title(self) -> str:
        """What is being done, for the user."""
        return f"converting {', '.join(self.splits)}"


# What was counted in a split, and the index of each of its shards.
SplitResult = tuple[Statistics, list[ShardIndex]]
# Description of the shards, and what there is of each split.
Result = tuple[Features, list[SplitResult]]
# Writes the shards of a job.
Engine = Callable[[Job], Result]


@dataclasses.dataclass(frozen=True)
class Target:
    """How a worker writes.

    Attributes:
      features: Description of what is written.
      num_features: Width of a row of the input; for text.
      nan: What to do with NaN and infinite features.
      transform: How labels become grades, if they are not the same.
      cut: See `Job`.
      embeds: See `Job`.
      labelled: Whether each document of a text must have a label.
    """

    features: Features
    num_features: int
    nan: str
    transform: LabelTransform | None = None
    cut: Cut | None = None
    embeds: tuple[Embed, ...] = ()
    labelled: bool = True


def encode_lists(target: Target, parsed: Parsed) -> tuple[list[bytes], Statistics]:
    """Returns a TFRecord with checksums for each list, and their counts.

    Texts become vectors; labels become grades, and features what 16 bits hold of them,
    in place.
    """
    for embed in target.embeds:
        parsed = dataclasses.replace(parsed, lists=embed.applied(parsed.lists))
    lists = parsed.lists
    if target.transform is not None and lists.labels is not None:
        lists.labels = target.transform(lists.labels)
    losses = narrow(parsed, target.features, target.nan)
    encoder = OUTPUT_FORMATS[target.features.data_format]
    records = tfrecord.frame(encoder(parsed.lists, target.features))
    return records, Statistics.of(parsed.lists, losses)
