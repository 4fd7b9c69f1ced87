"""`launch/kubernetes/`: manifests by their schemas, their commands in pods."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys

import pytest
import yaml

from configs.letor import get_config
from tests.cluster.pods import (
    MANIFESTS,
    IndexedJob,
    Pods,
    container_command,
    container_environment,
    make_image,
    read_manifest,
    signal_container,
)
from tests.cluster.slurm_helpers import until
from tests.pipeline.training_helpers import (
    ROOT,
    environment,
    make_data,
    read_history,
    read_json,
)

INDEXED = ["indexed_job.yaml", "indexed_job_ps.yaml"]


@pytest.mark.parametrize("path", sorted(p.name for p in MANIFESTS.glob("*.yaml")))
def test_manifests_are_valid_in_strict_mode(path):
    validate = pytest.importorskip(
        "kubernetes_validate", reason="needs pip install kubernetes-validate"
    ).validate
    resources = list(yaml.safe_load_all((MANIFESTS / path).read_text()))
    for resource in resources:
        if resource["kind"] == "TFJob":
            # Kubernetes has no schema of it, but of the pods within.
            for replica in resource["spec"]["tfReplicaSpecs"].values():
                assert set(replica) == {"replicas", "restartPolicy", "template"}
                pod = {"apiVersion": "v1", "kind": "Pod", **replica["template"]}
                validate(pod, "1.31", strict=True)
        else:
            validate(resource, "1.31", strict=True)
    wrong = json.loads(json.dumps(resources[-1]))
    wrong["metadata"]["nmae"] = "x"
    if wrong["kind"] != "TFJob":
        with pytest.raises(Exception, match="nmae"):
            validate(wrong, "1.31", strict=True)


@pytest.mark.parametrize("path", INDEXED)
def test_names_of_service_volume_and_job_fit_each_other(path):
    found = read_manifest(path)
    job, name = found["Job"]["spec"], found["Job"]["metadata"]["name"]
    pod = job["template"]["spec"]
    service = found["Service"]
    assert pod["subdomain"] == service["metadata"]["name"]
    assert service["spec"]["selector"] == {"batch.kubernetes.io/job-name": name}
    assert service["spec"]["publishNotReadyAddresses"] is True
    (volume,) = pod["volumes"]
    claim = volume["persistentVolumeClaim"]["claimName"]
    assert claim == found["PersistentVolumeClaim"]["metadata"]["name"]
    (container,) = pod["containers"]
    rule = job["podFailurePolicy"]["rules"][0]["onExitCodes"]
    assert rule["containerName"] == container["name"]
    assert job["completions"] == job["parallelism"]
    assert pod["terminationGracePeriodSeconds"] > 60  # the default of --grace


def test_commands_set_keys_that_their_config_has():
    config = get_config("dnn")
    paths = [*(ROOT / "launch").rglob("*.*"), *(ROOT / "docs").glob("launch_*.md")]
    found = set()
    for path in paths:
        for key in re.findall(r"--config\.([\w.]+)=", path.read_text()):
            here = config
            for part in key.split("."):
                assert part in here, f"{path}: {key}"
                here = here[part]
            found.add(key)
    assert {"data.dir", "model_dir", "pipeline.strategy", "pipeline.tpu"} <= found


def run_container(path, index, *more, **extra):
    """Runs the command of a manifest here, with the environment of a pod."""
    job = read_manifest(path)["Job"]
    command = container_command(job)
    cut = command.index("--")
    command = [sys.executable, *command[1:cut], *more, *command[cut:]]
    return subprocess.run(
        command,
        cwd=ROOT,
        env={**environment(), **container_environment(job, index), **extra},
        capture_output=True,
        text=True,
        check=False,
    )


def test_each_index_has_its_own_task():
    done = run_container("indexed_job_ps.yaml", 0, "--dry_run")
    assert done.returncode == 0, done.stderr
    found = dict(re.findall(r"^# (.*)\nTF_CONFIG='(.*?)'", done.stdout, re.M))
    names = ["chief 0", "worker 0", "worker 1", "ps 0", "ps 1", "evaluator 0"]
    assert list(found) == names
    hosts = [f"train-ps-{index}.train-ps:2223" for index in range(5)]
    for name, text in found.items():
        config, (job, index) = json.loads(text), name.split()
        assert config["task"] == {"type": job, "index": int(index)}
        assert config["cluster"] == {
            "chief": hosts[:1],
            "worker": hosts[1:3],
            "ps": hosts[3:],
        }
    assert (
        len(names) == read_manifest("indexed_job_ps.yaml")["Job"]["spec"]["completions"]
    )


@pytest.mark.parametrize(
    ("index", "extra", "told"),
    [
        (2, {}, "expected a number below 2, one for each task. Found: 2"),
        (0, {"JOB_SERVICE": ""}, "Not set: JOB_SERVICE"),
    ],
)
def test_a_pod_that_does_not_fit_the_job_is_explained(index, extra, told):
    done = run_container("indexed_job.yaml", index, **extra)
    assert done.returncode == 2
    assert told in done.stderr


@pytest.fixture
def pods(request, tmp_path):
    """Starts containers of a manifest, and ends them all."""
    job = IndexedJob(getattr(request, "param", INDEXED[0]), tmp_path)
    yield job
    job.close()


def instead(script, *flags):
    """The command of the manifest, with a script in place of the training."""
    command = container_command(read_manifest("indexed_job.yaml")["Job"])
    return [*command[: command.index("--")], *flags, "--", "python", "-c", script]


SAVE = """
import os, signal, sys, time
def end(*_):
    print("saved")
    sys.exit(143)
