"""Reading files past the page cache of the kernel.

What the kernel keeps of files serves the next epoch only where all of the data fits.
Where it does not, finding room for each page, and throwing another one out, takes
several times as long as the read.
"""

from __future__ import annotations

import functools
import mmap
import os
import threading

import numpy as np

from tfr_pipeline.cluster import cluster_spec
from tfr_pipeline.data import room
from tfr_pipeline.data.batching import windowed

# Offsets, sizes and memory of direct reads are multiples of it. Of few file systems
# more is asked; those are read in the ordinary way.
ALIGNMENT = 4096
_HUGE = 1 << 21
_FLAG = getattr(os, "O_DIRECT", 0)  # Linux
_own = threading.local()


def open_direct(path: str) -> int | None:
    """Opens a file to be read past the page cache; None where it cannot be."""
    if not _is_possible(path):
        return None
    return os.open(path, os.O_RDONLY | _FLAG)


@functools.lru_cache(maxsize=1 << 16)
def _is_possible(path: str) -> bool:
    if not _FLAG:
        return False
    try:
        file = os.open(path, os.O_RDONLY | _FLAG)
    except OSError:
        return False
    try:
        os.preadv(file, [scratch(ALIGNMENT)[:ALIGNMENT].data], 0)
    except OSError:
        return False
    finally:
        os.close(file)
    return True


def scratch(size: int) -> np.ndarray:
    """Returns memory of this thread alone, for `size` bytes at least; uint8."""
    known: np.ndarray | None = getattr(_own, "memory", None)
    if known is None or len(known) < size:
        size = -(-size // _HUGE) * _HUGE
        memory = mmap.mmap(
            -1, size + _HUGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        )
        if hasattr(mmap, "MADV_HUGEPAGE"):
            memory.madvise(mmap.MADV_HUGEPAGE)
        flat = np.frombuffer(memory, np.uint8)
        begin = -flat.ctypes.data % _HUGE
        _own.memory = known = flat[begin : begin + size]
    return known


def windows(processes: int) -> int:
    """Returns the bytes of what is read ahead, in each of so many processes."""
    return int(windowed.ALIVE * windowed.WINDOW) // processes


def is_worth_it(size: int) -> bool:
    """Whether files have more bytes than the kernel can keep while they train."""
    processes = cluster_spec.readers_here(os.environ.get("TF_CONFIG"))
    taken = room.RESERVE + windows(processes)
    return size > room.memory(processes).bytes - taken
