"""`launch/tpu_vm.sh`, with a program in gcloud's place: there is no TPU here."""

from __future__ import annotations

import shlex
import signal
import sys

import pytest

from tests.cluster.launching import ROOT, finished, gone, launch, pids


@pytest.fixture
def gcloud(tmp_path):
    """A folder with a gcloud that runs the command here, in a shell."""
    folder = tmp_path / "bin"
    folder.mkdir()
    program = folder / "gcloud"
    program.write_text(
        f"#!{sys.executable}\n"
        "import os, sys\n"
        "print('gcloud', *sys.argv[1:-1])\n"
        "sys.stdout.flush()\n"
        "assert sys.argv[-1].startswith('--command=')\n"
        "os.execv('/bin/sh', ['sh', '-c', sys.argv[-1].partition('=')[2]])\n"
    )
    program.chmod(0o755)
    return folder


def launch_tpu(gcloud, *words, **flags):
    flags = {"tpu": "t", "zone": "z", "dir": ROOT, "python": sys.executable, **flags}
    path = f"{gcloud}:/usr/bin:/bin"
    return launch(
        *words, launcher="tpu_vm.sh", workers=None, environ={"PATH": path}, **flags
    )


def test_a_dry_run_prints_the_command_for_a_shell(gcloud):
    process = launch_tpu(gcloud, "echo", "it's $HOME", dry_run=True, project="p")
    code, out = finished(process)
    assert code == 0
    words = shlex.split(out)
    assert words[:-1] == shlex.split(
        "gcloud compute tpus tpu-vm ssh t --zone=z --project=p --worker=0"
    )
    assert words[-1].endswith("""--silence=60 -- echo 'it'"'"'s $HOME'""")


def test_what_is_run_arrives_word_by_word_and_is_restarted(gcloud, tmp_path):
    script = """
import os, pathlib, sys
print(sys.argv[2])
mark = pathlib.Path(sys.argv[1])
if not mark.exists():
    mark.touch()
    sys.exit(1)
"""
    odd = 'it\'s "odd" $HOME `id` \\ *'
    code, out = finished(launch_tpu(gcloud, tmp_path / "mark", odd, script=script))
    assert code == 0, out
    assert out.count(f"[worker 0] {odd}\n") == 2
    assert "[job] restart 1 of 3" in out
    assert "gcloud compute tpus tpu-vm ssh t --zone=z --worker=0\n" in out


def test_sigterm_saves_over_there(gcloud):
    script = """
import os, signal, sys, time
def end(*_):
    print("saved", flush=True)
    sys.exit(143)
signal.signal(signal.SIGTERM, end)
print("pid", os.getpid(), flush=True)
time.sleep(300)
"""
    process = launch_tpu(gcloud, script=script)
    tasks = pids(process, 1)
    process.send_signal(signal.SIGTERM)
    code, out = finished(process)
    assert code == 143
    assert "saved" in out
    assert all(gone(pid) for pid in tasks.values())


def test_all_hosts_run_a_command_once_and_bare(gcloud):
    words = ["sh", "-c", "echo here; exit 3"]
    code, out = finished(launch_tpu(gcloud, *words, worker="all", grace=5))
    assert code == 3
    assert "--worker=all\nhere\n" in out
    assert out.count("without effect") == 1 and "--grace: without effect" in out
