"""``jumpstarter pipeline run module:Class`` and ``jumpstarter pipeline status module:Class``.

``run`` works until it is stopped (Ctrl-C and SIGTERM let the batch in hand finish), or until nothing is left; its progress is on
the terminal meanwhile, its report at the end, and ``jumpstarter actors`` shows its stages. ``status`` asks the store, from
anywhere. ``module:flow`` names pipelines that were connected: ``flow = Answer >> Upload``.

====  ==============================================
exit  means
====  ==============================================
0     it ended as it should
1     it crashed
2     the command was misspelt, or names no pipeline
====  ==============================================
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack
from importlib import import_module
from typing import Any

import anyio
import anyio.to_thread

from jumpstarter.actors import Window, hosted
from jumpstarter.errors import ActorCrashed, JumpstarterError
from jumpstarter.pipelines import Flow, Pipeline
from jumpstarter.pipelines.clocks import clock
from jumpstarter.pipelines.progress import look
from jumpstarter.telemetry import configure

#: Seconds between two looks: on a terminal, and where lines are kept.
_ON_TERMINAL, _IN_LOG = 1.0, 30.0


def main(argv: Sequence[str] | None = None) -> int:
    """Answer the exit code."""
    options = _parser().parse_args(argv)
    try:
        pipelines = find(options.pipeline)
    except LookupError as error:
        print(f"jumpstarter pipeline: {error.args[0]}", file=sys.stderr)
        return 2
    if options.command == "status":
        return _status(pipelines, as_json=options.json)
    try:
        with configure(" and ".join(each.__name__ for each in pipelines)):
            anyio.run(_run, pipelines, options, backend=options.backend)
    except ActorCrashed as error:
        print(f"jumpstarter pipeline: {error}: {error.__cause__!r}", file=sys.stderr)
        return 1
    except JumpstarterError as error:
        print(f"jumpstarter pipeline: {error}", file=sys.stderr)
        return 1
    return 0


def find(name: str) -> tuple[type[Pipeline], ...]:
    """The pipelines that ``module:attribute`` names.

    :raises LookupError: there is none; the message says what is wrong.
    """
    module, _, attribute = name.partition(":")
    if not attribute:
        raise LookupError(f"{name!r} must be module:Class")
    if os.getcwd() not in sys.path:  # noqa: PTH109 - as Python itself writes it there
        sys.path.insert(0, os.getcwd())  # noqa: PTH109 - as above
    try:
        found: Any = import_module(module)
    except ImportError as error:
        raise LookupError(f"module {module!r} cannot be imported: {error}") from error
    for part in attribute.split("."):
        found = getattr(found, part, None)
    if isinstance(found, Flow):
        return found.pipelines
    if isinstance(found, type) and issubclass(found, Pipeline):
        return (found,)
    raise LookupError(f"{name!r} is {found!r}, which is neither a pipeline class nor a flow")


async def _run(classes: Sequence[type[Pipeline]], options: argparse.Namespace) -> None:
    async with anyio.create_task_group() as group, AsyncExitStack() as stack:
        await _open_window(stack)
        pipelines = [await stack.enter_async_context(hosted(each(run_id=options.run_id))) for each in classes]
        group.start_soon(_stop_on_signal, pipelines)
        if not options.quiet:
            group.start_soon(_show, pipelines)
        for pipeline in pipelines:
            # In the order of the flow: what feeds the next one has nothing left when the next one is drained.
            await (pipeline.drain(options.until) if options.until != "stopped" else pipeline.wait_stopped())
        group.cancel_scope.cancel()
        if not options.quiet:
            for pipeline in pipelines:
                print("\n".join([f"{pipeline.kind}:", *(f"  {line}" for line in pipeline.report.lines(clock().now()))]))


async def _open_window(stack: AsyncExitStack) -> None:
    """For ``jumpstarter actors``; where its socket cannot be, the pipelines run all the same."""
    try:
        await stack.enter_async_context(hosted(Window(name="window")))
    except ActorCrashed as error:
        print(f"jumpstarter pipeline: `jumpstarter actors` will not show this process: {error.__cause__}", file=sys.stderr)


async def _stop_on_signal(pipelines: Sequence[Pipeline]) -> None:
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async for _ in signals:
            for pipeline in pipelines:
                pipeline.post("stop")


async def _show(pipelines: Sequence[Pipeline]) -> None:
    is_terminal = sys.stderr.isatty()
    every = _ON_TERMINAL if is_terminal else _IN_LOG
    before = [0] * len(pipelines)
    below = ""
    try:
        while True:
            await anyio.sleep(every)
            lines = []
            for number, pipeline in enumerate(pipelines):
                rate = (pipeline.report.done - before[number]) / every
                before[number] = pipeline.report.done
                lines.append((await anyio.to_thread.run_sync(look, pipeline, rate)).line())
            if is_terminal:
                # Each line anew, and the cursor back to the first one.
                print("".join(f"\x1b[2K{line}\n" for line in lines) + f"\x1b[{len(lines)}A", end="", file=sys.stderr, flush=True)
                below = "\n" * len(lines)
            else:
                print("\n".join(lines), file=sys.stderr, flush=True)
    finally:
        print(below, end="", file=sys.stderr, flush=True)  # the report begins below


def _status(pipelines: Sequence[type[Pipeline]], *, as_json: bool) -> int:
    found = [look(pipeline) for pipeline in pipelines]
    print(json.dumps([each.as_dict() for each in found], indent=2) if as_json else "\n".join(each.line() for each in found))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="jumpstarter pipeline", description="Run a pipeline, or ask how far it is.")
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="work, and show the progress")
    run.add_argument(
        "--until",
        choices=("stopped", "empty", "settled"),
        default="stopped",
        help="stopped: for ever; empty: until nothing waits; settled: until nothing would wait again (default: %(default)s)",
    )
    run.add_argument("--run-id", metavar="ID", help="names this run in events and idempotency keys")
    run.add_argument("--backend", choices=("asyncio", "trio"), default="asyncio")
    run.add_argument("--quiet", action="store_true", help="neither progress nor report")
    status = commands.add_parser("status", help="how far it is, by what its store says")
    status.add_argument("--json", action="store_true", help="for programs")
    for command in (run, status):
        command.add_argument("pipeline", metavar="MODULE:CLASS")
    return parser
