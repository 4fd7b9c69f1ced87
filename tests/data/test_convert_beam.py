"""`convert --runner`: a pipeline writes the lists that plain `convert` writes."""

from __future__ import annotations

import itertools
import json
import os
import pathlib
import resource
import signal
import subprocess
import sys
import time
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.data.conversion_helpers import libsvm_text, records, sample_text, write
from tests.data.format_helpers import write_format
from tests.ranking_data import CONTEXT_SPEC, random_lists
from tfr_pipeline.data.convert import pieces
from tfr_pipeline.data.convert.conversion import convert
from tfr_pipeline.data.records import index
from tfr_pipeline.data.sources import libsvm_chunks
from tfr_pipeline.data.sources.options import Options
from tfr_pipeline.errors import ConfigError, DataError, PipelineError, RunError

pytest.importorskip("apache_beam", exc_type=ImportError)

from tfr_pipeline.cli.main import main
from tfr_pipeline.data.convert.beam import BeamEngine

ROOT = pathlib.Path(__file__).resolve().parents[2]


def split_records(folder: pathlib.Path, split: str = "train") -> list[list[bytes]]:
    """Returns the records of each shard."""
    return [records(path) for path in sorted(folder.glob(f"{split}-*.tfrecord"))]


def flat(shards: list[list[bytes]]) -> list[bytes]:
    """Returns the records of all shards, sorted."""
    return sorted(record for shard in shards for record in shard)


def both(
    tmp_path: pathlib.Path, paths: list[str], input_format: str, **arguments: Any
) -> tuple[pathlib.Path, pathlib.Path]:
    """Converts with and without Beam; returns the folders."""
    options = arguments.pop("options", Options())
    plain, piped = tmp_path / "plain", tmp_path / "piped"
    for output, engine in ((plain, None), (piped, BeamEngine())):
        convert(
            paths,
            str(output),
            input_format=input_format,
            options=options,
            num_workers=1,
            engine=engine,
            report=lambda line: None,
            **arguments,
        )
    return plain, piped


def check_same(plain: pathlib.Path, piped: pathlib.Path) -> None:
    """Asserts that two folders hold the same but for the order of lists."""
    assert sorted(os.listdir(plain)) == sorted(os.listdir(piped))
    assert flat(split_records(plain)) == flat(split_records(piped))
    name = "features.json"
    assert (plain / name).read_bytes() == (piped / name).read_bytes()
    stats = [json.loads((f / "train.stats.json").read_text()) for f in (plain, piped)]
    means = [
        [column.pop("mean") for column in found["features"].values()] for found in stats
    ]
    # Lists go to shards by other rules.
    sizes = [sum(found.pop("shard_bytes")) for found in stats]
    assert sizes[0] == sizes[1]
    assert stats[0] == stats[1]
    # Sums of float64 in another order.
    np.testing.assert_allclose(*np.array(means, float), rtol=1e-12, atol=1e-12)


def libsvm_files(folder: pathlib.Path) -> list[str]:
    """Writes files with a gap among the features, and more of them in the last."""
    texts = [sample_text(queries=9, documents=4, seed=i) for i in range(3)]
    texts = [text.replace("qid:", f"qid:{i}_") for i, text in enumerate(texts)]
    texts[1] = texts[1].replace("\n", " #docid = a\n", 3)
    texts[2] += "1 qid:last 2:1 9:0.5 #docid = z\n"
    return [write(folder / f"{i}.txt", text) for i, text in enumerate(texts)]


def csv_files(folder: pathlib.Path, delimiter: str = ",") -> list[str]:
    """Writes tables with text, weights, missing ids and query columns."""
    paths = []
    for part in range(2):
        lines = ["qid,label,click,docid,weight,x,y,user,age"]
        for row in range(30):
            query = f"q{part}_{row // 4}"
            name = "" if row % 7 == 0 else f"d{row}"
            lines.append(
                f"{query},{row % 3},{row % 2},{name},{0.5 + row},{row / 7},{part},"
                f"u{row // 4},{row // 4}"
            )
        text = "\n".join(lines).replace(",", delimiter) + "\n"
        paths.append(write(folder / f"{part}.csv", text))
    return paths


