"""A dry run: everything up to the first step, and nothing written."""

from __future__ import annotations

import contextlib
from typing import Any

import tensorflow as tf

from tfr_pipeline.model import layer_names
from tfr_pipeline.pipeline import checks
from tfr_pipeline.pipeline.run import beginning, loop, seeds
from tfr_pipeline.pipeline.run.checkpoint_files import latest
from tfr_pipeline.pipeline.run.finish import check_places
from tfr_pipeline.pipeline.run.freezing import Freezing
from tfr_pipeline.pipeline.warm_start import WarmStart


def lines(pipeline: Any) -> list[str]:
    """Takes one step of a `ModelFitPipeline`, and says what a run would do."""
    hparams, builder = pipeline._hparams, pipeline._dataset_builder
    feed, role = pipeline._feed, pipeline._role
    pipeline._run.fetch()
    check_places(pipeline._run, hparams.export_best_model)
    seed, drawn = seeds.choose(hparams.seed, pipeline._run, role.agree)
    seeds.plant(seed, builder)
    warm_start = WarmStart.of(hparams.warm_start)
    beginning.learn(pipeline)
    # The chief of parameter servers takes its step alone.
    with contextlib.nullcontext() if role.coordinates else role.scope():
        layout = pipeline._layout()
        steps = feed.check(layout)
        checks.check_warmup(hparams, steps * hparams.num_epochs)
        valid_steps = feed.steps("valid", layout)
        model = pipeline._compile(layout, steps * hparams.num_epochs)
        began = []
        # A run that has begun goes on from its own checkpoint.
        if warm_start.source and latest(pipeline._run.checkpoints) is None:
            began = [beginning.take_weights(pipeline, model)]
        callbacks = Freezing(model, warm_start).callbacks(None)
        train, valid = (
            feed.dataset(split, layout, model=model) for split in ("train", "valid")
        )
        try:
            logs = model.fit(
                train, steps_per_epoch=1, epochs=1, verbose=0, callbacks=callbacks
            ).history
        except tf.errors.OpError as error:
            if (cause := loop.explained(error)) is not None:
                raise cause from None
            raise
    validation = "none" if valid is None else f"{valid_steps or 'all'} batches"
    if checks.selects(hparams):
        validation += f", selects by {pipeline._monitor()}"
    return [
        f"model: {model.count_params():,} parameters",
        f"layers: {', '.join(layer_names.layers(model))}",
        *began,
        f"layout: {layout}, {feed.replicas} replica(s)",
        f"training: {hparams.num_epochs} epochs of {steps} steps",
        f"validation: {validation}",
        f"seed: {seed}{', drawn' if drawn else ''}",
        f"loss of the first step: {logs['loss'][0]:.6g}",
    ]
