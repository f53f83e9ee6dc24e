"""Sending, without an event loop: from Celery tasks, scripts and threads. Goes to: the broker.

An envelope has the name of the message's class, an id that stays the same however often it is delivered, and for a question where
the answer goes and until when it is wanted.
"""

from __future__ import annotations

import functools
import time
import uuid
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from jumpstarter.abc.broker import Broker
from jumpstarter.actors.messages import Document, Event, Message
from jumpstarter.brokers import open_broker
from jumpstarter.jobs import Envelope
from jumpstarter.remote.codec import encode, name_of

Function = TypeVar("Function", bound=Callable[..., Any])

#: Headers of ours.
KIND, ID, REPLY_TO, EXPIRES, ERROR, PUBLISHED = (
    "jumpstarter-kind",
    "jumpstarter-id",
    "jumpstarter-reply-to",
    "jumpstarter-expires",
    "jumpstarter-error",
    "jumpstarter-published",
)


def inbox_of(actor: str) -> str:
    """The queue of an actor."""
    return f"actor.{actor}"


def queue_of_group(topic: str, group: str) -> str:
    """The queue in which a group's messages of a topic wait."""
    return f"event.{topic}.{group}"


def queue_of_documents(name: str) -> str:
    """The queue of documents that is called so."""
    return f"document.{name}"


def envelope_of(
    queue: str,
    message: Message,
    *,
    id: str | None = None,  # noqa: A002 - a message's id
    headers: Mapping[str, Any] | None = None,
) -> Envelope:
    """A message for a queue.

    :param id: default: a new one.
    :raises MessageError: the message cannot be written.
    """
    number = id or str(uuid.uuid4())
    return Envelope(
        queue=queue,
        body=encode(message),
        headers={KIND: name_of(type(message)), ID: number, PUBLISHED: time.time(), **(headers or {})},
        properties={"correlation_id": number, "delivery_mode": 2},
    )


class Post:
    """Sends to actors, groups and sinks of other processes. From any thread; each call blocks until the broker has the message.

    :param broker: a broker, or its URL.
    """

    def __init__(self, broker: Broker | str) -> None:
        self.broker = open_broker(broker) if isinstance(broker, str) else broker

    def tell(self, actor: str, message: Message, *, id: str | None = None) -> str:  # noqa: A002 - a message's id
        """Put the message into the inbox of the actor of that name; at least once. Answers its id.

        :param id: to be given by whoever may tell the same thing twice, so that the receiver can see that.
        :raises BrokerUnavailable: nothing was sent.
        :raises PublishUnconfirmed: whether it was sent is unknown.
        :raises MessageError: the message cannot be written.
        """
        envelope = envelope_of(inbox_of(actor), message, id=id)
        self.broker.publish([envelope])
        return str(envelope.headers[ID])

    def publish(self, event: Event, *, id: str | None = None) -> str:  # noqa: A002 - a message's id
        """Let every group know that has subscribed to this class of events; at least once. Errors are those of :meth:`tell`."""
        topic = name_of(type(event))
        envelope = envelope_of(topic, event, id=id)
        self.broker.publish_topic(topic, envelope)
        return str(envelope.headers[ID])

    def send(self, document: Document, *to: str, id: str | None = None) -> str:  # noqa: A002 - a message's id
        """Put the document into each of these queues of documents, all or none. Errors are those of :meth:`tell`."""
        number = id or str(uuid.uuid4())
        self.broker.publish([envelope_of(queue_of_documents(name), document, id=number) for name in to])
        return number

    def close(self) -> None:
        """Close the broker's connections."""
        self.broker.close()


def results_to(post: Callable[[], Post] | Post, kind: Callable[[Any], Document], *to: str) -> Callable[[Function], Function]:
    """A decorator for the function of a Celery task, below ``@app.task``: what it returns is also sent as a document.

    :param post: where from, or a function that makes it in the process that needs it.
    :param kind: makes the document of the result: its class, most likely.
    :param to: the names of the queues of documents.
    """

    def mark(function: Function) -> Function:
        @functools.wraps(function)
        def call(*arguments: Any, **named: Any) -> Any:
            result = function(*arguments, **named)
            sender = post if isinstance(post, Post) else post()
            sender.send(kind(result), *to)
            return result

        return call  # type: ignore[return-value]  # wraps says that it is the same

    return mark
