"""Two ways to run an actor: until it stops, or as long as a block lasts. Goes to: service."""

from __future__ import annotations

from functools import partial
from types import TracebackType
from typing import Generic, TypeVar

import anyio

from jumpstarter.actors.activities import unwrapped
from jumpstarter.actors.actor import Actor
from jumpstarter.actors.service import serve

A = TypeVar("A", bound=Actor)


async def run(actor: Actor) -> None:
    """Start the actor and run it until it has stopped. Cancelling stops it within its ``stop_grace``.

    :raises ActorCrashed: it crashed; the reason is the ``__cause__``.
    """
    try:
        await serve(actor._host, until_stopped=True)
    except ExceptionGroup as group:
        raise unwrapped(group) from None
    actor._raise_crash()


class hosted(Generic[A]):  # noqa: N801 - used as a function: async with hosted(actor)
    """Run an actor as long as a block lasts: it has started when the block begins, and has stopped when the block is left.

    Inside the block it may be stopped, started and restarted at will. A crash does not cancel the block; it is raised at its end,
    unless the block raises something itself. ``async with hosted(Poller()) as poller: ...``

    :raises ActorCrashed: on entering, when it fails to start; on leaving, when it crashed or crashes.
    """

    def __init__(self, actor: A) -> None:
        self._actor = actor
        self._task_group = anyio.create_task_group()

    async def __aenter__(self) -> A:
        await self._task_group.__aenter__()
        try:
            await self._task_group.start(partial(serve, self._actor._host, until_stopped=False))
            await self._actor.start()
        except BaseException as error:
            # Left as a task group is left: what is cancelled or interrupted must find its way out through it.
            if not await self.__aexit__(type(error), error, error.__traceback__):
                raise
        return self._actor

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        if error is not None and not isinstance(error, Exception):
            # Cancelled: the task group cancels the host, which stops the actor within its grace.
            return await self._task_group.__aexit__(kind, error, trace)
        self._actor._host.close()
        try:
            await self._task_group.__aexit__(None, None, None)
        except ExceptionGroup as group:
            raise unwrapped(group) from None
        if error is None:
            self._actor._raise_crash()
        return None
