"""Kombu's exchanges on Redis, as far as remote control needs them: hear what is said on a fanout exchange, and send to the queues
that are bound to a direct one. Comes from: broker.

A fanout exchange is a channel: who does not listen misses what is said, and nothing is kept. A direct one is a set of bindings,
made by whoever listens; see :func:`jumpstarter.brokers.redis.layout.bound_queues`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final

from jumpstarter._redis import Link, LinkDown, Links
from jumpstarter.brokers.redis import layout
from jumpstarter.errors import BrokerUnavailable
from jumpstarter.jobs import Envelope

__all__ = ("Subscription", "fanout_channel")

#: Seconds of silence after which the server is asked whether it is still there: a firewall that forgets a connection tells nobody.
_SILENCE: Final = 30.0
#: Seconds for its answer, and for the one to the subscription.
_ANSWER: Final = 5.0


def fanout_channel(exchange: str, *, database: int, prefix: str | bool, key_prefix: str) -> str:
    """The channel of a fanout exchange.

    :param prefix: Kombu's ``fanout_prefix``: True for its ``/{db}.``, False for none, or another one.
    """
    before = "/{db}." if prefix is True else prefix or ""
    return f"{key_prefix}{before.format(db=database)}{exchange}"


class Subscription:
    """What is said on a channel from now on. A connection of its own, used by one thread at a time; close it.

    :raises BrokerUnavailable: it cannot be opened.
    :raises BrokerError: the server refuses.
    """

    def __init__(self, links: Links, channel: str) -> None:
        self._links = links
        self._channel = channel
        self._heard_at = time.monotonic()
        self._is_asked = False
        self._link = self._open()

    def _open(self) -> Link:
        deadline = time.monotonic() + self._links.timeout
        try:
            link = self._links.open(deadline)
            (reply,) = link.exchange([["SUBSCRIBE", self._channel]], deadline)
        except LinkDown as error:
            raise self._links.down(error) from error
        try:
            self._links.check(reply)
        except Exception:
            link.close()
            raise
        return link

    def next(self, seconds: float, on_fault: Callable[[Exception], object]) -> Envelope | None:
        """What is said next, or None when nothing is for so many seconds, or no message: ``on_fault`` is then told what is wrong.

        :raises BrokerUnavailable: the connection broke, and what is said meanwhile is missed.
        """
        try:
            if not self._link.ready(seconds):
                self._ask_whether_it_lives()
                return None
            reply = self._link.receive(time.monotonic() + _ANSWER)
        except LinkDown as error:
            raise self._links.down(error) from error
        self._heard_at, self._is_asked = time.monotonic(), False
        if not _is_message(reply):
            return None
        delivery = layout.decode(reply[2], tag="", queue=self._channel, epoch=0)
        if delivery.fault is not None:
            on_fault(delivery.fault)
        return delivery.envelope

    def _ask_whether_it_lives(self) -> None:
        now = time.monotonic()
        if now - self._heard_at < _SILENCE:
            return
        if not self._is_asked:
            self._link.send(b"PING\r\n", now + _ANSWER)
            self._is_asked = True
        elif now - self._heard_at > _SILENCE + _ANSWER:
            self._link.close()
            raise BrokerUnavailable(self._links.address.url, "a subscription gets no answers any more")

    def close(self) -> None:
        self._link.close()


def _is_message(reply: Any) -> bool:
    """Whether it is no answer to a command of ours."""
    return isinstance(reply, list) and len(reply) == 3 and reply[0] == b"message"
