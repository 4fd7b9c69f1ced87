"""Ranking by text: lists of queries and documents, and `docs/text_ranking.md`."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests import hub_module
from tests.bench import cranfield
from tests.cli.command_helpers import command, run_shell, shell_of
from tests.pipeline.training_helpers import ROOT, read_json

PAGE = ROOT / "docs" / "text_ranking.md"
SCRIPT = ROOT / "docs" / "text_lists.py"

_spec = importlib.util.spec_from_file_location("text_lists", SCRIPT)
text_lists = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(text_lists)

DOCUMENTS = {
    "a": ["Red shoes", "shoes for walking & running"],
    "b": ["Hats", "red hats, blue hats"],
    "c": ["", "walking sticks"],
    "d": ["Blue shoes", ""],
}
TREC_DOCUMENTS = """
<DOC>
<DOCNO> {} </DOCNO>
<TITLE>{}</TITLE>
<TEXT>
<P>{}</P>
</TEXT>
</DOC>
"""
TREC_QUERIES = """
<top>
<num> Number: 301
<title> red
 shoes

<desc> Description:
Shoes that are red.
<narr> Narrative:
No hats.
</top>
<top>
<num> Number: 302 </num>
<title>walking</title>
</top>
"""


def write_tsv(path, rows) -> str:
    lines = ("\t".join(map(str, row)) + "\n" for row in rows)
    path.write_text("".join(lines), errors="surrogateescape")
    return str(path)


def documents_file(folder) -> str:
    rows = [(name, *texts) for name, texts in DOCUMENTS.items()]
    return write_tsv(folder / "documents.tsv", rows)


def make_lists(folder, *flags):
    """Runs the script on the documents above."""
    return subprocess.run(
        [
            *(sys.executable, str(SCRIPT), f"--documents={documents_file(folder)}"),
            *(f"--output={folder / 'lists'}", *flags),
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_documents_of_trec_are_those_of_tsv(tmp_path) -> None:
    trec = tmp_path / "documents.trec"
    trec.write_text(
        "".join(
            TREC_DOCUMENTS.format(name, title, text.replace("&", "&amp;"))
            for name, (title, text) in DOCUMENTS.items()
        )
    )
    tags = ("DOC", ("DOCNO", "TITLE", "TEXT"))
    assert text_lists.records(str(trec), *tags) == DOCUMENTS
    assert text_lists.records(documents_file(tmp_path), *tags) == DOCUMENTS


def test_queries_of_trec_are_titles_of_topics(tmp_path) -> None:
    topics = tmp_path / "topics"
    topics.write_bytes(TREC_QUERIES.replace("\n", "\r\n").encode())
    found = text_lists.records(str(topics), "top", ("num", "title"))
    assert found == {"301": ["red shoes"], "302": ["walking"]}


def test_bm25_is_that_of_the_formula() -> None:
    """Robertson and Zaragoza (2009), as Lucene has it: without the factor k1 + 1."""
    lists = text_lists.Lists(DOCUMENTS, depth=10)
    found = lists.of("red shoes", {}, with_judged=False)
    texts = [re.findall(r"\w\w+", f"{t} {x}".lower()) for t, x in DOCUMENTS.values()]
    texts = [[word for word in text if word != "for"] for text in texts]
    mean = np.mean([len(text) for text in texts])
    expected = np.zeros(len(texts))
    for word in ("red", "shoes"):
        count = np.array([text.count(word) for text in texts])
        idf = np.log(1 + (len(texts) - sum(count > 0) + 0.5) / (sum(count > 0) + 0.5))
        length = np.array([len(text) for text in texts]) / mean
        expected += idf * count / (count + 1.5 * (0.25 + 0.75 * length))
    order = [place for place in np.argsort(-expected) if expected[place] > 0]
    assert found["docid"] == [list(DOCUMENTS)[place] for place in order]
    np.testing.assert_allclose(found["bm25"], expected[order], rtol=1e-5)
    at = found["docid"].index("a")
    assert found["overlap_title"][at] == 1.0
    assert found["overlap_text"][at] == 0.5
    assert found["length_text"][at] == 3
    assert found["length_query"] == [2] * len(order)


def test_only_training_lists_have_judged_documents_that_were_not_found(
    tmp_path,
) -> None:
    judgements = write_tsv(
        tmp_path / "qrels",
        [("1", 0, "c", 2), ("1", 0, "a", 1), ("2", 0, "c", 3), ("1", 0, "d", -1)],
    )
    train = write_tsv(tmp_path / "train.tsv", [("1", "red shoes")])
    valid = write_tsv(tmp_path / "valid.tsv", [("2", "red shoes"), ("3", "umbrella")])
    flags = (f"--train={train}", f"--valid={valid}", f"--judgements={judgements}")
    result = make_lists(tmp_path, *flags)
    assert result.returncode == 0, result.stderr
    assert "1 queries found nothing" in result.stdout
    assert "judged" not in result.stderr
    found = pq.read_table(tmp_path / "lists" / "train.parquet").to_pylist()
    grades = {row["docid"]: row["label"] for row in found}
    assert grades == {"a": 1.0, "b": 0.0, "c": 2.0, "d": 0.0}
    assert found[-1]["docid"] == "c"
    assert found[-1]["bm25"] == 0.0
    found = pq.read_table(tmp_path / "lists" / "valid.parquet").to_pylist()
    assert {row["qid"] for row in found} == {"2"}
    assert {row["docid"] for row in found} == {"a", "b", "d"}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("1", "red", "shoes")], "train.tsv:1: expected 2 columns, found 3."),
        ([("1", "red"), ("1", "hat")], "train.tsv: expected ids, each of one record"),
        ([], "train.tsv: expected records, found none."),
        ([("x1", "red")], "expected judgements of its queries, found none"),
        ([("1", "r\udcffd")], "train.tsv: expected a file of UTF-8"),
    ],
)
def test_wrong_files_are_errors_that_say_where(tmp_path, rows, message) -> None:
    train = write_tsv(tmp_path / "train.tsv", rows)
    judgements = write_tsv(tmp_path / "qrels", [("1", "a", 1)])
    result = make_lists(tmp_path, f"--train={train}", f"--judgements={judgements}")
    assert result.returncode == 1
    assert message in result.stderr


def test_cranfield_has_its_best_grade_first_and_queries_by_place(
    tmp_path, shared_data
) -> None:
    source = shared_data / "cranfield"
    cranfield.prepare(source, tmp_path)
    judged = text_lists.read_judgements(str(tmp_path / "judgements.tsv"))
    lines = (source / "cranqrel").read_text().split("\n")
    assert "1 184 2 " in lines
    assert "1 12 3 " in lines
    assert judged["1"]["184"] == 3.0
    assert judged["1"]["12"] == 2.0
    for line in filter(str.strip, lines):
        query, document, grade = line.split()
        if grade == "-1":
            assert judged[query][document] == max(judged[query].values()) == 4.0
    tags = ("DOC", ("DOCNO", "TITLE", "TEXT"))
    documents = text_lists.records(str(tmp_path / "documents.tsv"), *tags)
    assert list(documents) == [str(number) for number in range(1, 1401)]
    assert documents["1"][1].startswith("an experimental study of a wing")
    for fold in range(cranfield.FOLDS):
        queries = {}
        for split in cranfield.SPLITS:
            path = str(tmp_path / f"fold-{fold}" / f"{split}.tsv")
            found = text_lists.records(path, "top", ("num", "title"))
            assert not queries.keys() & found.keys()
            queries |= found
        assert queries.keys() == judged.keys()
        # Its third query is called 4.
        assert queries["3"][0].startswith("what problems of heat conduction")


def write_collection(folder, words) -> None:
    """Writes what the page begins with: a query asks for words of its documents."""
    random = np.random.default_rng(0)
    documents = [
        (f"d{i}", *(" ".join(random.choice(words, count)) for count in (4, 30)))
        for i in range(150)
    ]
    write_tsv(folder / "documents.tsv", documents)
    judgements = []
    for split, count in (("train", 24), ("valid", 6), ("test", 6)):
        queries = []
        for place in range(count):
            wanted = random.choice(len(documents), 2, replace=False)
            titles = " ".join(documents[i][1] for i in wanted).split()
            queries.append((f"{split}{place}", " ".join(random.choice(titles, 4))))
            judgements += [(f"{split}{place}", 0, documents[i][0], 1) for i in wanted]
        write_tsv(folder / f"{split}.tsv", queries)
    write_tsv(folder / "qrels.txt", judgements)


@pytest.mark.slow
def test_the_commands_of_the_docs_run(tmp_path, text_module) -> None:
    words, _ = hub_module.word_vectors(2000)
    write_collection(tmp_path, words[200:500])
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    shutil.copytree(text_module, tmp_path / "modules" / "encoder")
    (tmp_path / "docs").mkdir()
    shutil.copy(SCRIPT, tmp_path / "docs")
    script = shell_of(PAGE).replace("pip install bm25s\n", "")
    script = script.replace("python", sys.executable)
    script = script.replace("tfr-pipeline train", "tfr-pipeline train $SHORT")
    result = run_shell(f"SHORT=--config.pipeline.num_epochs=2\n{script}", tmp_path)
    assert result.returncode == 0, result.stderr[-2000:]
    assert "distinct texts, encoded once" in result.stderr
    ranked = (tmp_path / "ranking.tsv").read_text().splitlines()
    lists = pq.read_table(tmp_path / "lists" / "test.parquet")
    assert len(ranked) == len(lists)
    for run in ("run", "run_numbers"):
        assert read_json(tmp_path / run / "metrics.json")["test"]["ndcg@10"]["skip"]
    trained = command(
        *("train", "--config=configs/text_ranking.py:trained"),
        *("--config.data.dir=data", "--config.model_dir=run_trained"),
        "--config.model.preprocess.query.hub=modules/encoder",
        "--config.pipeline.num_epochs=3",  # the module trains in the last one
        cwd=tmp_path,
    )
    assert trained.returncode == 0, trained.stderr
