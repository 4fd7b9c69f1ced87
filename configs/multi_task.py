"""Two tasks, one model: a graded relevance and a click for each document.

    tfr-pipeline train --config=configs/multi_task.py \
        --config.data.dir=DIR --config.model_dir=OUT

`DIR/features.json` has the labels `relevance` and `click`; see docs/tasks.md. Ten
seconds on the data of `tests/pipeline/multi_task_data.py`.
"""

from ml_collections import ConfigDict

from configs import letor

TASKS = {
    # A grade orders documents: listwise. A click is yes or no: pointwise.
    "relevance": "approx_ndcg_loss",
    "click": "sigmoid_cross_entropy_loss",
}


def get_config() -> ConfigDict:
    """Returns the config of the experiment."""
    config = letor.get_config("builder")
    config.model.builder = "builders.multi_task:MultiTaskModelBuilder"
    del config.pipeline.loss  # was one name, and a ConfigDict keeps types
    config.pipeline.loss = ConfigDict(TASKS)
    config.pipeline.loss_weights = ConfigDict({"relevance": 1.0, "click": 0.5})
    # The task that counts; the other one helps it.
    config.pipeline.best_exporter_metric = "relevance/ndcg_10"
    return config
