"""Errors of publishing, which are kombu's OperationalError as well. Found in: exceptions, which imports this when one is needed."""

from __future__ import annotations

from kombu.exceptions import OperationalError

__all__ = ("NotPublished", "OperationalError", "PublishError", "PublishUnconfirmed")


class PublishError(OperationalError):  # type: ignore[misc] # kombu has no annotations
    """A call could not be published in time. Which of the two it is tells whether it may be published again.

    :ivar sent: ids of the tasks of the same bulk that were sent before; empty where one call was published alone.
    """

    __module__ = "celery.exceptions"

    sent: tuple[str, ...] = ()

    def __str__(self) -> str:
        text = super().__str__()
        return f"{text} The first {len(self.sent)} messages of the bulk were sent before." if self.sent else text


class NotPublished(PublishError):
    """Nothing was sent: it may be published again."""

    __module__ = "celery.exceptions"


class PublishUnconfirmed(PublishError):
    """It was sent, and no answer came: whether it arrived is unknown, and whoever publishes it again may publish it twice."""

    __module__ = "celery.exceptions"
