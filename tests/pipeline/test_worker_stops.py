"""One worker of two is told to stop, at the moments at which that is not obvious."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.pipeline.test_multi_worker import free_ports
from tests.pipeline.training_helpers import environment, make_config, read_history
from tfr_pipeline.experiment.build import build_pipeline

# The worker that is given a moment sends SIGTERM to itself there.
TRAIN = """
import json, os, signal, sys
from tfr_pipeline.compat import tf
from tfr_pipeline.experiment import build

config, moment = json.loads(sys.argv[1]), sys.argv[2]

class Terminate(tf.keras.callbacks.Callback):
    def maybe(self, now):
        if f"{now} {int(self.model.optimizer.iterations.numpy())}" == moment:
            os.kill(os.getpid(), signal.SIGTERM)

    def on_train_batch_end(self, batch, logs=None):
        self.maybe("step")

    def on_test_batch_end(self, batch, logs=None):
        self.maybe("validation")

pipeline = build.build_pipeline(config)
theirs = pipeline.build_callbacks
pipeline.build_callbacks = lambda: [Terminate(), *theirs()]
pipeline.train_and_validate()
"""


def run(config, *moments):
    """Runs as many workers as moments; returns their exit codes and last words.

    Args:
      config: Of all workers, or a list with that of each.
      *moments: When each worker is to stop.
    """
    configs = config if isinstance(config, list) else [config] * len(moments)
    hosts = [f"localhost:{port}" for port in free_ports(len(moments))]
    workers = []
    for index, moment in enumerate(moments):
        task = {"type": "worker", "index": index}
        cluster = json.dumps({"cluster": {"worker": hosts}, "task": task})
        workers.append(
            subprocess.Popen(
                [sys.executable, "-c", TRAIN, json.dumps(configs[index]), moment],
                env=environment(TF_CONFIG=cluster),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    errors = [worker.communicate(timeout=900)[1] for worker in workers]
    return [worker.returncode for worker in workers], errors


@pytest.mark.slow
def test_one_worker_stops_all_and_one_alone_takes_the_run_to_its_end(data, tmp_path):
    def config_in(folder, strategy):
        config = make_config(
            data,
            folder,
            num_epochs=3,
            optimizer="sgd",
            strategy=strategy,
            steps_per_execution=2,
        )
        config["model"]["scorer_args"].update(use_batch_norm=False, dropout=0.0)
        return config

    config = config_in(tmp_path / "run", "MultiWorkerMirroredStrategy")
    codes, errors = run(config, "", "step 10")  # the last one of the epoch
    assert codes == [143, 143], errors[0][-2000:] + errors[1][-2000:]
    assert [row["step"] for row in read_history(tmp_path / "run")] == [10]
    codes, errors = run(config, "", "validation 20")
    assert codes == [143, 143], errors[0][-2000:] + errors[1][-2000:]
    assert [row["step"] for row in read_history(tmp_path / "run")] == [10, 20]
    assert not (tmp_path / "run" / "export").exists()

    codes, errors = run(config, "")
    assert codes == [0], errors[0][-2000:]
    assert (tmp_path / "run" / "export" / "latest_model" / "30").is_dir()
    build_pipeline(config_in(tmp_path / "alone", None)).train_and_validate()
    found, wanted = read_history(tmp_path / "run"), read_history(tmp_path / "alone")
    assert len(found) == len(wanted) == 3
    for one, other in zip(found, wanted, strict=True):
        for key in ("step", "loss", "val_loss", "val_metric/ndcg_10"):
            assert one[key] == pytest.approx(other[key], rel=2e-5), key


@pytest.mark.slow
def test_the_clock_of_the_chief_decides_when_all_save(data, tmp_path):
    """Workers that saved at steps of their own would wait for each other for ever."""
    strategy = "MultiWorkerMirroredStrategy"
    configs = [
        make_config(
            data,
            tmp_path / "run",
            strategy=strategy,
            steps_per_execution=2,
            checkpoint_every_seconds=seconds,
        )
        for seconds in (0.001, 0)
    ]
    codes, errors = run(configs, "", "")
    assert codes == [0, 0], errors[0][-2000:] + errors[1][-2000:]
    folder = tmp_path / "run" / "checkpoints"
    assert {path.stem for path in folder.glob("ckpt-*.index")} == {"ckpt-28", "ckpt-30"}
