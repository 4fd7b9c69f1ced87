"""What passes is tried again, what does not is explained in a line.

Drivers of stores raise whatever they like; here it becomes an error of ours that names
the URL, what was found and what to do.
"""

from __future__ import annotations

import errno
import math
import os
import random
import sys
import time
from collections.abc import Callable
from typing import TypeVar

from tfr_pipeline import urls
from tfr_pipeline.errors import DataError, PipelineError, RunError

# Seconds for which an operation is tried again before it has failed.
PATIENCE = "TFR_PIPELINE_REMOTE_PATIENCE"
_PATIENCE_SECONDS = 120.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 15.0
# Between two lines about the same store.
_SILENCE_SECONDS = 30.0
_said: dict[str, float] = {}
_NO_CREDENTIALS = (
    "NoCredentialsError",
    "PartialCredentialsError",
    "CredentialRetrievalError",
    "TokenRetrievalError",
    "SSOTokenLoadError",
    "ProfileNotFound",
    "DefaultCredentialsError",
    "RefreshError",
)
# No other answer would come: of botocore, and what code or its arguments are to blame
# for.
_FOR_GOOD = ("ParamValidationError", "TypeError", "ValueError", "NotImplementedError")
_OF_THIS_MACHINE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EMFILE, errno.EFBIG)
Result = TypeVar("Result")


class GoneError(DataError):
    """A bucket, a file or a folder is not there."""


def patience() -> float:
    """Returns the seconds for which an operation is tried again."""
    text = os.environ.get(PATIENCE, "")
    try:
        return float(text) if text else _PATIENCE_SECONDS
    except ValueError as error:
        raise RunError(
            f"{PATIENCE}: expected a number of seconds, found {text!r}."
        ) from error


def retried(
    action: Callable[[], Result], url: str, seconds: float | None = None
) -> Result:
    """Returns the result of an operation that is tried again while that may help.

    Args:
      action: The operation. May be called several times.
      url: What it is about.
      seconds: For how long; by default `patience`.

    Raises:
      GoneError: What it is about is not there.
      RunError: It failed.
    """
    start, pause = time.monotonic(), _FIRST_PAUSE
    limit = patience() if seconds is None else seconds
    while True:
        try:
            return action()
        except PipelineError:
            raise
        except Exception as error:
            spent = time.monotonic() - start
            if not _is_passing(error) or spent + pause > limit:
                raise explained(error, url, spent) from error
            _say_once(url, f"{cause_of(error)}; trying again for up to {limit:.0f} s")
        time.sleep(pause * random.uniform(0.75, 1.0))
        pause = min(2 * pause, _LONGEST_PAUSE)


def _say_once(url: str, what: str) -> None:
    """Says something of a store, but not of each of its files."""
    store, now = url.split("/")[2], time.monotonic()
    if now - _said.get(store, -math.inf) > _SILENCE_SECONDS:
        _said[store] = now
        print(urls.shown(f"{url}: {what}"), file=sys.stderr, flush=True)


def cause_of(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text.rstrip(".")[:300]


def _kinds(error: BaseException) -> set[str]:
    return {kind.__name__ for kind in type(error).__mro__}


def _is_passing(error: BaseException) -> bool:
    """Whether the same operation may succeed a moment later."""
    gone = FileNotFoundError | PermissionError | FileExistsError | IsADirectoryError
    if isinstance(error, gone | NotADirectoryError | ImportError):
        return False
    if isinstance(error, OSError) and error.errno in (*_OF_THIS_MACHINE, errno.EINVAL):
        return False
    if "Anonymous caller" in str(error) or getattr(error, "code", 0) in (401, 403):
        return False
    return not _kinds(error) & {*_NO_CREDENTIALS, *_FOR_GOOD}


def explained(error: BaseException, url: str, spent: float = 0.0) -> PipelineError:
    """Returns the error of ours for one of a driver.

    Args:
      error: What was raised.
      url: What it is about.
      spent: Seconds for which it was tried.
    """
    cause = cause_of(error)
    anonymous = "Anonymous caller" in cause
    if _kinds(error) & set(_NO_CREDENTIALS) or anonymous:
        how = (
            "gcloud auth application-default login, or GOOGLE_APPLICATION_CREDENTIALS"
            if url.startswith(("gs:", "gcs:"))
            else "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
            if url.startswith("s3")
            else "see the documentation of its driver"
        )
        return RunError(f"{url}: no credentials for it were found ({cause}): {how}.")
    if isinstance(error, PermissionError) or getattr(error, "code", 0) in (401, 403):
        return RunError(
            f"{url}: access was denied ({cause}). Check which credentials this process "
            "has, and what they allow."
        )
    if isinstance(error, FileNotFoundError):
        named = f" ({cause})" if " " in cause else ""
        return GoneError(f"{url}: no such bucket, folder or file{named}.")
    if isinstance(error, OSError) and error.errno in _OF_THIS_MACHINE:
        return RunError(
            f"{url}: {error.strerror or cause} on this machine"
            f"{f' ({error.filename})' if error.filename else ''}."
        )
    tried = f", tried for {spent:.0f} s" if spent >= 1 else ""
    return RunError(f"{url}: {type(error).__name__}: {cause}{tried}.")
