"""What each worker of a real cluster trains on: every list once, and one curve."""

from __future__ import annotations

import collections
import itertools
import json
import subprocess
import sys

import numpy as np
import pytest

from tests.pipeline.test_multi_worker import free_ports
from tests.pipeline.training_helpers import ROOT, environment, make_config
from tfr_pipeline.data.convert.conversion import convert
from tfr_pipeline.data.folds import fold_of_lists
from tfr_pipeline.data.sources.options import Options

LISTS = 37
EPOCHS = 2
# Trains, and prints the numbers of the queries in each step of this worker, how it went
# and the weights. The number is a feature: no one else tells what a step really got.
TRAIN = """
import json, sys
import numpy as np
from tfr_pipeline.compat import tf
from tfr_pipeline.pipeline.datasets.simple import SimpleDatasetBuilder
from tfr_pipeline.model.ranking_model import RankingModel
from tfr_pipeline.pipeline.distribute import strategies
from tfr_pipeline.experiment.build import build_pipeline

config, foreign, epochs = map(json.loads, sys.argv[1:])
seen = []
step = RankingModel._train

def record(self, data):
    features = data[0]
    if "features" in features:
        numbers = features["features"][:, 0, -1]
    else:
        documents = features["documents_float32"]
        numbers = tf.gather(documents.values, documents.row_starts())[:, -1]

    def note(numbers):
        seen.append(np.round(numbers).astype(int).tolist())
        return np.int64(0)

    with tf.control_dependencies([tf.numpy_function(note, [numbers], tf.int64)]):
        data = tf.nest.map_structure(tf.identity, data, expand_composites=True)
    return step(self, data)

if foreign:
    for split in ("train", "valid"):
        own = lambda self, split=split: self._streamed(split)
        setattr(SimpleDatasetBuilder, f"build_{split}_dataset", own)
    SimpleDatasetBuilder.layouts = ()
RankingModel._train = record
pipeline = build_pipeline(config)
tf.keras.utils.set_random_seed(config["seed"])
feed = pipeline._feed
with strategies.strategy_scope(pipeline._role.strategy):
    layout = pipeline._layout()
    steps = feed.check(layout)
    model = pipeline._compile(layout, steps)
    history = model.fit(
        feed.dataset("train", layout, model=model),
        validation_data=feed.dataset("valid", layout, model=model),
        validation_steps=feed.steps("valid", layout),
        steps_per_epoch=steps,
        epochs=epochs,
        verbose=0,
    ).history
weights = [weight.tolist() for weight in model.get_weights()]
pipeline._role.agree(0)
print(json.dumps([steps, seen, history, weights]))
"""


@pytest.fixture(scope="module")
def numbered(tmp_path_factory):
    """Returns a function from a number of files to a folder of converted data."""
    folder = tmp_path_factory.mktemp("numbered")
    random = np.random.default_rng(0)
    for split, lists in (("train", LISTS), ("valid", 7)):
        rows = ["qid,label,a,query"]
        for query in range(lists):
            for _ in range(random.integers(1, 12)):
                a = random.normal()
                label = int(np.clip(round(a + 1), 0, 3))
                rows.append(f"{query},{label},{a:.4f},{query}")
        (folder / f"{split}.csv").write_text("\n".join(rows) + "\n")

    def make(files):
        output = folder / str(files)
        for split in ("train", "valid"):
            convert(
                str(folder / f"{split}.csv"),
                str(output),
                input_format="csv",
                split=split,
                num_shards=files if split == "train" else 1,
                options=Options(feature_columns=("a", "query")),
            )
        return output

    return make


def run(data, workers, foreign=False, **batches):
    """Returns what each worker printed; one process without a strategy for 0."""
    config = make_config(
        data,
        "unused",
        strategy="MultiWorkerMirroredStrategy" if workers else "",
        loss="softmax_loss,mean_squared_loss",
        optimizer="sgd",
        learning_rate=0.0001,
        steps_per_epoch=1 if foreign else None,
        metrics=["ndcg_10"],
        steps_per_execution=1,
    )
    config["data"].update({"train_batch_size": 6, "valid_batch_size": 5, **batches})
    config["model"]["scorer_args"].update(use_batch_norm=False, dropout=0.0)
    config["model"]["preprocess"] = "none"
    arguments = [json.dumps(value) for value in (config, foreign, EPOCHS)]
    hosts = [f"localhost:{port}" for port in free_ports(workers)]
    running = []
    for index in range(max(1, workers)):
        task = {"type": "worker", "index": index}
        cluster = json.dumps({"cluster": {"worker": hosts}, "task": task})
        running.append(
            subprocess.Popen(
                [sys.executable, "-c", TRAIN, *arguments],
                env=environment(TF_CONFIG=cluster if workers else ""),
                cwd=ROOT,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    ended = [worker.communicate(timeout=900) for worker in running]
    for worker, (_, error) in zip(running, ended, strict=True):
        assert worker.returncode == 0, error[-3000:]
    return [json.loads(out.splitlines()[-1]) for out, _ in ended]


def assert_each_list_once_an_epoch(found):
    steps = found[0][0]
    for epoch in range(EPOCHS):
        part = slice(epoch * steps, (epoch + 1) * steps)
        shares = [list(itertools.chain(*seen[part])) for _, seen, *_ in found]
        assert all(shares)
        counts = collections.Counter(itertools.chain(*shares))
        assert counts == collections.Counter(range(LISTS))


def assert_same_curve(one, found):
    for steps, _, history, weights in found:
        assert steps == one[0]
        for key, values in one[2].items():
            np.testing.assert_allclose(history[key], values, rtol=2e-5, err_msg=key)
        for here, there in zip(weights, one[3], strict=True):
            np.testing.assert_allclose(here, there, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("files", "workers", "batches"),
    [
        (1, 2, {}),
        pytest.param(1, 4, {}, marks=pytest.mark.slow),
        pytest.param(7, 4, {"documents_per_batch": 40}, marks=pytest.mark.slow),
    ],
)
def test_every_list_is_seen_once_an_epoch_and_the_curve_is_that_of_one_process(
    numbered, files, workers, batches
):
    data = numbered(files)
    (one,) = run(data, 0, **batches)
    assert_each_list_once_an_epoch([one])
    found = run(data, workers, **batches)
    assert_each_list_once_an_epoch(found)
    assert_same_curve(one, found)


@pytest.mark.slow
def test_workers_train_on_the_same_folds(numbered):
    data = numbered(7)
    (one,) = run(data, 0, folds=3, fold=1)
    ids = np.array([str(number) for number in range(LISTS)], object)
    wanted = np.flatnonzero(fold_of_lists(ids, 3) != 1)
    found = run(data, 2, folds=3, fold=1)
    for workers in ([one], found):
        for epoch in range(EPOCHS):
            part = slice(epoch * one[0], (epoch + 1) * one[0])
            seen = [itertools.chain(*seen[part]) for _, seen, *_ in workers]
            assert sorted(itertools.chain(*seen)) == wanted.tolist()
    assert_same_curve(one, found)


@pytest.mark.slow
def test_workers_share_a_foreign_dataset_of_one_file_by_element(numbered):
    # One batch an epoch: TF-Ranking's batches go on over the end of an epoch.
    found = run(numbered(1), 2, foreign=True, train_batch_size=LISTS)
    assert_each_list_once_an_epoch(found)
