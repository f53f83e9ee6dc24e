"""The ``jumpstarter`` command. Its own sub-commands stand in :data:`OWN`; those of other packages are found through the entry
points ``jumpstarter.commands``. Only the module of the command that was asked for is imported."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Final

from jumpstarter import __version__

if TYPE_CHECKING:
    from importlib.metadata import EntryPoints

GROUP: Final = "jumpstarter.commands"
#: Our own commands: the module, whose ``main`` takes the arguments and answers the exit code.
OWN: Final = {
    "pipeline": "jumpstarter.cli.pipeline",
    "actors": "jumpstarter.cli.actors",
    "probe": "jumpstarter.cli.probe",
    "quarantine": "jumpstarter.cli.quarantine",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``jumpstarter <command> …``; answer the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    match arguments:
        case [] | ["-h" | "--help" | "help"]:
            print(_usage())
            return 0
        case ["-V" | "--version"]:
            print(f"jumpstarter {__version__}")
            return 0
        case [name, *rest] if (command := _command(name)) is not None:
            return int(command(rest) or 0)
        case [name, *_]:
            print(f"jumpstarter: unknown command {name!r}\n\n{_usage()}", file=sys.stderr)
            return 2
        case _:
            raise AssertionError("every list of arguments matches one of the cases")


def _command(name: str) -> Callable[[Sequence[str]], int | None] | None:
    if name in OWN:
        command: Callable[[Sequence[str]], int | None] = import_module(OWN[name]).main
        return command
    for point in _others():
        if point.name != name:
            continue
        loaded: Callable[[Sequence[str]], int | None] = point.load()
        return loaded
    return None


def _others() -> EntryPoints:
    from importlib.metadata import entry_points  # noqa: PLC0415 - it takes as long as all of `jumpstarter probe`, which does without

    return entry_points(group=GROUP)


def _usage() -> str:
    names: Iterable[str] = {*OWN, *(point.name for point in _others())}
    lines = ["usage: jumpstarter COMMAND …", "", "commands:"]
    lines += [f"  {name}" for name in sorted(names)]
    lines += ["", "'jumpstarter celery -A proj worker' runs the worker of a Celery app; see 'jumpstarter celery --help'."]
    return "\n".join(lines)
