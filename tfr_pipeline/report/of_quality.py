"""Sections on how good a run is: headline, data, training, queries, slices."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from tfr_pipeline.report import plots, statistics
from tfr_pipeline.report.blocks import (
    Block,
    Figure,
    Section,
    Table,
    Text,
    Tile,
    Tiles,
    interval,
    left_out,
    number,
    signed,
)
from tfr_pipeline.report.comparison import QueryComparison
from tfr_pipeline.report.importance import labels_of
from tfr_pipeline.report.slices import slices
from tfr_pipeline.report.statistics import Statistics
from tfr_pipeline.report.subject import Subject

_RANKING = ("ndcg@1", "ndcg@3", "ndcg@5", "ndcg@10")
_MORE = ("ndcg", "mrr", "map", "precision@10", "recall@10")
_CLASSES = ("accuracy", "macro_f1", "log_loss")
_WORDS = {"test": "test data", "valid": "validation data", "data": "the given data"}
_EXTREMES = 8
_CONVENTIONS = (
    "Gain 2^grade \u2212 1, discount 1/log2(1 + rank), ties by expectation. Intervals "
    "hold 95% of 1,000 bootstrap resamples of the queries. What a query without a "
    "relevant document counts is a convention: all numbers of this page leave it out; "
    "TF-Ranking counts it as 0, LightGBM and XGBoost as 1."
)


def _by_task(means: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Returns the results of `evaluate_lists` by task; by an empty name for one."""
    return {"": means} if "queries" in means else means


def headline(subject: Subject, compared: QueryComparison | None) -> Section:
    """The quality of the run in numbers."""
    splits = subject.means
    if not splits:
        note = (
            "Nothing was measured: the run has not come to its end, or its data has no "
            "labels."
        )
        return Section("quality", "Quality", [Text(note, is_note=True)])
    split = subject.split if subject.split in splits else next(iter(splits))
    of_task = _by_task(splits[split])
    means = of_task.get(subject.task) or next(iter(of_task.values()))
    metric = subject.metric
    tiles = [
        Tile(
            f"{_title(metric)} on {_WORDS[split]}",
            number(means[metric]["skip"]),
            f"95% interval {interval(means[metric].get('skip_ci'))}",
        )
    ]
    if compared is not None:
        tiles.append(
            Tile(
                "against the baseline",
                signed(compared.mean),
                f"95% interval {interval(compared.interval)}",
            )
        )
    kind = "examples" if subject.classes else "queries"
    without = means.get("queries_without_relevant")
    tiles.append(
        Tile(
            f"{kind} measured",
            f"{means['queries']:,}",
            f"{without:,} without a relevant document" if without is not None else "",
        )
    )
    if not subject.classes:
        tiles.append(Tile("documents measured", f"{means['documents']:,}"))
    names = _CLASSES if subject.classes else _RANKING
    rows = {
        _row_name(name, task): found
        for name, split_means in splits.items()
        for task, found in _by_task(split_means).items()
        if names[0] in found
    }
    blocks: list[Block] = [Tiles(tiles)]
    if not subject.classes:
        blocks.append(Figure(plots.quality(_few(rows), _RANKING)))
    blocks.append(_table(rows, names, subject.classes))
    if subject.classes:
        blocks.append(_of_classes(means))
    else:
        blocks += [Text(_CONVENTIONS), _conventions(rows)]
    return Section("quality", "Quality", blocks)


def _few(rows: dict[str, Any]) -> dict[str, Any]:
    return dict(list(rows.items())[:4])


def _row_name(split: str, task: str) -> str:
    name = (
        "given data" if split == "data" else {"valid": "validation"}.get(split, split)
    )
    return f"{name}, {task}" if task else name


def _title(metric: str) -> str:
    if metric in ("mrr", "map", "macro_f1") or metric.startswith("ndcg"):
        return metric.upper().replace("MACRO_", "macro ")
    return metric.replace("_", " ").capitalize()


def _table(rows: dict[str, Any], names: tuple[str, ...], classes: bool) -> Table:
    head = ["metric"]
    for row in rows:
        head += [row, "95% interval"]
    lines = []
    for metric in (*names, *(() if classes else _MORE)):
        line = [_title(metric)]
        for means in rows.values():
            found = means.get(metric, {})
            line += [number(found.get("skip")), interval(found.get("skip_ci"))]
        lines.append(line)
    return Table(head, lines)


