"""Time as far as this process has lived it, and when to try again."""

from __future__ import annotations

import time

# Longer between two looks at the clock, and this process was stopped.
_LONGEST_TICK = 1.0
_LONGEST_PAUSE = 60.0
# After so long without a restart, the next pause is the shortest again.
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
      most: How many there are, until the work has got further.
      pause: Seconds before the first; doubles each time, up to a minute.

    Attributes:
      count: How many there were that counted, since the work got further.
      kept: The step up to which a restart need not repeat the work; -1 if none is
        known.

    Example:
      >>> restarts = Restarts(4, 1.0)
      >>> [restarts.next(now) for now in (5.0, 10.0, 1000.0, 1001.0, 1002.0)]
      [1.0, 2.0, 1.0, 2.0, None]
      >>> restarts.keep(20), restarts.next(1003.0), restarts.keep(20), restarts.count
      (True, 4.0, False, 1)
    """

    def __init__(self, most: int, pause: float):
        self.most, self.count, self.kept = most, 0, -1
        self._steps: list[int] = []
        self._pause, self._in_a_row, self._last = pause, 0, 0.0

    def keep(self, step: int) -> bool:
        """Gives all restarts back if the work is kept up to a later step than before.

        Args:
          step: The step; -1 if none is known.

        Returns:
          Whether any were gone.
        """
        if step <= self.kept:
            return False
        gone = self.count > 0
        self.kept, self.count = step, 0
        self._steps.clear()
        return gone

    def failed(self, step: int) -> None:
        """Notes at which step there was a failure; -1 if that is not known."""
        if step >= 0:
            self._steps.append(step)

    def __str__(self) -> str:
        """Says how many there were, since when, and where the failures were."""
        text = f"{self.count} restarts"
        if not self._steps:
            return text
        first, last = min(self._steps), max(self._steps)
        where = f"at step {last}" if first == last else f"at steps {first} to {last}"
        text += " without a new checkpoint"
        text += f" since step {self.kept}" if self.kept >= 0 else ""
        return f"{text}; the failures came {where}, as far as it was heard"

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
