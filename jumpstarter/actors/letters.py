"""A mailbox and what lies in it: letters, replies, and the letters that reach nobody. Used by: desk. Knows: signals.

A mailbox is bounded; what happens when it is full is its policy, stated where the actor's class is. Letters that were put aside
(stashed) count: there is one bound for all that waits.
"""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from jumpstarter.actors.signals import Signal
from jumpstarter.clock import SYSTEM_CLOCK
from jumpstarter.errors import ConfigurationError

logger = logging.getLogger(__name__)

WhenFull = Literal["wait", "reject", "drop_oldest", "drop_newest"]

#: Why a letter is dead. ``stopped``: the actor is not there (any more); ``rejected``: not in this state; ``full``: no room for it;
#: ``expired``: nobody waits for the answer any more; ``cancelled``: its handler was; ``error``: its handler failed.
Reason = Literal["stopped", "rejected", "full", "expired", "cancelled", "error"]


@dataclass(frozen=True, slots=True)
class Mailbox:
    """Options of an actor's mailbox: ``mailbox = Mailbox(100, when_full="drop_oldest")`` in its class.

    :ivar capacity: how many messages may wait, those included that were put aside.
    :ivar when_full: ``wait`` makes who tells wait for room (backpressure); ``reject`` raises
        :class:`~jumpstarter.errors.MailboxFull` there; ``drop_oldest`` and ``drop_newest`` make a dead letter of one and go on.
    """

    capacity: int = 1000
    when_full: WhenFull = "wait"

    def __post_init__(self) -> None:
        if self.capacity < 1:
            raise ConfigurationError(f"Mailbox: capacity={self.capacity!r} must be at least 1 message")
        if self.when_full not in ("wait", "reject", "drop_oldest", "drop_newest"):
            raise ConfigurationError(
                f"Mailbox: when_full={self.when_full!r} must be 'wait', 'reject', 'drop_oldest' or 'drop_newest'"
            )


class Reply:
    """Where the answer to an ``ask`` arrives. Made in the asker's loop, filled in from the actor's."""

    __slots__ = ("_signal", "error", "is_over", "value")

    def __init__(self, signal: Signal) -> None:
        self._signal = signal
        #: True once it was answered, or nobody waits any more.
        self.is_over = False
        self.value: Any = None
        self.error: BaseException | None = None

    def answer(self, value: Any) -> None:
        """With this; the first answer counts."""
        if not self.is_over:
            self.value, self.is_over = value, True
            self._signal.set()

    def fail(self, error: BaseException) -> None:
        """With an error."""
        if not self.is_over:
            self.error, self.is_over = error, True
            self._signal.set()

    async def wait(self) -> Any:
        """The answer, or raise the error."""
        try:
            await self._signal.wait()
        finally:
            self.is_over = True
        if self.error is None:
            return self.value
        try:
            raise self.error
        finally:
            self.error = None  # its traceback refers to this frame: a cycle


class Letter:
    """A message on its way, with the reply that somebody waits for, or None."""

    __slots__ = ("message", "reply")

    #: From another process, by which it can be recognised when it comes again.
    id: str

    def __init__(self, message: Any, reply: Reply | None = None) -> None:
        self.message = message
        self.reply = reply

    def handled(self) -> None:
        """It was. For letters from elsewhere."""

    def died(self, reason: Reason, error: BaseException | None) -> None:
        """It reached nobody. For letters from elsewhere."""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A message that was not handled.

    :ivar actor: the name of the actor that it was for.
    :ivar kind: that actor's class.
    :ivar at: wall time in seconds.
    """

    actor: str
    kind: str
    message: Any
    reason: Reason
    at: float
    error: BaseException | None = None


class DeadLetters:
    """The dead letters of all actors of this process: counted, the last ones kept, and shown to who subscribes. From any thread.

    :ivar counts: by class of the actor and reason.
    :ivar recent: the last hundred.
    """

    def __init__(self) -> None:
        self.counts: Counter[tuple[str, Reason]] = Counter()
        self.recent: deque[DeadLetter] = deque(maxlen=100)
        self._subscribers: tuple[Callable[[DeadLetter], object], ...] = ()

    def subscribe(self, subscriber: Callable[[DeadLetter], object]) -> Callable[[], None]:
        """Call it with every dead letter, in the thread where it died, until the returned function is called."""
        self._subscribers = (*self._subscribers, subscriber)

        def unsubscribe() -> None:
            self._subscribers = tuple(each for each in self._subscribers if each is not subscriber)

        return unsubscribe

    def add(self, letter: DeadLetter) -> None:
        """Count it, and tell."""
        self.counts[letter.kind, letter.reason] += 1
        self.recent.append(letter)
        logger.log(
            logging.WARNING if letter.error is not None else logging.INFO,
            "%s: dead letter (%s): %r",
            letter.actor,
            letter.reason,
            letter.message,
            exc_info=letter.error,
        )
        for subscriber in self._subscribers:
            try:
                subscriber(letter)
            except Exception:
                logger.exception("a subscriber of dead letters failed: %r", subscriber)


#: The dead letters of this process.
dead_letters = DeadLetters()


def dead_letter(actor: str, kind: str, message: Any, reason: Reason, error: BaseException | None = None) -> DeadLetter:
    """Made now."""
    return DeadLetter(actor, kind, message, reason, SYSTEM_CLOCK.now(), error)
