"""The trial that is chosen: its config as a file to use, and trained again."""

from __future__ import annotations

import contextlib
import glob
import keyword
import os
import pprint
import re
import statistics
import tempfile
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from tfr_pipeline import files
from tfr_pipeline.errors import ConfigError, DataError
from tfr_pipeline.experiment.config_files import ConfigFile
from tfr_pipeline.sweep.attributes import IDENTITY
from tfr_pipeline.sweep.settings import seed_of
from tfr_pipeline.sweep.standing import Standing, TrialRow
from tfr_pipeline.sweep.status_text import measured, value_text

# Stands in the first lines of config files that are written here.
SIGN = "Written by `tfr-pipeline sweep best`"
SUMMARY = "seeds.json"
_WIDTH = 88


def config_of(
    standing: Standing,
    row: TrialRow,
    overrides: Sequence[str] = (),
    prepare: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Returns the config of a trial, with the test data that trials do without.

    Its seed is that of the trial, and `model_dir` a new folder in that of the sweep.

    Args:
      standing: The study.
      row: The trial.
      overrides: Words such as `--config.data.dir=DIR`.
      prepare: See `overrides.apply`.

    Raises:
      ConfigError: The study has no config; or see `config_files.load`.
    """
    config = standing.told.get("config")
    if not config:
        raise ConfigError(
            f"study {standing.name!r}: expected one that `tfr-pipeline sweep` made, "
            "found none of its settings in it."
        )
    base = {"model_dir": None, "seed": None, **config}
    with tempfile.TemporaryDirectory(prefix="tfr_pipeline_") as folder:
        # Points and overrides are read by the rules for config files.
        path = os.path.join(folder, "base.py")
        files.write_text(path, _code(base, f"Base of study {standing.name}."))
        found = ConfigFile(path, list(overrides), prepare).config(row.point)
    chosen = {word.partition("=")[0] for word in overrides}
    if "--config.seed" not in chosen:
        settings = {"seed": 0, "seeds": "", **standing.told.get("settings", {})}
        found["seed"] = seed_of(settings, found.get("seed"), row.number, row.point)
    folds = standing.told.get("settings", {}).get("folds")
    data = found["data"]
    if folds and (data.get("fold") is not None or not _validates(data)):
        # Without validation data there is no best epoch.
        data.update(folds=data.get("folds") or folds, fold=data.get("fold") or 0)
    if "--config.model_dir" not in chosen:
        folder = standing.folder or str(config.get("model_dir") or "")
        found["model_dir"] = os.path.join(folder, "best", f"{row.number:05d}")
    return found


def _validates(data: Mapping[str, Any]) -> bool:
    """Whether a config names validation data, or has a folder with such."""
    if data.get("folds") or data.get("valid"):
        return True
    if data.get("dir"):
        pattern = os.path.join(glob.escape(data["dir"]), "valid-*")
        with contextlib.suppress(DataError):
            return bool(files.expand(pattern, fetch=False))
    return False


def as_file(standing: Standing, row: TrialRow, config: Mapping[str, Any]) -> str:
    """Returns a config file, which needs no other one.

    Args:
      standing: The study.
      row: The trial.
      config: See `config_of`.
    """
    point = "\n".join(
        f"    {path} = {value_text(value)}" for path, value in row.point.items()
    )
    about = "\n".join(
        [
            f"Trial {row.number} of study {standing.name}: "
            f"{measured(row, standing.names)}.",
            "",
            "    tfr-pipeline train --config=THIS_FILE.py",
            "",
            "trains it, tests it where there are test data, and exports it. The trial "
            "has set",
            "",
            point,
            "",
            f"{SIGN}, which writes over it.",
        ]
    )
    return _code(config, about)


def _code(config: Mapping[str, Any], about: str) -> str:
    about = about.replace("\\", "/").replace('"""', "'''").rstrip('"')
    lines = [
        f'"""{about}\n"""',
        "",
        "from ml_collections import ConfigDict",
        "",
        "",
        "def get_config() -> ConfigDict:",
        '    """Returns the config."""',
        "    config = ConfigDict()",
        *_assignments("config", config, ("data", "model", "pipeline")),
        "    return config",
        "",
    ]
    return "\n".join(lines)


def _assignments(
    target: str, config: Mapping[str, Any], sections: Sequence[str] = ()
) -> Iterator[str]:
    """Yields the lines that set keys; sections, which have a block each, come last."""
    last = [key for key in sections if isinstance(config.get(key), Mapping)]
    for key, value in config.items():
        if key in last:
            continue
        plain = key.isidentifier() and not keyword.iskeyword(key)
        name = f"{target}.{key}" if plain else f"{target}[{key!r}]"
        yield from _assignment(name, _as_in_files(value))
    for key in last:
        yield ""
        yield f"    {target}.{key} = ConfigDict()"
        yield from _assignments(f"{target}.{key}", config[key])


def _assignment(name: str, value: Any) -> Iterator[str]:
    before, after = ("ConfigDict(", ")") if isinstance(value, Mapping) else ("", "")
    line = f"    {name} = {before}{value!r}{after}"
    if len(line) <= _WIDTH:
        yield line
        return
    text = pprint.pformat(value, width=_WIDTH - 8, sort_dicts=False)
    yield f"    {name} = {before or '('}"
    yield textwrap.indent(text, " " * 8)
    yield "    )"


def _as_in_files(value: Any) -> Any:
    """Returns a value with tuples for lists, as config files have them."""
    if isinstance(value, list | tuple):
        return tuple(_as_in_files(item) for item in value)
    if isinstance(value, Mapping):
        return {key: _as_in_files(item) for key, item in value.items()}
    return value


class Retraining:
    """Trains a config, with one seed or with several.

    Args:
      config: The config; with several seeds their runs lie in its `model_dir`.
      seeds: How many.
      about: What is trained: a folder of several seeds is of one thing only.

    Raises:
      ConfigError: The folder is of something else.
    """

    def __init__(self, config: Mapping[str, Any], seeds: int, about: Mapping[str, Any]):
        self._config, self._about = dict(config), dict(about)
        first = int(config["seed"])
        self.seeds = list(range(first, first + seeds))
        self.folder = files.local(str(config["model_dir"]), "--model_dir")
        self._summary = os.path.join(self.folder, SUMMARY)
        if seeds > 1:
            self._check()

    def _check(self) -> None:
        if not os.path.isdir(self.folder) or not os.listdir(self.folder):
            return
        found = {}
        if os.path.isfile(self._summary):
            found = files.read_json(self._summary)
        what = {key: found.get(key) for key in self._about}
        if what != self._about:
            raise ConfigError(
                f"--model_dir: {self.folder}: expected a new folder, or that of this "
                f"trial, found {what if found else 'other files in it'}. Choose "
                "another one."
            )

    def run_of(self, seed: int) -> str:
        """Returns the run directory of a seed."""
        if len(self.seeds) == 1:
            return self.folder
        return os.path.join(self.folder, f"seed-{seed}")

    def run(self, say: Callable[[str], None]) -> list[dict[str, Any]]:
        """Trains, evaluates and exports; goes on where an earlier call was stopped.

        Args:
          say: Says what is about to be trained, of several.

        Returns:
          The content of `metrics.json`, for each seed.
        """
        from tfr_pipeline import gradients
        from tfr_pipeline.experiment.build import build_pipeline
        from tfr_pipeline.pipeline.datasets.kept_lists import KeptLists

        kept, found = KeptLists(), []
        if len(self.seeds) > 1:
            self._write([])
        for number, seed in enumerate(self.seeds, start=1):
            run = self.run_of(seed)
            if len(self.seeds) > 1:
                say(f"seed {seed}, {number} of {len(self.seeds)}:")
            config = {**self._config, "seed": seed, "model_dir": run}
            try:
                pipeline = build_pipeline(config, kept=kept)
                pipeline.train_and_validate(verbose=1)
            finally:
                gradients.forget_unused()
            found.append(files.read_json(os.path.join(run, "metrics.json")))
        if len(self.seeds) > 1:
            self._write(found)
        return found

    def _write(self, found: Sequence[Mapping[str, Any]]) -> None:
        import json

        content = {**self._about, "seeds": self.seeds, "metrics": spread(found)}
        files.write_text(self._summary, json.dumps(content, indent=2) + "\n")


def about(standing: Standing, row: TrialRow) -> dict[str, Any]:
    """Returns what tells a trial from all others."""
    known = standing.study.user_attrs.get(IDENTITY, "")
    return {"study": standing.name, "id": known, "trial": row.number}


def spread(
    found: Sequence[Mapping[str, Any]],
) -> dict[str, dict[str, dict[str, Any]]]:
    """Returns mean and deviation of metrics over runs, by split and metric.

    Args:
      found: The content of each `metrics.json`. Queries without relevant documents are
        skipped; a metric that some run has not is left out.
    """
    tables = [dict(_headlines(metrics)) for metrics in found]
    result: dict[str, dict[str, dict[str, Any]]] = {}
    for key in tables[0] if tables else ():
        values = [table.get(key) for table in tables]
        known = [value for value in values if value is not None]
        if len(known) < len(values):
            continue
        split, metric = key
        result.setdefault(split, {})[metric] = {
            "mean": statistics.fmean(known),
            "deviation": statistics.stdev(known) if len(known) > 1 else None,
            "values": known,
        }
    return result


def _headlines(
    metrics: Mapping[str, Any],
) -> Iterator[tuple[tuple[str, str], float | None]]:
    for split in ("valid", "test"):
        found = metrics.get(split) or {}
        tasks = {split: found}
        if "queries" not in found:  # several tasks
            tasks = {f"{split} {task}": result for task, result in found.items()}
        for name, result in tasks.items():
            for metric, value in result.items():
                if isinstance(value, Mapping) and "skip" in value:
                    yield (name, metric), value["skip"]


def file_name(text: str) -> str:
    """Returns a text as a part of a name of a file.

    Example:
      >>> file_name("a study/1")
      'a_study_1'
    """
    return re.sub(r"[^\w.-]+", "_", text)
