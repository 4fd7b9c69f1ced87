"""Sections on what a model has learnt: importance, shapes, one list explained."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable

import numpy as np

from tfr_pipeline.errors import ConfigError, DataError, RunError
from tfr_pipeline.report import plots
from tfr_pipeline.report.blocks import (
    Block,
    Figure,
    Section,
    Table,
    Text,
    left_out,
    number,
)
from tfr_pipeline.report.columns import all_groups, typical
from tfr_pipeline.report.gradients import GapWarning, integrated_gradients
from tfr_pipeline.report.importance import labels_of, permutation_importance
from tfr_pipeline.report.shapes import additive_shapes
from tfr_pipeline.report.shapley import shapley_values
from tfr_pipeline.report.subject import Subject

_BARS = 20
_SHAPES = 12
_DOCUMENTS, _FEATURES = 10, 9
_SHORTEST = 5  # list that is explained, where there is a choice
_REPEATS = 5

Say = Callable[[str], None]


def importance(subject: Subject, say: Say) -> Section:
    """What NDCG rests on."""
    name, title = "importance", "Feature importance"
    if subject.lists is None or subject.predictor is None:
        return left_out(name, title, subject.lacking)
    lists = subject.lists
    count = len(all_groups(subject.predictor))
    what = (
        f"{count:,} features, {_REPEATS} permutations of {lists.num_documents:,} "
        f"documents in {lists.num_lists:,} lists"
    )
    if subject.is_sample:
        what += f", of {subject.total[1]:,} in {subject.total[0]:,}"
    start = time.perf_counter()
    try:
        found = permutation_importance(
            subject.predictor, lists, task=subject.task or None, repeats=_REPEATS
        )
    except (ConfigError, DataError) as error:
        return left_out(name, title, error)
    say(f"importance: {what}: {time.perf_counter() - start:.1f} s")
    metric = subject.metric
    text = (
        f"How much {metric.upper()} is lost when a feature is permuted among the "
        f"documents of each list ({what}); a query feature, among lists. Whiskers are "
        "standard errors over queries. Of features that say the same, each alone seems "
        "to matter less than it does; what does not differ within lists has none."
    )
    blocks: list[Block] = [Text(text), Figure(plots.importance(found[:_BARS], metric))]
    if len(found) > _BARS:
        rest = [one for one in found[_BARS:] if one.loss > 2 * one.error]
        more = (
            f"The other {len(found) - _BARS:,} lose "
            f"{number(found[_BARS].loss)} or less each"
        )
        some = "none of them" if not rest else f"{len(rest):,} of them"
        blocks.append(Text(f"{more}; {some} more than twice their standard error."))
    return Section(name, title, blocks)


def shapes(subject: Subject) -> Section | None:
    """What each feature adds to the score; None for models that are not additive."""
    name, title = "shapes", "Shapes"
    is_gam = _is_gam(subject)
    if subject.lists is None or subject.predictor is None:
        return left_out(name, title, subject.lacking) if is_gam else None
    try:
        found = additive_shapes(
            subject.predictor, subject.lists, task=subject.task or None
        )
    except ConfigError as error:
        return left_out(name, title, error) if is_gam else None
    if len(found.shapes) < 2 and not is_gam:
        return None
    text = (
        "The model is additive: a score is "
        f"{number(found.intercept, 3)} and what each feature adds, by its value alone "
        f"(on {found.documents} documents to within {found.residual:.1g}). Gray is "
        "where documents are; a shape is worth no more than the data under it. The "
        "features that move scores most come first."
    )
    if found.query_id:
        text += (
            " Query features weigh what document features add; these are the shapes "
            f"for the query {found.query_id}."
        )
    if found.left_out:
        text += f" Vectors without a shape: {', '.join(found.left_out)}."
    if len(found.shapes) > _SHAPES:
        text += f" Shown are {_SHAPES} of {len(found.shapes)}."
    shown = found.shapes[:_SHAPES]
    if not shown:
        return left_out(name, title, "no feature is a single number.")
    return Section(name, title, [Text(text), Figure(plots.shapes(shown))])


def _is_gam(subject: Subject) -> bool:
    model = subject.run.config.get("model")
    return isinstance(model, dict) and model.get("scorer") == "gam"


def explained(subject: Subject, query: str | None) -> Section:
    """Why the documents of one list have their scores.

    Raises:
      DataError: There is no such query.
    """
    name, title = "explained", "One list explained"
    if subject.lists is None or subject.predictor is None:
        if query is not None:
            raise DataError(f"--query: {subject.lacking}")
        return left_out(name, title, subject.lacking)
    chosen = _choose(subject, query)
    lists = subject.lists.slice(chosen, chosen + 1).widened()
    try:
        scores = subject.predictor.score(lists, task=subject.task or None)
        order = np.argsort(-scores, kind="stable")[:_DOCUMENTS]
        baseline = typical(subject.lists.widened()).get("float32")
        asked, task = (subject.predictor, lists, baseline), subject.task or None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", GapWarning)  # the page says how far
            found = integrated_gradients(*asked, documents=order, task=task)
        # Jumps have no gradients, and so a gap, or one that is not a number.
        differences = np.abs(found.scores - found.baseline_scores)
        span = max(float(np.ptp(scores)), differences.max(initial=0.0), 1e-3)
        if not np.abs(found.gaps).max(initial=0.0) <= 0.05 * span:
            found = shapley_values(*asked, documents=order, task=task)
    except (ConfigError, RunError) as error:
        return left_out(name, title, error)
    how = "by integrated gradients"
    if found.orders:
        how = (
            f"by Shapley values, means over {found.orders} orders of the features (the "
            "model has jumps, at which it has no gradients)"
        )
        if found.errors is None:
            how += ", which tell the large ones apart, and no more"
        else:
            how += f", standard errors of at most {found.errors.max():.1g}"
    text = (
        f"The first {len(order)} of {lists.num_documents} documents of query "
        f"{lists.query_ids[0]}. A number is what a feature adds to the score of a "
        f"document, {how}, compared with a document whose features are the medians of "
        "the data. All features together add the difference of the two scores "
        f"(to within {np.abs(found.gaps).max():.1g})."
    )
    others = {*subject.predictor.loose, *subject.predictor.features.context}
    if others or "int64" in subject.predictor.layout.slots:
        text += " Texts, whole numbers and the query's own features stay as they are."
    columns = np.argsort(-np.abs(found.values).max(axis=0), kind="stable")[:_FEATURES]
    ids = [str(i) if i else f"document {n}" for n, i in enumerate(lists.document_ids)]
    if not ids:
        ids = [f"document {n}" for n in range(lists.num_documents)]
    names = [f"{rank}. {ids[i]}" for rank, i in enumerate(order, 1)]
    blocks: list[Block] = [
        Text(text),
        Figure(plots.attributions(found, names, columns)),
        _table(subject, lists, order, names, found, columns),
    ]
    return Section(name, title, blocks)


def _choose(subject: Subject, query: str | None) -> int:
    """Returns the number of a list: of a query, or one whose NDCG is about the mean."""
    lists = subject.lists
    assert lists is not None
    ids = [str(name) for name in lists.query_ids]
    if query is not None:
        if query not in ids:
            among = "lists sampled" if subject.is_sample else "lists"
            raise DataError(
                f"--query: no query {query!r} among {len(ids):,} {among} of "
                f"{subject.data}, such as {', '.join(map(repr, ids[:3]))}."
            )
        return ids.index(query)
    distance = -lists.lengths.astype(float)
    metrics = subject.metrics
    if metrics is not None and not subject.classes:
        values = metrics.skip(subject.metric)
        places = subject.places()
        own = np.where(places >= 0, values[places], np.nan)
        good = (lists.lengths >= _SHORTEST) & ~np.isnan(own)
        if good.any():
            distance = np.where(good, np.abs(own - np.nanmean(values)), np.inf)
    return int(np.argmin(distance))


def _table(subject, lists, order, names, found, columns) -> Table:  # type: ignore[no-untyped-def]
    labels = labels_of(subject.predictor, lists, subject.task)
    shown = found.values[:, columns].sum(axis=1)
    rest = found.values.sum(axis=1) - shown
    rows = [
        [
            name,
            f"{labels[document]:g}" if labels[document] >= 0 else "\u2013",
            number(found.scores[i], 3),
            number(found.baseline_scores[i], 3),
            number(shown[i], 3),
            number(rest[i], 3),
        ]
        for i, (name, document) in enumerate(zip(names, order, strict=True))
    ]
    head = ["document", "grade", "score", "typical", "features shown", "all others"]
    return Table(head, rows)
