"""The evaluation at the end of a run, shared by the workers of its job.

The chief has exported a model, sends it to the others, and each worker scores lists of
its own: those of large data it reads without the others. What they measured comes back
to the chief. Lists are cut where one process cuts them to score them, so that the
numbers are, to the bit, those of one process.
"""

from __future__ import annotations

import io
import itertools
import json
import os
import tempfile
import time
import zipfile
from typing import Any

import numpy as np

from tfr_pipeline.pipeline.datasets.adapter import known_lengths, some_lists
from tfr_pipeline.pipeline.distribute import strategies
from tfr_pipeline.pipeline.run import peers
from tfr_pipeline.pipeline.run.measuring import Measured, measure
from tfr_pipeline.serving.predictor import Predictor

# The splits that a run is evaluated on.
EVALUATED = ("valid", "test")
# Documents that are read at once.
_PIECE = 1 << 18
# Seconds for what workers tell each other of a split, about twice what was measured;
# and how many times what it takes the others to load the model has to be saved beyond.
_EXCHANGE, _WORTH = 1.0, 2.0
_PARTS, _MODEL = "parts.json", "model"
# For each split the first list of each worker, and the one after the last list.
Parts = dict[str, list[int]]


class SharedEvaluation:
    """One process's part in it; alone, it leaves all to `finish`.

    Args:
      strategy: The strategy.
      builder: The dataset builder.
    """

    def __init__(self, strategy: Any, builder: Any):
        self._strategy, self._builder = strategy, builder
        self._worker, self._workers = strategies.place_among_workers(strategy)

    def lead(
        self, predictor: Predictor | None, load_seconds: float
    ) -> dict[str, Measured]:
        """Measures a model with the help of the others, who `follow`.

        Args:
          predictor: The model that was exported; None if it cannot be evaluated.
          load_seconds: What it takes to load it.

        Returns:
          What was measured, of the splits that are worth sharing.

        Raises:
          DataError: No document of a split has a label, or data is malformed.
          RunError: A score is not finite.
        """
        if self._workers == 1:
            return {}
        parts = self._share_out(predictor, load_seconds) if predictor else {}
        if predictor is None or not parts:
            peers.send(self._strategy, b"")
            return {}
        peers.send(self._strategy, _pack(predictor.path, parts))
        return {
            split: Measured.concatenate(
                [Measured.from_bytes(content) for content in found if content]
            ).whole()
            for split, found in self._measure(predictor, parts).items()
        }

    def alone(self, predictor: Predictor, split: str) -> Measured:
        """Measures all lists of a split in this process.

        Raises:
          DataError: See `lead`.
          RunError: Likewise.
        """
        lengths = None
        if self._builder.splits[split].keep is not None:
            # To have them as a whole, they would have to be copied.
            lengths = known_lengths(self._builder, split)
        if lengths is None:
            return measure(predictor, self._builder.lists(split, "packed"))
        return self._measure_lists(predictor, split, 0, len(lengths)).whole()

    def follow(self, folder: str) -> None:
        """Measures this worker's part of what the chief shares out, if it does.

        Args:
          folder: A folder of this process alone, where the model is kept meanwhile.
        """
        if self._workers == 1:
            return
        content = peers.send(self._strategy, None)
        if content:
            with tempfile.TemporaryDirectory(dir=folder) as place:
                parts = _unpack(content, place)
                self._measure(Predictor(os.path.join(place, _MODEL)), parts)

    def _share_out(self, predictor: Predictor, load_seconds: float) -> Parts:
        """Returns the parts of the workers; nothing if the chief alone is as quick."""
        parts, saved = {}, 0.0
        for split in EVALUATED:
            if split not in self._builder.splits:
                continue
            lengths = known_lengths(self._builder, split)
            if lengths is None:
                continue  # all workers had to read all of it
            cuts = _cuts(predictor, lengths)
            if len(cuts) < 3:
                continue
            firsts = share_out(lengths, cuts, self._workers)
            seconds = self._seconds(predictor, split, int(cuts[1]))
            of_others = seconds * lengths[firsts[1] :].sum() / lengths[: cuts[1]].sum()
            if of_others > _EXCHANGE:
                parts[split] = firsts
                saved += of_others - _EXCHANGE
        return parts if saved > _WORTH * load_seconds else {}

    def _seconds(self, predictor: Predictor, split: str, count: int) -> float:
        """Returns how long it takes to read and measure the first lists of a split."""
        start = time.perf_counter()
        Measured.of_part(predictor, self._lists(split, 0, count))
        return time.perf_counter() - start

    def _lists(self, split: str, first: int, last: int) -> Any:
        return some_lists(self._builder, split, np.arange(first, last), "packed")

    def _measure(self, predictor: Predictor, parts: Parts) -> dict[str, list[bytes]]:
        """Measures this worker's part; returns what each has found, for each split."""
        result = {}
        for split, firsts in parts.items():
            first, last = firsts[self._worker : self._worker + 2]
            mine = b""
            if first < last:
                mine = self._measure_lists(predictor, split, first, last).to_bytes()
            result[split] = peers.exchange(self._strategy, mine)
        return result

    def _measure_lists(
        self, predictor: Predictor, split: str, first: int, last: int
    ) -> Measured:
        lengths = known_lengths(self._builder, split)
        if lengths is None:  # here alone: to be read anyway
            return Measured.of_part(predictor, self._lists(split, first, last))
        cuts = first + _cuts(predictor, lengths[first:last])
        firsts = pieces(lengths, cuts)
        return Measured.concatenate(
            [
                Measured.of_part(predictor, self._lists(split, int(a), int(b)))
                for a, b in itertools.pairwise(firsts)
            ]
        )


