"""A run as one HTML page, which needs nothing but itself.

There are no scripts, and what the page may load from elsewhere is nothing: it says so
to the browser. Colours are light or dark as the reader's; it prints.
"""

from __future__ import annotations

import importlib.resources
import time
from collections.abc import Callable, Sequence
from typing import Any

from tfr_pipeline import __version__, urls
from tfr_pipeline.errors import DataError
from tfr_pipeline.report import drawing, of_model, of_quality, of_run, run_files
from tfr_pipeline.report.blocks import Section, left_out
from tfr_pipeline.report.comparison import (
    NothingToCompareError,
    QueryComparison,
    compare_queries,
)
from tfr_pipeline.report.subject import Subject, measured_alike, open_subject

# Stands in the first lines of pages that are made here.
SIGN = '<meta name="generator" content="tfr-pipeline report">'
_TEMPLATE, _STYLE = "page.html.jinja", "page.css"


def make(
    run: str,
    *,
    baseline: str | None = None,
    data: str = "",
    task: str | None = None,
    query: str | None = None,
    documents: int = 20_000,
    say: Callable[[str], None] = lambda line: None,
) -> str:
    """Returns the page of a run. What cannot be told is left out, and it says why.

    Args:
      run: The run directory, or its URL.
      baseline: Another run, whose ranking of the same queries is compared.
      data: Patterns of labelled files to ask the model about, instead of the test or
        validation data of the run.
      task: Of several scores, the one that is looked at; the first by default.
      query: Id of the query whose list is explained; by default one with an NDCG near
        the mean.
      documents: The model is asked about lists of about so many documents.
      say: Called with a line about what takes time.

    Raises:
      ConfigError: Matplotlib or Jinja2 is not installed, or the task is unknown.
      DataError: There is no run, the baseline was measured on other queries, or the
        query is unknown.
      RunError: A store cannot be reached.
    """
    drawing.require()
    subject = open_subject(run, data, task, documents)
    if subject.lacking:
        say(f"left out what needs the model and data: {subject.lacking}")
    other = None if baseline is None else run_files.read(baseline)
    compared = queries = None
    if other is not None:
        try:
            compared = _compare(subject, other)
        except NothingToCompareError as error:
            queries = left_out("queries", "Wins and losses", error)
        else:
            name = urls.redact(other.path)
            queries = of_quality.comparison(subject, compared, name)
    sections = [
        of_quality.headline(subject, compared),
        of_quality.data(subject),
        of_quality.training(subject),
        queries,
        of_quality.parts(subject),
    ]
    if not subject.classes:
        sections += [
            of_model.importance(subject, say),
            of_model.shapes(subject),
            of_model.explained(subject, query),
        ]
    elif query is not None:
        raise DataError("--query: the model classifies; there are no lists to explain.")
    sections += [
        of_run.config(subject.run, other),
        of_run.environment(subject.run),
        of_run.repeat(subject.run),
    ]
    return _render(subject, [section for section in sections if section is not None])


def _compare(subject: Subject, baseline: run_files.RunFiles) -> QueryComparison:
    found = measured_alike(subject, baseline)
    own = subject.measured
    assert own is not None
    tasks = [task for task in (subject.task, "") if task in own.tasks]
    task = tasks[0] if tasks else next(iter(own.tasks))
    if task not in found.tasks or type(found.tasks[task]) is not type(own.tasks[task]):
        raise DataError(
            f"--baseline: {baseline.path} has no {task or 'score'} as "
            f"{subject.run.path} has; it has {', '.join(filter(None, found.tasks))}."
        )
    return compare_queries(
        own.tasks[task],  # type: ignore[type-var]
        found.tasks[task],
        own.query_ids,
        found.query_ids,
        subject.metric,
    )


def _render(subject: Subject, sections: Sequence[Section]) -> str:
    import jinja2

    folder = importlib.resources.files(__package__)
    environment = jinja2.Environment(
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    template = environment.from_string((folder / _TEMPLATE).read_text("utf-8"))
    style = (folder / _STYLE).read_text("utf-8")
    # A style of ours holds nothing that would end it.
    values: dict[str, Any] = {"css": jinja2.utils.markupsafe.Markup(style)}
    return template.render(
        title=subject.run.name,
        subtitle=_subtitle(subject),
        sections=sections,
        footer=(
            f"Made by tfr_pipeline {__version__} on {time.strftime('%Y-%m-%d %H:%M')}. "
            "This page loads nothing from elsewhere."
        ),
        **values,
    )


def _subtitle(subject: Subject) -> str:
    model = subject.run.config.get("model")
    words = [urls.redact(subject.run.path)]
    if isinstance(model, dict):
        what = model.get("builder") or model.get("scorer")
        if what:
            words.append(f"scorer {what}" if not model.get("builder") else str(what))
    started = subject.run.environment.get("started")
    if started:
        words.append(f"trained {str(started)[:10]}")
    if subject.task and subject.predictor and len(subject.predictor.tasks) > 1:
        words.append(f"task {subject.task}")
    return " \u00b7 ".join(words)
