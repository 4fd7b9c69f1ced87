"""Who works at a trial: a process, by a name that no other one ever has."""

from __future__ import annotations

import contextlib
import os
import socket


def here() -> str:
    """Returns the name of this process: `host:process:` and what makes it unique.

    That is when the machine and the process began, and how it counts processes, which
    containers do each in a way of their own.
    """
    process = os.getpid()
    return f"{socket.gethostname()}:{process}:{_started(process)}:{_machine()}"


def short(name: str) -> str:
    """Returns the part of a name that people read.

    Example:
      >>> short("node7:4711:12345:ab-cd")
      'node7:4711'
    """
    return ":".join(name.split(":")[:2])


def is_alive(name: str) -> bool | None:
    """Whether the process is there; None for those of other machines."""
    host, process, started, machine = [*name.split(":"), "", "", "", ""][:4]
    if not process.isdigit() or host != socket.gethostname() or machine != _machine():
        return None
    return _started(int(process)) == started


def _machine() -> str:
    boot = process_space = ""
    with contextlib.suppress(OSError):
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            boot = file.read().strip()
        process_space = os.readlink("/proc/self/ns/pid").strip("pid:[]")
    return f"{boot}-{process_space}"


def _started(process: int) -> str:
    """Returns when a process began, in ticks of the machine; empty if it is gone."""
    try:
        with open(f"/proc/{process}/stat", encoding="ascii", errors="replace") as file:
            # The name of the program stands in brackets and may hold spaces.
            fields = file.read().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]
