"""Tasks of a job on the machines of a list, over ssh: `launch/ssh.sh`."""

from __future__ import annotations

import argparse
import collections
import os
import re
import shlex
import sys
from collections.abc import Sequence

from tfr_pipeline.cluster import flags
from tfr_pipeline.cluster.ports import of_attempt
from tfr_pipeline.cluster.tf_config import Task, compose, make_cluster

# A host that does not answer is noticed before the tasks of the others give up.
_SSH = (
    "ssh -o BatchMode=yes -o ConnectTimeout=30"
    " -o ServerAliveInterval=15 -o ServerAliveCountMax=4"
)
_HOST = re.compile(r"((?:[^@:\s]+@)?(?:\[[0-9A-Fa-f:.%]+\]|[^@:\[\]=\s]+))(?::(\d+))?")
_ONLY_HERE = re.compile(r"localhost|127\.|\[::1\]")


def read_hosts(text: str) -> list[str]:
    """Returns the hosts of a list, each as often as it has slots.

    Args:
      text: Hosts, by commas, spaces or lines: `host`, `user@host` or `[IPv6]`, with
        `:slots` when several tasks in a row go there. From `#` on, a line is ignored.

    Raises:
      ValueError: A word is no host, or there is none.

    Example:
      >>> read_hosts("a,b")
      ['a', 'b']
      >>> read_hosts("# rack 1\\r\\n\\r\\nme@a:2\\r\\n[fd00::1]  # the old one\\r\\n")
      ['me@a', 'me@a', '[fd00::1]']
    """
    hosts: list[str] = []
    for line in text.lstrip("\ufeff").splitlines():
        for word in line.partition("#")[0].replace(",", " ").split():
            match = _HOST.fullmatch(word)
            if not match or match[1].startswith("-") or match[2] == "0":
                raise ValueError(
                    f"expected host, user@host, [IPv6] or host:slots, found {word!r}"
                )
            hosts += [match[1]] * int(match[2] or 1)
    if not hosts:
        raise ValueError("expected hosts, found none")
    names = {_name(host) for host in hosts}
    here = sorted(name for name in names if _ONLY_HERE.match(name))
    if here and len(names) > 1:
        raise ValueError(
            f"{here[0]} is another machine for each of {sorted(names)}; give the name "
            "by which the others reach it"
        )
    return hosts


def parse(words: Sequence[str]) -> argparse.Namespace:
    """Reads the command line; `arguments.hosts` is a list afterwards."""
    parser = flags.make_parser(
        "launch/ssh.sh", "Runs a command as the tasks of a job, on several machines."
    )
    add = parser.add_argument
    hosts = parser.add_mutually_exclusive_group(required=True)
    text = "host,user@host,host:slots; tasks go round, `slots` in a row to a host"
    hosts.add_argument("--hosts", help=text)
    hosts.add_argument("--hosts_file", metavar="FILE", help="the same, one a line")
    flags.add_base_port(parser, 2222, "By default, %(default)s")
    add(
        "--ssh",
        default=_SSH,
        metavar="COMMAND",
        help="what takes a host and a command line (%(default)s)",
    )
    add("--dir", default=os.getcwd(), help="folder there (by default, this one's name)")
    add("--python", default=sys.executable, help="interpreter there (%(default)s)")
    arguments = flags.parse(parser, words)
    count = flags.num_addresses(arguments)
    flags.check_ports(parser, "--base_port", arguments.base_port, count)
    try:
        text = arguments.hosts
        if text is None:
            with open(arguments.hosts_file, encoding="utf-8") as file:
                text = file.read()
        arguments.hosts = read_hosts(text)
        _check_slots(arguments.hosts, flags.num_tasks(arguments))
    except (OSError, ValueError) as error:
        parser.error(f"{arguments.hosts_file or '--hosts'}: {error}")
    return arguments


def _check_slots(hosts: Sequence[str], count: int) -> None:
    """Notices slots that may have been meant for ports."""
    for host, slots in collections.Counter(hosts).items():
        if slots > count:
            raise ValueError(
                f"expected {count} slots or less of {host!r}, one for each task, found "
                f"{slots}. In host:n, n is how many tasks in a row go there; a port of "
                f"ssh goes into its configuration, or --ssh='ssh -p PORT'"
            )


def main(words: Sequence[str] | None = None) -> int:
    """Runs the job; returns its exit code."""
    arguments = parse(sys.argv[1:] if words is None else words)
    hosts, count = arguments.hosts, flags.num_addresses(arguments)

    def host(rank: int) -> str:
        return hosts[rank % len(hosts)]

    def make_tasks(attempt: int) -> list[Task]:
        ports = of_attempt(arguments.base_port, count, attempt)
        addresses = [f"{_name(host(rank))}:{port}" for rank, port in enumerate(ports)]
        return compose(make_cluster(addresses, arguments.ps), arguments.evaluator)

    places = {task.name: host(rank) for rank, task in enumerate(make_tasks(0))}

    def start(task: Task) -> list[str]:
        target = places[task.name].replace("[", "").replace("]", "")
        there = flags.task_words(arguments, task.tf_config, arguments.python)
        return [
            *(*shlex.split(arguments.ssh), target),
            flags.in_folder(arguments.dir, there),
        ]

    if arguments.dry_run:
        flags.show(make_tasks(0), start, with_environment=False)
        return 0
    return flags.make_supervisor(arguments, start, make_tasks, remote=True).run()


def _name(host: str) -> str:
    """The host of `user@host`."""
    return host.rpartition("@")[2]


if __name__ == "__main__":
    sys.exit(main())
