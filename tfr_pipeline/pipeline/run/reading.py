"""Which layers read which features: whether weights still mean what they did."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

import tensorflow as tf

from tfr_pipeline.errors import ConfigError
from tfr_pipeline.features import Feature, Features
from tfr_pipeline.layout import DISTINCT, PACKED_INPUT
from tfr_pipeline.model import layer_names


def check(
    model: tf.keras.Model,
    weights: Collection[str],
    features: Features,
    before: Features,
    source: str,
    renumbered: Collection[str] = (),
) -> None:
    """Checks that the weights of another run read what they were trained on.

    Args:
      model: A built model.
      weights: Paths of the weights that are taken.
      features: What the data has.
      before: What the data of the other run had.
      source: Where its weights are.
      renumbered: Features whose values had other numbers there, by their vocabulary.

    Raises:
      ConfigError: Features are new, gone or changed, and some of these weights are the
        first that read them.
    """
    ours, theirs = ({**f.context, **f.example} for f in (features, before))
    differing = {
        "new": [name for name in ours if name not in theirs],
        "gone": [name for name in theirs if name not in ours],
        "other columns or types": [
            name
            for name in ours
            if name in theirs and _meaning(ours[name]) != _meaning(theirs[name])
        ],
        "other vocabulary": [n for n in renumbered if n in ours and n in theirs],
    }
    names = [name for group in differing.values() for name in group]
    if not names:
        return
    inputs = {
        *names,
        *(DISTINCT + name for name in names),
        *(PACKED_INPUT + f[n].dtype for f in (ours, theirs) for n in names if n in f),
    }
    readers = [
        path
        for path in _readers(model, inputs)
        if any(weight.startswith(f"{path}/") for weight in weights)
    ]
    if readers:
        told = "; ".join(
            f"{what}: {', '.join(n)}" for what, n in differing.items() if n
        )
        keep = ", or keep the vocabulary by warm_start.statistics='keep'"
        raise ConfigError(
            f"warm_start.from: {source} was trained on other features ({told}), which "
            f"{', '.join(readers)} would read. Exclude that by warm_start.layers, as in"
            f" ['*', '!{readers[0]}'], or train on the same features"
            f"{keep if differing['other vocabulary'] else ''}."
        )


def heads(model: tf.keras.Model) -> list[str]:
    """Returns the paths of the layers whose weights the outputs are made with last.

    Args:
      model: A built model; none of one that is no graph of layers.
    """
    paths = {id(layer): path for path, layer in layer_names.layers(model).items()}
    found: dict[str, None] = {}
    seen, stack = set(), tf.nest.flatten(getattr(model, "outputs", None) or [])
    while stack:
        node = stack.pop().node
        if id(node) in seen:
            continue
        seen.add(id(node))
        if id(node.layer) in paths:
            found[paths[id(_last(node.layer, paths))]] = None
        else:
            stack += node.keras_inputs
    return list(found)


def _last(layer: Any, paths: dict[int, str]) -> Any:
    while isinstance(layer, tf.keras.Sequential):
        layer = [inner for inner in layer.layers if id(inner) in paths][-1]
    return layer


def _meaning(feature: Feature) -> tuple[Any, ...]:
    return feature.dtype, tuple(feature.shape), feature.kind, tuple(feature.columns)


def _readers(model: tf.keras.Model, inputs: Collection[str]) -> Iterator[str]:
    """Yields the paths of the layers with weights that read some inputs first.

    Those that treat each column for itself, such as normalisations, leave the columns
    what they were: the next layer reads them, too. Of models that are no graph of
    layers, all may.
    """
    paths = {id(layer): path for path, layer in layer_names.layers(model).items()}
    nodes = getattr(model, "outbound_nodes", None)
    if nodes is None or not getattr(model, "inputs", None):
        yield from paths.values()
        return
    within = {id(layer) for layer in model.layers}
    waiting = [layer for layer in model.layers if layer.name in inputs]
    seen = set(map(id, waiting))
    while waiting:
        layer = waiting.pop()
        found, mixed = _first(layer, paths)
        yield from found
        for node in [] if mixed else layer.outbound_nodes:
            after = node.outbound_layer
            if id(after) in within and id(after) not in seen:
                seen.add(id(after))
                waiting.append(after)


def _first(layer: Any, paths: dict[int, str]) -> tuple[list[str], bool]:
    """Returns what in a layer reads its inputs first, and whether that mixes them."""
    if id(layer) not in paths:
        return [], False
    if not isinstance(layer, tf.keras.Sequential):
        return [paths[id(layer)]], any(len(w.shape) > 1 for w in layer.weights)
    found: list[str] = []
    for inner in layer.layers:
        more, mixed = _first(inner, paths)
        found += more
        if mixed:
            return found, True
    return found, False
