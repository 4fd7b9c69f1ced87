"""A PostgreSQL server for the tests, and folders for sweeps."""

from __future__ import annotations

import glob
import os
import pathlib
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator

import pytest

from tests.pipeline.training_helpers import make_data


class Server:
    """A PostgreSQL server of this machine.

    Args:
      programs: Folder of `initdb` and `pg_ctl`.
      folder: An empty folder.
      user: Whom the server runs as, None for this process's user: root may not.
    """

    def __init__(self, programs: str, folder: str, user: str | None):
        self._programs, self._user = programs, user
        self._folder, self._data = folder, os.path.join(folder, "data")
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            self.port = found.getsockname()[1]
        if user is not None:
            os.chown(folder, pwd.getpwnam(user).pw_uid, pwd.getpwnam(user).pw_gid)
        self._run("initdb", "-A", "trust", "-U", "tests", "-D", self._data, "--no-sync")

    def _run(self, program: str, *words: str) -> None:
        done = subprocess.run(
            [os.path.join(self._programs, program), *words],
            user=self._user,
            cwd=self._folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stdout

    def _control(self, *words: str) -> None:
        log = os.path.join(self._folder, "log")
        # Without the file, the server would hold the pipe that is read here.
        self._run("pg_ctl", "-w", "-D", self._data, "-l", log, *words)

    def start(self) -> None:
        """Starts it, and waits until it answers."""
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -k {self._folder}"
        self._control("start", "-o", f"{options} -c fsync=off")

    def stop(self) -> None:
        """Stops it at once, as a crash does: all connections break."""
        self._control("stop", "-m", "immediate")

    def make_database(self, name: str, local: bool = False) -> str:
        """Makes an empty database; returns its URL.

        Args:
          name: Its name.
          local: Whether to reach it by a socket of this machine, as those do who have
            a network of their own.
        """
        import psycopg

        where = f"host=127.0.0.1 port={self.port} user=tests dbname=postgres"
        with psycopg.connect(where, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        if local:
            place = f"host={self._folder}&port={self.port}"
            return f"postgresql://tests:secret@/{name}?{place}"
        return f"postgresql://tests:secret@127.0.0.1:{self.port}/{name}"


def _programs() -> str | None:
    places = sorted(glob.glob("/usr/lib/postgresql/*/bin/initdb"), reverse=True)
    found = shutil.which("initdb")
    if found:
        # Debian's wrappers look for their programs by the name that they run under.
        places.append(os.path.realpath(found))
    return next((os.path.dirname(place) for place in places), None)


@pytest.fixture(scope="module")
def postgresql() -> Iterator[Server]:
    """A running server; skips where it cannot be had."""
    programs = _programs()
    if programs is None:
        pytest.skip("needs PostgreSQL (on Debian the package postgresql): no initdb")
    user = None
    if os.getuid() == 0:
        known = {entry.pw_name for entry in pwd.getpwall()}
        user = next((name for name in ("postgres", "nobody") if name in known), None)
        if user is None:
            pytest.skip("PostgreSQL does not run as root, and there is no other user")
    folder = tempfile.mkdtemp(prefix="tfr_pipeline_pg_", dir="/tmp")
    server = Server(programs, folder, user)
    server.start()
    yield server
    server.stop()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Converted data for training."""
    return make_data(tmp_path_factory.mktemp("sweep_data"))
