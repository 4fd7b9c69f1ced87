"""The `tfr-pipeline` command. Loads only the module of the command that is asked for.

Exit codes: 0 done; 1 failed, with the cause in one line; 2 wrong usage or config; 130
interrupted; 143 stopped by SIGTERM or SIGHUP, with the state saved. Those of `evaluate
--against` are in `against`.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import sys
import traceback
import warnings

from tfr_pipeline import __version__, signals, urls
from tfr_pipeline.cli.arguments import Parser
from tfr_pipeline.cli.streams import lasting_streams
from tfr_pipeline.errors import PipelineError, unknown_name
from tfr_pipeline.uncaught import exit_code

COMMANDS = {
    "convert": "ranking files to TFRecord files",
    "synthesize": "make a small data set with known structure",
    "train": "train, evaluate and export a model",
    "evaluate": "measure a model on labelled lists",
    "report": "a page about a run: quality, features, queries",
    "predict": "rank the documents of a file",
    "ensemble": "average several runs into one model",
    "export": "make a SavedModel of a checkpoint",
    "sweep": "train with many settings, and find the best",
    "cv": "cross-validate a config, by query",
    "compare": "models side by side, with tests over queries",
    "graph": "neighbours of documents: ids, similarity graph, packed data",
    "clicks": "simulate clicks, estimate what users see",
    "doctor": "look at the installation, and say how to mend it",
    "new": "start a project",
}


def _usage() -> str:
    lines = [f"  {name:<11} {text}" for name, text in COMMANDS.items()]
    return "\n".join(
        [
            "usage: tfr-pipeline COMMAND [--debug] [FLAGS]",
            "",
            "Trains and serves ranking models.",
            "",
            "commands:",
            *lines,
            "",
            "`tfr-pipeline COMMAND --help` lists the flags of a command; --debug adds",
            "the traceback to an error and TensorFlow's messages;",
            "`tfr-pipeline --version` prints the version.",
        ]
    )


def main(argv: list[str] | None = None) -> int:
    """Runs a command line; returns the exit code."""
    # A process of a cluster may hang in TensorFlow, where no handler runs.
    in_cluster = bool(os.environ.get("TF_CONFIG"))
    unwinding = contextlib.nullcontext() if in_cluster else signals.unwinding()
    with lasting_streams() as out, unwinding:
        code = _run(list(sys.argv[1:] if argv is None else argv))
        out.flush()
        if out.error is not None:
            cause = out.error.strerror or out.error
            print(f"error: standard output: {cause}", file=sys.stderr)
            code = code or 1
        return code


def _short_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    line: str | None = None,
) -> str:
    """Formats a warning; where in the code it comes from is no user's business."""
    return f"warning: {urls.shown(' '.join(str(message).split()))}\n"


def _of_words(name: str, parts: dict[str, str], parser: Parser, rest: list[str]) -> int:
    """Says which words there are, for a command that does nothing without one."""
    width = max(map(len, parts))
    lines = [f"  {word:<{width}}  {text}" for word, text in parts.items()]
    parser.epilog = f"commands, tfr-pipeline {name} COMMAND --help:\n" + "\n".join(
        lines
    )
    parser.parse_args(rest)
    print(
        f"error: expected a command, tfr-pipeline {name} COMMAND: {', '.join(parts)}; "
        "found none.",
        file=sys.stderr,
    )
    return 2


def _run(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(_usage())
        return 0 if argv else 2
    if argv[0] == "--version":
        print(f"tfr_pipeline {__version__}")
        return 0
    name, *rest = argv
    if name not in COMMANDS:
        print(f"error: {unknown_name('command', name, COMMANDS)}", file=sys.stderr)
        return 2
    debug = "--debug" in rest
    rest = [word for word in rest if word != "--debug"]
    # TensorFlow's start-up messages would bury ours.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "0" if debug else "2")
    if not debug:
        warnings.formatwarning = _short_warning
    module = importlib.import_module(f"tfr_pipeline.cli.{name}")
    about = COMMANDS[name]
    if parts := getattr(module, "COMMANDS", None):
        word = rest[0] if rest and not rest[0].startswith("-") else ""
        if word and word not in parts:
            kind = f"command of {name}"
            print(f"error: {unknown_name(kind, word, parts)}", file=sys.stderr)
            return 2
        if word:
            module = importlib.import_module(f"tfr_pipeline.cli.{name}_{word}")
            name, about, rest = f"{name} {word}", parts[word], rest[1:]
    parser = Parser(
        prog=f"tfr-pipeline {name}",
        description=about,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    if not hasattr(module, "run"):
        return _of_words(name, parts or {}, parser, rest)
    module.add_arguments(parser)
    for word in rest:
        # Python's parser takes this for no value at all.
        if word.endswith("=--") and not word.startswith("--config."):
            print(f"error: {word!r}: expected a value, found '--'", file=sys.stderr)
            return 2
    takes_config = getattr(module, "TAKES_CONFIG", False)
    args, extra = parser.parse_known_args(rest)
    if takes_config:
        # Other words are left to the loader of configs, which explains overrides.
        args.overrides = [
            word
            for word in extra
            if word.startswith("--config.") or not word.startswith("-")
        ]
        extra = [word for word in extra if word not in args.overrides]
    if extra:
        known = [word for action in parser._actions for word in action.option_strings]
        known.append("--debug")
        flag = extra[0].split("=")[0]
        print(f"error: {unknown_name('flag', flag, known)}", file=sys.stderr)
        return 2
    try:
        return module.run(args)
    except KeyboardInterrupt as error:
        print(f"interrupted: {urls.shown(str(error))}".rstrip(": "), file=sys.stderr)
        return 130
    except Exception as error:
        if debug:
            traceback.print_exc()
        known_cause = isinstance(error, PipelineError)
        text = " ".join(str(error).split()) or type(error).__name__
        if not known_cause:
            text = f"{type(error).__name__}: {text[:500]} (--debug shows where)"
        print(f"error: {urls.shown(text)}", file=sys.stderr)
        return exit_code(error)
