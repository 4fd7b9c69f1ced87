"""What preprocessing learns of the training data: by whom, when, and where it is kept.

A run learns before its first step, of the training split alone. `preprocessing.json`
keeps it: a run that goes on, its exports and its evaluator take it from there.
"""

from __future__ import annotations

import functools
import json
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from tfr_pipeline.data.batching.loose import separate
from tfr_pipeline.data.lists import Lists
from tfr_pipeline.errors import (
    ConfigError,
    DataError,
    PipelineError,
    RunError,
    unknown_name,
)
from tfr_pipeline.layout import BlockLayout
from tfr_pipeline.model import parts
from tfr_pipeline.model.steps import fitting
from tfr_pipeline.model.steps.base import Step
from tfr_pipeline.model.steps.chain import Chain, Learnt, place
from tfr_pipeline.pipeline.datasets.adapter import adapt
from tfr_pipeline.pipeline.datasets.split_lists import in_pieces
from tfr_pipeline.pipeline.distribute import strategies
from tfr_pipeline.pipeline.run import peers
from tfr_pipeline.pipeline.run.checkpoint_files import latest
from tfr_pipeline.pipeline.run.directory import RunDirectory, read_json
from tfr_pipeline.serving.export import LEARNT

VERSION = 1


class _Workers:
    """A `fitting.Job` of the workers of a strategy."""

    def __init__(self, strategy: Any):
        self._strategy = strategy
        self.number, self.workers = strategies.place_among_workers(strategy)

    def gather(self, mine: bytes) -> list[bytes]:
        """See `fitting.Job`."""
        return peers.exchange(self._strategy, mine)

    def from_chief(self, make: Callable[[], bytes]) -> bytes:
        """See `fitting.Job`."""
        if self.workers == 1:
            return make()
        return peers.send(self._strategy, None if self.number else make())


