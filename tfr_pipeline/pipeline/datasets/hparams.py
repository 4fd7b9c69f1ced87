"""`DatasetHparams`: what `BaseDatasetBuilder` is told about files and batches."""

from __future__ import annotations

import dataclasses
import os
import warnings
from collections.abc import Sequence
from numbers import Integral
from typing import Any

import tensorflow as tf

from tfr_pipeline import urls
from tfr_pipeline.compat import tfr
from tfr_pipeline.data import folds
from tfr_pipeline.data.batching import selection
from tfr_pipeline.data.batching.loose import KEPT
from tfr_pipeline.data.reading import place, record_reader
from tfr_pipeline.data.records import formats
from tfr_pipeline.errors import ConfigError, unknown_name

NO_SHARDING, BY_LISTS, BY_FILES = "none", "lists", "files"
SHARDINGS = ("auto", NO_SHARDING, BY_LISTS, BY_FILES)


class PipelineSeed(int):
    """A seed that a pipeline has put where there was none; the next puts its own."""


def told(hparams: Any) -> int | None:
    """Returns the seed that hyperparameters were given; None for the pipeline's."""
    seed = getattr(hparams, "seed", 0)
    return None if isinstance(seed, PipelineSeed) else seed


@dataclasses.dataclass
class DatasetHparams(tfr.keras.pipeline.DatasetHparams):
    """Files, batches and lists of a dataset builder.

    The parameters up to `convert_labels_to_binary` are TF-Ranking's; the others are
    keyword only.

    Attributes:
      train_input_pattern: Glob, or comma-separated globs, of the training files.
      valid_input_pattern: The same for validation; may be empty for none.
      train_batch_size: Lists a global training batch.
      valid_batch_size: Lists a global validation batch.
      list_size: Training takes the first so many documents of a list, and padded
        batches have this length, unless the scorer trains on any (`any_list_size`).
        None: whole lists.
      valid_list_size: The same for validation. None: whole lists, whatever
        `list_size` says; a validation that cuts lists measures something else.
      dataset_reader: Makes a dataset of serialized records from file names.
      convert_labels_to_binary: Labels above 0 become 1.
      test_input_pattern: Files that are evaluated once, after training; empty for none.
      documents_per_batch: Cuts global training batches by number of documents
        instead of `train_batch_size`; None by default. For lists of very unequal
        length: the cost of a step stays even. Padded batches are then of random lists,
        not of lists of about one length.
      shuffle: Orders the training lists anew each epoch.
      seed: Seed of that order; 0 by default. None: the pipeline's.
      cache: Where parsed lists are kept: `memory`; a folder, from which later runs
        take them without parsing and which may hold more than memory does; `disk`, a
        folder of the user's; or `auto` (the default; an empty text is the same),
        memory if they fit it, else disk. See `docs/data.md`.
      input_format: `elwc`, `eie`, `seq`, `example` or `packed`; TF-Ranking's names are
        taken too. `auto`, the default: what the first records are.
      reader_args: Further arguments of `dataset_reader`, after the file name.
      compression: `gzip`, `zlib` or `none`; `auto`, the default, looks at each file.
      truncation: Which documents are left of a training list longer than `list_size`:
        `first`, as in TF-Ranking; `sample`, random ones, others in each epoch; or the
        name of a numeric document feature, such as the score of the system that made
        the lists, by which the highest are kept. Validation is never cut so.
      shuffle_examples: Puts the documents of a training list in a random order, another
        in each epoch, before it is cut: `first` then keeps random ones, too.
      keep_document_ids: `lists` keeps the ids of documents, which training does not
        need and which take about 100 bytes each. Diagnosis then names documents.
      sharding: Whether each worker of several reads and keeps its own share of the
        lists alone: `auto` (the default) where there is more data than is shuffled at
        once and files can be read from the middle; `lists`, always; `files`, always
        whole files, compressed ones too; `none`, never. See `docs/data.md`.
      folds: Number of folds, by query, that the training files are dealt out to: one
        of them validates, and the others train. None: all train.
      fold: The fold that validates, from 0.
      test_fold: Another fold, which neither trains nor validates and is measured at the
        end, in place of test files. None: there is no such fold.
      sessions: Whether lists are sessions, whose ids are `QUERY/SESSION`: folds then
        are by what stands before the last `/`, so that no query is in two of them.

    Raises:
      ConfigError: A number is not positive, the cache no folder, a name unknown, or
        there is no such fold.
    """

    train_input_pattern: str
    valid_input_pattern: str
    train_batch_size: int
    valid_batch_size: int
    list_size: int | None = None
    valid_list_size: int | None = None
    dataset_reader: Any = tf.data.TFRecordDataset
    convert_labels_to_binary: bool = False
    _: dataclasses.KW_ONLY
    test_input_pattern: str = ""
    documents_per_batch: int | None = None
    shuffle: bool = True
    seed: int | None = 0
    cache: str = place.AUTO
    input_format: str = formats.AUTO
    reader_args: Sequence[Any] | None = ()
    compression: str = record_reader.AUTO
    truncation: str = selection.FIRST
    shuffle_examples: bool = False
    keep_document_ids: bool = False
    sharding: str = SHARDINGS[0]
    folds: int | None = None
    fold: int | None = None
    test_fold: int | None = None
    sessions: bool = False

    def __post_init__(self) -> None:
        for name in (
            "train_batch_size",
            "valid_batch_size",
            "list_size",
            "valid_list_size",
            "documents_per_batch",
        ):
            value = getattr(self, name)
            optional = name not in ("train_batch_size", "valid_batch_size")
            if value is None and optional:
                continue
            whole = isinstance(value, Integral) and not isinstance(value, bool)
            if not whole or not 1 <= value < 2**63:  # as a tensor holds it
                raise ConfigError(
                    f"DatasetHparams.{name}: expected a positive integer"
                    f"{' or None' if optional else ''}, found {value!r}."
                )
        if self.cache is not None and not isinstance(self.cache, str | os.PathLike):
            raise ConfigError(
                "DatasetHparams.cache: expected 'auto', 'memory', 'disk' or a "
                f"folder, found "
                f"{self.cache!r}."
            )
        self.cache = self.cache or place.AUTO
        if urls.is_remote(self.cache):
            raise ConfigError(
                "DatasetHparams.cache (data.cache): expected a folder of this machine, "
                f"which is mapped into memory, found {self.cache!r}. Leave it at "
                "'auto' and say by TFR_PIPELINE_CACHE=FOLDER where there is room, or "
                "name a folder."
            )
        # `none` on a command line is None.
        self.sharding = self.sharding or NO_SHARDING
        formats.canonical(self.input_format, "DatasetHparams.input_format")
        record_reader.canonical(self.compression)
        if self.sharding not in SHARDINGS:
            name = "DatasetHparams.sharding"
            raise ConfigError(unknown_name(name, str(self.sharding), SHARDINGS))
        folds.check(self.folds, self.fold, self.test_fold)
        if not isinstance(self.truncation, str) or not self.truncation:
            raise ConfigError(
                "DatasetHparams.truncation: expected 'first', 'sample' or the name of "
                f"a feature, found {self.truncation!r}."
            )
        if self.truncation != selection.FIRST and self.list_size is None:
            warnings.warn(
                f"truncation={self.truncation!r} has no effect without list_size.",
                stacklevel=3,
            )