signal.signal(signal.SIGTERM, end)
print("up", os.environ["TF_CONFIG"])
while not os.path.exists("/mnt/done"):
    time.sleep(0.1)
"""


@pytest.mark.slow
def test_a_job_gets_over_the_eviction_of_any_of_its_pods(pods, tmp_path):
    logs = [tmp_path / "0.log", tmp_path / "1.log"]
    command = instead(SAVE)

    def up(count):
        until(lambda: logs[0].read_text().count("] up ") == count)

    first = pods.start(0, logs[0], command=command)
    # The first pod waits for the second, which it knows by name only.
    until(lambda: "waiting for train-1.train:2222" in logs[0].read_text())
    second = pods.start(1, logs[1], command=command)
    up(2)
    # The second is evicted: its task saves, and goes on where it is scheduled next.
    signal_container(second, signal.SIGTERM)
    assert second.wait(30) == 143
    until(lambda: "restart (not counted) in 1 s" in logs[0].read_text())
    second = pods.start(1, logs[1], command=command)
    up(4)
    # Its node dies, without a word.
    signal_container(second, signal.SIGKILL)
    second.wait(30)
    second = pods.start(1, logs[1], command=command)
    up(6)
    # The first is evicted: all save; the second waits for the first.
    signal_container(first, signal.SIGTERM)
    assert first.wait(30) == 143
    first = pods.start(0, logs[0], command=command)
    up(8)
    (tmp_path / "mnt" / "done").touch()
    assert first.wait(30) == 0, logs[0].read_text()
    assert second.wait(30) == 0, logs[1].read_text()
    out = logs[0].read_text()
    assert out.count("[worker 1] saved") == 2
    assert "restart 1 of 3" in out and "restart 2" not in out
    ports = re.findall(r"\[worker 1\] up .*train-1.train:(\d+)", out)
    assert ports == ["2223", "2224", "2225", "2223"]
    assert "[pod] the job is done" in logs[1].read_text()


def test_bad_usage_ends_the_first_pod_with_the_code_that_fails_the_job(pods, tmp_path):
    command = instead("import sys; sys.exit(2)")
    other = pods.start(1, tmp_path / "1.log", command=command)
    first = pods.start(0, tmp_path / "0.log", command=command)
    assert first.wait(30) == 2
    assert other.poll() is None
    signal_container(other, signal.SIGTERM)
    assert other.wait(30) == 143


def test_whoever_tries_the_port_does_not_disturb_a_task(pods, tmp_path):
    logs = [tmp_path / "0.log", tmp_path / "1.log"]
    running = [pods.start(i, logs[i], command=instead(SAVE)) for i in range(2)]
    until(lambda: logs[0].exists() and logs[0].read_text().count("] up ") == 2)
    script = """
