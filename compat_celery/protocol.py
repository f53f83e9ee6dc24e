"""Celery's task messages: calls to bytes and back. Pure: no I/O. Used by: app.amqp (publishing) and the worker (decoding).

A task message has *headers* (what routers and workers must know before they touch the payload) and a *body* (arguments and what
follows the task). Three layouts are understood:

- **protocol 2** (Celery 4 and later): the headers say ``task`` and ``id``; the body is ``[args, kwargs, embed]``.
- **protocol 1** (Celery 3): no headers; the body is a mapping with everything in it.
- **hybrid**: protocol 2's headers with a body in protocol 1's layout.

Only protocol 2 and 1 are ever written. The headers are read without the body wherever the layout allows it, so that one process can
decide about messages (due, expired, unknown task) whose payload only the one that runs them will decode.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Container, Mapping, Sequence
from datetime import UTC, datetime, tzinfo
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from compat_celery._later import kombu_compression, kombu_exceptions, kombu_json
from compat_celery._later import kombu_serialization as serialization
from compat_celery.utils.saferepr import saferepr
from jumpstarter.errors import Undecodable
from jumpstarter.jobs import Envelope

if TYPE_CHECKING:
    from kombu.exceptions import ContentDisallowed, DecodeError, EncodeError

__all__ = (
    "Call",
    "ContentDisallowed",
    "DecodeError",
    "EncodeError",
    "Head",
    "Payload",
    "TaskMessage",
    "decode",
    "encode",
    "read_body",
    "read_headers",
    "task_message_v1",
    "task_message_v2",
)

JSON = "application/json"

_ERRORS = frozenset({"ContentDisallowed", "DecodeError", "EncodeError"})


def __getattr__(name: str) -> Any:
    if name not in _ERRORS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(kombu_exceptions, name)


class TaskMessage(NamedTuple):
    """A call before it is serialised.

    :ivar headers: protocol 2's application headers; empty for protocol 1.
    :ivar properties: AMQP properties.
    :ivar body: ``(args, kwargs, embed)``, or protocol 1's mapping.
    :ivar sent_event: fields of the ``task-sent`` event, or None when it is not wanted.
    """

    headers: dict[str, Any]
    properties: dict[str, Any]
    body: Any
    sent_event: dict[str, Any] | None


class Payload(NamedTuple):
    """A serialised body and what the receiver must know to read it; ``compression`` is the value of the header, or None."""

    body: bytes
    content_type: str
    content_encoding: str
    compression: str | None


class Head(NamedTuple):
    """What a message says before its body is decoded.

    :ivar headers: in protocol 2's layout, whatever the message's own is.
    :ivar due: wall time in seconds before which the task may not start, or None.
    :ivar expires: wall time in seconds after which it may not start, or None.
    :ivar hard_limit: seconds, or None.
    :ivar soft_limit: seconds, or None.
    :ivar payload: the decoded body where it had to be decoded to understand the headers (protocol 1), else None.
    """

    task: str
    id: str
    headers: dict[str, Any]
    due: float | None
    expires: float | None
    hard_limit: float | None
    soft_limit: float | None
    payload: Any


class Call(NamedTuple):
    """A decoded call. ``chain`` is reversed: its last item is the next step."""

    task: str
    id: str
    args: Sequence[Any]
    kwargs: dict[str, Any]
    callbacks: list[Any] | None
    errbacks: list[Any] | None
    chain: list[Any] | None
    chord: Any
    headers: dict[str, Any]

    def request(self, envelope: Envelope, *, hostname: str, redelivered: bool = False) -> dict[str, Any]:
        """The fields of ``task.request`` as Celery's worker makes them: the headers flat, with the delivery's facts beside them."""
        properties = dict(envelope.properties)
        return {
            **self.headers,
            "args": self.args,
            "kwargs": self.kwargs,
            "callbacks": self.callbacks,
            "errbacks": self.errbacks,
            "chain": self.chain,
            "chord": self.chord,
            "called_directly": False,
            "hostname": hostname,
            "properties": properties,
            "reply_to": properties.get("reply_to"),
            "correlation_id": properties.get("correlation_id"),
            "delivery_info": {
                "exchange": envelope.exchange,
                "routing_key": envelope.routing_key or envelope.queue,
                # The property, not the envelope's field: Celery says None where the publisher named no priority.
                "priority": properties.get("priority"),
                "redelivered": redelivered,
            },
        }


# Writing.


def _said(embed: dict[str, Any]) -> dict[str, Any]:
    """With the ticket of a long chain (see app.tickets), which no genuine worker reads: what is not there need not be said."""
    return {name: value for name, value in embed.items() if value is not None}


def task_message_v2(
    task_id: str,
    name: str,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    *,
    eta: str | None = None,
    expires: str | None = None,
    group_id: str | None = None,
    group_index: int | None = None,
    retries: int = 0,
    chord: Any = None,
    callbacks: list[Any] | None = None,
    errbacks: list[Any] | None = None,
    chain: list[Any] | None = None,
    reply_to: str | None = None,
    time_limit: float | None = None,
    soft_time_limit: float | None = None,
    root_id: str | None = None,
    parent_id: str | None = None,
    shadow: str | None = None,
    origin: str | None = None,
    ignore_result: bool | None = False,
    argsrepr: str | None = None,
    kwargsrepr: str | None = None,
    repr_levels: int = 3,
    stamped_headers: list[str] | None = None,
    stamps: Mapping[str, Any] | None = None,
    replaced_task_nesting: int = 0,
    sent_event: bool = False,
) -> TaskMessage:
    """A call in protocol 2. ``eta`` and ``expires`` are ISO 8601; ``chain`` is reversed."""
    if argsrepr is None:
        argsrepr = saferepr(args, REPR_LENGTH, maxlevels=repr_levels)
    if kwargsrepr is None:
        kwargsrepr = saferepr(kwargs, REPR_LENGTH, maxlevels=repr_levels)
    root_id = root_id or task_id
    headers = {
        "lang": "py",
        "task": name,
        "id": task_id,
        "shadow": shadow,
        "eta": eta,
        "expires": expires,
        "group": group_id,
        "group_index": group_index,
        "retries": retries,
        "timelimit": [time_limit, soft_time_limit],
        "root_id": root_id,
        "parent_id": parent_id,
        "argsrepr": argsrepr,
        "kwargsrepr": kwargsrepr,
        "origin": origin,
        "ignore_result": ignore_result,
        "replaced_task_nesting": replaced_task_nesting,
        "stamped_headers": stamped_headers,
        "stamps": {} if stamps is None else dict(stamps),
    }
    event = None
    if sent_event:
        event = {
            "uuid": task_id,
            "root_id": root_id,
            "parent_id": parent_id,
            "name": name,
            "args": argsrepr,
            "kwargs": kwargsrepr,
            "retries": retries,
            "eta": eta,
            "expires": expires,
        }
    embed = {"callbacks": callbacks, "errbacks": errbacks, "chain": chain, "chord": chord}
    if chain and isinstance(chain[-1], str):
        embed = _said(embed)
    return TaskMessage(headers, {"correlation_id": task_id, "reply_to": reply_to or ""}, (args, kwargs, embed), event)


def task_message_v1(
    task_id: str,
    name: str,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    *,
    eta: str | None = None,
    expires: str | None = None,
    group_id: str | None = None,
    group_index: int | None = None,
    retries: int = 0,
    chord: Any = None,
    callbacks: list[Any] | None = None,
    errbacks: list[Any] | None = None,
    reply_to: str | None = None,
    time_limit: float | None = None,
    soft_time_limit: float | None = None,
    utc: bool = True,
    sent_event: bool = False,
) -> TaskMessage:
    """A call in protocol 1, for workers of Celery 3 (setting ``task_protocol = 1``)."""
    body = {
        "task": name,
        "id": task_id,
        "args": args,
        "kwargs": kwargs,
        "group": group_id,
        "group_index": group_index,
        "retries": retries,
        "eta": eta,
        "expires": expires,
        "utc": utc,
        "callbacks": callbacks,
        "errbacks": errbacks,
        "timelimit": (time_limit, soft_time_limit),
        "taskset": group_id,
        "chord": chord,
    }
    event = None
    if sent_event:
        event = {
            "uuid": task_id,
            "name": name,
            "args": saferepr(args),
            "kwargs": saferepr(kwargs),
            "retries": retries,
            "eta": eta,
            "expires": expires,
        }
    return TaskMessage({}, {"correlation_id": task_id, "reply_to": reply_to or ""}, body, event)


#: Characters of ``argsrepr`` and ``kwargsrepr``.
REPR_LENGTH = 1024


def _json_default(value: Any) -> Any:
    """What JSON does not know, as kombu writes it."""
    return kombu_json.JSONEncoder().default(value)


# One encoder for the process: building it anew for every call, as json.dumps(cls=…) does, costs as much as encoding a small body,
# and JSONEncoder.encode builds the C part anew. Without its check for circles, which ends in a RecursionError instead.
_make_encoder: Any = getattr(json.encoder, "c_make_encoder", None)
_json_encode: Callable[[Any, int], tuple[str, ...]] | None = _make_encoder and _make_encoder(
    None, _json_default, json.encoder.encode_basestring_ascii, None, ": ", ", ", False, False, True
)
_json_plain = json.JSONDecoder()
_json_encoder = json.JSONEncoder(default=_json_default)
_json_typed = json.JSONDecoder(object_hook=lambda found: kombu_json.object_hook(found))  # noqa: PLW0108 - looked up when needed


def encode(data: Any, serializer: str | None = "json", compression: str | None = None) -> Payload:
    """Serialise ``data`` by kombu's registry.

    :param serializer: a name that kombu knows (``json``, ``pickle``, ``yaml``, ``msgpack``, ``auth`` …).
    :param compression: a name that kombu knows (``gzip``, ``bzip2``, ``zstd`` …), or None.
    :raises EncodeError: the data cannot be serialised.
    :raises SerializerNotInstalled: there is no such serializer.
    """
    content_type: str = JSON
    content_encoding: str = "utf-8"
    # People replace "json" by a codec of their own (kombu.serialization.register), at any time; the fast way must not bypass it.
    # Where kombu's registry was never imported, nobody did. Written out, as it is on the way of every message.
    is_kombus = serializer == "json" and (
        "kombu.serialization" not in sys.modules
        or ((codec := serialization.registry._encoders.get("json")) is not None and codec[2] is kombu_json.dumps)
    )
    if is_kombus:
        try:
            text: str = _json_encoder.encode(data) if _json_encode is None else "".join(_json_encode(data, 0))
            body = text.encode()
        except Exception as error:
            raise kombu_exceptions.EncodeError(error) from error
    else:
        content_type, content_encoding, raw = serialization.dumps(data, serializer=serializer)
        body = raw.encode(content_encoding) if isinstance(raw, str) else bytes(raw)
    header = None
    if compression:
        body, header = kombu_compression.compress(body, compression)
    return Payload(body, content_type, content_encoding, header)


def decode(
    body: bytes,
    content_type: str | None,
    content_encoding: str | None,
    *,
    compression: str | None = None,
    accept: Container[str] | None = None,
) -> Any:
    """The opposite of :func:`encode`.

    :param accept: content types (not names) that may be decoded; None accepts what kombu's registry has not disabled.
    :raises ContentDisallowed: the content type is not accepted. Nothing was decompressed or decoded.
    :raises DecodeError: the bytes are not what the content type says.
    """
    if accept is not None and content_type not in accept and content_type not in serialization.TRUSTED_CONTENT:
        _refuse(content_type)
    if compression:
        body = _decompress(body, compression)
    codecs = serialization.registry
    is_kombus = codecs._decoders.get(JSON) is kombu_json.loads and JSON not in codecs._disabled_content_types
    if is_kombus and content_type == JSON and content_encoding in UTF8:
        return _decode_json(body)
    return serialization.loads(body, content_type, content_encoding, accept=accept)


UTF8 = frozenset({"utf-8", "UTF-8", "utf8", None})


def _decode_json(body: bytes) -> Any:
    try:
        text = body.decode() if isinstance(body, bytes) else bytes(body).decode()
        # Kombu's typed values ({"__type__": …}) need a Python call for every mapping; most bodies have none. A marker written with
        # escapes (legal JSON, though nobody writes it) contains a backslash-u, so such bodies take the careful way too.
        if "__type__" in text or "\\u00" in text:
            return _json_typed.decode(text)
        return _json_plain.decode(text)
    except Exception as error:
        raise kombu_exceptions.DecodeError(error) from error


def _decompress(body: bytes, compression: str) -> bytes:
    try:
        plain: bytes = kombu_compression.decompress(body, compression)
    except Exception as error:
        raise kombu_exceptions.DecodeError(f"cannot decompress the body ({compression!r}): {error!r}") from error
    return plain


def _refuse(content_type: str | None) -> NoReturn:
    name = serialization.registry.type_to_name.get(content_type)
    shown = f"{name} ({content_type})" if name else content_type
    raise kombu_exceptions.ContentDisallowed(f"Refusing to deserialize untrusted content of type {shown}")


# Reading.


def read_headers(envelope: Envelope, *, accept: Container[str] | None = None, naive_zone: tzinfo = UTC) -> Head:
    """Understand a message's headers. The body is decoded only where protocol 1 hides the headers in it.

    :param accept: content types that may be decoded (for protocol 1).
    :param naive_zone: the time zone of an eta or expiry that names none.
    :raises Undecodable: this is no task message, or one of its headers has a wrong type. The error names it.
    :raises ContentDisallowed: protocol 1 in a content type that is not accepted.
    :raises DecodeError: protocol 1 in bytes that are not what the content type says.
    """
    headers: dict[str, Any] = dict(envelope.headers)
    payload = None
    if not headers.get("task") or not headers.get("id"):
        compression = envelope.headers.get("compression")
        payload = decode(envelope.body, envelope.content_type, envelope.content_encoding, compression=compression, accept=accept)
        headers = _headers_from_body(headers, payload)
    task = headers["task"]
    task_id = headers["id"]
    if type(task) is not str or type(task_id) is not str:
        raise Undecodable(f"the headers 'task' and 'id' must be strings, not {task!r} and {task_id!r}")
    eta = headers.get("eta")
    expires = headers.get("expires")
    timelimit = headers.get("timelimit")
    hard, soft = _NO_LIMITS if timelimit == [None, None] else _limits(timelimit)
    if type(headers.get("retries")) is not int:
        _check_retries(headers)
    return Head(
        task,
        task_id,
        headers,
        None if not eta else _wall_time(eta, "eta", naive_zone),
        None if not expires else _wall_time(expires, "expires", naive_zone),
        hard,
        soft,
        payload,
    )


def read_body(envelope: Envelope, head: Head, *, accept: Container[str] | None = None) -> Call:
    """Decode the payload of a message whose headers were understood.

    :raises ContentDisallowed: the content type is not accepted.
    :raises DecodeError: the bytes are not what the content type says.
    :raises Undecodable: the decoded body is no task's body.
    """
    payload = head.payload
    if payload is None:
        compression = envelope.headers.get("compression")
        payload = decode(envelope.body, envelope.content_type, envelope.content_encoding, compression=compression, accept=accept)
    if isinstance(payload, Mapping):
        return _call_from_mapping(head, payload)
    try:
        args, kwargs, embed = payload
    except (TypeError, ValueError):
        raise Undecodable(f"the body of a task message must be [args, kwargs, embed], not {_shown(payload)}") from None
    embed = embed or {}
    if not isinstance(embed, Mapping):
        raise Undecodable(f"the third part of the body must be a mapping, not {_shown(embed)}")
    if type(args) is not list or type(kwargs) is not dict:
        _check_arguments(args, kwargs)
    return Call(
        head.task,
        head.id,
        args,
        kwargs,
        embed.get("callbacks"),
        embed.get("errbacks"),
        embed.get("chain"),
        embed.get("chord"),
        head.headers,
    )


def _headers_from_body(headers: dict[str, Any], payload: Any) -> dict[str, Any]:
    """Protocol 1's body as protocol 2's headers; what the message's own headers say wins (a hybrid)."""
    if not isinstance(payload, Mapping) or "task" not in payload or "id" not in payload:
        raise Undecodable(
            "this is no task message: neither its headers (protocol 2) nor its body (protocol 1) say a 'task' and an 'id'"
        )
    found = _protocol_2(payload)
    if headers:
        found["headers"] = dict(headers)
    found.update((name, value) for name, value in headers.items() if value is not None)
    return found


