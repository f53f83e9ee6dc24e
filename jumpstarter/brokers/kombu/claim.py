"""An unacked message. Neighbours: sessions, refresh."""

from __future__ import annotations

from dataclasses import dataclass

from jumpstarter.brokers.kombu import wire


@dataclass(slots=True, eq=False)
class Claim:
    """An unacked message.

    :ivar number: the delivery tag; changes when the claim is refreshed.
    :ivar since: monotonic seconds of its delivery.
    :ivar tag: under which it was handed out, or empty.
    :ivar count: deliveries without an outcome before this one.
    """

    message: wire.Message
    queue: str
    number: int
    since: float
    tag: str = ""
    count: int = 0
    epoch: int = 0
