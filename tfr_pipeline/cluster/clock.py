"""Time as far as this process has lived it, and when to try again."""

from __future__ import annotations

import time

# Longer between two looks at the clock, and this process was stopped.
_LONGEST_TICK = 1.0
_LONGEST_PAUSE = 60.0
# After so long without a restart, the next pause is the shortest again. The number of
# restarts that are left stays what it was.
_GOOD_RUN = 600.0


class Clock:
    """A clock that stands still while this process does.

    Others that were stopped along with it, as a closed laptop does, are not late.
    """

    def __init__(self) -> None:
        self._now, self._ticked = 0.0, time.monotonic()

    def now(self) -> float:
        """Seconds since the start, as of the last tick."""
        return self._now

    def tick(self) -> None:
        """Goes on; has to be called several times a second."""
        now = time.monotonic()
        self._now += min(now - self._ticked, _LONGEST_TICK)
        self._ticked = now


class Restarts:
    """How many restarts are left, and how long to wait for the next.

    Args:
      most: How many there are.
      pause: Seconds before the first; doubles each time, up to a minute.

    Attributes:
      count: How many there were that counted.

    Example:
      >>> restarts = Restarts(4, 1.0)
      >>> [restarts.next(now) for now in (5.0, 10.0, 1000.0, 1001.0, 1002.0)]
      [1.0, 2.0, 1.0, 2.0, None]
    """

    def __init__(self, most: int, pause: float):
        self.most, self.count = most, 0
        self._pause, self._in_a_row, self._last = pause, 0, 0.0

    def next(self, now: float, counts: bool = True) -> float | None:
        """Takes a restart; returns the pause before it, or None if none is left.

        Args:
          now: The time.
          counts: Whether it is one of those that there are.
        """
        if now - self._last > _GOOD_RUN:
            self._in_a_row = 0
        self._last = now
        if counts and self.count >= self.most:
            return None
        pause = min(self._pause * 2**self._in_a_row, _LONGEST_PAUSE)
        self.count += counts
        self._in_a_row += 1
        return pause
