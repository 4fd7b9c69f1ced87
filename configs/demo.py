"""The demo: a small network on the data of `tfr-pipeline synthesize`.

`make demo` runs it; about half a minute on two cores.
"""

from ml_collections import ConfigDict

from configs import letor


def get_config() -> ConfigDict:
    """Returns the config of the demo."""
    config = letor.get_config("dnn")
    config.model.name = "demo"
    config.pipeline.loss = "softmax_loss"
    config.pipeline.num_epochs = 20
    return config
