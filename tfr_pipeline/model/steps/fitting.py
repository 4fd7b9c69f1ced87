"""Lets steps of preprocessing learn: one pass over the data for each that waits."""

from __future__ import annotations

import copy
import dataclasses
import functools
import json
import math
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import tensorflow as tf

from tfr_pipeline.data.sketches import (
    Counts,
    InfiniteError,
    Moments,
    NotTextError,
    Quantiles,
    pack,
    unpack,
)
from tfr_pipeline.errors import ConfigError, DataError
from tfr_pipeline.model.steps.base import Statistics, Step
from tfr_pipeline.model.steps.categories import EmptyVocabularyError
from tfr_pipeline.model.steps.chain import Bound, Chain, Learnt, place
from tfr_pipeline.model.steps.numeric import NothingToLearnError


@dataclasses.dataclass
class Piece:
    """Features of some whole lists.

    Attributes:
      context: Maps features of queries to `[lists, ...]`, arrays or ragged tensors.
      example: Maps features of documents to `[documents, ...]`.
      row_splits: int64 `[lists + 1]`.
    """

    context: Mapping[str, Any]
    example: Mapping[str, Any]
    row_splits: np.ndarray


class Job(Protocol):
    """How workers that learn together, each of its share, tell each other."""

    workers: int

    def gather(self, mine: bytes) -> list[bytes]:
        """Returns what each worker has to say, to all of them."""

    def from_chief(self, make: Callable[[], bytes]) -> bytes:
        """Returns what the chief makes, to all of them."""


class Alone:
    """A `Job` of one process."""

    workers = 1

    def gather(self, mine: bytes) -> list[bytes]:
        """See `Job`."""
        return [mine]

    def from_chief(self, make: Callable[[], bytes]) -> bytes:
        """See `Job`."""
        return make()


def fit(
    chains: Mapping[str, Chain],
    kinds: Mapping[str, Any],
    read: Callable[[], Iterable[Piece]],
    job: Job | None = None,
    given: Learnt | None = None,
    columns: Mapping[str, Sequence[str]] | None = None,
) -> Learnt:
    """Returns what steps learn of data that is read piece by piece.

    A chain in which two steps learn takes two passes, for the second one sees what the
    first one makes of the data.

    Args:
      chains: Maps features to their steps.
      kinds: Maps features to what is equal for those of one dtype that stand side by
        side, of queries or of documents.
      read: Reads the data, or this worker's share of it, from its beginning.
      job: The workers that learn together; this process alone by default.
      given: What steps have learnt elsewhere, and keep.
      columns: Names of the columns of features that are vectors, for messages.

    Raises:
      DataError: There is nothing to learn from, or values that are not finite; it names
        the feature and its column. All workers raise it.
    """
    job = job or Alone()
    learnt = {owner: dict(found) for owner, found in (given or {}).items()}
    while lessons := _next_lessons(chains, kinds, learnt):
        for lesson in lessons:
            lesson.columns = columns or {}
        problem = ""
        try:
            _observe(lessons, learnt, read, job.workers)
        except DataError as error:
            problem = str(error)
        if job.workers == 1:
            everyone = [lessons]
        else:
            told = [
                _from_bytes(lessons, one)
                for one in job.gather(_to_bytes(lessons, problem))
            ]
            problem = next((text for _, text in told if text), "")
            everyone = [found for found, _ in told]
        if problem:
            raise DataError(problem)
        result = json.loads(job.from_chief(functools.partial(_learn, everyone)))
        if "error" in result:
            raise DataError(result["error"])
        for owner, key, statistics in result["learnt"]:
            learnt.setdefault(owner, {})[key] = statistics
    return learnt


def _to_bytes(lessons: list[_Lesson], problem: str) -> bytes:
    arrays = {"problem": np.array(problem)}
    for i, lesson in enumerate(lessons if not problem else []):
        content = np.frombuffer(lesson.sketch.to_bytes(), np.uint8)
        arrays |= {f"widths_{i}": np.array(lesson.widths), f"sketch_{i}": content}
    return pack(arrays)


