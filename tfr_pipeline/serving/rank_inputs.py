"""The inputs of the signature `rank`: names, types, and whether they fit each other."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Iterable, Mapping
from keyword import iskeyword
from typing import Any

import tensorflow as tf

from tfr_pipeline.data.batching.loose import separate
from tfr_pipeline.layout import BlockLayout, Slot
from tfr_pipeline.serving import ranking

# Inputs of `rank` beside the features; `task` only for a model with several outputs.
ROW_SPLITS, IDS, TASK = "row_splits", "ids", "task"
# The values of a feature with any number of them, and their row splits.
Pair = tuple[Any, Any]


def input_name(feature: str) -> str:
    """Name of a feature among the inputs of `rank`; signatures need identifiers.

    Example:
      >>> input_name("bm25.title"), input_name("17")
      ('bm25_title', 'feature_17')
    """
    name = re.sub(r"\W", "_", feature, flags=re.ASCII)
    # TensorFlow takes a parameter `self` for that of a method.
    good = name[:1].isalpha() and not iskeyword(name) and name != "self"
    return name if good else f"feature_{name}"


def splits_names(names: Mapping[str, str], ragged: Iterable[str]) -> dict[str, str]:
    """Maps features with any number of values to their further inputs of `rank`.

    Args:
      names: The `input_names` of all features.
      ragged: Names of those features.

    Example:
      >>> splits_names({"tokens": "tokens"}, ["tokens"])
      {'tokens': 'tokens_row_splits'}
    """
    taken, result = set(names.values()), {}
    for feature in sorted(ragged):
        name = f"{names[feature]}_{ROW_SPLITS}"
        while name in taken:
            name += "_"
        taken.add(name)
        result[feature] = name
    return result


def input_names(features: Iterable[str], tasks: bool = False) -> dict[str, str]:
    """Maps features to their inputs of `rank`, which differ from each other.

    Where two would be the same, one that was renamed gets underscores at its end.

    Args:
      features: Names of the features.
      tasks: Whether the model has several outputs.

    Example:
      >>> input_names(["a.b", "a_b", "ids"])
      {'a_b': 'a_b', 'ids': 'ids_', 'a.b': 'a_b_'}
    """
    taken, result = {ROW_SPLITS, IDS, *([TASK] if tasks else [])}, {}
    for feature in sorted(features, key=lambda name: (input_name(name) != name, name)):
        name = input_name(feature)
        while name in taken:
            name += "_"
        taken.add(name)
        result[feature] = name
    return result


class RankInputs:
    """The inputs of `rank`, dense tensors as TensorFlow Serving takes them.

    Args:
      context_spec: Maps query features to `tf.io` specs.
      example_spec: Maps document features to `tf.io` specs.
      layout: Where those of them stand that stand in matrices.
      tasks: Whether the model has several outputs.
      of_examples: Whether each list has one document: then there are no `row_splits`.

    Attributes:
      specs: A `tf.TensorSpec` for each, in their order.
      signature: A parameter for each, so that TensorFlow takes names and defaults.
    """

    def __init__(
        self,
        context_spec: Mapping[str, Any],
        example_spec: Mapping[str, Any],
        layout: BlockLayout,
        tasks: bool,
        of_examples: bool = False,
    ):
        self._of_examples = of_examples
        self._context, self._layout = context_spec, layout
        self._features = features = {**context_spec, **example_spec}
        self._beside = separate(example_spec)[1]
        self._called = called = input_names(features, tasks)
        fixed = {
            name
            for name, spec in features.items()
            if isinstance(spec, tf.io.FixedLenFeature)
        }
        self._splits = splits_names(called, features.keys() - fixed)
        self._texts = [_slot(n, s) for n, s in self._beside.items() if n in fixed]
        self._slots = [slot for row in layout.slots.values() for slot in row]
        names = [*context_spec, *(slot.name for slot in self._slots), *self._beside]
        self.specs = [tf.TensorSpec([None], tf.int64, ROW_SPLITS)]
        if of_examples:
            self.specs = []
        for name in names:
            spec = features[name]
            shape = [None, *spec.shape] if name in fixed else [None]
            self.specs.append(tf.TensorSpec(shape, spec.dtype, called[name]))
        for name in self._splits.values():
            self.specs.append(tf.TensorSpec([None], tf.int64, name))
        self.specs.append(tf.TensorSpec([None], tf.string, IDS))
        if tasks:
            self.specs.append(tf.TensorSpec([], tf.string, TASK))

    @property
    def signature(self) -> inspect.Signature:
        """See the class."""
        parameter = inspect.Parameter
        kind = parameter.POSITIONAL_OR_KEYWORD
        defaults = {IDS: tf.constant([], tf.string), TASK: tf.constant("")}
        return inspect.Signature(
            [
                parameter(s.name, kind, default=defaults.get(s.name, parameter.empty))
                for s in self.specs
            ]
        )

    def checked(self, *inputs: Any) -> tuple[list[Any], Any, Any]:
        """Returns the arguments of `Signatures.scores`, ids, and the task or None.

        They raise, where they are computed, if inputs do not fit each other.

        Args:
          *inputs: A tensor for each of `specs`.
        """
        names = [spec.name for spec in self.specs]
        given = dict(zip(names, inputs, strict=True))
        named = {name: given[self._called[name]] for name in self._features}
        pairs: dict[str, Pair] = {
            name: (named[name], given[splits]) for name, splits in self._splits.items()
        }
        context = {n: named[n] for n in self._context if n not in pairs}
        ids = given[IDS]
        if self._of_examples:
            row_splits = tf.range(self._count(named, pairs) + 1)
        else:
            row_splits = given[ROW_SPLITS]
        checks = ranking.check_splits(row_splits)
        slots = [*self._slots, *self._texts]
        checks += ranking.check_shapes(
            row_splits, context, named, ids, slots, self._called
        )
        for name, pair in pairs.items():
            called = self._called[name], self._splits[name]
            checks += ranking.check_values(
                *pair, row_splits, name in self._context, *called
            )
        with tf.control_dependencies(checks):
            row_splits = tf.identity(row_splits)
            pairs = tf.nest.map_structure(tf.identity, pairs)
            values = {
                dtype: tf.concat(
                    [tf.reshape(named[s.name], [-1, s.width]) for s in row], axis=1
                )
                for dtype, row in self._layout.slots.items()
            }
            for slot in self._texts:
                splits = slot.width * tf.range(tf.reduce_max(row_splits) + 1)
                pairs[slot.name] = tf.reshape(named[slot.name], [-1]), splits
        arguments = [values, context, row_splits]
        if pairs:
            groups = self._beside, self._context
            arguments += [{n: pairs[n] for n in g if n in pairs} for g in groups]
        return arguments, ids, given.get(TASK)

    @staticmethod
    def _count(named: Mapping[str, Any], pairs: Mapping[str, Pair]) -> Any:
        """Returns how many examples there are, by the first of the features."""
        name = next(iter(named))
        if name in pairs:
            return tf.size(pairs[name][1], tf.int64) - 1
        return tf.shape(named[name], tf.int64)[0]


def _slot(name: str, spec: Any) -> Slot:
    shape = tuple(tf.TensorShape(spec.shape).as_list())
    return Slot(name, 0, math.prod(shape), shape)
