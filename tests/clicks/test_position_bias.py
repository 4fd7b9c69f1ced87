"""Training on clicks: what positions do in training, and that serving knows of none."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tests.pipeline.training_helpers import make_config
from tfr_pipeline.clicks.simulation import Sessions, simulate_files
from tfr_pipeline.compat import tf
from tfr_pipeline.errors import ConfigError, DataError
from tfr_pipeline.experiment.build import build_pipeline
from tfr_pipeline.features import Features
from tfr_pipeline.model.position_bias import PositionBias, PositionSettings

SMALL = {"hidden_layer_dims": [4], "activation": "relu"}


@pytest.fixture(scope="module")
def sessions(graded, tmp_path_factory):
    """Folder of 60 sessions for training and for validation."""
    folder = tmp_path_factory.mktemp("sessions")
    for split in ("train", "valid"):
        kind = Sessions(60, depth=5, noise=0.4)
        words = {"ranker": "weak,random", "sessions": kind, "split": split}
        simulate_files(str(graded), str(folder), report=lambda line: None, **words)
    return folder


def config_of(folder, model_dir, loss="softmax_loss", **bias):
    config = make_config(folder, model_dir, loss=loss, num_epochs=2)
    config["model"]["scorer_args"] = SMALL
    config["model"]["position_bias"] = bias
    return config


@pytest.fixture(scope="module")
def tower(sessions, tmp_path_factory):
    """A whole run with a tower of positions, and its model."""
    folder = tmp_path_factory.mktemp("tower")
    config = config_of(sessions, folder / "run", num_positions=5, dropout=0.1)
    return folder / "run", build_pipeline(config).train_and_validate()


def test_the_tower_learns_and_the_export_has_neither_position_nor_tower(tower):
    run, model = tower
    assert np.abs(model.position_bias.table.numpy()).max() > 1e-3
    export = run / "export" / "latest_model"
    loaded = tf.saved_model.load(str(export))
    for signature in loaded.signatures.values():
        assert "position" not in signature.structured_input_signature[1]
    assert (5,) not in [tuple(v.shape) for v in loaded.weights]
    described = Features.load(str(next(run.rglob("assets.extra"))))
    assert "position" not in described.example


def test_served_scores_do_not_change_with_the_position(tower):
    loaded = tf.saved_model.load(str(tower[0] / "export" / "latest_model"))
    serve = loaded.signatures["serving_default"]
    first, second = (
        next(iter(serve(inputs=tf.constant([_example(place)])).values())).numpy()
        for place in (1, 5)
    )
    np.testing.assert_array_equal(first, second)


def _example(position):
    example = tf.train.Example()
    example.features.feature["features"].float_list.value.extend(np.arange(8.0))
    example.features.feature["position"].int64_list.value.append(position)
    return example.SerializeToString()


def test_a_run_that_has_ended_restores_the_tower_it_had(tower, sessions):
    run, model = tower
    config = config_of(sessions, run, num_positions=5, dropout=0.1)
    again = build_pipeline(config).train()
    np.testing.assert_array_equal(
        again.position_bias.table.numpy(), model.position_bias.table.numpy()
    )


def test_the_em_loss_has_examination_beside_the_score(sessions, tmp_path):
    config = config_of(
        sessions, tmp_path / "run", "click_em_loss", method="em", num_positions=5
    )
    model = build_pipeline(config).train()
    table = model.position_bias.table.numpy()
    assert np.abs(table).max() > 1e-3
    assert model.output.shape.rank == 2  # one score a document


def test_a_position_without_a_propensity_is_an_error(sessions, tmp_path):
    config = config_of(
        sessions, tmp_path / "run", method="ips", propensities=(1.0, 0.5)
    )
    told = r"a propensity for the position of each click.*found: [3-5]\. Mend the data"
    with pytest.raises(DataError, match=told):
        build_pipeline(config).train()
    with pytest.raises(DataError, match=told):
        build_pipeline(config).dry_run()


def test_padded_and_packed_batches_have_the_same_loss_parts():
    bias = PositionBias("tower", [0.5, -0.5, 0.1])
    clicks = [[1.0, 0.0], [1.0]]
    scores, places = [[0.3, 0.1], [0.2]], [[1.0, 3.0], [7.0]]
    packed, _ = bias.for_loss(
        *map(tf.ragged.constant, (clicks, scores, places)), training=True
    )
    padded, _ = bias.for_loss(
        [[1.0, 0.0], [1.0, -1.0]],
        [[0.3, 0.1], [0.2, 0.0]],
        [[1.0, 3.0], [7.0, 0.0]],
        training=True,
    )
    expected = [0.8, 0.2, 0.3]  # the last position stands for those below it
    np.testing.assert_allclose(packed.flat_values, expected, rtol=1e-6)
    np.testing.assert_allclose(padded.numpy().ravel()[:3], expected, rtol=1e-6)


def test_validation_lists_without_positions_are_judged_without_bias():
    bias = PositionBias("tower", [0.5, -0.5])
    scores, weights = bias.for_loss([[1.0]], [[0.3]], [[0.0]], training=False)
    assert weights is None
    np.testing.assert_allclose(scores, [[0.3]])
    with pytest.raises(tf.errors.InvalidArgumentError, match="a position from 1 on"):
        bias.for_loss([[1.0]], [[0.3]], [[0.0]], training=True)


def test_weights_of_clicks_are_one_over_propensities_up_to_the_largest():
    settings = PositionSettings(
        method="ips", propensities=(1.0, 0.5, 0.01), largest_weight=5.0
    )
    bias = PositionBias.of(settings)
    places = [[1.0, 2.0, 3.0, 2.0]]
    _, weights = bias.for_loss([[1.0, 1.0, 1.0, 0.0]], [[0.0] * 4], places, True)
    np.testing.assert_allclose(weights, [[1.0, 2.0, 5.0, 1.0]])


@pytest.mark.parametrize(
    ("bias", "message"),
    [
        ({"method": "towr"}, "did you mean 'tower'"),
        ({"feature": "postion"}, "did you mean 'position'"),
        ({"feature": "feature_1"}, "--types=feature_1:integer"),
        ({"feature": "features"}, "expected one number a document"),
        ({"positions": 3}, "unknown key 'positions'"),
        ({"num_positions": 0}, "num_positions: expected"),
        ({"dropout": 1.0}, "dropout: expected"),
        ({"method": "em", "dropout": 0.1}, "dropout: it has no effect"),
        ({"method": "ips"}, "propensities: expected with method='ips'"),
        ({"propensities": (1.0,)}, "propensities: expected with method='ips'"),
        ({"method": "em"}, "click_em_loss"),
    ],
)
def test_settings_that_cannot_be_are_refused(bias, message, sessions, tmp_path):
    with pytest.raises(ConfigError, match=message):
        build_pipeline(config_of(sessions, tmp_path / "run", **bias)).train()


@pytest.mark.parametrize("content", ["[]", '{"propensities": [1, 0]}', "{}", "{"])
def test_a_file_of_something_else_is_refused(content, tmp_path):
    path = tmp_path / "propensities.json"
    path.write_text(content)
    with pytest.raises(DataError, match=r"propensities\.json"):
        PositionSettings(method="ips", propensities=str(path)).table()


def test_data_with_weights_is_refused(sessions):
    described = json.loads((sessions / "features.json").read_text())
    described["weight"] = {"name": "w", "dtype": "float32", "shape": [1]}
    with pytest.raises(ConfigError, match="found document weights"):
        PositionSettings().taken_from(Features.from_json(described))


def test_sessions_of_a_query_are_in_one_fold(sessions, tmp_path):
    config = config_of(sessions, tmp_path / "run", num_positions=5)
    config["data"].update(valid=None, folds=3, fold=1)
    with pytest.raises(ConfigError, match=r"data\.sessions: expected true"):
        build_pipeline(config)
    config["data"]["sessions"] = True
    builder = build_pipeline(config)._dataset_builder
    train, valid = (
        {query.rpartition("/")[0] for query in builder.lists(split, "packed").query_ids}
        for split in ("train", "valid")
    )
    assert train and valid and not train & valid


def test_training_with_a_graph_is_refused(sessions, tmp_path):
    config = config_of(sessions, tmp_path / "run")
    config["pipeline"]["adversarial"] = {"multiplier": 0.1}
    with pytest.raises(ConfigError, match=r"without pipeline\.adversarial"):
        build_pipeline(config)
