"""`predict`: inputs beside text, and what becomes of the output file."""

from __future__ import annotations

import csv
import dataclasses
import importlib.util
import json
import pathlib
import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.pipeline.training_helpers import ROOT
from tfr_pipeline.cli import ranking
from tfr_pipeline.cli.main import main
from tfr_pipeline.data.lists import Lists
from tfr_pipeline.errors import DataError
from tfr_pipeline.features import Features
from tfr_pipeline.serving.predictor import find_export

FEATURES = [f"f{i}" for i in range(1, 9)]
SCORES = st.integers(-99, 99).map(lambda number: number / 7)
TABLE_FLAGS = ("--docid_column=docid", f"--feature_columns={','.join(FEATURES)}")


def predict(project, source, output, *flags):
    """Ranks a file with the trained model; returns the exit code."""
    words = [f"--model={project.run}", f"--input={source}", f"--output={output}"]
    return main(["predict", *words, *flags])


def text_rows(project):
    """Returns `(label, qid, docid, features)` of each line of the test file."""
    rows = []
    for line in (project.text / "test.txt").read_text().splitlines():
        body, _, comment = line.partition("#docid = ")
        label, qid, *features = body.split()
        values = [word.split(":")[1] for word in features]
        rows.append((int(label), qid[len("qid:") :], comment.split()[0], values))
    return rows


def scored_rows(path):
    """Returns `(qid, docid, rank, score)` of each line of an output file."""
    lines = [line.split("\t") for line in path.read_text().splitlines()]
    return [(qid, docid, int(rank), float(score)) for qid, docid, rank, score in lines]


@pytest.fixture(scope="module")
def ranked(trained, tmp_path_factory) -> pathlib.Path:
    """What `predict` makes of the LibSVM test file."""
    output = tmp_path_factory.mktemp("ranked") / "run.tsv"
    assert predict(trained, trained.text / "test.txt", output) == 0
    return output


@pytest.fixture(scope="module")
def inputs(trained, tmp_path_factory):
    """The test documents in every format: `{format: (path, flags)}`."""
    folder = tmp_path_factory.mktemp("inputs")
    rows = text_rows(trained)
    found = {}
    for name, delimiter in (("csv", ","), ("tsv", "\t")):
        with open(folder / f"t.{name}", "w", newline="") as file:
            writer = csv.writer(file, delimiter=delimiter)
            # No labels: nothing to be predicted has any.
            writer.writerow(["qid", "docid", *FEATURES])
            writer.writerows([qid, docid, *values] for _, qid, docid, values in rows)
        found[name] = (folder / f"t.{name}", TABLE_FLAGS)
    found["elwc"] = (trained.data / "test-*", ())
    words = [f"--input={trained.text}/test.txt", f"--output={folder}/packed"]
    words += ["--split=test", "--output_format=packed"]
    assert main(["convert", *words]) == 0
    found["packed"] = (folder / "packed" / "test-*", ())
    return found


@pytest.mark.parametrize("kind", ["csv", "tsv", "elwc", "packed"])
def test_documents_without_labels_and_records_give_the_same_output(
    trained, ranked, inputs, tmp_path, kind
):
    source, flags = inputs[kind]
    output = tmp_path / "run.tsv"
    assert predict(trained, source, output, f"--input_format={kind}", *flags) == 0
    assert output.read_text() == ranked.read_text()


def test_samples_add_a_column_of_deviations(trained, ranked, tmp_path, capsys):
    source, output = trained.text / "test.txt", tmp_path / "sampled.tsv"
    assert predict(trained, source, output, "--samples=20") == 0
    rows = [line.split("\t") for line in output.read_text().splitlines()]
    assert all(len(row) == 5 and float(row[4]) > 0 for row in rows)
    plain = {row[:2]: row[3] for row in scored_rows(ranked)}
    found = [(float(score), plain[qid, docid]) for qid, docid, _, score, _ in rows]
    assert np.corrcoef(*zip(*found, strict=True))[0, 1] > 0.8
    by_query = [(qid, -float(score)) for qid, _, _, score, _ in rows]
    queries = list(dict.fromkeys(qid for qid, _ in by_query))
    assert by_query == sorted(by_query, key=lambda row: (queries.index(row[0]), row[1]))
    for flags, message in (
        (["--samples=1"], "samples: expected at least 2, found 1"),
        (["--samples=5", "--format=trec"], "expected --format=tsv, found trec"),
    ):
        assert predict(trained, source, tmp_path / "no.tsv", *flags) == 2
        assert message in capsys.readouterr().err
        assert not (tmp_path / "no.tsv").exists()