def _conventions(rows: dict[str, Any]) -> Table:
    lines = [
        [
            row,
            f"{means['queries_without_relevant']:,} of {means['queries']:,}",
            *(number(means["ndcg@10"].get(key)) for key in ("skip", "zero", "one")),
        ]
        for row, means in rows.items()
    ]
    head = ["NDCG@10", "without relevant", "left out (skip)", "as 0", "as 1"]
    return Table(head, lines, "Queries without a relevant document")


def _of_classes(means: dict[str, Any]) -> Table:
    rows = [
        [name, f"{c['examples']:,}", f"{c['predicted']:,}"]
        + [number(c[key], 3) for key in ("precision", "recall", "f1")]
        for name, c in means["classes"].items()
    ]
    head = ["class", "examples", "predicted", "precision", "recall", "F1"]
    return Table(head, rows[:50])


def data(subject: Subject) -> Section:
    """What the data of the run is like."""
    config = subject.run.config.get("data")
    folder = None
    if isinstance(config, dict) and not config.get("folds"):
        folder = config.get("dir")  # with folds, its splits are not those of the run
    found: dict[str, Statistics] = statistics.of_folder(folder)
    blocks: list[Block] = []
    lists, lengths, grades = subject.lists, None, {}
    if lists is not None and subject.predictor is not None:
        labels = None
        if lists.labels is not None and not subject.classes:
            labels = labels_of(subject.predictor, lists, subject.task)
        counted = statistics.count(lists, labels)
        if subject.classes:
            names = dict(enumerate(subject.predictor.classes))
            by_name = {names[int(n)]: count for n, count in counted.grades.items()}
            counted = dataclasses.replace(counted, grades=by_name)
        lengths, grades = lists.lengths, counted.grades
        if not subject.is_sample and subject.split not in found:
            found[_WORDS.get(subject.split, subject.split)] = counted
    else:
        grades = found[subject.split].grades if subject.split in found else {}
    if not found and lists is None:
        blocks.append(Text(f"Left out: {subject.lacking}", is_note=True))
    if found:
        blocks.append((_of_examples if subject.classes else _statistics)(found))
    # Each list of classes has one example.
    if not subject.classes and (lengths is not None or grades):
        blocks.append(
            Figure(
                plots.lengths_and_grades(lengths, grades),
                f"{_WORDS.get(subject.split, 'the data').capitalize()}"
                + (f", {subject.sampled:,} lists of them" if subject.is_sample else ""),
            )
        )
    return Section("data", "Data", blocks)


def _of_examples(found: dict[str, Statistics]) -> Table:
    """Counts of examples of classes."""
    lines = [["examples", *(f"{one.documents:,}" for one in found.values())]]
    names = dict.fromkeys(name for one in found.values() for name in one.grades)
    lines += [
        [name, *(f"{one.grades.get(name, 0):,}" for one in found.values())]
        for name in list(names)[:50]
    ]
    return Table(["", *found], lines)


def _statistics(found: dict[str, Statistics]) -> Table:
    def length(one: Statistics, key: str) -> str:
        value = one.lengths.get(key, one.lengths.get("quantiles", {}).get(key))
        return "\u2013" if value is None else f"{value:,.4g}"

    lines = [
        ["lists", *(f"{one.lists:,}" for one in found.values())],
        ["documents", *(f"{one.documents:,}" for one in found.values())],
        ["lists without a relevant document"]
        + [f"{one.without_relevant:,}" for one in found.values()],
    ]
    for name, key in (
        ("shortest list", "min"), ("mean length", "mean"), ("median length", "0.5"),
        ("longest list", "max"),
    ):  # fmt: skip
        lines.append([name, *(length(one, key) for one in found.values())])
    grades = dict.fromkeys(grade for one in found.values() for grade in one.grades)
    for grade in grades if len(grades) <= 10 else ():
        shares = [
            f"{100 * one.grades.get(grade, 0) / max(1, one.documents):.1f}%"
            for one in found.values()
        ]
        lines.append(["no grade" if grade == "-1" else f"grade {grade}", *shares])
    return Table(["", *found], lines)


