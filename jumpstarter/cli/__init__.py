"""The ``jumpstarter`` command. Sub-commands that live in other packages are found through the entry points
``jumpstarter.commands``."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from importlib.metadata import entry_points

from jumpstarter import __version__

GROUP = "jumpstarter.commands"


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``jumpstarter <command> …``; answer the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    commands = {point.name: point for point in entry_points(group=GROUP)}
    match arguments:
        case [] | ["-h" | "--help" | "help"]:
            print(_usage(commands))
            return 0
        case ["-V" | "--version"]:
            print(f"jumpstarter {__version__}")
            return 0
        case [name, *rest] if name in commands:
            code = commands[name].load()(rest)
            return int(code or 0)
        case [name, *_]:
            print(f"jumpstarter: unknown command {name!r}\n\n{_usage(commands)}", file=sys.stderr)
            return 2
        case _:
            raise AssertionError("every list of arguments matches one of the cases")


def _usage(commands: Iterable[str]) -> str:
    lines = ["usage: jumpstarter COMMAND …", "", "commands:"]
    lines += [f"  {name}" for name in sorted(commands)]
    lines += ["", "'jumpstarter celery -A proj worker' runs the worker of a Celery app; see 'jumpstarter celery --help'."]
    return "\n".join(lines)