def test_what_convert_was_told_of_the_input_need_not_be_said_again(
    trained, ranked, tmp_path
):
    model = tmp_path / "model"
    shutil.copytree(find_export(str(trained.run)), model)
    description = model / "assets.extra" / "features.json"
    features = Features.load(str(description))
    roles = {"qid_column": "query", "docid_column": "page", "nan": "zero"}
    reading = {"input_format": "tsv", **roles}
    dataclasses.replace(features, reading=reading).save(str(description))
    rows = text_rows(trained)
    outputs = []
    for name, first in (("all", None), ("zero", "0"), ("empty", "")):
        with open(tmp_path / f"{name}.tsv", "w", newline="") as file:
            writer = csv.writer(file, delimiter="\t")
            names = [f"feature_{i}" for i in range(1, len(FEATURES) + 1)]
            writer.writerow(["page", *names, "query"])
            for _, qid, docid, values in rows:
                cells = values if first is None else [first, *values[1:]]
                writer.writerow([docid, *cells, qid])
        output = tmp_path / f"{name}.ranked"
        words = [f"--model={model}", f"--input={file.name}", f"--output={output}"]
        assert main(["predict", *words]) == 0
        outputs.append(output.read_text())
    assert outputs[0] == ranked.read_text()
    assert outputs[1] == outputs[2] != outputs[0]


def test_the_output_may_go_into_a_new_folder(trained, ranked, tmp_path):
    output = tmp_path / "new" / "folder" / "run.tsv"
    assert predict(trained, trained.text / "test.txt", output) == 0
    assert output.read_text() == ranked.read_text()


def test_the_scores_of_a_query_do_not_depend_on_the_other_queries(
    trained, ranked, tmp_path
):
    last = text_rows(trained)[-1][1]
    lines = (trained.text / "test.txt").read_text().splitlines(keepends=True)
    alone = tmp_path / "alone.txt"
    alone.write_text("".join(line for line in lines if f"qid:{last} " in line))
    assert predict(trained, alone, tmp_path / "o") == 0
    expected = [row for row in scored_rows(ranked) if row[0] == last]
    found = scored_rows(tmp_path / "o")
    assert [row[:3] for row in found] == [row[:3] for row in expected]
    np.testing.assert_allclose(
        [row[3] for row in found], [row[3] for row in expected], rtol=1e-5
    )


def test_a_trec_run_has_the_same_ranking(trained, ranked, tmp_path):
    output = tmp_path / "run.trec"
    source = trained.text / "test.txt"
    assert predict(trained, source, output, "--format=trec") == 0
    rows = [line.split(" ") for line in output.read_text().splitlines()]
    assert {(len(row), row[1], row[5]) for row in rows} == {(6, "Q0", "tfr_pipeline")}
    found = [(qid, docid, int(rank), float(s)) for qid, _, docid, rank, s, _ in rows]
    assert found == scored_rows(ranked)


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)


@pytest.mark.parametrize("style, ends", [("tsv", "\t\n\r"), ("trec", " \t\n\r\v\f")])
@settings(deadline=None)
@given(ids=st.lists(TEXTS, min_size=4, max_size=4), scores=st.lists(SCORES, min_size=3))
def test_lines_are_read_back_or_an_id_is_refused(style, ends, ids, scores):
    query, *documents = ids
    lists = Lists(
        values={},
        row_splits=np.array([0, 0, 3]),
        labels=None,
        query_ids=np.array(["none", query], object),
        document_ids=np.array(documents, object),
    )
    scores = np.float32(scores[:3])
    bad = [i for i in ids if set(i) & set(ends) or (style == "trec" and not i)]
    if bad:
        with pytest.raises(DataError, match=r"id of a (query|document).*found"):
            list(ranking.lines(lists, scores, style))
        return
    separator = "\t" if style == "tsv" else " "
    text = "".join(ranking.lines(lists, scores, style))
    rows = [line.split(separator) for line in text.split("\n")[:-1]]
    if style == "trec":
        assert {(row.pop(1), row.pop()) for row in rows} == {("Q0", "tfr_pipeline")}
    order = sorted(range(3), key=lambda i: -scores[i])
    assert [row[:3] for row in rows] == [
        [query, documents[i], str(rank)] for rank, i in enumerate(order, 1)
    ]
    assert [np.float32(row[3]) for row in rows] == [scores[i] for i in order]


def test_the_lists_of_documents_are_found_once_for_all(monkeypatch):
    found = []
    original = Lists.row_ids.fget

    def counted(lists):
        found.append(lists)
        return original(lists)

    monkeypatch.setattr(Lists, "row_ids", property(counted))
    lists = Lists(
        values={},
        row_splits=np.arange(0, 101, 10),
        labels=None,
        query_ids=np.arange(10).astype(str).astype(object),
        document_ids=np.arange(100).astype(str).astype(object),
    )
    assert len(list(ranking.lines(lists, np.zeros(100, np.float32), "tsv"))) == 100
    assert len(found) == 1