def _cuts(predictor: Predictor, lengths: np.ndarray) -> np.ndarray:
    """Returns where lists may be cut, so that scores stay what they are.

    Args:
      predictor: The model.
      lengths: int64 `[lists]`, documents a list.

    Returns:
      int64 `[cuts]`, numbers of lists, from 0 to how many there are. Between two there
      are documents.
    """
    ends = np.array([0] + [last for _, last in predictor.portions(lengths)])
    documents = np.concatenate([[0], np.cumsum(lengths)])[ends]
    cuts = ends[np.unique(documents, return_index=True)[1]]
    cuts[-1] = len(lengths)
    return cuts


def share_out(lengths: np.ndarray, cuts: np.ndarray, workers: int) -> list[int]:
    """Deals lists out to workers, with about as many documents for each.

    Args:
      lengths: int64 `[lists]`, documents a list.
      cuts: int64 `[cuts]`, rising, where they may be cut: from 0 to `len(lengths)`.
      workers: How many there are.

    Returns:
      The first list of each worker, and the one after the last list. Where there are
      fewer parts than workers, some have nothing.

    Example:
      >>> share_out(np.array([4, 1, 1, 2]), np.array([0, 1, 2, 4]), 2)
      [0, 1, 4]
    """
    before = np.concatenate([[0], np.cumsum(lengths)])[cuts]
    targets = before[-1] * np.arange(workers + 1) / workers
    nearest = np.abs(before[:, np.newaxis] - targets).argmin(axis=0)
    return [int(cut) for cut in cuts[nearest]]


def pieces(lengths: np.ndarray, cuts: np.ndarray) -> np.ndarray:
    """Returns those of some cuts between which lists are read at once.

    Args:
      lengths: int64 `[lists]`, documents a list.
      cuts: See `share_out`.
    """
    before = np.concatenate([[0], np.cumsum(lengths)])[cuts]
    number = (before - before[0]) // _PIECE
    first = np.concatenate([[True], number[1:] > number[:-1]])
    first[-1] = True
    return cuts[first]


def _pack(model: str, parts: Parts) -> bytes:
    """Returns an export and the parts of the workers as bytes."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", strict_timestamps=False) as archive:
        archive.writestr(_PARTS, json.dumps(parts))
        for folder, _, names in os.walk(model):
            for name in names:
                path = os.path.join(folder, name)
                archive.write(path, os.path.join(_MODEL, os.path.relpath(path, model)))
    return file.getvalue()


def _unpack(content: bytes, folder: str) -> Parts:
    """Writes the export into a folder; returns the parts of the workers."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        archive.extractall(folder)
        parts: Parts = json.loads(archive.read(_PARTS))
    return parts
