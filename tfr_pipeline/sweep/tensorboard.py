"""Trials for TensorBoard's page of hyperparameters.

    tensorboard --logdir=FOLDER

shows them, and the curves of the runs below `trials/`.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Sequence

from tfr_pipeline.sweep.standing import Standing, TrialRow
from tfr_pipeline.sweep.status_text import value_text

LOGS = "logs"


def write_missing(standing: Standing) -> None:
    """Writes events for the finished trials that have none: `logs/00017/`.

    Several workers may do this at once: each folder appears as a whole, and once.

    Args:
      standing: The study; its folder is there.

    Raises:
      OSError: They cannot be written.
    """
    folder = os.path.join(standing.folder, LOGS)
    os.makedirs(folder, exist_ok=True)
    known = set(os.listdir(folder))
    for row in standing.finished:
        name = f"{row.number:05d}"
        if name in known:
            continue
        temporary = tempfile.mkdtemp(prefix=f".{name}.", dir=folder)
        try:
            _write(temporary, row, standing.names)
            os.chmod(temporary, 0o755)
            # Another worker may have been faster.
            with contextlib.suppress(OSError):
                os.rename(temporary, os.path.join(folder, name))
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _write(folder: str, row: TrialRow, names: Sequence[str]) -> None:
    from tensorboard.compat.proto import event_pb2, summary_pb2
    from tensorboard.plugins.hparams import api_pb2, summary, summary_v2
    from tensorboard.plugins.scalar.summary import scalar_pb
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

    started = row.started.timestamp() if row.started else 0.0
    ended = row.ended.timestamp() if row.ended else started
    hparams = {
        path: value
        if isinstance(value, bool | int | float | str)
        else value_text(value)
        for path, value in row.point.items()
    }
    status = "FAILURE" if row.state == "failed" else "SUCCESS"
    parts = [
        summary_v2.hparams_pb(hparams, f"{row.number:05d}", started),
        *(scalar_pb(n, v) for n, v in zip(names, row.values, strict=False)),
        summary.session_end_pb(api_pb2.Status.Value(f"STATUS_{status}"), ended),
    ]
    writer = EventFileWriter(folder)
    for part in parts:
        # Some of them are TensorFlow's, which has the same messages once more.
        found = summary_pb2.Summary.FromString(part.SerializeToString())
        writer.add_event(event_pb2.Event(summary=found, wall_time=ended, step=0))
    writer.close()
