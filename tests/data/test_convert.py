"""`convert` as a whole: what it writes, and that it writes all or nothing."""

from __future__ import annotations

import argparse
import io
import json
import os
import pathlib
import resource
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data.conversion_helpers import all_records, libsvm_text, sample_text, write
from tfr_pipeline.cli import convert as command
from tfr_pipeline.compat import tf
from tfr_pipeline.data.convert.conversion import convert
from tfr_pipeline.data.progress import Progress
from tfr_pipeline.data.sources import libsvm_chunks
from tfr_pipeline.data.sources.options import Options
from tfr_pipeline.errors import ConfigError, DataError, RunError
from tfr_pipeline.features import Feature, Features

ROOT = pathlib.Path(__file__).resolve().parents[2]


def run(*flags: str) -> int:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return command.run(parser.parse_args(flags))


def quiet(_: str) -> None:
    """Takes the lines for the user."""


def parsed_documents(folder: pathlib.Path) -> list[tuple[str, float, list[float], str]]:
    """Returns query, label, features and id of each document, parsed by TensorFlow."""
    input_pb2 = pytest.importorskip("tensorflow_serving.apis.input_pb2")
    features = Features.load(str(folder))
    label, label_spec = features.label_spec
    spec = {
        **features.example_spec,
        label: label_spec,
        "docid": tf.io.FixedLenFeature([], tf.string),
    }
    result = []
    for record in all_records(folder):
        elwc = input_pb2.ExampleListWithContext.FromString(record)
        query = elwc.context.features.feature["qid"].bytes_list.value[0].decode()
        rows = tf.io.parse_example(
            [example.SerializeToString() for example in elwc.examples], spec
        )
        matrix = np.concatenate([rows[n].numpy() for n in features.example], axis=1)
        for row, number, name in zip(
            matrix, rows[label].numpy()[:, 0], rows["docid"].numpy(), strict=True
        ):
            result.append((query, float(number), row.tolist(), name.decode()))
    return result


float32 = st.floats(allow_nan=False, allow_infinity=False, width=32)


@settings(max_examples=20, deadline=None)
@given(
    st.lists(
        st.lists(
            st.tuples(
                st.integers(0, 4),
                st.dictionaries(st.integers(1, 6), float32, max_size=6),
            ),
            min_size=1,
            max_size=4,
        ),
        min_size=1,
        max_size=6,
    ),
    st.booleans(),
    st.integers(1, 3),
)
def test_text_converted_and_parsed_is_what_was_written(
    tmp_path_factory: pytest.TempPathFactory,
    queries: list[list[tuple[int, dict[int, float]]]],
    scalar: bool,
    num_shards: int,
) -> None:
    folder = tmp_path_factory.mktemp("round_trip")
    rows = [
        (float(grade), f"q{query}", features)
        for query, documents in enumerate(queries)
        for grade, features in documents
    ]
    convert(
        write(folder / "a.txt", libsvm_text(rows)),
        str(folder / "out"),
        options=Options(num_features=6),
        scalar_features=scalar,
        num_shards=num_shards,
        report=quiet,
    )
    expected = [
        (query, grade, [features.get(index, 0.0) for index in range(1, 7)], str(line))
        for line, (grade, query, features) in enumerate(rows, 1)
    ]
    assert parsed_documents(folder / "out") == expected


def test_the_folder_holds_shards_description_and_statistics(
    tmp_path: pathlib.Path,
) -> None:
    path = write(tmp_path / "a.txt", sample_text(queries=5, documents=3, features=4))
    code = run(f"--input={path}", f"--output={tmp_path / 'out'}", "--num_shards=2")
    assert code == 0
    assert sorted(os.listdir(tmp_path / "out")) == [
        "features.json",
        "train-00000-of-00002.tfrecord",
        "train-00001-of-00002.tfrecord",
        "train.index.npz",
        "train.stats.json",
    ]
    features = Features.load(str(tmp_path / "out"))
    columns = ("feature_1", "feature_2", "feature_3", "feature_4")
    vector = Feature("float32", (4,), 0.0, columns=columns)
    reading = {"input_format": "libsvm", "nan": "error"}
    assert features == Features(example={"features": vector}, reading=reading)