TABLE = Options(
    docid_column="docid",
    weight_column="weight",
    feature_columns=("x", "y"),
    context_columns=("user", "age"),
)


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"scalar_features": True, "num_shards": 3},
        {"output_format": "packed", "num_shards": 4},
        {"options": Options(num_features=9, nan="zero")},
        {"label_transform": "log"},
        {"label_transform": "cap:1", "num_shards": 2},
        {"label_transform": "quantiles:3", "num_shards": 2},
        {"num_shards": 60},  # more than lists
        {"output_format": "packed", "feature_dtype": "float16", "num_shards": 2},
    ],
    ids=str,
)
def test_libsvm_text_gives_the_same(tmp_path, monkeypatch, arguments):
    monkeypatch.setattr(libsvm_chunks.by_query, "__defaults__", (400,))
    plain, piped = both(tmp_path, libsvm_files(tmp_path), "libsvm", **arguments)
    check_same(plain, piped)


def test_libsvm_text_with_query_files_gives_the_same(tmp_path):
    lines = ["1 1:1", "0 2:3", "2 1:4", "0 1:1 2:2"]
    names = [write(tmp_path / f"{i}.txt", "\n".join(lines) + "\n") for i in range(3)]
    for i, lengths in enumerate(("1\n3\n", "2\n2\n", "4\n")):
        write(tmp_path / f"{i}.query", lengths)
    options = Options(query_file=str(tmp_path / "*.query"))
    check_same(*both(tmp_path, names, "libsvm", options=options, num_shards=2))
    few = Options(query_file=str(tmp_path / "[01].query"), num_features=2)
    with pytest.raises(DataError, match="one file for each of 3 input files"):
        convert(names, str(tmp_path / "out"), options=few, engine=BeamEngine())


@pytest.mark.parametrize("output_format", ["elwc", "packed"])
@pytest.mark.parametrize("input_format", ["csv", "tsv"])
def test_tables_give_the_same(tmp_path, input_format, output_format):
    paths = csv_files(tmp_path, "," if input_format == "csv" else "\t")
    arguments = {"output_format": output_format, "num_shards": 3}
    check_same(*both(tmp_path, paths, input_format, options=TABLE, **arguments))


def test_tables_of_several_tasks_give_the_same(tmp_path):
    options = Options(label_columns=("label", "click"), feature_columns=("y", "x"))
    transform = {"label_transform": "quantiles:2"}
    paths = csv_files(tmp_path)
    check_same(*both(tmp_path, paths, "csv", options=options, **transform))


def test_parquet_gives_the_same(tmp_path):
    pa = pytest.importorskip("pyarrow", exc_type=ImportError)
    import pyarrow.parquet as parquet

    random = np.random.default_rng(0)
    for part in range(3):
        columns = {
            "qid": np.repeat(np.arange(10) + 10 * part, 5),
            "label": random.integers(0, 4, 50),
            "x": random.normal(size=50),
            "n": random.integers(-5, 5, 50),
        }
        parquet.write_table(pa.table(columns), tmp_path / f"{part}.parquet")
    paths = [str(tmp_path / "*.parquet")]
    check_same(*both(tmp_path, paths, "parquet", num_shards=2, scalar_features=True))


@pytest.mark.parametrize("output_format", ["elwc", "packed"])
@pytest.mark.parametrize("data_format", ["elwc", "eie", "seq", "example"])
def test_tfrecord_files_give_the_same(tmp_path, data_format, output_format):
    lists = random_lists(0, [3, 1, 4, 2, 0, 5, 1])
    if data_format == "example":
        lists = [ranked for ranked in lists if ranked.documents]
    halves = lists[:3], lists[3:]
    paths = [
        write_format(tmp_path / f"{i}.tfrecord", half, data_format, "GZIP")
        for i, half in enumerate(halves)
    ]
    options = Options(
        label_column="relevance",
        weight_column="weight",
        context_columns=tuple(CONTEXT_SPEC) if data_format == "example" else (),
    )
    arguments = {"output_format": output_format, "num_shards": 2, "options": options}
    check_same(*both(tmp_path, paths, data_format, **arguments))


@pytest.mark.parametrize("data_format", ["elwc", "seq", "example"])
def test_ids_that_are_missing_are_the_same_numbers(tmp_path, data_format):
    lists = random_lists(0, [3, 1, 0, 2, 4, 0] if data_format != "example" else [1] * 6)
    for i, ranked in enumerate(lists):
        ranked.context.clear()
        for document in ranked.documents[i % 2 :]:
            del document["docid"]
    paths = [
        write_format(tmp_path / f"{i}.tfrecord", part, data_format)
        for i, part in enumerate((lists[:3], lists[3:], lists[:2]))
    ]
    options = Options(label_column="relevance")
    plain, piped = both(tmp_path, paths, data_format, options=options, num_shards=2)
    check_same(plain, piped)


