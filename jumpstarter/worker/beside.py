"""Run an actor, and beside it what serves it for as long as it lives: signal watchers, links, announcers."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

import anyio

from jumpstarter.actors import Actor, run
from jumpstarter.errors import ActorCrashed, ActorError


async def run_beside(actor: Actor, *companions: Callable[[], Coroutine[Any, Any, Any]]) -> None:
    """Run the actor until it has stopped; the companions are cancelled then.

    :raises ActorCrashed: it crashed; the reason is the ``__cause__``.
    """
    crash: ActorCrashed | None = None
    async with anyio.create_task_group() as group:
        for companion in companions:
            group.start_soon(companion)
        try:
            await run(actor)
        except ActorCrashed as error:
            crash = error  # raised outside of the group, which would wrap it
        group.cancel_scope.cancel()
    if crash is not None:
        raise crash


def reasons(error: BaseException) -> str:
    """An error and its causes in one sentence, the outermost first."""
    sentences = [str(error) or type(error).__name__]
    while error.__cause__ is not None:
        error = error.__cause__
        sentences.append(str(error) or type(error).__name__)
    return ": ".join(sentences)


async def once_started(actor: Actor, announce: Callable[[], object]) -> None:
    """Call ``announce`` when the actor has started; not at all when it crashes or stops before."""
    try:
        await actor.wait("started")
    except ActorError:
        return
    announce()