def _from_bytes(lessons: list[_Lesson], content: bytes) -> tuple[list[_Lesson], str]:
    arrays, result = unpack(content), []
    problem = str(arrays["problem"])
    for i, lesson in enumerate(lessons if not problem else []):
        other = copy.copy(lesson)
        other.widths = arrays[f"widths_{i}"].tolist()
        other.sketch = type(lesson.sketch).from_bytes(arrays[f"sketch_{i}"].tobytes())
        result.append(other)
    return result, problem


def _learn(everyone: list[list[_Lesson]]) -> bytes:
    """Returns, as JSON, what is learnt of the sketches of all workers."""
    try:
        learnt = []
        for first, *others in zip(*everyone, strict=True):
            for other in others:
                first.merge(other)
            learnt += first.learn()
    except DataError as error:
        return json.dumps({"error": str(error)}).encode()
    return json.dumps({"learnt": learnt}).encode()


class _Lesson:
    """A step that is about to learn: of which features, in which order."""

    def __init__(self, step: Step, index: int):
        self.step, self.index = step, index
        self.names: list[str] = []
        self.chains: list[Chain] = []
        self.widths: list[int] = []
        self.columns: Mapping[str, Sequence[str]] = {}
        self.sketch: Any = step.new_sketch()
        self._before: list[Bound] = []

    def begin(self, learnt: Learnt, shared: dict[str, Any]) -> None:
        """Makes the steps in front of this one."""
        mine = place(self.step, self.index, "")
        bound: dict[Chain, Bound] = {}
        for chain in self.chains:
            if chain not in bound:
                stop = next(
                    i
                    for i, step in enumerate(chain.steps)
                    if isinstance(step, Step) and place(step, i, "") == mine
                )
                bound[chain] = Bound(chain, learnt, shared, stop)
            self._before.append(bound[chain])

    def take(self, piece: Piece) -> None:
        """Lets the sketch see some lists."""
        try:
            if self.step.by_column and self.chains[0].by_column:
                self._take_columns(piece)
                return
            for name, before in zip(self.names, self._before, strict=True):
                features, lists = _side(piece, name)
                value = features[name]
                if not isinstance(value, tf.RaggedTensor):
                    value = tf.constant(value)
                if lists:
                    value = tf.expand_dims(value, 0)
                value = before([name], value, lists)
                if self.step.by_column:
                    value = tf.reshape(value, [-1, value.shape[-1]])
                    self.widths = [value.shape[-1]]
                try:
                    self.step.observe(self.sketch, value)
                except NotTextError as error:
                    raise DataError(
                        f"feature {name!r} of the training data: expected text in "
                        f"UTF-8, found {error}."
                    ) from error
        except InfiniteError as error:
            raise DataError(
                f"{self._named(error.column)} of the training data is "
                f"infinite somewhere, in front of {type(self.step).__name__}: expected "
                "finite numbers. Clip it first, with {'clip': [LEAST, GREATEST]}."
            ) from error

    def _take_columns(self, piece: Piece) -> None:
        features, lists = _side(piece, self.names[0])
        found = [features[name] for name in self.names]
        parts = [x.reshape(len(x), math.prod(x.shape[1:])) for x in found]
        matrix = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)
        value = tf.constant(matrix)
        value = self._before[0](
            self.names, value[tf.newaxis] if lists else value, lists
        )
        columns = value.shape[-1]
        times = columns // matrix.shape[1]
        self.widths = [part.shape[1] * times for part in parts]
        self.step.observe(self.sketch, tf.reshape(value, [-1, columns]))

    def merge(self, other: _Lesson) -> None:
        """Takes what another worker has seen."""
        # A worker without lists has not seen how wide features are.
        self.widths = self.widths or other.widths
        self.sketch.merge(other.sketch)

    def learn(self) -> list[tuple[str, str, Statistics]]:
        """Returns owner, key and statistics of what the sketch has seen."""
        sketch = self.sketch
        where = f"{type(self.step).__name__} of the training data"
        try:
            statistics = self.step.learn(sketch)
        except NothingToLearnError as error:
            raise DataError(
                f"{self._named(error.column)}: {where}: expected values, found none, "
                "or none that are numbers. Leave it out, or give it other steps."
            ) from error
        except EmptyVocabularyError as error:
            raise DataError(
                f"feature {self.names[0]!r}: {where}: expected values for a "
                f"vocabulary, found none that occurs {error.least} times or more."
            ) from error
        self._check_missing(sketch)
        if isinstance(sketch, Counts) and sketch.error:
            warnings.warn(
                f"feature {self.names[0]!r} has too many distinct values to count them "
                f"all: counts may be too large by {sketch.error}.",
                stacklevel=2,
            )
        if not self.step.by_column:
            return [(*place(self.step, self.index, self.names[0]), statistics)]
        bounds = np.concatenate([[0], np.cumsum(self.widths)]).tolist()
        return [
            (
                *place(self.step, self.index, name),
                {
                    key: list(v[bounds[i] : bounds[i + 1]])
                    for key, v in statistics.items()
                },
            )
            for i, name in enumerate(self.names)
        ]

    def _named(self, column: int) -> str:
        """Returns, in words, what a column of the sketch was made of."""
        ends = np.cumsum(self.widths)
        number = int(np.searchsorted(ends, column, "right"))
        name, width = self.names[number], self.widths[number]
        if len(known := self.columns.get(name, ())) < 2:
            return f"feature {name!r}"
        # Steps in front may have made several of each.
        place = (column - int(ends[number]) + width) * len(known) // width
        return f"column {known[place]!r} of feature {name!r}"

    def _check_missing(self, sketch: Any) -> None:
        if not isinstance(sketch, Moments | Quantiles) or not np.any(sketch.missing):
            return
        steps = self.chains[0].steps
        if any(isinstance(step, Step) and step.takes_missing for step in steps):
            return
        column = int(np.flatnonzero(sketch.missing)[0])
        raise DataError(
            f"{self._named(column)} is missing (NaN) in "
            f"{int(sketch.missing[column])} places of the training data, and no step "
            "says what it is then: add 'missing' to its steps."
        )


