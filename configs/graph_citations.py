"""Papers by subject: few labels, words as features, and who cites whom.

    tfr-pipeline train --config=configs/graph_citations.py:mlp \
        --config.data.dir=DIR --config.model_dir=OUT

`DIR` was filled by `tfr-pipeline convert --classes=...`; docs/classification.md has the
commands. Its training data holds all papers; those without a class take no part in the
loss.

Arguments: `mlp`, a network over the words alone; `graph`, the same network whose scores
are kept close to those of the papers a paper cites or is cited by
(`--config.pipeline.graph.edges=graph.tsv`, lines of two ids and a weight);
`adversarial`, the network trained on words changed against it, too.

On Cora with 140 labels (`tests/bench/citations.py`), mean test accuracy of ten seeds
with a 95% interval: `mlp` 59.8 +- 0.4%. Layers, dropout, decay and rate are the best of
18 settings by validation accuracy, mean of three other seeds each. A run takes about
half a minute on two busy cores.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

SYSTEMS = ("mlp", "graph", "adversarial")


def get_config(system: str = "mlp") -> ConfigDict:
    """Returns the config of an experiment with one of `SYSTEMS`."""
    if system not in SYSTEMS:
        raise ValueError(f"expected one of {', '.join(SYSTEMS)}, found {system!r}")
    config = ConfigDict()
    config.model_dir = placeholder(str, required=False)
    config.seed = 42

    config.data = ConfigDict()
    config.data.dir = placeholder(str)
    # All of a small data set at once: of 2,708 papers 140 have a class, which batches
    # of a few would hardly ever meet.
    config.data.train_batch_size = 4096
    config.data.valid_batch_size = 4096

    config.model = ConfigDict()
    config.model.name = "citations"
    config.model.scorer = "dnn"
    # One score for each class of the data: output_units follow from features.json.
    config.model.scorer_args = ConfigDict(
        {
            "hidden_layer_dims": (256,),
            "activation": "relu",
            "use_batch_norm": False,
            "dropout": 0.9,
        }
    )
    # Words are there or not.
    config.model.preprocess = "none"

    config.pipeline = ConfigDict()
    config.pipeline.num_epochs = 100
    config.pipeline.steps_per_execution = 1
    config.pipeline.loss = "categorical_cross_entropy_loss"
    config.pipeline.loss_args = ConfigDict()
    config.pipeline.optimizer = "adamw"
    config.pipeline.optimizer_args = ConfigDict({"weight_decay": 1.0})
    config.pipeline.learning_rate = 0.01
    config.pipeline.metrics = ("accuracy",)
    config.pipeline.export_best_model = True
    config.pipeline.best_exporter_metric = "accuracy"
    config.pipeline.best_exporter_metric_higher_better = True
    config.pipeline.early_stopping_patience = 0
    config.pipeline.strategy = placeholder(str)
    if system == "graph":
        # What neighbours have to agree on should not be noise.
        config.model.scorer_args.dropout = 0.0
        config.pipeline.graph = ConfigDict(
            {
                "edges": placeholder(str),
                # A paper is a list of its own, and its id that of the list.
                "nodes": "queries",
                "add_undirected_edges": True,
                "max_neighbors": 10,
                "multiplier": 10.0,
                "distance_type": "l2",
                "sum_over_axis": -1,
                "transform_fn": "softmax",
            }
        )
    elif system == "adversarial":
        config.pipeline.adversarial = ConfigDict(
            {"multiplier": 0.5, "adv_step_size": 0.05, "adv_grad_norm": "infinity"}
        )
    return config
