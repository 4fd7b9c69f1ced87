"""Where a study is kept: SQLite, PostgreSQL, a journal file, or a gRPC proxy.

A database may be gone for a while: its server starts again, a connection breaks. What
a worker asks of it is asked again for some minutes, and an answer that was lost on the
way back is recognised where it can be.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import random
import re
import sys
import threading
import time
from collections.abc import Callable, Container, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from tfr_pipeline import urls
from tfr_pipeline.errors import ConfigError, RunError
from tfr_pipeline.sweep import optuna_parts

if TYPE_CHECKING:
    import optuna

# Seconds for which a storage that was there may be gone.
PATIENCE = "TFR_PIPELINE_STORAGE_PATIENCE"
_PATIENCE_SECONDS = 600.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 10.0
_SILENCE_SECONDS = 30.0
# How long another process may keep an SQLite file, and a server silent.
_SQLITE_SECONDS, _CONNECT_SECONDS = 60, 10
# A server whose machine or network is gone says nothing, and TCP by itself asks after
# two hours: here a connection that is silent for half a minute is asked three times.
_POSTGRESQL = {
    "connect_timeout": _CONNECT_SECONDS,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 60_000,  # milliseconds
}
_PASSWORD = re.compile(r"(password\s*=\s*)\S+", re.IGNORECASE)
Result = TypeVar("Result")


class StorageError(RunError):
    """A storage cannot be reached, and has been asked for long enough."""


def shown(text: object) -> str:
    """Returns a text without the passwords in it.

    Example:
      >>> shown("postgresql://ann:secret@host/db?password=x")
      'postgresql://***@host/db?password=***'
    """
    text = _PASSWORD.sub(r"\1***", str(text))
    return urls.redact(text)


def default_url(folder: str) -> str:
    """Returns the URL of the SQLite file in the folder of a sweep."""
    return f"sqlite:///{os.path.join(os.path.abspath(folder), 'study.db')}"


def connect(url: str) -> optuna.storages.BaseStorage:
    """Returns the storage of a URL; its calls are repeated while it is gone.

    Args:
      url: `sqlite:///FILE`, `postgresql://USER:PASSWORD@HOST/DATABASE` or another URL
        that SQLAlchemy knows, `journal:///FILE`, or `grpc://HOST:PORT`.

    Raises:
      ConfigError: It is no such URL, or the driver is not installed.
      RunError: It cannot be reached.
    """
    optuna_parts.load()
    scheme, separator, rest = url.partition("://")
    if not separator or not scheme:
        raise ConfigError(
            "--storage: expected a URL such as sqlite:///FILE, "
            "postgresql://USER@HOST/DATABASE, journal:///FILE or grpc://HOST:PORT, "
            f"found {shown(url)!r}."
        )
    try:
        if scheme == "journal":
            found = _journal(rest)
        elif scheme == "grpc":
            found = _grpc(rest)
        else:
            found = _database(url, scheme)
    except (ConfigError, RunError):
        raise
    except Exception as error:
        raise StorageError(_unreachable(url, error)) from None
    return _retrying(found, shown(url))


def _unreachable(url: str, error: BaseException) -> str:
    # What SQLAlchemy adds is on lines of its own.
    text = shown(error.__cause__ or error)
    causes = [line.strip() for line in text.splitlines() if line.strip()]
    cause = " ".join(causes[:2]) if causes else type(error).__name__
    return (
        f"--storage: {shown(url)} cannot be reached: {cause[:300]}. Expected a storage "
        "that is there and takes this user; see docs/sweeps.md."
    )


def _journal(path: str) -> Any:
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    if not path:
        raise ConfigError("--storage: expected journal:///FILE, found no file.")
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    return JournalStorage(JournalFileBackend(path))


def _grpc(rest: str) -> Any:
    from optuna.storages import GrpcStorageProxy

    host, _, port = rest.rstrip("/").rpartition(":")
    if not host or not port.isdigit():
        raise ConfigError(
            f"--storage: expected grpc://HOST:PORT, found grpc://{rest!r}."
        )
    try:
        importlib.import_module("optuna.storages._grpc.auto_generated.api_pb2")
    except ImportError as error:
        raise ConfigError(
            f"--storage: Optuna's proxy does not work here ({error}): it needs "
            "protobuf 5 or later, and so a TensorFlow after 2.15. Use PostgreSQL "
            "itself."
        ) from error
    proxy = GrpcStorageProxy(host=host, port=int(port))
    proxy.wait_server_ready(timeout=_CONNECT_SECONDS)
    return proxy


def _database(url: str, scheme: str) -> Any:
    from optuna.storages import RDBStorage, get_storage
    from sqlalchemy.exc import ArgumentError, NoSuchModuleError

    # Which driver is meant by the bare name changed with SQLAlchemy 2.1.
    if scheme in ("postgresql", "postgres"):
        for driver in ("psycopg", "psycopg2"):
            if importlib.util.find_spec(driver) is not None:
                url = f"postgresql+{driver}://{url.partition('://')[2]}"
                break
        else:
            raise ConfigError(
                "--storage: PostgreSQL needs a driver. Install one with: pip install "
                "'psycopg[binary]'"
            )
    arguments: dict[str, Any] = {"pool_pre_ping": True}
    if scheme.startswith("sqlite"):
        # A second process would see nothing of a study in memory.
        file = url.partition(":///")[2].partition("?")[0]
        if file in ("", ":memory:"):
            raise ConfigError(
                "--storage: expected sqlite:///FILE, found a study in memory, which "
                "no other worker could join."
            )
        os.makedirs(os.path.dirname(os.path.abspath(file)), exist_ok=True)
        arguments["connect_args"] = {"timeout": _SQLITE_SECONDS}
    elif scheme.startswith("postgres"):
        arguments["connect_args"] = _POSTGRESQL
    try:
        return get_storage(_made_once(lambda: RDBStorage(url, arguments)))
    except (ArgumentError, NoSuchModuleError, ImportError) as error:
        raise ConfigError(f"--storage: {shown(url)}: {shown(error)}") from None


def _made_once(make: Callable[[], Result]) -> Result:
    """Makes tables; of several workers that begin together, one is first."""
    for left in (4, 3, 2, 1, 0):
        try:
            return make()
        except Exception as error:
            # Each database has its own words for a table that is there.
            text = str(error).lower()
            known = ("already exists", "unique", "duplicate", "locked")
            if not left or not any(word in text for word in known):
                raise
            time.sleep(random.uniform(0.1, 1.0))
    raise AssertionError


def patience() -> float:
    """Returns the seconds for which a storage may be gone."""
    text = os.environ.get(PATIENCE, "")
    try:
        return float(text) if text else _PATIENCE_SECONDS
    except ValueError as error:
        raise ConfigError(
            f"{PATIENCE}: expected a number of seconds, found {text!r}."
        ) from error


def hurry(storage: optuna.storages.BaseStorage, seconds: float = 5.0) -> None:
    """Tells a storage of `connect` not to wait long any more: the process is to end."""
    storage.hurry(seconds)  # type: ignore[attr-defined]


def at_once(storage: optuna.storages.BaseStorage) -> Any:
    """Returns a block in which a storage of `connect` that is gone is an error."""
    return storage.at_once()  # type: ignore[attr-defined]


def _passes(error: BaseException) -> bool:
    """Whether the same call may succeed later."""
    import sqlalchemy.exc
    from optuna.exceptions import StorageInternalError

    kinds = (StorageInternalError, sqlalchemy.exc.DBAPIError, ConnectionError)
    if isinstance(error, kinds):
        return True
    name = type(error).__module__
    return name.startswith("grpc") or isinstance(error, TimeoutError)


def _retrying(storage: Any, name: str) -> optuna.storages.BaseStorage:
    """Returns a storage whose calls are repeated while the other one is gone."""
    from optuna.exceptions import UpdateFinishedTrialError
    from optuna.storages import BaseStorage
    from optuna.trial import FrozenTrial, TrialState

    class Retrying(BaseStorage):
        """Repeats; see the module."""

        def __init__(self) -> None:
            self._said, self._lock = 0.0, threading.Lock()
            self._patience: float | None = None
            self._here = threading.local()

        def hurry(self, seconds: float) -> None:
            """From now on, waits so long only: this process is to end."""
            self._patience = seconds

        @contextlib.contextmanager
        def at_once(self) -> Iterator[None]:
            """Does not wait within a block, in this thread."""
            self._here.at_once = True
            try:
                yield
            finally:
                self._here.at_once = False

        def _limit(self) -> float:
            if getattr(self._here, "at_once", False):
                return 0.0
            return patience() if self._patience is None else self._patience

        def _call(self, function: str, *args: Any, **options: Any) -> Any:
            started, pause, again = time.monotonic(), _FIRST_PAUSE, False
            while True:
                try:
                    return getattr(storage, function)(*args, **options)
                except UpdateFinishedTrialError:
                    # The answer to the first call may have been lost.
                    lost = again and function == "set_trial_state_values"
                    if lost and self._is_as_wanted(*args, **options):
                        return True
                    raise
                except Exception as error:
                    if not _passes(error):
                        raise
                    if "disk is full" in str(error.__cause__ or error):
                        raise StorageError(_unreachable(name, error)) from error
                    if time.monotonic() - started > self._limit():
                        raise StorageError(_unreachable(name, error)) from error
                    self._say(error, time.monotonic() - started)
                    again = True
                time.sleep(pause * random.uniform(0.5, 1.0))
                pause = min(2 * pause, _LONGEST_PAUSE)

        def _is_as_wanted(
            self, trial_id: int, state: Any, values: Sequence[float] | None = None
        ) -> bool:
            found = self.get_trial(trial_id)
            same = list(values) if values is not None else None
            return found.state == state and (same is None or found.values == same)

        def _say(self, error: BaseException, seconds: float) -> None:
            with self._lock:
                now = time.monotonic()
                if seconds < 1.0 or now - self._said < _SILENCE_SECONDS:
                    return
                self._said = now
            cause = (shown(error.__cause__ or error).splitlines() or [""])[0]
            print(
                f"the storage {name} does not answer ({cause[:200]}); trying again",
                file=sys.stderr,
                flush=True,
            )

        # What Optuna asks of a storage.

        def create_new_study(
            self, directions: Sequence[Any], study_name: str | None = None
        ) -> int:
            return self._call("create_new_study", directions, study_name)

        def delete_study(self, study_id: int) -> None:
            self._call("delete_study", study_id)

        def set_study_user_attr(self, study_id: int, key: str, value: Any) -> None:
            self._call("set_study_user_attr", study_id, key, value)

        def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:
            self._call("set_study_system_attr", study_id, key, value)

        def get_study_id_from_name(self, study_name: str) -> int:
            return self._call("get_study_id_from_name", study_name)

        def get_study_name_from_id(self, study_id: int) -> str:
            return self._call("get_study_name_from_id", study_id)

        def get_study_directions(self, study_id: int) -> list[Any]:
            return self._call("get_study_directions", study_id)

        def get_study_user_attrs(self, study_id: int) -> dict[str, Any]:
            return self._call("get_study_user_attrs", study_id)

        def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
            return self._call("get_study_system_attrs", study_id)

        def get_all_studies(self) -> list[Any]:
            return self._call("get_all_studies")

        def create_new_trial(
            self, study_id: int, template_trial: FrozenTrial | None = None
        ) -> int:
            return self._call("create_new_trial", study_id, template_trial)

        def set_trial_param(
            self,
            trial_id: int,
            param_name: str,
            param_value_internal: float,
            distribution: Any,
        ) -> None:
            value = param_value_internal
            self._call("set_trial_param", trial_id, param_name, value, distribution)

        def get_trial_id_from_study_id_trial_number(
            self, study_id: int, trial_number: int
        ) -> int:
            name = "get_trial_id_from_study_id_trial_number"
            return self._call(name, study_id, trial_number)

        def set_trial_state_values(
            self,
            trial_id: int,
            state: TrialState,
            values: Sequence[float] | None = None,
        ) -> bool:
            return self._call("set_trial_state_values", trial_id, state, values)

        def set_trial_intermediate_value(
            self, trial_id: int, step: int, intermediate_value: float
        ) -> None:
            name = "set_trial_intermediate_value"
            self._call(name, trial_id, step, intermediate_value)

        def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
            self._call("set_trial_user_attr", trial_id, key, value)

        def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
            self._call("set_trial_system_attr", trial_id, key, value)

        def get_trial(self, trial_id: int) -> FrozenTrial:
            return self._call("get_trial", trial_id)

        def get_all_trials(
            self,
            study_id: int,
            deepcopy: bool = True,
            states: Container[TrialState] | None = None,
        ) -> list[FrozenTrial]:
            return self._call("get_all_trials", study_id, deepcopy, states)

        def get_best_trial(self, study_id: int) -> FrozenTrial:
            return self._call("get_best_trial", study_id)

        def remove_session(self) -> None:
            storage.remove_session()

    return Retrying()
