"""A whole project whose features are kept in 16 bits, from text to ranking."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from tests.cli.command_helpers import Project
from tests.cli.test_predict import scored_rows
from tests.pipeline.training_helpers import make_config, read_json
from tfr_pipeline.cli.doctor import check_data
from tfr_pipeline.cli.main import main
from tfr_pipeline.data.convert.narrow import rounded
from tfr_pipeline.experiment.build import build_pipeline
from tfr_pipeline.features import Features
from tfr_pipeline.pipeline.datasets.hparams import DatasetHparams
from tfr_pipeline.pipeline.datasets.multi_label import builder_from_features
from tfr_pipeline.pipeline.run.diagnosis import explain_non_finite
from tfr_pipeline.serving.predictor import Predictor


@dataclasses.dataclass(frozen=True)
class Narrow(Project):
    """A project with data of one dtype."""

    dtype: str = ""


@pytest.fixture(
    scope="module", params=[pytest.param("float16", marks=pytest.mark.slow), "bfloat16"]
)
def narrow(request, project, tmp_path_factory) -> Narrow:
    """The text of the project in packed files of 16 bits, and a model of them."""
    found = Narrow(tmp_path_factory.mktemp(request.param), request.param)
    for split in ("train", "valid", "test"):
        words = [f"--input={project.text}/{split}.txt", f"--split={split}"]
        words += [f"--output={found.data}", "--output_format=packed"]
        assert main(["convert", *words, f"--feature_dtype={found.dtype}"]) == 0
    assert main(["train", *found.train_flags(found.run)]) == 0
    return found


def lists_of(narrow, split="test"):
    features = Features.load(str(narrow.data))
    hparams = DatasetHparams("", f"{narrow.data}/{split}-*", 1, 1)
    return builder_from_features(features, hparams).lists("valid", "packed")


def test_a_model_scores_narrow_lists_as_those_that_were_rounded(narrow, project):
    predictor = Predictor(str(narrow.run))
    assert predictor.features.feature_dtype == narrow.dtype
    lists = lists_of(narrow)
    assert lists.values["float32"].dtype.name == narrow.dtype
    wide = lists_of(project)  # of ELWC
    block = rounded(wide.values["float32"], narrow.dtype)[0]
    as_float32 = dataclasses.replace(wide, values={"float32": block})
    np.testing.assert_array_equal(predictor.score(lists), predictor.score(as_float32))


def test_evaluations_of_a_run_and_of_the_command_agree(narrow, tmp_path, capsys):
    output = tmp_path / "out.json"
    words = [f"--model={narrow.run}", f"--data={narrow.data}/test-*", "--baselines"]
    assert main(["evaluate", *words, f"--output={output}"]) == 0
    found = read_json(output)
    of_run = read_json(narrow.run / "metrics.json")["test"]["ndcg@10"]
    assert found["ndcg@10"] == of_run
    assert found["baselines"]["best feature"]["ndcg@10"]["skip"] > 0
    assert "best feature:" in capsys.readouterr().out


def test_predict_ranks_packed_files_of_16_bits_and_text_alike(
    narrow, project, tmp_path
):
    outputs = []
    for source, input_format in (
        (f"{narrow.data}/test-*", "packed"),
        (f"{project.text}/test.txt", "libsvm"),
    ):
        output = tmp_path / f"{input_format}.tsv"
        words = [f"--model={narrow.run}", f"--input={source}", f"--output={output}"]
        assert main(["predict", *words, f"--input_format={input_format}"]) == 0
        rows = scored_rows(output)
        outputs.append({(query, name): score for query, name, _, score in rows})
    packed, text = outputs
    assert packed.keys() == text.keys()
    # The text was not rounded.
    scores = np.array([[packed[key], text[key]] for key in packed])
    spread = np.ptp(scores[:, 1])
    assert 0 < np.abs(scores[:, 0] - scores[:, 1]).max() < 0.05 * spread


def test_doctor_says_what_the_files_hold(narrow):
    found = {finding.what: finding for finding in check_data(str(narrow.data))}
    assert f"packed of {narrow.dtype}, " in found["data: features.json"].found


def test_conversion_of_packed_files_is_refused(narrow, tmp_path, capsys):
    words = [f"--input={narrow.data}/test-*", f"--output={tmp_path / 'out'}"]
    assert main(["convert", *words, "--input_format=packed"]) == 2
    assert "packed" in capsys.readouterr().err


def test_elwc_of_16_bits_is_wrong_usage(project, tmp_path, capsys):
    words = [f"--input={project.text}/test.txt", f"--output={tmp_path / 'out'}"]
    assert main(["convert", *words, "--feature_dtype=float16"]) == 2
    assert "needs --output_format=packed" in capsys.readouterr().err


def test_a_description_of_narrow_data_does_not_make_elwc_narrow(
    narrow, project, tmp_path
):
    out = tmp_path / "out"
    words = [f"--input={project.data}/test-*", f"--output={out}", "--split=test"]
    words += ["--input_format=elwc", f"--features={narrow.data}"]
    assert main(["convert", *words]) == 0
    content = json.loads((out / "features.json").read_text())
    assert content["data_format"] == "elwc" and "feature_dtype" not in content


def test_the_largest_feature_of_a_step_is_named(narrow, tmp_path):
    pipeline = build_pipeline(make_config(narrow.data, tmp_path / "run"))
    builder = pipeline._dataset_builder
    lists = builder.lists("train", "packed")
    query = builder.plan("train", "packed").batch_of_step(3)[-1]
    lists.values["float32"][lists.row_splits[query + 1] - 1, 2] = -65504
    message = explain_non_finite(pipeline._model_builder, builder, "packed", 1, 3)
    size = "65504" if narrow.dtype == "float16" else "65536"
    place = f"{size}, in query {lists.query_ids[query]!r}"
    assert f"; its largest feature is {place}" in message
