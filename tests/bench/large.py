"""Training from disk with little memory, beside training from memory.

    python tests/bench/large.py --data=FOLDER [--lists=60600] [--limit=2048]

Writes packed shards of so many lists of 118 documents with 136 features each (3.9 GB),
once, and trains `configs/letor.py:dnn` with softmax loss and log1p, 64 lists a batch,
three epochs: in turns from memory, and from disk in a control group of `--limit` MB
with the page cache dropped before. Needs root and control groups of version 1 or 2.
Prints documents a second of the last epoch, the first (in which records are checked),
and the peak of resident memory. `--multiples=1,2,4` does so for more data, from disk
only.
"""

from __future__ import annotations

import argparse
import csv
import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np

from tfr_pipeline.data.convert import output_folder
from tfr_pipeline.data.lists import Lists
from tfr_pipeline.data.records import encode, index, tfrecord
from tfr_pipeline.features import Feature, Features

ROOT = pathlib.Path(__file__).resolve().parents[2]
WIDTH, SHARDS = 136, 5
GROUPS = pathlib.Path("/sys/fs/cgroup")


def make(folder: pathlib.Path, lists: int) -> None:
    """Writes training and validation shards with their index, unless they are there."""
    if (folder / "done").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    features = Features(
        context={},
        example={"features": Feature(shape=(WIDTH,))},
        label=("label", Feature(default=-1.0)),
        query_id="query_id",
        document_id="document_id",
        data_format="packed",
    )
    features.save(str(folder))
    weights = np.random.default_rng(0).normal(size=WIDTH).astype(np.float32)
    for split, count in (("train", lists), ("valid", 600)):
        random = np.random.default_rng(count)
        names = output_folder.shard_names(split, SHARDS)
        shards = [index.Writing(str(folder / name)) for name in names]
        files = [open(shard.path, "wb") for shard in shards]  # noqa: SIM115
        for first in range(0, count, 100):
            lengths = random.lognormal(np.log(118) - 0.18, 0.6, min(100, count - first))
            lengths = lengths.astype(np.int64).clip(1, 1000)
            matrix = random.random((int(lengths.sum()), WIDTH), np.float32)
            labels = 2 + (matrix - 0.5) @ weights / 2
            labels = labels + random.normal(size=len(labels)) / 2
            part = Lists(
                values={"float32": matrix},
                row_splits=np.concatenate([[0], np.cumsum(lengths)]),
                labels=labels.round().clip(0, 4).astype(np.float32),
                query_ids=np.array(
                    [str(first + i) for i in range(len(lengths))], object
                ),
                document_ids=np.full(len(matrix), "", object),
            )
            for place, record in enumerate(
                tfrecord.frame(encode.packed(part, features))
            ):
                files[place % SHARDS].write(record)
                shards[place % SHARDS].add(int(lengths[place]), len(record))
        for file in files:
            file.close()
        index.write(str(folder), split, [shard.index() for shard in shards])
    (folder / "done").touch()


def limited(megabytes: int) -> list[str]:
    """Returns words that put a command into a control group with a limit."""
    if not megabytes:
        return []
    version_2 = (GROUPS / "cgroup.controllers").exists()
    group = (GROUPS if version_2 else GROUPS / "memory") / "tfr_pipeline_bench"
    group.mkdir(exist_ok=True)
    name = "memory.max" if version_2 else "memory.limit_in_bytes"
    (group / name).write_text(str(megabytes << 20))
    return ["sh", "-c", f'echo $$ > {group}/cgroup.procs; exec "$@"', "sh"]


def run(data: pathlib.Path, cache: str, megabytes: int, epochs: int) -> str:
    """Trains once; returns what it measured in words."""
    out = data / "run"
    shutil.rmtree(out, ignore_errors=True)
    subprocess.run(["sync"], check=True)
    pathlib.Path("/proc/sys/vm/drop_caches").write_text("3")
    command = [
        *limited(megabytes),
        *(sys.executable, "-m", "tfr_pipeline", "train"),
        *(f"--config={ROOT}/configs/letor.py:dnn", f"--config.data.dir={data}"),
        *(f"--config.model_dir={out}", f"--config.data.cache={cache}"),
        *("--config.data.train_batch_size=64", "--config.pipeline.loss=softmax_loss"),
        "--config.model.preprocess=log1p",
        f"--config.pipeline.num_epochs={epochs}",
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environment)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"training failed: {status}")
    with open(out / "history.csv", encoding="utf-8") as file:
        rates = [float(row["documents_per_second"]) for row in csv.DictReader(file)]
    peak = usage.ru_maxrss / (1 << 20)
    return (
        f"{rates[-1]:,.0f} documents/s in the last epoch, {rates[0]:,.0f} in the "
        f"first, peak {peak:.2f} GiB"
    )


def main() -> None:
    """Runs the comparison."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, type=pathlib.Path)
    parser.add_argument("--lists", type=int, default=60_600)
    parser.add_argument("--limit", type=int, default=2048, help="MB, from disk")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--multiples", default="1", help="of the lists, such as 1,2,4")
    args = parser.parse_args()
    for text in args.multiples.split(","):
        lists = args.lists * int(text)
        folder = args.data / f"{lists}"
        make(folder, lists)
        for number in range(args.rounds):
            if int(text) == 1:
                print(f"round {number}, memory: {run(folder, 'memory', 0, 3)}")
            found = run(folder, "auto", args.limit, 3)
            print(f"round {number}, {text}x from disk, {args.limit} MB: {found}")


if __name__ == "__main__":
    main()
