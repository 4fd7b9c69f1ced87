"""Queries and documents as texts: ragged features of tokens.

    tfr-pipeline train --config=configs/text.py \
        --config.data.dir=DIR --config.model_dir=OUT

`DIR` has ELWC files `train-*` and `valid-*`, and a `features.json` in which features
have `"kind": "ragged", "dtype": "string"`; docs/models.md shows one. Beside tokens
there may be numbers. `--config.model.builder_args.vocabulary=FILE` names a file with a
token a line; without it tokens are hashed.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from configs import letor


def get_config() -> ConfigDict:
    """Returns the config of an experiment on texts."""
    config = letor.get_config("builder")
    config.data.list_size = 50
    config.model.builder = "builders.text:TextModelBuilder"
    config.model.builder_args = ConfigDict(
        {"embedding_dim": 20, "hidden_layer_dims": (20, 10), "dropout": 0.3}
    )
    config.model.builder_args.vocabulary = placeholder(str)
    config.pipeline.learning_rate = 0.005
    return config