def cache_of(hparams: Any) -> str:
    """Returns `auto`, `memory`, `disk` or the absolute path of a folder."""
    path = os.fspath(setting(hparams, "cache") or place.AUTO)
    named = path in (place.AUTO, place.MEMORY, place.DISK)
    return path if named else os.path.abspath(path)


# What TF-Ranking's own way to build datasets does not know.
_OF_OUR_READING = (
    "shuffle",
    "input_format",
    "reader_args",
    "compression",
    "truncation",
    "shuffle_examples",
)
# What takes lists that are kept.
_OF_KEPT_LISTS = ("cache", "documents_per_batch", "keep_document_ids", "sharding")


def setting(hparams: Any, name: str) -> Any:
    """Returns a hyperparameter; its default if `hparams` are TF-Ranking's, without it.

    Example:
      >>> theirs = tfr.keras.pipeline.DatasetHparams("train-*", "valid-*", 32, 32)
      >>> setting(theirs, "shuffle"), setting(theirs, "train_batch_size")
      (True, 32)
    """
    return getattr(hparams, name, getattr(DatasetHparams, name, None))


def warn_of_unused(hparams: Any, keeps: bool, own: bool) -> None:
    """Warns of hyperparameters that do nothing in a dataset builder.

    Args:
      hparams: Ours or TF-Ranking's.
      keeps: Whether it keeps the lists that it reads.
      own: Whether it is a subclass that reads its files in its own way.
    """
    why = (
        "the dataset builder reads its files in its own way."
        if own
        else f"only features with the specs {', '.join(KEPT)} are kept."
    )
    useless = () if keeps else _OF_KEPT_LISTS
    for name in useless + (_OF_OUR_READING if own else ()):
        value = setting(hparams, name)
        if value not in (None, getattr(DatasetHparams, name)):
            warnings.warn(f"{name}={value!r} has no effect: {why}", stacklevel=4)
