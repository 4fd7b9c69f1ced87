"""Weights of another run, a checkpoint or an export, to begin with."""

from __future__ import annotations

import collections
import dataclasses
import os
import re
import warnings
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from tfr_pipeline import copies, files, urls
from tfr_pipeline.errors import ConfigError, DataError, RunError
from tfr_pipeline.features import FILE_NAME, Features
from tfr_pipeline.model import layer_names
from tfr_pipeline.model.layers.pretraining import PREFIX
from tfr_pipeline.pipeline.run import checkpoint_files, reading
from tfr_pipeline.pipeline.run.state import RunState
from tfr_pipeline.pipeline.warm_start import WarmStart
from tfr_pipeline.serving.export import EXTRA_ASSETS, LEARNT
from tfr_pipeline.serving.remote_versions import find_export

_GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"
_STATE = "state/.ATTRIBUTES/py_state"
# Where checkpoints keep what is no weight of the model: optimizers and metrics, and
# the raw weights of a run that averages them.
_NO_WEIGHT = re.compile(r"(^|/)(optimizer|keras_api)/|^raw/|\.OPTIMIZER_SLOT/")
_SHOWN = 8


@dataclasses.dataclass(frozen=True)
class Source:
    """Where weights come from.

    Attributes:
      path: Prefix of a checkpoint, or that of the variables of a SavedModel.
      keys: Key in it of each weight, by the name of the variable.
      features: What the data had that they were trained on; None if that is not known.
      learnt: What preprocessing had learnt of it, the content of `preprocessing.json`;
        None if there is none.
    """

    path: str
    keys: dict[str, str]
    features: Features | None
    learnt: dict[str, Any] | None

    @property
    def pretrained(self) -> bool:
        """Whether they are of a run of pretraining, which has a head of its own."""
        return any(name.startswith(PREFIX) for name in self.keys)

    @classmethod
    def find(cls, place: str) -> Source:
        """Looks into a place.

        Args:
          place: A run directory, which stands for its best epoch if it kept that one,
            else for its last checkpoint; a checkpoint; an export or a folder of them.

        Raises:
          DataError: There is nothing, or it cannot be read.
        """
        path = _checkpoint(place)
        problem = checkpoint_files.problem(path)
        if problem:
            raise DataError(f"warm_start.from: {path}: {problem}.")
        described, learnt = _extra(path, FILE_NAME), _extra(path, LEARNT)
        return cls(
            path,
            _keys(path),
            Features.load(described) if described else None,
            files.read_json(learnt) if learnt else None,
        )

    def read(self, name: str) -> np.ndarray:
        """Returns the value of a weight."""
        value: np.ndarray = tf.train.load_checkpoint(self.path).get_tensor(
            self.keys[name]
        )
        return value


def _checkpoint(place: str) -> str:
    """Returns the prefix of the checkpoint that a place stands for."""
    if urls.is_remote(place):
        try:
            place = copies.fetch_folder(place, lambda n: n.startswith("checkpoints/"))
        except DataError:
            place = find_export(place)
    if os.path.exists(f"{place}.index"):
        return place
    folder = os.path.join(place, "checkpoints")
    paths = [f"{folder}/ckpt-{step}" for step in checkpoint_files.steps(folder, "ckpt")]
    if not paths:
        return os.path.join(find_export(place), "variables", "variables")
    latest = next((p for p in paths if not checkpoint_files.problem(p)), paths[0])
    reader = tf.train.load_checkpoint(latest)
    if reader.has_tensor(_STATE):
        state = RunState.from_json(reader.get_tensor(_STATE).decode())
        best = os.path.join(folder, f"best-{state.best_step}")
        if os.path.exists(f"{best}.index"):
            return best
    return latest


def _keys(path: str) -> dict[str, str]:
    from tensorflow.core.protobuf import trackable_object_graph_pb2

    reader = tf.train.load_checkpoint(path)
    if not reader.has_tensor(_GRAPH):
        raise DataError(
            f"warm_start.from: {path}: expected a checkpoint of TensorFlow 2, found "
            "one without the objects that its values are of."
        )
    graph = trackable_object_graph_pb2.TrackableObjectGraph.FromString(
        reader.get_tensor(_GRAPH)
    )
    found: dict[str, list[str]] = {}
    for node in graph.nodes:
        for part in node.attributes:
            key = part.checkpoint_key
            if part.name == "VARIABLE_VALUE" and not _NO_WEIGHT.search(key):
                name = layer_names.plain_name(part.full_name)
                found.setdefault(name, []).append(key)
    # Weights of one name cannot be told apart, and so are not to be had.
    return {name: keys[0] for name, keys in found.items() if len(set(keys)) == 1}


