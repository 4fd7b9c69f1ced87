"""Batches of lists: which documents they have, how they are padded, and all of them."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfr_pipeline import global_batch
from tfr_pipeline.data.batching.gather import Tensors, arrays_of, pad
from tfr_pipeline.data.batching.loose import separate
from tfr_pipeline.data.batching.plan import plain
from tfr_pipeline.data.batching.selection import FIRST, SAMPLE, Selection, score_column
from tfr_pipeline.data.batching.windowed import WindowedPlan
from tfr_pipeline.data.lists import Lists
from tfr_pipeline.data.reading.disk_lists import DiskLists
from tfr_pipeline.data.reading.record_lists import RecordLists
from tfr_pipeline.pipeline.datasets.hparams import setting
from tfr_pipeline.pipeline.datasets.kept_lists import Reading
from tfr_pipeline.pipeline.datasets.protocol import BatchRequest, Plan


def batches(
    plan: Plan,
    request: BatchRequest,
    batch: Callable[[Any], Any],
    select: Callable[[Any, Any], Any] | None,
    places: int | np.ndarray = 0,
) -> tf.data.Dataset:
    """Returns the batches that a request is for.

    Args:
      plan: Says which lists stand in which batch.
      request: What is wanted.
      batch: Makes a batch of list indices; see `gather`.
      select: Chooses documents of lists, given their indices and the number of the
        batch; None for the first ones of each list.
      places: Where the lists of the plan are among those that there are: the number
        of the first that there is; or the place of each, int64 `[lists]`.
    """
    train = request.split == "train"
    index = plan.dataset(
        request.start_step if train else 0,
        train,
        request.shard,
        numbered=select is not None,
        sized=request.sized,
    )
    # Gathering a packed batch takes a fraction of a step: more threads than the one
    # that fetches ahead would only disturb those that compute.
    parallel = None if request.layout == "packed" else tf.data.AUTOTUNE
    assemble = _assembled(request, batch, select)

    @plain
    def of_element(*element: Any) -> Any:
        *pair, sizes = element if request.sized else (*element, None)
        if request.sized and select is not None:
            (pair,) = pair
        index, number = pair if select is not None else (*pair, None)
        return assemble(_placed(index, places), number, sizes)

    return fetched_ahead(index.map(of_element, num_parallel_calls=parallel))


def _placed(index: Any, places: int | np.ndarray) -> Any:
    """Returns where the lists of an array or a tensor of numbers are; see `batches`."""
    if not isinstance(places, np.ndarray):
        return index - places if places else index
    return places[index] if isinstance(index, np.ndarray) else tf.gather(places, index)


class WindowReader:
    """Reads the lists of some batches at once, and makes the batches of them.

    What reads and what makes batches may be different processes; see
    `distribute.reading`.

    Args:
      request: See `batches`.
      assembler: Returns `batch` of `batches` for the tensors of some lists.
      select: Chooses documents; None for the first ones of each list.
      lists: The lists that there are.
      places: See `batches`; those of an array rise.

    Attributes:
      lists: As given.
      specs: Types and shapes of the arrays that are read.
    """

    def __init__(
        self,
        request: BatchRequest,
        assembler: Callable[[Tensors], Callable[[Any], Any]],
        select: Selection | None,
        lists: DiskLists | RecordLists,
        places: int | np.ndarray = 0,
    ):
        self._request, self._assembler, self._select = request, assembler, select
        self.lists, self._places = lists, places
        none = arrays_of(lists.read(np.zeros(0, np.int64)))
        self._names = list(none)
        self.specs = [
            tf.TensorSpec(
                [None, *array.shape[1:]],
                tf.string if array.dtype == object else array.dtype,
            )
            for array in none.values()
        ]

    def read(self, order: np.ndarray) -> tuple[np.ndarray, ...]:
        """Reads lists.

        Args:
          order: int64 `[lists]`, their numbers.

        Returns:
          int64 `[lists]`, where each stands in what was read, and the arrays of that.
        """
        wanted = np.sort(order)
        found = arrays_of(self.lists.read(_placed(wanted, self._places)))
        return np.searchsorted(wanted, order), *found.values()

    def batch(self, places: Any, number: Any, sizes: Any, arrays: Sequence[Any]) -> Any:
        """Returns one batch of what was read.

        Args:
          places: int64 `[batch]`, where its lists stand in that.
          number: Number of the batch, int64.
          sizes: See `global_batch`; None where nobody asks.
          arrays: What was read.
        """
        return self._of(arrays)(places, number, sizes)

    def _of(self, arrays: Sequence[Any]) -> Callable[[Any, Any, Any], Any]:
        tensors = dict(zip(self._names, arrays, strict=True))
        select = self._select
        choose = None if select is None else functools.partial(select, tensors)
        return _assembled(self._request, self._assembler(tensors), choose)

    def dataset(self, plan: WindowedPlan) -> tf.data.Dataset:
        """Returns the batches of `batches`, read window by window."""
        request = self._request
        train = request.split == "train"

        def read(order: np.ndarray, *others: np.ndarray) -> tuple[np.ndarray, ...]:
            places, *arrays = self.read(order)
            return places, *others, *arrays

        @plain
        def of_window(
            places: Any, splits: Any, numbers: Any, sizes: Any, *arrays: Any
        ) -> Any:
            index = tf.RaggedTensor.from_row_splits(places, splits, validate=False)
            parts = tf.data.Dataset.from_tensor_slices((index, numbers, sizes))
            return parts.map(self._of(arrays))

        start = request.start_step if train else 0
        windows = plan.windows_of(read, start, train, request.shard, self.specs)
        return fetched_ahead(windows.flat_map(of_window))


def _assembled(
    request: BatchRequest,
    batch: Callable[[Any], Any],
    select: Callable[[Any, Any], Any] | None,
) -> Callable[[Any, Any, Any], Any]:
    """Returns a function of list indices, batch number and sizes to a batch."""

    def assemble(index: Any, number: Any, sizes: Any) -> Any:
        chosen = index if select is None else select(index, number)
        features, *others = batch(chosen)
        if request.sized and isinstance(features, dict):
            features = {**features, global_batch.SIZES: sizes}
        return features, *others

    return assemble


def fetched_ahead(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """Returns a dataset that is two elements ahead of who takes them."""
    # tf.data rewrites a dataset as a graph in which all that it captures is a constant:
    # a copy of the data, in memory even where the data is on disk.
    options = tf.data.Options()
    options.experimental_optimization.apply_default_optimizations = False
    # There is nothing to tune. Who lets go of an iterator, as training that stops early
    # does, would wait until the thread that tunes wakes up: 8 s after 12 s, and so on.
    options.autotune.enabled = False
    return dataset.prefetch(2).with_options(options)


def padder(reading: Reading, list_size: int | None) -> Callable[[Any, Any], Any]:
    """Returns a function from a packed batch to the padded features of TF-Ranking.

    Args:
      reading: How the lists were read that batches are gathered from.
      list_size: Length of the padded lists; None for the longest in the batch.

    Returns:
      A function of features and labels, as `packed_gather` returns them, to padded
      features with the mask among them.
    """
    specs, layout = reading.specs, reading.layout
    matrices, beside = separate(reading.in_lists)[0], reading.beside
    defaults = {name: spec.default_value for name, spec in matrices.items()}

    def padded(features: Any, labels: Any) -> dict[str, Any]:
        lengths = None if labels is None else labels.row_lengths()
        mask = specs.mask_feature_name
        return pad(features, layout, list_size, defaults, mask, beside, lengths)

    return padded


def selection(
    hparams: Any, reading: Reading, lists: Lists | RecordLists
) -> Selection | None:
    """Returns what chooses the documents that training takes of long lists.

    Args:
      hparams: A `DatasetHparams`, of TF-Ranking or ours.
      reading: How the lists were read.
      lists: The lists, with the features as they are, whatever a model makes of them.

    Returns:
      The selection; None for the first ones of each list.
    """
    name, shuffle = setting(hparams, "truncation"), setting(hparams, "shuffle_examples")
    if name == FIRST and not shuffle:
        return None
    scores = None
    if name not in (FIRST, SAMPLE):
        features = reading.features()
        described = features.example if features else {}
        columns = {key: feature.columns for key, feature in described.items()}
        specs, layout = reading.specs.example, reading.layout
        dtype, column = score_column(name, specs, columns, layout)
        scores = dtype, column
    if not shuffle and lists.lengths.max() <= (hparams.list_size or math.inf):
        return None
    seed = setting(hparams, "seed") or 0
    return Selection(hparams.list_size, scores, shuffle, seed)
