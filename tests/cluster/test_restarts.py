"""How many restarts there are: so many without a new checkpoint."""

from __future__ import annotations

import pytest

from tests.cluster.launching import finished, launch

# Each start does two steps, saves after the first of them as often as it may, and dies.
DIE = """
import os, pathlib, signal, sys, time
from tfr_pipeline.cluster import beat, heartbeat
folder, saves, goal = pathlib.Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
heartbeat.start()
saved = len(list(folder.iterdir()))
if saved < saves:
    heartbeat.moves(beat.BETWEEN, saved + 1)
    (folder / str(saved)).touch()
    heartbeat.keeps(saved + 1)
    if saved + 1 == goal:
        sys.exit(0)
heartbeat.moves(beat.BETWEEN, saves + 1)
time.sleep(0.1 if saved + 1 < saves else 1.5)  # for a beat
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_checkpoint_that_advances_gives_all_restarts_back(tmp_path):
    flags = {"workers": 1, "max_restarts": 1}
    code, out = finished(launch(tmp_path, 4, 4, script=DIE, **flags))
    assert code == 0, out
    assert out.count("restart 1 of 1") == 3
    assert out.count("1 restarts are left again") == 3
    assert "step 4 is saved" in out


def test_who_dies_always_at_the_same_step_is_given_up(tmp_path):
    flags = {"workers": 1, "max_restarts": 2}
    code, out = finished(launch(tmp_path, 2, 9, script=DIE, **flags))
    assert code == 1, out
    assert out.splitlines()[-1] == (
        "[job] given up after 2 restarts without a new checkpoint since step 2; the "
        "failures came at step 3, as far as it was heard"
    )


def test_what_was_saved_before_is_no_news(tmp_path):
    script = DIE.replace("keeps(saved + 1)", "keeps(1)")
    flags = {"workers": 1, "max_restarts": 1}
    code, out = finished(launch(tmp_path, 9, 9, script=script, **flags))
    assert code == 1, out
    assert "given up after 1 restarts without a new checkpoint since step 1" in out
    assert "left again" not in out


def test_without_checkpoints_the_step_is_told(tmp_path):
    flags = {"workers": 1, "max_restarts": 1}
    code, out = finished(launch(tmp_path, 0, 9, script=DIE, **flags))
    assert code == 1, out
    assert out.splitlines()[-1] == (
        "[job] given up after 1 restarts without a new checkpoint; the failures came "
        "at step 1, as far as it was heard"
    )


# The worker saves a step after the other, while the evaluator always dies.
APART = """
import json, os, sys, time
from tfr_pipeline.cluster import beat, heartbeat
heartbeat.start()
if json.loads(os.environ["TF_CONFIG"])["task"]["type"] == "evaluator":
    sys.exit(1)
for step in range(1, 12):
    heartbeat.moves(beat.BETWEEN, step)
    heartbeat.keeps(step)
    time.sleep(0.5)
"""


def test_checkpoints_give_no_restarts_to_an_evaluator_that_evaluates_none():
    flags = {"workers": 1, "evaluator": True, "max_restarts": 2}
    code, out = finished(launch(script=APART, **flags))
    assert code == 0, out
    assert "restart 2 of 2 in 2 s, evaluator 0 alone" in out
    assert "evaluator 0 stays away" in out


@pytest.mark.slow
def test_an_evaluator_that_evaluates_in_between_stays(tmp_path):
    script = APART.replace(
        "    sys.exit(1)\n",
        """
    mark = sys.argv[1]
    count = os.path.getsize(mark) if os.path.exists(mark) else 0
    with open(mark, "a") as file:
        file.write("x")
    heartbeat.keeps(count)
    time.sleep(0.1)
    sys.exit(1)
""",
    )
    flags = {"workers": 1, "evaluator": True, "max_restarts": 1}
    code, out = finished(launch(tmp_path / "mark", script=script, **flags))
    assert code == 0, out
    assert out.count("restart 1 of 1") >= 2 and "stays away" not in out
    assert "is evaluated: 1 restarts are left again" in out
