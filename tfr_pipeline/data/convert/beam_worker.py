"""The processes of Beam's in-process runner, started by `python -m`.

Beam's own, but quiet, deaf to what a terminal sends to the parent, and gone with it.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time


def _end_with(parent: int, folder: str) -> None:
    while os.getppid() == parent and os.path.isdir(folder):
        time.sleep(0.5)
    os._exit(1)


def main() -> None:
    """Works for the process that started this one, until that has no more.

    The argument is a folder that is there for as long as the work is wanted.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    threading.Thread(
        target=_end_with, args=(os.getppid(), sys.argv.pop()), daemon=True
    ).start()
    if os.environ.get("TF_CPP_MIN_LOG_LEVEL") != "0":  # as with --debug
        logging.disable(logging.CRITICAL)
        # Errors come to the parent by another way; here they are printed whole.
        with open(os.devnull, "wb") as nothing:
            os.dup2(nothing.fileno(), 2)
    from apache_beam.runners.worker import sdk_worker_main

    sdk_worker_main.main(sys.argv)


if __name__ == "__main__":
    main()