@pytest.fixture(scope="module")
def request_script():
    """The script of docs/serving.md."""
    path = ROOT / "docs" / "request_from_libsvm.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_request_made_of_lines_is_ranked_as_predict_does(
    trained, ranked, request_script
):
    from tensorflow_serving.apis import predict_pb2

    from tfr_pipeline.compat import tf

    model = str(trained.run / "export" / "best_model_by_metric")
    rank = tf.saved_model.load(model).signatures["rank"]
    types = {s.name: s.dtype for s in rank.structured_input_signature[1].values()}
    with open(trained.text / "test.txt") as lines:
        found = request_script.inputs(model, lines)
    body = json.loads(request_script.rest(found))
    assert body["signature_name"] == "rank"
    message = predict_pb2.PredictRequest.FromString(request_script.grpc(found, "m"))
    assert message.model_spec.signature_name == "rank"
    for inputs in (
        {key: tf.constant(value, types[key]) for key, value in body["inputs"].items()},
        {key: tf.constant(tf.make_ndarray(v)) for key, v in message.inputs.items()},
    ):
        assert {key: value.dtype for key, value in inputs.items()} == types
        outputs = {key: value.numpy() for key, value in rank(**inputs).items()}
        rows = zip(*(outputs[k].tolist() for k in ("ids", "ranks")), strict=True)
        wanted = {(docid.encode(), rank) for _, docid, rank, _ in scored_rows(ranked)}
        assert set(rows) == wanted


# Errors


def test_an_unknown_output_format_is_named(trained, tmp_path, capsys):
    source = trained.text / "test.txt"
    assert predict(trained, source, tmp_path / "o", "--format=trex") == 2
    assert "did you mean 'trec'" in capsys.readouterr().err


def test_bad_documents_leave_the_old_output_alone(trained, tmp_path, capsys):
    (tmp_path / "t.txt").write_text("1 qid:1 1:0.5 2:x\n")
    (tmp_path / "o.tsv").write_text("old")
    assert predict(trained, tmp_path / "t.txt", tmp_path / "o.tsv") == 1
    assert "t.txt:1" in capsys.readouterr().err
    assert (tmp_path / "o.tsv").read_text() == "old"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["o.tsv", "t.txt"]


def test_records_of_another_kind_are_refused(trained, inputs, tmp_path, capsys):
    for kind, other in (("elwc", "packed"), ("packed", "elwc")):
        source, _ = inputs[kind]
        flag = f"--input_format={other}"
        assert predict(trained, source, tmp_path / "o", flag) == 1
        error = capsys.readouterr().err
        assert "expected a" in error and f"Set input_format to '{kind}'" in error
        assert "test-00000-of-00001.tfrecord" in error
    assert not list(tmp_path.iterdir())


def test_an_unknown_format_names_all_that_predict_reads(trained, tmp_path, capsys):
    source = trained.text / "test.txt"
    assert predict(trained, source, tmp_path / "o", "--input_format=elcw") == 2
    error = capsys.readouterr().err
    assert "did you mean 'elwc'" in error
    assert "packed" in error


def test_flags_that_records_make_useless_are_named(trained, inputs, tmp_path, capsys):
    source, _ = inputs["elwc"]
    flags = ("--nan=zero", "--group_by_query", "--qid_column=q")
    assert predict(trained, source, tmp_path / "o", "--input_format=elwc", *flags) == 0
    error = capsys.readouterr().err
    for flag in flags:
        name = flag.split("=")[0]
        assert f"warning: {name} has no effect with --input_format=elwc" in error
    assert error.count("warning: ") == len(flags)


def test_records_without_documents_are_refused_as_text_without_is(
    trained, tmp_path, capsys
):
    source = tmp_path / "in"
    source.mkdir()
    (source / "empty").write_bytes(b"")
    for flags in (["--input_format=elwc"], []):
        assert predict(trained, source / "empty", tmp_path / "o", *flags) == 1
        assert "expected at least one document, found none" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_an_evaluation_without_relevant_documents_says_that_it_is_none(
    trained, tmp_path, capsys
):
    (tmp_path / "t.txt").write_text("0 qid:1 1:0.5 2:0.3\n0 qid:1 1:0.1\n0 qid:2 1:1\n")
    words = [f"--input={tmp_path}/t.txt", f"--output={tmp_path}/d", "--split=valid"]
    assert main(["convert", *words, "--num_features=8"]) == 0
    capsys.readouterr()
    words = [f"--model={trained.run}", f"--data={tmp_path}/d/valid-*", "--baselines"]
    assert main(["evaluate", *words]) == 0
    out = capsys.readouterr().out
    assert "no query has a relevant document" in out
    assert "values first" not in out  # the best of nothing
