"""Messages as Kombu's channels take and give them. Pure but for :meth:`Parcel.send`. Neighbours: plain, hold."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from kombu.utils.json import dumps

from jumpstarter.brokers.kombu.message import DELIVERIES, DUE, RESTS, ROUTE, deliveries
from jumpstarter.embedded.packing import pack_evidence
from jumpstarter.errors import MessageError
from jumpstarter.jobs import Delivery, Envelope, Quarantined

_OURS = frozenset({DELIVERIES, DUE, ROUTE})
#: What a transport writes into the properties for itself.
_TRANSPORTS = frozenset({"delivery_info", "delivery_tag", "body_encoding"})


@dataclass(frozen=True, slots=True)
class Parcel:
    """A message that is ready to be sent to a queue."""

    queue: str
    body: bytes
    headers: Mapping[str, Any]
    properties: Mapping[str, Any]
    content_type: str
    content_encoding: str
    priority: int

    def send(self, channel: Any) -> None:
        """Straight to its queue."""
        message = channel.prepare_message(
            self.body, self.priority, self.content_type, self.content_encoding, dict(self.headers), {**self.properties}
        )
        channel.basic_publish(message, exchange="", routing_key=self.queue)


def parcel_of(envelope: Envelope, changes: Mapping[str, Any] | None = None) -> Parcel:
    """What is sent for an envelope.

    :param changes: headers of ours to set.
    :raises MessageError: its headers or properties are no JSON.
    """
    headers = {**envelope.headers, **(changes or {})}
    if envelope.exchange or envelope.routing_key not in {"", envelope.queue}:
        headers[ROUTE] = [envelope.exchange, envelope.routing_key or envelope.queue]
    if envelope.due is not None:
        headers[DUE] = float(envelope.due)
    properties = {"delivery_mode": 2, **envelope.properties, "priority": envelope.priority}
    try:
        dumps([headers, properties])
    except (TypeError, ValueError) as error:
        raise MessageError(f"a header or property of the message for queue {envelope.queue!r} is no JSON: {error}") from error
    return Parcel(
        envelope.queue,
        bytes(envelope.body),
        headers,
        properties,
        envelope.content_type,
        envelope.content_encoding,
        envelope.priority,
    )


def _properties(message: Any) -> dict[str, Any]:
    return {name: value for name, value in message.properties.items() if name not in _TRANSPORTS}


def copy_of(message: Any, queue: str, changes: Mapping[str, Any]) -> Parcel:
    """A copy of a message that a channel has given.

    :param changes: headers to set, or with None to take away.
    """
    properties = _properties(message)
    headers = {**(message.headers or {}), **changes}
    info = message.delivery_info or {}
    if info.get("exchange") and ROUTE not in headers:
        headers[ROUTE] = [info["exchange"], info.get("routing_key") or queue]
    return Parcel(
        queue,
        _body(message),
        {name: value for name, value in headers.items() if value is not None},
        properties,
        message.content_type,
        message.content_encoding,
        properties.get("priority") or 0,
    )


def _body(message: Any) -> bytes:
    body = message.body
    return body.encode() if isinstance(body, str) else bytes(body or b"")


def envelope_of(message: Any, queue: str) -> Envelope:
    """The message without what is ours or the transport's."""
    headers = dict(message.headers or {})
    info = message.delivery_info or {}
    exchange, routing_key = headers.get(ROUTE) or (info.get("exchange") or "", info.get("routing_key") or queue)
    properties = _properties(message)
    due = headers.get(DUE)
    return Envelope(
        queue=queue,
        body=_body(message),
        headers={name: value for name, value in headers.items() if name not in _OURS},
        properties=properties,
        content_type=message.content_type,
        content_encoding=message.content_encoding,
        exchange=exchange,
        routing_key=routing_key,
        priority=properties.get("priority") or 0,
        due=due if isinstance(due, float) else None,
    )


def count_of(message: Any) -> int:
    """How often it was delivered without an outcome: as its header says, and as often more as SQS has handed it out."""
    received = ((message.delivery_info or {}).get("sqs_message") or {}).get("Attributes", {}).get("ApproximateReceiveCount", 1)
    return deliveries(message.headers or {}) + max(0, int(received) - 1)


def delivery_of(message: Any, queue: str, tag: str, epoch: int) -> Delivery:
    """The claimed message."""
    return Delivery(tag, queue, envelope_of(message, queue), epoch=epoch, attempt=count_of(message) + 1)


# Quarantine


def resting(message: Any, queue: str, quarantine: str, reason: str, evidence: Mapping[str, Any]) -> Parcel:
    """The copy that rests."""
    now = time.time()
    record = {
        "id": f"{int(now * 1e6):016x}{uuid.uuid4().hex[:12]}",
        "queue": queue,
        "reason": reason,
        "evidence": json.loads(pack_evidence(evidence)),
        "at": now,
        "attempt": count_of(message) + 1,
    }
    return copy_of(message, quarantine, {RESTS: json.dumps(record), DELIVERIES: None, DUE: None})


def quarantined_of(message: Any) -> Quarantined | None:
    """What rests; None for a message that somebody else put there."""
    try:
        record = json.loads((message.headers or {})[RESTS])
        queue = str(record["queue"])
        envelope = envelope_of(message, queue)
        headers = {name: value for name, value in envelope.headers.items() if name != RESTS}
        return Quarantined(
            id=str(record["id"]),
            queue=queue,
            reason=str(record["reason"]),
            evidence=record["evidence"],
            at=float(record["at"]),
            attempt=int(record["attempt"]),
            envelope=replace(envelope, headers=headers),
        )
    except (KeyError, TypeError, ValueError):
        return None