def test_statistics_are_those_of_the_data(tmp_path: pathlib.Path) -> None:
    text = (
        "2 qid:a 1:1 2:-4\n0 qid:a 1:3\n0 qid:a 2:nan\n0 qid:lonely 1:5\n"
        "0 qid:bad 1:1\n0 qid:bad 1:1\n"
    )
    lines: list[str] = []
    path = write(tmp_path / "a.txt", text)
    out = str(tmp_path / "out")
    stats = convert(path, out, options=Options(nan="keep"), report=lines.append)
    assert json.loads((tmp_path / "out" / "train.stats.json").read_text()) == stats
    assert (stats["queries"], stats["documents"]) == (3, 6)
    assert stats["grades"] == {"0": 5, "2": 1}
    length = stats["list_length"]
    assert (length["min"], length["mean"], length["max"]) == (1, 2, 3)
    assert length["quantiles"]["0.5"] == 2
    assert stats["lists_with_one_document"] == 1
    assert stats["lists_without_relevant_documents"] == 2
    first, second = stats["features"]["feature_1"], stats["features"]["feature_2"]
    assert first == {"min": 0, "max": 5, "mean": 11 / 6, "zeros": 1 / 6}
    assert second == {"min": -4, "max": 0, "mean": -0.8, "zeros": 4 / 6, "nonfinite": 1}
    assert stats["files"] == [{"path": path, "bytes": len(text)}]
    assert lines == [
        "warning: 1 of 3 lists have one document, e.g. query 'lonely'",
        "warning: 2 of 3 lists have no relevant document, e.g. query 'lonely'",
        "warning: 1 features are NaN or infinite. `train` takes NaN where a step of "
        "model.preprocess does, such as 'missing', and refuses what is infinite; "
        "--nan=zero makes all of them 0.",
    ]


def test_data_without_any_relevant_document_is_a_warning(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "a.txt", "0 qid:1 1:1\n0 qid:1 1:2\n")
    assert run(f"--input={path}", f"--output={tmp_path / 'out'}") == 0
    assert "training on this split is pointless" in capsys.readouterr().err


