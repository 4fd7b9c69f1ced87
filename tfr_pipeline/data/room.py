"""How much memory this process may use, and how much room a disk has."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
import resource
import shutil

# Where the kernel says what a process, its control groups and the machine have.
_PROC, _GROUPS = "/proc", "/sys/fs/cgroup"
# What training takes beside the data: the model, batches, the program.
RESERVE = 1 << 29
_NONE = 1 << 60  # what version 1 says of a group without a limit is near 2 ** 63


@dataclasses.dataclass(frozen=True, order=True)
class Room:
    """Bytes that are to be had, and what says so.

    Attributes:
      bytes: How many.
      why: What sets the limit, in words.
    """

    bytes: int
    why: str


def memory(processes: int = 1) -> Room:
    """Returns how much more memory this process may take.

    The least of what the machine has free, what is left of the limits of its control
    groups (version 1 or 2, and those around them), and of `ulimit`. What the kernel
    holds of files can be taken, so it counts as free.

    Args:
      processes: Processes of this job on this machine, which share all but the last.
    """
    least = min([_of_machine(), *_of_groups()])
    if processes > 1:
        why = f"{least.why}, shared by {processes} processes"
        least = Room(least.bytes // processes, why)
    least = min([least, *_of_ulimit()])
    return Room(max(0, least.bytes), least.why)


def disk(path: str) -> Room:
    """Returns how much can be written below a folder, which need not be there yet."""
    place = os.path.abspath(path)
    while not os.path.isdir(place):
        place = os.path.dirname(place)
    return Room(shutil.disk_usage(place).free, f"free on the disk of {place}")


def shown(size: float) -> str:
    """Returns a number of bytes in words.

    Example:
      >>> shown(512), shown(3_900_000_000)
      ('512 B', '3.63 GiB')
    """
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if size >= 100 else f"{size:.3g} {unit}"
        size /= 1024
    return f"{size:.3g} TiB"


def _of_machine() -> Room:
    with contextlib.suppress(OSError, KeyError):
        free = _table(os.path.join(_PROC, "meminfo"))["MemAvailable"]
        return Room(free, "free on this machine")
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return Room(total // 2, "half of what this machine has")


def _of_groups() -> list[Room]:
    try:
        lines = pathlib.Path(_PROC, "self/cgroup").read_text().splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:  # version 2
            for root in (_GROUPS, f"{_GROUPS}/unified"):
                found += _up(root, path, "memory.max", "memory.current", "")
        elif "memory" in controllers.split(","):
            names = "memory.limit_in_bytes", "memory.usage_in_bytes", "total_"
            found += _up(f"{_GROUPS}/memory", path, *names)
    return found


def _up(root: str, path: str, limit: str, usage: str, prefix: str) -> list[Room]:
    """Returns what is left of a group, and of those around it."""
    found = []
    # Inside a container a path may be that of the machine, of which only the end is.
    place = os.path.normpath(f"{root}/{path}")
    while True:
        with contextlib.suppress(OSError, ValueError):
            most = int(pathlib.Path(place, limit).read_text())
            if most < _NONE:
                used = int(pathlib.Path(place, usage).read_text())
                table = _table(os.path.join(place, "memory.stat"))
                files = (f"{prefix}{kind}_file" for kind in ("inactive", "active"))
                used -= sum(table.get(name, 0) for name in files)
                why = f"left of the {shown(most)} of its control group"
                found.append(Room(most - max(0, used), why))
        if place == root or not place.startswith(root):
            return found
        place = os.path.dirname(place)


def _of_ulimit() -> list[Room]:
    used: dict[str, int] = {}
    with contextlib.suppress(OSError):
        used = _table(os.path.join(_PROC, "self/status"))
    found = []
    for kind, key, flag in (
        (resource.RLIMIT_AS, "VmSize", "-v"),
        (resource.RLIMIT_DATA, "VmData", "-d"),
    ):
        soft, _ = resource.getrlimit(kind)
        if soft != resource.RLIM_INFINITY:
            left = soft - used.get(key, 0)
            found.append(Room(left, f"left of the {shown(soft)} of `ulimit {flag}`"))
    return found


def _table(path: str) -> dict[str, int]:
    """Returns the lines of a table of names and numbers; those with kB in bytes."""
    found = {}
    for line in pathlib.Path(path).read_text().splitlines():
        name, *rest = line.replace(":", " ").split()
        if rest and rest[0].isdigit():
            found[name] = int(rest[0]) * (1024 if rest[1:] == ["kB"] else 1)
    return found
