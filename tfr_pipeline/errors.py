"""Errors that users see, and the "did you mean" part of their messages.

Every message says what was expected, what was found, where, and what to do. The
command line maps the classes to exit codes: `DataError` and `RunError` to 1,
`ConfigError` to 2. All of them are `ValueError` or `RuntimeError` too, so code
that caught TF-Ranking's errors keeps working.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable
from numbers import Real
from typing import Any

from tfr_pipeline import urls


class PipelineError(Exception):
    """Base class of the errors raised on purpose by `tfr_pipeline`."""

    # TensorFlow raises what traced code raises anew, with its own class if that has
    # this very constructor.
    __init__ = Exception.__init__

    exit_code = 1

    def __str__(self) -> str:
        """Names URLs, not their local copies, and none of the secrets in them."""
        return urls.shown(super().__str__())


class DataError(PipelineError, ValueError):
    """Input data is missing, malformed or does not match its description."""


class ConfigError(PipelineError, ValueError):
    """A setting, name or argument is wrong."""

    exit_code = 2


class RunError(PipelineError, RuntimeError):
    """A run cannot go on: non-finite loss, failed export, foreign directory."""


def unknown_name(kind: str, name: str, known: Iterable[str], where: str = "") -> str:
    """Returns the message for a name that nobody registered.

    Args:
      kind: What the name stands for, such as `"loss"`.
      name: What was given.
      known: All names that would have been accepted.
      where: Optional place, such as a file or a config key.

    Returns:
      One line with the nearest names first, for example
      `unknown loss 'softmx_loss'; did you mean 'softmax_loss'?`.

    Example:
      >>> unknown_name("metric", "ndgc", ["ndcg", "mrr"])
      "unknown metric 'ndgc'; did you mean 'ndcg'? Known: mrr, ndcg."
    """
    options = sorted(str(option) for option in known)
    near = difflib.get_close_matches(str(name), options, n=3, cutoff=0.5)
    guess = ""
    if near:
        guess = " did you mean " + " or ".join(repr(n) for n in near) + "?"
    place = f" in {where}" if where else ""
    return f"unknown {kind} {name!r}{place};{guess} Known: {', '.join(options)}."


def is_number(value: Any) -> bool:
    """Whether a value is a finite number, and not true or false.

    Example:
      >>> is_number(0.5), is_number(float("nan")), is_number(True)
      (True, False, False)
    """
    real = isinstance(value, Real) and not isinstance(value, bool)
    return real and math.isfinite(value)


def check_topn(topn: int | None) -> None:
    """Raises a ConfigError if `topn` is neither None nor a number of ranks.

    Example:
      >>> check_topn(10)
    """
    if topn is not None and (isinstance(topn, bool) or topn != int(topn) or topn < 1):
        raise ConfigError(
            f"`topn` should be None or a positive integer. Received: topn = {topn!r}."
        )
