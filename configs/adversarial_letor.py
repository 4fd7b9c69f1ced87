"""A ranker that bears features which somebody moves against it.

    tfr-pipeline train --config=configs/adversarial_letor.py \
        --config.data.dir=DIR --config.model_dir=OUT

`configs/letor.py` with `pipeline.adversarial`: each step also counts the loss on
features moved by `adv_step_size` to where it is larger. How the model then ranks under
an attack, `tfr-pipeline evaluate --attack=SIZE` says. See docs/graphs.md.
"""

from ml_collections import ConfigDict

from configs import letor


def get_config(model: str = "dnn") -> ConfigDict:
    """Returns the config of `letor` with an adversary."""
    config = letor.get_config(model)
    config.pipeline.adversarial = ConfigDict()
    config.pipeline.adversarial.multiplier = 0.5
    # In the units of the features: for data whose features are about as large.
    config.pipeline.adversarial.adv_step_size = 0.05
    config.pipeline.adversarial.adv_grad_norm = "infinity"
    config.pipeline.adversarial.pgd_iterations = 1
    return config


def get_sweep(hyper, model: str = "dnn"):
    """Returns what `tfr-pipeline sweep` tries: how strong the adversary is."""
    return hyper.study(
        hyper.product(
            hyper.interval("pipeline.adversarial.multiplier", 0.05, 1.0, log=True),
            hyper.interval("pipeline.adversarial.adv_step_size", 1e-3, 0.2, log=True),
        ),
        metric="ndcg@10",
        trials=20,
    )
