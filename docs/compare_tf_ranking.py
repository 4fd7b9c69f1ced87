"""Compares the public names of `tfr.keras` with ours and writes `docs/tf_ranking.md`.

    python docs/compare_tf_ranking.py           # writes the table into the page
    python docs/compare_tf_ranking.py --check   # fails when the page is out of date

Runs with tensorflow-ranking 0.5.5 (`make setup LANE=tf215`), which is the reference.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import pathlib
import sys
from collections.abc import Iterator
from typing import Any

from tfr_pipeline.compat import tfr

PAGE = pathlib.Path(__file__).with_name("tf_ranking.md")
BEGIN, END = "<!-- table: begin -->\n", "<!-- table: end -->\n"
REFERENCE = "0.5.5"
MODULES = (
    "model",
    "pipeline",
    "saved_model",
    "losses",
    "metrics",
    "layers",
    "strategy_utils",
)
# What is better here, where the table would not say it.
NOTES = {
    "ModelBuilder": "packed batches; plain dict as preprocessor",
    "DNNScorer": "`hidden_layer_dims` alone is enough; fused normalisation",
    "GAMScorer": "all towers as a few matrix products; arguments left as they are",
    "create_keras_model": "handed through, for scripts from before the pipeline",
    "SimpleDatasetBuilder": "parses once, shuffles by index, validates whole lists",
    "BaseDatasetBuilder": "parses once; subclasses get TF-Ranking's tensors",
    "ModelFitPipeline": "resumes, schedules, early stopping, checks its exports",
    "MultiLabelDatasetBuilder": "packed batches; list weights",
    "MultiTaskPipeline": "best model by any task's metric; one loss for all tasks",
    "PipelineHparams": "`num_train_steps`, `num_valid_steps` as in the guide",
    "OrdinalLoss": "keeps its arguments in `get_config`",
    "YetiLogisticLoss": "0.5.5's temperature on both lanes",
    "get_strategy": "partitions variables under ParameterServer",
    "Signatures": "`rank`: raw tensors in, scores, ranks and ids out",
    "losses.get": "weighted sums by string or dict; arguments of the loss",
    "metrics.get": "`name` optional; more keys",
    "default_keras_metrics": "one sort for all of them",
    "NDCGMetric": "three conventions for queries without relevance",
    "CalibratedSoftmaxLoss": "also with tensorflow-ranking 0.5.3",
    "ApproxNDCGLoss": "in blocks, for lists of any length",
    "ApproxMRRLoss": "in blocks, for lists of any length",
    "PairwiseLogisticLoss": "closed form, in blocks; `topn` truncates",
    "SoftmaxLoss": "closed form over real documents",
    "FlattenList": "leaves padding out",
    "RestoreList": "leaves padding out",
    "ConcatFeatures": "integers too",
    "DocumentInteractionAttention": "padding has no effect; saved in `.keras` files",
    "GAMLayer": "arguments left as they are; towers computed together",
    "create_tower": "layer arguments go to the layers",
}


def public_names(module: Any) -> Iterator[str]:
    """Yields the names that TF-Ranking itself defines."""
    for name, value in sorted(vars(module).items()):
        home = getattr(value, "__module__", None) or ""
        if not name.startswith("_") and home.startswith("tensorflow_ranking."):
            yield name


def parameters(value: Any) -> dict[str, inspect.Parameter]:
    """Returns the parameters of a function or class, without types."""
    return {
        name: parameter.replace(annotation=inspect.Parameter.empty)
        for name, parameter in inspect.signature(value).parameters.items()
    }


def same_default(one: Any, other: Any) -> bool:
    """Whether two defaults are equal, or unnamed objects of the same type."""
    return one == other or (
        type(one).__name__ == type(other).__name__ and repr(one).startswith("<")
    )


def compare_parameters(theirs: Any, ours: Any) -> str:
    """Describes the parameters; begins with `DIFFERS` where code would break."""
    before, after = parameters(theirs), parameters(ours)
    passed_on = {inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL}
    problems = [
        name
        for name, parameter in before.items()
        if parameter.kind not in passed_on
        and (
            name not in after
            or not same_default(parameter.default, after[name].default)
        )
    ]
    positional = [
        [n for n, p in group.items() if p.kind is p.POSITIONAL_OR_KEYWORD]
        for group in (before, after)
    ]
    if positional[1][: len(positional[0])] != positional[0]:
        problems.append("order")
    if problems:
        return f"DIFFERS: {', '.join(problems)}"
    added = (n for n in after if n not in before and after[n].kind not in passed_on)
    return ", ".join(["same", *(f"`{name}`" for name in added)])


def rows() -> Iterator[tuple[str, str, str, str, str]]:
    """Yields module, name, whose it is, parameters and note of every public name."""
    for module in MODULES:
        theirs = getattr(tfr.keras, module)
        ours = importlib.import_module(f"tfr_pipeline.keras.{module}")
        for name in public_names(theirs):
            one, other = getattr(theirs, name), getattr(ours, name, None)
            if other is None:
                yield module, name, "MISSING", "", ""
                continue
            if other is one:
                whose = "theirs"
            elif inspect.isclass(one) and issubclass(other, one):
                whose = "ours, a subclass"
            else:
                whose = "ours"
            same = compare_parameters(one, other)
            note = NOTES.get(f"{module}.{name}", NOTES.get(name, ""))
            yield module, name, whose, same, note


def table() -> str:
    """Returns the table as Markdown."""
    lines = ["| | name | whose | parameters | better here |", "|---|---|---|---|---|"]
    last = None
    for module, name, whose, params, note in rows():
        first = f"`{module}`" if module != last else ""
        lines.append(f"| {first} | `{name}` | {whose} | {params} | {note} |")
        last = module
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    if not tfr.__version__.startswith(REFERENCE):
        raise SystemExit(
            f"expected tensorflow-ranking {REFERENCE}, found {tfr.__version__}: use "
            "`make setup LANE=tf215`."
        )
    text = PAGE.read_text()
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    found = table()
    broken = [x for x in found.splitlines() if "MISSING" in x or "DIFFERS" in x]
    new = before + BEGIN + "\n" + found + "\n" + END + after
    if not arguments.check:
        PAGE.write_text(new)
    print("\n".join(broken) or f"{found.count(chr(10)) - 2} names, none missing")
    if broken or (arguments.check and new != text):
        sys.exit("docs/tf_ranking.md: out of date, or a name is missing")


if __name__ == "__main__":
    main()
