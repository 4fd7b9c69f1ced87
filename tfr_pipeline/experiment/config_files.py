"""Loads experiment configs: `--config=FILE.py:arg` and `--config.a.b=value`."""

from __future__ import annotations

import ast
import os
import sys
from typing import Any

from tfr_pipeline.errors import ConfigError, unknown_name


def load(path: str, overrides: list[str]) -> dict[str, Any]:
    """Returns the config of a file as plain dicts, with overrides applied.

    Args:
      path: `FILE.py` or `FILE.py:argument`; the file defines `get_config`.
      overrides: Words such as `--config.pipeline.num_epochs=3`.

    Raises:
      ConfigError: The file is missing or fails, a word is no override, a key is
        unknown or a value has the wrong type.
    """
    from absl import flags
    from ml_collections import ConfigDict, config_flags

    file = path.split(":")[0]
    if not os.path.isfile(file):
        raise ConfigError(f"--config: no such file {file!r} (from {os.getcwd()}).")
    for word in overrides:
        if not word.startswith("--config.") or "=" not in word:
            raise ConfigError(
                f"{word!r}: expected a flag of this command or an override such as "
                "--config.pipeline.num_epochs=3."
            )
    # Configs and the builders they name are the user's project: its root is where
    # the command runs, or the parent of the folder of the config.
    for root in (os.path.dirname(os.path.dirname(os.path.abspath(file))), os.getcwd()):
        if root not in sys.path:
            sys.path.insert(0, root)

    def parse(words: list[str]) -> Any:
        # Else it loads the file over what the last one defined.
        sys.modules.pop("config_config", None)
        values = flags.FlagValues()
        argv = ["tfr-pipeline", f"--config={path}", *words]
        # It looks for overrides in `sys.argv` unless it is told.
        config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=argv)
        values(argv)
        return values.config

    try:
        config = parse([])
    except Exception as error:
        # A failure of `get_config` comes with its traceback; the cause stands last.
        cause = str(error).strip().splitlines()[-1:] or [""]
        name = type(error).__name__
        text = cause[0] if isinstance(error, flags.Error) else f"{name}: {cause[0]}"
        raise ConfigError(f"{path}: {text}") from error
    failure = getattr(config, "_error", None)
    if failure is not None:  # config_flags keeps an OSError until the first access
        raise ConfigError(f"{path}: {type(failure).__name__}: {failure}") from failure
    if not isinstance(config, ConfigDict):
        raise ConfigError(f"{file}: get_config must return a ConfigDict.")
    known, arguments = [], []
    for word in overrides:
        key, _, text = word[len("--config.") :].partition("=")
        if _is_new_argument(config, key):
            arguments.append((key, _literal(text)))
        else:
            _check_key(config, key, file)
            known.append(word)
    try:
        config = parse(known)
    except Exception as error:
        raise ConfigError(" ".join(str(error).split())) from error
    result = config.to_dict()
    for key, value in arguments:
        section, parent, name = key.split(".")
        result[section][parent][name] = value
    return result


def _is_new_argument(config: Any, key: str) -> bool:
    """Whether a key adds an argument to a dict of them, such as `loss_args`.

    What takes the arguments knows their names, not the config.
    """
    from ml_collections import ConfigDict

    parts = key.split(".")
    if len(parts) != 3 or not (parts[1].endswith("_args") or parts[1] == "schedule"):
        return False
    section = config.get(parts[0])
    parent = section.get(parts[1]) if isinstance(section, ConfigDict) else None
    return isinstance(parent, ConfigDict) and parts[2] not in parent


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (SyntaxError, ValueError):
        return text


def _check_key(config: Any, key: str, file: str) -> None:
    from ml_collections import ConfigDict

    here, prefix = config, ""
    for part in key.split("."):
        if not isinstance(here, ConfigDict) or part not in here:
            known = list(here) if isinstance(here, ConfigDict) else []
            raise ConfigError(
                unknown_name("config key", prefix + part, [prefix + k for k in known])
                + f" ({file})"
            )
        here, prefix = here[part], f"{prefix}{part}."
