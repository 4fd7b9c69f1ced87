"""The run directory: what a run was told, where it stands, what came out."""

from __future__ import annotations

import atexit
import contextlib
import csv
import io
import json
import os
import platform
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from importlib import metadata
from typing import Any

from tfr_pipeline import __version__, copies, files, remote, urls
from tfr_pipeline.errors import ConfigError, DataError, RunError
from tfr_pipeline.metrics import query_table
from tfr_pipeline.pipeline.run import comparison, data_fingerprint, revision
from tfr_pipeline.pipeline.run.lock import PATIENCE_SECONDS, RunLock, held
from tfr_pipeline.pipeline.run.mirror import Mirror
from tfr_pipeline.pipeline.run.snapshot import is_of_state
from tfr_pipeline.pipeline.run.state import RunState
from tfr_pipeline.serialization import plain

_PACKAGES = (
    "tensorflow",
    "tf-keras",
    "tensorflow-ranking",
    "neural-structured-learning",
    "tensorflow-hub",
    "ml-collections",
    "numpy",
    "datasketches",
    "pyarrow",
)
_FILES = (
    "config.json",
    "environment.json",
    "history.csv",
    "metrics.json",
    "preprocessing.json",
    query_table.FILE_NAME,
)
_FOLDERS = ("", "checkpoints", "export", "logs")
_ADVICE = "Bring back the file of this run, or choose another model_dir."