import socket
for text in (b"", b"GET / HTTP/1.1\\r\\n\\r\\n", b"{}\\n", b"\\xff\\n", b"[1]\\n"):
    with socket.create_connection(("train-1.train", 2222), 5) as one:
        one.sendall(text)
"""
    other = pods.start(0, tmp_path / "log", command=["python", "-c", script])
    assert other.wait(30) == 0, (tmp_path / "log").read_text()
    (tmp_path / "mnt" / "done").touch()
    assert [process.wait(30) for process in running] == [0, 0]
    assert logs[0].read_text().count("] up ") == 2


SMALL = [
    "--config.pipeline.num_epochs=3",
    "--config.data.train_batch_size=4",
    "--config.model.scorer_args.hidden_layer_dims=(8,)",
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("pods", "restart"),
    list(zip(INDEXED, ["", ", worker 0 alone"], strict=True)),
    indirect=["pods"],
)
def test_an_indexed_job_trains_and_goes_on_after_the_loss_of_a_pod(
    pods, restart, tmp_path
):
    mnt = tmp_path / "mnt"
    os.rename(make_data(tmp_path / "made", queries=240), mnt / "data")
    count = pods.size
    logs = [tmp_path / f"{index}.log" for index in range(count)]
    running = [pods.start(index, logs[index], *SMALL) for index in range(count)]
    run = mnt / "runs/letor"
    history = run / "history.csv"
    until(lambda: history.exists() and len(read_history(run)) == 1, 240)
    signal_container(running[1], signal.SIGKILL)
    running[1].wait(30)
    running[1] = pods.start(1, logs[1], *SMALL)
    assert running[0].wait(300) == 0, logs[0].read_text()[-3000:]
    assert [process.wait(60) for process in running] == count * [0]
    out = logs[0].read_text()
    assert f"restart 1 of 3 in 1 s{restart}\n" in out
    assert "restart 2" not in out
    assert [row["step"] for row in read_history(run)] == [60, 120, 180]
    assert read_json(run / "metrics.json")["step"] == 180
    (export,) = (run / "export/latest_model").glob("[0-9]*")
    assert export.name == "180"


@pytest.mark.slow
def test_the_tfjob_trains_with_the_tf_config_of_its_operator(tmp_path):
    replicas = read_manifest("tfjob.yaml")["TFJob"]["spec"]["tfReplicaSpecs"]
    tasks, cluster = [], {}
    for kind, replica in replicas.items():
        for index in range(replica["replicas"]):
            job = kind.lower()
            name = f"train-tfjob-{job}-{index}.default.svc"
            tasks.append((job, index, name, replica))
            if job != "evaluator":  # which the operator leaves out
                cluster.setdefault(job, []).append(f"{name}:2222")
    names = [name for _, _, name, _ in tasks]
    pods = Pods(names, tmp_path / "mnt", make_image(tmp_path / "bin"))
    try:
        made = make_data(tmp_path / "made", queries=240)
        os.rename(made, tmp_path / "mnt" / "data")
        running = []
        for number, (job, index, name, replica) in enumerate(tasks):
            config = {
                "cluster": cluster,
                "task": {"type": job, "index": index},
                "environment": "cloud",
            }
            running.append(
                pods.start(
                    number,
                    tmp_path / f"{name}.log",
                    container_command({"spec": replica}, *SMALL),
                    {"TF_CONFIG": json.dumps(config), "GRPC_FAIL_FAST": "use_caller"},
                )
            )
        log = tmp_path / f"{names[0]}.log"
        assert running[0].wait(240) == 0, log.read_text()[-3000:]
        for process in running[1:]:  # cleanPodPolicy: Running
            signal_container(process, signal.SIGTERM)
        ends = [process.wait(60) for process in running]
        jobs = [job for job, *_ in tasks]
        assert jobs == ["chief", "worker", "worker", "ps", "ps", "evaluator"]
        assert ends == [0, 143, 143, 143, 143, 0]
        run = tmp_path / "mnt/runs/letor"
        assert [row["step"] for row in read_history(run)] == [60, 120, 180]
        assert (run / "export/latest_model/180/saved_model.pb").exists()
    finally:
        pods.close()