def _protocol_2(payload: Mapping[str, Any]) -> dict[str, Any]:
    found = {name: payload.get(name) for name in HEADERS_IN_BODY}
    found["group"] = payload.get("taskset", payload.get("group"))
    found["retries"] = payload.get("retries") or 0
    found["ignore_result"] = payload.get("ignore_result", False)
    found["argsrepr"] = payload.get("argsrepr") or saferepr(payload.get("args", ()))
    found["kwargsrepr"] = payload.get("kwargsrepr") or saferepr(payload.get("kwargs", {}))
    return found


HEADERS_IN_BODY = (
    "lang",
    "task",
    "id",
    "root_id",
    "parent_id",
    "group",
    "group_index",
    "shadow",
    "eta",
    "expires",
    "timelimit",
    "origin",
    "utc",
)


def _call_from_mapping(head: Head, payload: Mapping[str, Any]) -> Call:
    args, kwargs = payload.get("args", ()), payload.get("kwargs", {})
    _check_arguments(args, kwargs)
    callbacks, errbacks = payload.get("callbacks"), payload.get("errbacks")
    # Protocol 1 has no chains: the next step is a callback.
    return Call(head.task, head.id, args, kwargs, callbacks, errbacks, None, payload.get("chord"), head.headers)


def _check_arguments(args: Any, kwargs: Any) -> None:
    if not isinstance(args, list | tuple):
        raise Undecodable(f"a task's positional arguments must be a list, not {_shown(args)}")
    if not isinstance(kwargs, Mapping):
        raise Undecodable(f"a task's keyword arguments must be a mapping, not {_shown(kwargs)}")


