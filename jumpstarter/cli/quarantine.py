"""``jumpstarter quarantine``: look at what rests in quarantine, send it again, or drop it.

:func:`commands` makes the group for any way to find a broker: here by its URL, in ``compat_celery`` by the app.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from jumpstarter.abc.broker import Broker
from jumpstarter.brokers import open_broker
from jumpstarter.cli import report
from jumpstarter.embedded.database import Place
from jumpstarter.embedded.home import file_in, home
from jumpstarter.errors import JumpstarterError
from jumpstarter.jobs import Quarantined

F = TypeVar("F", bound=Callable[..., Any])

#: Messages that are fetched, requeued or dropped in one call.
_AT_ONCE: Final = 200


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; answer its exit code."""
    option = click.Option(
        ["-b", "--broker"],
        envvar="JUMPSTARTER_BROKER",
        metavar="URL",
        help="The broker. If not given: $JUMPSTARTER_BROKER, or the embedded one of this folder.",
    )
    group = commands(_named_broker, options=[option])
    try:
        code = group.main(args=None if argv is None else list(argv), prog_name="jumpstarter quarantine", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except click.exceptions.Abort:
        return 130
    return code if isinstance(code, int) else 0


def _named_broker(context: click.Context) -> Broker:
    return _broker_at(context.parent.params["broker"] if context.parent is not None else None)


def _broker_at(url: str | None) -> Broker:
    """The broker at the URL, or the embedded one of the working directory. Never makes a file that is not there.

    :raises click.ClickException: there is none.
    """
    if not url:
        path = file_in(home())
        if not path.exists():
            raise click.ClickException(
                f"no broker is named, and there is no embedded one at {path}. "
                "Name one with --broker URL, or in the environment variable JUMPSTARTER_BROKER."
            )
        return open_broker(f"sqlite:///{path}")
    scheme = url.partition("://")[0]
    if scheme == "memory":
        raise click.ClickException("memory:// lives in the process that uses it, and nobody else can look into it.")
    if scheme == "sqlite" and not Path(Place(url, synchronous="NORMAL", timeout=1.0).path).exists():
        raise click.ClickException(f"there is no file at {url}.")
    return open_broker(url)


# The group


def commands(find: Callable[[click.Context], Broker], *, options: Iterable[click.Option] = ()) -> click.Group:
    """The group ``quarantine`` with its commands.

    :param find: answers the broker, given the sub-command's context.
    :param options: of the group itself.
    """
    group = click.Group(
        "quarantine",
        params=[*options],
        help="Messages that cannot be worked on rest in quarantine, with the reason, until somebody requeues or drops them.",
        context_settings={"help_option_names": ["-h", "--help"]},
    )

    @group.command("list")
    @_chosen
    @click.option("-n", "--limit", type=click.IntRange(0), default=100, show_default=True, help="At most so many; 0: all.")
    @click.option("--json", "as_json", is_flag=True, help="A JSON array.")
    @click.pass_context
    def list_all(context: click.Context, task: str | None, queue: str | None, limit: int, as_json: bool) -> None:
        """What rests in quarantine, the oldest first."""
        with _explained():
            _list(_every(find(context), Choice(task, queue)), limit, as_json=as_json)

    @group.command("show")
    @click.argument("ids", metavar="ID…", nargs=-1, required=True)
    @click.option("--full", is_flag=True, help="Long bodies and texts whole.")
    @click.option("--json", "as_json", is_flag=True, help="A JSON array, with everything in it.")
    @click.pass_context
    def show(context: click.Context, ids: tuple[str, ...], full: bool, as_json: bool) -> None:
        """All that is known about these messages."""
        with _explained():
            _show(find(context), ids, full=full, as_json=as_json)

    @group.command("requeue")
    @_named
    @click.pass_context
    def requeue(context: click.Context, /, **names: Any) -> None:
        """Send messages to the ends of their queues, as if they had never been delivered."""
        with _explained():
            broker = find(context)
            _act(broker, Verb("requeue", "requeued", broker.requeue_quarantined), **names)

    @group.command("drop")
    @_named
    @click.pass_context
    def drop(context: click.Context, /, **names: Any) -> None:
        """Forget messages for ever."""
        with _explained():
            broker = find(context)
            _act(broker, Verb("drop", "dropped", broker.drop_quarantined), **names)

    return group


def _chosen(function: F) -> F:
    """Options that choose among all."""
    for option in (
        click.option("-q", "--queue", metavar="NAME", help="Of this queue only."),
        click.option("-t", "--task", metavar="NAME", help="For this task only."),
    ):
        function = option(function)
    return function


def _named(function: F) -> F:
    """Arguments and options that name messages to do something about."""
    for option in (
        click.option("-y", "--yes", is_flag=True, help="Do not ask."),
        _chosen,
        click.option("--all", "everything", is_flag=True, help="All of them; asks first."),
        click.argument("ids", metavar="[ID]…", nargs=-1),
    ):
        function = option(function)
    return function


@contextmanager
def _explained() -> Iterator[None]:
    """Errors of ours end the command with their sentence."""
    try:
        yield
    except JumpstarterError as error:
        raise click.ClickException(report.plain(str(error))) from error
    except NotImplementedError as error:
        raise click.ClickException("this broker keeps no quarantine that can be looked into.") from error


# Finding


@dataclass(frozen=True, slots=True)
class Choice:
    """Which messages are meant; None for any."""

    task: str | None = None
    queue: str | None = None

    def includes(self, one: Quarantined) -> bool:
        """The message is meant."""
        is_of_task = self.task is None or report.header(one, "task") == self.task
        return is_of_task and self.queue in (None, one.queue)


def _every(broker: Broker, choice: Choice) -> Iterator[Quarantined]:
    after = ""
    while page := broker.quarantined(limit=_AT_ONCE, after=after):
        yield from filter(choice.includes, page)
        after = page[-1].id


def _found(broker: Broker, ids: Iterable[str]) -> dict[str, Quarantined]:
    """Those of the ids that rest, by id. Looks no further than it must."""
    wanted, found = set(ids), {}
    for one in _every(broker, Choice()):
        if one.id in wanted:
            found[one.id] = one
            if len(found) == len(wanted):
                break
    return found


# What the commands do


def _list(resting: Iterator[Quarantined], limit: int, *, as_json: bool) -> None:
    shown = list(islice(resting, limit or None))
    if as_json:
        click.echo(json.dumps([report.record(one, full=False) for one in shown], indent=2, default=repr))
    elif shown:
        width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
        click.echo(report.table(shown, now=time.time(), width=width))
    else:
        click.echo("nothing rests in quarantine", err=True)
    if next(resting, None) is not None:
        click.echo(f"there is more: these are the first {limit}, see --limit", err=True)


def _show(broker: Broker, ids: Sequence[str], *, full: bool, as_json: bool) -> None:
    found = _found(broker, ids)
    shown = [found[one] for one in dict.fromkeys(ids) if one in found]
    if as_json:
        click.echo(json.dumps([report.record(one, full=True) for one in shown], indent=2, default=repr))
    elif shown:
        click.echo(f"\n\n{'─' * 20}\n".join(report.page(one, now=time.time(), full=full) for one in shown))
    _end(_trouble("nothing rests under this id", [one for one in dict.fromkeys(ids) if one not in found]))


@dataclass(frozen=True, slots=True)
class Verb:
    """Something to do about messages: its name, the name of what was done, and how; ``act`` answers how many it found."""

    name: str
    past: str
    act: Callable[[Sequence[str]], int]


def _act(
    broker: Broker, verb: Verb, *, ids: tuple[str, ...], everything: bool, task: str | None, queue: str | None, yes: bool
) -> None:
    if everything == bool(ids):
        raise click.UsageError("name the messages by their ids, or say --all: one of the two.")
    if (task or queue) and not everything:
        raise click.UsageError("--task and --queue choose among --all; ids are taken as they are.")
    # Told before anything is done, so that what a requeued message comes back as is not requeued again.
    meant = {one.id: one for one in _every(broker, Choice(task, queue))} if everything else _found(broker, ids)
    if everything and meant and not yes:
        _ask(f"{verb.name} {_messages(len(meant))}?")
    names = list(meant)
    done = sum(verb.act(names[first : first + _AT_ONCE]) for first in range(0, len(names), _AT_ONCE))
    click.echo(f"{_messages(done)} {verb.past}")
    troubles = []
    if done < len(names):
        staying = _found(broker, names)
        troubles += _trouble("no message, so no queue takes it (show it, or drop it)", staying)
        troubles += ["somebody else was faster with some of these."] if done + len(staying) < len(names) else []
    _end([*troubles, *_trouble("nothing rests under this id", [one for one in dict.fromkeys(ids) if one not in meant])])


def _ask(question: str) -> None:
    try:
        said_yes = click.confirm(question[0].upper() + question[1:])
    except click.exceptions.Abort as error:
        raise click.ClickException("nobody answered, so nothing was done. Say --yes where nobody can.") from error
    if not said_yes:
        raise click.ClickException("nothing was done.")


def _trouble(why: str, ids: Iterable[str]) -> list[str]:
    """A sentence about these, if there are any."""
    named = ", ".join(report.plain(one) for one in ids)
    return [f"{why}: {named}."] if named else []


def _end(troubles: Sequence[str]) -> None:
    """Fail with these sentences, if there are any."""
    if troubles:
        raise click.ClickException("\n       ".join(troubles))


def _messages(count: int) -> str:
    return f"{count:,} message" if count == 1 else f"{count:,} messages"
