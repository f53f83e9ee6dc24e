"""What our headers say, and copies of messages. Pure. Comes from: sessions. Goes to: sessions, quarantine.

A message that stays in its queue cannot be changed on an AMQP server; where its count of deliveries, its due time or the reason of
its quarantine has to be written down, a copy is sent and the original acked, both in one transaction.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from jumpstarter.brokers.kombu import wire
from jumpstarter.brokers.kombu.topology import LEVELS, undelayed
from jumpstarter.embedded.packing import pack_evidence
from jumpstarter.errors import Undecodable
from jumpstarter.jobs import Delivery, Envelope, Quarantined

#: How often the message was delivered without an outcome, before this delivery.
DELIVERIES: Final = "x-jumpstarter-deliveries"
#: Exchange and routing key that its publisher used, where a copy travels another way.
ROUTE: Final = "x-jumpstarter-route"
#: When a parked message is due, where that is later than delayed delivery can tell.
DUE: Final = "x-jumpstarter-due"
#: Why it rests in quarantine, as JSON.
RESTS: Final = "x-jumpstarter-quarantine"
#: The claim that a copy in a lease queue stands for.
LEASED: Final = "x-jumpstarter-lease"
#: Its last delivery may have been ended by a death of its process.
SUSPECT: Final = "x-jumpstarter-suspect"
#: What the transport says to itself. The last one is the quorum queue's, which counts what goes back uncounted as well.
_OURS: Final = frozenset({DELIVERIES, ROUTE, DUE, LEASED, SUSPECT, "x-delivery-count"})

#: What the server adds and takes for instructions. A copy that still had the x-death of an earlier round through the delay would
#: be dropped as going in circles; CC and BCC would multiply it.
_SERVERS: Final = frozenset({"x-death", "x-delivery-count", "CC", "BCC"})
_SERVERS_PREFIXES: Final = ("x-first-death-", "x-last-death-")


def is_servers(name: str) -> bool:
    """Whether a header is the server's, so that a copy must not have it."""
    return name in _SERVERS or name.startswith(_SERVERS_PREFIXES)


def deliveries(headers: Mapping[str, Any]) -> int:
    """How often the message was delivered without an outcome, as its header says."""
    count = headers.get(DELIVERIES, 0)
    return count if type(count) is int and count > 0 else 0


def count_of(message: wire.Message) -> int:
    """:func:`deliveries` of a message as it came; 0 where its headers cannot be read."""
    try:
        return deliveries(wire.read_properties(message.properties).get("headers") or {})
    except Undecodable:
        return 0


def leased_as(message: wire.Message) -> str:
    """The tag of the claim that a copy in a lease queue stands for."""
    return str((wire.read_properties(message.properties).get("headers") or {}).get(LEASED, ""))


def envelope_of(message: wire.Message, queue: str) -> tuple[Envelope, Mapping[str, Any]]:
    """The message without the transport's headers, and those.

    :raises Undecodable: its properties cannot be read.
    """
    properties = wire.read_properties(message.properties)
    headers = properties.pop("headers", None) or {}
    marks: Mapping[str, Any] = {}
    exchange, routing_key = message.exchange, message.routing_key
    if not headers.keys().isdisjoint(_OURS):
        marks = {name: headers[name] for name in _OURS & headers.keys()}
        exchange, routing_key = _route(headers, exchange, routing_key)
        headers = {name: value for name, value in headers.items() if name not in _OURS}
    delayed = undelayed(message.routing_key) if len(message.routing_key) > 2 * LEVELS else None
    if delayed is not None or LEASED in marks:
        # What the server wrote down on a way of our own making.
        headers = {name: value for name, value in headers.items() if not is_servers(name)}
    if delayed is not None and ROUTE not in marks:
        exchange, routing_key = "", delayed or queue
    due = marks.get(DUE)
    envelope = Envelope(
        queue=queue,
        body=message.body,
        headers=headers,
        content_type=properties.pop("content_type", "application/data"),
        content_encoding=properties.pop("content_encoding", "binary"),
        properties=properties,
        exchange=exchange,
        routing_key=routing_key or queue,
        priority=properties.get("priority", 0),
        due=due if isinstance(due, float) else None,
    )
    return envelope, marks


