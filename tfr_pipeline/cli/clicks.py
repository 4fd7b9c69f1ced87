"""`tfr-pipeline clicks`: simulated clicks, and propensities of positions."""

from __future__ import annotations

# The words: `cli/clicks_<word>.py`.
COMMANDS = {
    "simulate": "sessions with clicks, from graded data",
    "propensities": "how likely each position is seen, from clicks",
}
