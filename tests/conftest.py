"""What all tests share: quiet TensorFlow, the shared data, slow tests on request."""

from __future__ import annotations

import faulthandler
import gc
import os
import pathlib
import signal
import tempfile
import time
import warnings

import hypothesis
import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# A machine that has much to do draws and runs slowly; that is no fault of the code.
hypothesis.settings.register_profile(
    "busy", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("busy")

# Folders with long files come first, so that no process is left alone with one at the
# end. Tests of `cluster` wait more than they compute: they alternate with others.
# First of all comes what looks at the whole process, before others have left threads in
# it.
_ORDER = {
    "tests": -1,
    **dict.fromkeys(("pipeline", "cluster"), 0),
    **dict.fromkeys(("cli", "keras", "serving", "model"), 1),
    **dict.fromkeys(("data", "losses", "metrics"), 2),
}

ROOT = pathlib.Path(__file__).resolve().parents[1]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--slow", action="store_true", help="run the tests marked slow as well"
    )


def pytest_collection_modifyitems(
    config: pytest.Config, items: list[pytest.Item]
) -> None:
    _sort(items)
    if config.getoption("--slow"):
        return
    skip = pytest.mark.skip(reason="slow: run with --slow or `make test-all`")
    for item in items:
        if "slow" in item.keywords:
            item.add_marker(skip)


def _sort(items: list[pytest.Item]) -> None:
    """Sorts files; the tests of a file stay as they are."""
    files: dict[str, dict[pathlib.Path, int]] = {}
    for item in items:
        known = files.setdefault(item.path.parent.name, {})
        known.setdefault(item.path, len(known))

    def place(item: pytest.Item) -> tuple[int, int, str]:
        folder = item.path.parent.name
        return _ORDER.get(folder, len(_ORDER)), files[folder][item.path], folder

    items.sort(key=place)


@pytest.fixture(scope="session")
def shared_data() -> pathlib.Path:
    """Folder of the real data sets, beside the repository; skips where it is absent."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("needs the data sets in ../shared/data, which is not here")
    return folder


@pytest.fixture(scope="session", autouse=True)
def cache_of_tests(tmp_path_factory):
    """Keeps what tests leave in the cache out of that of the user."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TFR_PIPELINE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module", autouse=True)
def collection_goes_on():
    """Warns where a file leaves a thread behind that is collecting garbage for good.

    Python collects nothing then, whoever asks for it, and the process grows.
    """
    yield
    begun: list[str] = []
    note = lambda phase, info: begun.append(phase)  # noqa: E731
    gc.callbacks.append(note)
    try:
        for _ in range(20):
            gc.collect(0)
            if begun:
                return
            time.sleep(0.1)
    finally:
        gc.callbacks.remove(note)
    with tempfile.TemporaryFile("w+") as file:
        faulthandler.dump_traceback(file, all_threads=True)
        file.seek(0)
        warnings.warn(f"a thread is collecting garbage:\n{file.read()}", stacklevel=1)


@pytest.fixture(scope="session")
def text_module(tmp_path_factory):
    """Folder of a hub module that encodes texts; see `tests.hub_module`."""
    from tests import hub_module

    return hub_module.make(str(tmp_path_factory.mktemp("hub") / "words"), 2000)


@pytest.fixture
def hangups():
    """Lets SIGHUP through, here and in children, also under `nohup`."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.fixture
def parses(monkeypatch):
    """Counts how often files are parsed."""
    from tfr_pipeline.data.reading import loading

    calls = []
    original = loading.iterate

    def counted(*args, **kwargs):
        calls.append(args)
        return original(*args, **kwargs)

    monkeypatch.setattr(loading, "iterate", counted)
    return calls
