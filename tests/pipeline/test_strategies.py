"""Strategies by name: which object each name gives, or which error."""

from __future__ import annotations

import json

import pytest

from tests.pipeline.training_helpers import environment, make_config
from tests.replicas import run_on_devices
from tfr_pipeline.compat import tf
from tfr_pipeline.errors import ConfigError
from tfr_pipeline.experiment.build import build_pipeline
from tfr_pipeline.pipeline.distribute import strategies


@pytest.mark.parametrize("name", [None, "", "None"])
def test_no_strategy_is_none(name):
    assert strategies.get_strategy(name) is None
    with strategies.strategy_scope(None):
        assert not tf.distribute.has_strategy()


def test_mirrored_strategy_has_one_replica_on_one_processor():
    strategy = strategies.get_strategy("MirroredStrategy")
    assert isinstance(strategy, tf.distribute.MirroredStrategy)
    assert strategy.num_replicas_in_sync == max(
        1, len(tf.config.list_logical_devices("GPU"))
    )
    with strategies.strategy_scope(strategy):
        assert tf.distribute.get_strategy() is strategy
    assert strategies.is_chief(strategy)


def test_a_worker_alone_or_not_the_chief_knows():
    # The strategy comes first: TensorFlow wants it before all else.
    code = """
from tfr_pipeline.pipeline.distribute.strategies import get_strategy, is_chief
strategy = get_strategy("MultiWorkerMirroredStrategy")
print(type(strategy).__name__, strategy.num_replicas_in_sync, is_chief(strategy))

import json, os, sys
from tfr_pipeline.compat import tf
from tfr_pipeline.pipeline.distribute import strategies

class Workers(tf.distribute.MultiWorkerMirroredStrategy):
    def __init__(self, resolver):
        self._resolver = resolver
    cluster_resolver = property(lambda self: self._resolver)

for index, task in enumerate(("chief", "worker", "worker")):
    cluster = {"chief": ["a:1"], "worker": ["b:1", "c:1"]}
    for names in (cluster, {"worker": ["a:1", "b:1", "c:1"]}):
        where = {"type": task, "index": max(0, index - 1)}
        if "chief" not in names:
            where = {"type": "worker", "index": index}
        config = {"cluster": names, "task": where}
        os.environ["TF_CONFIG"] = json.dumps(config)
        resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()
        print(strategies.is_chief(Workers(resolver)))
"""
    found = run_on_devices(1, code).split()[-9:]
    assert found[:3] == ["CollectiveAllReduceStrategy", "1", "True"]
    assert found[3:] == ["True", "True", "False", "False", "False", "False"]


def test_parameter_servers_are_built_for_the_cluster_of_tf_config(monkeypatch):
    cluster = {"chief": ["localhost:1"], "worker": ["localhost:2"]}
    monkeypatch.setenv(
        "TF_CONFIG",
        json.dumps({"cluster": cluster, "task": {"type": "chief", "index": 0}}),
    )
    with pytest.raises(ConfigError, match="the cluster has no 'ps' task"):
        strategies.get_strategy("ParameterServerStrategy")
    monkeypatch.delenv("TF_CONFIG")
    with pytest.raises(ConfigError, match="set TF_CONFIG or start the job"):
        strategies.get_strategy("ParameterServerStrategy")


def test_a_tpu_that_is_not_there_is_a_clear_error():
    assert "TPU_NAME" not in environment()
    with pytest.raises(ConfigError, match=r"no TPU answers at pipeline\.tpu=''"):
        strategies.get_strategy("TPUStrategy")


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("MiroredStrategy", "'MirroredStrategy'"),
        ("MultiWorkerMirrored", "'MultiWorkerMirroredStrategy'"),
        ("ParameterServer", "'ParameterServerStrategy'"),
    ],
)
def test_an_unknown_strategy_offers_the_nearest(name, nearest):
    with pytest.raises(ConfigError, match=f"unknown strategy '{name}'") as caught:
        strategies.get_strategy(name)
    assert nearest in str(caught.value).split("Known")[0]


def test_an_unknown_strategy_of_a_config_is_found_before_data_is_read(tmp_path, data):
    config = make_config(data, tmp_path / "run", strategy="Mirored")
    config["data"]["train"] = str(tmp_path / "nothing-*")
    with pytest.raises(ConfigError, match="unknown strategy 'Mirored'"):
        build_pipeline(config)


TRAIN = """
import json, sys
from tfr_pipeline.experiment.build import build_pipeline
for text in sys.argv[1:]:
    pipeline = build_pipeline(json.loads(text))
    model = pipeline.train_and_validate()
    print(pipeline._feed.replicas, json.dumps(pipeline._checkpoints.state.history))
"""


@pytest.mark.slow
def test_two_replicas_have_the_losses_of_one_with_the_same_global_batch(data, tmp_path):
    configs = []
    for strategy in ("", "MirroredStrategy"):
        config = make_config(
            data,
            tmp_path / (strategy or "none"),
            strategy=strategy,
            optimizer="sgd",
            # Every replica has as many lists as the other: a mean of means is a mean.
            metrics=["ndcg_10", "mrr"],
        )
        config["data"]["valid_batch_size"] = 10
        config["model"]["scorer_args"].update(use_batch_norm=False, dropout=0.0)
        configs.append(json.dumps(config))
    lines = run_on_devices(2, TRAIN, *configs).splitlines()[-2:]
    counts, histories = zip(
        *((int(n), json.loads(h)) for n, h in (line.split(" ", 1) for line in lines)),
        strict=True,
    )
    assert counts == (1, 2)
    assert [row["step"] for row in histories[1]] == [10, 20, 30]
    for one, two in zip(*histories, strict=True):
        for key in ("loss", "val_loss", "val_metric/ndcg_10", "val_metric/mrr"):
            assert two[key] == pytest.approx(one[key], rel=1e-4), key
    assert histories[0][-1]["loss"] < histories[0][0]["loss"]


def test_models_train_mirrored_on_all_logical_processors_where_there_is_no_gpu():
    # A second one of another size in the same process, too.
    code = """
import numpy as np
from tfr_pipeline.pipeline.distribute.strategies import get_strategy
for units in (3, 5):
    strategy = get_strategy("MirroredStrategy")
    with strategy.scope():
        model = tf.keras.Sequential([tf.keras.layers.Dense(units)])
        model.compile("sgd", "mse")
    history = model.fit(np.ones([4, 2]), np.ones([4, units]), verbose=0).history
    print(strategy.num_replicas_in_sync, len(history))
"""
    assert run_on_devices(2, code).split()[-4:] == ["2", "1", "2", "1"]
