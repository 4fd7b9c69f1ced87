"""A whole run on files of another format, with features of every kind."""

from __future__ import annotations

import pytest

from tests.data.format_helpers import LOOSE_SPEC, with_loose_features, write_format
from tests.pipeline.training_helpers import make_config, read_history, read_json
from tests.ranking_data import EXAMPLE_SPEC, LABEL_SPEC, MASK, elwc, random_lists
from tfr_pipeline.compat import tf
from tfr_pipeline.errors import ConfigError
from tfr_pipeline.experiment.build import build_pipeline
from tfr_pipeline.features import Feature, Features
from tfr_pipeline.model.builders import ModelBuilder
from tfr_pipeline.model.inputs import FeatureSpecInputCreator
from tfr_pipeline.model.scorers import DNNScorer
from tfr_pipeline.pipeline.datasets.hparams import DatasetHparams
from tfr_pipeline.pipeline.datasets.simple import SimpleDatasetBuilder
from tfr_pipeline.pipeline.hparams import PipelineHparams
from tfr_pipeline.pipeline.simple import SimplePipeline

LENGTHS = [9, 3, 12, 5] * 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("formats")
    for seed, split in enumerate(("train", "valid")):
        lists = with_loose_features(random_lists(seed, LENGTHS), seed)
        for name in ("seq", "eie"):
            write_format(path / f"{split}-{name}", lists, name, "GZIP")
    return path


def test_a_config_trains_packed_on_sampled_sequence_examples(folder, tmp_path):
    features = Features(
        example={
            name: Feature.from_spec(EXAMPLE_SPEC[name])
            for name in ("bm25", "embedding", "grid")
        },
        label=("relevance", Feature("float32", (1,), -1.0)),
    )
    features.save(str(tmp_path / "features.json"))
    config = make_config("", tmp_path / "run", num_epochs=2)
    config["data"] = {
        "train": f"{folder}/train-seq",
        "valid": f"{folder}/valid-seq",
        "features": str(tmp_path / "features.json"),
        "train_batch_size": 4,
        "valid_batch_size": 4,
        "list_size": 5,
        "input_format": "seq",
        "compression": "gzip",
        "truncation": "bm25",
        "shuffle_examples": True,
        "cache": str(tmp_path / "cache"),
    }
    config["model"]["preprocess"] = "none"
    build_pipeline(config).train_and_validate()
    assert len(read_history(tmp_path / "run")) == 2
    assert read_json(tmp_path / "run" / "metrics.json")["valid"]["documents"] == 116


def letters(texts):
    """Returns the number of letters of each title, `[batch, list_size, 1]`."""
    lengths = tf.ragged.map_flat_values(tf.strings.length, texts)
    total = tf.cast(tf.reduce_sum(lengths, axis=2), tf.float32)
    if isinstance(total, tf.RaggedTensor):
        total = total.to_tensor()
    return tf.expand_dims(total, -1)


def model_builder(mask=MASK):
    specs = {"title": LOOSE_SPEC["title"], "bm25": EXAMPLE_SPEC["bm25"]}
    return ModelBuilder(
        FeatureSpecInputCreator({}, specs),
        {"title": letters},
        DNNScorer(hidden_layer_dims=[8], activation="relu"),
        mask,
    )


def dataset_builder(folder, **kwargs):
    hparams = DatasetHparams(
        f"{folder}/train-eie", f"{folder}/valid-eie", 4, 4, 6, **kwargs
    )
    specs = {"title": LOOSE_SPEC["title"], "bm25": EXAMPLE_SPEC["bm25"]}
    return SimpleDatasetBuilder({}, specs, MASK, LABEL_SPEC, hparams)


def hparams(folder, **kwargs):
    return PipelineHparams(
        model_dir=str(folder),
        num_epochs=2,
        steps_per_epoch=None,
        validation_steps=None,
        learning_rate=0.01,
        loss="softmax_loss",
        export_best_model=True,
        **kwargs,
    )


def test_texts_train_padded_without_counting_steps(folder, tmp_path):
    pipeline = SimplePipeline(
        model_builder(),
        dataset_builder(folder, truncation="sample"),
        hparams(tmp_path, strategy="MirroredStrategy"),
    )
    pipeline.train_and_validate()
    history = read_history(tmp_path)
    assert [row["epoch"] for row in history] == [0, 1]
    (version,) = (tmp_path / "export" / "latest_model").glob("[0-9]*")
    loaded = tf.saved_model.load(str(version))
    predict = loaded.signatures["tensorflow/serving/predict"]
    (name,) = predict.structured_input_signature[1]
    record = elwc(random_lists(5, [3])[0])
    scored = predict(**{name: tf.constant([record])})
    (scores,) = scored.values()
    assert scores.shape == (1, 3)


def test_masks_of_two_names_are_refused_before_training(folder, tmp_path):
    pipeline = SimplePipeline(
        model_builder("other"),
        dataset_builder(folder),
        hparams(tmp_path, layout="padded"),
    )
    words = f"mask_feature_name: the model builder expects 'other'.*makes '{MASK}'"
    with pytest.raises(ConfigError, match=words):
        pipeline.train_and_validate()
