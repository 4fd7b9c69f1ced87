"""A private ssh server with keys of its own, on a high port of the loopback."""

from __future__ import annotations

import os
import pathlib
import shutil
import subprocess
import time

import pytest

# Absolute, as sshd wants it.
SSHD = shutil.which("sshd") or shutil.which("sshd", path="/usr/sbin")


class Sshd:
    """An ssh server that lets in whoever has its key.

    Args:
      folder: Where keys and configuration go.
      port: Port; also of the client's command.
      inside: What comes before commands: `ip netns exec NAME` starts it there.
    """

    def __init__(self, folder: pathlib.Path, port: int, inside: tuple[str, ...] = ()):
        if SSHD is None or not shutil.which("ssh-keygen"):
            pytest.skip("needs sshd: apt-get install openssh-server")
        folder.mkdir(exist_ok=True)
        if os.geteuid() == 0:
            os.makedirs("/run/sshd", exist_ok=True)  # its empty folder
        for name in ("host", "user"):
            if not (folder / name).exists():
                subprocess.run(
                    [
                        "ssh-keygen",
                        "-q",
                        "-t",
                        "ed25519",
                        "-N",
                        "",
                        "-f",
                        folder / name,
                    ],
                    check=True,
                )
        # Nothing of the configuration of this machine or of this user is read.
        self._server = subprocess.Popen(
            [
                *(*inside, SSHD, "-D", "-e", "-f", "/dev/null", "-p", str(port)),
                *(f"-oHostKey={folder / 'host'}", "-oPidFile=none", "-oUsePAM=no"),
                f"-oAuthorizedKeysFile={folder / 'user.pub'}",
                *("-oStrictModes=no", "-oPermitRootLogin=yes", "-oMaxStartups=100"),
            ],
            stderr=open(folder / "sshd.log", "ab"),  # noqa: SIM115
        )
        self.client = (
            f"ssh -F none -p {port} -i {folder / 'user'} -o BatchMode=yes"
            " -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null"
            " -o LogLevel=ERROR -o ConnectTimeout=5 -o ServerAliveInterval=5"
            " -o ServerAliveCountMax=2"
        )

    def wait(self, host: str, inside: tuple[str, ...] = ()) -> None:
        """Waits until a client gets in."""
        for _ in range(50):
            words = [*inside, *self.client.split(), host, "true"]
            done = subprocess.run(words, capture_output=True, check=False)
            if done.returncode == 0:
                return
            time.sleep(0.2)
        raise AssertionError(done.stderr.decode())

    def close(self) -> None:
        """Ends the server."""
        self._server.terminate()
        self._server.wait()
