"""Runs with a graph and an adversary, from config to export."""

from __future__ import annotations

import json
import pathlib

import numpy as np
import pytest

from tests.pipeline.test_multi_worker import start_workers, wait
from tests.pipeline.training_helpers import (
    changed,
    make_config,
    read_history,
    scalars,
)
from tests.regularization.graph_data import first_step, plain_config, write_graph
from tests.replicas import run_on_devices
from tfr_pipeline.compat import tf
from tfr_pipeline.data.batching import windowed
from tfr_pipeline.errors import ConfigError, DataError
from tfr_pipeline.experiment.build import build_pipeline
from tfr_pipeline.graph.packing import Rules, pack
from tfr_pipeline.pipeline.run.attack import attack_of, attacked
from tfr_pipeline.pipeline.run.measuring import measure
from tfr_pipeline.regularization.adversary import perturb
from tfr_pipeline.serving.predictor import Predictor

ADVERSARIAL = {"multiplier": 0.5, "adv_step_size": 0.1, "adv_grad_norm": "infinity"}


@pytest.fixture(scope="module")
def graph(data, tmp_path_factory):
    """Path of a graph between the training documents."""
    path = tmp_path_factory.mktemp("graph") / "graph.tsv"
    write_graph(plain_config(data, "unused"), path)
    return {"edges": str(path), "max_neighbors": 3, "multiplier": 0.2}


@pytest.fixture(scope="module")
def run(data, graph, tmp_path_factory):
    """A run with both; returns its folder."""
    folder = tmp_path_factory.mktemp("run")
    told = {"graph": graph, "adversarial": ADVERSARIAL, "strategy": None}
    build_pipeline(make_config(data, folder, **told)).train_and_validate()
    return folder


def test_the_logs_show_the_loss_of_labels_and_what_comes_to_it_apart(run) -> None:
    rows = read_history(run)
    for name in ("graph_loss", "adversarial_loss"):
        assert all(row[name] > 0 for row in rows)
        assert f"val_{name}" not in rows[0]
    # Labels alone, as in validation: that of the adversary has its multiplier.
    assert 0.4 < rows[-1]["adversarial_loss"] / rows[-1]["loss"] < 0.7
    logged = scalars(run / "logs" / "train")
    assert np.allclose(logged["epoch_graph_loss"], [r["graph_loss"] for r in rows])
    assert len(logged["epoch_adversarial_loss"]) == len(rows)


def test_exports_know_nothing_of_graphs(run, data) -> None:
    predictor = Predictor(str(run))
    lists = build_pipeline(make_config(data, run))._dataset_builder.lists("valid")
    assert np.isfinite(predictor.score(lists)).all()
    for signature in predictor._module.signatures.values():
        names = signature.structured_input_signature[1]
        assert not [n for n in names if "graph" in n or n.startswith("NL_nbr")]


def test_an_attack_lowers_the_quality_the_more_the_larger_it_is(run, data) -> None:
    predictor = Predictor(str(run))
    lists = build_pipeline(make_config(data, run))._dataset_builder.lists("valid")

    def quality(*attack) -> float:
        moved = attacked(predictor, lists, attack_of(*attack))
        difference = moved.values["float32"] - lists.values["float32"]
        assert 0 < np.abs(difference).max() <= attack[0] * 1.001
        return measure(predictor, moved).means()["ndcg@10"]["skip"]

    clean = measure(predictor, lists).means()["ndcg@10"]["skip"]
    weak, strong, steps = quality(0.05), quality(0.5), quality(0.5, 5)
    assert strong < weak < clean
    assert steps < weak


def test_unlabelled_lists_have_no_loss_and_have_neighbours(data, graph, tmp_path):
    config = plain_config(data, tmp_path, graph=graph)
    losses = {}
    for name in ("all", "none"):
        builder = build_pipeline(config)._dataset_builder
        lists = builder.lists("train", "packed")
        labels = lists.labels if name == "all" else np.full_like(lists.labels, -1.0)
        losses[name] = step_with_labels(config, labels)
    assert losses["all"]["loss"] > 0 == losses["none"]["loss"]
    assert losses["none"]["added"] == pytest.approx(losses["all"]["added"])


def step_with_labels(config, labels):
    import dataclasses

    from tfr_pipeline.pipeline.datasets.kept_lists import Reading

    read = Reading.read

    def relabelled(self, *args, **kwargs):
        lists = read(self, *args, **kwargs)
        if lists.num_documents != len(labels):
            return lists
        return dataclasses.replace(lists, labels=labels)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Reading, "read", relabelled)
        return first_step(config)[2]


@pytest.mark.slow
def test_a_warm_start_may_add_a_graph(run, data, graph, tmp_path) -> None:
    told = {"graph": graph, "warm_start": {"from": str(run)}, "num_epochs": 1}
    config = make_config(data, tmp_path / "warm", strategy=None, **told)
    build_pipeline(config).train()
    assert read_history(tmp_path / "warm")[0]["graph_loss"] > 0


