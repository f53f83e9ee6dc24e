"""What lies in Redis: the names of the keys, and messages as Kombu 5.7 writes them. Pure: no I/O.

Kombu's message is a JSON object ``{"body", "content-encoding", "content-type", "headers", "properties"}``, pushed on the left of a
list that is named after the queue (and its priority step), popped on the right.
"""

from __future__ import annotations

import binascii
import json
import os
import re
import uuid
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any, Final

import orjson

from jumpstarter.errors import ConfigurationError, QueueNotFound, Undecodable
from jumpstarter.jobs import Delivery, Envelope, Quarantined

#: How often a message was delivered without being settled. The only thing that we add to Kombu's bytes.
DELIVERIES: Final = "x-jumpstarter-deliveries"
#: Not a message property but the transport's own; written anew whenever a message is published.
_RESERVED: Final = re.compile(r"(?:unacked|unacked_index|unacked_mutex|_kombu\..*|jumpstarter\..*)\Z", re.DOTALL)
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
_SIMPLE: Final = frozenset({str, int, bool, type(None)})
_LARGE: Final = b"0" * 19
#: Every digit to 0, the rest to blanks: to search in that costs half of a walk through the parsed message, and no call.
_DIGITS: Final = bytes(ord("0") if byte in b"0123456789" else ord(" ") for byte in range(256))


# Keys


@dataclass(frozen=True, slots=True)
class QueueKeys:
    """The lists of a queue, in the order in which they are served.

    :ivar endings: for each list, what closes an entry of ``unacked`` after the raw message. The exchange is always the default
        one, so that a genuine worker that restores the entry sends it to this very queue, and not to every queue that is bound to
        the original exchange.
    """

    queue: str
    lists: tuple[str, ...]
    endings: tuple[str, ...]


class Keys:
    """Names of keys under one prefix."""

    def __init__(self, prefix: str, steps: Sequence[int], sep: str) -> None:
        self.prefix = prefix
        self.sep = sep
        self.steps = tuple(steps)
        if not self.steps or list(self.steps) != sorted(set(self.steps)) or self.steps[0] != 0:
            raise ConfigurationError(
                f"priority_steps must start with 0 and grow, but is {list(steps)!r}: Kombu's default is [0, 3, 6, 9]"
            )
        if not sep:
            raise ConfigurationError("sep, which stands between a queue's name and its priority, must not be empty")
        self.unacked = f"{prefix}unacked"
        self.unacked_index = f"{prefix}unacked_index"
        self.unacked_mutex = f"{prefix}unacked_mutex"
        self.epoch = f"{prefix}jumpstarter.epoch"
        self.leases = f"{prefix}jumpstarter.leases"
        self.parked = f"{prefix}jumpstarter.parked"
        self.quarantine = f"{prefix}jumpstarter.quarantine"
        self.quarantine_order = f"{prefix}jumpstarter.quarantine.order"
        self.waits = f"{prefix}jumpstarter.waits"
        self.notices = f"{prefix}jumpstarter.notices"
        self._queues: dict[str, QueueKeys] = {}

    def claims(self, incarnation: str) -> str:
        return f"{self.prefix}jumpstarter.claims.{incarnation}"

    def calls(self, incarnation: str) -> str:
        return f"{self.prefix}jumpstarter.calls.{incarnation}"

    def holds(self, incarnation: str) -> str:
        return f"{self.prefix}jumpstarter.holds.{incarnation}"

    def waits_of(self, incarnation: str) -> str:
        return f"{self.prefix}jumpstarter.waits.{incarnation}"

    def publisher(self, name: str) -> str:
        return f"{self.prefix}jumpstarter.publisher.{name}"

    def wait_list(self, incarnation: str, source: str) -> str:
        return f"{self.prefix}jumpstarter.wait.{incarnation}:{source}"

    def topic(self, topic: str) -> str:
        return f"{self.prefix}jumpstarter.topic.{topic}"

    def topics_of(self, queue: str) -> str:
        return f"{self.prefix}jumpstarter.topics_of.{queue}"

    def binding(self, exchange: str) -> str:
        return f"{self.prefix}_kombu.binding.{exchange}"

    def permanent_binding(self, exchange: str) -> str:
        return f"{self.prefix}_kombu.binding_permanent.{exchange}"

    def queue(self, name: str) -> QueueKeys:
        """The lists of a queue.

        :raises QueueNotFound: the name cannot be a queue of this broker.
        """
        known = self._queues.get(name)
        if known is None:
            known = self._queues[name] = self._describe(name)
        return known

    def list_of(self, queue: str, priority: Any) -> str:
        """The list for a priority: steps round down, what is no number counts as 0."""
        return self.queue(queue).lists[bisect_right(self.steps, clip_priority(priority)) - 1]

    def _describe(self, name: str) -> QueueKeys:
        if not name:
            raise QueueNotFound(name, "its name is empty")
        if self.sep in name:
            raise QueueNotFound(name, f"its name holds {self.sep!r}, which separates names from priorities")
        if _RESERVED.match(name):
            raise QueueNotFound(name, "the name is a key that Kombu or Jumpstarter uses itself")
        lists = tuple(f"{self.prefix}{name}{self.sep}{step}" if step else f"{self.prefix}{name}" for step in self.steps)
        return QueueKeys(name, lists, (f', "", {json.dumps(name)}]',) * len(lists))


