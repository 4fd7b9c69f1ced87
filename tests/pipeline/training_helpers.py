"""Small data, configs and processes that the pipeline and command tests share."""

from __future__ import annotations

import copy
import csv
import json
import os
import pathlib
import subprocess
import sys
from typing import Any

from tfr_pipeline.data.convert.conversion import convert
from tfr_pipeline.data.synthesize import SPLITS, Size, synthesize

ROOT = pathlib.Path(__file__).resolve().parents[2]


def make_data(folder: pathlib.Path, queries: int = 40) -> pathlib.Path:
    """Writes LibSVM text into `folder/text` and ELWC into `folder/elwc`.

    40 queries for training, of which one has one document and two have no relevant
    one; 10 for validation and 10 for the test.
    """
    synthesize(str(folder / "text"), Size(queries=queries, documents=12, features=8))
    for split in SPLITS:
        convert(
            str(folder / "text" / f"{split}.txt"),
            str(folder / "elwc"),
            input_format="libsvm",
            split=split,
            num_shards=2 if split == "train" else 1,
        )
    return folder / "elwc"


def make_config(data: Any, model_dir: Any, **pipeline: Any) -> dict[str, Any]:
    """Returns the config of a small run: 10 steps an epoch, everything random on."""
    return {
        "model_dir": str(model_dir),
        "seed": 7,
        "data": {"dir": str(data), "train_batch_size": 4, "valid_batch_size": 4},
        "model": {
            "scorer": "dnn",
            "scorer_args": {
                "hidden_layer_dims": [8],
                "activation": "relu",
                "use_batch_norm": True,
                "batch_norm_moment": 0.9,
                "dropout": 0.3,
            },
            "preprocess": "log1p",
        },
        "pipeline": {
            "num_epochs": 3,
            "loss": "softmax_loss",
            "learning_rate": 0.01,
            "metrics": ["ndcg_1", "ndcg_10"],
            "steps_per_execution": 5,
            **pipeline,
        },
    }


def changed(config: dict[str, Any], **values: Any) -> dict[str, Any]:
    """Returns a copy of a config; `a__b=v` sets `config["a"]["b"]`."""
    result = copy.deepcopy(config)
    for path, value in values.items():
        *parents, last = path.split("__")
        here = result
        for part in parents:
            here = here.setdefault(part, {})
        here[last] = value
    return result


def read_json(path: Any) -> Any:
    """Returns the content of a JSON file; NaN is not JSON."""

    def refuse(text: str) -> None:
        raise ValueError(f"{path}: {text} is not JSON")

    return json.loads(pathlib.Path(path).read_text(), parse_constant=refuse)


def read_history(run: Any) -> list[dict[str, float]]:
    """Returns the rows of `history.csv`."""
    with open(pathlib.Path(run) / "history.csv", encoding="utf-8") as file:
        return [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]


def fit(pipeline: Any) -> tuple[Any, list[dict[str, float]]]:
    """Trains a pipeline as a run does, but saves, exports and evaluates nothing.

    Returns:
      The model and the rows of its history.
    """
    from tfr_pipeline.compat import tf

    hparams, feed = pipeline._hparams, pipeline._feed
    tf.keras.utils.set_random_seed(hparams.seed)
    layout = pipeline._layout()
    steps = feed.check(layout)
    model = pipeline._compile(layout, steps * hparams.num_epochs)
    history = model.fit(
        feed.dataset("train", layout, model=model),
        validation_data=feed.dataset("valid", layout, model=model),
        validation_steps=feed.steps("valid", layout),
        steps_per_epoch=steps,
        epochs=hparams.num_epochs,
        verbose=0,
    ).history
    rows = zip(*history.values(), strict=True)
    return model, [dict(zip(history, row, strict=True)) for row in rows]


def untimed(row: dict[str, float]) -> dict[str, float]:
    """Returns a row of the history without what depends on the clock."""
    timed = ("seconds", "steps_per_second", "documents_per_second", "input_wait")
    return {key: value for key, value in row.items() if key not in timed}


def scalars(folder: Any) -> dict[str, list[float]]:
    """Returns what a folder of TensorBoard's logs holds, by tag."""
    from tfr_pipeline.compat import tf

    found: dict[str, list[float]] = {}
    for path in sorted(pathlib.Path(folder).glob("events.*")):
        for event in tf.compat.v1.train.summary_iterator(str(path)):
            for value in event.summary.value:
                number = float(tf.make_ndarray(value.tensor))
                found.setdefault(value.tag, []).append(number)
    return found


def tree(folder: Any) -> dict[str, bytes]:
    """Returns the content of all files below a folder."""
    folder = pathlib.Path(folder)
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def environment(**extra: str) -> dict[str, str]:
    """Returns an environment in which a child finds this checkout."""
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path for path in paths if path),
        "TF_CPP_MIN_LOG_LEVEL": "3",
        **extra,
    }


def start(script: str, *args: Any, **options: Any) -> subprocess.Popen[str]:
    """Starts a Python script in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-c", script, *map(str, args)],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )
