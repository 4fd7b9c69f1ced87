"""`--splits`: one input cut into splits by a hash of the query id."""

from __future__ import annotations

import dataclasses
import fractions
import hashlib
from collections.abc import Iterable

import numpy as np

from tfr_pipeline.data.lists import Lists
from tfr_pipeline.errors import ConfigError, unknown_name

SPLITS = ("train", "valid", "test")
_WHOLE = 1 << 64


@dataclasses.dataclass(frozen=True)
class Cut:
    """Which share of the queries each split has.

    A query goes by the first 8 bytes of the SHA-256 of its id in UTF-8, a big-endian
    number. Over 2^64, that is a number from 0 to 1, and the shares are stretches of
    this range in the order in which they are named. So a query goes to the same split
    wherever it stands, and whatever stands beside it.

    Attributes:
      shares: Maps the name of a split to its share; they add up to 1.
      text: How the user wrote them.

    Example:
      >>> cut = Cut.parse("train:.8,valid:.1,test:.1")
      >>> [cut.names[number] for number in cut.of(["10", "11", "12"])]
      ['train', 'train', 'train']
    """

    shares: dict[str, fractions.Fraction]
    text: str

    @classmethod
    def parse(cls, text: str, what: str = "--splits") -> Cut:
        """Returns the cut that a text such as `train:.8,valid:.1,test:.1` names.

        Args:
          text: Names and shares; a share may also be written as `1/3`.
          what: Stands before messages.

        Raises:
          ConfigError: It is no such text, or the shares do not add up to 1.
        """
        shares: dict[str, fractions.Fraction] = {}
        for part in text.split(","):
            name, colon, number = (piece.strip() for piece in part.partition(":"))
            try:
                share = fractions.Fraction(number)
            except (ValueError, ZeroDivisionError):
                share = fractions.Fraction(0)
            if not colon or not share > 0:
                raise ConfigError(
                    f"{what}: expected names and shares above 0, such as "
                    f"train:.8,valid:.1,test:.1, found {part!r} in {text!r}."
                )
            if name not in SPLITS:
                raise ConfigError(f"{what}: {unknown_name('split', name, SPLITS)}")
            if name in shares:
                raise ConfigError(
                    f"{what}: expected each split once, found {name!r} again in "
                    f"{text!r}."
                )
            shares[name] = share
        total = sum(shares.values())
        if total != 1:
            raise ConfigError(
                f"{what}: expected shares that add up to 1, found {text!r}, which make "
                f"{float(total):g}."
            )
        return cls(shares, text)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the splits."""
        return tuple(self.shares)

    def __str__(self) -> str:
        return self.text

    def of(self, query_ids: Iterable[str]) -> np.ndarray:
        """Returns int64 `[lists]`, the number of the split of each list."""
        ends, end = [], fractions.Fraction(0)
        for share in self.shares.values():
            end += share
            ends.append(int(end * _WHOLE) - 1)  # the last place
        places = [
            int.from_bytes(hashlib.sha256(str(name).encode()).digest()[:8], "big")
            for name in query_ids
        ]
        bounds = np.array(ends, np.uint64)
        return np.searchsorted(bounds, np.array(places, np.uint64))

    def choose(self, lists: Lists, name: str) -> np.ndarray:
        """Returns the numbers of the lists that belong to a split."""
        wanted = self.names.index(name)
        return np.flatnonzero(self.of(lists.query_ids) == wanted)
