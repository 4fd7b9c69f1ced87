"""Two hosts: network namespaces with an ssh server each, and a cable between them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
import uuid

import pytest

from tests.cluster.launching import ROOT, finished, launch
from tests.cluster.sshd import Sshd
from tests.pipeline.test_resume import TRAIN, exported, load, run_config
from tests.pipeline.training_helpers import environment, make_data, read_history

SCRIPT = ROOT / "tests" / "cluster" / "namespaces.sh"
HOSTS = ("10.77.0.1", "10.77.0.2")


@pytest.fixture
def cable(tmp_path):
    """Returns what cuts and joins the cable, the ssh client, and how to get inside."""
    if os.geteuid() != 0 or not shutil.which("ip"):
        pytest.skip("needs root and ip (iproute2), for network namespaces")
    name = f"tfr-{uuid.uuid4().hex[:6]}"

    def pull(what):
        subprocess.run([SCRIPT, what, name], check=True)

    servers = []
    try:
        try:
            pull("up")
        except subprocess.CalledProcessError:
            pytest.skip("needs to be allowed to make network namespaces")
        inside = [("ip", "netns", "exec", f"{name}-{side}") for side in "ab"]
        servers = [Sshd(tmp_path / "sshd", 2200, prefix) for prefix in inside]
        for host in HOSTS:
            servers[0].wait(host, inside[0])
        yield pull, servers[0].client, inside[0]
    finally:
        for server in servers:
            server.close()
        pull("down")


def count(script):
    """How many processes run a script."""
    found = subprocess.run(["pgrep", "-fc", script], capture_output=True, check=False)
    return int(found.stdout)


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [5, 45])
def test_a_job_on_two_hosts_survives_a_cable_that_is_out_for_a_while(
    cable, tmp_path, seconds
):
    pull, ssh, inside = cable
    config = run_config(
        make_data(tmp_path / "data"),
        tmp_path / "run",
        strategy="MultiWorkerMirroredStrategy",
    )
    variables = environment()
    process = launch(
        *("env", f"PYTHONPATH={variables['PYTHONPATH']}", "TF_CPP_MIN_LOG_LEVEL=3"),
        *(sys.executable, "-c", TRAIN, json.dumps(config)),
        *(tmp_path / "weights.npz", 0.7),
        launcher="ssh.sh",
        inside=inside,
        hosts=",".join(HOSTS),
        ssh=ssh,
        dir=ROOT,
        hang_timeout=20,
        max_restarts=20,
    )
    lines = []
    for line in process.stdout:
        lines.append(line)
        if line == "[worker 0] step 14\n":
            break
    else:
        raise AssertionError("".join(lines[-30:]))
    pull("cut")
    time.sleep(seconds)
    pull("join")
    code, out = finished(process, timeout=300)
    assert code == 0, out[-3000:]
    assert [row["step"] for row in read_history(tmp_path / "run")] == [10, 20, 30, 40]
    assert ("restart" in out) == (seconds > 20)
    trained = {array.tobytes() for array in load(tmp_path / "weights.npz")}
    for array in exported(tmp_path / "run")["latest_model", "40"]:
        assert array.tobytes() in trained
    assert not count(str(tmp_path / "weights.npz"))