def test_lists_that_share_an_id_stay_apart(tmp_path):
    lists = random_lists(0, [2, 3])
    lists[1].context["qid"] = lists[0].context["qid"]
    paths = [
        write_format(tmp_path / f"{i}.tfrecord", lists[i:], "elwc") for i in range(2)
    ]
    options = Options(label_column="relevance")
    plain, piped = both(tmp_path, paths, "elwc", options=options)
    check_same(plain, piped)
    assert sum(map(len, split_records(piped))) == 3


def test_a_query_split_over_files_is_brought_together(tmp_path):
    one = write(tmp_path / "1.txt", "1 qid:a 1:1\n0 qid:b 1:2\n2 qid:a 1:3\n")
    two = write(tmp_path / "2.txt", "0 qid:c 2:1\n1 qid:b 1:5\n0 qid:a 1:6\n")
    with pytest.raises(DataError, match="stand together"):
        convert([one, two], str(tmp_path / "out"))
    lines: list[str] = []
    convert(
        [one, two], str(tmp_path / "piped"), engine=BeamEngine(), report=lines.append
    )
    options = Options(group_by_query=True)
    convert([one, two], str(tmp_path / "plain"), options=options)
    check_same(tmp_path / "plain", tmp_path / "piped")
    assert (
        "warning: 2 queries had rows in several places, which were brought together, "
        "e.g. query 'a'"
    ) in lines


@pytest.mark.parametrize("data_format", ["csv", "example"])
def test_scattered_rows_are_brought_together(tmp_path, data_format):
    if data_format == "csv":
        rows = [f"q{i % 4},{i % 3},{i}" for i in range(20)]
        texts = ["\n".join(["qid,label,x", *part, ""]) for part in (rows[:9], rows[9:])]
        paths = [write(tmp_path / f"{i}.csv", text) for i, text in enumerate(texts)]
        options = Options(group_by_query=True)
    else:
        lists = random_lists(0, [1] * 20, context_spec={})
        for i, ranked in enumerate(lists):
            ranked.context["qid"] = np.array([f"q{i % 4}"], object)
        paths = [
            write_format(tmp_path / f"{i}.tfrecord", part, data_format)
            for i, part in enumerate((lists[:9], lists[9:]))
        ]
        options = Options(group_by_query=True, label_column="relevance")
    check_same(*both(tmp_path, paths, data_format, options=options, num_shards=2))


@settings(
    max_examples=12,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    rows=st.lists(
        st.tuples(
            st.integers(0, 3),
            st.sampled_from(["a", "b", "c", "d"]),
            st.dictionaries(st.integers(1, 5), st.integers(-9, 9), max_size=3),
        ),
        min_size=1,
        max_size=20,
    ),
    cuts=st.lists(st.integers(0, 20), max_size=3),
    num_shards=st.integers(1, 3),
)
def test_rows_anywhere_become_the_lists_of_a_stable_sort(
    tmp_path_factory, rows, cuts, num_shards
):
    folder = tmp_path_factory.mktemp("scattered")
    bounds = [0, *sorted(cuts), len(rows)]
    paths = []
    for i, (start, stop) in enumerate(itertools.pairwise(bounds)):
        part = [(float(g), q, dict(f)) for g, q, f in rows[start:stop]]
        paths.append(write(folder / f"{i}.txt", libsvm_text(part)))
    options = Options(group_by_query=True, num_features=5)
    check_same(*both(folder, paths, "libsvm", options=options, num_shards=num_shards))


def test_a_list_stands_in_the_shard_of_its_id_in_the_order_of_the_input(tmp_path):
    paths = libsvm_files(tmp_path)
    both(tmp_path, paths, "libsvm")  # one shard each
    order, sorted_alone = (
        [query_of(record) for record in split_records(tmp_path / name)[0]]
        for name in ("plain", "piped")
    )
    assert sorted_alone == order
    convert(paths, str(tmp_path / "out"), num_shards=3, engine=BeamEngine())
    shards = split_records(tmp_path / "out")
    for number, shard in enumerate(shards):
        names = [query_of(record) for record in shard]
        assert names == [n for n in order if pieces.shard_of(n, 3) == number]
    assert all(shards)


