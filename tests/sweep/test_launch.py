"""Workers of a sweep in an array job of Slurm, and in a Job of Kubernetes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest
import yaml

from tests.cluster.slurm_helpers import Lab, until
from tests.pipeline.training_helpers import ROOT, environment
from tfr_pipeline.cli.sweep import add_arguments
from tfr_pipeline.cluster import slurm_array

optuna = pytest.importorskip("optuna")
SCRIPT = ROOT / "launch" / "sweep_slurm.sbatch"
CONFIG = """
from configs import letor

def get_config():
    config = letor.get_config("dnn")
    config.pipeline.num_epochs = 1
    config.model.scorer_args.hidden_layer_dims = (4,)
    return config

def get_sweep(hyper):
    return hyper.sweep("pipeline.learning_rate", [1e-3 * (i + 1) for i in range(9)])
"""


def launch(*words, **extra):
    """Runs the script as Slurm does."""
    clean = {k: v for k, v in environment().items() if not k.startswith("SLURM")}
    return subprocess.run(
        ["bash", SCRIPT, *words],
        env={**clean, "PYTHON": sys.executable, **extra},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_dry_run_of_the_script_shows_what_each_task_runs():
    done = launch("--dry_run", "--", "tfr-pipeline", "sweep", "--name=a b")
    assert (done.returncode, done.stdout) == (0, "tfr-pipeline sweep '--name=a b'\n")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--", "true"], "SLURM_JOB_ID is not set"),
        (["--array=3", "--", "true"], "--array=3"),
        (["tfr-pipeline", "sweep"], "expected -- and the command"),
    ],
)
def test_a_wrong_start_of_the_script_is_explained(words, told):
    done = launch(*words)
    assert done.returncode == 2
    assert told in done.stderr


@pytest.mark.parametrize("code", [0, 1, 75])
def test_the_script_ends_as_its_command_does(code):
    done = launch("--", "sh", "-c", f"exit {code}", SLURM_JOB_ID="7")
    assert done.returncode == code


def test_a_command_that_is_not_there_is_named():
    done = launch("--", "no-such-command", SLURM_JOB_ID="7")
    assert done.returncode == 127
    assert "no-such-command: No such file" in done.stderr


@pytest.mark.parametrize(
    ("left", "told"),
    [("1:00", "requeue 1 of 20"), ("9:00:00", "no requeue: time left is 9:00:00")],
)
def test_a_stopped_task_of_an_array_goes_on_at_the_time_limit(left, told, tmp_path):
    for name, script in (
        ("squeue", f'echo "$@" >{tmp_path}/asked; echo RUNNING {left}'),
        ("scontrol", f'echo "$@" >{tmp_path}/told'),
    ):
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    command = "trap 'exit 143' TERM; echo ready; while :; do sleep 0.05; done"
    process = subprocess.Popen(
        ["bash", SCRIPT, "--", "sh", "-c", command],
        env={
            **environment(PYTHON=sys.executable),
            "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}",
            **{"SLURM_JOB_ID": "9", "SLURM_ARRAY_JOB_ID": "7"},
            "SLURM_ARRAY_TASK_ID": "3",
        },
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 143
    assert told in out
    # The number of an array is that of all of its tasks.
    assert "-j 7_3 " in (tmp_path / "asked").read_text()
    requeued = (tmp_path / "told").exists()
    assert requeued == (left == "1:00")
    if requeued:
        assert (tmp_path / "told").read_text() == "requeue 7_3\n"


def test_a_job_that_is_no_array_has_its_number():
    assert slurm_array.name_of({"SLURM_JOB_ID": "9"}) == "9"
    assert slurm_array.name_of({}) is None


@pytest.mark.slow
@pytest.mark.parametrize("storage", ["journal", "postgresql"])
def test_an_array_of_three_joins_one_study(storage, tmp_path, data, request):
    url = f"journal:///{tmp_path}/study.log"
    if storage == "postgresql":
        url = request.getfixturevalue("postgresql").make_database("slurm", local=True)
    lab = Lab(tmp_path / "lab")
    try:
        (tmp_path / "config.py").write_text(CONFIG)
        words = [
            *(sys.executable, "-m", "tfr_pipeline", "sweep"),
            f"--config={tmp_path}/config.py",
            f"--config.data.dir={data}",
            f"--config.model_dir={tmp_path}/sweep",
        ]
        flags = ["--parsable", "--array=1-3", f"--output={tmp_path}/log-%a"]
        flags += ["--cpus-per-task=1", "--mem=0"]
        told = {"TFR_PIPELINE_STORAGE": url}
        job = lab.run("sbatch", *flags, SCRIPT, "--", *words, **told).strip()

        def ended():
            text = lab.run("squeue", "-h", "-a", "-j", job, "-o", "%T", "--states=all")
            states = text.split()
            over = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT")
            return states if all(state in over for state in states) else None

        states = until(ended, 300)
        logs = {n: (tmp_path / f"log-{n}").read_text() for n in (1, 2, 3)}
        assert states == ["COMPLETED"] * 3, logs
    finally:
        lab.close()
    from tfr_pipeline.sweep import standing

    found = standing.find(str(tmp_path / "sweep"), url)
    assert [row.state for row in found.rows] == ["complete"] * 9
    assert len({row.worker for row in found.rows}) == 3
    joined = [text for text in logs.values() if ": joined, sampler grid" in text]
    assert len(joined) == 2
    # Each trial was finished by one of them.
    said = [
        line.split(":")[0]
        for text in logs.values()
        for line in text.splitlines()
        if line.startswith("trial ") and "ndcg@10" in line
    ]
    assert sorted(said) == sorted(f"trial {number}" for number in range(9))


def test_the_job_of_kubernetes_gives_flags_that_there_are():
    resources = list(
        yaml.safe_load_all((ROOT / "launch/kubernetes/sweep.yaml").read_text())
    )
    claim, job = resources
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["command"] == ["tfr-pipeline", "sweep"]
    import argparse

    parser = argparse.ArgumentParser()
    add_arguments(parser)
    flags = [word for word in container["args"] if not word.startswith("--config.")]
    args = parser.parse_args(flags)
    assert args.trials and not args.dry_run and args.workers == 1
    # The password stands in a secret, from where workers look for it.
    (variable,) = container["env"]
    assert variable["name"] == "TFR_PIPELINE_STORAGE"
    assert "secretKeyRef" in variable["valueFrom"]
    # Pods that end with 0 end the Job, whatever the number of others.
    assert "completions" not in job["spec"]
    (volume,) = pod["volumes"]
    assert volume["persistentVolumeClaim"]["claimName"] == (claim["metadata"]["name"])
    rule = job["spec"]["podFailurePolicy"]["rules"][0]["onExitCodes"]
    assert rule["containerName"] == container["name"]
