"""Ranks by text: lists of a search, numbers on how texts fit, and a pretrained module.

    tfr-pipeline train --config=configs/text_ranking.py:frozen \
        --config.data.dir=DIR --config.model_dir=OUT \
        --config.model.preprocess.query.hub=MODULE

Arguments: `numbers`, a network over the numbers alone; `frozen`, with the cosine of the
query with title and text beside them, of vectors that a module of TensorFlow Hub makes;
`trained`, the same with a module that is trained from the third epoch on, slowly. Each
of them can learn of lists without labels first, by
`--config.pipeline.pretrain.task=denoise`, and begin with what was learnt, by
`--config.pipeline.warm_start.from=OUT`; see docs/pretraining.md.

`DIR` is what `docs/text_lists.py` and `tfr-pipeline convert` make of queries, documents
and judgements: query feature `query`, document features `title` and `text`, and
numbers. docs/text_ranking.md has the whole way; `tests/bench/cranfield.py` measures the
three beside BM25.
"""

from __future__ import annotations

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from configs import letor

MODELS = ("numbers", "frozen", "trained")
DOCUMENT_TEXTS = ("title", "text")


def get_config(model: str = "frozen") -> ConfigDict:
    """Returns the config of an experiment with one of `MODELS`."""
    if model not in MODELS:
        raise ValueError(f"expected {', '.join(MODELS)}, found {model!r}")
    config = letor.get_config("dnn")
    config.model.name = "text_ranking"
    config.pipeline.loss = "approx_ndcg_loss"
    config.model.preprocess = "log1p"
    if model == "numbers":
        return config
    del config.model.preprocess  # which was a word
    config.model.preprocess = ConfigDict({"*": "log1p"})
    # One path for all: setting that of the query sets that of title and text.
    module = placeholder(str, required=True)
    for name in ("query", *DOCUMENT_TEXTS):
        step = {"hub": module, "trainable": model == "trained"}
        config.model.preprocess[name] = ConfigDict(step)
    config.model.interactions = ConfigDict(
        {
            f"query_{name}": {"query": "query", "document": name, "of": ("cosine",)}
            for name in DOCUMENT_TEXTS
        }
    )
    if model == "trained":
        config.pipeline.warm_start = ConfigDict(
            {"frozen": "hub_encoder", "unfreeze_epoch": 2, "unfreeze_rate": 0.1}
        )
    return config
