"""Flags of an attack on a model, and what is left of its quality."""

from __future__ import annotations

import argparse
from typing import Any

from tfr_pipeline.cli import arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of an attack."""
    add = parser.add_argument
    add(
        "--attack",
        type=float,
        metavar="SIZE",
        help="also measure lists whose features are moved by up to so much to where "
        "the loss is larger",
    )
    add(
        "--attack_steps",
        type=arguments.positive,
        default=1,
        help="of the attack: 1, the fast gradient sign method (default), or more: "
        "projected gradient descent",
    )
    add(
        "--attack_norm",
        default="infinity",
        help="of the attack: infinity, of each feature (default), or l2 of all of a "
        "list",
    )
    add(
        "--attack_loss",
        default="softmax_loss",
        help="the loss that the attack makes larger (default: softmax_loss)",
    )


def measure_attacked(args: argparse.Namespace, predictor: Any, lists: Any) -> Any:
    """Returns what is measured of a model under the attack of the flags."""
    from tfr_pipeline.pipeline.run.attack import attack_of, attacked
    from tfr_pipeline.pipeline.run.measuring import measure

    attack = attack_of(args.attack, args.attack_steps, args.attack_norm)
    moved = attacked(predictor, lists, attack, args.attack_loss)
    return measure(predictor, moved).means()