def test_any_number_of_workers_writes_the_same_bytes(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(libsvm_chunks.by_query, "__defaults__", (3000,))
    path = write(tmp_path / "a.txt", sample_text(queries=60, documents=5))
    for workers in (1, 2):
        convert(path, str(tmp_path / str(workers)), num_workers=workers, num_shards=3)
    for file in (tmp_path / "1").iterdir():
        assert file.read_bytes() == (tmp_path / "2" / file.name).read_bytes()


def test_features_seen_late_are_counted(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(libsvm_chunks.by_query, "__defaults__", (50,))
    text = sample_text(queries=20, features=2) + "1 qid:last 9:1\n"
    path = write(tmp_path / "a.txt", text)
    convert(path, str(tmp_path / "out"), report=quiet)
    assert parsed_documents(tmp_path / "out")[-1][2] == [0.0] * 8 + [1.0]


def test_a_rerun_replaces_all_shards_of_its_split_and_no_other(
    tmp_path: pathlib.Path,
) -> None:
    path = write(tmp_path / "a.txt", sample_text())
    out = tmp_path / "out"
    for split, num_shards in (("train", 3), ("valid", 1), ("train", 2)):
        convert(path, str(out), split=split, num_shards=num_shards)
    assert sorted(p.name for p in out.glob("*.tfrecord")) == [
        "train-00000-of-00002.tfrecord",
        "train-00001-of-00002.tfrecord",
        "valid-00000-of-00001.tfrecord",
    ]


def test_a_later_split_takes_the_number_of_features_of_the_earlier_one(
    tmp_path: pathlib.Path,
) -> None:
    out = tmp_path / "out"
    convert(write(tmp_path / "a.txt", "1 qid:1 1:1 7:1\n"), str(out), report=quiet)
    path = write(tmp_path / "b.txt", "1 qid:1 1:1\n")
    convert(path, str(out), split="valid", report=quiet)
    assert Features.load(str(out)).example["features"].shape == (7,)


def test_a_split_that_differs_from_the_earlier_one_is_an_error(
    tmp_path: pathlib.Path,
) -> None:
    out = tmp_path / "out"
    path = write(tmp_path / "a.txt", sample_text(features=3))
    convert(path, str(out))
    before = sorted(os.listdir(out))
    wrong = {
        r"'features': expected float32 of shape \(3,\).*found .*shape \(4,\)": {
            "options": Options(num_features=4)
        },
        "'features': expected .* found no such feature": {"scalar_features": True},
        "data_format: expected 'elwc', found 'packed'": {"output_format": "packed"},
    }
    for message, settings_ in wrong.items():
        with pytest.raises(DataError, match=message):
            convert(path, str(out), split="valid", **settings_)  # type: ignore[arg-type]
    wide = write(tmp_path / "b.txt", sample_text(features=4))
    with pytest.raises(DataError, match=r"b.txt:1: .* up to 3, found '4:"):
        convert(wide, str(out), split="valid")
    assert sorted(os.listdir(out)) == before


BAD = {
    "malformed": "1 qid:1 1:0.5\n1 qid:1 1;0.5\n",
    "not a label": "1 qid:1 1:0.5\nx qid:1 1:0.5\n",
    "negative grade": "1 qid:1 1:0.5\n-2 qid:1 1:0.5\n",
    "not finite": "1 qid:1 1:0.5\n1 qid:1 1:nan\n",
    "duplicate": "1 qid:1 1:0.5\n1 qid:1 1:0.5 1:2\n",
    "beyond": "1 qid:1 1:0.5\n1 qid:1 2:0.5\n",
    "zero based": "1 qid:1 1:0.5\n1 qid:1 0:0.5\n",
    "split query": "1 qid:0 1:0.5\n1 qid:1 1:1\n1 qid:0 1:0.5\n",
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_leaves_nothing_behind(case: str, tmp_path: pathlib.Path) -> None:
    path = write(tmp_path / "bad.txt", BAD[case])
    with pytest.raises(DataError, match=r"bad.txt:[23]:") as caught:
        run(f"--input={path}", f"--output={tmp_path / 'out'}", "--num_features=1")
    assert caught.value.exit_code == 1
    assert os.listdir(tmp_path) == ["bad.txt"]


def test_bad_input_leaves_an_earlier_result_as_it_was(tmp_path: pathlib.Path) -> None:
    out = tmp_path / "out"
    convert(write(tmp_path / "a.txt", sample_text()), str(out))
    before = {file.name: file.read_bytes() for file in out.iterdir()}
    for text in (BAD["malformed"], ""):
        with pytest.raises(DataError):
            convert(write(tmp_path / "a.txt", text), str(out))
    assert {file.name: file.read_bytes() for file in out.iterdir()} == before


def test_a_full_disk_leaves_nothing_behind(tmp_path: pathlib.Path) -> None:
    path = write(tmp_path / "a.txt", sample_text(queries=500))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    try:
        with pytest.raises(RunError, match="out: cannot be written: File too large"):
            convert(path, str(tmp_path / "out"), num_workers=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert os.listdir(tmp_path) == ["a.txt"]


def test_progress_is_a_bar_on_a_terminal_and_lines_elsewhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = iter(range(0, 1000, 100))
    monkeypatch.setattr(time, "monotonic", lambda: float(next(clock)))
    plain, terminal = io.StringIO(), io.StringIO()
    terminal.isatty = lambda: True  # type: ignore[method-assign]
    for stream in (plain, terminal):
        progress = Progress(1000, "converting", stream)
        progress.update(500, 4000)
        progress.clear()
    assert plain.getvalue() == "converting:  50%, 4,000 documents, 40/s\n"
    assert terminal.getvalue().startswith("\r[##########          ] converting:  50%")
    assert terminal.getvalue().endswith("\r\x1b[K")


def test_errors_of_workers_are_errors_of_the_command(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(libsvm_chunks.by_query, "__defaults__", (2000,))
    path = write(tmp_path / "a.txt", sample_text(queries=60) + "oops qid:x 1:1\n")
    with pytest.raises(DataError, match=r"a.txt:181: expected a number as label"):
        convert(path, str(tmp_path / "out"), num_workers=2)
    assert os.listdir(tmp_path) == ["a.txt"]


@pytest.mark.usefixtures("hangups")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_a_stopped_conversion_leaves_no_output_and_no_process(
    number: signal.Signals, tmp_path: pathlib.Path
) -> None:
    path = write(tmp_path / "a.txt", sample_text(queries=3000, documents=20))
    script = tmp_path / "script.py"
    script.write_text(
        "import time\n"
        "import tfr_pipeline.data.sources.libsvm_chunks as chunks\n"
        "from tfr_pipeline.data.convert.conversion import convert\n"
        "def slowly(paths, size=0, read=chunks.by_query):\n"
        "    for chunk in read(paths, 100_000):\n"
        "        time.sleep(0.05)\n"
        "        yield chunk\n"
        "if __name__ == '__main__':\n"
        "    chunks.by_query = slowly\n"
        f"    convert({path!r},"
        f" {str(tmp_path / 'out')!r}, num_workers=2)\n"
    )
    process = subprocess.Popen(
        [sys.executable, str(script)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            shards = list(tmp_path.glob("out/.train.*.tmp/*.tfrecord"))
            if shards and shards[0].stat().st_size:
                break
            time.sleep(0.05)
        else:
            pytest.fail("the conversion did not start to write")
        process.send_signal(number)
        assert process.wait(30) != 0
        assert not list(tmp_path.glob("out/train*"))
        assert not (tmp_path / "out" / "features.json").exists()
        if number is not signal.SIGKILL:
            assert not (tmp_path / "out").exists()
        deadline = time.monotonic() + 20
        while _processes_of(process.pid) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert not _processes_of(process.pid)
    finally:
        process.kill()


def _processes_of(session: int) -> list[int]:
    """Returns the processes of a session, from /proc."""
    found = []
    for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == session and fields[0] != "Z":
            found.append(int(stat.parent.name))
    return found


def test_wrong_settings_are_config_errors(tmp_path: pathlib.Path) -> None:
    path = write(tmp_path / "a.txt", sample_text())
    flags = {
        "--output_format=elcw": "did you mean 'elwc'",
        "--input_format=svm": "unknown input format",
        "--nan=zeros": "did you mean 'zero'",
        "--num_shards=0": "at least 1",
        "--workers=0": "at least 1",
        "--num_features=0": "at least 1",
        "--split=a/b": "--split",
    }
    for flag, message in flags.items():
        with pytest.raises(ConfigError, match=message) as caught:
            run(f"--input={path}", f"--output={tmp_path / 'out'}", flag)
        assert caught.value.exit_code == 2
    assert os.listdir(tmp_path) == ["a.txt"]


def test_flags_without_effect_are_warned_about(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "a.txt", sample_text())
    run(f"--input={path}", f"--output={tmp_path / 'out'}", "--qid_column=query")
    message = "warning: --qid_column has no effect with --input_format=libsvm"
    assert message in capsys.readouterr().err


def test_the_commands_import_neither_tensorflow_nor_numpy() -> None:
    code = (
        "import sys; from tfr_pipeline.cli import convert, synthesize;"
        "found = {'numpy', 'tensorflow', 'pyarrow'} & set(sys.modules);"
        "sys.exit(str(found) if found else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_conversion_does_not_import_tensorflow(tmp_path: pathlib.Path) -> None:
    path = write(tmp_path / "a.txt", sample_text())
    code = (
        "import sys; from tfr_pipeline.data.convert.conversion import convert;"
        f"convert({path!r}, {str(tmp_path / 'out')!r}); assert 'tensorflow' not in"
        " sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_real_letor_parts_convert_whole(
    shared_data: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    stats = convert(
        str(shared_data / "clueweb09_letor" / "P*.txt.gz"),
        str(tmp_path / "out"),
        output_format="packed",
        num_shards=4,
        report=quiet,
    )
    assert (stats["queries"], stats["documents"]) == (61, 26646)
    assert len(stats["features"]) == 42
    assert len(all_records(tmp_path / "out")) == 61
