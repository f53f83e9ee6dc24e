"""An envelope as a head (JSON) and a body (untouched bytes), and back; and what rests in quarantine.

The body stays apart, so that megabytes of payload are neither escaped nor copied. The head is a list, in this order: headers,
properties, content type, content encoding, exchange, routing key. Queue, priority and due time are columns of the store.
"""

from __future__ import annotations

import json
from typing import Any

import orjson

from jumpstarter.errors import MessageError, Undecodable
from jumpstarter.jobs import Delivery, Envelope, Quarantined

# orjson would quietly turn dates, dataclasses and subclasses of str into something else; the standard library refuses the first two
# and keeps the last, so whatever these flags make orjson refuse is tried there.
_STRICT = orjson.OPT_PASSTHROUGH_DATETIME | orjson.OPT_PASSTHROUGH_DATACLASS | orjson.OPT_PASSTHROUGH_SUBCLASS

_FIELDS = 6


def pack(envelope: Envelope) -> bytes:
    """The head of the envelope. Floats that JSON does not have (NaN, infinities) become null.

    :raises MessageError: headers or properties hold something that JSON does not know.
    """
    head = [
        envelope.headers,
        envelope.properties,
        envelope.content_type,
        envelope.content_encoding,
        envelope.exchange,
        envelope.routing_key or envelope.queue,
    ]
    try:
        return orjson.dumps(head, option=_STRICT)
    except TypeError:
        return _pack_slowly(head, envelope.queue)


def _pack_slowly(head: list[Any], queue: str) -> bytes:
    # Integers beyond 64 bits, lone surrogates, mappings that are no dicts, subclasses of str: Kombu sends them too.
    try:
        return json.dumps(head, default=_as_mapping).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise MessageError(
            f"a message for queue {queue!r} cannot be sent: its headers or properties hold what JSON does not know ({error}). "
            "Put such values into the body."
        ) from error


def _as_mapping(value: Any) -> Any:
    if hasattr(value, "keys"):
        return dict(value)
    raise TypeError(f"{type(value).__name__} {value!r:.80}")


def unpack(queue: str, priority: int, head: bytes, body: bytes) -> Envelope:
    """The envelope that was packed.

    :raises Undecodable: the head is not what :func:`pack` writes.
    """
    fields = _parse(head)
    if not isinstance(fields, list) or len(fields) != _FIELDS:
        raise Undecodable(f"the stored head of a message in queue {queue!r} is no list of {_FIELDS} fields: {head[:80]!r}")
    headers, properties, *texts = fields
    if not isinstance(headers, dict) or not isinstance(properties, dict) or not all(isinstance(text, str) for text in texts):
        raise Undecodable(f"the stored head of a message in queue {queue!r} has fields of the wrong types: {head[:80]!r}")
    return Envelope(
        queue=queue,
        body=body,
        headers=headers,
        properties=properties,
        content_type=texts[0],
        content_encoding=texts[1],
        exchange=texts[2],
        routing_key=texts[3],
        priority=priority,
    )


def _parse(head: bytes) -> Any:
    try:
        return orjson.loads(head)
    except ValueError:
        pass
    try:
        return json.loads(head)
    except (ValueError, RecursionError) as error:
        raise Undecodable(f"the stored head of a message is no JSON ({error}): {head[:80]!r}") from error


def unpack_delivery(tag: str, queue: str, priority: int, head: bytes, body: bytes, *, epoch: int, attempt: int) -> Delivery:
    """The claimed message; with a ``fault`` where the stored bytes are none."""
    try:
        envelope = unpack(queue, priority, head, body)
    except Undecodable as error:
        return Delivery(tag=tag, queue=queue, envelope=None, epoch=epoch, attempt=attempt, fault=error, raw=head + body)
    return Delivery(tag=tag, queue=queue, envelope=envelope, epoch=epoch, attempt=attempt)


def is_message(queue: str, head: bytes) -> bool:
    """The head can be unpacked."""
    try:
        unpack(queue, 0, head, b"")
    except Undecodable:
        return False
    return True


def unpack_resting(
    number: int, queue: str, priority: int, head: bytes, body: bytes, *, reason: str, evidence: str, at: float, attempt: int
) -> Quarantined:
    """What rests in quarantine under this number."""
    delivery = unpack_delivery("", queue, priority, head, body, epoch=0, attempt=attempt)
    return Quarantined(
        id=str(number),
        queue=queue,
        reason=reason,
        evidence=json.loads(evidence),
        at=at,
        attempt=attempt,
        envelope=delivery.envelope,
        raw=delivery.raw,
    )


def resting_number(id: str) -> int:  # noqa: A002  the port's word
    """The number in the id of something that rests; 0, which nothing has, where the id is not one of ours."""
    return int(id) if id.isascii() and id.isdecimal() and len(id) < 19 else 0


def pack_evidence(evidence: Any) -> str:
    """What goes to quarantine with a message, as JSON; whatever JSON does not know as its ``repr``. Never fails."""
    try:
        return json.dumps(dict(evidence), default=repr, skipkeys=True)
    except (ValueError, RecursionError):
        return json.dumps({"evidence": repr(evidence)})
