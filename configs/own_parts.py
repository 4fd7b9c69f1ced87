"""Every kind of part of one's own, each from `builders/parts.py`.

    tfr-pipeline train --config=configs/own_parts.py \
        --config.data.dir=DIR --config.model_dir=OUT

A few seconds on the data of `tfr-pipeline synthesize`. docs/training.md, "Parts of your
own", says what each kind is called with.
"""

from ml_collections import ConfigDict

from configs import letor


def get_config() -> ConfigDict:
    """Returns the config of the experiment."""
    config = letor.get_config("builder")
    config.data.builder = "builders.parts:CappedGrades"
    config.data.builder_args = ConfigDict({"top": 2.0})
    config.model.builder = "builders.parts:LinearModelBuilder"
    config.model.builder_args.preprocess = "builders.parts:clipped_log1p"
    config.pipeline.pipeline = "builders.parts:PipelineWithMRR"
    config.pipeline.loss = "builders.parts:SharpSoftmaxLoss"
    config.pipeline.loss_args = ConfigDict({"power": 1.5})
    config.pipeline.metrics = ("ndcg_10", "builders.parts:score_spread")
    config.pipeline.callbacks = (
        {"name": "builders.parts:StopAt", "monitor": "val_metric/mrr", "value": 0.95},
    )
    config.pipeline.best_exporter_metric = "mrr"
    return config
