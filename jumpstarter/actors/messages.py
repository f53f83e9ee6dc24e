"""The three kinds of messages, as *Enterprise Integration Patterns* has them: do this; this happened; here is data.

A message is a class of its own with annotated fields; it becomes a frozen dataclass by being defined. Events know that there may be
an exchange through which they go to other processes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar, dataclass_transform

from jumpstarter.errors import ActorError

R_co = TypeVar("R_co", covariant=True)


@dataclass_transform(frozen_default=True)
class Message:
    """What all messages have in common. Subclass :class:`Command`, :class:`Event` or :class:`Document`.

    The subclass is made a frozen dataclass: fields in order of their annotation, compared and hashed by value.
    """

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        dataclass(frozen=True)(cls)


class Command(Message, Generic[R_co]):
    """Do something, and answer with an ``R``: ``class GetItem(Command[Item]): id: int``. The answer is what ``ask`` returns.

    Without an answer it is a ``Command[None]``.
    """


class Exchange(Protocol):
    """What events go through between processes: a running :class:`~jumpstarter.remote.PostOffice`."""

    async def publish(self, event: Event) -> None:
        """Let every group know."""

    async def subscribe(self, event: type[Event], subscriber: Any, *, group: str) -> str:
        """Have every such event handled once by this group."""

    async def unsubscribe(self, event: type[Event], *, group: str) -> None:
        """End the group."""


_exchange: Exchange | None = None


def set_exchange(exchange: Exchange | None, *, only: Exchange | None = None) -> None:
    """Events go through this one from now on.

    :param only: do so only if they went through that one until now.
    """
    global _exchange  # noqa: PLW0603 - one per process, as a message says nothing of where it goes
    if only is None or _exchange is only:
        _exchange = exchange


class Event(Message):
    """Something happened: ``class UserRegistered(Event): name: str``. Whoever is interested handles it; nobody answers."""

    async def publish(self) -> None:
        """Let every group know that has subscribed to this class of events, in whatever process.

        :raises ActorError: no :class:`~jumpstarter.remote.PostOffice` runs in this process.
        """
        await _the_exchange(type(self)).publish(self)

    @classmethod
    async def subscribe(cls, subscriber: Any, *, group: str) -> str:
        """Have every event of this class handled once by this group; see :meth:`jumpstarter.remote.PostOffice.subscribe`.

        :param subscriber: an actor that handles it, or a Celery task.
        """
        return await _the_exchange(cls).subscribe(cls, subscriber, group=group)

    @classmethod
    async def unsubscribe(cls, *, group: str) -> None:
        """End the group, with what waits for it."""
        await _the_exchange(cls).unsubscribe(cls, group=group)


def _the_exchange(kind: type[Event]) -> Exchange:
    if _exchange is None:
        raise ActorError(f"{kind.__name__}: no post office runs in this process; host a jumpstarter.remote.PostOffice first")
    return _exchange


class Document(Message):
    """Here is data, for whom it may concern: ``class Report(Document): rows: list[int]``. What is done with it is the receiver's
    business."""