def _extra(path: str, name: str) -> str | None:
    """Returns the path of a file beside the weights, None if there is none."""
    folder = os.path.dirname(path)
    # A run of pretraining, which exports nothing, has no template.
    places = (os.path.join(folder, "template"), folder, os.path.dirname(folder))
    for above in places:
        found = os.path.join(above, EXTRA_ASSETS, name)
        if os.path.isfile(found):
            return found
    return None


def learnt(place: str) -> dict[str, Any]:
    """Returns what preprocessing had learnt where weights come from.

    Args:
      place: See `Source.find`.

    Raises:
      DataError: That is not known, or there is nothing.
    """
    source = Source.find(place)
    if source.learnt is None:
        raise DataError(
            f"warm_start.statistics: {source.path}: expected what preprocessing had "
            f"learnt, {EXTRA_ASSETS}/{LEARNT} in the template of the run or in the "
            "export; found none. Its model has no steps that learn; use 'refit'."
        )
    return source.learnt


@dataclasses.dataclass(frozen=True)
class Taken:
    """What a model took.

    Attributes:
      path: From where.
      names: The weights, as paths of layers.
      anew: Those that it did not take.
      left: Those of the source that it has no place for.
    """

    path: str
    names: list[str]
    anew: list[str]
    left: list[str]

    def __str__(self) -> str:
        count = len(self.names)
        text = f"warm start: {count} of {count + len(self.anew)} weights from "
        text += urls.shown(self.path)
        for what, names in (("anew", self.anew), ("left there", self.left)):
            if names:
                text += f"; {what}: {_listed(names)}"
        return text


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def take(
    model: tf.keras.Model,
    warm_start: WarmStart,
    features: Features | None,
    agree: Callable[[int], int] = int,
    others: Callable[[Mapping[str, Any]], list[str]] | None = None,
) -> Taken:
    """Gives a model the weights that a warm start begins with.

    Optimizers begin anew, and so do the counters of dropout. Where the weights are of
    pretraining, so does what makes the scores.

    Args:
      model: A built model.
      warm_start: Says from where and which; has a `source`.
      features: What the data has; None if that is not known.
      agree: Gives the largest of the workers' values to all of them.
      others: Returns the features that preprocessing numbers in another way than it did
        where it had learnt some content of `preprocessing.json`.

    Raises:
      ConfigError: A glob names nothing, a weight is not there or has another shape, or
        a layer depends on features that are not those that it was trained on.
      DataError: The source cannot be read, or is not finite.
      RunError: Another worker read other weights.
    """
    source = Source.find(warm_start.source)
    ours = _variables(model)
    for glob in warm_start.layers:
        if not any(layer_names.matches(path, [glob.strip("!")]) for path in ours):
            raise ConfigError(
                f"warm_start.layers: {glob!r} names no weight; there are "
                f"{_listed(list(ours))}."
            )
    wanted = [path for path in ours if layer_names.matches(path, warm_start.layers)]
    if source.pretrained and not any(path.startswith(PREFIX) for path in ours):
        heads = reading.heads(model)
        wanted = [path for path in wanted if not layer_names.matches(path, heads)]
    if not wanted:
        raise ConfigError("warm_start.layers: they exclude all weights of the model.")
    if features is not None and source.features is not None:
        renumbered = others(source.learnt) if others and source.learnt else []
        reading.check(model, wanted, features, source.features, source.path, renumbered)
        theirs = source.features.classes
        if features.classes != theirs and not source.pretrained:
            warnings.warn(
                f"warm_start.from: {source.path} was trained on other classes, "
                f"{_listed(list(theirs)) or 'none'}; what is taken of its last layer "
                "knows those. Exclude it in warm_start.layers.",
                stacklevel=3,
            )
    names, left = _paired(model, ours, wanted, source)
    values = _values({path: ours[path] for path in wanted}, names, source)
    digest = 0
    for path, value in values.items():
        digest = zlib.crc32(value.tobytes(), zlib.crc32(path.encode(), digest))
    digest >>= 1  # the workers exchange int32
    if agree(digest) != digest:
        raise RunError(
            f"warm_start.from: {source.path}: another worker found other weights. All "
            "workers need the same: a folder that they share, or copies of it."
        )
    for path, value in values.items():
        ours[path].assign(value)
    anew = [path for path in ours if path not in values]
    frozen = warm_start.frozen
    if idle := [p for p in anew if frozen and layer_names.matches(p, frozen)]:
        warnings.warn(
            f"warm_start.frozen: {_listed(idle)} begin anew, and do not train before "
            "they are unfrozen.",
            stacklevel=3,
        )
    return Taken(source.path, list(values), anew, left)


