"""Neighbours have like scores: few labelled queries, and a graph of all documents.

    tfr-pipeline train --config=configs/graph_letor.py \
        --config.data.dir=DIR --config.model_dir=OUT \
        --config.pipeline.graph.edges=graph.tsv

`configs/letor.py` with `pipeline.graph`. The training data has ids of documents, and
may have lists without labels (all of them -1): their scores take part alone. The graph
is of `tfr-pipeline graph build`, or your own; without `edges`, the data has its
neighbours with it, from `tfr-pipeline graph pack`. See docs/graphs.md.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from configs import letor


def get_config(model: str = "dnn") -> ConfigDict:
    """Returns the config of `letor` with a graph."""
    config = letor.get_config(model)
    # Between -1 and 0, whatever the grades: so that a multiplier means something.
    config.pipeline.loss = "approx_ndcg_loss"
    config.pipeline.graph = ConfigDict()
    config.pipeline.graph.edges = placeholder(str)
    config.pipeline.graph.nodes = "documents"
    config.pipeline.graph.max_neighbors = 3
    config.pipeline.graph.multiplier = 0.1
    config.pipeline.graph.distance_type = "l2"
    config.pipeline.graph.add_undirected_edges = placeholder(bool)
    config.pipeline.graph.unknown_ids = placeholder(str)
    return config


def get_sweep(hyper, model: str = "dnn"):
    """Returns what `tfr-pipeline sweep` tries: how much neighbours count."""
    return hyper.study(
        hyper.product(
            hyper.interval("pipeline.graph.multiplier", 1e-3, 10.0, log=True),
            hyper.categorical("pipeline.graph.max_neighbors", [1, 2, 3]),
        ),
        metric="ndcg@10",
        trials=20,
    )
