"""Loads experiment configs: `--config=FILE.py:arg` and `--config.a.b=value`."""

from __future__ import annotations

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
        values = flags.FlagValues()
        config_flags.DEFINE_config_file("config", flag_values=values)
        values(["tfr-pipeline", f"--config={path}", *words])
        return values.config

    try:
        config = parse([])
    except Exception as error:
        raise ConfigError(f"{path}: {type(error).__name__}: {error}") from error
    if not isinstance(config, ConfigDict):
        raise ConfigError(f"{file}: get_config must return a ConfigDict.")
    for word in overrides:
        _check_key(config, word[len("--config.") :].split("=")[0], file)
    try:
        config = parse(overrides)
    except Exception as error:
        raise ConfigError(f"{' '.join(overrides)}: {error}") from error
    return config.to_dict()


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