def _variables(model: tf.keras.Model) -> dict[str, tf.Variable]:
    """Returns the weights of a model by the path of their layer and their own name."""
    result: dict[str, tf.Variable] = {}
    for path, variables in layer_names.weights(model).items():
        for variable in variables:
            own = layer_names.full_name(variable).rpartition("/")[2]
            name = f"{path}/{own}".lstrip("/")
            count = 1
            while name in result:
                count += 1
                name = f"{path}/{own}#{count}".lstrip("/")
            result[name] = variable
    return result


def _paired(
    model: tf.keras.Model,
    ours: Mapping[str, tf.Variable],
    wanted: list[str],
    source: Source,
) -> tuple[dict[str, str | None], list[str]]:
    """Returns the name in the source of each weight that is wanted, and those left.

    Layers that nobody named are paired by their order, if there are as many of them.
    """
    bases = {
        base for layer in model.submodules if (base := _unnamed(layer)) is not None
    }
    theirs, groups = layer_names.renumbered(list(source.keys), bases)
    by_name = dict(zip(theirs, source.keys, strict=True))
    problems: set[str] = set()
    for paths in (list(ours), wanted):
        full = [layer_names.full_name(ours[path]) for path in paths]
        names, counts = layer_names.renumbered(full, bases)
        found = dict(zip(paths, names, strict=True))
        problems = {
            f"{'/'.join((*above, base))} (here {count}, there {groups[above, base]})"
            for (above, base), count in counts.items()
            if groups.get((above, base), count) != count
            and any(_is_of(found[path], above, base) for path in wanted)
        }
        if not problems:
            break
    if problems:
        raise ConfigError(
            f"warm_start.from: {source.path} has other numbers of layers without a "
            f"name: {', '.join(sorted(problems))}. Which is which cannot be told. Give "
            "layers names, or exclude those by warm_start.layers."
        )
    # A name of several weights is that of none.
    count = collections.Counter(found[path] for path in ours if path in found)
    pairs = {
        path: by_name.get(found[path]) if count[found[path]] == 1 else None
        for path in wanted
    }
    full = [layer_names.full_name(variable) for variable in model.variables]
    known = {*layer_names.renumbered(full, bases)[0], *found.values()}
    return pairs, [name for name in theirs if name not in known]


def _unnamed(layer: Any) -> str | None:
    named = isinstance(layer, tf.keras.layers.Layer)
    return layer_names.unnamed(layer) if named else None


def _is_of(name: str, above: tuple[str, ...], base: str) -> bool:
    parts = name.split("/")
    if tuple(parts[: len(above)]) != above or len(parts) <= len(above):
        return False
    return re.fullmatch(rf"{re.escape(base)}(_\d+)?", parts[len(above)]) is not None


def _values(
    wanted: Mapping[str, tf.Variable], names: Mapping[str, str | None], source: Source
) -> dict[str, np.ndarray]:
    """Returns the values of weights, after a look at each of them."""
    values, problems = {}, []
    for path, variable in wanted.items():
        name = names[path]
        if name is None:
            problems.append(f"{path} is not there, or not the only one of its name")
            continue
        value = source.read(name)
        shape = tuple(variable.shape)
        if value.shape != shape:
            problems.append(f"{path} is {shape} here and {value.shape} there")
        elif not np.isfinite(value).all():
            raise DataError(f"warm_start.from: {source.path}: {name} is not finite.")
        values[path] = value
    if problems:
        raise ConfigError(
            f"warm_start.from: {source.path} does not fit this model: "
            f"{'; '.join(problems[:_SHOWN])}{' ...' * (len(problems) > _SHOWN)}. "
            "Exclude what is to begin anew, as in warm_start.layers=['*', "
            f"'!{problems[0].split(' ')[0]}']."
        )
    return values
