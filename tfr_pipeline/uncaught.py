"""Exit codes of errors that no restart mends, for the supervisor of a job.

Python ends with 1 whatever a script did not catch, and 1 is started again. Below a
supervisor, a `ConfigError` ends with 2 and a `DataError` with 65 (which the supervisor
makes 1 again), from the command line as from a script of a user's own.
"""

from __future__ import annotations

import os
import sys
import traceback
from types import TracebackType

from tfr_pipeline.errors import DataError, PipelineError

# Also in cluster/supervisor.py; what sysexits.h calls EX_DATAERR.
_BAD_DATA = 65
_FAILED = 1
_OWN_FOLDER = os.path.dirname(os.path.abspath(__file__))


def _is_supervised() -> bool:
    return os.environ.get("TFR_PIPELINE_HEARTBEAT") == "1"


def exit_code(error: BaseException) -> int:
    """Returns the exit code of a process that ends with an error."""
    if isinstance(error, DataError) and _is_supervised():
        return _BAD_DATA
    return error.exit_code if isinstance(error, PipelineError) else _FAILED


def install() -> None:
    """Gives uncaught errors their exit codes; does nothing without a supervisor."""
    if _is_supervised() and sys.excepthook is not _end:
        _end.before = sys.excepthook  # type: ignore[attr-defined]
        sys.excepthook = _end


def _end(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    code = exit_code(error)
    if code == _FAILED:
        _end.before(kind, error, trace)  # type: ignore[attr-defined]
        return
    # Where the user's own code was; what ours did there is none of his business.
    frames = [
        frame
        for frame in traceback.extract_tb(trace)
        if not os.path.abspath(frame.filename).startswith(_OWN_FOLDER + os.sep)
    ]
    place = f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""
    print(f"error: {' '.join(str(error).split())}{place}", file=sys.stderr, flush=True)
    raise SystemExit(code)
