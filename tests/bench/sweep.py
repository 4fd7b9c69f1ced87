"""What a sweep costs beside its trainings, and whether its memory grows.

    .venv/bin/python tests/bench/sweep.py --output=bench [--trials=20] [--long=100]

Times trials of one epoch against the same trainings one after the other in one process,
each with data of its own; then runs a longer sweep and looks at the memory on the way.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

CONFIG = """
from configs import letor

def get_config():
    config = letor.get_config("dnn")
    config.pipeline.num_epochs = 1
    return config

def get_sweep(hyper):
    rates = [0.001 + 0.0001 * i for i in range({trials})]
    return hyper.sweep("pipeline.learning_rate", rates)
"""


def make_data(folder: pathlib.Path, queries: int) -> pathlib.Path:
    """Writes LETOR-like data, once."""
    from tfr_pipeline.data.convert.conversion import convert
    from tfr_pipeline.data.synthesize import Size, synthesize

    data = folder / f"data_{queries}"
    if not data.exists():
        size = Size(queries=queries, documents=100, features=136)
        synthesize(str(folder / "text"), size)
        for split in ("train", "valid"):
            source = str(folder / "text" / f"{split}.txt")
            convert(source, str(data), input_format="libsvm", split=split)
    return data


def write_config(folder: pathlib.Path, trials: int) -> pathlib.Path:
    """Writes a config file with a sweep of so many trials."""
    path = folder / f"config_{trials}.py"
    path.write_text(CONFIG.format(trials=trials))
    return path


def back_to_back(config: str, data: str, folder: str) -> None:
    """Trains what the trials of a sweep train; in a process of its own."""
    from tfr_pipeline.cli.quiet import load_tensorflow

    load_tensorflow()
    import tensorflow as tf

    tf.get_logger().setLevel("ERROR")
    from tfr_pipeline.experiment.build import build_pipeline, without_test
    from tfr_pipeline.experiment.config_files import ConfigFile
    from tfr_pipeline.sweep import hyper

    file = ConfigFile(config, [f"--config.data.dir={data}"])
    function = file.function("get_sweep")
    assert function is not None
    for number, point in enumerate(function(hyper).points()):
        trial = without_test(file.config(point))
        trial["model_dir"] = os.path.join(folder, str(number))
        build_pipeline(trial).train_and_validate()


def sweep(config: pathlib.Path, data: pathlib.Path, folder: pathlib.Path) -> list[str]:
    """Returns the command of a sweep."""
    words = [f"--config={config}", f"--config.data.dir={data}"]
    words.append(f"--config.model_dir={folder}")
    return [sys.executable, "-m", "tfr_pipeline", "sweep", *words]


def timed(command: list[str]) -> float:
    """Returns the seconds that a command takes."""
    start = time.perf_counter()
    subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def memory(process: subprocess.Popen[bytes], what: str = "VmHWM") -> float:
    """Returns MiB of a process: `VmHWM` at its peak, `VmRSS` now."""
    text = pathlib.Path(f"/proc/{process.pid}/status").read_text()
    line = next(line for line in text.splitlines() if line.startswith(what))
    return int(line.split()[1]) / 1024


def watched(
    command: list[str], folder: pathlib.Path, at: list[int]
) -> dict[int, float]:
    """Returns the peak memory when so many trials have ended, in MiB."""
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    found: dict[int, float] = {}
    while process.poll() is None:
        done = len(list(folder.glob("trials/*/metrics.json")))
        for number in at:
            if number <= done and number not in found:
                found[number] = round(memory(process), 1)
                print(f"{number} trials: {found[number]} MiB at the peak", flush=True)
        time.sleep(0.2)
    assert process.returncode == 0
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=pathlib.Path, required=True)
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--queries", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--long", type=int, default=100)
    parser.add_argument("--back_to_back", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.back_to_back:
        back_to_back(*args.back_to_back)
        return
    folder = args.output / "sweep"
    folder.mkdir(parents=True, exist_ok=True)
    result: dict[str, object] = {}
    if args.trials:
        data, config = (
            make_data(folder, args.queries),
            write_config(folder, args.trials),
        )
        times: dict[str, list[float]] = {"sweep": [], "back to back": []}
        for _ in range(args.rounds):
            for name, seconds in times.items():
                place = folder / "runs"
                shutil.rmtree(place, ignore_errors=True)
                command = sweep(config, data, place)
                if name != "sweep":
                    words = ["--output=x", "--back_to_back", config, data, place]
                    command = [sys.executable, __file__, *map(str, words)]
                seconds.append(round(timed(command), 1))
                print(f"{args.trials} trials, {name}: {seconds[-1]} s", flush=True)
        ratio = statistics.median(times["sweep"]) / statistics.median(
            times["back to back"]
        )
        result |= {"seconds": times, "ratio": round(ratio, 3)}
        print(f"ratio {ratio:.3f}")
    if args.long:
        data, config = make_data(folder, 40), write_config(folder, args.long)
        place = folder / "long"
        shutil.rmtree(place, ignore_errors=True)
        at = [1, 10, args.long // 2, args.long]
        result["MiB"] = watched(sweep(config, data, place), place, at)
    (args.output / "sweep.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
