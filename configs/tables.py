"""Ranks rows of one table: numbers, dates, booleans, categories, texts, with gaps.

    tfr-pipeline convert --input=shop.csv --input_format=csv --output=DIR \
        --splits=train:.8,valid:.1,test:.1 --nan=keep --text_columns=title \
        --categorical_columns=brand
    tfr-pipeline train --config=configs/tables.py \
        --config.data.dir=DIR --config.model_dir=OUT

What is done to a feature goes by its type in the `features.json` that `convert` wrote,
see `STEPS`. Another way, for one feature or for all of a type:

    --config.model.preprocess.brand="{'embedding': 32}"
    --config.model.preprocess.type:text.tf_idf=5000

docs/tables.md has the whole way, from a CSV file to a server.
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import letor

# A value that occurs once teaches nothing, and as one of many that are not in the
# vocabulary it teaches what to make of a value that was never seen.
_CATEGORY = {"embedding": 8, "min_count": 2, "oov": 1}
STEPS = {
    # Numbers, dates and booleans. Long tails become short, and all columns of one size;
    # a value that is missing becomes the mean, and 1 in a column of its own.
    "*": ("log1p", "standardize", "missing"),
    "type:categorical": _CATEGORY,
    "type:list": _CATEGORY,  # any number of categories, or of whole numbers
    "type:text": {"tf_idf": 20_000, "dim": 16},
}


def get_config() -> ConfigDict:
    """Returns the config of an experiment on a table."""
    config = letor.get_config("dnn")
    config.model.name = "tables"
    del config.model.preprocess  # which was a word
    config.model.preprocess = ConfigDict(STEPS)
    # For labels of any size; gains, 2^label, are for grades.
    config.pipeline.loss = "approx_ndcg_loss"
    return config
