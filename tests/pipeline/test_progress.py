"""What a run says of its progress: counts that are exact, and waits that are real."""

from __future__ import annotations

import pathlib
import re
import time

import numpy as np
import pytest

from tests.pipeline.training_helpers import make_config, read_history, scalars
from tfr_pipeline.compat import tf
from tfr_pipeline.experiment.build import build_pipeline
from tfr_pipeline.model.ranking_model import RankingModel
from tfr_pipeline.pipeline.run.console import Console
from tfr_pipeline.pipeline.run.progress import Progress
from tfr_pipeline.pipeline.simple import SimplePipeline


def test_the_history_counts_every_list_and_document_of_an_epoch(finished):
    config, _ = finished
    lengths = build_pipeline(config)._dataset_builder.lists("train", "packed").lengths
    for row in read_history(config["model_dir"]):
        assert (row["lists"], row["documents"]) == (len(lengths), lengths.sum())
        speed = row["documents"] / row["seconds"]
        assert row["documents_per_second"] == pytest.approx(speed, rel=0.02)
        assert row["steps_per_second"] == pytest.approx(10 / row["seconds"], rel=0.02)
        assert 0 <= row["input_wait"] <= 1


def test_documents_beyond_the_list_size_do_not_count(data, tmp_path):
    config = make_config(data, tmp_path / "run", num_epochs=1)
    config["data"]["list_size"] = 5
    pipeline = build_pipeline(config)
    pipeline.train_and_validate()
    lengths = pipeline._dataset_builder.lists("train", "packed").lengths
    (row,) = read_history(tmp_path / "run")
    assert row["documents"] == lengths.clip(max=5).sum() < lengths.sum()


def test_a_run_that_goes_on_counts_what_was_left(data, tmp_path):
    feed = build_pipeline(make_config(data, tmp_path))._feed
    feed.dataset("train", "packed")
    steps = [feed.take_sizes(1) for _ in range(25)]
    feed.dataset("train", "packed", start_step=13)
    np.testing.assert_array_equal(feed.take_sizes(9), sum(steps[13:22]))
    np.testing.assert_array_equal(feed.take_sizes(3), sum(steps[22:]))


def test_tensorboard_has_the_figures_of_the_history(finished):
    run = pathlib.Path(finished[0]["model_dir"])
    found = scalars(run / "logs" / "train")
    for name in ("documents", "documents_per_second", "input_wait"):
        wanted = [row[name] for row in read_history(run)]
        np.testing.assert_allclose(found[f"epoch_{name}"], wanted, rtol=1e-6)


class Talkative(SimplePipeline):
    def build_callbacks(self):
        callbacks = super().build_callbacks()
        for callback in callbacks:
            if isinstance(callback, Progress):
                callback._every = 0.0
        return callbacks


def test_without_a_terminal_one_line_tells_of_an_epoch(data, tmp_path, capsys):
    for verbose in (2, 0):
        config = make_config(data, tmp_path / str(verbose), num_epochs=1)
        pipeline = build_pipeline(config)
        pipeline.__class__ = Talkative
        pipeline.train_and_validate(verbose=verbose)
        out = capsys.readouterr().out
        if not verbose:
            assert not out
            continue
        # What is done before the first epoch and after the last, and how long it took.
        stages = [line.split(" in ")[0] for line in out.splitlines() if " in " in line]
        assert stages == [
            "data read",
            "model built",
            "training step traced",
            "exported and evaluated",
        ]
        assert "metrics skip queries without relevant documents" in out
        lines = [line for line in out.splitlines() if line.startswith("epoch 1/1")]
        within, _, whole = lines
        assert "step 5/10: loss " in within
        (row,) = read_history(tmp_path / str(verbose))
        for name, key in (
            ("loss", "loss"),
            ("val loss", "val_loss"),
            ("val ndcg_10", "val_metric/ndcg_10"),
        ):
            (found,) = re.findall(rf"[:,] {name} (-?[\d.e-]+)", whole)
            assert float(found) == pytest.approx(row[key], rel=1e-3)
        for line in lines:
            assert "documents/s, waited for input " in line


def test_a_terminal_has_one_line_that_changes(monkeypatch, capsys):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    console = Console(True)
    with console.stage("reading", "read"):
        pass
    console.show("epoch 1/2 [###   ]")
    console.say("epoch 1/2: loss 1")
    lines = capsys.readouterr().out.split("\n")
    seen = [line.rsplit("\r\x1b[K", 1)[-1] for line in lines]
    assert re.fullmatch(r"read in \d\.\d s", seen[0])
    assert seen[1:] == ["epoch 1/2: loss 1", ""]


# Mirrored replicas are sent their batches by a thread that does not wait for them.
@pytest.mark.parametrize(("mirrored", "waits"), [(False, 10), (True, 1)])
def test_the_wait_for_input_is_that_of_the_steps_and_no_more(mirrored, waits):
    asleep, steps = 0.02, 10

    def sleep(value):
        time.sleep(asleep)
        return value

    def slowly(value):
        slow = tf.numpy_function(sleep, [value], tf.float32)
        return tf.ensure_shape(slow, value.shape)

    def slow_batch(number):
        batch = slowly(tf.zeros([4, 1]) + tf.cast(number, tf.float32))
        return batch, batch

    scope = (
        tf.distribute.get_strategy()
        if not mirrored
        else tf.distribute.MirroredStrategy(["CPU:0"])
    )
    with scope.scope():
        inputs = tf.keras.Input([1])
        model = RankingModel(inputs, tf.keras.layers.Dense(1)(inputs))

        def slow_loss(y_true, y_pred):
            # Of the labels, so that no gradient has to pass.
            return tf.reduce_mean((slowly(y_true) - y_pred) ** 2)

        model.compile("sgd", slow_loss, steps_per_execution=5)
        model.optimizer.build(model.trainable_variables)
    options = tf.data.Options()
    # Nothing is fetched ahead, while the loss is computed.
    options.experimental_optimization.inject_prefetch = False
    data = scope.distribute_datasets_from_function(
        lambda _: tf.data.Dataset.range(100).map(slow_batch).with_options(options)
    )
    start = time.perf_counter()
    model.fit(data, steps_per_epoch=steps, verbose=0)
    spent = time.perf_counter() - start
    assert waits * asleep <= model.input_seconds <= spent - steps * asleep


class Counting(RankingModel):
    """Reports what Keras's documentation lets a subclass add."""

    def compute_metrics(self, x, y, y_pred, sample_weight):
        found = super().compute_metrics(x, y, y_pred, sample_weight)
        return {**found, "lists": tf.cast(tf.shape(y)[0], tf.float32)}


def test_what_a_model_computes_of_its_own_is_reported():
    inputs = tf.keras.Input([1])
    model = Counting(inputs, tf.keras.layers.Dense(1)(inputs))
    model.training_metrics = True
    model.compile("sgd", "mse")
    data = np.ones([8, 1], np.float32)
    logs = model.fit(
        data, data, batch_size=4, validation_data=(data[:3], data[:3]), verbose=0
    )
    assert logs.history["lists"] == [4.0] and logs.history["val_lists"] == [3.0]
