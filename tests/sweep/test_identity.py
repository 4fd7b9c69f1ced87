"""Who is dead, and who only seems to be."""

from __future__ import annotations

import subprocess
import sys

from tfr_pipeline.sweep import identity

NAME = "from tfr_pipeline.sweep import identity; print(identity.here(), flush=True)"


def test_a_process_is_alive_until_it_has_ended():
    wait = f"{NAME}; input()"
    process = subprocess.Popen(
        [sys.executable, "-c", wait],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    name = process.stdout.readline().strip()
    assert identity.is_alive(name) is True
    process.kill()
    process.wait()
    assert identity.is_alive(name) is False
    process.communicate()


def test_another_process_of_the_same_number_is_another_one():
    host, process, started, machine = identity.here().split(":")
    assert identity.is_alive(identity.here()) is True
    assert identity.is_alive(f"{host}:{process}:{int(started) + 1}:{machine}") is False


def test_of_another_machine_nothing_is_known():
    host, *rest = identity.here().split(":")
    assert identity.is_alive(":".join([f"{host}x", *rest])) is None
    assert identity.is_alive(":".join([host, *rest[:2], "other-boot"])) is None
    assert identity.is_alive("") is None