def _side(piece: Piece, name: str) -> tuple[Mapping[str, Any], tuple[Any, ...]]:
    """Returns the features among which one is, and `lists` of `Bound`."""
    if name in piece.context:
        return piece.context, ()
    splits = tf.constant(piece.row_splits, tf.int64)
    row_ids = tf.repeat(
        tf.range(tf.size(splits, tf.int64) - 1), splits[1:] - splits[:-1]
    )
    return piece.example, (row_ids, splits)


def _next_lessons(
    chains: Mapping[str, Chain], kinds: Mapping[str, Any], learnt: Learnt
) -> list[_Lesson]:
    """Returns the steps that can learn now: the first of each chain that has not."""
    lessons: dict[Any, _Lesson] = {}
    later: set[Any] = set()
    for name, chain in chains.items():
        wait = False
        for index, step in enumerate(chain.steps):
            if not isinstance(step, Step) or not step.learns:
                continue
            owner, key = place(step, index, name)
            if key in learnt.get(owner, {}):
                continue
            # Columns of one kind with the same steps learn together.
            group: tuple[Any, ...] = (owner, key)
            if chain.by_column:
                group = (chain, index, kinds[name])
            if wait:
                later.add(group)
                continue
            lesson = lessons.setdefault(group, _Lesson(step, index))
            lesson.names.append(name)
            lesson.chains.append(chain)
            wait = True
    # Of features that share a step some may have to learn another one before.
    ready = [lesson for group, lesson in lessons.items() if group not in later]
    if lessons and not ready:
        raise ConfigError(
            "preprocessing: features share steps, each of which waits for another one: "
            f"{', '.join(name for x in lessons.values() for name in x.names)}."
        )
    return ready


def _observe(
    lessons: list[_Lesson],
    learnt: Learnt,
    read: Callable[[], Iterable[Piece]],
    workers: int,
) -> None:
    """Lets the sketches see this worker's share of the data."""
    shared: dict[str, Any] = {}
    for lesson in lessons:
        lesson.begin(learnt, shared)
        if isinstance(lesson.sketch, Quantiles):
            lesson.sketch.keep(1 / (workers * len(lessons)))
    with tf.device("CPU:0"):
        for piece in read():
            for lesson in lessons:
                lesson.take(piece)