def check_incarnation(incarnation: str) -> str:
    """The name itself, or :class:`ConfigurationError`."""
    if not incarnation or _CONTROL.search(incarnation):
        raise ConfigurationError(f"an incarnation is a random name without control characters, not {incarnation!r}")
    return incarnation


def clip_priority(priority: Any) -> int:
    """A priority from 0 to 9; what is no number counts as 0, as in Kombu."""
    try:
        return max(0, min(9, int(priority)))
    except (TypeError, ValueError, OverflowError):
        return 0


# Unique names


class _Names:
    """Names like a UUID's: random for the process, then counted. A real uuid4 costs a system call per message."""

    def __init__(self) -> None:
        self.renew()

    def renew(self) -> None:
        self._head = str(uuid.uuid4())[:24]
        self._numbers = count(1)

    def next(self) -> str:
        return f"{self._head}{next(self._numbers):012x}"


_names = _Names()
os.register_at_fork(after_in_child=_names.renew)
new_name = _names.next


# Messages out


def encode(envelope: Envelope) -> bytes:
    """An envelope as Kombu's JSON.

    :raises TypeError: a header or property that JSON cannot carry.
    """
    properties: dict[str, Any] = dict(envelope.properties)
    properties.setdefault("delivery_mode", 2)
    properties["delivery_info"] = {"exchange": envelope.exchange, "routing_key": envelope.routing_key or envelope.queue}
    properties["priority"] = envelope.priority
    properties["body_encoding"] = "base64"
    properties["delivery_tag"] = new_name()
    message = {
        "body": binascii.b2a_base64(envelope.body, newline=False).decode("ascii"),
        "content-encoding": envelope.content_encoding,
        "content-type": envelope.content_type,
        "headers": dict(envelope.headers),
        "properties": properties,
    }
    try:
        return dumps(message)
    except (TypeError, ValueError, RecursionError) as error:
        raise TypeError(
            f"the message for queue {envelope.queue!r} has a header or property that JSON cannot carry: {error}"
        ) from None


def dumps(message: Mapping[str, Any]) -> bytes:
    """JSON as the standard library (and so Kombu) understands it: orjson where it writes the same values, else the library."""
    if _is_plain(message):
        try:
            return orjson.dumps(message)
        except TypeError:  # integers beyond 64 bits, lone surrogates
            pass
    return json.dumps(message).encode("utf-8")


def _is_plain(value: Any) -> bool:
    """Whether orjson writes what the standard library would, or refuses.

    It would turn NaN into null and UUIDs, dates and enums into strings. It refuses keys that are no strings.
    """
    kind = type(value)
    if kind is dict:
        value = value.values()
    elif kind is not list and kind is not tuple:
        return kind in _SIMPLE or (kind is float and value - value == 0.0)
    # Written out, as this runs over every header: a call for each costs more than orjson does.
    for one in value:  # noqa: SIM110 # see above
        if type(one) not in _SIMPLE and not _is_plain(one):
            return False
    return True


