"""AMQP 0-9-1 as bytes: frames, methods, properties and field tables. Pure. Neighbour: :mod:`jumpstarter.brokers.kombu.link`.

py-amqp shakes hands; from then on these functions read and write the frames, because what a message costs decides how many a
second go through: py-amqp decodes one in about 90 µs (three frames of two reads each, promises, generic tables), this module in
about 15 µs. What is written is byte for byte what py-amqp writes (``tests/brokers/test_kombu_wire.py`` compares them), so other
consumers see no difference. The format: https://www.rabbitmq.com/resources/specs/amqp0-9-1.pdf, with RabbitMQ's letters for
field types (https://www.rabbitmq.com/amqp-0-9-1-errata.html).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from struct import Struct
from struct import error as StructError  # noqa: N812 - its own name says nothing
from typing import Any, Final

from jumpstarter.errors import MessageError, Undecodable

METHOD: Final = 1
HEADER: Final = 2
BODY: Final = 3
HEARTBEAT: Final = 8
END: Final = b"\xce"
_KINDS: Final = frozenset({METHOD, HEADER, BODY, HEARTBEAT})

# Methods as class << 16 | method.
CONNECTION_CLOSE: Final = 10 << 16 | 50
CONNECTION_CLOSE_OK: Final = 10 << 16 | 51
CONNECTION_BLOCKED: Final = 10 << 16 | 60
CONNECTION_UNBLOCKED: Final = 10 << 16 | 61
CHANNEL_OPEN: Final = 20 << 16 | 10
CHANNEL_OPEN_OK: Final = 20 << 16 | 11
CHANNEL_CLOSE: Final = 20 << 16 | 40
CHANNEL_CLOSE_OK: Final = 20 << 16 | 41
EXCHANGE_DECLARE: Final = 40 << 16 | 10
EXCHANGE_DECLARE_OK: Final = 40 << 16 | 11
EXCHANGE_BIND: Final = 40 << 16 | 30
EXCHANGE_BIND_OK: Final = 40 << 16 | 31
QUEUE_DECLARE: Final = 50 << 16 | 10
QUEUE_DECLARE_OK: Final = 50 << 16 | 11
QUEUE_BIND: Final = 50 << 16 | 20
QUEUE_BIND_OK: Final = 50 << 16 | 21
QUEUE_PURGE: Final = 50 << 16 | 30
QUEUE_PURGE_OK: Final = 50 << 16 | 31
QUEUE_UNBIND: Final = 50 << 16 | 50
QUEUE_UNBIND_OK: Final = 50 << 16 | 51
QUEUE_DELETE: Final = 50 << 16 | 40
QUEUE_DELETE_OK: Final = 50 << 16 | 41
BASIC_QOS: Final = 60 << 16 | 10
BASIC_QOS_OK: Final = 60 << 16 | 11
BASIC_CONSUME: Final = 60 << 16 | 20
BASIC_CONSUME_OK: Final = 60 << 16 | 21
BASIC_CANCEL: Final = 60 << 16 | 30
BASIC_CANCEL_OK: Final = 60 << 16 | 31
BASIC_PUBLISH: Final = 60 << 16 | 40
BASIC_RETURN: Final = 60 << 16 | 50
BASIC_DELIVER: Final = 60 << 16 | 60
BASIC_GET: Final = 60 << 16 | 70
BASIC_GET_OK: Final = 60 << 16 | 71
BASIC_GET_EMPTY: Final = 60 << 16 | 72
BASIC_ACK: Final = 60 << 16 | 80
BASIC_REJECT: Final = 60 << 16 | 90
BASIC_NACK: Final = 60 << 16 | 120
CONFIRM_SELECT: Final = 85 << 16 | 10
CONFIRM_SELECT_OK: Final = 85 << 16 | 11
TX_SELECT: Final = 90 << 16 | 10
TX_SELECT_OK: Final = 90 << 16 | 11
TX_COMMIT: Final = 90 << 16 | 20
TX_COMMIT_OK: Final = 90 << 16 | 21

#: Methods that a content header and bodies follow.
WITH_CONTENT: Final = frozenset({BASIC_RETURN, BASIC_DELIVER, BASIC_GET_OK})

_U16, _U32, _U64 = Struct(">H"), Struct(">I"), Struct(">Q")
_I16, _I32, _I64 = Struct(">h"), Struct(">i"), Struct(">q")
_F32, _F64 = Struct(">f"), Struct(">d")
_FRAME_HEAD, _METHOD_HEAD, _CONTENT_HEAD = Struct(">BHI"), Struct(">BHII"), Struct(">BHIHHQ")
_STRING, _INT, _LONG, _FLOAT, _BOOL = Struct(">cI"), Struct(">ci"), Struct(">cq"), Struct(">cd"), Struct(">cB")


# Field tables.


def _short(text: str) -> bytes:
    raw = _bytes(text)
    if len(raw) > 255:
        raise MessageError(f"{text[:60]!r}… has {len(raw)} bytes where AMQP allows 255")
    return bytes((len(raw),)) + raw


def table(fields: Mapping[str, Any]) -> bytes:
    """A field table with its length.

    :raises MessageError: it holds what AMQP has no type for.
    """
    parts: list[bytes] = []
    for name, value in fields.items():
        parts.append(_name(name))
        parts.append(_value(value, name))
    raw = b"".join(parts)
    return _U32.pack(len(raw)) + raw


_names_out: dict[str, bytes] = {}


def _name(name: str) -> bytes:
    known = _names_out.get(name)
    if known is None:
        known = _short(str(name))
        if len(_names_out) < 1000:  # the usual names are few; those that users make up may be endless
            _names_out[name] = known
    return known


def _value(value: Any, name: str) -> bytes:
    writer = _WRITERS.get(type(value))
    if writer is not None:
        return writer(value, name)
    for kind, write in _WRITERS.items():
        if isinstance(value, kind):
            return write(value, name)
    if isinstance(value, Mapping):
        return _write_table(dict(value), name)
    raise MessageError(
        f"header {name!r} is a {type(value).__name__}, which AMQP headers cannot hold ({value!r:.60}). Put it into the body."
    )


def _write_text(value: str, _name: str) -> bytes:
    raw = _bytes(value)
    return _STRING.pack(b"S", len(raw)) + raw


def _write_int(value: int, name: str) -> bytes:
    if -2147483647 <= value <= 2147483647:
        return _INT.pack(b"I", value)
    try:
        return _LONG.pack(b"L", value)
    except StructError:
        raise MessageError(f"header {name!r} is {value:.3e}: AMQP's integers end at 64 bits. Put it into the body.") from None


def _write_table(value: Mapping[str, Any], _name: str) -> bytes:
    return b"F" + table(value)


def _write_array(value: Sequence[Any], name: str) -> bytes:
    raw = b"".join([_value(item, name) for item in value])
    return b"A" + _U32.pack(len(raw)) + raw


def _write_decimal(value: Decimal, name: str) -> bytes:
    sign, digits, exponent = value.as_tuple()
    if not isinstance(exponent, int) or exponent > 0 or exponent < -255:
        raise MessageError(f"header {name!r} is the decimal {value}, which AMQP cannot hold. Put it into the body.")
    number = int("".join(map(str, digits))) * (-1 if sign else 1)
    try:
        return b"D" + bytes((-exponent,)) + _I32.pack(number)
    except StructError:
        raise MessageError(f"header {name!r} is the decimal {value}, which AMQP cannot hold. Put it into the body.") from None


def _write_time(value: datetime, _name: str) -> bytes:
    # Times without a zone are taken for UTC, as py-amqp does.
    return b"T" + _U64.pack(int((value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp()))


_WRITERS: Final[dict[type, Callable[[Any, str], bytes]]] = {
    str: _write_text,
    type(None): lambda _value, _name: b"V",
    bool: lambda value, _name: _BOOL.pack(b"t", value),
    int: _write_int,
    float: lambda value, _name: _FLOAT.pack(b"d", value),
    dict: _write_table,
    list: _write_array,
    tuple: _write_array,
    bytes: lambda value, _name: _STRING.pack(b"S", len(value)) + value,
    Decimal: _write_decimal,
    datetime: _write_time,
}

_names_in: dict[bytes, str] = {}


def read_table(raw: bytes, position: int) -> tuple[dict[str, Any], int]:
    """The table at the position, and the position behind it.

    :raises Undecodable: it is none.
    """
    end = position + 4 + _U32.unpack_from(raw, position)[0]
    position += 4
    fields: dict[str, Any] = {}
    while position < end:
        stop = position + 1 + raw[position]
        name = raw[position + 1 : stop]
        known = _names_in.get(name)
        if known is None:
            known = _text(name)
            if len(_names_in) < 1000:
                _names_in[name] = known
        kind = raw[stop]
        position = stop + 1
        # The two that nearly all headers are; the others by table.
        if kind == 83:
            stop = position + 4 + _U32.unpack_from(raw, position)[0]
            fields[known] = _text(raw[position + 4 : stop])
            position = stop
        elif kind == 86:
            fields[known] = None
        else:
            fields[known], position = _read(kind, raw, position)
    return fields, end


def _text(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return _odd_text(raw)


def _odd_text(raw: bytes) -> str:
    try:
        return raw.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return raw.decode("utf-8", "surrogateescape")


def _bytes(text: str) -> bytes:
    """The bytes that :func:`_text` read, also where they are no UTF-8."""
    try:
        return text.encode()
    except UnicodeEncodeError:
        return _odd_bytes(text)


def _odd_bytes(text: str) -> bytes:
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogatepass")


def _read(kind: int, raw: bytes, position: int) -> tuple[Any, int]:
    reader = _READERS.get(kind)
    if reader is None:
        raise Undecodable(f"an AMQP table holds a value of the unknown type {chr(kind)!r}")
    return reader(raw, position)


def _number(form: Struct) -> Callable[[bytes, int], tuple[Any, int]]:
    unpack, size = form.unpack_from, form.size
    return lambda raw, position: (unpack(raw, position)[0], position + size)


def _read_text(raw: bytes, position: int) -> tuple[Any, int]:
    stop = position + 4 + _U32.unpack_from(raw, position)[0]
    return _text(raw[position + 4 : stop]), stop


def _read_array(raw: bytes, position: int) -> tuple[list[Any], int]:
    end = position + 4 + _U32.unpack_from(raw, position)[0]
    position += 4
    items = []
    while position < end:
        item, position = _read(raw[position], raw, position + 1)
        items.append(item)
    return items, end


def _read_decimal(raw: bytes, position: int) -> tuple[Any, int]:
    return float(Decimal(_I32.unpack_from(raw, position + 1)[0]) / 10 ** raw[position]), position + 5


_READERS: Final[dict[int, Callable[[bytes, int], tuple[Any, int]]]] = {
    ord("S"): _read_text,
    ord("x"): _read_text,
    ord("V"): lambda _raw, position: (None, position),
    ord("t"): lambda raw, position: (raw[position] != 0, position + 1),
    ord("b"): lambda raw, position: (raw[position] - (raw[position] > 127) * 256, position + 1),
    ord("B"): lambda raw, position: (raw[position], position + 1),
    ord("U"): _number(_I16),
    ord("s"): _number(_I16),
    ord("u"): _number(_U16),
    ord("I"): _number(_I32),
    ord("i"): _number(_U32),
    ord("l"): _number(_I64),
    ord("L"): _number(_I64),  # as py-amqp writes them: signed
    ord("f"): _number(_F32),
    ord("d"): _number(_F64),
    ord("D"): _read_decimal,
    ord("T"): _number(_U64),  # seconds: headers are JSON values here
    ord("F"): read_table,
    ord("A"): _read_array,
}


# Properties: (name, flag, kind); "s" short text, "o" octet, "t" seconds, "F" table.

_PROPERTIES: Final = (
    ("content_type", 0x8000, "s"),
    ("content_encoding", 0x4000, "s"),
    ("headers", 0x2000, "F"),
    ("delivery_mode", 0x1000, "o"),
    ("priority", 0x0800, "o"),
    ("correlation_id", 0x0400, "s"),
    ("reply_to", 0x0200, "s"),
    ("expiration", 0x0100, "s"),
    ("message_id", 0x0080, "s"),
    ("timestamp", 0x0040, "t"),
    ("type", 0x0020, "s"),
    ("user_id", 0x0010, "s"),
    ("app_id", 0x0008, "s"),
    ("cluster_id", 0x0004, "s"),
)


def write_properties(properties: Mapping[str, Any]) -> bytes:
    """Basic properties, ``headers`` among them; names that AMQP does not know are left out, as py-amqp leaves them out.

    :raises MessageError: a value cannot be written.
    """
    flags = 0
    parts = [b""]
    for name, flag, kind in _PROPERTIES:
        value = properties.get(name)
        if value is None:
            continue
        flags |= flag
        try:
            parts.append(_write_property(kind, value))
        except (AttributeError, TypeError, ValueError, StructError) as error:
            raise MessageError(f"the property {name} cannot be {value!r:.60} ({error})") from error
    parts[0] = _U16.pack(flags)
    return b"".join(parts)


def _write_property(kind: str, value: Any) -> bytes:
    if kind == "s":
        return _short(value if isinstance(value, str) else str(value))
    if kind == "o":
        return bytes((value,))
    if kind == "F":
        return table(value)
    return _U64.pack(int(value.timestamp() if isinstance(value, datetime) else value))


def read_properties(raw: bytes) -> dict[str, Any]:
    """What :func:`write_properties` wrote.

    :raises Undecodable: the bytes are no properties.
    """
    try:
        return _read_properties(raw)
    except (IndexError, StructError, UnicodeDecodeError, ZeroDivisionError, RecursionError) as error:
        raise Undecodable(f"these are no AMQP properties: {error!r}") from error


def _read_properties(raw: bytes) -> dict[str, Any]:
    flags = _U16.unpack_from(raw)[0]
    position = 2
    properties: dict[str, Any] = {}
    for name, flag, kind in _PROPERTIES:
        if not flags & flag:
            continue
        if kind == "s":
            stop = position + 1 + raw[position]
            properties[name] = _text(raw[position + 1 : stop])
            position = stop
        elif kind == "F":
            properties[name], position = read_table(raw, position)
        elif kind == "o":
            properties[name] = raw[position]
            position += 1
        else:
            properties[name] = _U64.unpack_from(raw, position)[0]
            position += 8
    if position > len(raw):
        raise Undecodable("these AMQP properties are cut off")
    return properties


# Frames out.


def method(channel: int, number: int, arguments: bytes = b"") -> bytes:
    """A method frame. See :func:`arguments`."""
    return _METHOD_HEAD.pack(METHOD, channel, 4 + len(arguments), number) + arguments + END


def arguments(form: str, *values: Any) -> bytes:
    """Arguments of a method. ``form`` has a letter for each: o octet, B short, l long, L long long, s short text, S long text, F
    table; ``b`` is a whole octet of bits that the caller has put together."""
    return b"".join([_ARGUMENTS[letter](value) for letter, value in zip(form, values, strict=True)])


_ARGUMENTS: Final[dict[str, Callable[[Any], bytes]]] = {
    "o": lambda value: bytes((value,)),
    "b": lambda value: bytes((value,)),
    "B": _U16.pack,
    "l": _U32.pack,
    "L": _U64.pack,
    "s": _short,
    "S": lambda value: _U32.pack(len(value.encode())) + value.encode(),
    "F": lambda value: table(value or {}),
}


def content(channel: int, properties: bytes, body: bytes, frame_max: int) -> bytes:
    """The frames that follow a publish: header and body, the latter in as many frames as it takes."""
    head = _CONTENT_HEAD.pack(HEADER, channel, 12 + len(properties), 60, 0, len(body)) + properties + END
    most = frame_max - 8
    if len(body) <= most:
        return b"".join((head, _FRAME_HEAD.pack(BODY, channel, len(body)), body, END)) if body else head
    parts = [head]
    for start in range(0, len(body), most):
        part = body[start : start + most]
        parts += (_FRAME_HEAD.pack(BODY, channel, len(part)), part, END)
    return b"".join(parts)


def split_header(frames: bytes) -> tuple[bytes, bytes]:
    """The first frame of a :func:`content`, and the others."""
    end = 8 + _U32.unpack_from(frames, 3)[0]
    return frames[:end], frames[end:]


def publish(channel: int, exchange: str, routing_key: str, *, mandatory: bool = True) -> bytes:
    """The method frame of a publish; :func:`content` has to follow."""
    return method(channel, BASIC_PUBLISH, b"\0\0" + _short(exchange) + _short(routing_key) + bytes((mandatory,)))


def ack(channel: int, tag: int, *, multiple: bool = False) -> bytes:
    """Ack a message, or all up to it."""
    return method(channel, BASIC_ACK, _U64.pack(tag) + bytes((multiple,)))


def reject(channel: int, tag: int) -> bytes:
    """Reject a message for good."""
    return method(channel, BASIC_REJECT, _U64.pack(tag) + b"\0")


def get(channel: int, queue: str) -> bytes:
    """Ask for one message."""
    return method(channel, BASIC_GET, b"\0\0" + _short(queue) + b"\0")


def consume(channel: int, queue: str, consumer: str) -> bytes:
    """Consume with acks; the server answers consume-ok."""
    return method(channel, BASIC_CONSUME, b"\0\0" + _short(queue) + _short(consumer) + b"\0" + table({}))


def cancel(channel: int, consumer: str) -> bytes:
    """Cancel a consumer; the server answers cancel-ok, behind everything that it had delivered to it."""
    return method(channel, BASIC_CANCEL, _short(consumer) + b"\0")


def qos(channel: int, prefetch: int) -> bytes:
    """How many unacked messages each consumer that is started from now on may have."""
    return method(channel, BASIC_QOS, arguments("lBb", 0, prefetch, 0))


def commit(channel: int) -> bytes:
    """Carry out what was published and acked since the last commit."""
    return method(channel, TX_COMMIT)


_ACK_AND_COMMIT: Final = Struct(">BHIIQBBBHIIB")


def ack_and_commit(channel: int, tag: int) -> bytes:
    """:func:`ack` and :func:`commit`, for one message: what is sent for every job that is acked before it begins."""
    return _ACK_AND_COMMIT.pack(METHOD, channel, 13, BASIC_ACK, tag, 0, 206, METHOD, channel, 4, TX_COMMIT, 206)


HEARTBEAT_FRAME: Final = _FRAME_HEAD.pack(HEARTBEAT, 0, 0) + END


# Frames in.


@dataclass(slots=True, eq=False)
class Message:
    """A message as it came: the properties are read by whoever needs them.

    :ivar kind: BASIC_DELIVER, BASIC_GET_OK or BASIC_RETURN.
    :ivar consumer: the consumer's tag of a delivery, else empty.
    :ivar tag: the delivery tag.
    :ivar left: how many more wait in the queue, where it was got.
    :ivar properties: raw.
    """

    kind: int
    consumer: str
    tag: int
    redelivered: bool
    exchange: str
    routing_key: str
    left: int = 0
    properties: bytes = b""
    body: bytes = b""


def _short_at(raw: bytes, position: int) -> tuple[str, int]:
    stop = position + 1 + raw[position]
    part = raw[position + 1 : stop]
    known = _names_in.get(part)
    return (_text(part) if known is None else known), stop


def _read_message(kind: int, raw: bytes, position: int) -> Message:
    if kind == BASIC_DELIVER:
        consumer, position = _short_at(raw, position)
        tag = _U64.unpack_from(raw, position)[0]
        exchange, after = _short_at(raw, position + 9)
        return Message(kind, consumer, tag, raw[position + 8] != 0, exchange, _short_at(raw, after)[0])
    if kind == BASIC_GET_OK:
        exchange, after = _short_at(raw, position + 9)
        routing_key, after = _short_at(raw, after)
        tag, left = _U64.unpack_from(raw, position)[0], _U32.unpack_from(raw, after)[0]
        return Message(kind, "", tag, raw[position + 8] != 0, exchange, routing_key, left)
    # Return: code, text, exchange, routing key.
    _, position = _short_at(raw, position + 2)
    exchange, after = _short_at(raw, position)
    return Message(kind, "", 0, False, exchange, _short_at(raw, after)[0])


class Reader:
    """Turns the bytes of a connection into methods and messages, in their order.

    :param on_message: gets the channel and a complete message.
    :param on_method: gets the channel, the method and its arguments.
    """

    def __init__(self, on_message: Callable[[int, Message], None], on_method: Callable[[int, int, bytes], None]) -> None:
        self._on_message = on_message
        self._on_method = on_method
        self._rest = b""
        # By channel: the message whose content has not arrived whole, the bytes that are missing, and the parts that are there.
        self._partial: dict[int, tuple[Message, int, list[bytes]]] = {}

    def feed(self, data: bytes) -> None:
        """Take what has arrived.

        :raises Undecodable: this is not AMQP.
        """
        raw = self._rest + data if self._rest else data
        position, length = 0, len(raw)
        unpack = _METHOD_HEAD.unpack_from
        while length - position >= 8:
            # The first four bytes of what the frame holds are read along; an empty frame (8 bytes) has only its end there.
            if length - position < 11:
                kind, channel, size = _FRAME_HEAD.unpack_from(raw, position)
                number = 0
            else:
                kind, channel, size, number = unpack(raw, position)
            stop = position + 7 + size
            if stop >= length and kind in _KINDS:
                break
            if kind not in _KINDS or raw[stop] != 206:
                raise Undecodable("these bytes from the server are no AMQP frame")
            if kind == METHOD:
                if number in WITH_CONTENT:
                    self._partial[channel] = (_read_message(number, raw, position + 11), -1, [])
                else:
                    self._on_method(channel, number, raw[position + 11 : stop])
            elif kind == HEADER:
                self._header(channel, raw, position + 7, stop)
            elif kind == BODY:
                self._body(channel, raw[position + 7 : stop])
            position = stop + 1
        self._rest = raw[position:] if position else raw

    def _header(self, channel: int, raw: bytes, position: int, stop: int) -> None:
        message, _, parts = self._partial[channel]
        message.properties = raw[position + 12 : stop]
        size = _U64.unpack_from(raw, position + 4)[0]
        if size:
            self._partial[channel] = (message, size, parts)
        else:
            del self._partial[channel]
            self._on_message(channel, message)

    def _body(self, channel: int, part: bytes) -> None:
        message, missing, parts = self._partial[channel]
        missing -= len(part)
        if missing > 0:
            parts.append(part)
            self._partial[channel] = (message, missing, parts)
            return
        message.body = b"".join([*parts, part]) if parts else part
        del self._partial[channel]
        self._on_message(channel, message)


def read_close(raw: bytes) -> tuple[int, str]:
    """Code and text of a close."""
    return _U16.unpack_from(raw)[0], _short_at(raw, 2)[0]


def read_blocked(raw: bytes) -> str:
    """Why the server blocks the connection."""
    return _short_at(raw, 0)[0]


def read_confirm(raw: bytes) -> tuple[int, bool]:
    """Number and whether it stands for all before it."""
    return _U64.unpack_from(raw)[0], bool(raw[8] & 1)


def read_declared(raw: bytes) -> tuple[str, int]:
    """Name of a queue and how many messages wait in it."""
    name, position = _short_at(raw, 0)
    return name, _U32.unpack_from(raw, position)[0]


def read_count(raw: bytes) -> int:
    """How many messages were purged."""
    return int(_U32.unpack_from(raw)[0])


def read_consumer(raw: bytes) -> str:
    """The tag of a consumer that was started or cancelled."""
    return _short_at(raw, 0)[0]
