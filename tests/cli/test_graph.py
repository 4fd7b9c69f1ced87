"""`tfr-pipeline graph`: the three steps from the command line."""

import json

import pytest

from tests.graph import helpers
from tests.ranking_data import write_elwc
from tfr_pipeline.cli.main import main
from tfr_pipeline.features import Features
from tfr_pipeline.graph import names


def test_from_lists_to_lists_with_neighbours(tmp_path, capsys):
    lists = helpers.ranked_lists(8)
    for one in lists[:3]:
        for document in one.documents:
            del document["docid"]
    data = write_elwc(tmp_path / "data.tfrecord", lists)
    made, graph = str(tmp_path / "made"), str(tmp_path / "graph.tsv")
    assert main(["graph", "identify", f"--input={data}", f"--output={made}"]) == 0
    found = capsys.readouterr()
    count = sum(len(one.documents) for one in lists)
    assert f"train: {count} documents, {count} nodes" in found.out
    assert "documents had no id" in found.err
    given = f"--input={made}/train-*"
    words = ["graph", "build", given, f"--output={graph}", "--features=embedding"]
    assert main([*words, "--k=2"]) == 0
    described = json.loads((tmp_path / "graph.tsv.json").read_text())
    assert f"{count} documents, {described['edges']} edges" in capsys.readouterr().out
    output = str(tmp_path / "packed")
    words = ["graph", "pack", given, f"--graph={graph}", f"--output={output}"]
    assert main([*words, "--max_nbrs=2", "--output_format=packed"]) == 0
    assert f"{count} nodes, neighbours: " in capsys.readouterr().out
    features = Features.load(output)
    assert names.count(features.example) == 2
    assert features.data_format == "packed"


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["graph"], 2, "error: expected a command, tfr-pipeline graph COMMAND"),
        (["graph", "bild"], 2, "did you mean 'build'"),
        (["graph", "build", "--input=no", "--output=x"], 2, "expected --threshold"),
        (["graph", "build", "--input=no", "--output=x", "--k=2"], 1, "no such file"),
        (
            ["graph", "pack", "--input=no", "--output=x", "--graph=g", "--runner=x"],
            2,
            "--runner=x",
        ),
        (
            ["graph", "identify", "--input=no", "--output=x", "--runner_args=-x"],
            2,
            "expected --runner beside it",
        ),
    ],
)
def test_what_is_wrong_is_one_line(words, code, message, capsys):
    assert main(words) == code
    error = capsys.readouterr().err
    assert message in error and len(error.splitlines()) == 1
