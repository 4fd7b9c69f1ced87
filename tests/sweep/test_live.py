"""The table that stays on a terminal while a sweep runs."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
import types

import pytest

from tests.sweep import studies
from tests.sweep.studies import RUNNING
from tfr_pipeline.pipeline.run import console
from tfr_pipeline.sweep import live, standing
from tfr_pipeline.sweep.live import LiveConsole

optuna = pytest.importorskip("optuna")


class Screen:
    """What a terminal shows of what was written to it."""

    def __init__(self):
        self.lines, self._row = [""], 0

    def write(self, text):
        for part in re.split(r"(\x1b\[\d*[A-Z]|\r|\n)", text):
            up = re.fullmatch(r"\x1b\[(\d+)A", part)
            if part == "\n":
                self._row += 1
                self.lines += [""] * (self._row + 1 - len(self.lines))
            elif up:
                self._row -= int(up[1])
                assert self._row >= 0
            elif part == "\x1b[J":
                self.lines = [*self.lines[: self._row], ""]
            elif part and part != "\r":
                assert "\x1b" not in part
                self.lines[self._row] += part

    def flush(self):
        pass

    def isatty(self):
        return True


@pytest.fixture
def screen(monkeypatch):
    made = Screen()
    # pytest has a standard output of its own for each phase of a test.
    streams = types.SimpleNamespace(stdout=made, stderr=made)
    monkeypatch.setattr(live, "sys", streams)
    monkeypatch.setattr(console, "sys", streams)
    monkeypatch.setenv("COLUMNS", "70")
    monkeypatch.setenv("LINES", "24")
    return made


@pytest.fixture
def study(tmp_path):
    return studies.make(tmp_path / "study", [0.5, RUNNING], trials=4)


def test_lines_stand_above_the_table_which_is_redrawn_in_place(screen, study):
    table = LiveConsole(lambda: standing.find(study.folder))
    table.say("first")
    table._look()
    table.say("second")
    study.complete(study.claim(), [0.75])
    table._look()
    table._look()
    table.show("doing something")
    lines = [line for line in screen.lines if line]
    assert lines[:2] == ["first", "second"]
    assert lines[2] == "study study: 2 of 4 trials finished, 2 complete, 1 running"
    assert lines[3] == "best: trial 2, ndcg@10 0.750000"
    assert lines[4].startswith("time left: about")
    assert lines[5].split()[:2] == ["trial", "state"]
    assert lines[6].split()[:2] == ["1", "running"]
    assert lines[7:] == ["doing something"]
    assert all(len(line) < 70 for line in lines)


def test_what_is_being_done_makes_room_for_what_was_done(screen):
    table = LiveConsole(lambda: None)
    with table.stage("reading", "read"):
        assert [line for line in screen.lines if line] == ["reading ..."]
    (line,) = [line for line in screen.lines if line]
    assert line.startswith("read in ")


def test_no_more_is_drawn_than_the_screen_has_rows(screen, study, monkeypatch):
    monkeypatch.setenv("LINES", "4")
    table = LiveConsole(lambda: standing.find(study.folder))
    table._look()
    assert len([line for line in screen.lines if line]) <= 3


def test_the_table_is_gone_at_the_end(screen, study):
    table = LiveConsole(lambda: standing.find(study.folder))
    looked = threading.Event()
    look = table._look
    table._look = lambda: (look(), looked.set())
    with table.running():
        assert looked.wait(30)
        table.say("within")
        assert any("trials finished" in line for line in screen.lines)
    assert [line for line in screen.lines if line] == ["within"]


def test_a_study_that_is_not_there_yet_disturbs_nothing(screen, tmp_path):
    asked = threading.Event()

    def find():
        asked.set()
        return standing.find(str(tmp_path / "none"))

    table = LiveConsole(find)
    with table.running():
        assert asked.wait(30)
        table.say("line")
    assert [line for line in screen.lines if line] == ["line"]


def test_what_processes_say_goes_where_they_say_it(screen):
    errors = live.sys.stderr = Screen()
    table = LiveConsole(lambda: None)
    script = "import sys; print('out'); print('wrong', file=sys.stderr)"
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    before = set(threading.enumerate())
    table.pass_on(process)
    for thread in set(threading.enumerate()) - before:
        thread.join(timeout=60)
    process.wait(timeout=60)
    assert [line for line in screen.lines if line] == ["out"]
    assert errors.lines == ["wrong", ""]


def test_without_a_terminal_there_are_lines_only(study, capsys):
    table = LiveConsole(lambda: standing.find(study.folder))
    with table.running():
        table.say("line")
        table.show("doing")
    assert capsys.readouterr().out == "line\n"


def test_rows_of_many_workers_are_counted(study, monkeypatch):
    monkeypatch.setattr(live, "_ROWS", 0)
    assert live.table_of(standing.find(study.folder))[-1] == "and 1 more"
