"""`doctor`, on real environments, ports and folders."""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import socket
import subprocess
import sys

import pytest

from tfr_pipeline.cli import doctor, doctor_cluster
from tfr_pipeline.cli.finding import FAIL, OK, WARN, Finding
from tfr_pipeline.cli.quiet import native_messages_hidden
from tfr_pipeline.cluster import cluster_spec
from tfr_pipeline.features import Feature, Features

WORKERS = {"worker": ["localhost:21001", "localhost:21002"]}


def tf_config(cluster: object = WORKERS, **task: object) -> str:
    task = {"type": "worker", "index": 0, **task}
    return json.dumps({"cluster": cluster, "task": task})


def failures(text: str | None) -> list[Finding]:
    return [f for f in doctor_cluster.check_tf_config(text) if f.level == FAIL]


def run(*arguments: str) -> int:
    parser = argparse.ArgumentParser()
    doctor.add_arguments(parser)
    return doctor.run(parser.parse_args(arguments))


def test_a_system_without_affinity_has_all_its_cores(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity")  # as on macOS
    found = {finding.what: finding for finding in doctor.check_machine()}
    assert found["CPUs"].found == f"{os.cpu_count()} usable of {os.cpu_count()}"


@pytest.fixture
def data(tmp_path: pathlib.Path) -> pathlib.Path:
    """A folder as `convert` leaves it, with two shards a split."""
    Features(example={"features": Feature("float32", (3,), 0.0)}).save(str(tmp_path))
    for split in ("train", "valid"):
        for shard in range(2):
            name = f"{split}-{shard:05d}-of-00002.tfrecord"
            (tmp_path / name).write_bytes(b"records")
        stats = {"queries": 7, "documents": 70}
        (tmp_path / f"{split}.stats.json").write_text(json.dumps(stats))
    return tmp_path


@pytest.fixture
def taken_port():
    with socket.socket() as server:
        server.bind(("", 0))
        server.listen()
        yield server.getsockname()[1]


def test_a_sound_installation_and_data_set_pass(data, monkeypatch, capsys) -> None:
    monkeypatch.delenv("TF_CONFIG", raising=False)
    assert run(f"--data={data}") == 0
    lines = capsys.readouterr().out.splitlines()
    assert all(line.startswith(("ok    ", "warn  ")) for line in lines)
    report = "\n".join(lines)
    assert "Keras behind tf.keras         tf_keras 2." in report
    assert "2 files, 7 queries, 70 documents" in report


def test_a_warning_or_failure_says_what_to_do(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("TF_CONFIG", "{")
    found = list(doctor.find(str(tmp_path), "0"))
    assert {"TF_CONFIG", "port 0", "data: train"} <= {
        finding.what for finding in found if finding.level == FAIL
    }
    assert all(finding.advice for finding in found if finding.level != OK)


def test_a_failure_makes_the_exit_code_1(monkeypatch, capsys) -> None:
    monkeypatch.setenv("TF_CONFIG", "not json")
    assert run() == 1
    assert "FAIL  TF_CONFIG" in capsys.readouterr().out


def test_tensorflow_prints_nothing_in_between() -> None:
    code = (
        "import argparse, sys; from tfr_pipeline.cli import doctor\n"
        "sys.exit(doctor.run(argparse.Namespace(data=None, port='')))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_hidden_messages_are_shown_when_it_fails(capfd) -> None:
    with pytest.raises(ValueError), native_messages_hidden():
        os.write(2, b"the reason")
        raise ValueError
    assert capfd.readouterr().err == "the reason"
    os.write(2, b"after")
    assert capfd.readouterr().err == "after"


def test_the_installed_versions_are_one_of_the_lanes() -> None:
    finding = doctor.check_lane(doctor.installed(doctor.PACKAGES))
    assert finding.level == OK, finding


def test_versions_that_do_not_belong_together_are_named() -> None:
    versions = {
        "tensorflow": "2.15.1",
        "tf-keras": "2.15.1",
        "tensorflow-ranking": "0.5.3",
    }
    finding = doctor.check_lane(versions)
    assert finding.level == WARN
    assert "tensorflow-ranking 0.5.3 (expected 0.5.5)" in finding.found
    assert "constraints/tf215.txt" in finding.advice


def test_an_unknown_tensorflow_is_another_lane() -> None:
    assert (
        doctor.check_lane({"tensorflow": "2.18.0"}).found == "other: TensorFlow 2.18.0"
    )


def test_a_package_that_is_missing_fails() -> None:
    versions = doctor.installed(("no-such-package-at-all",))
    missing = [f for f in doctor.check_versions(versions) if f.level == FAIL]
    assert [f.what for f in missing] == ["no-such-package-at-all"]


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        tf_config(),
        tf_config(index="1"),
        tf_config(type="evaluator"),
        tf_config({"chief": ["h:1"], "worker": ["h:2"], "ps": ["h:3"]}, type="ps"),
        tf_config({"chief": ["h:1"], "worker": {"1": "[::1]:80"}}, index=1),
    ],
)
def test_a_right_tf_config_passes(text) -> None:
    assert failures(text) == []


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("{", "not JSON"),
        ("[]", "a JSON list"),
        ("[" * 100_000, "not JSON"),
        ("9" * 5000, "not JSON"),
        (json.dumps({"cluster": WORKERS}), "task is None"),
        (tf_config({"worker": []}), "cluster.worker is []"),
        (tf_config({"worker": "h:1"}), "cluster.worker is 'h:1'"),
        (tf_config({"worker": ["h"]}), "cluster.worker[0] is 'h'"),
        (tf_config({"worker": ["h:70000"]}), "cluster.worker[0] is 'h:70000'"),
        (tf_config({"worker": ["http://h:1"]}), "cluster.worker[0] is 'http://h:1'"),
        (tf_config({"worker": ["h:1", "h:1"]}), "as is cluster.worker[0]"),
        (tf_config({"wroker": ["h:1"]}), "cluster has the job 'wroker'"),
        (tf_config({"chief": ["h:1", "h:2"]}, type="chief"), "2 chiefs"),
        (tf_config({"worker": ["h:1"], "ps": ["h:2"]}), "without a chief"),
        (tf_config(type="boss"), "task.type is 'boss'"),
        (tf_config(type="chief"), "the cluster has only worker"),
        (tf_config(index=2), "task.index is 2, but cluster.worker has 2"),
        (tf_config(index=-1), "task.index is -1"),
        (tf_config(index=True), "task.index is True"),
        (tf_config({"worker": {"1": "h:1"}}), "task.index is 0, not among 1"),
    ],
)
def test_a_wrong_tf_config_names_the_fault(text, found) -> None:
    findings = failures(text)
    assert any(found in f.found and f.advice for f in findings), findings


