"""What lies in the folder of checkpoints: names, steps, whole or spoilt."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable

import tensorflow as tf

from tfr_pipeline.errors import RunError

# TensorFlow's own name for the file that names the latest checkpoint.
LATEST = "checkpoint"


def latest(folder: str) -> str | None:
    """Returns the newest checkpoint in a folder, whether it can be read or not."""
    found = steps(folder, "ckpt")
    return os.path.join(folder, f"ckpt-{found[0]}") if found else None


def names(folder: str) -> list[str]:
    """Returns what is in a folder; nothing where there is none.

    Raises:
      RunError: The folder cannot be read.
    """
    try:
        return os.listdir(folder)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise RunError(f"{folder}: cannot be read ({error.strerror}).") from error


def steps(folder: str, kind: str) -> list[int]:
    """Returns the steps of the checkpoints in a folder, the newest first.

    TensorFlow writes the index last: where there is none, there is no checkpoint yet.
    """
    found = (re.fullmatch(rf"{kind}-(\d+)\.index", n) for n in names(folder))
    return sorted((int(match[1]) for match in found if match), reverse=True)


def named(folder: str) -> Iterable[int]:
    """Returns the step of the checkpoint that TensorFlow's own file names."""
    try:
        with open(os.path.join(folder, LATEST), "rb") as file:
            found = re.search(rb'^model_checkpoint_path: ".*?ckpt-(\d+)"', file.read())
    except OSError:
        return []
    return [int(found[1])] if found else []


def problem(path: str) -> str | None:
    """Returns why a checkpoint cannot be read; None if it can, to its last byte."""
    if not os.path.exists(f"{path}.index"):
        return "its index is missing"
    try:
        reader = tf.train.load_checkpoint(path)
        for name in reader.get_variable_to_shape_map():
            reader.get_tensor(name)
    except Exception as error:  # TensorFlow's reader raises whatever comes
        return f"cannot be read ({type(error).__name__}: {str(error)[:200]})"
    return None


def step_of(path: str) -> int:
    """Returns the step of the checkpoint with a path."""
    return int(path.rpartition("-")[2])
