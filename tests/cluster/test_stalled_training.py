"""Real training of several processes, of which one waits for ever while it lives."""

from __future__ import annotations

import json
import re

import pytest

from tests.cluster.launching import finished, launch
from tests.pipeline.training_helpers import make_config, read_history, read_json

# The first time, task `who` stops to move once it has done 14 steps, as `how` says.
TRAIN = """
import json, os, pathlib, sys, threading, time
from tfr_pipeline.compat import tf
from tfr_pipeline.experiment import build

config, marks, who, how = json.loads(sys.argv[1]), *sys.argv[2:]
task = json.loads(os.environ["TF_CONFIG"])["task"]
name = f"{task['type']} {task['index']}"
mark = pathlib.Path(marks) / "stalled"
stalls = name == who and how != "validation" and not mark.exists()

class Callback(tf.keras.callbacks.Callback):
    def __init__(self):
        super().__init__()
        self._supports_tf_logs = True  # or parameter servers refuse it

    def on_train_batch_end(self, batch, logs=None):
        time.sleep(0.2)
        step = int(self.model.optimizer.iterations.numpy())
        if stalls and (step >= 14 or how == "servers" and batch >= 4):
            mark.touch()
            lock = threading.Lock()
            with lock:
                if how == "long":  # what may take long says so
                    from tfr_pipeline.cluster import beat, heartbeat
                    with heartbeat.doing(beat.REST):
                        time.sleep(12)
                else:
                    lock.acquire()

    def on_test_begin(self, logs=None):
        time.sleep(12 if how == "validation" and name == who else 0)

pipeline = build.build_pipeline(config)
theirs = pipeline.build_callbacks
pipeline.build_callbacks = lambda: [Callback(), *theirs()]
pipeline.train_and_validate()
"""


def start(data, folder, who, how, strategy="MultiWorkerMirroredStrategy", **flags):
    config = make_config(
        data,
        folder / "run",
        num_epochs=2,
        steps_per_execution=2,
        checkpoint_every_steps=4,
        strategy=strategy,
    )
    return launch(
        *(json.dumps(config), folder, who, how),
        script=TRAIN,
        environ={"TF_NUM_INTRAOP_THREADS": "1"},
        stall_timeout=8,
        **flags,
    )


def assert_done(folder):
    assert [row["step"] for row in read_history(folder / "run")] == [10, 20]
    assert read_json(folder / "run" / "metrics.json")["step"] == 20


@pytest.mark.slow
@pytest.mark.parametrize("who", ["worker 0", "worker 1"])
def test_the_worker_whose_callback_waits_for_ever_is_named_and_the_run_goes_on(
    data, tmp_path, who
):
    code, out = finished(start(data, tmp_path, who, "lock"), timeout=240)
    assert code == 0, out[-3000:]
    (line,) = [line for line in out.splitlines() if "has not moved for" in line]
    assert line.startswith(f"[job] {who} (localhost:")
    assert "at step 14, between two steps" in line
    assert "the others wait for it" in out
    assert "restart 1 of 3" in out and "restart 2" not in out
    assert_done(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("who", "how"), [("worker 1", "long"), ("worker 0", "validation")]
)
def test_validation_and_what_says_that_it_takes_long_is_waited_for(
    data, tmp_path, who, how
):
    code, out = finished(start(data, tmp_path, who, how), timeout=240)
    assert code == 0, out[-3000:]
    assert "[job]" not in out
    assert_done(tmp_path)


@pytest.mark.slow
def test_the_chief_of_servers_is_noticed_as_well(data, tmp_path):
    process = start(
        *(data, tmp_path, "chief 0", "servers", "ParameterServerStrategy"), ps=1
    )
    code, out = finished(process, timeout=240)
    assert code == 0, out[-3000:]
    (line,) = [line for line in out.splitlines() if "has not moved for" in line]
    assert line.startswith("[job] chief 0 (localhost:")
    assert "between two steps" in line
    assert_done(tmp_path)


# Dies whenever it has trained for some steps after its last checkpoint.
DIE = TRAIN.replace("lock.acquire()", "os.kill(os.getpid(), 9)").replace(
    'stalls = name == who and how != "validation" and not mark.exists()',
    """
from tfr_pipeline.pipeline.run import checkpoint_files
found = checkpoint_files.latest(config["model_dir"] + "/checkpoints")
saved = checkpoint_files.step_of(found) if found else 0
stalls = name == who
""",
)


def start_dying(data, folder, when):
    config = make_config(
        data,
        folder / "run",
        num_epochs=2,
        steps_per_execution=2,
        checkpoint_every_steps=4,
        strategy="MultiWorkerMirroredStrategy",
    )
    return launch(
        *(json.dumps(config), folder, "worker 1", "die"),
        script=DIE.replace("step >= 14 or", f"{when} or"),
        environ={"TF_NUM_INTRAOP_THREADS": "1"},
        max_restarts=1,
    )


@pytest.mark.slow
def test_a_run_that_dies_after_each_checkpoint_comes_to_its_end(data, tmp_path):
    process = start_dying(data, tmp_path, "saved + 6 <= step < 20")
    code, out = finished(process, timeout=400)
    assert code == 0, out[-3000:]
    assert out.count("restart 1 of 1") >= 2
    assert out.count("1 restarts are left again") >= 2
    assert_done(tmp_path)


@pytest.mark.slow
def test_a_run_that_dies_always_before_its_next_checkpoint_is_given_up(data, tmp_path):
    process = start_dying(data, tmp_path, "step >= 14")
    code, out = finished(process, timeout=400)
    assert code == 1, out[-3000:]
    (line,) = [line for line in out.splitlines() if "given up" in line]
    found = re.fullmatch(
        r"\[job\] given up after 1 restarts without a new checkpoint since step 10; "
        r"the failures came at steps? ([\d to]+), as far as it was heard",
        line,
    )
    # A beat is up to a second old.
    assert {int(step) for step in found[1].split(" to ")} <= {10, 12, 14}