class RunDirectory:
    """Paths and files of a run.

    Workers other than the chief go through the same motions in a folder of their own,
    which is removed when their process ends.

    A remote directory has a local one in its place, see `mirror`: that of the chief is
    what it writes, those of others are copies of what they read.

    Args:
      path: The directory, or its URL; made when it is first written to.
      chief: Whether this process writes into it.

    Attributes:
      path: The directory, or the local one in its place.
      is_ours: Whether this process writes into it.
      url: The URL of a remote one, empty for others.
    """

    def __init__(self, path: str, chief: bool = True):
        self.url = path if urls.is_remote(path) else ""
        self._mirror = Mirror(path) if self.url and chief else None
        self.path = self._mirror.folder if self._mirror else path
        self.is_ours = chief
        self._writes_to = self.path
        self._lock: RunLock | None = None
        self._kept: contextlib.ExitStack | None = None
        self._written: list[str] = []
        self._fetched: str | None = None
        self._seen: remote.Entry | None = None
        if not chief:
            self._writes_to = tempfile.mkdtemp(prefix="tfr_pipeline_worker_")
            atexit.register(shutil.rmtree, self._writes_to, ignore_errors=True)
        if self.url and not chief:
            self.path = os.path.join(self._writes_to, "of_chief")  # until it is fetched

    def join(self, *parts: str) -> str:
        """Returns a path to write to."""
        return os.path.join(self._writes_to, *parts)

    @property
    def checkpoints(self) -> str:
        """Folder of the run's checkpoints, the same for all workers."""
        return os.path.join(self.path, "checkpoints")

    @contextlib.contextmanager
    def held(self, patience: float = PATIENCE_SECONDS) -> Iterator[None]:
        """Keeps other jobs out of the directory within a block.

        Args:
          patience: Seconds to wait for another job to leave it.

        Raises:
          InUseError: Another job is in it, which is a `RunError`.
        """
        if not self.is_ours or self._lock is not None:
            yield
            return
        if self._mirror is not None:
            self.path = self._mirror.folder
        _check_kinds(self.path)
        with contextlib.ExitStack() as block:
            stack = self._kept or block
            self._lock = stack.enter_context(held(self.path, patience))
            stack.callback(self._forget_lock)
            if self._mirror is not None:
                stack.enter_context(self._mirror.opened())
            yield

    @contextlib.contextmanager
    def brought(self, agree: Callable[[int], int]) -> Iterator[None]:
        """Holds a remote directory within a block, and brings what is in it.

        Local ones are there, and held where they are written.

        Args:
          agree: Gives the largest of the workers' values to all of them: who only reads
            waits for the one that writes.

        Raises:
          RunError: Another job is in it, or it cannot be reached.
        """
        if not self.url:
            yield
            return
        with self.held():
            agree(0)
            self.fetch()
            yield

    def fetch(self) -> None:
        """Brings what a remote directory has now, if this process does not hold it.

        Raises:
          PipelineError: It cannot be reached, or changes all the time.
        """
        if not self.url or self._lock is not None:
            return
        folder = tempfile.mkdtemp(prefix="tfr_pipeline_run_")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        place = os.path.join(folder, "run")
        try:
            copies.fetch_folder(self.url, is_of_state, place)
        except remote.GoneError:  # a run that begins
            os.mkdir(place)
        before, self._fetched, self.path = self._fetched, folder, place
        if before is not None:
            shutil.rmtree(before, ignore_errors=True)

    def refresh(self) -> None:
        """As `fetch`, where there is another checkpoint than the last time."""
        if not self.url:
            return
        latest = urls.join(self.url, "checkpoints", "checkpoint")
        # What cannot be had now may be had at the next look.
        with contextlib.suppress(DataError, RunError):
            found = remote.stat(latest)
            if found != self._seen:
                self.fetch()
                self._seen = found

    def logs(self, name: str) -> str:
        """Returns the folder for the logs of a task that writes nothing else."""
        return os.path.join(self._writes_to if self.url else self.path, "logs", name)

    def share_logs(self, name: str) -> None:
        """Uploads the logs of such a task where the directory is remote."""
        if not self.url:
            return
        folder = self.logs(name)
        for file in os.listdir(folder):
            place = urls.join(self.url, "logs", name, file)
            try:
                remote.put(os.path.join(folder, file), place)
            except (DataError, RunError) as error:
                warnings.warn(f"{error} It is tried again later.", stacklevel=2)

    def mirror(self) -> None:
        """Uploads, in the background, what stands in a remote directory's place."""
        if self._mirror is not None and self._lock is not None:
            self._mirror.save()

    def _forget_lock(self) -> None:
        self._lock = None

    @contextlib.contextmanager
    def kept_held(self) -> Iterator[None]:
        """What `held` takes within this block, it keeps until the end of this one."""
        with contextlib.ExitStack() as self._kept:
            try:
                yield
            finally:
                self._kept = None

    def check(self) -> None:
        """Checks that what this process has written is still there.

        Raises:
          RunError: Something is gone.
        """
        if not self.is_ours:
            return
        for name in self._written:
            if not os.path.exists(self.join(name)):
                raise RunError(
                    f"{self.join(name)} is gone: the run directory was removed, moved "
                    "or emptied while this run trained. Nothing more is written there. "
                    "Bring it back and give the same command again, or start anew with "
                    "a model_dir that stays."
                )
        if self._mirror is not None:
            self._mirror.check()
        if self._lock is not None:
            self._lock.check()

    def has_written(self, *names: str, instead_of: tuple[str, ...] = ()) -> None:
        """Notes what has to be there from now on, see `check`."""
        kept = [name for name in self._written if name not in instead_of]
        self._written = list(dict.fromkeys([*kept, *names]))

    def compare(self, config: dict[str, Any]) -> None:
        """Checks that the directory is free, or this run's.

        Raises:
          ConfigError: It holds a run with another config, or something else.
        """
        _check_kinds(self.path)
        path = os.path.join(self.path, "config.json")
        if not os.path.exists(path):
            return
        found, wanted = read_json(path), _plain(config)
        if wanted.get("seed") is None:  # The one that the run drew is as good.
            wanted["seed"] = found.get("seed")
        differing = [*comparison.differences(found, wanted, comparison.FREE_LATER)]
        if differing:
            key, old, new = differing[0]
            more = f" and {len(differing) - 1} more" if len(differing) > 1 else ""
            raise ConfigError(
                f"{self.path} holds another run: {key} is {old} there and {new} "
                f"here{more}. Choose another model_dir, or remove that one."
            )

    def claim(self, config: dict[str, Any]) -> None:
        """Writes `config.json`, after `compare`."""
        if self.is_ours:
            self.compare(config)
            text = json.dumps(_plain(config), indent=1, sort_keys=True)
            self._write("config.json", text + "\n")

    def check_data(self, data: dict[str, Any], accept: bool = False) -> None:
        """Checks that a run that goes on does so with the data it began with.

        Args:
          data: See `data_fingerprint`.
          accept: Only warns of other data.

        Raises:
          ConfigError: The data differs; it says in what.
        """
        path = os.path.join(self.path, "environment.json")
        if not self.is_ours:
            return
        if not os.path.exists(path):
            warnings.warn(
                f"{path} is missing: whether the data is still that which the run "
                "began with cannot be told.",
                stacklevel=3,
            )
            return
        # Earlier versions did not note it.
        noted = read_json(path).get("data", data)
        if not isinstance(noted, dict) or not all(
            isinstance(part, dict) for part in noted.values()
        ):
            raise ConfigError(
                f"{path}: expected 'data' to be an object of objects, found "
                f"{noted!r:.80}. {_ADVICE}"
            )
        found = data_fingerprint.difference(noted, data)
        if found and accept:
            warnings.warn(f"the run goes on with other data: {found}.", stacklevel=3)
        elif found:
            raise ConfigError(
                f"{self.path}: the data is not that which the run there began with: "
                f"{found}. Bring it back; or choose another model_dir for the new "
                "data; or go on with both, with `train --accept_changed_data` or "
                "train_and_validate(accept_changed_data=True)."
            )

    def write_environment(self, seed: int, extra: dict[str, Any]) -> None:
        """Writes `environment.json`: what it takes to repeat the run."""
        packages: dict[str, str | None] = {}
        for name in _PACKAGES:
            try:
                packages[name] = metadata.version(name)
            except metadata.PackageNotFoundError:
                packages[name] = None
        content = {
            "tfr_pipeline": __version__,
            "python": platform.python_version(),
            "platform": platform.platform(),
            "cpus": os.cpu_count(),
            "packages": packages,
            "command": sys.argv,
            "git": revision.of_folder(),
            "tf_config": os.environ.get("TF_CONFIG"),
            "seed": seed,
            "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            **extra,
        }
        self.write_json("environment.json", content)

    def write_json(self, name: str, content: Any) -> None:
        """Writes a JSON file whole or not at all."""
        self._write(name, json.dumps(content, indent=1) + "\n")

    def _write(self, name: str, text: str) -> None:
        self.check()
        files.write_text(self.join(name), urls.redact(text))
        self.has_written(name)

    def write_history(self, state: RunState) -> None:
        """Writes `history.csv`, one row an epoch."""
        columns = list(dict.fromkeys(key for row in state.history for key in row))
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(state.history)
        self._write("history.csv", text.getvalue())

    def write_queries(self, table: query_table.QueryTable) -> None:
        """Writes `per_query.parquet`; without rows there is none, not an old one."""
        self.check()
        path = self.join(query_table.FILE_NAME)
        if table:
            table.write(path)
            self.has_written(query_table.FILE_NAME)
        else:
            with contextlib.suppress(FileNotFoundError):
                os.remove(path)


def _plain(config: dict[str, Any]) -> dict[str, Any]:
    return plain(config, "config")


def read_json(path: str) -> dict[str, Any]:
    """Returns the JSON object in a file of a run directory.

    Raises:
      ConfigError: The file cannot be read, or holds something else.
    """
    try:
        found = files.read_json(path)
    except DataError as error:
        raise ConfigError(f"{error} {_ADVICE}") from error
    if not isinstance(found, dict):
        raise ConfigError(
            f"{path}: expected a JSON object, found {type(found).__name__}. {_ADVICE}"
        )
    return found


def _check_kinds(folder: str) -> None:
    """Raises a ConfigError for a file in place of a folder, or the reverse."""
    for name in (*_FOLDERS, *_FILES):
        path = os.path.join(folder, name) if name else folder
        is_right = os.path.isfile if name in _FILES else os.path.isdir
        if os.path.lexists(path) and not is_right(path):
            wanted, found = ("file", "folder") if name in _FILES else ("folder", "file")
            found = found if os.path.exists(path) else "broken link"
            raise ConfigError(
                f"{path}: expected a {wanted}, found a {found}. Choose another "
                "model_dir, or remove that."
            )
