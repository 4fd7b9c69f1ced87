"""What a task says of itself about once a second, within its standard output.

A beat is NUL, four words, and a line end: what the task does, the training steps that
it has done, up to which of them a restart need not do the work again, and how often it
has moved on. No line that somebody prints holds a NUL. A beat without words is a sign
of life alone.
"""

from __future__ import annotations

import dataclasses
import re

# What a task does. At rest: all that may take as long as it likes, such as reading
# data, tracing, evaluating and exporting, and code that knows nothing of beats.
REST = "rest"
# In a step of training or validation, which waits for the other workers.
STEP = "step"
# Between two steps: callbacks.
BETWEEN = "between"
# Saving a checkpoint.
SAVE = "save"
# Waiting for the other workers outside of steps.
WAIT = "wait"
# Doing what a coordinator sends, which counts the steps.
SERVE = "serve"

_BEAT = re.compile(rb"\0(?:([a-z]+) (-?\d+) (-?\d+) (\d+))?\n")


@dataclasses.dataclass(frozen=True)
class Beat:
    """What a task says of itself.

    Attributes:
      doing: One of the words above.
      step: Training steps done; -1 before anybody knows.
      kept: Steps that the last checkpoint of this process has; -1 before its first.
        Of an evaluator, those of the last checkpoint that it has evaluated.
      moves: Steps, batches of validation and the like that have ended so far.
    """

    doing: str = REST
    step: int = -1
    kept: int = -1
    moves: int = 0

    def encode(self) -> bytes:
        """Returns the bytes of the beat."""
        return f"\0{self.doing} {self.step} {self.kept} {self.moves}\n".encode()


def take(text: bytes) -> tuple[bytes, list[Beat | None]]:
    """Takes the beats out of a text; one that is not complete stays in it.

    Returns:
      The rest of the text, and the beats, None for those without words.

    Example:
      >>> take(b"half\\0\\n a line\\n\\0step 3 -1 7\\n")
      (b'half a line\\n', [None, Beat(doing='step', step=3, kept=-1, moves=7)])
    """
    beats: list[Beat | None] = []
    for doing, *numbers in _BEAT.findall(text):
        beats.append(Beat(doing.decode(), *map(int, numbers)) if doing else None)
    return _BEAT.sub(b"", text) if beats else text, beats
