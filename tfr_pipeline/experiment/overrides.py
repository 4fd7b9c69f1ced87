"""Values on the command line: one rule by which `--config.a.b=TEXT` is read.

`true`, `false` and `none` in any case, numbers, and lists, tuples and dicts of them are
what they say; everything else is text, and so is what stands in quotes. The type that a
key has in the config file decides where two readings are possible: text for a key of
text, however much it looks like a number; several values for a key of several, even if
one is given.
"""

from __future__ import annotations

import ast
import warnings
from collections.abc import Callable, Mapping
from typing import Any

from tfr_pipeline.errors import ConfigError, unknown_name

# Sections whose keys the file need not have: what takes them knows their names.
_FREE_KEYS = (
    "schedule",
    "warm_start",
    "weight_averaging",
    "optimizers",
    "pretrain",
    "preprocess",
    "graph",
    "adversarial",
    "distill",
    "position_bias",
    "interactions",
)
_WORDS = {"true": True, "false": False, "none": None}
_KINDS: dict[type, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    tuple: "values with commas between them",
    list: "values with commas between them",
    dict: "a dict such as {'name': value}",
}


def read_value(text: str) -> Any:
    """Reads a value of no known type.

    Example:
      >>> read_value("False"), read_value("1e-3"), read_value("(a, none)")
      (False, 0.001, ('a', None))
      >>> read_value("sgd"), read_value("'none'")
      ('sgd', 'none')
    """
    words = text.strip()
    try:
        with warnings.catch_warnings():  # of what Python would make of it
            warnings.simplefilter("ignore")
            node = ast.parse(words, mode="eval").body
        # Python drops what it takes for a comment, and rewrites letters in names.
        comment = "#" in words and node.end_col_offset != len(words.encode())
        name = isinstance(node, ast.Name) and words.lower() not in _WORDS
        return text if comment or name else _of_node(node)
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError):
        return text


def _of_node(node: ast.expr) -> Any:
    if isinstance(node, ast.Constant):
        if isinstance(node.value, str | int | float | None):
            return node.value
    elif isinstance(node, ast.Name):
        return _WORDS.get(node.id.lower(), node.id)
    elif isinstance(node, ast.Tuple):
        return tuple(_of_node(item) for item in node.elts)
    elif isinstance(node, ast.List):
        return [_of_node(item) for item in node.elts]
    elif isinstance(node, ast.Dict) and None not in node.keys:
        keys = [_of_node(key) for key in node.keys if key is not None]
        return dict(zip(keys, map(_of_node, node.values), strict=True))
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
        value = _of_node(node.operand)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return -value if isinstance(node.op, ast.USub) else value
    raise ValueError("text")


def read_as(text: str, kind: type, key: str) -> Any:
    """Reads a value of a key whose type is known.

    Args:
      text: What was given.
      kind: Type of the key in the config; `NoneType` or `object` if it has none.
      key: Name of the key, for errors.

    Raises:
      ConfigError: The value is of another type.

    Example:
      >>> read_as("10", str, "model.name"), read_as("mrr", tuple, "metrics")
      ('10', ('mrr',))
    """
    value = read_value(text)
    if kind is bool and value in (0, 1):
        return bool(value)
    if value is None and kind is not bool:
        return None
    if kind is str:
        if isinstance(value, bool):
            raise ConfigError(
                f"config.{key}: expected text, found {text!r}. Put it into quotes if "
                "that is the text."
            )
        quoted = text.strip()[:1] in ("'", '"') and isinstance(value, str)
        return value if quoted else text
    if kind in (tuple, list):
        return kind(_several(text, value))
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if kind not in _KINDS:
        if kind in (object, type(None)):
            return value
        raise ConfigError(
            f"config.{key}: the config file sets it to a {kind.__name__}, which the "
            "command line cannot. Change it in the file."
        )
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise ConfigError(f"config.{key}: expected {_KINDS[kind]}, found {text!r}.")
    return value


def _several(text: str, value: Any) -> Any:
    if isinstance(value, tuple | list):
        return value
    # Names such as ndcg@10 or click/mrr are no literals.
    text = text.strip()
    if text[:1] + text[-1:] in ("()", "[]"):
        text = text[1:-1]
    return [read_value(part.strip()) for part in text.split(",") if part.strip()]


