"""What others hold of an actor: tell it, ask it, stop it. Comes from: actor, users. Goes to: the actor's desk.

The same words work for an actor in another process (:mod:`jumpstarter.remote`).
"""

from __future__ import annotations

import difflib
import threading
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import anyio

from jumpstarter.actors.desk import Desk
from jumpstarter.actors.letters import Letter, Reply
from jumpstarter.actors.messages import Command, Message
from jumpstarter.actors.signals import make_signal
from jumpstarter.errors import AskTimeout, NotHandled

if TYPE_CHECKING:
    from jumpstarter.actors.host import Host

R = TypeVar("R")

#: Seconds that an ``ask`` waits for its answer if it does not say otherwise.
ASK_TIMEOUT = 30.0


class Ref(Protocol):
    """An actor, wherever it is."""

    @property
    def name(self) -> str:
        """The actor's name."""

    async def tell(self, message: Message) -> None:
        """Put the message into the actor's mailbox. Waits for room if the mailbox is full and its policy is to wait."""

    async def ask(self, message: Command[R], *, timeout: float = ASK_TIMEOUT) -> R:  # noqa: ASYNC109 - a deadline is part of asking
        """Put the command into the actor's mailbox and wait for the answer, for at most ``timeout`` seconds."""


class ActorRef:
    """An actor in this process. From any thread; ``tell`` and ``ask`` from any event loop."""

    __slots__ = ("_host",)

    def __init__(self, host: Host) -> None:
        self._host = host

    @property
    def name(self) -> str:
        """The actor's name."""
        return self._host.name

    async def tell(self, message: Message) -> None:
        """Put the message into the actor's mailbox. Waits for room if the mailbox is full and its policy is to wait; otherwise does
        not give way to other tasks. A message for an actor that has stopped becomes a dead letter.

        :raises NotHandled: the actor's class has no handler for it.
        :raises MailboxFull: the policy is to reject, or the actor would wait for itself.
        """
        desk, letter = desk_for(self._host, message), Letter(message)
        if not desk.offer(letter):
            await desk.put(letter)

    def tell_nowait(self, message: Message) -> None:
        """As :meth:`tell`, without waiting: from any thread, from hooks and signal handlers.

        :raises NotHandled: the actor's class has no handler for it.
        :raises MailboxFull: there is no room, and the policy is not to drop something.
        """
        desk_for(self._host, message).put_nowait(Letter(message))

    async def ask(self, message: Command[R], *, timeout: float = ASK_TIMEOUT) -> R:  # noqa: ASYNC109 - a deadline is part of asking
        """Put the command into the actor's mailbox and wait for the answer, for at most ``timeout`` seconds.

        What the handler raises is raised here. When the time is over the message is not handled any more, if it was not yet.

        :raises AskTimeout: no answer in time.
        :raises ActorStopped: the actor is not there, or stopped before it answered.
        :raises Rejected: its handler does not take the message in this state.
        :raises CircuitOpen: its handler failed too often of late.
        :raises HandlingCancelled: the handler was cancelled.
        :raises NotHandled: the actor's class has no handler for it.
        :raises MailboxFull: the policy is not to wait.
        """
        answer: R = await ask(self._host, message, timeout)
        return answer

    def __repr__(self) -> str:
        return f"<ref to {self._host.name!r}: {self._host.state}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ActorRef) and self._host is other._host

    def __hash__(self) -> int:
        return hash(self._host)


def desk_for(host: Host, message: Message) -> Desk:
    """The desk that handles such messages.

    :raises NotHandled: there is none.
    """
    desk, table = host.desk, host.plan.handlers
    if desk is None or table.find(type(message)) is None:
        handled = [kind.__name__ for handler in table.handlers for kind in handler.spec.messages]
        kind = type(message).__name__
        close = difflib.get_close_matches(kind, handled, n=1)
        raise NotHandled(host.name, kind, f"{', '.join(handled)}" + (f" (did you mean {close[0]}?)" if close else ""))
    return desk


async def ask(host: Host, message: Any, seconds: float) -> Any:
    """See :meth:`ActorRef.ask`."""
    desk = desk_for(host, message)
    service = host.service
    if service is None or service.task_group is None:
        return await _ask_slowly(host, desk, message, seconds)
    deadlines = service.deadlines
    if deadlines.is_closed or deadlines.thread != threading.get_ident():
        return await _ask_slowly(host, desk, message, seconds)
    reply = Reply(deadlines.make_signal())
    if not desk.offer(Letter(message, reply)):
        return await _ask_slowly(host, desk, message, seconds)
    # Nobody has had a turn since, so no answer can have come before its deadline is noted.
    deadlines.add(service.task_group, reply, seconds, host.name, message)
    try:
        return await reply.wait()
    finally:
        deadlines.discard(reply, seconds)


async def _ask_slowly(host: Host, desk: Desk, message: Any, seconds: float) -> Any:
    """From another event loop, before anybody serves the actor, where there is no room, and the first letter of all."""
    reply = Reply(make_signal())
    try:
        with anyio.CancelScope(deadline=anyio.current_time() + seconds) as scope:
            await desk.put(Letter(message, reply))
            return await reply.wait()
    finally:
        reply.is_over = True
    assert scope.cancelled_caught
    raise AskTimeout(host.name, message, seconds)
