"""``celery inspect``, ``control`` and ``status``: ask workers, and tell them something. Over: ``app.control``, worker.control."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pprint import pformat
from typing import Any

import click
from kombu.utils.json import dumps

from compat_celery.bin.base import CLIContext, CommaSeparatedList, Failure, pass_context

__all__ = ("control", "inspect", "status")

#: What the shell gets when nobody has answered (``EX_UNAVAILABLE``), as in Celery.
NOBODY = 69


def _panel(kind: str) -> dict[str, Any]:
    """The commands of a kind, with what they say of themselves."""
    from compat_celery.worker.control import Panel  # noqa: PLC0415 - the alias comes first

    known = {name: info for name, info in Panel.meta.items() if info.type == kind and info.visible}
    return known | {info.alias: info for info in known.values() if info.alias}


def _shown(kind: str) -> str:
    commands = sorted({(name, info.signature or "", info.help or "") for name, info in _panel(kind).items() if name != info.alias})
    return "\n".join(f"{f'{name} {signature}'.strip():<60} {text}" for name, signature, text in commands)


def _arguments(kind: str, name: str, given: Sequence[str]) -> dict[str, Any]:
    """The words of a command line as the command's arguments.

    :raises Failure: there is no such command, or it does not take so many or such words.
    """
    info = _panel(kind).get(name)
    if info is None:
        raise Failure(f"there is no command {name!r} for {kind}. There are:\n{_shown(kind)}")
    named = list(info.args or ())
    rest = list(given[len(named) :])
    if rest and not info.variadic:
        raise Failure(f"{name} takes {len(named)} argument(s) at most: {info.signature or 'none'}")
    try:
        arguments = {argument: make(word) for (argument, make), word in zip(named, given, strict=False)}
    except (TypeError, ValueError) as error:
        raise Failure(f"{name} {info.signature or ''}: {error}") from error
    return arguments | ({info.variadic: rest} if rest else {})


def _ask(context: CLIContext, kind: str, name: str, given: Sequence[str], timeout: float | None, destination: Any) -> list[Any]:
    """The replies, each a mapping from the worker's name.

    :raises Failure: there is none.
    """
    app = context.app()
    arguments = _arguments(kind, name, given)
    seconds = timeout or _panel(kind)[name].default_timeout
    replies = app.control.broadcast(name, arguments=arguments, destination=destination, timeout=seconds, reply=True)
    if not replies:
        raise Failure("No nodes replied within time constraint", exit_code=NOBODY)
    return list(replies)


def _tell(replies: Iterable[dict[str, Any]], *, quiet: bool = False) -> None:
    for reply in replies:
        for node, value in sorted(reply.items()):
            failed = isinstance(value, dict) and "error" in value
            click.echo(f"->  {node}: {'ERROR' if failed else 'OK'}")
            if quiet:
                continue
            plain = value.get("error", value.get("ok", value)) if isinstance(value, dict) else value
            text = plain if isinstance(plain, str) else pformat(plain) if plain else "- empty -"
            click.echo("\n".join(f"    {line}" for line in text.splitlines()))


def _by_node(replies: Iterable[dict[str, Any]]) -> dict[str, Any]:
    return {node: reply for each in replies for node, reply in each.items()}


def _count(replies: Sequence[Any]) -> str:
    return f"\n{len(replies)} {'node' if len(replies) == 1 else 'nodes'} online."


_TIMEOUT = click.option("-t", "--timeout", type=float, help="Seconds to wait for replies.")
_DESTINATION = click.option("-d", "--destination", type=CommaSeparatedList(), help="Names of workers, separated by commas.")
_JSON = click.option("-j", "--json", "as_json", is_flag=True, help="Print JSON.")
_LIST = click.option("-l", "--list", "lists", is_flag=True, help="List the commands.")


@click.command(name="status")
@_TIMEOUT
@_DESTINATION
@_JSON
@pass_context
def status(context: CLIContext, /, timeout: float | None, destination: Any, as_json: bool) -> None:
    """Show the workers that are online."""
    replies = _ask(context, "inspect", "ping", (), timeout or 1.0, destination)
    if as_json:
        click.echo(dumps(_by_node(replies)))
        return
    _tell(replies, quiet=True)
    if not context.quiet:
        click.echo(_count(replies))


def _command(kind: str, text: str, *, merged: bool) -> click.Command:
    """``inspect`` or ``control``.

    :param merged: JSON is one object of all workers, as Celery has it for ``inspect``; else a list with one for each.
    """

    @click.command(name=kind, help=f"{text} … (--list shows all).", context_settings={"ignore_unknown_options": True})
    @click.argument("command", required=False)
    @click.argument("arguments", nargs=-1)
    @_TIMEOUT
    @_DESTINATION
    @_JSON
    @_LIST
    @pass_context
    def run(
        context: CLIContext,
        /,
        command: str | None,
        arguments: Sequence[str],
        timeout: float | None,
        destination: Any,
        as_json: bool,
        lists: bool,
    ) -> None:
        if lists or command is None:
            context.app()
            click.echo(_shown(kind))
            return
        replies = _ask(context, kind, command, arguments, timeout, destination)
        if as_json:
            click.echo(dumps(_by_node(replies) if merged else replies))
            return
        _tell(replies)
        if merged and not context.quiet:
            click.echo(_count(replies))

    return run


inspect = _command("inspect", "Ask workers: active, reserved, stats, registered", merged=True)
control = _command("control", "Tell workers: rate_limit, time_limit, revoke, enable_events, shutdown", merged=False)