def _route(headers: Mapping[str, Any], exchange: str, routing_key: str) -> tuple[str, str]:
    route = headers.get(ROUTE)
    if isinstance(route, list) and len(route) == 2 and all(isinstance(part, str) for part in route):
        return route[0], route[1]
    return exchange, routing_key


def delivery_of(message: wire.Message, queue: str, tag: str, epoch: int) -> tuple[Delivery, bool]:
    """The claimed message, and whether it is suspect; one whose properties cannot be read has a ``fault``."""
    try:
        envelope, marks = envelope_of(message, queue)
    except Undecodable as error:
        raw = message.properties + message.body
        return Delivery(tag=tag, queue=queue, envelope=None, epoch=epoch, fault=error, raw=raw), False
    attempt = deliveries(marks) + 1 if marks else 1
    return Delivery(tag=tag, queue=queue, envelope=envelope, epoch=epoch, attempt=attempt), SUSPECT in marks


def properties_of(envelope: Envelope, headers: Mapping[str, Any] | None = None) -> bytes:
    """The properties of a message that is published.

    :param headers: instead of the envelope's.
    :raises MessageError: AMQP cannot carry them.
    """
    properties = {
        **envelope.properties,
        "content_type": envelope.content_type,
        "content_encoding": envelope.content_encoding,
        "headers": envelope.headers if headers is None else headers,
        "priority": envelope.priority,
    }
    properties.setdefault("delivery_mode", 2)
    return wire.write_properties(properties)


def copied(message: wire.Message, changes: Mapping[str, Any], *, keep_route: bool = True) -> bytes:
    """The properties of a copy.

    :param changes: headers to set, or with None to take away.
    :param keep_route: remember exchange and routing key, which a copy sent straight to its queue would lose.
    """
    try:
        properties = wire.read_properties(message.properties)
    except Undecodable:
        return message.properties
    headers = dict(properties.get("headers") or {})
    plain = not any(is_servers(name) for name in headers)
    if plain and not message.exchange and all(headers.get(name) == value for name, value in changes.items()):
        return message.properties
    if keep_route and message.exchange and ROUTE not in headers and undelayed(message.routing_key) is None:
        headers[ROUTE] = [message.exchange, message.routing_key]
    headers.update(changes)
    gone = {name for name, value in changes.items() if value is None}
    properties["headers"] = {name: value for name, value in headers.items() if name not in gone and not is_servers(name)}
    # The server takes this one only from the user that it names.
    properties.pop("user_id", None)
    return wire.write_properties(properties)


# Quarantine


def resting(message: wire.Message, queue: str, reason: str, evidence: Mapping[str, Any], attempt: int) -> bytes:
    """The properties of a copy that rests in quarantine."""
    now = time.time()
    record = {
        "id": f"{int(now * 1e6):016x}{uuid.uuid4().hex[:12]}",
        "queue": queue,
        "reason": reason,
        "evidence": json.loads(pack_evidence(evidence)),
        "at": now,
        "attempt": attempt,
    }
    try:
        wire.read_properties(message.properties)
    except Undecodable:
        # Nothing of it can be kept as headers; the bytes rest as a body, with what there is in front.
        return wire.write_properties({"headers": {RESTS: json.dumps({**record, "raw": True})}, "delivery_mode": 2})
    # An expiry would end its rest.
    return _without_expiration(copied(message, {RESTS: json.dumps(record), DELIVERIES: None, SUSPECT: None, DUE: None}))


def _without_expiration(properties: bytes) -> bytes:
    read = wire.read_properties(properties)
    if read.pop("expiration", None) is None:
        return properties
    return wire.write_properties(read)


def quarantined_of(message: wire.Message) -> Quarantined | None:
    """What rests in quarantine; None for a message that somebody else put there."""
    try:
        headers = wire.read_properties(message.properties).get("headers") or {}
        record = json.loads(headers[RESTS])
        queue = str(record["queue"])
        envelope = None if record.get("raw") else envelope_of(message, queue)[0]
        if envelope is not None:
            headers = {name: value for name, value in envelope.headers.items() if name != RESTS}
            envelope = replace(envelope, headers=headers)
        return Quarantined(
            id=str(record["id"]),
            queue=queue,
            reason=str(record["reason"]),
            evidence=record["evidence"],
            at=float(record["at"]),
            attempt=int(record["attempt"]),
            envelope=envelope,
            raw=message.body if record.get("raw") else b"",
        )
    except (KeyError, TypeError, ValueError, Undecodable):
        return None