class _Settings:
    """What keys there are beside those of a file, looked up when it is needed."""

    def __init__(self, prepare: Callable[[], None]):
        self._prepare = prepare

    def _loaded(self) -> Any:
        self._prepare()  # the hyperparameters need TensorFlow
        from tfr_pipeline.experiment import settings

        return settings

    def kinds(self, key: str) -> tuple[type, ...]:
        """See `settings.kinds`; what is inside of a setting has none."""
        return () if key.count(".") > 1 else self._loaded().kinds(key)

    def in_section(self, prefix: str) -> list[str]:
        """Returns the keys that begin with `prefix` and go no deeper."""
        depth = prefix.count(".")
        return [
            key
            for key in self._loaded().all_keys()
            if key.startswith(prefix) and key.count(".") == depth
        ]


def apply(
    config: Any,
    words: Mapping[str, str],
    file: str,
    prepare: Callable[[], None] = lambda: None,
) -> None:
    """Sets keys of a config, those of its file and all others that there are.

    Args:
      config: A `ConfigDict`, changed in place.
      words: Maps keys such as `pipeline.num_epochs` to text.
      file: Where the config comes from, for errors.
      prepare: Called before TensorFlow is imported, which is for keys that the file
        does not have, or not with a type.

    Raises:
      ConfigError: A key is unknown, or a value has the wrong type.
    """
    from ml_collections import ConfigDict
    from ml_collections.config_dict import RequiredValueError

    settings = _Settings(prepare)
    for key, text in words.items():
        _add_missing(config, key, settings)
        *parents, last = key.split(".")
        here, prefix, free = config, "", False
        for depth, part in enumerate(parents):
            if free and isinstance(here, ConfigDict) and part not in here:
                with here.unlocked():
                    here[part] = ConfigDict()
            _check_key(here, part, prefix, file, settings)
            here = here[part]
            prefix += f"{part}."
            # What takes such arguments knows their names, not the config.
            free = free or (
                depth == 1 and (part.endswith("_args") or part in _FREE_KEYS)
            )
        # What is done to a feature may be anything, whatever the file does to it.
        untyped = prefix == "model.preprocess."
        if free and isinstance(here, ConfigDict) and (untyped or last not in here):
            with here.unlocked(), here.ignore_type():
                here[last] = read_value(text)
            continue
        _check_key(here, last, prefix, file, settings)
        try:
            kind = here.get_type(last)
        except RequiredValueError:
            kind = here.get_ref(last).get_type()
        kind = dict if issubclass(kind, ConfigDict) else kind
        value = _read(text, kind, key, settings, free)
        with here.ignore_type():
            here[last] = value


def _add_missing(config: Any, key: str, settings: _Settings) -> None:
    """Gives a config a key that it may have, and the sections above it."""
    from ml_collections import ConfigDict

    here, name = config, ""
    *parents, last = key.split(".")
    for part in parents:
        name = f"{name}.{part}" if name else part
        if part not in here or here.get_type(part) is type(None):
            if dict not in settings.kinds(name):
                return
            with here.unlocked(), here.ignore_type():
                here[part] = ConfigDict()
        here = here[part]
        if not isinstance(here, ConfigDict):
            return
    if last not in here and settings.kinds(key):
        with here.unlocked():
            here[last] = None


def _read(text: str, found: type, key: str, settings: _Settings, free: bool) -> Any:
    """Reads a value as the file has the key, or else as the key may be.

    Args:
      text: What was given.
      found: Type of the key in the file; `NoneType` or `object` if it has none there.
      key: Name of the key.
      settings: Knows the types of the key.
      free: Whether it is an argument of something that knows its type.
    """
    untyped = found in (object, type(None))
    is_dict = isinstance(value := read_value(text), dict)
    # Where a name stands, a name with arguments may.
    if free and found is str and is_dict and "name" in value:
        return value
    kinds = settings.kinds(key)
    several = isinstance(value, tuple | list) and found not in (tuple, list)
    if several and tuple in kinds:
        return tuple(value)
    if not untyped and is_dict == (found is dict):
        return read_as(text, found, key)
    if is_dict and dict in kinds:
        return value
    others = [kind for kind in kinds if kind is not dict]
    if (untyped or found is dict) and others:
        found = others[0]
    return read_as(text, found, key)


def _check_key(
    here: Any, part: str, prefix: str, file: str, settings: _Settings
) -> None:
    from ml_collections import ConfigDict

    if isinstance(here, ConfigDict) and part in here:
        return
    known = []
    if isinstance(here, ConfigDict):
        known = list(
            dict.fromkeys([prefix + k for k in here] + settings.in_section(prefix))
        )
    text = unknown_name("config key", prefix + part, known)
    if not isinstance(here, ConfigDict):
        text = f"unknown config key {prefix + part!r}: {prefix[:-1]} holds {here!r}."
    raise ConfigError(f"{text} ({file})")
