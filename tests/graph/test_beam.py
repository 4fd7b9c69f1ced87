"""The three steps as Apache Beam pipelines give what the functions give."""

import dataclasses
import pathlib

import numpy as np
import pytest

from tests.graph import helpers
from tests.ranking_data import write, write_elwc
from tfr_pipeline.errors import ConfigError, DataError
from tfr_pipeline.graph import building, identification, packing
from tfr_pipeline.graph.dataset import DataSet, Reading
from tfr_pipeline.graph.encoders import Encoder
from tfr_pipeline.graph.packing import Rules
from tfr_pipeline.graph.similarity import Wanted

beam = pytest.importorskip("apache_beam", exc_type=ImportError)
fn_runner = pytest.importorskip(
    "apache_beam.runners.portability.fn_api_runner.fn_runner", exc_type=ImportError
)
beam_runner = pytest.importorskip(
    "tfr_pipeline.data.convert.beam_runner", exc_type=ImportError
)
steps = pytest.importorskip("tfr_pipeline.graph.beam", exc_type=ImportError)
beam_jobs = pytest.importorskip("tfr_pipeline.graph.beam_jobs", exc_type=ImportError)

HERE = beam_runner.Chosen("in_process")
VECTOR = Encoder(features=("embedding",))


def lists_without_some_ids(path, seed):
    """Writes lists; some documents have no id, some that of another."""
    lists = helpers.ranked_lists(8, seed)
    for number, one in enumerate(lists):
        for document in one.documents:
            if number % 3 == 0:
                del document["docid"]
            elif number % 3 == 1:
                document["docid"] = np.array([b"same"], object)
    return write_elwc(path, lists)


def content(path):
    """Returns the content of files by name; the order of lines does not count."""
    found = {}
    for file in sorted(pathlib.Path(path).rglob("*")):
        if file.suffix in (".tfrecord", ".json"):
            found[file.name] = file.read_bytes()
        elif file.suffix == ".tsv":
            found[file.name] = sorted(file.read_text().splitlines())
    return found


@pytest.mark.parametrize(
    ("kind", "wanted"), [("lists", Wanted(k=2)), ("examples", Wanted(threshold=0.5))]
)
def test_files_are_those_of_the_functions(tmp_path, kind, wanted):
    first, second = tmp_path / "a.tfrecord", tmp_path / "b.tfrecord"
    if kind == "lists":
        one = lists_without_some_ids(first, 0)
        two = lists_without_some_ids(second, 1)
    else:
        one = write(first, helpers.examples(20))
        two = write(second, helpers.examples(15, seed=1, start=20))
    results = []
    for functions, how in (
        ((identification.identify, building.build, packing.pack), {}),
        (
            (beam_jobs.identify, beam_jobs.build, beam_jobs.pack),
            {"chosen": HERE},
        ),
    ):
        folder = tmp_path / ("piped" if how else "plain")
        identify, build, pack = functions
        names = [
            (str(folder / split), f"{folder / split}/{split}-*")
            for split in ("train", "more")
        ]
        found = [
            identify(path, name, split=split, **how)
            for path, (name, _), split in zip(
                (one, two), names, ("train", "more"), strict=True
            )
        ]
        for report in found:
            report.shown = []
        train, more = names[0][1], names[1][1]
        graph = str(folder / "graph.tsv")
        described = build([train, more], graph, wanted=wanted, encoder=VECTOR, **how)
        pack(
            train,
            str(folder / "packed"),
            graph=graph,
            unlabelled=more,
            rules=Rules(2),
            **how,
        )
        results.append(([dataclasses.asdict(r) for r in found], described, folder))
    plain, piped = results
    assert piped[:2] == plain[:2]
    theirs, ours = content(plain[2]), content(piped[2])
    for name in list(theirs):
        # Paths are in the first; of names that are shown, any may come first.
        if name.endswith((".stats.json", ".ids.json")):
            del theirs[name], ours[name]
    assert ours == theirs
    assert len(theirs["graph.tsv"]) > 20


def test_the_three_steps_are_one_pipeline(tmp_path):
    data = lists_without_some_ids(tmp_path / "data.tfrecord", 0)
    found = []
    with beam.Pipeline(runner=fn_runner.FnApiRunner()) as pipeline:
        identified = (pipeline | steps.Read([data]) | steps.Identify())["elements"]
        edges = identified | steps.Build(Wanted(k=2), VECTOR)
        packed = {"seeds": identified, "edges": edges} | beam_jobs.Pack(Rules(2))
        path = str(tmp_path / "result")
        _ = (
            packed
            | beam.Map(lambda e: (e[0], e[1].lists.values["float32"].tobytes().hex()))
            | beam.io.WriteToText(path, num_shards=1, shard_name_template="")
        )
    found = sorted(pathlib.Path(path).read_text().splitlines())
    identification.identify(data, str(tmp_path / "identified"))
    named, graph = f"{tmp_path}/identified/train-*", str(tmp_path / "graph.tsv")
    building.build(named, graph, wanted=Wanted(k=2), encoder=VECTOR)
    packing.pack(named, str(tmp_path / "packed"), graph=graph, rules=Rules(2))
    parts = DataSet(f"{tmp_path}/packed/train-*", Reading()).parts()
    expected = [
        str(((0, 0, number), lists.values["float32"].tobytes().hex()))
        for number, lists in enumerate(
            part.lists.slice(i, i + 1)
            for part in parts
            for i in range(part.lists.num_lists)
        )
    ]
    assert found == sorted(expected)


def test_what_workers_find_is_told_in_one_line(tmp_path):
    records = helpers.examples(6)
    data = write(tmp_path / "data.tfrecord", records)
    graph = tmp_path / "graph.tsv"
    graph.write_text("node 1\tnode 2\t1\nnode 1\tnobody\t1\n")
    output = str(tmp_path / "packed")
    with pytest.raises(DataError, match=r"^--graph: an edge has the id 'nobody'"):
        beam_jobs.pack(data, output, chosen=HERE, graph=str(graph))
    skip = Rules(1, unknown="skip")
    with pytest.raises(ConfigError, match="max_nbrs: expected a number"):
        beam_jobs.pack(
            data, output, chosen=HERE, graph=str(graph), rules=Rules(max_nbrs=None)
        )
    beam_jobs.pack(data, output, chosen=HERE, graph=str(graph), rules=skip)
    packing.pack(data, output + "2", graph=str(graph), rules=skip)
    assert content(output) == content(output + "2")


def test_one_file_may_be_named(tmp_path):
    path = write(tmp_path / "a.tfrecord", helpers.examples(4))
    output = tmp_path / "named.tfrecord"
    beam_jobs.identify(path, str(output), chosen=HERE)
    assert len(helpers.read_examples(output)) == 4
