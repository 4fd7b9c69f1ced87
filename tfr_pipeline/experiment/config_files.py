"""Loads experiment configs: `--config=FILE.py:arg` and `--config.a.b=value`."""

from __future__ import annotations

import copy
import os
import sys
import warnings
from collections.abc import Callable, Mapping
from typing import Any

from tfr_pipeline import urls
from tfr_pipeline.errors import ConfigError
from tfr_pipeline.experiment import overrides as overrides_lib


def load(
    path: str, overrides: list[str], prepare: Callable[[], None] = lambda: None
) -> dict[str, Any]:
    """Returns the config of a file as plain dicts, with overrides applied.

    Args:
      path: `FILE.py` or `FILE.py:argument`; the file defines `get_config`.
      overrides: Words such as `--config.pipeline.num_epochs=3`; of two for one key the
        last one counts, with a warning.
      prepare: See `overrides.apply`.

    Raises:
      ConfigError: The file is missing or fails, a word is no override, a key is
        unknown or a value has the wrong type.
    """
    return ConfigFile(path, overrides, prepare).config()


class ConfigFile:
    """A config file that was read once, with its overrides; see `load`.

    Args:
      path: See `load`.
      overrides: See `load`.
      prepare: See `load`.

    Raises:
      ConfigError: See `load`.
    """

    def __init__(
        self,
        path: str,
        overrides: list[str],
        prepare: Callable[[], None] = lambda: None,
    ):
        from ml_collections import ConfigDict, FrozenConfigDict

        if urls.is_remote(path):
            raise ConfigError(
                f"--config: expected a file of this machine, which is code that is "
                f"run, found {path!r}."
            )
        file, _, self.argument = path.partition(":")
        if os.path.isdir(file):
            raise ConfigError(
                f"--config: {file!r} is a folder; expected a Python file that defines "
                "get_config."
            )
        if not os.path.isfile(file):
            raise ConfigError(f"--config: no such file {file!r} (from {os.getcwd()}).")
        words = _words(overrides)
        # Configs and the builders they name are the user's project: its root is where
        # the command runs, or the parent of the folder of the config.
        parent = os.path.dirname(os.path.dirname(os.path.abspath(file)))
        for root in (parent, os.getcwd()):
            if root not in sys.path:
                sys.path.insert(0, root)
        self.file, self._prepare = file, prepare
        config, self._module = _of_file(path)
        if not isinstance(config, ConfigDict):
            raise ConfigError(
                f"{file}: get_config must return a ConfigDict, not "
                f"{type(config).__name__}: ml_collections.ConfigDict(...)."
            )
        if isinstance(config, FrozenConfigDict):
            config = ConfigDict(config)
        overrides_lib.apply(config, words, file, prepare)
        self._config = config

    def config(self, values: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Returns the config as plain dicts, with other values for some keys.

        Args:
          values: Maps keys such as `pipeline.learning_rate` to values, which follow
            the rules of overrides.

        Raises:
          ConfigError: A key is unknown, a value has the wrong type, or one that is
            required is missing.
        """
        from ml_collections.config_dict import RequiredValueError

        config = self._config
        if values:
            config = copy.deepcopy(config)
            words = {key: repr(value) for key, value in values.items()}
            overrides_lib.apply(config, words, self.file, self._prepare)
        try:
            return config.to_dict()
        except RequiredValueError as error:
            missing = _required(config)
            raise ConfigError(
                f"{self.file}: expected a value for {', '.join(missing)}, found none "
                f"(--config.{missing[0]}=...)."
            ) from error

    def function(self, name: str) -> Callable[..., Any] | None:
        """Returns a function that the file defines beside `get_config`, or None."""
        found = getattr(self._module, name, None)
        return found if callable(found) else None


def _words(overrides: list[str]) -> dict[str, str]:
    words: dict[str, str] = {}
    for word in overrides:
        if not word.startswith("--config.") or "=" not in word:
            raise ConfigError(
                f"{word!r}: expected a flag of this command or an override such as "
                "--config.pipeline.num_epochs=3."
            )
        key, _, text = word[len("--config.") :].partition("=")
        if words.pop(key, text) != text:
            warnings.warn(
                f"--config.{key} is given more than once; the last, {text!r}, counts.",
                stacklevel=4,
            )
        words[key] = text
    return words


def _required(config: Any, prefix: str = "") -> list[str]:
    """Returns the keys that are required placeholders and still without value."""
    from ml_collections import ConfigDict
    from ml_collections.config_dict import RequiredValueError

    found = []
    for key in config:
        try:
            value = config[key]
        except RequiredValueError:
            found.append(prefix + key)
            continue
        if isinstance(value, ConfigDict):
            found += _required(value, f"{prefix}{key}.")
    return found


def _of_file(path: str) -> tuple[Any, Any]:
    """Returns what `get_config` of a file returns, and the module of the file."""
    from absl import flags
    from ml_collections import config_flags

    # Else it loads the file over what the last one defined.
    sys.modules.pop("config_config", None)
    values = flags.FlagValues()
    argv = ["tfr-pipeline", f"--config={path}"]
    # It looks for overrides in `sys.argv` unless it is told.
    config_flags.DEFINE_config_file(
        "config", flag_values=values, sys_argv=argv, lock_config=False
    )
    try:
        values(argv)
        config = values.config
    except (Exception, SystemExit) as error:
        # A failure of `get_config` comes with its traceback; the cause stands last.
        cause = str(error).strip().splitlines()[-1:] or [""]
        name = type(error).__name__
        text = cause[0] if isinstance(error, flags.Error) else f"{name}: {cause[0]}"
        raise ConfigError(f"{path}: {text}") from error
    failure = getattr(config, "_error", None)
    if failure is not None:  # config_flags keeps an OSError until the first access
        raise ConfigError(f"{path}: {type(failure).__name__}: {failure}") from failure
    return config, sys.modules.get("config_config")
