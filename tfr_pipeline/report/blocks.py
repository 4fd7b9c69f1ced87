"""What a section of a report is made of."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence


@dataclasses.dataclass(frozen=True)
class Text:
    """A paragraph; as a note where something is lacking."""

    text: str
    is_note: bool = False
    kind: str = "text"


@dataclasses.dataclass(frozen=True)
class Tile:
    """A number that is seen from afar."""

    label: str
    value: str
    detail: str = ""


@dataclasses.dataclass(frozen=True)
class Tiles:
    """Some tiles in a row."""

    tiles: Sequence[Tile]
    kind: str = "tiles"


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows of texts. Columns of numbers stand to the right.

    Attributes:
      head: Names of the columns.
      rows: As many texts each.
      caption: What it is, if the text before does not say.
      texts: Numbers of the columns that are no numbers.
    """

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""
    texts: Sequence[int] = (0,)
    kind: str = "table"


@dataclasses.dataclass(frozen=True)
class Figure:
    """A figure, from `drawing.svg`."""

    svg: str
    caption: str = ""
    kind: str = "figure"


@dataclasses.dataclass(frozen=True)
class Code:
    """Text as it is in a file; folded away behind a summary, if there is one."""

    text: str
    summary: str = ""
    kind: str = "code"


Block = Text | Tiles | Table | Figure | Code


@dataclasses.dataclass(frozen=True)
class Section:
    """A part of the page.

    Attributes:
      name: Its anchor.
      title: Its title.
      blocks: What stands in it.
    """

    name: str
    title: str
    blocks: Sequence[Block]


def left_out(name: str, title: str, why: object) -> Section:
    """Returns a section that says why it is not there."""
    return Section(name, title, [Text(f"Left out: {why}", is_note=True)])


def number(value: float | None, digits: int = 4) -> str:
    """Returns a metric as text; a dash where there is none.

    Example:
      >>> number(0.81234567), number(None)
      ('0.8123', '\u2013')
    """
    if value is None or math.isnan(value):
        return "\u2013"
    return f"{value:.{digits}f}".replace("-", "\u2212")


def signed(value: float | None, digits: int = 4) -> str:
    """Returns a difference as text.

    Example:
      >>> signed(0.01234)
      '+0.0123'
    """
    text = number(value, digits)
    return f"+{text}" if value is not None and value > 0 else text


def interval(ends: Sequence[float | None] | None, digits: int = 4) -> str:
    """Returns an interval as text.

    Example:
      >>> interval([0.1, 0.25], 2)
      '0.10 to 0.25'
    """
    low, high = ends or (None, None)
    if low is None or high is None:
        return "\u2013"
    return f"{number(low, digits)} to {number(high, digits)}"
