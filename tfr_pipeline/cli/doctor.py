"""`doctor`: what is installed, what this machine offers, and how to mend the rest.

One line a finding: `ok`, `warn` or `FAIL`, what was looked at, what was found, and
after `->` what to do about it. The exit code is 1 if anything failed.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import os
import platform
import re
import shutil
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from tfr_pipeline import files, remote, urls
from tfr_pipeline.cli import arguments
from tfr_pipeline.cli.doctor_cluster import check_ports, check_tf_config
from tfr_pipeline.cli.finding import FAIL, OK, WARN, Finding
from tfr_pipeline.cli.quiet import native_messages_hidden
from tfr_pipeline.errors import DataError, RunError

PACKAGES = (
    "tensorflow",
    "tf-keras",
    "tensorflow-ranking",
    "neural-structured-learning",
    "tensorflow-hub",
    "ml-collections",
    "protobuf",
    "numpy",
    "pyarrow",
)
# What `constraints/<lane>.txt` pins, as far as it tells the lanes apart.
LANES = {
    "tf221": {"tensorflow": "2.21", "tf-keras": "2.21", "tensorflow-ranking": "0.5.3"},
    "tf215": {"tensorflow": "2.15", "tf-keras": "2.15", "tensorflow-ranking": "0.5.5"},
}
TPU_VARIABLES = (
    "TPU_NAME",
    "TPU_ACCELERATOR_TYPE",
    "TPU_WORKER_ID",
    "TPU_WORKER_HOSTNAMES",
)
LOW_DISK, NO_DISK = 5 << 30, 1 << 29
LOW_MEMORY = 2 << 30


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's flags."""
    parser.add_argument(
        "--data",
        metavar="DIR",
        type=arguments.path,
        help="a folder that `convert` filled",
    )
    parser.add_argument(
        "--port",
        metavar="N[,N...]",
        default="",
        help="ports of this machine that have to be free",
    )


def run(args: argparse.Namespace) -> int:
    """Prints all findings; returns 1 if one of them is a failure."""
    failed = False
    for finding in find(args.data, args.port):
        print(finding, flush=True)
        failed |= finding.level == FAIL
    return int(failed)


def find(data: str | None = None, ports: str = "") -> Iterator[Finding]:
    """Yields the findings in the order of the report."""
    versions = installed(PACKAGES)
    yield from check_versions(versions)
    yield check_lane(versions)
    yield from check_tensorflow()
    yield from check_machine()
    yield from check_tf_config(os.environ.get("TF_CONFIG"))
    yield from check_ports(ports)
    yield from check_extras()
    if data is not None:
        yield from check_data(data)


def installed(packages: tuple[str, ...]) -> dict[str, str | None]:
    """Maps each distribution to its version, or to None if it is not installed."""
    versions: dict[str, str | None] = {}
    for package in packages:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None
    return versions


def check_versions(versions: Mapping[str, str | None]) -> Iterator[Finding]:
    """Python, this package and what it stands on."""
    from tfr_pipeline import __version__

    yield Finding(OK, "Python", f"{platform.python_version()}, {platform.platform()}")
    yield Finding(OK, "tfr_pipeline", __version__)
    for package, version in versions.items():
        if version is None:
            advice = "pip install --upgrade tfr_pipeline"
            yield Finding(FAIL, package, "not installed", advice)
        else:
            yield Finding(OK, package, version)


def check_lane(versions: Mapping[str, str | None]) -> Finding:
    """Whether the versions are those of a lane the package is tested on."""
    tensorflow = versions.get("tensorflow") or ""
    for lane, expected in LANES.items():
        if not _is_version(tensorflow, expected["tensorflow"]):
            continue
        wrong = [
            f"{package} {versions.get(package)} (expected {version})"
            for package, version in expected.items()
            if not _is_version(versions.get(package) or "", version)
        ]
        if wrong:
            advice = f"pip install -c constraints/{lane}.txt ."
            return Finding(WARN, "lane", f"{lane}, but {', '.join(wrong)}", advice)
        return Finding(OK, "lane", lane)
    return Finding(
        WARN,
        "lane",
        f"other: TensorFlow {tensorflow or 'is missing'}",
        "tested with 2.21 and 2.15: pip install -c constraints/tf221.txt .",
    )