def parked_member(source: str, raw: bytes, unique: str) -> bytes:
    """What lies in the set of parked messages: ``<unique>|<length of list>|<list><raw>``, as ``promote`` in ``common.lua`` reads
    it."""
    name = source.encode("utf-8")
    return b"%b|%d|%b%b" % (unique.encode("ascii"), len(name), name, raw)


# Messages in


def decode(raw: bytes, *, tag: str, queue: str, epoch: int) -> Delivery:
    """A claimed message; bytes that are no message give a delivery with a ``fault``."""
    try:
        message = loads(raw)
        headers = message["headers"]
        before = headers.pop(DELIVERIES, 0)  # only an object has such a pop
        envelope = _open(message, message["properties"], headers, queue)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        fault = Undecodable(f"the bytes from queue {queue!r} are no message in Kombu's layout: {_why(raw, error)}")
        return Delivery(tag, queue, None, epoch, fault=fault, raw=raw)
    return Delivery(tag, queue, envelope, epoch, before + 1 if type(before) is int and before > 0 else 1)


def _why(raw: bytes, error: Exception) -> str:
    """What is wrong with bytes that could not be opened. The way of every message asks no such questions."""
    try:
        message = loads(raw)
    except (ValueError, RecursionError):
        return f"{error}"
    if type(message) is not dict:
        return f"a JSON {type(message).__name__} instead of an object"
    for name in ("properties", "headers"):
        if name not in message:
            return f"{name} is missing"
        if type(message[name]) is not dict:
            return f"{name} is no object"
    return f"{error}" or type(error).__name__


def loads(raw: bytes) -> Any:
    """The JSON value, exactly as the standard library reads it, but faster."""
    # orjson reads integers beyond 64 bits as floats, without a word. They have 19 digits in a row (as other things may have).
    if _LARGE in raw.translate(_DIGITS):
        return json.loads(raw)
    try:
        return orjson.loads(raw)
    except ValueError:  # NaN, lone surrogates, deep nesting: the standard library takes them, and so does Kombu
        return json.loads(raw)


def _open(message: dict[str, Any], properties: dict[str, Any], headers: dict[str, Any], queue: str) -> Envelope:
    """The envelope in a parsed message. What is of the usual type is taken as it is, without a call for each field."""
    info = properties.get("delivery_info")
    if type(info) is not dict:
        info = {}
    body, transfer = message.get("body"), properties.get("body_encoding")
    kind, encoding = message.get("content-type"), message.get("content-encoding")
    if type(kind) is not str or type(encoding) is not str:
        kind, encoding = _text(message, "content-type", "application/data"), _text(message, "content-encoding", "binary")
    priority = properties.get("priority", 0)
    return Envelope(
        queue=queue,
        body=binascii.a2b_base64(body) if transfer == "base64" and type(body) is str else _body(body, transfer),
        headers=headers,
        properties=properties,
        content_type=kind,
        content_encoding=encoding,
        exchange=str(info.get("exchange") or ""),
        routing_key=str(info.get("routing_key") or queue),
        priority=priority if type(priority) is int and 0 <= priority <= 9 else clip_priority(priority),
    )


def _text(message: dict[str, Any], name: str, default: str) -> str:
    value = message.get(name)
    if value is None:
        return default
    if type(value) is not str:
        raise ValueError(f"{name} is no string")
    return value


def _body(body: Any, encoding: Any) -> bytes:
    if body is None:
        return b""
    if type(body) is not str:
        raise ValueError("body is no string")
    if encoding == "base64":
        return binascii.a2b_base64(body)
    if encoding is None or str(encoding).lower() in ("utf-8", "utf8"):
        return body.encode("utf-8", "surrogatepass")
    raise ValueError(f"body_encoding {encoding!r} is unknown")


# Messages that come back


def recount(raw: bytes) -> bytes:
    """The message marked as redelivered, its count of deliveries one higher. Bytes that are no message stay as they are."""
    return _marked(raw, count_it=True)


