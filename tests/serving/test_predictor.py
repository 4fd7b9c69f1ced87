"""A predictor scores as its model does, or says which data it cannot score."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from tests.ranking_data import CONTEXT_SPEC, EXAMPLE_SPEC, random_lists
from tests.serving.serving_helpers import (
    as_lists,
    make_builder,
    make_signatures,
    randomize,
    rank_inputs,
)
from tfr_pipeline.errors import DataError, RunError
from tfr_pipeline.features import FILE_NAME, Feature, Features
from tfr_pipeline.model.scorers import DNNScorer
from tfr_pipeline.serving.export import export_other_weights, export_saved_model
from tfr_pipeline.serving.predictor import Predictor, load, restore_weights
from tfr_pipeline.serving.signatures import RANK, REGRESS
from tfr_pipeline.serving.versions import find_export

LISTS = random_lists(5, [3, 1, 0, 4])
FEATURES = Features(
    context={name: Feature.from_spec(spec) for name, spec in CONTEXT_SPEC.items()},
    example={name: Feature.from_spec(spec) for name, spec in EXAMPLE_SPEC.items()},
)


@pytest.fixture(scope="module")
def functions():
    return make_signatures(randomize(make_builder().build_packed()))


@pytest.fixture(scope="module")
def predictor(functions, tmp_path_factory):
    path = str(tmp_path_factory.mktemp("run") / "export" / "latest_model" / "7")
    text = json.dumps(FEATURES.to_json())
    return Predictor(
        export_saved_model(functions._model, functions(), path, {FILE_NAME: text})
    )


@pytest.mark.parametrize("documents_a_call", [1, 4, 1000])
def test_lists_are_scored_as_rank_scores_them(
    predictor, functions, monkeypatch, documents_a_call
):
    wanted = functions()[RANK](**rank_inputs(LISTS))["scores"]
    monkeypatch.setattr(
        "tfr_pipeline.serving.predictor._DOCUMENTS_PER_CALL", documents_a_call
    )
    np.testing.assert_allclose(predictor.score(as_lists(LISTS)), wanted, rtol=1e-5)


def test_matrices_are_scored_as_the_features_cut_from_them(predictor):
    assert predictor._module.packed is not None
    lists = as_lists(LISTS)
    np.testing.assert_array_equal(
        predictor.score(lists), predictor.score(lists, predictor.function)
    )


def test_no_lists_and_empty_lists_have_no_scores(predictor):
    lists = as_lists(LISTS)
    assert predictor.score(lists.slice(0, 0)).shape == (0,)
    assert predictor.score(lists.slice(2, 3)).shape == (0,)


def test_the_export_says_its_features(predictor):
    assert predictor.features == FEATURES


def test_the_best_model_of_a_run_or_its_newest_version_is_found(tmp_path):
    def touch(name):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "saved_model.pb").write_bytes(b"")
        return str(tmp_path / name)

    touch("export/latest_model/9")
    latest = touch("export/latest_model/10")
    assert find_export(str(tmp_path)) == latest
    assert find_export(str(tmp_path / "export" / "latest_model")) == latest
    assert find_export(latest) == latest
    best = touch("export/best_model_by_metric/3")
    assert find_export(str(tmp_path)) == best


@pytest.mark.parametrize("exists", [True, False])
def test_a_folder_without_model_is_named(tmp_path, exists):
    path = tmp_path / "none"
    if exists:
        path.mkdir()
    with pytest.raises(DataError, match=f"{path}: expected a SavedModel"):
        Predictor(str(path))


def test_a_damaged_model_is_named(tmp_path):
    (tmp_path / "saved_model.pb").write_bytes(b"\xff\xff not a model")
    with pytest.raises(DataError, match="cannot load the model"):
        Predictor(str(tmp_path))


def test_a_model_of_others_is_refused(functions, tmp_path):
    path = str(tmp_path / "foreign")
    regress = {REGRESS: functions()[REGRESS]}
    export_saved_model(functions._model, regress, path)
    with pytest.raises(DataError, match=r"expected a signature 'rank'.*found.*regress"):
        Predictor(path)
    export_saved_model(functions._model, functions(), path)
    with pytest.raises(DataError, match=r"features\.json: not found"):
        Predictor(path)


@pytest.mark.parametrize("width", [5, None])
def test_data_of_another_width_is_refused(predictor, width):
    lists = as_lists(LISTS)
    if width is None:
        del lists.values["float32"]
    else:
        lists.values["float32"] = lists.values["float32"][:, :width]
    words = rf"expects 8 float32 columns.*the data has {width}"
    with pytest.raises(DataError, match=words):
        predictor.score(lists)


def test_data_without_a_query_feature_is_refused(predictor):
    lists = as_lists(LISTS)
    del lists.context["query_vector"]
    with pytest.raises(DataError, match=r"query feature 'query_vector'.*query_length"):
        predictor.score(lists)


def test_a_score_that_is_no_number_names_its_query(predictor):
    lists = as_lists(LISTS)
    lists.values["float32"][3, 0] = np.nan  # the one document of q1
    with pytest.raises(
        RunError, match="score of a document of query 'q1', document 'd3' is nan"
    ):
        predictor.score(lists)


def test_an_export_with_other_weights_is_one_like_any_other(tmp_path):
    signatures = make_signatures(randomize(make_builder().build_packed(), 3))
    model, text = signatures._model, json.dumps(FEATURES.to_json())
    functions = signatures()
    first = export_saved_model(model, functions, str(tmp_path / "1"), {FILE_NAME: text})
    before = functions[RANK](**rank_inputs(LISTS))["scores"].numpy()
    randomize(model, 4)
    second = export_other_weights(model.variables, first, str(tmp_path / "2"))
    after = functions[RANK](**rank_inputs(LISTS))["scores"].numpy()
    assert np.abs(before - after).max() > 0.01
    lists = as_lists(LISTS)
    for path, scores in ((first, before), (second, after)):
        found = Predictor(path).score(lists)
        np.testing.assert_allclose(found, scores, rtol=1e-5, atol=1e-6)
    module = load(first)
    restore_weights(module, second)
    predictor = Predictor(second, module=module)
    np.testing.assert_allclose(predictor.score(lists), after, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["index", "data-00000-of-00001"])
def test_an_export_made_of_a_cut_one_is_refused(predictor, tmp_path, name):
    shutil.copytree(predictor.path, tmp_path / "1")
    path = tmp_path / "1" / "variables" / f"variables.{name}"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(RunError, match=f"{tmp_path}/1/variables.* cannot be read"):
        export_other_weights([], str(tmp_path / "1"), str(tmp_path / "2"))
    assert not (tmp_path / "2").exists()


def test_weights_of_another_model_are_refused(predictor, tmp_path):
    signatures = make_signatures(
        make_builder(scorer=DNNScorer(hidden_layer_dims=[7])).build_packed()
    )
    other = export_saved_model(signatures._model, {}, str(tmp_path / "1"))
    with pytest.raises(DataError, match="cannot load the weights"):
        restore_weights(load(predictor.path), other)