class Learning:
    """What the steps of a model builder learn of the data of a dataset builder.

    Args:
      model_builder: Has a preprocessor with steps, or not.
      dataset_builder: Has the training split.

    Attributes:
      kept: Features with statistics that were learnt elsewhere.
    """

    def __init__(self, model_builder: Any, dataset_builder: Any):
        self._preprocessor = parts.preprocessor(model_builder)
        self._builder = adapt(dataset_builder)
        self.kept: list[str] = []

    @property
    def _chains(self) -> Mapping[str, Chain]:
        return getattr(self._preprocessor, "chains", {})

    @property
    def learns(self) -> bool:
        """Whether there is something to learn."""
        return any(
            isinstance(step, Step) and step.learns
            for chain in self._chains.values()
            for step in chain.steps
        )

    def learn(
        self,
        run: RunDirectory,
        replicas: int,
        strategy: Any,
        elsewhere: Callable[[], Mapping[str, Any]] | None = None,
    ) -> None:
        """Lets the steps learn, or takes what the run has learnt before.

        Every worker calls it.

        Args:
          run: The run directory.
          replicas: Number of replicas that share a global batch.
          strategy: The strategy.
          elsewhere: Returns the content of another run's `preprocessing.json`, which
            features with the same steps keep; None for what is learnt of this data.

        Raises:
          ConfigError: A feature is not in the data, or the data is not read by lists.
          DataError: There is nothing to learn of, see `fitting.fit`.
        """
        if not self.learns:
            return
        job = _Workers(strategy)
        found = json.loads(
            job.from_chief(lambda: json.dumps(self._known(run)).encode())
        )
        if found is None:
            if not self._builder.layouts:
                raise ConfigError(
                    "preprocessing: steps that learn need a dataset builder that reads "
                    "lists, such as SimpleDatasetBuilder; found one that makes its "
                    "batches in a way of its own. Give the steps their statistics."
                )
            specs = {**self._builder.specs.context, **self._builder.specs.example}
            for name in self._chains:
                if name not in specs:
                    raise ConfigError(
                        unknown_name("feature", name, specs, "preprocess")
                    )
            found = fitting.fit(
                self._chains,
                self._kinds(),
                functools.partial(self._pieces, replicas, (job.number, job.workers)),
                job,
                self._kept(job, elsewhere) if elsewhere else None,
                self._columns(),
            )
        self._preprocessor.learnt = found

    def _kept(
        self, job: _Workers, elsewhere: Callable[[], Mapping[str, Any]]
    ) -> Learnt:
        """Returns what features with the same steps have learnt elsewhere."""

        def read() -> bytes:
            try:
                return json.dumps(elsewhere()).encode()
            except PipelineError as error:  # the other workers wait for an answer
                return json.dumps({"error": str(error)}).encode()

        content = json.loads(job.from_chief(read))
        if "error" in content:
            raise DataError(content["error"])
        mine = json.loads(json.dumps(self._described()))
        found: dict[str, dict[str, Any]] = {}
        self.kept = []
        for name, owner, key in self._places():
            there = content["learnt"].get(owner, {})
            if key in there and content["steps"].get(name) == mine[name]:
                found.setdefault(owner, {})[key] = there[key]
                self.kept.append(name)
        self.kept = list(dict.fromkeys(self.kept))
        return found

    def _places(self) -> Iterator[tuple[str, str, str]]:
        """Yields the feature, the owner and the key of what each step learns."""
        for name, chain in self._chains.items():
            for index, step in enumerate(chain.steps):
                if isinstance(step, Step) and step.learns:
                    yield name, *place(step, index, name)

    def other_vocabularies(self, content: Mapping[str, Any]) -> list[str]:
        """Returns the features whose values had other numbers in another run.

        Args:
          content: The content of its `preprocessing.json`.
        """
        owners: dict[str, set[str]] = {name: {name} for name in content["steps"]}
        for name, owner, _ in self._places():
            owners.setdefault(name, {name}).add(owner)
        mine, theirs = self._preprocessor.learnt, content["learnt"]
        return [
            name
            for name, of_name in owners.items()
            if _vocabularies(mine, of_name) != _vocabularies(theirs, of_name)
        ]

    def _known(self, run: RunDirectory) -> Any:
        """Returns what is known without the data; None if that has to be looked at."""
        path = os.path.join(run.path, LEARNT)
        if latest(run.checkpoints) is None:  # nothing was trained with what is there
            return None
        if not os.path.exists(path):
            warnings.warn(
                f"{path} is missing: preprocessing learns anew, and may learn "
                "something else than what the run was trained with.",
                stacklevel=2,
            )
            return None
        content = read_json(path)
        return content.get("learnt") if self._fits(content) else None

    def _fits(self, content: Mapping[str, Any]) -> bool:
        mine = json.loads(json.dumps(self._described()))
        return content.get("version") == VERSION and content.get("steps") == mine

    def _described(self) -> dict[str, Any]:
        return {name: chain.describe() for name, chain in self._chains.items()}

    def keep(self, run: RunDirectory) -> None:
        """Writes what was learnt into the run directory."""
        if self.learns and run.is_ours:
            content = {"version": VERSION, "steps": self._described()}
            run.write_json(LEARNT, {**content, "learnt": self._preprocessor.learnt})

    def can_load(self, run: RunDirectory) -> bool:
        """Whether a run has learnt what there is to learn."""
        return not self.learns or os.path.exists(os.path.join(run.path, LEARNT))

    def load(self, run: RunDirectory) -> None:
        """Takes what a run has learnt.

        Raises:
          RunError: It has learnt nothing, or had other steps.
        """
        if not self.learns:
            return
        path = os.path.join(run.path, LEARNT)
        if not self.can_load(run):
            raise RunError(
                f"{path} is missing, with what preprocessing has learnt. Bring it "
                "back, or train again in another model_dir."
            )
        content = read_json(path)
        if not self._fits(content):
            raise RunError(
                f"{path}: expected what these steps have learnt, found that of others. "
                "Give the preprocessing that the run was trained with."
            )
        self._preprocessor.learnt = content["learnt"]

    def _columns(self) -> dict[str, tuple[str, ...]]:
        if (features := getattr(self._builder, "features", None)) is None:
            return {}
        described = {**features.context, **features.example}
        return {name: feature.columns for name, feature in described.items()}

    def _kinds(self) -> dict[str, tuple[str, str]]:
        specs = self._builder.specs
        return {
            name: (side, tf.as_dtype(spec.dtype).name)
            for side, of_side in (("query", specs.context), ("document", specs.example))
            for name, spec in of_side.items()
        }

    def _pieces(self, replicas: int, shard: tuple[int, int]) -> Iterator[fitting.Piece]:
        builder: Any = self._builder
        if hasattr(builder, "pieces"):
            lists, layout = builder.pieces(replicas, shard), builder.list_layout
        else:
            lists = in_pieces(builder.lists("train", builder.layouts[0]), *shard)
            layout = BlockLayout.from_spec(separate(builder.specs.example)[0])
        for piece in lists:
            yield self._piece(piece.widened(), layout)

    def _piece(self, lists: Lists, layout: BlockLayout) -> fitting.Piece:
        specs, wanted = self._builder.specs, self._chains
        slots = {s.name: (d, s) for d, row in layout.slots.items() for s in row}

        def document(name: str) -> Any:
            if name in slots:
                dtype, slot = slots[name]
                block = lists.values[dtype][:, slot.start : slot.stop]
                return block.reshape(len(block), *slot.shape)
            return _loose(lists.loose[name], specs.example[name])

        def query(name: str) -> Any:
            if name in lists.context:
                return lists.context[name]
            return _loose(lists.loose_context[name], specs.context[name])

        return fitting.Piece(
            {name: query(name) for name in specs.context if name in wanted},
            {name: document(name) for name in specs.example if name in wanted},
            np.asarray(lists.row_splits),
        )


def assets(run: RunDirectory) -> dict[str, str]:
    """Returns what exports of a run carry along of what it has learnt."""
    path = os.path.join(run.path, LEARNT)
    return {LEARNT: json.dumps(read_json(path))} if os.path.exists(path) else {}


def _vocabularies(learnt: Learnt, owners: set[str]) -> list[Any]:
    return [
        statistics["vocabulary"]
        for owner in sorted(owners)
        for _, statistics in sorted(learnt.get(owner, {}).items())
        if "vocabulary" in statistics
    ]


def _loose(value: Any, spec: Any) -> Any:
    if isinstance(spec, tf.io.FixedLenFeature):
        return value.plain_values.reshape(len(value.row_splits) - 1, *spec.shape)
    values = tf.constant(value.plain_values.tolist(), tf.as_dtype(spec.dtype))
    return tf.RaggedTensor.from_row_splits(values, value.row_splits)
