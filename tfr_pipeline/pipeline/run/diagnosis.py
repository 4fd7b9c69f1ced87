"""Why a loss is zero, NaN or infinite: a look at the batches that made it so."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from tfr_pipeline import urls
from tfr_pipeline.data.lists import Lists
from tfr_pipeline.data.reading import explain, remote_shards, wholeness
from tfr_pipeline.errors import DataError
from tfr_pipeline.layout import PACKED_DTYPES, PACKED_INPUT, BlockLayout
from tfr_pipeline.model import parts
from tfr_pipeline.model.feature_block import FeatureBlock
from tfr_pipeline.pipeline.datasets.adapter import adapt, some_lists
from tfr_pipeline.pipeline.datasets.protocol import BatchRequest
from tfr_pipeline.serving import teachers
from tfr_pipeline.serving.teachers import Teacher

# Enough to see what is wrong with all of them, of data that may have no end.
_BATCHES_TO_EXPLAIN = 20
# 2^label - 1, the usual gain, is infinite in float32 from here on.
_LARGEST_LABEL = 127


def explain_zero(dataset_builder: Any, layout: str | None) -> str:
    """Says why the loss of all batches is zero.

    Args:
      dataset_builder: Has the batches.
      layout: Their layout; None for datasets that are not ours.
    """
    if layout is None:
        batches = dataset_builder.build_train_dataset()
    else:
        batches = BatchRequest(split="train", layout=layout).ask(dataset_builder)
    found = zero_loss_reasons(batches.take(_BATCHES_TO_EXPLAIN))
    reasons = "; ".join(found) or "the labels and weights of the data look sound"
    return f"the training loss of a whole epoch is 0, so nothing is learnt: {reasons}."


def explain_data_loss(dataset_builder: Any, error: tf.errors.OpError) -> DataError:
    """Returns the error for a file that turned out to be damaged while training.

    Args:
      dataset_builder: Has the names of the files.
      error: What TensorFlow says of it, without naming the file.
    """
    splits = adapt(dataset_builder).splits
    for split in (splits[name] for name in ("train", "valid") if name in splits):
        pattern, paths = split.pattern, []
        with contextlib.suppress(DataError):  # files that are not ours to find
            paths = remote_shards.paths_of(pattern) if isinstance(pattern, str) else []
        try:
            # Who reads in the store says what is wrong there.
            wholeness.refuse_damaged([p for p in paths if not urls.is_remote(p)])
        except DataError as found:
            return found
    return DataError(
        "a file that is read while training is damaged: "
        f"{explain.without_node(error.message)}. Expected whole TFRecord files."
    )


def explain_non_finite(
    model_builder: Any,
    dataset_builder: Any,
    layout: str | None,
    replicas: int,
    step: int,
    by_length: bool = False,
    teacher: Teacher | None = None,
) -> str:
    """Says which batch broke the loss or its gradient, and what is wrong with it.

    Args:
      model_builder: May have functions that preprocess features.
      dataset_builder: Has the batches.
      layout: Their layout; None for datasets that are not ours.
      replicas: Number of replicas that share a global batch.
      step: Number of the global batch.
      by_length: How batches were made; see `BatchRequest`.
      teacher: That of a student; where its scores stand in the data, nobody has looked
        at them before.

    Raises:
      DataError: The teacher has no score for a document of the batch.
    """
    message = (
        f"the loss or its gradient is NaN or infinite in step {step} (counted from 0)."
    )
    if layout is not None:
        settings = {"by_length": True} if by_length else {}
        plan = dataset_builder.plan("train", layout, replicas, **settings)
        lists = some_lists(dataset_builder, "train", plan.batch_of_step(step), layout)
        if teacher is not None and teachers.stands_in_data(teacher):
            teachers.check_finite(lists, teacher.scores(lists), teacher)
        index = range(lists.num_lists)
        ids = [str(query) for query in lists.query_ids]
        shown = ", ".join(ids[:20]) + (", ..." if len(ids) > 20 else "")
        message += f" The batch has the queries {shown}{_largest(lists, index)}."
        block_layout = BlockLayout.from_spec(dataset_builder.specs.example)
        found: dict[str, None] = {}  # in order, without repetition
        batches = BatchRequest(
            split="train",
            layout=layout,
            replicas=replicas,
            start_step=step,
            by_length=by_length,
        ).ask(dataset_builder)
        for batch in batches.take(replicas):
            reasons = non_finite_reasons(
                batch,
                block_layout,
                parts.preprocessing(model_builder),
                functools.partial(_owner, lists, index, block_layout),
            )
            found.update(dict.fromkeys(reasons))
        if found:
            message += f" Found: {'; '.join(found)}."
    return (
        f"{message} No checkpoint was written after it. Try a lower learning_rate, "
        "optimizer_args.global_clipnorm, or preprocessing for large features."
    )


def _rows(lists: Lists, index: Iterable[int]) -> np.ndarray:
    """Returns the numbers of the documents of some lists."""
    splits = lists.row_splits
    rows = [np.arange(splits[i], splits[i + 1]) for i in index]
    return np.concatenate([np.zeros(0, np.int64), *rows])


def _largest(lists: Lists, index: Iterable[int]) -> str:
    """Says what the largest number among the features of some lists is, and where."""
    rows, best = _rows(lists, index), (-1.0, 0)
    for name, block in lists.values.items():
        dtype = name if name in PACKED_DTYPES else "float32"
        sizes = np.abs(block[rows].astype(dtype)).max(axis=1, initial=0)
        if len(rows):
            place = int(sizes.argmax())
            best = max(best, (float(sizes[place]), int(rows[place])))
    size, row = best
    return (
        f"; its largest feature is {size:g}, in {lists.place(row)}" if size >= 0 else ""
    )


def _owner(
    lists: Lists,
    index: Iterable[int],
    layout: BlockLayout,
    name: str,
    values: np.ndarray,
) -> str:
    """Says which document of some lists has these values of a feature."""
    rows = _rows(lists, index)
    for dtype, slots in layout.slots.items():
        for slot in slots:
            if slot.name == name:
                block = lists.values[dtype][rows, slot.start : slot.stop]
                same = (block.astype(dtype) == np.ravel(values)).all(axis=1)
                return f", in {lists.place(rows[same.argmax()])}" if same.any() else ""
    return ""


def zero_loss_reasons(batches: Iterable[Any]) -> list[str]:
    """Returns what would make the loss of all these batches zero.

    Args:
      batches: `(features, labels)` or `(features, labels, weights)`, padded or packed;
        labels and weights may be dicts by task.
    """
    labels: dict[str, list[np.ndarray]] = {}
    weights: dict[str, list[np.ndarray]] = {}
    for batch in batches:
        _, y_true, sample_weight = tf.keras.utils.unpack_x_y_sample_weight(batch)
        for values, found in ((y_true, labels), (sample_weight, weights)):
            for task, value in _by_task(values):
                found.setdefault(task, []).extend(_lists(value))
    reasons = []
    for task, lists in labels.items():
        of_task = f" of {task!r}" if task else ""
        valid = [values[values >= 0.0] for values in lists]
        if not any(len(values) for values in valid):
            reasons.append(
                f"all labels{of_task} are below zero, which marks padding; give "
                "documents without relevance the label 0"
            )
        elif not any(values.max() > 0.0 for values in valid if len(values)):
            reasons.append(f"no label{of_task} is above zero")
        elif all(len(values) == 0 or np.ptp(values) == 0.0 for values in valid):
            reasons.append(
                f"within every list all labels{of_task} are equal, so there is no "
                "order to learn"
            )
    for task, lists in weights.items():
        if not any(np.any(values) for values in lists):
            reasons.append(f"all weights{f' of {task!r}' if task else ''} are zero")
    return reasons


def non_finite_reasons(
    batch: Any,
    layout: BlockLayout,
    functions: Mapping[str, Callable[[Any], Any]] | None = None,
    owner: Callable[[str, np.ndarray], str] = lambda name, values: "",
) -> list[str]:
    """Returns what in a batch may have made its loss, or a gradient, NaN or infinite.

    Args:
      batch: As in `zero_loss_reasons`.
      layout: Where features stand in packed batches.
      functions: Preprocessing of packed features by name.
      owner: Says of which document some values of a feature are.
    """
    features, y_true, sample_weight = tf.keras.utils.unpack_x_y_sample_weight(batch)
    named = _by_name(features, layout)
    broken = {name for name, value in named.items() if _non_finite(value)}
    reasons = [
        f"feature {name!r} is {_non_finite(named[name])}" for name in sorted(broken)
    ]
    if functions and isinstance(named, FeatureBlock):
        known = {
            name: function
            for name, function in functions.items()
            # Steps with weights, or that compare documents, are not done apart.
            if name in named and getattr(function, "is_constant", True)
        }
        after = named.map(known)
        reasons += [
            f"feature {name!r} is {_non_finite(after[name])} after preprocessing; its "
            f"values go from {np.min(named[name]):g} to {np.max(named[name]):g}"
            f"{owner(name, _first_bad(named[name], after[name]))}"
            for name in sorted(set(known) - broken)
            if _non_finite(after[name])
        ]
    for task, value in _by_task(y_true):
        labels, of_task = _flat(value), f" of {task!r}" if task else ""
        if _non_finite(labels):
            reasons.append(f"a label{of_task} is {_non_finite(labels)}")
        elif labels.size and labels.max() > _LARGEST_LABEL:
            reasons.append(
                f"a label{of_task} is {labels.max():g}, for which the gain 2^label - 1 "
                "is infinite; grades are small integers"
            )
    for _, value in _by_task(sample_weight):
        if _non_finite(_flat(value)):
            reasons.append(f"a weight is {_non_finite(_flat(value))}")
        elif np.any(_flat(value) < 0.0):
            reasons.append("a weight is negative")
    return reasons


def _first_bad(before: Any, after: Any) -> np.ndarray:
    """Returns the values of the first document whose values became not finite."""
    finite = np.isfinite(np.asarray(after)).reshape(len(after), -1).all(axis=1)
    return np.asarray(before)[finite.argmin()]


def _by_task(values: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(values, Mapping):
        yield from values.items()
    elif values is not None:
        yield "", values


def _flat(value: Any) -> np.ndarray:
    return np.ravel(value.flat_values if isinstance(value, tf.RaggedTensor) else value)


def _lists(value: Any) -> list[np.ndarray]:
    """Returns one array a list, of a padded or a ragged tensor."""
    if isinstance(value, tf.RaggedTensor):
        return np.split(value.values.numpy(), value.row_splits.numpy()[1:-1])
    return list(np.atleast_2d(np.asarray(value)))


def _by_name(features: Mapping[str, Any], layout: BlockLayout) -> Mapping[str, Any]:
    if not any(PACKED_INPUT + dtype in features for dtype in layout.slots):
        return features
    return FeatureBlock.from_matrices(
        layout, {d: features[PACKED_INPUT + d].values for d in layout.slots}
    )


def _non_finite(value: Any) -> str:
    """Returns `NaN` or `infinite` if any number is, otherwise nothing."""
    values = _flat(value)
    if not np.issubdtype(values.dtype, np.floating) or np.isfinite(values).all():
        return ""
    return "NaN" if np.isnan(values).any() else "infinite"
