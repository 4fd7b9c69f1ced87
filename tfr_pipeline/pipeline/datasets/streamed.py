"""Datasets of features that are not kept: parsed by TF-Ranking, batch by batch."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tfr_pipeline import files
from tfr_pipeline.compat import tfr
from tfr_pipeline.data.batching.loose import KEPT
from tfr_pipeline.data.batching.selection import FIRST, SAMPLE
from tfr_pipeline.data.records.formats import EIE, ELWC, SEQ
from tfr_pipeline.errors import ConfigError
from tfr_pipeline.pipeline.datasets.hparams import setting
from tfr_pipeline.pipeline.datasets.kept_lists import Reading

_FORMATS = {ELWC: tfr.data.ELWC, EIE: tfr.data.EIE, SEQ: tfr.data.SEQ}


def streamed(
    hparams: Any, train: bool, pattern: str, reading: Reading
) -> tf.data.Dataset:
    """Returns padded batches, for training shuffled and without end.

    Args:
      hparams: A `DatasetHparams`, of TF-Ranking or ours.
      train: Whether the batches are for training.
      pattern: The files.
      reading: How they are opened, and what they hold.

    Raises:
      ConfigError: TF-Ranking's parser does not know the format or how to cut lists.
      DataError: Files are missing, damaged or of another format.
    """
    paths = files.expand(pattern, "data")
    # TensorFlow takes a file that ends inside a header for a whole one.
    reading.reader.refuse_damaged(paths, checksums=False)
    data_format = reading.format(paths)
    truncation = setting(hparams, "truncation")
    shuffle_examples = setting(hparams, "shuffle_examples")
    seed = setting(hparams, "seed") or 0
    mixes = train and (shuffle_examples or truncation == SAMPLE)
    if (
        data_format not in _FORMATS
        or (train and truncation not in (FIRST, SAMPLE))
        or (mixes and data_format == SEQ)
    ):
        raise ConfigError(
            f"input_format={data_format!r}, truncation={truncation!r} and "
            f"shuffle_examples={shuffle_examples}: not possible together with features "
            f"of other specs than {', '.join(KEPT)}, for which TF-Ranking's parser is "
            "used. Use those specs, or 'elwc' or 'eie' with 'first' or 'sample'."
        )
    dataset = tfr.data.build_ranking_dataset(
        file_pattern=paths,
        data_format=_FORMATS[data_format],
        batch_size=hparams.train_batch_size if train else hparams.valid_batch_size,
        list_size=hparams.list_size if train else hparams.valid_list_size,
        shuffle_examples=mixes,
        seed=seed,
        reader=reading.reader.one_file(paths),
        # Repeated below: TensorFlow Ranking's shuffling mixes epochs, and has some
        # lists several times before it has others once.
        num_epochs=1,
        shuffle=train and setting(hparams, "shuffle"),
        shuffle_buffer_size=1000,
        shuffle_seed=seed,
        sloppy_ordering=False,
        drop_final_batch=False,
        context_feature_spec=reading.specs.all_context,
        example_feature_spec=reading.specs.all_example,
        mask_feature_name=reading.specs.mask_feature_name,
    )
    return dataset.repeat() if train else dataset