def _check_retries(headers: dict[str, Any]) -> None:
    retries = headers.get("retries")
    if retries is None:
        headers["retries"] = 0
    elif type(retries) is not int:
        raise Undecodable(f"the header 'retries' must be a whole number, not {_shown(retries)}")


_NO_LIMITS = (None, None)


def _limits(timelimit: Any) -> tuple[float | None, float | None]:
    if not timelimit:
        return _NO_LIMITS
    try:
        hard, soft = timelimit
    except (TypeError, ValueError):
        raise Undecodable(f"the header 'timelimit' must be [hard, soft] in seconds, not {_shown(timelimit)}") from None
    for limit in (hard, soft):
        if limit is not None and (not isinstance(limit, int | float) or isinstance(limit, bool)):
            raise Undecodable(f"the header 'timelimit' must hold numbers of seconds, not {_shown(limit)}")
    # Celery reads 0 as "no limit", as it does None.
    return hard or None, soft or None


def _wall_time(value: Any, header: str, naive_zone: tzinfo) -> float:
    try:
        moment = value if isinstance(value, datetime) else datetime.fromisoformat(value)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=naive_zone)
        return moment.timestamp()
    except (TypeError, ValueError, OverflowError) as error:
        raise Undecodable(f"the header {header!r} must be a time in ISO 8601, not {_shown(value)}: {error}") from None


def _shown(value: Any) -> str:
    """The value for an error message: bounded, whatever a stranger sent."""
    return saferepr(value, 120)
