"""Weak scaling: two workers against two processes that know nothing of each other.

    python tests/bench/scaling.py --output=bench

A worker has one core, one thread and a fixed number of lists a step. `alone` is one
process with the other core idle, `independent` two at the same time, each with data and
model of its own, `workers` two of MultiWorkerMirroredStrategy, whose global batch is
twice as large. Efficiency is the rate of `workers` over that of `independent`: what
summing gradients and agreeing cost, while two busy cores disturb each other in both.

The model is that of the case `dnn` in `speed_cases.py`, through the whole pipeline. The
rate is that of `history.csv`: documents of training steps by their time, the first
epoch left out. Results go to `scaling.json`. Run it on an idle machine with two cores.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import json
import os
import pathlib
import socket
import statistics
import subprocess
import sys
import tempfile

LISTS = 64
MODES = {"alone": 1, "independent": 2, "workers": 2}
WANTED = 0.90
_TIMEOUT = 900


def run(data: pathlib.Path, mode: str, case: str, lists: int, epochs: int) -> dict:
    """Runs one mode; returns documents a second of all its processes together."""
    count = MODES[mode]
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < count:
        raise SystemExit(f"scaling.py: needs {count} cores, found {len(cores)}.")
    together = mode == "workers"
    ports = _free_ports(count) if together else []
    with tempfile.TemporaryDirectory() as folder:
        processes = []
        for index in range(count):
            environment = {
                **os.environ,
                "TF_CPP_MIN_LOG_LEVEL": "3",
                "TF_NUM_INTRAOP_THREADS": "1",
            }
            environment.pop("TF_CONFIG", None)
            if together:
                hosts = [f"localhost:{port}" for port in ports]
                task = {"type": "worker", "index": index}
                cluster = {"cluster": {"worker": hosts}, "task": task}
                environment["TF_CONFIG"] = json.dumps(cluster)
            words = {
                "train": pathlib.Path(folder) / ("run" if together else f"run{index}"),
                "data": data,
                "case": case,
                "core": cores[index],
                "lists": lists * (count if together else 1),
                "epochs": epochs,
            }
            program = [
                sys.executable,
                __file__,
                *(f"--{k}={v}" for k, v in words.items()),
            ]
            processes.append(
                subprocess.Popen(
                    program + ["--together"] * together,
                    env=environment,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                    text=True,
                )
            )
        try:
            for process in processes:
                _, errors = process.communicate(timeout=_TIMEOUT)
                if process.returncode:
                    raise SystemExit(f"{mode}: failed\n{errors[-3000:]}")
        finally:
            for process in processes:
                process.kill()
        runs = sorted(pathlib.Path(folder).glob("run*"))
        rates = [_rate(path / "history.csv") for path in runs]
    return {
        "mode": mode,
        "documents_per_second": sum(rate for rate, _ in rates),
        "input_wait": max(wait for _, wait in rates),
    }


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("localhost", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def _rate(history: pathlib.Path) -> tuple[float, float]:
    """Returns documents a second and the share of time spent waiting for input."""
    with history.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))[1:]
    documents, seconds = (
        sum(float(r[k]) for r in rows) for k in ("documents", "seconds")
    )
    return documents / seconds, max(float(row["input_wait"]) for row in rows)


def train(arguments: argparse.Namespace) -> None:
    """Is one of the processes."""
    os.sched_setaffinity(0, {arguments.core})
    import speed_cases
    import speed_run
    from speed_data import Data

    import tfr_pipeline.keras as keras
    from tfr_pipeline.compat import tf

    # The input that is read fastest: what is measured comes after it.
    case = dataclasses.replace(speed_cases.CASES[arguments.case], input="packed")
    data = Data(arguments.data)
    builder = speed_run.make_dataset_builder(keras, case, data)
    builder._hparams.train_batch_size = arguments.lists
    builder._hparams.valid_batch_size = arguments.lists
    tf.keras.utils.set_random_seed(1)
    hparams = keras.pipeline.PipelineHparams(
        model_dir=str(arguments.train),
        num_epochs=arguments.epochs,
        steps_per_epoch=None,
        validation_steps=None,
        learning_rate=0.001,
        loss=case.loss,
        optimizer="adam",
        strategy="MultiWorkerMirroredStrategy" if arguments.together else None,
        seed=1,
    )
    pipeline = keras.pipeline.SimplePipeline(
        speed_run.make_model_builder(keras, case, data.features), builder, hparams
    )
    pipeline.train_and_validate(verbose=0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("bench"))
    parser.add_argument("--case", default="dnn", help="a case of speed_cases.py")
    parser.add_argument("--lists", type=int, default=LISTS, help="of a worker, a step")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--modes", default=",".join(MODES))
    # Of the processes that this one starts.
    for name, kind in (("data", pathlib.Path), ("train", pathlib.Path), ("core", int)):
        parser.add_argument(f"--{name}", type=kind, help=argparse.SUPPRESS)
    parser.add_argument("--together", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.train:
        train(arguments)
        return
    from speed_data import Data

    data = Data(arguments.output / "data").make().folder
    modes = arguments.modes.split(",")
    found: dict[str, list[float]] = {mode: [] for mode in modes}
    runs = []
    for number in range(arguments.rounds):
        # In turns, and the other way round the next time: machines change their speed.
        for mode in modes if number % 2 == 0 else reversed(modes):
            runs.append(
                run(data, mode, arguments.case, arguments.lists, arguments.epochs)
            )
            found[mode].append(runs[-1]["documents_per_second"])
            print(json.dumps(runs[-1]), flush=True)
    (arguments.output / "scaling.json").write_text(json.dumps(runs, indent=1))
    rates = {mode: statistics.median(values) for mode, values in found.items()}
    for mode, rate in rates.items():
        print(f"{mode}: {rate:,.0f} documents/s")
    if {"workers", "independent"} <= set(rates):
        efficiency = rates["workers"] / rates["independent"]
        verdict = "as wanted" if efficiency >= WANTED else f"{WANTED:.2f} was wanted"
        print(f"efficiency of two workers: {efficiency:.3f} ({verdict})")


if __name__ == "__main__":
    main()
