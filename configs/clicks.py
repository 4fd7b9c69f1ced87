"""A ranker from clicks: what was seen is told apart from what was liked.

    tfr-pipeline train --config=configs/clicks.py:tower \
        --config.data.dir=DIR --config.model_dir=OUT

`configs/letor.py:dnn` on sessions, each a list of documents with the integer feature
`position` and the label 1 for a click, as `tfr-pipeline clicks simulate` writes them.
Arguments: `tower`, which learns beside the scorer what each position adds; `ips`, which
weighs clicks by the propensities of `--config.model.position_bias.propensities=FILE`;
`em`, the loss with examination as a latent variable. What is served has no position.
See docs/clicks.md.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from configs import letor

METHODS = ("tower", "ips", "em")


def get_config(method: str = "tower") -> ConfigDict:
    """Returns the config of an experiment with one of `METHODS`."""
    if method not in METHODS:
        raise ValueError(f"expected {', '.join(METHODS)}, found {method!r}")
    config = letor.get_config("dnn")
    config.data.train_batch_size = 64
    config.data.sessions = True  # of `data.folds`: by query
    config.model.position_bias = ConfigDict({"feature": "position", "method": method})
    if method == "ips":
        config.model.position_bias.propensities = placeholder(str)
        config.model.position_bias.largest_weight = 20.0
    else:
        config.model.position_bias.num_positions = 100
    config.pipeline.num_epochs = 6
    config.pipeline.early_stopping_patience = 2
    # A session has a click or two, so lists say little alone, and softmax fits what
    # position-based users do: it multiplies what is seen by what is liked.
    config.pipeline.loss = "click_em_loss" if method == "em" else "softmax_loss"
    # NDCG of clicks has the bias that is to go; the loss takes positions into account.
    config.pipeline.best_exporter_metric = "loss"
    config.pipeline.best_exporter_metric_higher_better = False
    return config