CURVES = """
import json, sys
from tfr_pipeline.pipeline.distribute import strategies
from tfr_pipeline.experiment.build import build_pipeline

for text in sys.argv[1:]:
    pipeline = build_pipeline(json.loads(text))
    tf.keras.utils.set_random_seed(7)
    feed = pipeline._feed
    with strategies.strategy_scope(pipeline._role.strategy):
        layout = pipeline._layout()
        steps = feed.check(layout)
        model = pipeline._compile(layout, steps)
        history = model.fit(
            feed.dataset("train", layout, model=model),
            steps_per_epoch=steps,
            epochs=2,
            verbose=0,
        ).history
    print(json.dumps([feed.replicas, history, model.get_weights()], default=list))
"""


@pytest.mark.slow
def test_replicas_have_the_curve_of_one(data, graph, tmp_path) -> None:
    told = {
        # A sum over edges is the same however they are shared.
        "graph": {**graph, "reduction": "weighted_sum", "multiplier": 0.01},
        "adversarial": {**ADVERSARIAL, "adv_grad_norm": "l2"},
        "optimizer": "sgd",
    }
    configs = []
    for strategy in (None, "MirroredStrategy"):
        config = plain_config(data, tmp_path / "run", **told)
        configs.append(changed(config, pipeline__strategy=strategy))
    code = CURVES.replace("default=list", "default=lambda w: w.tolist()")
    output = run_on_devices(2, code, *map(json.dumps, configs))
    one, two = (json.loads(line) for line in output.splitlines()[-2:])
    assert (one[0], two[0]) == (1, 2)
    assert one[1]["adversarial_loss"][0] > 0
    for name in ("loss", "adversarial_loss"):
        np.testing.assert_allclose(two[1][name], one[1][name], rtol=1e-4)
    for mirrored, alone in zip(two[2], one[2], strict=True):
        np.testing.assert_allclose(mirrored, alone, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_workers_train_with_graph_and_adversary(data, graph, tmp_path) -> None:
    told = {"graph": graph, "adversarial": ADVERSARIAL, "num_epochs": 2}
    strategy = "MultiWorkerMirroredStrategy"
    config = make_config(data, tmp_path / "run", strategy=strategy, **told)
    folder = tmp_path / "workers"
    wait(start_workers(config, folder), folder)
    rows = read_history(tmp_path / "run")
    assert len(rows) == 2
    assert rows[-1]["graph_loss"] > 0 < rows[-1]["adversarial_loss"]
    one, other = (np.load(folder / f"{i}.npz") for i in (0, 1))
    for name in one:
        np.testing.assert_array_equal(one[name], other[name])


def checked(config) -> None:
    pipeline = build_pipeline(config)
    pipeline._feed.check(pipeline._layout())


def test_a_graph_needs_neighbours(data, graph, tmp_path) -> None:
    config = plain_config(data, tmp_path, graph={"max_neighbors": 2})
    with pytest.raises(ConfigError, match=r"edges.*graph pack"):
        checked(config)
    with pytest.raises(ConfigError, match=r"max_neighbors.*at least 1, found 0"):
        build_pipeline(plain_config(data, tmp_path, graph={"multiplier": 1.0}))
    with pytest.warns(UserWarning, match="no node of .* has more than 3"):
        told = {**graph, "max_neighbors": 9}
        checked(plain_config(data, tmp_path, graph=told))


@pytest.mark.slow
def test_a_run_does_not_go_on_with_another_graph(data, graph, tmp_path) -> None:
    path = tmp_path / "graph.tsv"
    lines = pathlib.Path(graph["edges"]).read_text().splitlines(keepends=True)
    path.write_text("".join(lines))
    config = make_config(
        data, tmp_path / "run", strategy=None, graph={**graph, "edges": str(path)}
    )
    build_pipeline(changed(config, pipeline__num_epochs=1)).train()
    path.write_text("".join(lines[1:]))
    with pytest.raises(ConfigError, match=r"graph graph\.tsv"):
        build_pipeline(changed(config, pipeline__num_epochs=2)).train()


def test_a_missing_value_stays_missing_and_the_others_move() -> None:
    inputs = {"a": tf.keras.Input((3,), name="a")}
    there = tf.where(tf.math.is_nan(inputs["a"]), 0.0, inputs["a"])
    model = tf.keras.Model(inputs, tf.reduce_sum(there, axis=1, keepdims=True))
    batch = {"a": tf.constant([[1.0, 2.0, np.nan]])}
    loss = tf.keras.losses.MeanSquaredError()
    attack = attack_of(0.5, steps=2, norm="l2")
    moved = perturb(model, batch, tf.zeros([1, 1]), loss, attack)["a"].numpy()[0]
    assert np.isnan(moved[2]) and (moved[:2] > [1.0, 2.0]).all()
    assert np.linalg.norm(moved[:2] - [1.0, 2.0]) <= 0.5 + 1e-5


def test_a_graph_of_other_data_is_refused(data, graph, tmp_path) -> None:
    path = tmp_path / "graph.tsv"
    known = pathlib.Path(graph["edges"]).read_text()
    path.write_text(f"{known}other/1\tother/2\t0.5\n")
    config = plain_config(data, tmp_path, graph={**graph, "edges": str(path)})
    with pytest.raises(DataError, match="other/1"):
        checked(config)
    checked(changed(config, pipeline__graph__unknown_ids="skip"))
    described = {"fingerprint": "0" * 32, "nodes": 3}
    (tmp_path / "graph.tsv.json").write_text(json.dumps(described))
    with pytest.raises(DataError, match="another data set"):
        checked(config)


def test_packed_neighbours_need_no_lists_in_memory_and_a_graph_does(
    data, graph, tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr(windowed, "WINDOW", 2_000)
    monkeypatch.setenv("TFR_PIPELINE_CACHE", str(tmp_path / "cache"))
    folder, rules = str(tmp_path / "packed"), Rules(max_nbrs=2)
    source, path = str(data / "train-*"), graph["edges"]
    pack(source, folder, graph=path, rules=rules, output_format="packed")
    config = plain_config(data, tmp_path, graph={**graph, "edges": ""})
    config["data"] |= {
        "dir": None,
        "train": f"{folder}/train-*",
        "valid": str(data / "valid-*"),
        "features": folder,
        "cache": "disk",
    }
    with pytest.raises(ConfigError, match=r"max_neighbors: expected at most 2"):
        checked(config)
    _, batch, step = first_step(changed(config, pipeline__graph__max_neighbors=2))
    assert step["added"] > 0
    assert batch[0]["documents_float32"].nrows() > batch[1].nrows()
    with pytest.raises(ConfigError, match=r"in memory, found them on disk"):
        checked(changed(config, pipeline__graph__edges=path))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"graph": {"max_neighbors": 1, "distance": "l2"}}, "did you mean|distance"),
        ({"graph": {"max_neighbors": 1, "distance_type": "l3"}}, "distance_type"),
        ({"graph": {"max_neighbors": 1, "multiplier": -1}}, "multiplier"),
        ({"graph": {"max_neighbors": 1, "distance_type": "cosine"}}, "sum_over_axis"),
        ({"graph": {"max_neighbors": 1, "unknown_ids": "skip"}}, "without edges"),
        ({"adversarial": {"adv_grad_norm": "l3"}}, "adv_grad_norm"),
        (
            {"adversarial": {"adv_grad_norm": "l1", "pgd_epsilon": 1.0}},
            "no projection",
        ),
        ({"adversarial": {"feature_mask": {"features": 2.0}}}, r"\[0, 1\]"),
        ({"adversarial": {"pgd_iterations": 0}}, "pgd_iterations"),
    ],
)
def test_settings_that_cannot_be_are_refused(data, tmp_path, settings, words):
    with pytest.raises(ConfigError, match=words):
        build_pipeline(plain_config(data, tmp_path, **settings))


