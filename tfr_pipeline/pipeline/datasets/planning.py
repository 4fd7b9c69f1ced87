"""Which lists stand in which batch, and which of them a worker needs to have."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from tfr_pipeline import files
from tfr_pipeline.data.batching import windowed
from tfr_pipeline.data.batching.plan import BatchPlan
from tfr_pipeline.data.batching.windowed import WindowedPlan
from tfr_pipeline.errors import ConfigError, DataError
from tfr_pipeline.layout import BlockLayout
from tfr_pipeline.pipeline.datasets.hparams import BY_LISTS, NO_SHARDING, setting
from tfr_pipeline.pipeline.datasets.kept_lists import Index, KeptLists, Reading
from tfr_pipeline.pipeline.datasets.protocol import Plan, Split


def find_index(
    kept: KeptLists, reading: Reading, split: Split, sharding: str, replicas: int
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

    Raises:
      ConfigError: Sharing is asked for and cannot be.
      DataError: There is an index, of other files or damaged.
    """
    asked = sharding == BY_LISTS and replicas > 1
    index = None
    if split.keep is None and (asked or _may_be_large(split.pattern)):
        index = kept.index(split.pattern, reading)
    if asked and index is None:
        raise ConfigError(
            f"data.sharding: {BY_LISTS!r} needs files that `convert` wrote, with their "
            f"index, and all lists of them; found {split.pattern}. Convert them, or "
            "leave it at 'auto'."
        )
    if index is None or asked or is_large(index.documents, reading.layout):
        return index
    return None


def shares(hparams: Any, workers: int) -> bool:
    """Whether workers that plan by an index read their own lists alone."""
    return workers > 1 and setting(hparams, "sharding") != NO_SHARDING


def make_plan(
    hparams: Any,
    split: str,
    replicas: int,
    documents: np.ndarray,
    layout: BlockLayout,
    shared: bool,
) -> Plan:
    """Returns the plan of a split: by windows if it is large, or shared by workers.

    Args:
      hparams: A `DatasetHparams`, ours or TF-Ranking's.
      split: `train` or another.
      replicas: Number of replicas that share a global batch.
      documents: int64 `[lists]`, documents a list.
      layout: Where features stand in matrices.
      shared: Whether workers may have parts of the lists only.
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
    if shared or is_large(documents, layout):
        return WindowedPlan(lengths, row_bytes(layout), *settings)
    return BatchPlan(lengths, *settings)


def row_bytes(layout: BlockLayout) -> int:
    """Returns the bytes of a document in matrices of the dtypes they are named for.

    So plans are the same for features that are kept in 16 bits.
    """
    return sum(layout.width(d) * np.dtype(d).itemsize for d in layout.slots)


def is_large(documents: np.ndarray, layout: BlockLayout) -> bool:
    """Whether there is more than is shuffled at once; also by its `documents`."""
    return int(documents.sum()) * row_bytes(layout) > windowed.WINDOW


def _may_be_large(pattern: str) -> bool:
    try:
        paths = files.expand(pattern, "data")
    except DataError:
        return False  # whoever reads them says so
    # In 16 bits a matrix takes half of what counts; in no other way can it be smaller.
    return 2 * sum(map(os.path.getsize, paths)) > windowed.WINDOW
