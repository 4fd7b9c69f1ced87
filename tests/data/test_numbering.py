"""Columns of LibSVM text go to the features that they had in training, by name."""

from __future__ import annotations

import numpy as np
import pytest

from tests.data.conversion_helpers import sample_text, write
from tests.serving.serving_helpers import export_untrained
from tfr_pipeline.cli.main import main
from tfr_pipeline.data.convert.conversion import convert
from tfr_pipeline.data.lists import Lists
from tfr_pipeline.data.sources.numbering import Numbering
from tfr_pipeline.data.sources.options import Options
from tfr_pipeline.data.sources.source import read_lists
from tfr_pipeline.errors import DataError
from tfr_pipeline.features import Feature, Features
from tfr_pipeline.pipeline.datasets.hparams import DatasetHparams
from tfr_pipeline.pipeline.datasets.simple import SimpleDatasetBuilder

WIDTH = 12  # in the order of names, the tenth column comes after the first


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    return write(folder / "test.txt", sample_text(queries=5, features=WIDTH))


def numbered(features, path):
    """Reads text with its columns where a model of these features has them."""
    numbering = Numbering.of(features)
    options = Options(num_features=numbering.num_features)
    parts = read_lists(path, "libsvm", options=options)
    return Lists.concatenate([numbering.apply(part) for part in parts])


@pytest.mark.parametrize("output_format", ["elwc", "packed"])
@pytest.mark.parametrize("scalar", [True, False])
def test_text_has_the_columns_that_training_reads(
    text, tmp_path, scalar, output_format
):
    convert(text, str(tmp_path), scalar_features=scalar, output_format=output_format)
    features = Features.load(str(tmp_path))
    hparams = DatasetHparams(f"{tmp_path}/train-*", "", 4, 4)
    builder = SimpleDatasetBuilder.from_features(features, hparams)
    np.testing.assert_array_equal(
        numbered(features, text).values["float32"],
        builder.lists("train", "packed").values["float32"],
    )


def test_documents_of_text_get_the_scores_of_the_same_documents_in_records(
    text, tmp_path, capsys
):
    convert(text, str(tmp_path / "data"), split="test", scalar_features=True)
    model = export_untrained(Features.load(str(tmp_path / "data")), tmp_path / "1")
    outputs = []
    for kind, source in (("libsvm", text), ("elwc", f"{tmp_path}/data/test-*")):
        output = tmp_path / kind
        words = [f"--model={model}", f"--input={source}", f"--output={output}"]
        assert main(["predict", *words, f"--input_format={kind}"]) == 0
        outputs.append(output.read_text())
    assert outputs[0] == outputs[1]


def test_columns_with_other_names_are_counted_in_the_order_of_the_description(text):
    one = Feature("float32", (1,), 0.0)
    vector = Feature("float32", (2,), 0.0, columns=("x", "y"))
    features = Features(example={"z": one, "v": vector, "a": one})
    numbering = Numbering.of(features)
    # The matrix has a, v, z; the text z, v, a.
    assert numbering.columns.tolist() == [3, 1, 2, 0]


def test_chosen_columns_keep_their_numbers(text):
    one = Feature("float32", (1,), 0.0)
    names = ("feature_10", "feature_2", "feature_12")
    features = Features(example=dict.fromkeys(names, one))
    whole = np.concatenate([p.values["float32"] for p in read_lists(text, "libsvm")])
    found = numbered(features, text).values["float32"]
    np.testing.assert_array_equal(found, whole[:, [9, 11, 1]])


def test_features_that_text_cannot_have_are_named():
    features = Features(example={"title": Feature("string", (), None, "ragged")})
    with pytest.raises(DataError, match=r"the model also takes title.*--input_format"):
        Numbering.of(features)


# Columns that have no names in the files


def converted(folder, order, **kwargs):
    """Writes a table with its columns in an order; returns the folder."""
    rows = ["label,qid," + ",".join(order), "1,1,1,2", "0,1,3,4", "1,2,5,6"]
    path = write(folder.with_suffix(".csv"), "\n".join(rows) + "\n")
    convert(path, str(folder), input_format="csv", report=print, **kwargs)
    return folder


def lists_of(folder, features):
    hparams = DatasetHparams(f"{folder}/train-*", "", 4, 4)
    return SimpleDatasetBuilder.from_features(features, hparams).lists(
        "train", "packed"
    )


def test_a_vector_with_its_columns_in_another_order_is_refused(tmp_path):
    first = converted(tmp_path / "first", ["bm25", "pagerank"])
    second = converted(tmp_path / "second", ["pagerank", "bm25"])
    features = Features.load(str(first))
    assert lists_of(first, features).num_lists == 2
    words = r"second/features.json: feature 'features': expected 'bm25' in column 0, "
    with pytest.raises(DataError, match=words + "found 'pagerank'"):
        lists_of(second, features)


def test_packed_files_of_other_features_are_refused(tmp_path):
    kwargs = {"output_format": "packed", "scalar_features": True}
    first = converted(tmp_path / "first", ["bm25", "pagerank"], **kwargs)
    other = converted(tmp_path / "other", ["bm25", "clicks"], **kwargs)
    again = converted(tmp_path / "again", ["pagerank", "bm25"], **kwargs)
    features = Features.load(str(first))
    words = r"other/features.json: expected packed files of bm25 .*pagerank.*clicks"
    with pytest.raises(DataError, match=words):
        lists_of(other, features)
    # Single columns stand by name, whatever the order of the table.
    matrix = lists_of(again, features).values["float32"]
    np.testing.assert_array_equal(matrix, [[2, 1], [4, 3], [6, 5]])


@pytest.mark.parametrize("kind", ["elwc", "packed"])
def test_prediction_refuses_columns_of_another_order(tmp_path, kind, capsys):
    kwargs = {"output_format": kind}
    first = converted(tmp_path / "first", ["bm25", "pagerank"], **kwargs)
    second = converted(tmp_path / "second", ["pagerank", "bm25"], **kwargs)
    model = export_untrained(Features.load(str(first)), tmp_path / "1")
    words = [f"--model={model}", f"--output={tmp_path}/o", f"--input_format={kind}"]
    assert main(["predict", *words, f"--input={first}/train-*"]) == 0
    assert main(["predict", *words, f"--input={second}/train-*"]) == 1
    assert "expected 'bm25' in column 0" in capsys.readouterr().err