def mark_redelivered(message: Any) -> bytes:
    """A message as Kombu writes it when it restores it after the visibility timeout."""
    return _mark(message, count_it=False)


def _marked(raw: bytes, *, count_it: bool) -> bytes:
    try:
        message = loads(raw)
    except (ValueError, RecursionError):
        return raw
    return _mark(message, count_it=count_it) if isinstance(message, dict) else raw


def _mark(message: dict[str, Any], *, count_it: bool) -> bytes:
    headers = message.get("headers")
    if isinstance(headers, dict):
        headers["redelivered"] = True
        if count_it:
            before = headers.get(DELIVERIES, 0)
            headers[DELIVERIES] = (before if type(before) is int and before > 0 else 0) + 1
    properties = message.get("properties")
    if isinstance(properties, dict) and isinstance(properties.get("delivery_info"), dict):
        properties["delivery_info"]["redelivered"] = True
    return dumps(message)


def afresh(raw: bytes) -> bytes:
    """The message as if it had never been delivered."""
    message = loads(raw)
    headers, properties = message["headers"], message["properties"]
    headers.pop(DELIVERIES, None)
    headers.pop("redelivered", None)
    if isinstance(properties.get("delivery_info"), dict):
        properties["delivery_info"].pop("redelivered", None)
    return dumps(message)


# Messages that rest


def quarantine_record(raw: bytes, *, queue: str, reason: str, evidence: Mapping[str, Any], attempt: int) -> bytes:
    """What lies in ``jumpstarter.quarantine``: JSON with the message as text, or as base64 where it is none."""
    record: dict[str, Any] = {"queue": queue, "reason": reason, "evidence": dict(evidence), "attempt": attempt}
    try:
        record["raw"] = raw.decode("utf-8")
    except UnicodeDecodeError:
        record["raw_base64"] = binascii.b2a_base64(raw, newline=False).decode("ascii")
    # Evidence is for people: what JSON does not know is shown as its repr.
    return json.dumps(record, default=repr).encode("utf-8")


def open_record(record: bytes) -> tuple[dict[str, Any], bytes]:
    """A record of the quarantine, and the message in it as it was stored."""
    facts = json.loads(record)
    if "raw_base64" in facts:
        return facts, binascii.a2b_base64(facts["raw_base64"])
    return facts, facts["raw"].encode("utf-8")


def quarantined(name: str, record: bytes) -> Quarantined:
    """A record of the quarantine. Its name is the server's time in microseconds."""
    facts, raw = open_record(record)
    envelope = decode(raw, tag=name, queue=facts["queue"], epoch=0).envelope
    return Quarantined(
        id=name,
        queue=facts["queue"],
        reason=facts["reason"],
        evidence=facts["evidence"],
        at=int(name) / 1e6,
        attempt=facts["attempt"],
        envelope=envelope,
        raw=raw if envelope is None else b"",
    )


def open_unacked(value: bytes) -> tuple[Any, str, str]:
    """An entry of Kombu's ``unacked``: the message, its exchange and its routing key.

    :raises ValueError: it is no such entry.
    """
    entry = loads(value)
    if not isinstance(entry, list) or len(entry) != 3 or not isinstance(entry[0], dict):
        raise ValueError("an entry of unacked is [message, exchange, routing key]")
    return entry[0], str(entry[1] or ""), str(entry[2] or "")


def bound_queues(members: Iterable[bytes], routing_key: str, sep: str) -> list[str]:
    """The queues that a table of bindings gives for a routing key: a member is ``routing key, pattern, queue``; only topics have a
    pattern."""
    queues: set[str] = set()
    for member in members:
        key, pattern, queue = [*member.decode("utf-8", "replace").split(sep), "", ""][:3]
        if queue and (re.match(pattern, routing_key) if pattern else key == routing_key):
            queues.add(queue)
    return sorted(queues)


def split_tag(tag: str) -> tuple[int, int]:
    """The epoch and the number in a tag, for sorting. Tags that are not ours come first."""
    parts = tag.rsplit(".", 2)
    try:
        return int(parts[-2]), int(parts[-1])
    except (IndexError, ValueError):
        return 0, 0
