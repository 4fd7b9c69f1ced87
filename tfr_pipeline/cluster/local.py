"""All tasks of a job on this machine: `launch/local.sh`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from tfr_pipeline.cluster import flags
from tfr_pipeline.cluster.ports import free_ports, of_attempt
from tfr_pipeline.cluster.tf_config import Task, compose, make_cluster


def main(words: Sequence[str] | None = None) -> int:
    """Runs the job; returns its exit code."""
    parser = flags.make_parser(
        "launch/local.sh", "Runs a command as all tasks of a job, on this machine."
    )
    flags.add_base_port(parser, None, "By default, any that are free")
    arguments = flags.parse(parser, sys.argv[1:] if words is None else words)
    count = flags.num_addresses(arguments)
    flags.check_ports(parser, "--base_port", arguments.base_port, count)

    def make_tasks(attempt: int) -> list[Task]:
        if arguments.base_port is None:
            ports = free_ports(count)
        else:
            ports = of_attempt(arguments.base_port, count, attempt)
        addresses = [f"localhost:{port}" for port in ports]
        return compose(make_cluster(addresses, arguments.ps), arguments.evaluator)

    def start(task: Task) -> list[str]:
        return arguments.command

    if arguments.dry_run:
        flags.show(make_tasks(0), start)
        return 0
    return flags.make_supervisor(arguments, start, make_tasks).run()


if __name__ == "__main__":
    sys.exit(main())