def _is_version(version: str, prefix: str) -> bool:
    return version == prefix or version.startswith(prefix + ".")


def check_tensorflow() -> Iterator[Finding]:
    """Imports the libraries as the commands do; looks at Keras and accelerators."""
    try:
        with native_messages_hidden():
            from tfr_pipeline.compat import hub, nsl, tf, tfr  # noqa: F401

            gpus = tf.config.list_physical_devices("GPU")
    except Exception as error:
        # Whatever a broken installation raises is the finding.
        cause = f"{type(error).__name__}: {error}".splitlines()[0]
        advice = "reinstall in a fresh environment: pip install tfr_pipeline"
        yield Finding(FAIL, "import", cause, advice)
        return
    yield Finding(OK, "import", "TensorFlow, TF-Ranking, NSL and Hub load")
    # `tf.keras` tells no version of its own; the library behind it does.
    library = tf.keras.Model.__module__.partition(".")[0]
    keras = f"{library} {sys.modules[library].__version__}"
    if keras.split()[1].startswith("2."):
        yield Finding(OK, "Keras behind tf.keras", keras)
    else:
        advice = "set TF_USE_LEGACY_KERAS=1 and pip install tf-keras"
        yield Finding(FAIL, "Keras behind tf.keras", keras, advice)

    if gpus:
        names = ", ".join(device.name for device in gpus)
        yield Finding(OK, "GPUs", f"{len(gpus)}: {names}")
    elif shutil.which("nvidia-smi"):
        advice = "pip install 'tensorflow[and-cuda]' at the installed version"
        yield Finding(WARN, "GPUs", "a driver, but TensorFlow sees none", advice)
    else:
        yield Finding(OK, "GPUs", "none")
    found = ", ".join(f"{n}={os.environ[n]}" for n in TPU_VARIABLES if n in os.environ)
    yield Finding(OK, "TPU", found or "none in the environment")


def check_machine() -> Iterator[Finding]:
    """Processors, memory, disk."""
    from tfr_pipeline.data.convert.workers import available_cores

    usable = available_cores()
    yield Finding(OK, "CPUs", f"{usable} usable of {os.cpu_count()}")
    memory = available_memory()
    if memory is None:
        yield Finding(OK, "memory", "unknown on this system")
    elif memory < LOW_MEMORY:
        advice = "close programs, or lower documents_per_batch"
        yield Finding(WARN, "memory", f"{_gib(memory)} available", advice)
    else:
        yield Finding(OK, "memory", f"{_gib(memory)} available")

    folder = os.getcwd()
    free = shutil.disk_usage(folder).free
    found = f"{_gib(free)} free in {folder}"
    if free < LOW_DISK:
        advice = "make room, or write model_dir elsewhere"
        yield Finding(FAIL if free < NO_DISK else WARN, "disk", found, advice)
    elif not os.access(folder, os.W_OK):
        advice = "go to a folder that you may write to"
        yield Finding(WARN, "disk", f"{found}, not writable", advice)
    else:
        yield Finding(OK, "disk", found)


def available_memory() -> int | None:
    """Bytes a process may still take, by the kernel and by the control group."""
    limits = []
    with contextlib.suppress(OSError):
        with open("/proc/meminfo", encoding="ascii") as file:
            match = re.search(r"MemAvailable:\s+(\d+) kB", file.read())
            if match:
                limits.append(int(match[1]) * 1024)
    # ValueError: the control group says "max".
    with contextlib.suppress(OSError, ValueError):
        with (
            open("/sys/fs/cgroup/memory.max", encoding="ascii") as most,
            open("/sys/fs/cgroup/memory.current", encoding="ascii") as now,
        ):
            limits.append(int(most.read()) - int(now.read()))
    return min(limits, default=None)


def _gib(count: int) -> str:
    return f"{count / 2**30:.1f} GiB"


