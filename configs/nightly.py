"""Retrains every night: begins with the model of the day before, on the day's files.

    tfr-pipeline train --config=configs/nightly.py --config.data.dir=monday/data \
        --config.model_dir=monday/run
    tfr-pipeline train --config=configs/nightly.py --config.data.dir=tuesday/data \
        --config.model_dir=tuesday/run --config.pipeline.warm_start.from=monday/run
    tfr-pipeline evaluate --model=tuesday/run --against=monday/run \
        --data='tuesday/data/test-*'

The first command has no model to begin with, and trains from nothing. `docs/nightly.md`
has the whole recipe.
"""

from __future__ import annotations

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from configs import letor


def get_config(model: str = "dnn") -> ConfigDict:
    """Returns the config of `configs/letor.py` with a warm start."""
    config = letor.get_config(model)
    # Fewer than from nothing: the model knows most of it.
    config.pipeline.num_epochs = 12
    config.pipeline.early_stopping_patience = 4
    config.pipeline.warm_start = ConfigDict(
        {
            # A run, a checkpoint or an export; from nothing without it.
            "from": placeholder(str),
            # Globs of what is taken from there, `!` before what is not.
            "layers": placeholder(str),
            # Globs of layers that do not train, the epoch (from 0) in which they
            # begin to, and the factor of their learning rate from then on.
            "frozen": placeholder(str),
            "unfreeze_epoch": placeholder(int),
            "unfreeze_rate": placeholder(float),
        }
    )
    return config
