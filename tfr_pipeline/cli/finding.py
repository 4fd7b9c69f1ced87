"""One line of the report that `doctor` prints."""

from __future__ import annotations

from typing import NamedTuple

OK, WARN, FAIL = "ok", "warn", "FAIL"


class Finding(NamedTuple):
    """One line of the report.

    Attributes:
      level: `ok`, `warn` or `FAIL`.
      what: What was looked at.
      found: What was found there.
      advice: What to do about it; empty when all is well.
    """

    level: str
    what: str
    found: str
    advice: str = ""

    def __str__(self) -> str:
        # Names and values of the user's may have line ends.
        what, found, advice = (" ".join(text.split()) for text in self[1:])
        end = f" -> {advice}" if advice else ""
        return f"{self.level:<4}  {what:<28}  {found}{end}"
