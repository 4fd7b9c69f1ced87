"""Which lists stand in which batch, and which of them a worker needs to have."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from tfr_pipeline import files
from tfr_pipeline.data.batching import windowed
from tfr_pipeline.data.batching.file_shares import FileShares
from tfr_pipeline.data.batching.plan import BatchPlan
from tfr_pipeline.data.batching.windowed import WindowedPlan
from tfr_pipeline.data.records import formats
from tfr_pipeline.errors import ConfigError
from tfr_pipeline.layout import BlockLayout
from tfr_pipeline.pipeline.datasets.hparams import (
    BY_FILES,
    BY_LISTS,
    NO_SHARDING,
    setting,
)
from tfr_pipeline.pipeline.datasets.kept_lists import Index, KeptLists, Reading
from tfr_pipeline.pipeline.datasets.protocol import Plan, Split

# What a plan depends on beside the data, the split and the number of replicas.
PLANNED_BY = (
    "train_batch_size",
    "valid_batch_size",
    "documents_per_batch",
    "seed",
    "shuffle",
    "sharding",
)


def find_index(
    kept: KeptLists,
    reading: Reading,
    split: Split,
    sharding: str,
    replicas: int,
    training: bool,
) -> Index | None:
    """Returns the index by which a split is planned before it is read, if it is.

    That is so for large data, and where sharing is asked for. All workers must come to
    the same answer, so nothing counts that one of them may have otherwise, such as its
    memory.

    Args:
      kept: Keeps indices.
      reading: How files become lists.
      split: The split.
      sharding: See `DatasetHparams`.
      replicas: Number of replicas that share a global batch.
      training: Whether the split is trained on. Others that cannot be shared as asked
        are read as with `auto`.

    Raises:
      ConfigError: Sharing is asked for and cannot be.
      DataError: There is an index, of other files or damaged; or a file is damaged.
    """
    pattern, layout = split.pattern, reading.layout
    asked = sharding in (BY_LISTS, BY_FILES) and replicas > 1
    if asked and sharding == BY_FILES and not training:
        asked = len(files.expand(pattern, "data", fetch=False)) >= replicas
    # Whoever knows the index does not look into the files of others for less.
    known = sharding == BY_FILES and kept.known_index(pattern, reading) is not None
    if split.keep is None and (asked or known):
        index = kept.index(pattern, reading, sharding == BY_FILES)
        if index is None:
            raise ConfigError(_cannot_share(reading, pattern, sharding))
        parts, what = len(index.documents), "lists"
        if sharding == BY_FILES:
            parts = _file_shares(index, index.documents, training).most
            what = "files with lists"
        if parts >= replicas:
            return index
        if training:
            raise ConfigError(
                f"data.sharding: {sharding!r} needs one of {what} for each replica, "
                f"found {parts} for {replicas} replicas: {pattern}. Write more of "
                "them, take fewer replicas, or leave it at 'auto'."
            )
    elif asked:
        raise ConfigError(
            f"data.sharding: {sharding!r} shares all lists of files, found {pattern} "
            "of which a split has some. Leave it at 'auto'."
        )
    if split.keep is not None or not kept.may_be_large(pattern):
        return None

    def worth(documents: float) -> bool:
        # The lists at the beginning may be longer than the others.
        return 2 * documents * row_bytes(layout) > windowed.WINDOW

    index = kept.index(pattern, reading, worth=worth)
    if index is not None and is_large(index.documents, layout):
        return index
    return None


def _cannot_share(reading: Reading, pattern: str, sharding: str) -> str:
    """Says why files have no index."""
    if reading.format(files.expand(pattern, "data")) == formats.EXAMPLE:
        return (
            f"data.sharding: {sharding!r} shares records that are lists, found a "
            f"tf.train.Example for each document: {pattern}. Convert them to ELWC or "
            "packed lists (tfr-pipeline convert), or leave it at 'auto'."
        )
    return (
        f"data.sharding: {sharding!r} needs files that can be read from the middle, "
        f"found compressed ones, or a dataset_reader of your own: {pattern}. Set it to "
        f"{BY_FILES!r}, which shares whole files; or decompress them."
    )


def _file_shares(index: Index, lengths: np.ndarray, training: bool) -> FileShares:
    counts = np.array([len(shard.documents) for shard in index.shards])
    return FileShares(lengths, counts, training)


def shares(hparams: Any, workers: int) -> bool:
    """Whether workers that plan by an index read their own lists alone."""
    return workers > 1 and setting(hparams, "sharding") != NO_SHARDING


def make_plan(
    hparams: Any,
    split: str,
    replicas: int,
    documents: np.ndarray,
    layout: BlockLayout,
    index: Index | None,
    by_length: bool = False,
) -> Plan:
    """Returns the plan of a split: by windows if it is large, or shared by workers.

    Args:
      hparams: A `DatasetHparams`, ours or TF-Ranking's.
      split: `train` or another.
      replicas: Number of replicas that share a global batch.
      documents: int64 `[lists]`, documents a list.
      layout: Where features stand in matrices.
      index: What the documents are of, if workers may have parts of the lists only.
      by_length: See `BatchRequest`.

    Warns:
      UserWarning: Files make shares of very different numbers of documents.
    """
    train = split == "train"
    list_size = hparams.list_size if train else hparams.valid_list_size
    lengths = documents.clip(max=list_size) if list_size else documents
    shuffle = train and setting(hparams, "shuffle")
    settings = (
        hparams.train_batch_size if train else hparams.valid_batch_size,
        setting(hparams, "documents_per_batch") if train else None,
        replicas,
        (setting(hparams, "seed") or 0) if shuffle else None,
        train,
    )
    if index is None and not is_large(documents, layout):
        return BatchPlan(lengths, *settings, by_length)
    bounds = None
    if index is not None and setting(hparams, "sharding") == BY_FILES and replicas > 1:
        by_files = _file_shares(index, lengths, train)
        # Validation of fewer files is not shared by files.
        if by_files.most >= replicas:
            bounds = by_files.bounds(replicas)
            if train:
                _warn_if_uneven(by_files, replicas)
    return WindowedPlan(lengths, row_bytes(layout), *settings, bounds, by_length)


def _warn_if_uneven(by_files: FileShares, replicas: int) -> None:
    found = by_files.documents(replicas)
    if found.max() > 2 * found.min():
        warnings.warn(
            f"data.sharding: {BY_FILES!r}: {by_files.most} files make shares of "
            f"{found.min():,} to {found.max():,} documents for {replicas} replicas. "
            "The largest says how long a step takes: write more files, or files of "
            "like sizes.",
            stacklevel=2,
        )


def row_bytes(layout: BlockLayout) -> int:
    """Returns the bytes of a document in matrices of the dtypes they are named for.

    So plans are the same for features that are kept in 16 bits.
    """
    return sum(layout.width(d) * np.dtype(d).itemsize for d in layout.slots)


def is_large(documents: np.ndarray, layout: BlockLayout) -> bool:
    """Whether there is more than is shuffled at once; also by its `documents`."""
    return int(documents.sum()) * row_bytes(layout) > windowed.WINDOW