def test_a_task_whose_port_is_taken_is_warned(taken_port) -> None:
    text = tf_config({"worker": [f"localhost:{taken_port}"]})
    *_, last = doctor_cluster.check_tf_config(text)
    assert last.level == WARN and str(taken_port) in last.found


def test_a_taken_port_fails_and_a_free_one_passes(taken_port) -> None:
    with socket.socket() as server:
        server.bind(("", 0))
        free = server.getsockname()[1]
    _, taken, passed = doctor_cluster.check_ports(f"{taken_port},{free}")
    assert (taken.level, passed.level) == (FAIL, OK)


def test_a_missing_data_folder_fails(tmp_path) -> None:
    (finding,) = doctor.check_data(str(tmp_path / "absent"))
    assert finding.level == FAIL and "is not a folder" in finding.found


def test_a_broken_description_fails(data) -> None:
    (data / "features.json").write_text("{}")
    first, *_ = doctor.check_data(str(data))
    assert first.level == FAIL and "expected version 1" in first.found


def test_missing_validation_data_fails(data) -> None:
    for path in data.glob("valid-*"):
        path.unlink()
    finding = doctor.check_split(str(data), "valid")
    assert finding.level == FAIL and "--split=valid" in finding.advice


def test_a_missing_shard_fails(data) -> None:
    (data / "train-00001-of-00002.tfrecord").unlink()
    finding = doctor.check_split(str(data), "train")
    assert finding.level == FAIL and "1 files" in finding.found


def test_shards_of_two_conversions_fail(data) -> None:
    (data / "train-00000-of-00001.tfrecord").write_bytes(b"records")
    finding = doctor.check_split(str(data), "train")
    assert finding.level == FAIL and "[1, 2]" in finding.found


def test_shards_without_records_fail(data) -> None:
    for path in data.glob("train-*.tfrecord"):
        path.write_bytes(b"")
    assert doctor.check_split(str(data), "train").found == "all files are empty"


def test_missing_or_broken_statistics_are_a_warning(data) -> None:
    path = data / "train.stats.json"
    path.unlink()
    assert doctor.check_split(str(data), "train").level == WARN
    for content in ("[]", "{", '{"queries": null, "documents": 7}', "[" * 100_000):
        path.write_text(content)
        assert doctor.check_split(str(data), "train").level == WARN
    path.unlink()
    path.mkdir()
    assert doctor.check_split(str(data), "train").level == WARN


def test_a_finding_is_one_line_whatever_was_found() -> None:
    found = [*doctor_cluster.check_ports("1\n2"), *failures('{"cluster": {"a\\n": 1}}')]
    assert "port 1 2" in str(found[1])
    assert all("\n" not in str(finding) for finding in found)


def test_no_test_split_is_no_fault(data) -> None:
    assert doctor.check_split(str(data), "test").level == OK


@pytest.mark.parametrize(
    "text", ["{}", '{"cluster": {}}', '{"task": {"type": "worker", "index": 0}}']
)
def test_a_tf_config_without_a_cluster_is_one_process_as_for_train(text):
    assert cluster_spec.read(text) is None  # what `train` asks
    (found,) = doctor_cluster.check_tf_config(text)
    assert found.level == OK
