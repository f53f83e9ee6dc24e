"""``jumpstarter actors``: the live tree of the actors of processes that have a window, with their states. Reads: actors.window."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from jumpstarter.actors.inspection import ActorView, tree_diagram
from jumpstarter.actors.window import folder, look_in

CLEAR = "\x1b[2J\x1b[H"


@click.command(name="jumpstarter actors", help="Show the actors of this user's processes that host a jumpstarter.actors.Window.")
@click.option("--pid", type=int, help="Only this process.")
@click.option("--mermaid", is_flag=True, help="A Mermaid flowchart instead of text.")
@click.option("--json", "as_json", is_flag=True, help="JSON instead of text.")
@click.option("--watch", type=float, metavar="SECONDS", help="Show it again and again.")
def command(pid: int | None, *, mermaid: bool, as_json: bool, watch: float | None) -> None:
    """See the help."""
    while True:
        shown = list(processes(pid))
        if watch:
            click.echo(CLEAR, nl=False)
        if as_json:
            click.echo(json.dumps(shown, indent=2))
        elif mermaid:
            click.echo(tree_diagram([view for one in shown for view in views(one)]), nl=False)
        else:
            show(shown)
        if not watch:
            raise SystemExit(0 if shown else 1)
        time.sleep(watch)


def main(arguments: Any = None) -> int:
    """Run it; answers the exit code: 1 when there is nothing to see."""
    try:
        command(args=None if arguments is None else list(arguments), standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except click.exceptions.Exit as error:
        return int(error.exit_code)
    except SystemExit as error:
        return int(error.code or 0)
    except KeyboardInterrupt:
        return 130
    return 0


def processes(pid: int | None) -> Iterator[Mapping[str, Any]]:
    """What the windows show."""
    for path in sorted(folder().glob("*.sock")):
        if pid is None or path == folder() / f"{pid}.sock":
            seen = _seen(path)
            if seen is not None:
                yield seen


def _seen(path: Path) -> Mapping[str, Any] | None:
    try:
        return look_in(path)
    except (OSError, ValueError) as error:
        click.echo(f"process {path.stem} does not answer: {error}", err=True)
        return None


def views(process: Mapping[str, Any]) -> list[ActorView]:
    """The actors of a process."""
    return [_view(one) for one in process["actors"]]


def show(shown: list[Mapping[str, Any]]) -> None:
    """For people."""
    if not shown:
        click.echo(f"no process shows its actors in {folder()}; host a jumpstarter.actors.Window in yours", err=True)
    for process in shown:
        click.echo(f"process {process['pid']}")
        for view in views(process):
            for line in view.lines("  "):
                click.echo(line)


def _view(one: Mapping[str, Any]) -> ActorView:
    children = tuple(_view(child) for child in one["children"])
    return ActorView(**{**one, "states": tuple(one["states"]), "children": children})