def test_the_index_says_where_each_list_begins(tmp_path):
    out = tmp_path / "out"
    convert(libsvm_files(tmp_path), str(out), num_shards=3, engine=BeamEngine())
    paths = sorted(map(str, out.glob("train-*.tfrecord")))
    found = index.read(paths)
    assert found is not None
    for shard, path in zip(found, paths, strict=True):
        content = records(path)
        ends = np.cumsum([16 + len(record) for record in content])
        assert shard.offsets.tolist() == [0, *ends.tolist()]
        assert shard.documents.sum() > 0
        assert len(shard.documents) == len(content)
    stats = json.loads((out / "train.stats.json").read_text())
    assert sum(int(shard.documents.sum()) for shard in found) == stats["documents"]


def query_of(record: bytes) -> str:
    input_pb2 = pytest.importorskip("tensorflow_serving.apis.input_pb2")
    elwc = input_pb2.ExampleListWithContext.FromString(record)
    return elwc.context.features.feature["qid"].bytes_list.value[0].decode()


def test_a_shard_that_does_not_fit_in_memory_waits_on_the_disk(tmp_path, monkeypatch):
    from tfr_pipeline.data.convert import shard

    monkeypatch.setattr(shard, "_IN_MEMORY", 500)
    monkeypatch.setattr(shard, "_BATCH_ELEMENTS", 50)
    monkeypatch.setattr(libsvm_chunks.by_query, "__defaults__", (400,))
    check_same(*both(tmp_path, libsvm_files(tmp_path), "libsvm"))


