"""Ensembles: one SavedModel that scores as several do on average.

Each member keeps its weights, its scorer and its preprocessing; what they share are the
features that they are given. Records are parsed once for all of them.
"""

from __future__ import annotations

import json
import os
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import tensorflow as tf

from tfr_pipeline.errors import ConfigError
from tfr_pipeline.features import DEFAULT_MASK, FILE_NAME, Features
from tfr_pipeline.serving.class_signatures import PROBABILITIES, ClassSignatures
from tfr_pipeline.serving.export import save_functions
from tfr_pipeline.serving.predictor import Predictor
from tfr_pipeline.serving.rank_inputs import Pair
from tfr_pipeline.serving.signatures import Signatures

# Logarithms of probabilities below it would not be finite.
_LEAST = 1e-37
# Stands for the Keras model of a member, whose functions are there already.
_NO_MODEL = types.SimpleNamespace(output={}, submodules=())


def export_ensemble(
    members: Sequence[Predictor],
    path: str,
    check: Callable[[str], None] | None = None,
) -> str:
    """Writes a SavedModel whose scores are the mean of those of its members.

    It has the signatures of a member, see `Signatures` and `ClassSignatures`, and needs
    nothing but TensorFlow. Members may have different scorers and preprocessing.

    Args:
      members: Exports of this package, of models on the same features.
      path: See `export_saved_model`.
      check: See `export_saved_model`.

    Returns:
      `path`.

    Raises:
      ConfigError: Members cannot be averaged; see `check_members`.
      RunError: The disk is full or the folder cannot be written.
    """
    check_members(members)
    features = members[0].features
    parts = [_part(member) for member in members]
    made: Signatures
    if members[0].classes:
        made = _OfClasses(parts, features)
    else:
        made = _OfScores(parts, features, members[0].tasks)
    module = tf.Module()
    module.members = parts
    assets = {FILE_NAME: json.dumps(features.to_json(), indent=1)}
    return save_functions(module, made(), path, assets, check)


def check_members(members: Sequence[Predictor]) -> None:
    """Checks that scores of models may be averaged.

    Args:
      members: The models.

    Raises:
      ConfigError: There is none, or one twice; one of them gives several numbers for a
        label, or was exported by an earlier version; or they take different features,
        or score different tasks or classes.
    """
    if not members:
        raise ConfigError("ensemble: expected one run or more, found none.")
    first = members[0]
    places = [os.path.realpath(member.path) for member in members]
    for member, place in zip(members, places, strict=True):
        if places.count(place) > 1:
            raise ConfigError(f"ensemble: {member.path}: named more than once.")
        if member.several:
            raise ConfigError(
                f"ensemble: {member.path}: expected one score a document and task, "
                f"found {', '.join(member.tasks)}."
            )
        if getattr(member.module, "packed", None) is None:
            raise ConfigError(
                f"ensemble: {member.path}: expected an export with scores of whole "
                "matrices, found none: it has features that are not kept, or an "
                "earlier version wrote it. Export it again: tfr-pipeline export."
            )
        found = [*differences(first.features, member.features)]
        for what in ("classes", "tasks"):
            pair = [", ".join(getattr(one, what)) for one in (first, member)]
            if pair[0] != pair[1]:
                found.append((what, pair[0] or "nothing", pair[1] or "nothing"))
        for what, one, other in found:
            raise ConfigError(
                f"ensemble: expected models on the same features: {what} is {one} in "
                f"{first.path} and {other} in {member.path}. Train them on data that "
                "was converted in the same way."
            )


def differences(one: Features, other: Features) -> Iterator[tuple[str, str, str]]:
    """Yields what models are given that differs: which key, and both values.

    Example:
      >>> from tfr_pipeline.features import Feature
      >>> pair = (Features(example={"a": Feature(shape=(n,))}) for n in (2, 3))
      >>> list(differences(*pair))
      [('example.a.shape', '[2]', '[3]')]
    """
    described = [_given(features) for features in (one, other)]
    for key in sorted({*described[0], *described[1]}):
        found = [side.get(key, "nothing") for side in described]
        if found[0] != found[1]:
            yield key, f"{found[0]!r:.200}", f"{found[1]!r:.200}"


def _given(features: Features) -> dict[str, Any]:
    """Returns what a model is given, by key of `features.json`."""
    whole = features.to_json()
    found = {
        f"{kind}.{name}.{key}": value
        for kind in ("context", "example")
        for name, feature in whole[kind].items()
        for key, value in feature.items()
    }
    # Other columns of ids, and files of other formats, have the same features.
    return {**found, "reading.nan": features.reading.get("nan", "error")}


def _part(member: Predictor) -> tf.Module:
    """Returns what the ensemble has of a member, without the signatures of it."""
    part, module = tf.Module(), member.module
    # What its functions use: variables and tables, or the members of an ensemble.
    for name in ("weights", "resources", "members", "packed"):
        if hasattr(module, name):
            setattr(part, name, getattr(module, name))
    return part


class _OfScores(Signatures):
    """Signatures whose scores are means.

    Args:
      parts: The members.
      features: What they are given.
      tasks: Names of the scores.
    """

    def __init__(
        self, parts: Sequence[Any], features: Features, tasks: Sequence[str] = ()
    ):
        specs = features.context_spec, features.example_spec
        super().__init__(_NO_MODEL, *specs, DEFAULT_MASK)
        self._parts = parts
        self._tasks = list(tasks) if len(tasks) > 1 else []
        self._ranks = True

    def scores(
        self,
        values: Mapping[str, Any],
        context: Mapping[str, Any],
        row_splits: Any,
        beside: Mapping[str, Pair] | None = None,
        ragged_context: Mapping[str, Pair] | None = None,
    ) -> dict[str, Any]:
        """See base class."""
        given = values, context, row_splits, beside, ragged_context
        return _means(self._parts, *given)


class _OfClasses(ClassSignatures):
    """Signatures whose probabilities are means; `predict` has their logarithms."""

    def __init__(self, parts: Sequence[Any], features: Features):
        specs = features.context_spec, features.example_spec
        super().__init__(_NO_MODEL, *specs, DEFAULT_MASK, features.classes)
        self._parts = parts

    def scores(
        self,
        values: Mapping[str, Any],
        context: Mapping[str, Any],
        row_splits: Any,
        beside: Mapping[str, Pair] | None = None,
        ragged_context: Mapping[str, Pair] | None = None,
    ) -> dict[str, Any]:
        """See base class; a softmax of them gives the probabilities back."""
        given = values, context, row_splits, beside, ragged_context
        found = _means(self._parts, *given)[PROBABILITIES]
        logits = tf.math.log(tf.maximum(found, _LEAST))
        return {tf.saved_model.PREDICT_OUTPUTS: logits}


def _means(
    parts: Sequence[Any],
    values: Mapping[str, Any],
    context: Mapping[str, Any],
    row_splits: Any,
    beside: Mapping[str, Pair] | None,
    ragged_context: Mapping[str, Pair] | None,
) -> dict[str, Any]:
    """Returns the mean of what members give, by name; see `Signatures.scores`."""
    given: list[Any] = [dict(values), dict(context), row_splits]
    if beside or ragged_context:
        given += [dict(beside or {}), dict(ragged_context or {})]
    found = [part.packed(*given) for part in parts]
    return {
        name: tf.add_n([outputs[name] for outputs in found]) / len(found)
        for name in found[0]
    }
