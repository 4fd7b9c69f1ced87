"""Signals that clean up, and those that are left alone."""

from __future__ import annotations

import os
import pathlib
import signal

import pytest

from tfr_pipeline.files import replacing
from tfr_pipeline.signals import unwinding


@pytest.mark.usefixtures("hangups")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_stopped_process_leaves_no_temporary(tmp_path, number):
    with pytest.raises(SystemExit) as end:
        with unwinding(), replacing(str(tmp_path / "a")) as temporary:
            pathlib.Path(temporary).write_text("half")
            os.kill(os.getpid(), number)
    assert end.value.code == 143
    assert not os.listdir(tmp_path)
    assert signal.getsignal(number) is signal.SIG_DFL


@pytest.mark.usefixtures("hangups")
def test_a_hangup_goes_to_whoever_takes_sigterm():
    seen = []
    with unwinding():
        before = signal.signal(signal.SIGTERM, lambda *_: seen.append("saves"))
        os.kill(os.getpid(), signal.SIGHUP)
        signal.signal(signal.SIGTERM, before)
    assert seen == ["saves"]


def test_what_nohup_ignores_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with unwinding():
            os.kill(os.getpid(), signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
