"""Trials on TensorBoard's page of hyperparameters."""

from __future__ import annotations

import os
import threading

import pytest
from tensorboard.plugins.hparams import api_pb2

from tests.sweep import studies
from tests.sweep.studies import PRUNED, RUNNING
from tfr_pipeline.sweep import standing, tensorboard

optuna = pytest.importorskip("optuna")


def shown(folder):
    """Returns what TensorBoard finds in a folder: sessions by their names."""
    from tensorboard.backend.event_processing import (
        data_provider,
        plugin_event_multiplexer,
    )
    from tensorboard.context import RequestContext
    from tensorboard.plugins import base_plugin
    from tensorboard.plugins.hparams import (
        backend_context,
        list_session_groups,
    )

    multiplexer = plugin_event_multiplexer.EventMultiplexer()
    multiplexer.AddRunsFromDirectory(str(folder))
    multiplexer.Reload()
    provider = data_provider.MultiplexerDataProvider(multiplexer, str(folder))
    context = backend_context.Context(
        base_plugin.TBContext(logdir=str(folder), data_provider=provider)
    )
    request = RequestContext()
    found = context.experiment_from_metadata(
        request,
        "",
        True,
        context.hparams_metadata(request, ""),
        context.hparams_from_data_provider(request, "", None),
    )
    names = {info.name for info in found.hparam_infos}
    metrics = {info.name.tag for info in found.metric_infos}
    asked = api_pb2.ListSessionGroupsRequest(
        allowed_statuses=[
            api_pb2.STATUS_UNKNOWN,
            api_pb2.STATUS_SUCCESS,
            api_pb2.STATUS_FAILURE,
        ],
        start_index=0,
        slice_size=100,
    )
    groups = list_session_groups.Handler(request, context, "", asked).run()
    return names, metrics, {group.name: group for group in groups.session_groups}


def value_of(found):
    return getattr(found, found.WhichOneof("kind"))


def test_finished_trials_are_sessions_with_point_and_value(tmp_path):
    folder = tmp_path / "study"
    study = studies.make(folder, [0.5, None, PRUNED, 0.75, RUNNING], trials=9)
    for _ in range(2):
        tensorboard.write_missing(standing.find(str(folder)))
    names, metrics, sessions = shown(folder)
    assert sorted(sessions) == ["00000", "00001", "00002", "00003"]
    assert metrics == {"ndcg@10"}
    points = [trial.user_attrs["point"] for trial in study.optuna.trials]
    assert names == {path for point in points[:4] for path in point}
    for number, value in ((0, 0.5), (1, None), (2, None), (3, 0.75)):
        group, point = sessions[f"{number:05d}"], points[number]
        assert set(group.hparams) == set(point)
        rate = value_of(group.hparams["pipeline.learning_rate"])
        assert rate == point["pipeline.learning_rate"]
        dims = value_of(group.hparams["model.scorer_args.hidden_layer_dims"])
        assert dims == str(list(point["model.scorer_args.hidden_layer_dims"]))
        found = [metric.value for metric in group.metric_values]
        assert found == ([] if value is None else [value])
        failed = group.sessions[0].status == api_pb2.STATUS_FAILURE
        assert failed == (number == 1)


def test_workers_that_write_at_once_write_each_trial_once(tmp_path):
    folder = tmp_path / "study"
    studies.make(folder, [0.5] * 6)
    found = standing.find(str(folder))
    threads = [
        threading.Thread(target=tensorboard.write_missing, args=(found,))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    logs = folder / "logs"
    assert sorted(os.listdir(logs)) == [f"{number:05d}" for number in range(6)]
    assert all(len(os.listdir(logs / name)) == 1 for name in os.listdir(logs))
