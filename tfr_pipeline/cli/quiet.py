"""Keeps start-up messages of TensorFlow and Beam off the terminal."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import tempfile
from collections.abc import Iterator

from tfr_pipeline.errors import ConfigError


@contextlib.contextmanager
def native_messages_hidden() -> Iterator[None]:
    """Hides what the block writes to the process's standard error.

    TensorFlow 2.21 logs while it is imported, before its logging is set up, and
    `TF_CPP_MIN_LOG_LEVEL` has no say in that. If the block raises, all that was
    hidden is written out after all.

    Example:
      >>> with native_messages_hidden():
      ...     _ = os.write(2, b"cpu_feature_guard: ...")
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as hidden:
        os.dup2(hidden.fileno(), 2)
        try:
            yield
        except BaseException:
            sys.stderr.flush()
            os.dup2(kept, 2)
            hidden.seek(0)
            os.write(2, hidden.read())
            raise
        finally:
            sys.stderr.flush()
            os.dup2(kept, 2)
            os.close(kept)


def load_tensorflow(gpus: bool = True) -> None:
    """Imports TensorFlow and looks for devices, both without their messages.

    `--debug`, or TF_CPP_MIN_LOG_LEVEL=0, lets them through.

    Args:
      gpus: Whether this process uses them; if not, it takes none of their memory.
    """
    shown = os.environ.get("TF_CPP_MIN_LOG_LEVEL") == "0"
    with contextlib.nullcontext() if shown else native_messages_hidden():
        from tfr_pipeline.compat import tf, tfr

        if not gpus:
            tf.config.set_visible_devices([], "GPU")
        # In a cluster, the strategy has to come before the devices are made.
        if not os.environ.get("TF_CONFIG"):
            tf.config.list_logical_devices()
        # Functions that it cannot read the source of are none of a user's business.
        tf.autograph.set_verbosity(0)
        if not shown:
            tf.get_logger().setLevel("WARNING")
        assert tfr


def load_beam() -> None:
    """Imports Apache Beam without its remarks on what is not installed.

    Raises:
      ConfigError: It is missing or does not work.
    """
    try:
        logging.disable(logging.WARNING)
        import apache_beam
    except ImportError as error:
        raise ConfigError(
            f"--runner needs Apache Beam ({error}). Install it with: pip install "
            "'tfr_pipeline[beam]'"
        ) from error
    finally:
        logging.disable(logging.NOTSET)
    assert apache_beam
