"""What is legal in an input but may be a mistake: counted in parts and added."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass
class Oddities:
    """What rows of tables have that deserves a word.

    Attributes:
      unnamed: Number of documents whose cell for the id is empty.
      varying: Maps a column of the query to the number of lists in which it has several
        values, of which the first one counts, and to the first of them in words.

    Example:
      >>> found = Oddities(1, {"season": (2, "a.csv:7: 'winter' after 'summer'")})
      >>> found.add(Oddities(2, {"season": (1, "a.csv:90: 'spring' after 'winter'")}))
      >>> print("; ".join(found.warnings()))  # doctest: +NORMALIZE_WHITESPACE
      warning: 3 documents have an empty id; the number of their line or row stands for
      it; warning: column 'season' of the query has several values in 3 lists, of which
      the first is taken, e.g. a.csv:7: 'winter' after 'summer'
    """

    unnamed: int = 0
    varying: dict[str, tuple[int, str]] = dataclasses.field(default_factory=dict)

    def add(self, other: Oddities) -> None:
        """Adds what rows have that come later."""
        self.unnamed += other.unnamed
        for name, (count, first) in other.varying.items():
            before, earlier = self.varying.get(name, (0, first))
            self.varying[name] = before + count, earlier

    def warnings(self) -> list[str]:
        """Returns lines for the user."""
        lines = []
        if self.unnamed:
            lines.append(
                f"warning: {self.unnamed:,} documents have an empty id; the number of "
                "their line or row stands for it"
            )
        for name, (count, first) in self.varying.items():
            where = f"{count:,} lists" if count > 1 else "a list"
            lines.append(
                f"warning: column {name!r} of the query has several values in {where}, "
                f"of which the first is taken, e.g. {first}"
            )
        return lines
