"""`convert --embed`: vectors that a module makes of texts, stored as features."""

from __future__ import annotations

import numpy as np
import pytest

from tfr_pipeline.cli.main import main
from tfr_pipeline.compat import hub, tf
from tfr_pipeline.data.convert import embed
from tfr_pipeline.data.convert.conversion import convert
from tfr_pipeline.errors import ConfigError, DataError
from tfr_pipeline.features import Feature, Features
from tfr_pipeline.pipeline.datasets.hparams import DatasetHparams
from tfr_pipeline.pipeline.datasets.simple import SimpleDatasetBuilder

TITLES = ["red shoes", "a hat", "", "red shoes", "the dog"]
QUERIES = ["shoes", "shoes", "shoes", "dog", "dog"]


@pytest.fixture
def table(tmp_path):
    """CSV of two queries and five documents."""
    path = tmp_path / "table.csv"
    rows = [
        f"q{QUERIES.index(query)},{i % 2},{query},{title},{i}.5"
        for i, (query, title) in enumerate(zip(QUERIES, TITLES, strict=True))
    ]
    path.write_text("\n".join(["qid,label,query,title,price", *rows]) + "\n")
    return str(path)


def lists_of(folder, split="train"):
    """Returns the description and the lists of a converted split."""
    features = Features.load(str(folder))
    hparams = DatasetHparams(
        train_input_pattern=f"{folder}/{split}-*",
        valid_input_pattern="",
        train_batch_size=2,
        valid_batch_size=2,
    )
    builder = SimpleDatasetBuilder.from_features(features, hparams)
    return features, builder.lists("train")


def vectors_of(module, texts):
    return hub.load(module)(tf.constant(texts)).numpy()


@pytest.mark.parametrize("output_format", ["elwc", "packed"])
def test_vectors_take_the_place_of_texts(table, text_module, tmp_path, output_format):
    folder = tmp_path / "out"
    code = main(
        [
            "convert",
            f"--input={table}",
            "--input_format=csv",
            f"--output={folder}",
            f"--output_format={output_format}",
            "--context_columns=query",
            f"--embed=title={text_module}",
            f"--embed=query={text_module}",
        ]
    )
    assert code == 0
    features, lists = lists_of(folder)
    assert features.example["title"] == Feature("float32", (512,), 0.0)
    assert features.context["query"] == Feature("float32", (512,), 0.0)
    # Features stand in the order of their names.
    found = lists.values["float32"]
    np.testing.assert_array_equal(found[:, 0], [0.5, 1.5, 2.5, 3.5, 4.5])
    np.testing.assert_allclose(found[:, 1:], vectors_of(text_module, TITLES), rtol=1e-6)
    np.testing.assert_allclose(
        lists.context["query"], vectors_of(text_module, ["shoes", "dog"]), rtol=1e-6
    )


def test_texts_are_kept_beside_vectors_of_another_name(table, text_module, tmp_path):
    folder = str(tmp_path / "out")
    told = [f"title:title_vector={text_module}"]
    convert(table, folder, input_format="csv", embed=told)
    features, lists = lists_of(folder)
    assert features.example["title"].dtype == "string"
    found = lists.loose["title"].plain_values.tolist()
    assert found == [t.encode() for t in TITLES]
    np.testing.assert_allclose(
        lists.values["float32"][:, -512:], vectors_of(text_module, TITLES), rtol=1e-6
    )


def test_records_with_texts_are_embedded_too(table, text_module, tmp_path):
    texts, folder = str(tmp_path / "texts"), str(tmp_path / "out")
    convert(
        table,
        texts,
        input_format="csv",
        options=None,
        embed=[f"title:vector={text_module}"],
    )
    convert(
        f"{texts}/train-*",
        folder,
        input_format="elwc",
        output_format="packed",
        embed=[f"title={text_module}"],
    )
    features, lists = lists_of(folder)
    names = sorted(features.example)
    assert {"title", "vector"} <= {*names}
    values = np.split(lists.values["float32"], [1, 513], axis=1)
    np.testing.assert_array_equal(values[1], values[2])


def test_each_text_is_encoded_once(table, text_module, tmp_path, monkeypatch):
    encoded = []
    original = embed._Encoder._encoded

    def counting(self, texts):
        encoded.extend(texts)
        return original(self, texts)

    monkeypatch.setattr(embed._Encoder, "_encoded", counting)
    embed._encoder.cache_clear()
    convert(
        table, str(tmp_path / "out"), input_format="csv", embed=[f"title={text_module}"]
    )
    # The first, to know how long vectors are.
    assert sorted(encoded[1:]) == sorted({title.encode() for title in TITLES})


def test_little_memory_is_enough(text_module, monkeypatch):
    monkeypatch.setattr(embed, "_KEPT_BYTES", 3 * 512 * 4)
    encoder = embed._Encoder(text_module)
    for texts in (["a", "b"], ["b", "c"], ["a", "d", "e", "f"], ["a", "a"]):
        expected = vectors_of(text_module, texts)
        np.testing.assert_allclose(encoder(texts), expected, rtol=1e-6)
        assert len(encoder._known) <= 4


def test_another_split_needs_the_same_vectors(table, text_module, tmp_path):
    folder = str(tmp_path / "out")
    told = [f"title={text_module}"]
    convert(table, folder, input_format="csv", embed=told)
    convert(table, folder, input_format="csv", split="valid", embed=told)
    with pytest.raises(DataError):
        convert(table, folder, input_format="csv", split="test")
    with pytest.raises(DataError, match="--embed: expected"):
        other = [f"title={text_module}/"]
        convert(table, folder, input_format="csv", split="test", embed=other)


def test_what_cannot_be_embedded_is_refused(table, text_module, tmp_path):
    def refused(message, told, **settings):
        with pytest.raises(ConfigError, match=message):
            convert(
                table,
                str(tmp_path / "out"),
                input_format="csv",
                embed=[told],
                **settings,
            )
        assert not (tmp_path / "out").exists()

    refused("expected a text feature and a module", "title")
    refused("expected a text feature and a module", f"title:={text_module}")
    refused("unknown", f"titel={text_module}")
    refused("there is a feature 'features' already", f"query:features={text_module}")
    refused("found nothing there", f"title={tmp_path}/none")
