"""Ports: which are free, which are taken, and whether somebody answers."""

from __future__ import annotations

import errno
import random
import socket

# Below the range from which Linux takes the ports of outgoing connections: there, a
# port that was free a moment ago, or that a task will listen on again, may be gone.
_FIRST, _LAST = 20000, 32767
HIGHEST = 65535
# After so many attempts, or at the highest port, the first ports come again.
_ATTEMPTS = 100


def is_free(port: int) -> bool:
    """Whether a server could listen on a port of this machine.

    gRPC servers share a port (SO_REUSEPORT) with whoever of the same user listens
    there, and then each gets some of the other's connections. So they do not notice;
    this does.
    """
    both = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if both else socket.AF_INET
    with socket.socket(family) as one:
        # Connections that have ended are no hindrance.
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if both:
            one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        try:
            one.bind(("", port))
            one.listen()
        except OSError as error:
            if error.errno in (errno.EADDRINUSE, errno.EACCES):
                return False
            raise
    return True


def free_ports(count: int) -> list[int]:
    """Returns ports of this machine that nobody listens on, all different."""
    choice = random.SystemRandom()
    found: list[int] = []
    for port in choice.sample(range(_FIRST, _LAST + 1), _LAST + 1 - _FIRST):
        if len(found) == count:
            break
        if is_free(port):
            found.append(port)
    return found


def of_attempt(base: int, count: int, attempt: int) -> list[int]:
    """Returns the ports of an attempt, other ones than those of the attempt before.

    Args:
      base: First port of the first attempt.
      count: Number of ports.
      attempt: Number of the attempt, from 0.

    Example:
      >>> [of_attempt(65530, 2, attempt) for attempt in (0, 2, 3)]
      [[65530, 65531], [65534, 65535], [65530, 65531]]
    """
    attempts = min(_ATTEMPTS, (HIGHEST + 1 - base) // count)
    first = base + attempt % attempts * count
    return list(range(first, first + count))


def taken(address: str) -> str | None:
    """Returns what to tell when the port of an address is taken, here; else None."""
    port = port_of(address)
    if is_free(port):
        return None
    here = socket.gethostname()
    return f"port {port} of {address} is taken on {here}; ss -ltnp names by whom"


def port_of(address: str) -> int:
    """Returns the port of `host:port`."""
    return int(address.rpartition(":")[2])


def answers(address: str, seconds: float = 2.0) -> bool:
    """Whether somebody accepts connections at `host:port`."""
    host = address.rpartition(":")[0].strip("[]")
    try:
        socket.create_connection((host, port_of(address)), seconds).close()
    except OSError:
        return False
    return True
