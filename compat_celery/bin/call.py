"""``celery call``, ``result`` and ``purge``: one task from the shell, its result, and empty queues."""

from __future__ import annotations

import json
from typing import Any

import click

from compat_celery.bin.base import CLIContext, CommaSeparatedList, Failure, import_modules, pass_context

__all__ = ("call", "purge", "result")


class JsonValue(click.ParamType[Any]):
    """A value written as JSON."""

    name = "json"

    def __init__(self, kind: type, shown: str) -> None:
        self._kind = kind
        self._shown = shown

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        try:
            found = json.loads(value)
        except ValueError as error:
            self.fail(f"{value!r} is no JSON: {error}", param, ctx)
        if not isinstance(found, self._kind):
            self.fail(f"{value!r} is no JSON {self._shown}", param, ctx)
        return found


@click.command(name="call")
@click.argument("name")
@click.option("-a", "--args", type=JsonValue(list, "list"), default="[]", help="Positional arguments, a JSON list.")
@click.option("-k", "--kwargs", type=JsonValue(dict, "object"), default="{}", help="Keyword arguments, a JSON object.")
@click.option("--countdown", type=float, help="Seconds from now.")
@click.option("--queue", help="Queue instead of the routed one.")
@click.option("--priority", type=int, help="0 to 9.")
@pass_context
def call(context: CLIContext, /, name: str, args: list[Any], kwargs: dict[str, Any], **options: Any) -> None:
    """Call a task by its name and print its id."""
    app = context.app()
    given = {option: value for option, value in options.items() if value is not None}
    click.echo(app.send_task(name, args=args, kwargs=kwargs, **given).id)


@click.command(name="result")
@click.argument("task_id")
@click.option("--traceback", is_flag=True, help="Show the traceback instead.")
@pass_context
def result(context: CLIContext, /, task_id: str, traceback: bool) -> None:
    """Print the result of the task with this id; wait for it."""
    found = context.app().AsyncResult(task_id)
    click.echo(found.traceback if traceback else found.get(propagate=False))


@click.command(name="purge")
@click.option("-f", "--force", is_flag=True, help="Do not ask.")
@click.option("-Q", "--queues", type=CommaSeparatedList(), help="These queues; the app's own if not given.")
@pass_context
def purge(context: CLIContext, /, force: bool, queues: list[str] | None) -> None:
    """Drop all that waits in the queues. What workers have claimed stays theirs."""
    from compat_celery.apps.worker import queues_of  # noqa: PLC0415 - the alias comes first

    app = context.app()
    import_modules(app)
    names = queues_of(app, queues)
    if not force and not click.confirm(f"Drop all waiting messages of {', '.join(names)}?"):
        raise Failure("nothing was dropped")
    from compat_celery.app.publisher import broker_for  # noqa: PLC0415 - as above

    broker = broker_for(app)
    click.echo(f"{sum(broker.purge(name) for name in names)} message(s) dropped")