def check_extras() -> Iterator[Finding]:
    """Which optional parts are complete; a missing one is no fault."""
    from packaging.requirements import Requirement

    try:
        metadata = importlib.metadata.metadata("tfr_pipeline")
    except importlib.metadata.PackageNotFoundError:
        advice = "pip install . in the checkout"
        yield Finding(WARN, "extras", "unknown: running from a source folder", advice)
        return
    requirements = [Requirement(r) for r in metadata.get_all("Requires-Dist") or ()]
    for extra in metadata.get_all("Provides-Extra") or ():
        wanted = tuple(
            requirement.name
            for requirement in requirements
            if requirement.marker
            and requirement.marker.evaluate({"extra": extra})
            and not requirement.marker.evaluate({"extra": ""})
        )
        missing = [name for name, version in installed(wanted).items() if not version]
        if missing:
            advice = f"if you need it: pip install 'tfr_pipeline[{extra}]'"
            found = f"not installed: {', '.join(missing)}"
            yield Finding(OK, f"extra [{extra}]", found, advice)
        else:
            yield Finding(OK, f"extra [{extra}]", "installed")


def check_data(folder: str) -> Iterator[Finding]:
    """Whether `folder` holds what `train` reads: description, shards, statistics."""
    from tfr_pipeline.features import Features

    if not urls.is_remote(folder) and not os.path.isdir(folder):
        advice = "make it: tfr-pipeline convert --input=... --output=" + folder
        yield Finding(FAIL, "data", f"{folder} is not a folder", advice)
        return
    try:
        features = Features.load(folder)
    except RunError as error:
        yield Finding(FAIL, "data", str(error), "see docs/remote.md")
        return
    except DataError as error:
        advice = f"run tfr-pipeline convert with --output={folder} again"
        yield Finding(FAIL, "data: features.json", str(error), advice)
    else:
        stored = features.feature_dtype
        stored = f" of {stored}" if stored != "float32" else ""
        found = (
            f"{features.data_format}{stored}, {len(features.context)} query and "
            f"{len(features.example)} document features, label {features.label[0]!r}"
        )
        yield Finding(OK, "data: features.json", found)
    for split in ("train", "valid", "test"):
        yield check_split(folder, split)


def check_split(folder: str, split: str) -> Finding:
    """Whether all shards of a split are there, none empty, with their statistics."""
    what = f"data: {split}"
    again = f"run tfr-pipeline convert --split={split} --output={folder} again"
    name = re.compile(rf"{split}-(\d+)-of-(\d+)\.tfrecord(\.gz)?")
    sizes = _sizes(folder)
    shards = [m for m in map(name.fullmatch, sorted(sizes)) if m]
    if not shards and split == "test":
        return Finding(OK, what, "none: the run will not be tested at its end")
    if not shards:
        return Finding(FAIL, what, f"no {split}-* files", again.replace(" again", ""))
    totals = {int(shard[2]) for shard in shards}
    if len(totals) > 1 or len(shards) != totals.copy().pop():
        found = f"{len(shards)} files that say they are {sorted(totals)}"
        return Finding(FAIL, what, found, f"empty the folder of {split}-* and {again}")
    empty = [shard[0] for shard in shards if not sizes[shard[0]]]
    if len(empty) == len(shards):
        return Finding(FAIL, what, "all files are empty", again)
    found = f"{len(shards)} files"
    path = os.path.join(folder, f"{split}.stats.json")
    if os.path.basename(path) not in sizes:
        return Finding(WARN, what, f"{found}, no {split}.stats.json", again)
    try:
        stats = files.read_json(path)
        counts = [f"{_count(stats, key)} {key}" for key in ("queries", "documents")]
    except DataError as error:
        return Finding(WARN, what, f"{found}, but {error}", again)
    except (LookupError, TypeError) as error:
        unreadable = f"{found}, {path} is unreadable ({type(error).__name__}: {error})"
        return Finding(WARN, what, unreadable, again)
    return Finding(OK, what, ", ".join([found, *counts]))


def _sizes(folder: str) -> dict[str, int]:
    """Returns the bytes of what is in a folder of this machine or of a store."""
    if urls.is_remote(folder):
        return {n: entry.size for n, entry in remote.find(folder, deep=False).items()}
    paths = {name: os.path.join(folder, name) for name in os.listdir(folder)}
    # A link that leads nowhere is there, too.
    return {n: os.path.getsize(p) if os.path.exists(p) else 0 for n, p in paths.items()}


def _count(stats: Any, key: str) -> int:
    if type(stats[key]) is not int:
        raise TypeError(f"{key} is {stats[key]!r}")
    return stats[key]
