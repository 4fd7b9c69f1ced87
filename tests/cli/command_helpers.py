"""Runs the real command in processes of its own."""

from __future__ import annotations

import dataclasses
import pathlib
import re
import subprocess
import sys
from typing import Any

from tests.pipeline.training_helpers import ROOT, environment

THIS = f"{sys.executable} -m tfr_pipeline"
LETOR = ROOT / "configs" / "letor.py"
SMALL = (
    "--config.pipeline.num_epochs=2",
    "--config.data.train_batch_size=4",
    "--config.model.scorer_args.hidden_layer_dims=(8,)",
)


def shell_of(page: pathlib.Path) -> str:
    """Returns the commands of a page of the docs, in order."""
    blocks = re.findall(
        r"^```sh\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL
    )
    return "\n".join(blocks)


def run_shell(script: str, folder: pathlib.Path) -> subprocess.CompletedProcess[str]:
    """Runs commands of a page in a folder, with this Python and this package."""
    return subprocess.run(
        ["bash", "-euxc", script.replace("tfr-pipeline", THIS)],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=900,
    )


def command(*args: Any, **options: Any) -> subprocess.CompletedProcess[str]:
    """Runs `tfr-pipeline` with arguments to its end."""
    return subprocess.run(
        [sys.executable, "-m", "tfr_pipeline", *map(str, args)],
        **{
            "env": environment(),
            "capture_output": True,
            "text": True,
            "timeout": 300,
            **options,
        },
    )


def start(*arguments: Any) -> subprocess.Popen[str]:
    """Starts `tfr-pipeline` with arguments; errors go where the output goes."""
    return subprocess.Popen(
        [sys.executable, "-m", "tfr_pipeline", *map(str, arguments)],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@dataclasses.dataclass(frozen=True)
class Project:
    """Where the files of a small project are.

    Attributes:
      folder: All of it.
    """

    folder: pathlib.Path

    @property
    def text(self) -> pathlib.Path:
        """Folder of the LibSVM files."""
        return self.folder / "text"

    @property
    def data(self) -> pathlib.Path:
        """Folder of the converted files."""
        return self.folder / "data"

    @property
    def run(self) -> pathlib.Path:
        """Run directory."""
        return self.folder / "run"

    def train_flags(self, model_dir: Any, scorer: str = "dnn") -> list[str]:
        """Returns the flags of a short training run on this data."""
        return [
            f"--config={LETOR}:{scorer}",
            f"--config.data.dir={self.data}",
            f"--config.model_dir={model_dir}",
            *SMALL[: 3 if scorer == "dnn" else 2],
        ]

    @classmethod
    def make(cls, folder: pathlib.Path) -> Project:
        """Makes text and data as the README does, in one process."""
        from tfr_pipeline.cli.main import main

        project = cls(folder)
        flags = ["--queries=40", "--documents=12", "--features=8"]
        assert main(["synthesize", f"--output={project.text}", *flags]) == 0
        for split in ("train", "valid", "test"):
            source = f"--input={project.text / split}.txt"
            output = f"--output={project.data}"
            assert main(["convert", source, output, f"--split={split}"]) == 0
        return project
