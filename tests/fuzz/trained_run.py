"""A run that has come to its end, and what has to come out of its parts."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import shutil

import numpy as np

from tests.cli.command_helpers import Project
from tests.fuzz.commands import run
from tests.pipeline.training_helpers import read_history, untimed
from tfr_pipeline.compat import tf

_VALUE = "/.ATTRIBUTES/VARIABLE_VALUE"


@dataclasses.dataclass(frozen=True)
class Trained:
    """A run, and what a test of its own read from it.

    Attributes:
      project: Its data and its folder.
      weights: Weights of the model by step, as the checkpoints have them.
      history: What the run measured, without what the clock says.
      answers: What `predict` and `evaluate` write, by command; of the best model and
        of the latest.
    """

    project: Project
    weights: dict[int, list[np.ndarray]]
    history: list[dict[str, float]]
    answers: dict[str, list[bytes]]

    @classmethod
    def of(cls, project: Project) -> Trained:
        """Reads a run."""
        folder = project.run / "checkpoints"
        places = json.loads((folder / "template/assets.extra/places.json").read_text())
        weights = {}
        for path in folder.glob("ckpt-*.index"):
            reader = tf.train.load_checkpoint(str(path.with_suffix("")))
            names = ["/".join(["model", *place]) + _VALUE for place in places]
            step = int(path.stem.removeprefix("ckpt-"))
            weights[step] = [reader.get_tensor(name) for name in names]
        history = [untimed(row) for row in read_history(project.run)]
        answers: dict[str, list[bytes]] = {"predict": [], "evaluate": []}
        output = project.folder / "answer"
        for model in ("best_model_by_metric", "latest_model"):
            for command, found in answers.items():
                words = question(command, project, project.run / "export" / model)
                assert run(*words, f"--output={output}")[0] == 0
                found.append(output.read_bytes())
                output.unlink()
        return cls(project, weights, history, answers)

    def copy(self, to: pathlib.Path, *left_out: str) -> pathlib.Path:
        """Copies the run directory, links as links."""
        ignore = shutil.ignore_patterns(*left_out) if left_out else None
        shutil.copytree(self.project.run, to, symlinks=True, ignore=ignore)
        return to


def question(command: str, project: Project, model: pathlib.Path) -> list[str]:
    """Returns a command line that asks a model, without its output."""
    if command == "predict":
        return ["predict", f"--model={model}", f"--input={project.text}/test.txt"]
    return ["evaluate", f"--model={model}", f"--data={project.data}/test-*"]


def exported(version: pathlib.Path) -> list[np.ndarray]:
    """Returns the weights of an export."""
    reader = tf.train.load_checkpoint(str(version / "variables" / "variables"))
    names = [n for n in reader.get_variable_to_shape_map() if n.startswith("weights/")]
    return [reader.get_tensor(f"weights/{n}{_VALUE}") for n in range(len(names))]


def same(found: list[np.ndarray], wanted: list[np.ndarray]) -> None:
    """Checks that weights are the same to the last bit."""
    assert len(found) == len(wanted)
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(one, other)
