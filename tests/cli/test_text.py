"""The text example trains on ragged tokens, and its export reads them."""

from __future__ import annotations

import pathlib
import shutil

import numpy as np
import pytest

from tests import ranking_data
from tests.pipeline.training_helpers import ROOT, read_history
from tfr_pipeline.cli.main import main
from tfr_pipeline.compat import tf
from tfr_pipeline.features import Feature, Features

TOPICS = ("cats", "dogs", "birds", "fish")
FILLERS = ("the", "a", "of", "and")


def text_list(random, query):
    """Returns a query of one topic, and documents of which some are good.

    Relevant documents say "good"; one document has no tokens at all.
    """
    topic = TOPICS[query % len(TOPICS)]
    documents = []
    for i in range(6):
        good = i % 3 == 0
        tokens = [*random.choice(FILLERS, random.integers(1, 5)), topic]
        tokens = [] if i == 5 else [*tokens, *(["good"] if good else [])]
        documents.append(
            {
                "document_tokens": np.array(tokens, object),
                "length": np.float32([len(tokens)]),
                "label": np.float32([float(good)]),
                "docid": np.array([f"d{query}_{i}"], object),
            }
        )
    context = {
        "query_tokens": np.array([topic], object),
        "qid": np.array([f"q{query}"], object),
    }
    return ranking_data.RankedList(context, documents)


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """Folder of ELWC files of texts and their description."""
    folder = tmp_path_factory.mktemp("texts")
    random = np.random.default_rng(0)
    for split, count in (("train", 24), ("valid", 8), ("test", 8)):
        lists = [text_list(random, query) for query in range(count)]
        ranking_data.write_elwc(folder / f"{split}-00000-of-00001.tfrecord", lists)
    tokens = Feature("string", (), kind="ragged")
    Features(
        context={"query_tokens": tokens},
        example={"document_tokens": tokens, "length": Feature()},
    ).save(str(folder))
    (folder / "vocabulary.txt").write_text("\n".join([*TOPICS, *FILLERS, "good"]))
    return folder


def train(texts, model_dir, *flags):
    arguments = [
        f"--config={ROOT / 'configs' / 'text.py'}",
        f"--config.data.dir={texts}",
        f"--config.model_dir={model_dir}",
        "--config.data.train_batch_size=8",
        "--config.pipeline.num_epochs=10",
        "--config.pipeline.steps_per_execution=3",
        "--config.pipeline.learning_rate=0.05",
        "--config.model.builder_args.dropout=0.0",
        *flags,
    ]
    assert main(["train", *arguments]) == 0


def test_texts_are_learnt_and_scored_by_the_export(texts, tmp_path):
    vocabulary = tmp_path / "vocabulary.txt"
    shutil.copy(texts / "vocabulary.txt", vocabulary)
    train(texts, tmp_path, f"--config.model.builder_args.vocabulary={vocabulary}")
    vocabulary.unlink()
    assert read_history(tmp_path)[-1]["val_metric/ndcg_1"] == 1.0
    (version,) = pathlib.Path(tmp_path, "export", "latest_model").glob("[0-9]*")
    predict = tf.saved_model.load(str(version)).signatures["tensorflow/serving/predict"]
    ranked = text_list(np.random.default_rng(9), 3)
    (scores,) = predict(tf.constant([ranking_data.elwc(ranked)])).values()
    assert set(np.argsort(scores[0])[-2:]) == {0, 3}
    # The run itself has the vocabulary.
    bare = tmp_path / "bare"
    shutil.copytree(tmp_path / "checkpoints", bare / "checkpoints")
    assert main(["export", f"--run={bare}", f"--output={bare}/out"]) == 0
    again = tf.saved_model.load(f"{bare}/out").signatures["tensorflow/serving/predict"]
    (found,) = again(tf.constant([ranking_data.elwc(ranked)])).values()
    np.testing.assert_array_equal(found, scores)


def test_without_vocabulary_tokens_are_hashed(texts, tmp_path, capsys):
    train(texts, tmp_path, "--dry_run", "--config.model.builder_args.buckets=50")
    # 50 vectors of 20 numbers, and the network.
    assert "model: 2,181 parameters" in capsys.readouterr().out
