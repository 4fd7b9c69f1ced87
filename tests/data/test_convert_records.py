"""TFRecord files of other programs become files that hold the same lists."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tests.data.format_helpers import records, with_loose_features, write_format
from tests.ranking_data import CONTEXT_SPEC, EXAMPLE_SPEC, random_lists, write
from tfr_pipeline.cli.main import main
from tfr_pipeline.compat import tf
from tfr_pipeline.data.convert.conversion import convert
from tfr_pipeline.data.reading.record_reader import RecordReader
from tfr_pipeline.data.sources.options import Options
from tfr_pipeline.data.sources.source import read_lists
from tfr_pipeline.errors import ConfigError, DataError
from tfr_pipeline.features import Feature, Features
from tfr_pipeline.pipeline.datasets.hparams import DatasetHparams
from tfr_pipeline.pipeline.datasets.multi_label import MultiLabelDatasetBuilder
from tfr_pipeline.pipeline.datasets.simple import SimpleDatasetBuilder

LENGTHS = [3, 1, 4, 2]
FORMATS = ("elwc", "eie", "seq", "example")
OPTIONS = {"label_column": "relevance", "weight_column": "weight"}
NUMERIC = tuple(EXAMPLE_SPEC)


def lists_of(folder, split="train"):
    """Returns the converted lists as training reads them."""
    features = Features.load(str(folder))
    hparams = DatasetHparams("", f"{folder}/{split}-*", 2, 2)
    return SimpleDatasetBuilder.from_features(features, hparams).lists("valid")


def run(path, output, input_format, output_format="elwc", **options):
    return convert(
        path,
        str(output),
        input_format=input_format,
        output_format=output_format,
        options=Options(**{**OPTIONS, **options}),
        report=lambda line: None,
    )


def columns(data_format):
    """Says which features belong to the query where the format does not."""
    names = tuple(CONTEXT_SPEC) if data_format == "example" else ()
    return {"context_columns": names}


@pytest.mark.parametrize("output_format", ["elwc", "packed"])
@pytest.mark.parametrize("data_format", FORMATS)
def test_converted_lists_are_those_of_the_input(tmp_path, data_format, output_format):
    lists = random_lists(0, LENGTHS)
    path = write_format(tmp_path / "in", lists, data_format, "GZIP")
    stats = run(
        path, tmp_path / "out", data_format, output_format, **columns(data_format)
    )
    assert (stats["queries"], stats["documents"]) == (len(LENGTHS), sum(LENGTHS))
    features = Features.load(str(tmp_path / "out"))
    assert features.data_format == output_format
    assert set(features.example) == set(EXAMPLE_SPEC)
    assert set(features.context) == set(CONTEXT_SPEC)
    found = lists_of(tmp_path / "out")
    assert found.query_ids.tolist() == [f"q{i}" for i in range(len(LENGTHS))]
    assert found.lengths.tolist() == LENGTHS
    documents = [d for ranked in lists for d in ranked.documents]
    names = {"float32": ["bm25", "embedding", "grid"]}
    names["int64"] = ["age", "clicks"]
    for dtype, group in names.items():
        wanted = [np.concatenate([np.ravel(d[n]) for n in group]) for d in documents]
        np.testing.assert_array_equal(found.values[dtype], wanted)
    for column, name in ((found.labels, "relevance"), (found.weights, "weight")):
        wanted = [np.ravel(document[name])[0] for document in documents]
        np.testing.assert_array_equal(column, wanted)
    for name in CONTEXT_SPEC:
        wanted = [ranked.context[name] for ranked in lists]
        np.testing.assert_array_equal(found.context[name], wanted)


@pytest.mark.parametrize("data_format", ["elwc", "eie", "seq"])
def test_texts_and_lists_of_values_are_kept(tmp_path, data_format):
    lists = with_loose_features(random_lists(1, [9] * 6))
    path = write_format(tmp_path / "in", lists, data_format)
    run(path, tmp_path / "out", data_format)
    found = lists_of(tmp_path / "out")
    documents = [d for ranked in lists for d in ranked.documents]
    for name in ("title", "terms", "scores", "pair"):
        assert [found.loose[name].row(i).tolist() for i in range(54)] == [
            np.asarray(d[name]).tolist() for d in documents
        ]
    for name in ("query", "days"):
        assert [found.loose_context[name].row(i).tolist() for i in range(6)] == [
            np.asarray(ranked.context[name]).tolist() for ranked in lists
        ]


def test_statistics_name_the_columns(tmp_path):
    lists = random_lists(0, LENGTHS)
    stats = run(write_format(tmp_path / "in", lists, "seq"), tmp_path / "out", "seq")
    assert list(stats["features"]) == [
        "bm25",
        *(f"embedding[{i}]" for i in range(3)),
        *(f"grid[{i}]" for i in range(4)),
    ]
    values = [d["embedding"][1] for ranked in lists for d in ranked.documents]
    assert stats["features"]["embedding[1]"]["max"] == max(values)


def test_features_can_be_chosen(tmp_path):
    path = write_format(tmp_path / "in", random_lists(0, LENGTHS), "elwc")
    run(
        path,
        tmp_path / "out",
        "elwc",
        feature_columns=("clicks", "bm25"),
        context_columns=("query_vector",),
    )
    features = Features.load(str(tmp_path / "out"))
    assert list(features.example) == ["bm25", "clicks"]
    assert list(features.context) == ["query_vector"]


def test_ids_that_are_missing_are_made(tmp_path):
    lists = random_lists(0, LENGTHS, with_context=False)
    for ranked in lists:
        for document in ranked.documents:
            del document["docid"]
    path = write_format(tmp_path / "in", lists, "eie")
    found = list(read_lists(path, "eie", options=Options(**OPTIONS)))
    assert [q for part in found for q in part.query_ids] == ["0", "1", "2", "3"]
    ids = [d for part in found for d in part.document_ids]
    assert ids == [str(i + 1) for i in range(sum(LENGTHS))]


def test_query_ids_may_be_numbers(tmp_path):
    lists = random_lists(0, LENGTHS)
    for i, ranked in enumerate(lists):
        ranked.context["qid"] = np.array([100 + i])
    run(write_format(tmp_path / "in", lists, "elwc"), tmp_path / "out", "elwc")
    assert lists_of(tmp_path / "out").query_ids.tolist() == ["100", "101", "102", "103"]
    assert "qid" not in Features.load(str(tmp_path / "out")).context


def test_lists_without_documents_are_left_out(tmp_path):
    lists = random_lists(0, [2, 0, 3, 0])
    stats = run(write_format(tmp_path / "in", lists, "elwc"), tmp_path / "out", "elwc")
    assert stats["queries"] == 2
    assert lists_of(tmp_path / "out").query_ids.tolist() == ["q0", "q2"]


def test_lists_may_share_a_query_id(tmp_path):
    lists = random_lists(0, [2, 3])
    lists[1].context["qid"] = lists[0].context["qid"]
    run(write_format(tmp_path / "in", lists, "elwc"), tmp_path / "out", "elwc")
    assert lists_of(tmp_path / "out").query_ids.tolist() == ["q0", "q0"]


def test_examples_are_brought_together_from_anywhere(tmp_path):
    lists = random_lists(0, LENGTHS)
    serialized = records(lists, "example")
    # The order of lists is that of their first documents.
    order = [0, 3, 4, 1, 8, 5, 2, 6, 9, 7]
    path = write(tmp_path / "in", [serialized[i] for i in order])
    with pytest.raises(DataError, match=r"do not stand together.*--group_by_query"):
        run(path, tmp_path / "out", "example", **columns("example"))
    run(path, tmp_path / "out", "example", group_by_query=True, **columns("example"))
    found = lists_of(tmp_path / "out")
    assert found.query_ids.tolist() == ["q0", "q1", "q2", "q3"]
    assert found.lengths.tolist() == LENGTHS
    starts = np.repeat([0, 3, 4, 8], LENGTHS)
    wanted = sorted(order, key=lambda i: (starts[i], order.index(i)))
    values = [d["bm25"][0] for ranked in lists for d in ranked.documents]
    np.testing.assert_array_equal(
        found.values["float32"][:, 0], [values[i] for i in wanted]
    )


@pytest.mark.parametrize("nan", ["error", "zero", "keep"])
def test_values_that_are_no_numbers_follow_the_option(tmp_path, nan):
    lists = random_lists(0, [2])
    lists[0].documents[1]["bm25"][0] = np.nan
    path = write_format(tmp_path / "in", lists, "seq")
    if nan == "error":
        with pytest.raises(DataError, match="'bm25' column 0 is nan"):
            run(path, tmp_path / "out", "seq")
        return
    options = Options(**OPTIONS, nan=nan)
    (found,) = read_lists(path, "seq", options=options)
    value = found.values["float32"][1, 0]
    assert value == 0 if nan == "zero" else np.isnan(value)


@pytest.mark.parametrize("nan", ["error", "zero", "keep"])
def test_query_features_follow_the_option_and_labels_are_always_checked(tmp_path, nan):
    lists = random_lists(0, LENGTHS)
    lists[1].context["query_vector"][1] = np.inf
    path = write_format(tmp_path / "in", lists, "elwc")
    options = Options(**OPTIONS, nan=nan)
    if nan == "error":
        with pytest.raises(DataError, match=r"'query_vector' .*inf in query 'q1'"):
            list(read_lists(path, "elwc", options=options))
    else:
        (found,) = read_lists(path, "elwc", options=options)
        value = found.context["query_vector"][1, 1]
        assert value == (0 if nan == "zero" else np.inf)
    lists[2].documents[0]["relevance"][0] = np.nan
    path = write_format(tmp_path / "in2", lists, "elwc")
    with pytest.raises(DataError, match=r"nan in query 'q2'|in query 'q1'"):
        list(read_lists(path, "elwc", options=options))


def test_a_description_of_the_input_is_followed(tmp_path):
    path = write_format(tmp_path / "in", random_lists(0, LENGTHS), "elwc")
    features = Features(
        example={"bm25": Feature("float32", (1,), 0.0)},
        label=("relevance", Feature("float32", (1,), -1.0)),
    )
    features.save(str(tmp_path / "f.json"))
    run(path, tmp_path / "out", "elwc", features=str(tmp_path / "f.json"))
    written = Features.load(str(tmp_path / "out"))
    assert (written.example, written.weight) == (features.example, None)


@pytest.mark.parametrize("output_format", ["elwc", "packed"])
def test_the_weight_of_a_list_that_is_described_is_kept(tmp_path, output_format):
    lists = random_lists(0, LENGTHS)
    for i, ranked in enumerate(lists):
        ranked.context["importance"] = np.float32([i + 0.5])
    path = write_format(tmp_path / "in", lists, "elwc")
    features = Features(
        example={"bm25": Feature("float32", (1,), 0.0)},
        label=("relevance", Feature("float32", (1,), -1.0)),
        list_weight=("importance", Feature("float32", (1,), 1.0)),
    )
    features.save(str(tmp_path / "f.json"))
    options = {"features": str(tmp_path / "f.json")}
    run(path, tmp_path / "out", "elwc", output_format, **options)
    assert Features.load(str(tmp_path / "out")).list_weight == features.list_weight
    hparams = DatasetHparams(f"{tmp_path}/out/train-*", "", 2, 2)
    builder = SimpleDatasetBuilder.from_features(
        Features.load(str(tmp_path / "out")), hparams
    )
    weights = np.repeat(np.arange(4) + np.float32(0.5), LENGTHS)
    np.testing.assert_array_equal(builder.lists("train", "packed").weights, weights)


def test_labels_of_several_tasks_that_are_described_are_kept(tmp_path):
    lists = random_lists(0, LENGTHS)
    clicked = iter(np.arange(sum(LENGTHS)) % 2)
    for ranked in lists:
        for document in ranked.documents:
            if click := next(clicked):
                document["clicked"] = np.float32([click])
    path = write_format(tmp_path / "in", lists, "elwc")
    label = Feature("float32", (1,), -1.0)
    features = Features(
        example={"bm25": Feature("float32", (1,), 0.0)},
        labels={"click": ("clicked", label), "grade": ("relevance", label)},
    )
    features.save(str(tmp_path / "f.json"))
    options = {"features": str(tmp_path / "f.json")}
    run(path, tmp_path / "out", "elwc", **options)
    written = Features.load(str(tmp_path / "out"))
    assert written.labels == features.labels
    hparams = DatasetHparams(f"{tmp_path}/out/train-*", "", 2, 2)
    found = MultiLabelDatasetBuilder.from_features(written, hparams).lists("train")
    grades = [d["relevance"][0] for ranked in lists for d in ranked.documents]
    clicks = [1.0 if i % 2 else -1.0 for i in range(sum(LENGTHS))]
    np.testing.assert_array_equal(found.labels, np.stack([clicks, grades], axis=1))
    with pytest.raises(ConfigError, match=r"packed holds one label.*click, grade"):
        run(path, tmp_path / "packed", "elwc", "packed", **options)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (
            lambda r: r[1].context.update(qid=np.array([b"a\tb"], object)),
            r"list 1: .*tab",
        ),
        (lambda r: r[1].context.pop("qid"), r"list 1: expected a query id, found an e"),
        (
            lambda r: r[1].context.update(qid=np.array([b"\xe9"], object)),
            "in UTF-8, found the",
        ),
        (
            lambda r: r[2].documents[0].update(docid=np.array([b"a\nb"], object)),
            r"document 4: expected a document id without tab",
        ),
    ],
)
def test_ids_that_cannot_be_are_refused(tmp_path, spoil, words):
    lists = random_lists(0, LENGTHS)
    spoil(lists)
    path = write_format(tmp_path / "in", lists, "elwc")
    with pytest.raises(DataError, match=words):
        run(path, tmp_path / "out", "elwc")
    assert not (tmp_path / "out").exists()


def test_an_empty_document_id_is_a_missing_one(tmp_path):
    lists = random_lists(0, LENGTHS)
    del lists[0].documents[1]["docid"]
    lists[2].documents[0]["docid"] = np.array([b""], object)
    path = write_format(tmp_path / "in", lists, "elwc")
    parts = read_lists(path, "elwc", options=Options(**OPTIONS))
    ids = [name for part in parts for name in part.document_ids]
    assert ids[:5] == ["d0_0", "2", "d0_2", "d1_0", "5"]


def test_the_head_of_the_files_is_read_once(tmp_path, monkeypatch):
    opened = []
    original = RecordReader.__call__

    def counted(self, paths):
        opened.append(paths)
        return original(self, paths)

    monkeypatch.setattr(RecordReader, "__call__", counted)
    path = write_format(tmp_path / "in", random_lists(0, LENGTHS), "elwc")
    run(path, tmp_path / "out", "elwc")
    # What is in it, which features there are, and all of it.
    assert len(opened) == 3


def test_damage_in_the_first_records_names_the_file(tmp_path):
    path = write_format(tmp_path / "in", random_lists(0, LENGTHS), "elwc")
    content = bytearray((tmp_path / "in").read_bytes())
    content[40] ^= 1
    (tmp_path / "in").write_bytes(content)
    with pytest.raises(DataError, match=r"in: record 0 is corrupt: at byte 0 "):
        run(path, tmp_path / "out", "elwc")


def test_a_label_that_is_not_there_is_named(tmp_path):
    path = write_format(tmp_path / "in", random_lists(0, LENGTHS), "elwc")
    words = r"unknown feature 'label' in .*in \(--label_column\).*relevance"
    with pytest.raises(ConfigError, match=words):
        convert(path, str(tmp_path / "out"), input_format="elwc")
    assert not (tmp_path / "out").exists()


def test_texts_do_not_go_into_packed_files(tmp_path):
    lists = with_loose_features(random_lists(1, LENGTHS))
    path = write_format(tmp_path / "in", lists, "elwc")
    with pytest.raises(ConfigError, match=r"packed holds numbers.*title.*=elwc"):
        run(path, tmp_path / "out", "elwc", "packed")


def test_files_of_another_format_are_named(tmp_path):
    path = write_format(tmp_path / "in", random_lists(0, LENGTHS), "seq")
    with pytest.raises(DataError, match=r"found a tf.train.SequenceExample"):
        run(path, tmp_path / "out", "elwc")


def test_a_feature_of_two_types_is_named(tmp_path):
    lists = random_lists(0, [2])
    lists[0].documents[1]["bm25"] = np.array([3])
    path = write_format(tmp_path / "in", lists, "elwc")
    with pytest.raises(
        DataError, match="'bm25': expected values of one type, found fl"
    ):
        run(path, tmp_path / "out", "elwc")


def test_the_command_converts_and_trains_on_sequence_examples(tmp_path, capsys):
    spec = {f"x{i}": tf.io.FixedLenFeature((1,), tf.float32, 0.0) for i in range(3)}
    for seed, split in enumerate(("train", "valid")):
        lists = random_lists(seed, [4] * 8, {}, spec)
        path = write_format(tmp_path / f"{split}.in", lists, "seq", "ZLIB")
        flags = ["--input_format=seq", f"--input={path}", f"--split={split}"]
        flags += [f"--output={tmp_path}/data", "--label_column=relevance"]
        assert main(["convert", *flags, "--num_shards=2"]) == 0
    assert "8 queries, 32 documents" in capsys.readouterr().out
    stats = json.loads((tmp_path / "data" / "valid.stats.json").read_text())
    assert stats["queries"] == 8
    assert lists_of(tmp_path / "data", "valid").num_documents == 32
