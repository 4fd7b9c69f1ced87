"""Runs code in a process with several logical devices: they are set at its start."""

from __future__ import annotations

import subprocess
import sys

from tests.pipeline.training_helpers import ROOT, environment

_START = """
from tfr_pipeline.compat import tf
cpu = tf.config.list_physical_devices("CPU")[0]
one = tf.config.LogicalDeviceConfiguration()
tf.config.set_logical_device_configuration(cpu, [one] * {count})
"""


def run_on_devices(count: int, code: str, *args: object) -> str:
    """Returns what the code printed; it finds its arguments in `sys.argv`."""
    done = subprocess.run(
        [sys.executable, "-c", _START.format(count=count) + code, *map(str, args)],
        env=environment(),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout
