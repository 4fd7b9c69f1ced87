"""Runs of the scorer `tabm`, whose members have losses of their own."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tests.pipeline.test_multi_worker import free_ports
from tests.pipeline.training_helpers import fit, make_config, read_history
from tests.replicas import run_on_devices
from tfr_pipeline.errors import ConfigError
from tfr_pipeline.experiment.build import build_pipeline
from tfr_pipeline.serving.predictor import Predictor

SCORER = {"k": 3, "hidden_layer_dims": [8], "dropout": 0.1}
ADVERSARIAL = {"multiplier": 0.5, "adv_step_size": 0.1, "adv_grad_norm": "infinity"}


def config_of(data, model_dir, scorer_args=SCORER, **pipeline):
    config = make_config(data, model_dir, **{"num_epochs": 2, **pipeline})
    config["model"].update(scorer="tabm", scorer_args=dict(scorer_args))
    return config


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    """A run with the gains of NDCG in its loss."""
    folder = tmp_path_factory.mktemp("tabm") / "run"
    config = config_of(
        data, folder, loss_args={"gain_fn": "pow_minus_1"}, training_metrics=True
    )
    build_pipeline(config).train_and_validate()
    return folder


def test_an_export_has_the_mean_score_of_the_members(run, data):
    lists = build_pipeline(config_of(data, run))._dataset_builder.lists("test")
    scores = Predictor(str(run)).score(lists)
    assert len(scores) == len(lists.labels)
    assert np.isfinite(scores).all() and np.ptp(scores) > 1e-3
    rows = read_history(run)
    assert 0.0 < rows[-1]["metric/ndcg_10"] <= 1.0
    assert rows[-1]["loss"] < rows[0]["loss"]


def test_losses_of_training_and_validation_are_on_one_scale(data, tmp_path):
    # Members that begin alike, and learn nothing: one loss is the other.
    config = config_of(
        data,
        tmp_path / "run",
        {"k": 3, "hidden_layer_dims": [], "dropout": 0.0},
        learning_rate=1e-12,
        num_epochs=1,
    )
    config["data"]["valid"] = str(data / "train-*")
    config["data"]["train"] = str(data / "train-*")
    del config["data"]["dir"]
    config["data"]["features"] = str(data / "features.json")
    config["model"]["scorer_args"]["kernel_initializer"] = "zeros"
    _, (row,) = fit(build_pipeline(config))
    np.testing.assert_allclose(row["loss"], row["val_loss"], rtol=1e-5)


def test_an_adversary_moves_features_against_all_members(data, tmp_path):
    config = config_of(data, tmp_path / "run", adversarial=ADVERSARIAL, num_epochs=1)
    _, (row,) = fit(build_pipeline(config))
    assert 0.4 < row["adversarial_loss"] / row["loss"] < 0.8


@pytest.mark.parametrize("layout", ["packed", "padded"])
def test_each_member_learns_of_a_teacher(run, data, tmp_path, layout):
    # One that learns nothing, against one network that does not either.
    rows = []
    for scorer in ({"k": 4}, {"k": 1}):
        config = config_of(
            data,
            tmp_path / str(len(rows)),
            {"hidden_layer_dims": [], "kernel_initializer": "zeros", **scorer},
            distill={"teacher": str(run), "weight": 0.25},
            learning_rate=1e-12,
            num_epochs=1,
        )
        pipeline = build_pipeline(config)
        pipeline._layout = lambda: layout
        rows.append(fit(pipeline)[1][0])
    assert rows[0]["distillation_loss"] > 1e-3
    for key in ("loss", "distillation_loss"):
        assert rows[0][key] == pytest.approx(rows[1][key], rel=1e-4)


@pytest.mark.parametrize(
    ("pipeline", "words"),
    [
        ({"loss_reduction": "sum"}, "loss_reduction: .* 3 members .* expected a mean"),
        (
            {"graph": {"edges": "edges.tsv", "max_neighbors": 2}},
            "graph: .* 3 members .* cannot be regularised",
        ),
    ],
)
def test_what_members_cannot_do_is_refused(data, tmp_path, pipeline, words):
    (tmp_path / "edges.tsv").write_text("")
    pipeline = json.loads(
        json.dumps(pipeline).replace("edges.tsv", str(tmp_path / "edges.tsv"))
    )
    with pytest.raises(ConfigError, match=words):
        built = build_pipeline(config_of(data, tmp_path / "run", **pipeline))
        built._compile(built._layout(), 10)


REPLICAS = """
import json, sys
from tfr_pipeline.experiment.build import build_pipeline
for text in sys.argv[1:]:
    pipeline = build_pipeline(json.loads(text))
    pipeline.train_and_validate()
    print(json.dumps(pipeline._checkpoints.state.history))
"""


@pytest.mark.slow
def test_two_replicas_have_the_losses_of_one_with_the_same_global_batch(data, tmp_path):
    configs = []
    for strategy in ("", "MirroredStrategy"):
        config = config_of(
            data,
            tmp_path / (strategy or "none"),
            {**SCORER, "dropout": 0.0},
            strategy=strategy,
            optimizer="sgd",
        )
        config["data"]["train_batch_size"] = 5  # replicas have unequal numbers
        configs.append(json.dumps(config))
    lines = run_on_devices(2, REPLICAS, *configs).splitlines()[-2:]
    for one, two in zip(*map(json.loads, lines), strict=True):
        for key in ("loss", "val_loss", "val_metric/ndcg_10"):
            assert one[key] == pytest.approx(two[key], rel=1e-4), key


SERVERS = """
import dataclasses, json, sys
from tfr_pipeline.compat import tf
from tfr_pipeline.experiment.build import build_pipeline
from tfr_pipeline.pipeline.simple import SimplePipeline

told, ports = map(json.loads, sys.argv[1:])
jobs = {"worker": ports[:1], "ps": ports[1:]}
spec = tf.train.ClusterSpec(
    {job: [f"localhost:{port}" for port in own] for job, own in jobs.items()}
)
servers = [
    tf.distribute.Server(spec, job_name=job, task_index=0, protocol="grpc")
    for job in jobs
]
resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(spec, rpc_layer="grpc")
pipeline = build_pipeline(told)
hparams = dataclasses.replace(
    pipeline._hparams, strategy="ParameterServerStrategy", cluster_resolver=resolver
)
SimplePipeline(
    pipeline._model_builder, pipeline._dataset_builder, hparams, config=told
).train_and_validate()
"""


@pytest.mark.slow
def test_parameter_servers_train_and_export_it(data, tmp_path):
    config = config_of(data, tmp_path / "run", num_epochs=2)
    run_on_devices(1, SERVERS, json.dumps(config), json.dumps(free_ports(2)))
    rows = read_history(tmp_path / "run")
    assert [row["step"] for row in rows] == [10, 20]
    lists = build_pipeline(config)._dataset_builder.lists("test")
    assert np.isfinite(Predictor(str(tmp_path / "run")).score(lists)).all()
