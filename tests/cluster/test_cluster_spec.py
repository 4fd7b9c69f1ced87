"""The cluster against the strategy, before anything is built."""

from __future__ import annotations

import json

import pytest

from tests.pipeline.training_helpers import make_config
from tfr_pipeline.cluster import cluster_spec
from tfr_pipeline.errors import ConfigError
from tfr_pipeline.experiment.build import build_pipeline

ALONE = {"worker": ["h:1"]}
WORKERS = {"worker": ["h:1", "h:2"]}
SERVERS = {"chief": ["h:1"], "worker": ["h:2"], "ps": ["h:3"]}


def set_cluster(monkeypatch, cluster, job="worker", index=0):
    task = {"type": job, "index": index}
    monkeypatch.setenv("TF_CONFIG", json.dumps({"cluster": cluster, "task": task}))


@pytest.mark.parametrize(
    ("strategy", "cluster", "job"),
    [
        (None, ALONE, "worker"),
        ("MirroredStrategy", {"chief": ["h:1"]}, "chief"),
        ("MultiWorkerMirroredStrategy", ALONE, "worker"),
        ("MultiWorkerMirroredStrategy", WORKERS, "worker"),
        ("MultiWorkerMirroredStrategy", WORKERS, "evaluator"),
        *[("ParameterServerStrategy", SERVERS, job) for job in SERVERS],
        ("ParameterServerStrategy", SERVERS, "evaluator"),
    ],
)
def test_a_cluster_that_fits_the_strategy_passes(monkeypatch, strategy, cluster, job):
    set_cluster(monkeypatch, cluster, job)
    cluster_spec.check(strategy)


@pytest.mark.parametrize(
    ("strategy", "cluster", "job", "found"),
    [
        (None, WORKERS, "worker", "Set pipeline.strategy to 'MultiWorkerMirrored"),
        ("None", WORKERS, "evaluator", "would train alone into the same run"),
        ("MirroredStrategy", WORKERS, "worker", "trains in one process"),
        ("TPUStrategy", WORKERS, "worker", "trains in one process"),
        ("MirroredStrategy", SERVERS, "chief", "to 'ParameterServerStrategy'"),
        ("MultiWorkerMirroredStrategy", SERVERS, "ps", "has no parameter servers"),
        ("ParameterServerStrategy", WORKERS, "worker", "has no 'chief' task"),
        ("ParameterServerStrategy", {**SERVERS, "ps": []}, "chief", r"cluster.ps is"),
        ("MultiWorkerMirroredStrategy", WORKERS, "chief", "has only worker"),
        ("MultiWorkerMirroredStrategy", {"worker": ["h"]}, "worker", "write host:port"),
    ],
)
def test_a_cluster_that_does_not_fit_says_what_to_do(
    monkeypatch, strategy, cluster, job, found
):
    set_cluster(monkeypatch, cluster, job)
    with pytest.raises(ConfigError, match=found):
        cluster_spec.check(strategy)


@pytest.mark.parametrize("text", ["", "{}"])
def test_no_cluster_is_one_process(monkeypatch, text):
    monkeypatch.setenv("TF_CONFIG", text)
    for strategy in (None, "MirroredStrategy", "MultiWorkerMirroredStrategy"):
        cluster_spec.check(strategy)


def test_a_task_that_is_not_in_the_cluster_is_named(monkeypatch):
    set_cluster(monkeypatch, WORKERS, index=2)
    with pytest.raises(
        ConfigError, match=r"task\.index is 2, but cluster\.worker has 2"
    ):
        cluster_spec.check("MultiWorkerMirroredStrategy")


def test_a_resolver_is_asked_in_place_of_tf_config(monkeypatch):
    from tfr_pipeline.compat import tf

    monkeypatch.setenv("TF_CONFIG", "malformed")
    resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(
        tf.train.ClusterSpec(SERVERS), task_type="chief", task_id=0
    )
    cluster_spec.check("ParameterServerStrategy", resolver)
    with pytest.raises(ConfigError, match="has no parameter servers"):
        cluster_spec.check("MultiWorkerMirroredStrategy", resolver)


def test_a_run_in_the_wrong_cluster_ends_before_it_reads_data(
    monkeypatch, data, tmp_path
):
    set_cluster(monkeypatch, WORKERS)
    config = make_config(data, tmp_path / "run")
    config["data"]["train"] = str(tmp_path / "nothing-*")
    with pytest.raises(ConfigError, match="strategy: None trains in one process"):
        build_pipeline(config)
    assert not (tmp_path / "run").exists()
