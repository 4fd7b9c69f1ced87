"""A command on a Cloud TPU VM, over gcloud's ssh: `launch/tpu_vm.sh`."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Sequence

from tfr_pipeline.cluster import flags
from tfr_pipeline.cluster.supervisor import BAD_USAGE
from tfr_pipeline.cluster.tf_config import Task

# TPUStrategy needs no TF_CONFIG: the one process drives all chips.
_TASK = Task("worker", 0, "{}")
_OF_SUPERVISOR = {
    *("--log_dir", "--max_restarts", "--grace"),
    *("--start_timeout", "--hang_timeout", "--stall_timeout"),
}


def main(words: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    parser = flags.make_parser(
        "launch/tpu_vm.sh",
        "Runs a command on a Cloud TPU VM, restarts it after failures, and passes "
        "SIGTERM on.",
        one_task=True,
    )
    add = parser.add_argument
    add("--tpu", required=True, metavar="NAME", help="the TPU VM, or USER@NAME")
    add("--zone", required=True, help="its zone")
    add("--project", help="its project; by default, gcloud's")
    add(
        "--worker",
        default="0",
        metavar="HOST",
        help="host of a slice (%(default)s); others than 0, such as all, run the "
        "command once and unsupervised",
    )
    add("--dir", default=".", help="folder there; by default, the home folder")
    add("--python", default="python3", help="interpreter there (%(default)s)")
    words = sys.argv[1:] if words is None else words
    arguments = flags.parse(parser, words)
    supervised = arguments.worker == "0"
    if not supervised:
        names = {word.partition("=")[0] for word in words[: words.index("--")]}
        for name in sorted(names & _OF_SUPERVISOR):
            why = f"with --worker={arguments.worker}, nobody supervises the command"
            print(f"{name}: without effect: {why}", file=sys.stderr)

    def start(task: Task) -> list[str]:
        return gcloud(arguments, supervised)

    if arguments.dry_run:
        print(shlex.join(start(_TASK)))
        return 0
    if supervised:
        return flags.make_supervisor(
            arguments, start, lambda attempt: [_TASK], remote=True
        ).run()
    try:
        os.execvp("gcloud", start(_TASK))
    except OSError as error:
        print(f"cannot start 'gcloud': {error.strerror}", file=sys.stderr)
    return BAD_USAGE


def gcloud(arguments: argparse.Namespace, supervised: bool) -> list[str]:
    """Returns the words that run the command there, below `cluster.task` or bare."""
    command = list(arguments.command)
    if supervised:
        command = flags.task_words(arguments, python=arguments.python)
    return [
        *("gcloud", "compute", "tpus", "tpu-vm", "ssh", arguments.tpu),
        f"--zone={arguments.zone}",
        *([] if arguments.project is None else [f"--project={arguments.project}"]),
        f"--worker={arguments.worker}",
        f"--command={flags.in_folder(arguments.dir, command)}",
    ]


if __name__ == "__main__":
    sys.exit(main())