BAD = {
    "malformed": "1 qid:1 1:0.5\n1 qid:1 1;0.5\n",
    "not a label": "1 qid:1 1:0.5\nx qid:1 1:0.5\n",
    "not finite": "1 qid:1 1:0.5\n1 qid:1 1:nan\n",
    "beyond": "1 qid:1 1:0.5\n1 qid:1 2:0.5\n",
    "no query": "1 qid:1 1:0.5\n1 1:0.5\n",
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_the_same_error_and_leaves_nothing(tmp_path, capfd, case):
    good = write(tmp_path / "a.txt", "1 qid:0 1:0.5\n")
    bad = write(tmp_path / "bad.txt", BAD[case])
    messages = []
    for engine in (None, BeamEngine()):
        with pytest.raises(DataError, match=r"bad.txt:2:") as caught:
            convert(
                [good, bad],
                str(tmp_path / "out"),
                options=Options(num_features=1),
                report=lambda line: None,
                engine=engine,
            )
        messages.append(str(caught.value))
    assert messages[0] == messages[1]
    assert sorted(os.listdir(tmp_path)) == ["a.txt", "bad.txt"]
    assert "Traceback" not in capfd.readouterr().err


def test_bad_tables_and_records_are_the_same_errors(tmp_path):
    one = write(tmp_path / "1.csv", "qid,label,x\na,1,2\n")
    other = write(tmp_path / "2.csv", "qid,label,z\na,1,2\n")
    cell = write(tmp_path / "3.csv", "qid,label,x\na,1,2\nb,oops,2\n")
    elwc = write_format(tmp_path / "4.tfrecord", random_lists(0, [2]), "elwc")
    data = pathlib.Path(elwc).read_bytes()
    (tmp_path / "5.tfrecord").write_bytes(data + data[: len(data) // 2])
    cases = [
        ([one, other], "csv", Options()),
        ([one, cell], "csv", Options()),
        (
            [elwc, str(tmp_path / "5.tfrecord")],
            "elwc",
            Options(label_column="relevance"),
        ),
        ([one], "csv", Options(label_column="grade")),
    ]
    for paths, input_format, options in cases:
        errors = []
        for engine in (None, BeamEngine()):
            with pytest.raises(PipelineError) as caught:
                convert(
                    paths,
                    str(tmp_path / "out"),
                    input_format=input_format,
                    options=options,
                    report=lambda line: None,
                    engine=engine,
                )
            errors.append((type(caught.value), str(caught.value)))
        assert errors[0] == errors[1]
    assert not (tmp_path / "out").exists()


def test_an_empty_input_is_the_same_error(tmp_path):
    path = write(tmp_path / "a.txt", "# nothing\n\n")
    table = write(tmp_path / "a.csv", "qid,label,x\n")
    for name, input_format, options in (
        (path, "libsvm", Options()),
        (path, "libsvm", Options(num_features=3)),
        (table, "csv", Options(feature_columns=("x",))),
    ):
        for engine in (None, BeamEngine()):
            with pytest.raises(DataError, match="at least one document"):
                convert(
                    name,
                    str(tmp_path / "out"),
                    input_format=input_format,
                    options=options,
                    engine=engine,
                )
    assert sorted(os.listdir(tmp_path)) == ["a.csv", "a.txt"]


def test_a_second_run_gives_the_same_bytes_and_replaces_its_split(tmp_path):
    paths, out = libsvm_files(tmp_path), tmp_path / "out"
    found = []
    for num_shards in (3, 5, 3):
        convert(paths, str(out), num_shards=num_shards, engine=BeamEngine())
        found.append({file.name: file.read_bytes() for file in out.iterdir()})
    assert found[0] == found[2]
    assert len(found[1]) == len(found[0]) + 2
    convert(paths, str(out), split="valid", engine=BeamEngine())
    with pytest.raises(ConfigError, match="in --output, none"):
        convert(paths, str(out), label_transform="log", engine=BeamEngine())


def test_bad_input_leaves_an_earlier_result_as_it_was(tmp_path):
    out = tmp_path / "out"
    path = write(tmp_path / "a.txt", sample_text())
    convert(path, str(out), engine=BeamEngine())
    before = {file.name: file.read_bytes() for file in out.iterdir()}
    write(tmp_path / "a.txt", sample_text() + BAD["malformed"])
    with pytest.raises(DataError):
        convert(path, str(out), engine=BeamEngine())
    assert {file.name: file.read_bytes() for file in out.iterdir()} == before


def test_the_command_runs_a_pipeline_if_asked(tmp_path, capsys):
    path = write(tmp_path / "a.txt", sample_text())
    out = tmp_path / "out"
    flags = ["convert", f"--input={path}", f"--output={out}"]
    assert main([*flags, "--runner"]) == 0
    said = capsys.readouterr()
    assert "4 queries, 12 documents, 5 features in 1 file" in said.out
    assert "in-process runner" in said.err
    for more, message in (
        (["--runner=flonk"], "--runner=flonk: "),
        (["--runner_args=--x"], "expected --runner beside it"),
        (["--runner", "--runner_args=--no_such_flag=1"], "found --no_such_flag"),
        (["--runner", "--runner_args='"], "as a shell takes them"),
        (["--runner=dataflow"], "--runner_args: "),
    ):
        assert main([*flags, *more]) == 2
        assert message in capsys.readouterr().err


def test_without_a_runner_beam_is_not_imported(tmp_path):
    path = write(tmp_path / "a.txt", sample_text())
    code = (
        "import sys; from tfr_pipeline.cli.main import main;"
        f"main(['convert', '--input={path}', '--output={tmp_path / 'out'}']);"
        "sys.exit('apache_beam' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_without_beam_the_command_names_what_to_install(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    path = write(tmp_path / "a.txt", sample_text())
    assert main(["convert", f"--input={path}", f"--output={tmp_path}", "--runner"]) == 2
    assert "pip install 'tfr_pipeline[beam]'" in capsys.readouterr().err


def test_a_pipe_is_refused_where_workers_are_elsewhere(tmp_path):
    engine = BeamEngine("PortableRunner", ["--job_endpoint=localhost:1"])
    path = tmp_path / "pipe"
    os.mkfifo(path)
    writer = subprocess.Popen(["sh", "-c", f"echo '1 qid:1 1:1' > {path}"])
    with pytest.raises(ConfigError, match="pipe is read by this machine alone"):
        convert(str(path), str(tmp_path / "out"), engine=engine)
    writer.wait(10)
    assert not (tmp_path / "out").exists()


def test_a_pipeline_of_another_server_gives_the_same(tmp_path, monkeypatch):
    paths = libsvm_files(tmp_path)
    server = subprocess.Popen(
        [
            *(sys.executable, "-m"),
            "apache_beam.runners.portability.local_job_service_main",
            *("--job_port", "0", "--port_file", str(tmp_path / "port")),
        ],
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 60
        while not (tmp_path / "port").exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        port = (tmp_path / "port").read_text()
        flags = [f"--job_endpoint=localhost:{port}", "--environment_type=LOOPBACK"]
        monkeypatch.chdir(tmp_path)  # which the workers need not be in
        names = [os.path.basename(path) for path in paths]
        engines = {"here": BeamEngine(), "there": BeamEngine("PortableRunner", flags)}
        for output, engine in engines.items():
            convert(names, output, num_shards=2, engine=engine)
        for file in (tmp_path / "here").iterdir():
            assert file.read_bytes() == (tmp_path / "there" / file.name).read_bytes()
        write(tmp_path / "bad.txt", BAD["malformed"])
        with pytest.raises(DataError, match=r"bad.txt:2: expected 'index:value'"):
            convert([*names, "bad.txt"], "out", engine=engines["there"])
        assert not (tmp_path / "out").exists()
    finally:
        server.kill()
        server.wait()


def files_of_a_long_run(folder: pathlib.Path) -> str:
    """Writes files that take seconds; returns what matches them."""
    (folder / "in").mkdir()
    text = sample_text(queries=300, documents=20, features=30)
    for number in range(24):
        other = text.replace("qid:", f"qid:{number}_")
        write(folder / "in" / f"{number:02d}.txt", other)
    return str(folder / "in")


def processes_of(session: int) -> list[int]:
    """Returns the processes of a session, the first aside, from /proc."""
    found = []
    for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        pid = int(stat.parent.name)
        if int(fields[3]) == session and fields[0] != "Z" and pid != session:
            found.append(pid)
    return found


@pytest.mark.slow  # three processes
@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("victim", ["SIGTERM", "SIGINT", "SIGKILL", "worker"])
def test_a_stopped_pipeline_leaves_no_output_and_no_process(tmp_path, victim, workers):
    if (victim, workers) == ("worker", 1):
        pytest.skip("has no other process")
    folder, out = files_of_a_long_run(tmp_path), tmp_path / "out"
    flags = [f"--input={folder}", f"--output={out}", f"--workers={workers}"]
    command = [sys.executable, "-m", "tfr_pipeline", "convert", *flags, "--runner"]
    with open(tmp_path / "said", "w") as said:
        process = subprocess.Popen(
            command, cwd=ROOT, stderr=said, stdout=said, start_new_session=True
        )
    try:
        deadline = time.monotonic() + 60
        while not list(out.glob(".train.*.tmp/read-*")):
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.02)
        if victim == "worker":
            os.kill(processes_of(process.pid)[0], signal.SIGKILL)
        else:
            process.send_signal(getattr(signal, victim))
        codes = {"SIGTERM": 143, "SIGINT": 130, "SIGKILL": -9, "worker": 1}
        assert process.wait(60) == codes[victim]
        assert "Traceback" not in (tmp_path / "said").read_text()
        if victim == "SIGKILL":
            assert [name[:7] for name in os.listdir(out)] == [".train."]
        else:
            assert not out.exists()
        deadline = time.monotonic() + 20
        while processes_of(process.pid) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert not processes_of(process.pid)
    finally:
        process.kill()
    if victim == "SIGKILL":
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert json.loads((out / "train.stats.json").read_text())["queries"] == 7200


def test_a_shard_that_cannot_be_written_leaves_nothing(tmp_path):
    path = write(tmp_path / "a.txt", sample_text(queries=500))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    try:
        with pytest.raises(RunError, match="cannot be written: File too large"):
            convert(path, str(tmp_path / "out"), engine=BeamEngine())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert os.listdir(tmp_path) == ["a.txt"]


def test_real_letor_parts_give_the_same(shared_data, tmp_path):
    parts = sorted((shared_data / "clueweb09_letor").glob("P*.txt.gz"))
    assert len(parts) == 5
    plain, piped = both(tmp_path, list(map(str, parts)), "libsvm", num_shards=4)
    check_same(plain, piped)


def test_processes_write_the_bytes_that_one_writes(tmp_path):
    paths = libsvm_files(tmp_path)
    for workers in (1, 2):
        convert(
            paths,
            str(tmp_path / f"{workers}"),
            num_shards=3,
            num_workers=workers,
            label_transform="quantiles:3",
            engine=BeamEngine(),
        )
    for file in (tmp_path / "1").iterdir():
        assert file.read_bytes() == (tmp_path / "2" / file.name).read_bytes()
