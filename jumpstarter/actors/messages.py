"""The three kinds of messages, as *Enterprise Integration Patterns* has them: do this; this happened; here is data.

A message is a class of its own with annotated fields; it becomes a frozen dataclass by being defined. Knows: nobody but itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic, TypeVar, dataclass_transform

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


class Event(Message):
    """Something happened: ``class UserRegistered(Event): name: str``. Whoever is interested handles it; nobody answers."""


class Document(Message):
    """Here is data, for whom it may concern: ``class Report(Document): rows: list[int]``. What is done with it is the receiver's
    business."""
