"""Sections on how a run was made: config, environment, how to repeat it."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from tfr_pipeline import urls
from tfr_pipeline.report.blocks import (
    Block,
    Code,
    Section,
    Table,
    Text,
    left_out,
)
from tfr_pipeline.report.run_files import RunFiles

_NAMES = ("tfr-pipeline", os.path.join("tfr_pipeline", "__main__.py"))
_OWN = ("model_dir",)


def config(run: RunFiles, baseline: RunFiles | None) -> Section:
    """The config, and where that of the baseline differs."""
    if not run.config:
        return left_out("config", "Config", "the run has no config.json.")
    blocks: list[Block] = []
    if baseline is not None:
        ours, theirs = (dict(_flat(r.config)) for r in (run, baseline))
        rows = [
            [key, _value(ours, key), _value(theirs, key)]
            for key in sorted({*ours, *theirs})
            if ours.get(key) != theirs.get(key) and key not in _OWN
        ]
        if rows:
            head = ["key", "this run", "baseline"]
            blocks.append(Table(head, rows, "Where they differ", texts=(0, 1, 2)))
        else:
            blocks.append(Text("The baseline has the same config."))
    text = json.dumps(run.config, indent=1, sort_keys=True, ensure_ascii=False)
    blocks.append(Code(text, "the whole config"))
    return Section("config", "Config", blocks)


def _flat(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            yield from _flat(item, f"{path}.{key}" if path else str(key))
    else:
        yield path, value


def _value(found: Mapping[str, Any], key: str) -> str:
    if key not in found:
        return "\u2013"
    text = json.dumps(found[key], ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:79]}\u2026"


def environment(run: RunFiles) -> Section:
    """Versions and machine."""
    found = run.environment
    if not found:
        why = "the run has no environment.json."
        return left_out("environment", "Environment", why)
    rows = [
        [name, str(found[key])]
        for name, key in (
            ("tfr_pipeline", "tfr_pipeline"),
            ("Python", "python"),
            ("platform", "platform"),
            ("processors", "cpus"),
            ("replicas", "replicas"),
            ("batches", "layout"),
            ("started", "started"),
            ("seed", "seed"),
        )
        if found.get(key) is not None
    ]
    git = found.get("git")
    if isinstance(git, Mapping):
        changed = ", with changes" if git.get("changed") else ""
        rows.append(["git", f"{git.get('commit')}{changed}"])
    packages = found.get("packages")
    if isinstance(packages, Mapping):
        rows += [[n, str(v)] for n, v in packages.items() if v is not None]
    return Section("environment", "Environment", [Table(["", ""], rows, texts=(0, 1))])


def repeat(run: RunFiles) -> Section:
    """What to do to train the same again."""
    found = run.environment
    lines = []
    git = found.get("git")
    if isinstance(git, Mapping) and git.get("commit"):
        lines.append(f"git checkout {git['commit']}")
    packages = found.get("packages")
    if isinstance(packages, Mapping):
        pins = [f"{name}=={version}" for name, version in packages.items() if version]
        lines.append("pip install " + " ".join(pins))
    command = found.get("command")
    blocks: list[Block] = []
    if isinstance(command, list) and command:
        lines.append(_command([str(word) for word in command]))
    if lines:
        blocks.append(Code("\n".join(lines)))
    else:
        blocks.append(Text("Left out: environment.json has no command.", is_note=True))
    data = found.get("data")
    if isinstance(data, Mapping):
        rows = [
            [split, str(name), str(what)]
            for split, names in data.items()
            if split != "features" and isinstance(names, Mapping)
            for name, what in list(names.items())[:8]
        ]
        if rows:
            head = ["split", "file", "size and checksum"]
            blocks.append(
                Table(head, rows, "The data that it was trained on", texts=(0, 1, 2))
            )
    return Section("repeat", "How to repeat this run", blocks)


def _command(words: list[str]) -> str:
    """Returns a command line as one gives it, whatever Python made of it."""
    ours = words[0].endswith(_NAMES)
    first = ["tfr-pipeline"] if ours else ["python", words[0]]
    return urls.redact(shlex.join([*first, *words[1:]]))
