"""How the mailbox of remote control hears and answers: on Redis by our own connections, on any other broker by Kombu's. Used by:
worker.pidbox.

Kombu's Redis transport would bring redis-py into the node's process, which needs it for nothing else: 13 MB. What is said on the
wire is the same.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, Protocol

from kombu.exceptions import ContentDisallowed, DecodeError, KombuError
from kombu.pidbox import Node
from kombu.serialization import dumps, loads, prepare_accept_content

from compat_celery.app.publisher import broker_for
from jumpstarter.errors import BrokerError
from jumpstarter.jobs import Envelope

__all__ = ("KombuMail", "Mail", "RedisMail", "mail_of")

#: What a command is given to: its decoded body and what carries its headers, and the node that knows how to answer.
OnCommand = Callable[[Node, Any, Any], None]
OnFault = Callable[[Exception], object]
#: Seconds for which replies are kept that nobody fetches, where ``control_queue_expires`` says nothing.
_KEPT = 10.0


class Mail(Protocol):
    """One connection to the broker after the other, each until it breaks."""

    #: What says that it broke.
    errors: tuple[type[BaseException], ...]

    def open(self, app: Any, state: Any, on_command: OnCommand, on_fault: OnFault) -> contextlib.AbstractContextManager[Any]:
        """A context whose value takes a number of seconds: it waits that long for a command, and hands it over."""


def mail_of(app: Any) -> Mail:
    """The way that the app's broker wants."""
    return RedisMail() if hasattr(broker_for(app), "listen") else KombuMail(app)


class KombuMail:
    """Kombu's mailbox."""

    def __init__(self, app: Any) -> None:
        connection = app.connection_for_read()
        self.errors: tuple[type[BaseException], ...] = (
            *(OSError, KombuError),
            *(*connection.connection_errors, *connection.channel_errors),
        )

    @contextlib.contextmanager
    def open(self, app: Any, state: Any, on_command: OnCommand, on_fault: OnFault) -> Any:
        with app.connection_for_read() as connection:
            node = app.control.mailbox.Node(state.hostname, handlers=state.handlers, state=state, channel=connection.channel())
            listener = node.listen(callback=lambda body, message: on_command(node, body, message))
            listener.on_decode_error = lambda message, error: _drop(message, error, on_fault)

            def wait(seconds: float) -> None:
                with contextlib.suppress(socket.timeout):
                    connection.drain_events(timeout=seconds)

            try:
                # On Redis, Kombu subscribes when it looks for the first time, and what was said before is gone.
                wait(_FIRST_LOOK)
                yield wait
            finally:
                with contextlib.suppress(Exception):
                    listener.cancel()


_FIRST_LOOK = 0.1


def _drop(message: Any, error: Exception, on_fault: OnFault) -> None:
    on_fault(error)
    with contextlib.suppress(Exception):
        message.ack()


class _RedisNode(Node):  # type: ignore[misc] # kombu has no annotations
    """Kombu's node, but for the way on which it answers."""

    def reply(self, data: Any, exchange: str, routing_key: str, ticket: str, **_: Any) -> None:
        mailbox = self.mailbox
        content_type, encoding, body = dumps(data, serializer=mailbox.serializer)
        envelope = Envelope(
            queue=routing_key,
            body=body.encode() if isinstance(body, str) else body,
            headers={"ticket": ticket, "clock": mailbox.clock.forward()},
            properties={"delivery_mode": 1},
            content_type=content_type,
            content_encoding=encoding,
            exchange=exchange,
            routing_key=routing_key,
        )
        self.channel.answer(envelope, ttl=mailbox.reply_queue_expires or _KEPT)


class RedisMail:
    """The same through our own connections."""

    errors: tuple[type[BaseException], ...] = (OSError, BrokerError)

    @contextlib.contextmanager
    def open(self, app: Any, state: Any, on_command: OnCommand, on_fault: OnFault) -> Any:
        broker: Any = broker_for(app)
        mailbox = app.control.mailbox
        accept = prepare_accept_content(mailbox.accept)
        node = _RedisNode(state.hostname, handlers=state.handlers, state=state, channel=broker, mailbox=mailbox)

        def wait(seconds: float) -> None:
            envelope = subscription.next(seconds, on_fault)
            if envelope is None:
                return
            try:
                body = loads(envelope.body, envelope.content_type, envelope.content_encoding, accept=accept)
            except (ContentDisallowed, DecodeError) as error:
                on_fault(error)
                return
            on_command(node, body, SimpleNamespace(headers=envelope.headers))

        with contextlib.closing(broker.listen(mailbox.exchange.name)) as subscription:
            yield wait