def test_what_has_no_effect_or_no_object_is_said(data, graph, tmp_path) -> None:
    config = plain_config(data, tmp_path, graph={**graph, "multiplier": 0})
    with pytest.warns(UserWarning, match="graph: it has no effect"):
        assert build_pipeline(config)._feed._graph is None
    masks = {"feature_mask": {"no_feature": 0.0}}
    pipeline = build_pipeline(plain_config(data, tmp_path, adversarial=masks))
    with pytest.raises(ConfigError, match="no_feature"):
        pipeline._compile(pipeline._layout(), 1)
    told = {**graph, "transform_fn": "softmax"}
    with pytest.raises(ConfigError, match="several numbers a node"):
        first_step(plain_config(data, tmp_path, graph=told))


def test_embeddings_are_perturbed_and_ids_are_not() -> None:
    from tfr_pipeline.regularization.adversary import Adversary, gradients_of
    from tfr_pipeline.regularization.settings import AdversarialSettings

    ids = tf.keras.Input((None, 1), name="clicks", dtype=tf.int64)
    layer = tf.keras.layers.Embedding(9, 2, name="table")
    vectors = tf.reduce_sum(layer(ids), axis=[2, 3])
    model = tf.keras.Model({"clicks": ids}, vectors)
    settings = AdversarialSettings(adv_step_size=0.3, adv_grad_norm="l2")
    adversary = Adversary(model, settings)
    features = {"clicks": tf.constant([[[1], [4]]], tf.int64)}
    points = adversary.points(features)
    assert list(points) == ["embedding_table"]

    def loss_of(moved):
        return -tf.reduce_sum(adversary.scores(model, features, moved))

    gradients = gradients_of(points, loss_of)
    moved = adversary.perturbed(points, loss_of, gradients)
    step = (moved["embedding_table"] - points["embedding_table"]).numpy()
    # Each vector moves by the whole step, down along the sum of its numbers.
    np.testing.assert_allclose(
        step, np.full((1, 2, 1, 2), -0.3 / np.sqrt(2)), rtol=1e-5
    )
