"""What is done with each delivery: to the mailbox of an actor, to a Celery task, or through a transformer into another message.

Comes from: receiver. A message that its actor could not take (it stops, it is full) goes back to its queue; one whose handler
failed rests in quarantine, where a person finds it with the reason.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from anyio.to_thread import run_sync

from jumpstarter.actors.actor import Actor
from jumpstarter.actors.letters import Letter, Reason, Reply
from jumpstarter.actors.messages import Message
from jumpstarter.actors.ref import ActorRef
from jumpstarter.errors import MessageError, NotHandled
from jumpstarter.jobs import Delivery, Envelope
from jumpstarter.remote.codec import decode, encode, name_of
from jumpstarter.remote.post import ERROR, EXPIRES, ID, KIND, REPLY_TO
from jumpstarter.remote.receiver import Deliver, Receipt

#: Reasons of dead letters that are nobody's fault: the message is delivered again.
_AGAIN = frozenset({"stopped", "full", "cancelled"})


class RemoteLetter(Letter):
    """A letter from another process: whoever sent it learns what became of it through the broker.

    :ivar id: the message's; the same at every delivery.
    """

    __slots__ = ("id", "receipt")

    def __init__(self, message: Message, id: str, receipt: Receipt, reply: Reply | None) -> None:  # noqa: A002 - a message's id
        super().__init__(message, reply)
        self.id = id
        self.receipt: Receipt | None = receipt

    def handled(self) -> None:
        """It was, and was told: asked ones are settled with their answer."""
        if self.reply is None:
            self._take().done()

    def died(self, reason: Reason, error: BaseException | None) -> None:
        """It reached nobody."""
        if self.receipt is None:
            return
        if reason in _AGAIN:
            self._take().back()
        elif self.reply is None or reason == "expired":
            receipt = self._take()
            receipt.failed(error or reason) if reason != "expired" else receipt.done()

    def _take(self) -> Receipt:
        receipt, self.receipt = self.receipt, None
        assert receipt is not None
        return receipt


class RemoteReply(Reply):
    """The answer to a question from another process."""

    __slots__ = ("_expires", "_headers", "_is_answered", "_letter")

    def __init__(self, envelope: Envelope) -> None:
        self._headers = envelope.headers
        self._expires = float(envelope.headers.get(EXPIRES) or 0)
        self._is_answered = False
        self._letter: RemoteLetter
        self.value = None
        self.error = None

    @property
    def is_over(self) -> bool:  # type: ignore[override]  # there it is a slot
        """Answered, or nobody waits any more."""
        return self._is_answered or time.time() > self._expires

    def belongs_to(self, letter: RemoteLetter) -> None:
        """Whose receipt is settled with the answer."""
        self._letter = letter

    def answer(self, value: Any) -> None:
        self._send(encode(value), {})

    def fail(self, error: BaseException) -> None:
        if self._letter.receipt is not None:
            self._send(encode(str(error)), {ERROR: type(error).__name__})

    def _send(self, body: bytes, headers: dict[str, str]) -> None:
        if self._is_answered or self._letter.receipt is None:
            return
        self._is_answered = True
        number = str(self._headers[ID])
        answer = Envelope(
            queue=str(self._headers[REPLY_TO]),
            body=body,
            headers={KIND: "answer", ID: number, **headers},
            properties={"correlation_id": number},
        )
        self._letter._take().done([answer])


def to_actor(actor: Actor | ActorRef) -> Deliver:
    """Into the mailbox of an actor."""
    host = actor._host
    kinds = {name_of(kind): kind for handler in host.plan.handlers.handlers for kind in handler.spec.messages}
    if host.desk is None:
        raise NotHandled(host.name, "any message", "")
    desk = host.desk

    async def deliver(delivery: Delivery, receipt: Receipt) -> None:
        envelope = delivery.envelope
        assert envelope is not None
        try:
            message = decoded(envelope, kinds)
        except MessageError as error:
            receipt.failed(error)
            return
        reply = RemoteReply(envelope) if envelope.headers.get(REPLY_TO) else None
        letter = RemoteLetter(message, str(envelope.headers.get(ID, "")), receipt, reply)
        if reply is not None:
            reply.belongs_to(letter)
        await desk.put(letter)

    return deliver


def to_task(task: Any, kinds: Iterable[type[Message]], group: str) -> Deliver:
    """Into a Celery task, with the message's fields as its named arguments. The task's id follows from the message's, so that a
    message which is delivered twice makes a task of the same id."""
    known = {name_of(kind): kind for kind in kinds}

    async def deliver(delivery: Delivery, receipt: Receipt) -> None:
        assert delivery.envelope is not None
        try:
            message = decoded(delivery.envelope, known)
            number = str(uuid.uuid5(uuid.NAMESPACE_OID, f"{group}:{delivery.envelope.headers.get(ID)}"))
            await run_sync(lambda: task.apply_async(kwargs=vars(message), task_id=number))
        except MessageError as error:
            receipt.failed(error)
        except Exception as error:  # noqa: BLE001 - whatever the publish of a task raises: it is tried again
            receipt.back() if delivery.attempt < 3 else receipt.failed(error)
        else:
            receipt.done()

    return deliver


def through(
    transform: Callable[[Any], Any], kinds: Iterable[type[Message]], tell: Callable[[Message, str], Awaitable[None]]
) -> Deliver:
    """Through a function that makes the next command of a document (or none), into whoever handles that."""
    known = {name_of(kind): kind for kind in kinds}

    async def deliver(delivery: Delivery, receipt: Receipt) -> None:
        assert delivery.envelope is not None
        try:
            command = transform(decoded(delivery.envelope, known))
        except Exception as error:  # noqa: BLE001 - the transformer is the user's
            receipt.failed(error)
            return
        if command is not None:
            await tell(command, f"{delivery.envelope.headers.get(ID)}/{delivery.queue}")
        receipt.done()

    return deliver


def decoded(envelope: Envelope, kinds: dict[str, type[Any]]) -> Any:
    """The message.

    :raises MessageError: it is of a class that the receiver does not know, or no such message.
    """
    name = str(envelope.headers.get(KIND, ""))
    kind = kinds.get(name)
    if kind is None:
        raise MessageError(f"nobody here handles {name!r}; there are {', '.join(sorted(kinds))}")
    return decode(kind, envelope.body)