def training(subject: Subject) -> Section:
    """How training went."""
    run = subject.run
    if not run.history:
        return left_out("training", "Training", "the run has no history.csv.")
    best = run.metrics.get("best_step")
    seconds = run.metrics.get("seconds", {}).get("training")
    words = [f"{len(run.history):,} epochs"]
    if "step" in run.metrics:
        words.append(f"{run.metrics['step']:,} steps")
    if seconds is not None:
        words.append(f"{seconds:,.1f} s")
    if speed := run.metrics.get("documents_per_second"):
        words.append(f"{speed:,.0f} documents a second")
    text = f"{', '.join(words)}."
    if best is not None:
        text += f" The exported model is that of step {best:,}, the dashed line."
    if stopped := run.metrics.get("stopped"):
        text += f" Training stopped before its end: {stopped}."
    blocks: list[Block] = [Text(text)]
    if plots.has_curves(run.history):
        blocks.append(Figure(plots.curves(run.history, best)))
    return Section("training", "Training", blocks)


def comparison(subject: Subject, compared: QueryComparison, baseline: str) -> Section:
    """Wins and losses by query."""
    wins, losses, ties = compared.counts
    low, high = compared.interval or (0.0, 0.0)
    verdict = "no difference shown"
    if low > 0 or high < 0:
        verdict = "better" if low > 0 else "worse"
    metric = _title(compared.metric)
    blocks: list[Block] = [
        Text(
            f"Against {baseline}, on the same queries of {_WORDS[subject.split]}: "
            f"{wins:,} won, {losses:,} lost, {ties:,} equal. Mean difference in "
            f"{metric} {signed(compared.mean)}, 95% interval "
            f"{interval(compared.interval)} over paired queries: {verdict}."
        ),
        Figure(plots.differences(compared), "The dashed line is the mean."),
    ]
    order = np.arange(len(compared.differences))
    for title, some in (
        ("Largest wins", order[: min(_EXTREMES, wins)]),
        ("Largest losses", order[::-1][: min(_EXTREMES, losses)]),
    ):
        rows = [
            [
                str(compared.query_ids[i]),
                f"{compared.documents[i]:,}",
                number(compared.of_model[i]),
                number(compared.of_baseline[i]),
                signed(compared.differences[i]),
            ]
            for i in some
        ]
        if rows:
            head = ["query", "documents", "this run", "baseline", "difference"]
            blocks.append(Table(head, rows, title))
    return Section("queries", "Wins and losses", blocks)


def parts(subject: Subject) -> Section | None:
    """The metric on parts of the queries; None for classes, of one document each."""
    metrics = subject.metrics
    if subject.classes:
        return None
    if metrics is None:
        why = "nothing was measured of each query (no per_query.parquet)."
        return left_out("slices", "Slices", why)
    values = metrics.skip(subject.metric)
    by: dict[str, Any] = {
        "list length": (values, metrics.documents),
        "relevant documents": (values, metrics.relevant),
    }
    lists = subject.lists
    if lists is not None:
        assert subject.predictor is not None
        rows = subject.places()
        if (rows >= 0).all():
            own = values[rows]
            labels = labels_of(subject.predictor, lists, subject.task)
            top = np.full(lists.num_lists, -1.0)
            np.maximum.at(top, lists.row_ids, labels)
            by["highest grade"] = own, top
            by |= {name: (own, of) for name, of in _of_queries(lists)}
    groups = {
        name: [one for one in slices(metric, of) if one.queries]
        for name, (metric, of) in by.items()
    }
    groups = {name: found for name, found in groups.items() if len(found) > 1}
    if not groups or np.isnan(values).all():
        why = "the queries do not differ in anything that is known."
        return left_out("slices", "Slices", why)
    text = (
        "Means with 95% intervals; n queries have a relevant document. The dashed line "
        "is the mean over all queries."
    )
    if subject.is_sample and len(by) > 2:
        text += f" Grades and query features are those of {subject.sampled:,} lists."
    drawn = plots.slices(groups, float(np.nanmean(values)), subject.metric)
    return Section("slices", "Slices", [Text(text), Figure(drawn)])


def _of_queries(lists: Any) -> list[tuple[str, Any]]:
    """Returns the query features that have one value each, with their values."""
    found = [
        (name, value.reshape(-1))
        for name, value in lists.context.items()
        if value.size == lists.num_lists
    ]
    for name, ragged in lists.loose_context.items():
        if (ragged.lengths == 1).all():
            found.append((name, ragged.plain_values))
    return found
