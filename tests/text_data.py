"""Random lists with texts, ragged and sparse features, and models of them."""

from __future__ import annotations

import pathlib
from typing import Any

import numpy as np

from tests import ranking_data
from tests.ranking_data import MASK, RankedList
from tfr_pipeline.compat import tf
from tfr_pipeline.features import Feature, Features
from tfr_pipeline.model.builders import ModelBuilder
from tfr_pipeline.model.inputs import FeatureSpecInputCreator
from tfr_pipeline.model.layers.distinct import Steps
from tfr_pipeline.model.layers.ragged import RaggedMean
from tfr_pipeline.model.preprocess import signed_log1p
from tfr_pipeline.model.scorers import DNNScorer
from tfr_pipeline.pipeline.datasets.hparams import DatasetHparams
from tfr_pipeline.pipeline.datasets.simple import SimpleDatasetBuilder

layers = tf.keras.layers
WORDS = ["red", "green", "blue", "shoe", "hat", "coat"]
TITLES = [f"{colour} {thing}" for colour in WORDS[:3] for thing in WORDS[3:]]
FEATURES = Features(
    context={
        "brand": Feature("string", (1,), ""),
        "query_tokens": Feature("string", (), kind="ragged"),
        "clicked": Feature("int64", (), kind="varlen"),
    },
    example={
        "bm25": Feature(default=0.5),
        "title": Feature("string", (1,), ""),
        "colours": Feature("string", (2,), ("red", "blue")),
        "tokens": Feature("string", (), kind="ragged"),
        "history": Feature("int64", (), kind="ragged"),
        "price": Feature("float32", (), kind="varlen"),
    },
)


def lists(seed: int, lengths: list[int]) -> list[RankedList]:
    """Returns random lists; documents lack features, and have no tokens, now and then.

    The better the title fits the query, the higher the label.
    """
    random = np.random.default_rng(seed)

    def some(values: list[str], low: int, high: int) -> np.ndarray:
        return np.array(random.choice(values, random.integers(low, high)), object)

    result = []
    for number, length in enumerate(lengths):
        tokens = some(WORDS, 0, 3)
        context = {
            "brand": some(["acme", "else"], 1, 2),
            "query_tokens": tokens,
            "clicked": random.integers(0, 5, [1]),
            "qid": np.array([f"q{number}"], object),
        }
        documents = []
        for row in range(length):
            title = random.choice(TITLES)
            document = {
                "bm25": np.float32([random.normal()]),
                "title": np.array([title], object),
                "colours": some(WORDS[:3], 2, 3),
                "tokens": some([*WORDS, "new"], 0, 4),
                "history": random.integers(0, 9, random.integers(0, 3)),
                "price": random.normal(size=random.integers(0, 2)).astype(np.float32),
                "relevance": np.float32([sum(t in title for t in set(tokens))]),
                "docid": np.array([f"d{number}_{row}"], object),
            }
            for name in ("title", "colours", "bm25"):
                if random.random() < 0.1:
                    del document[name]
            documents.append(document)
        result.append(RankedList(context, documents))
    return result


def write(folder: pathlib.Path) -> dict[str, list[RankedList]]:
    """Writes ELWC files of three splits and their description; returns the lists."""
    found = {}
    for seed, split in enumerate(("train", "valid", "test")):
        lengths = np.random.default_rng(seed).integers(1, 9, 12).tolist()
        found[split] = lists(seed, lengths)
        path = folder / f"{split}-00000-of-00001.tfrecord"
        ranking_data.write_elwc(path, found[split])
    description().save(str(folder))
    return found


def description() -> Features:
    """Returns the features with the label that the lists have."""
    label = "relevance", Feature("float32", (1,), -1.0)
    return Features(FEATURES.context, FEATURES.example, label)


def dataset_builder(folder: Any, **hparams: Any) -> SimpleDatasetBuilder:
    """Returns a builder for the files of `write`."""
    return SimpleDatasetBuilder.from_features(
        description(),
        DatasetHparams(
            train_input_pattern=f"{folder}/train-*",
            valid_input_pattern=f"{folder}/valid-*",
            **{"train_batch_size": 4, "valid_batch_size": 5, "seed": 3, **hparams},
        ),
        MASK,
    )


def functions() -> dict[str, Any]:
    """Returns preprocessing of all kinds: layers, steps, functions of one's own."""
    words = layers.StringLookup(vocabulary=WORDS)
    vectors = layers.Embedding(len(WORDS) + 1, 3)
    ids = layers.Embedding(9, 2)
    title = layers.TextVectorization(vocabulary=WORDS, output_sequence_length=2)
    return {
        "bm25": signed_log1p,
        "brand": tf.keras.Sequential([layers.Hashing(5), layers.Embedding(5, 2)]),
        "query_tokens": Steps([words, vectors, RaggedMean()]),
        "title": tf.keras.Sequential(
            [
                title,
                layers.Embedding(len(WORDS) + 2, 3),
                layers.GlobalAveragePooling1D(),
            ]
        ),
        "colours": lambda texts: tf.cast(tf.strings.length(texts), tf.float32),
        "tokens": Steps([words, vectors, RaggedMean()]),
        "history": lambda numbers: tf.reduce_sum(ids(numbers), axis=-2),
        "clicked": layers.CategoryEncoding(5, output_mode="multi_hot"),
    }


def model_builder(scorer: Any = None) -> ModelBuilder:
    """Returns a builder of a model of all features."""
    return ModelBuilder(
        FeatureSpecInputCreator(FEATURES.context_spec, FEATURES.example_spec),
        functions(),
        scorer or DNNScorer(hidden_layer_dims=[6], activation="tanh"),
        MASK,
        "texts",
    )


def both_models(seed: int = 1) -> tuple[Any, Any]:
    """Returns a packed and a padded model with the same random weights."""
    builder = model_builder()
    models = builder.build_packed(), builder.build()
    # Layers of preprocessing are shared; those of the scorer come in the same order.
    own = [[w for w in model.weights if "embedding" not in w.name] for model in models]
    random = np.random.default_rng(seed)
    for packed, padded in zip(*own, strict=True):
        value = random.uniform(0.2, 1.0, packed.shape) - 0.3 * ("kernel" in packed.name)
        for weight in (packed, padded):
            weight.assign(value.astype(weight.dtype.as_numpy_dtype))
    for weight in models[0].weights:
        if "embedding" in weight.name:
            weight.assign(random.normal(size=weight.shape).astype(np.float32))
    return models
