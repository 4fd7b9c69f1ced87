"""What a run begins with: what preprocessing has learnt, and weights.

Those are of its own last checkpoint, of another run, or random.
"""

from __future__ import annotations

import contextlib
import functools
import warnings
from typing import Any

import tensorflow as tf

from tfr_pipeline.errors import DataError
from tfr_pipeline.pipeline.datasets.adapter import adapt
from tfr_pipeline.pipeline.run import initial_weights, loop
from tfr_pipeline.pipeline.warm_start import KEEP, WarmStart


def learn(pipeline: Any) -> None:
    """Lets preprocessing learn, or takes what it has learnt.

    Args:
      pipeline: The `ModelFitPipeline`.
    """
    learning, console, keep = pipeline._learning, pipeline._console, None
    warm_start = WarmStart.of(pipeline._hparams.warm_start)
    if warm_start.statistics == KEEP:
        keep = functools.partial(initial_weights.learnt, warm_start.source)
    if not learning.learns:
        if keep is not None:
            warnings.warn(
                "warm_start.statistics: it has no effect, for no step of "
                "preprocessing learns.",
                stacklevel=5,
            )
        return
    with console.stage("learning preprocessing", "preprocessing learnt"):
        replicas, strategy = pipeline._feed.replicas, pipeline._role.strategy
        learning.learn(pipeline._run, replicas, strategy, keep)
    if learning.kept:
        console.say(f"warm start: statistics kept of {', '.join(learning.kept)}")


def take_weights(pipeline: Any, model: tf.keras.Model) -> str:
    """Gives a model that has not been trained the weights of a warm start.

    Args:
      pipeline: The `ModelFitPipeline`.
      model: Its model.

    Returns:
      What was taken.
    """
    dispatcher, learning = pipeline._dispatcher, pipeline._learning
    # What servers hold is in one piece there.
    whole = dispatcher.twin if dispatcher else model
    features = None
    with contextlib.suppress(DataError):  # specs that no file can describe
        features = adapt(pipeline._dataset_builder).features
    taken = initial_weights.take(
        whole,
        WarmStart.of(pipeline._hparams.warm_start),
        features,
        pipeline._role.agree,
        learning.other_vocabularies if learning.learns else None,
    )
    if dispatcher:
        dispatcher.spread()
    pipeline._console.say(str(taken))
    return str(taken)


def begin_or_go_on(
    pipeline: Any,
    model: tf.keras.Model,
    layout: str | None,
    steps: int,
    told: dict[str, Any],
    data: dict[str, Any],
    accept_data: bool,
) -> None:
    """Gives a model its weights, and makes the run directory that of this run.

    Args:
      pipeline: The `ModelFitPipeline`, with its checkpoints.
      model: Its model.
      layout: The batch layout.
      steps: Steps of an epoch.
      told: What `config.json` will say.
      data: See `data_fingerprint.of_builder`.
      accept_data: Lets it go on with other data than it began with.

    Raises:
      PipelineError: It can neither begin nor go on; see `ModelFitPipeline.train`.
    """
    run, checkpoints, feed = pipeline._run, pipeline._checkpoints, pipeline._feed
    state = checkpoints.state
    state.shares = shares = feed.shares(layout)
    checkpoints.check_same(pipeline._role.agree)
    if checkpoints.restore():
        run.check_data(data, accept_data)
        standing = loop.go_on(checkpoints, steps, pipeline._hparams, shares)
        pipeline._console.say(f"{run.path}: {standing}")
    elif WarmStart.of(pipeline._hparams.warm_start).source:
        state.began = take_weights(pipeline, model)
    run.claim(told)
    pipeline._learning.keep(run)
    run.write_environment(
        state.seed,
        {
            "layout": layout,
            "replicas": feed.replicas,
            "data": data,
            "warm_start": state.began or None,
        },
    )
