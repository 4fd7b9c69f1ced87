"""Runs commands in this process, and holds them to what all of them promise."""

from __future__ import annotations

import contextlib
import io
import pathlib
import sys
import warnings
from collections.abc import Sequence
from typing import Any

from tests.fuzz import mutations
from tfr_pipeline.cli.main import main

VALUES = (
    *("", "0", "-1", "1.5", "x", "99999999999999999999", "/", ".", "*", "[", ","),
    *("a,b", "nan", "none", "\u00e9", " ", "a\nb", "--", "libsvm", "elwc", "packed"),
)


def run(*words: Any) -> tuple[int, str, str]:
    """Runs a command in this process; returns its exit code and what it said."""
    # Streams that refuse what a terminal refuses; a StringIO takes anything.
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8") for _ in range(2))
    kept = sys.unraisablehook
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            sys.unraisablehook = sys.__unraisablehook__  # pytest would take them
            try:
                code = main([str(word) for word in words])
            except SystemExit as stopped:  # argparse
                code = stopped.code
            finally:
                sys.unraisablehook = kept
    for stream in (out, err):
        stream.seek(0)
    return code, out.read(), err.read()


def check(words: Sequence[Any], folder: pathlib.Path, output: pathlib.Path) -> int:
    """Runs a command; it ends well, or with one line and nothing written.

    Args:
      words: The command line.
      folder: Has its inputs, which it must not change.
      output: What it writes, if it does.

    Returns:
      The exit code.
    """
    before = mutations.tree(folder)
    code, _, err = run(*words)
    said = f"{words}\n{err}"
    assert "Traceback" not in err, said
    assert "(--debug shows where)" not in err, f"an error without a cause: {said}"
    assert mutations.tree(folder) == before, f"input changed: {said}"
    assert code in (0, 1, 2), said
    if code:
        errors = [line for line in err.splitlines() if "error: " in line]
        assert len(errors) == 1, said
        assert not output.exists(), f"half an output: {said}"
    return code
