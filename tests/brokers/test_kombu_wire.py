"""AMQP's bytes are py-amqp's, however they arrive."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime
from decimal import Decimal
from io import BytesIO

import amqp
import pytest
from amqp.method_framing import frame_writer
from amqp.serialization import decode_properties_basic, dumps, loads
from hypothesis import given
from hypothesis import strategies as st

from jumpstarter.brokers.kombu import wire
from jumpstarter.brokers.kombu.message import copied, delivery_of, is_servers, properties_of
from jumpstarter.brokers.kombu.topology import undelayed
from jumpstarter.errors import MessageError, Undecodable
from jumpstarter.jobs import Envelope

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4),
    max_leaves=12,
)
tables = st.dictionaries(text, values, max_size=8)


class Wire:
    """What a py-amqp connection gives its frame writer, and what that writes."""

    frame_max = 200
    bytes_sent = 0

    def __init__(self):
        self.written = BytesIO()

    def write(self, data):
        self.written.write(bytes(data))


@given(tables)
def test_tables_are_written_as_py_amqp_writes_them_and_read_back(fields):
    raw = wire.table(fields)
    assert raw == dumps("F", [fields])
    assert wire.read_table(raw, 0) == (fields, len(raw))
    assert loads("F", raw, 0)[0] == [fields]


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "content_type": text,
            "content_encoding": text,
            "headers": tables,
            "delivery_mode": st.integers(0, 255),
            "priority": st.integers(0, 255),
            "correlation_id": text,
            "reply_to": text,
            "expiration": text,
            "message_id": text,
            "type": text,
            "user_id": text,
            "app_id": text,
            "cluster_id": text,
        },
    )
)
def test_properties_are_written_as_py_amqp_writes_them_and_read_back(properties):
    raw = wire.write_properties(properties)
    theirs = {("application_headers" if name == "headers" else name): value for name, value in properties.items()}
    assert raw == amqp.Message("", **theirs)._serialize_properties()
    assert wire.read_properties(raw) == properties
    assert decode_properties_basic(raw, 0)[0] == theirs


@pytest.mark.parametrize("size", [0, 1, 50, 192, 193, 1000])
def test_a_publish_is_written_as_py_amqp_writes_it(size):
    connection = Wire()
    body = b"x" * size
    message = amqp.Message(body, content_type="a/b", application_headers={"id": "1"})
    arguments = dumps("Bssb", [0, "exchange", "key", True])
    frame_writer(connection, connection)(1, 1, (60, 40), arguments, message)
    properties = wire.write_properties({"content_type": "a/b", "headers": {"id": "1"}})
    ours = wire.publish(1, "exchange", "key") + wire.content(1, properties, body, connection.frame_max)
    assert ours == connection.written.getvalue()


def test_small_things_are_written_as_py_amqp_writes_them():
    connection = Wire()
    write = frame_writer(connection, connection)
    write(1, 1, (60, 80), dumps("Lb", [7, True]), None)
    write(1, 1, (60, 90), dumps("Lb", [7, False]), None)
    write(1, 1, (60, 70), dumps("Bsb", [0, "q", False]), None)
    write(1, 1, (60, 10), dumps("lBb", [0, 5, False]), None)
    write(1, 1, (60, 20), dumps("BssbbbbF", [0, "q", "me", False, False, False, False, {}]), None)
    write(1, 1, (60, 30), dumps("sb", ["me", False]), None)
    write(1, 1, (90, 20), b"", None)
    ours = wire.ack(1, 7, multiple=True) + wire.reject(1, 7) + wire.get(1, "q") + wire.qos(1, 5)
    ours += wire.consume(1, "q", "me") + wire.cancel(1, "me") + wire.commit(1)
    assert ours == connection.written.getvalue()


def deliver(tag, body, *, redelivered=False, channel=1, frame_max=60):
    form = dumps("sLbss", ["me", tag, redelivered, "exchange", "key"])
    head = wire.method(channel, wire.BASIC_DELIVER, form)
    return head + wire.content(channel, wire.write_properties({"headers": {"id": str(tag)}}), body, frame_max)


@given(st.lists(st.integers(1, 400), max_size=30), st.lists(st.binary(max_size=150), min_size=1, max_size=5))
def test_messages_arrive_whole_however_their_bytes_are_cut(cuts, bodies):
    raw = b"".join(deliver(number, body, redelivered=number % 2 == 1) for number, body in enumerate(bodies))
    raw += wire.HEARTBEAT_FRAME + wire.method(1, wire.TX_COMMIT_OK)
    got, methods = [], []
    reader = wire.Reader(lambda channel, message: got.append(message), lambda *method: methods.append(method))
    position = 0
    for cut in [*cuts, len(raw)]:
        reader.feed(raw[position : position + cut])
        position += cut
    assert [(one.tag, one.body, one.redelivered, one.consumer) for one in got] == [
        (number, body, number % 2 == 1, "me") for number, body in enumerate(bodies)
    ]
    assert {(one.exchange, one.routing_key) for one in got} == {("exchange", "key")}
    assert methods == [(1, wire.TX_COMMIT_OK, b"")]


def test_contents_of_two_channels_may_mix():
    one, two = deliver(1, b"a" * 200), deliver(2, b"b" * 200, channel=2)
    got = []
    reader = wire.Reader(lambda channel, message: got.append((channel, message.body)), lambda *method: None)
    frames = [list(split(raw)) for raw in (one, two)]
    for pair in zip(*frames, strict=True):
        for frame in pair:
            reader.feed(frame)
    assert got == [(1, b"a" * 200), (2, b"b" * 200)]


def split(raw):
    while raw:
        size = 8 + int.from_bytes(raw[3:7])
        yield raw[:size]
        raw = raw[size:]


def test_what_is_no_frame_is_refused():
    with pytest.raises(Undecodable):
        wire.Reader(lambda *_: None, lambda *_: None).feed(b"HTTP/1.1 400 Bad Request\r\n" + b"x" * 2**25)


@given(st.binary(max_size=60))
def test_properties_that_cannot_be_read_are_undecodable_and_nothing_else(raw):
    with contextlib.suppress(Undecodable):
        wire.read_properties(raw)


@pytest.mark.parametrize(
    ("headers", "name"),
    [
        ({"a": object()}, "'a'"),
        ({"a": 2**63}, "'a'"),
        ({"a": {1, 2}}, "'a'"),
        ({"a": Decimal("NaN")}, "'a'"),
        ({"x" * 256: 1}, "'xxx"),
        ({"nested": {"list": [b"", object()]}}, "'list'"),
    ],
)
def test_what_amqp_cannot_carry_is_refused_with_its_name(headers, name):
    with pytest.raises(MessageError, match=name):
        wire.table(headers)


def test_foreign_types_are_read_as_json_values():
    when = datetime(2026, 1, 2, tzinfo=UTC)
    fields = {"when": when, "price": Decimal("1.25"), "raw": b"\xff\xfe"}
    raw = wire.table(fields)
    read, _ = wire.read_table(raw, 0)
    assert read["when"] == int(when.timestamp())
    assert read["price"] == 1.25
    # What is no UTF-8 keeps its bytes on its way back.
    assert wire.table({"raw": read["raw"]}) == wire.table({"raw": b"\xff\xfe"})


def message(headers, *, exchange="", routing_key="q", body=b"[]", **properties):
    raw = wire.write_properties({"headers": headers, **properties})
    return wire.Message(wire.BASIC_GET_OK, "", 1, False, exchange, routing_key, 0, raw, body)


def test_a_copy_of_a_plain_message_has_the_same_bytes():
    one = message({"id": "1"}, user_id="guest")
    assert copied(one, {}) is one.properties


def test_a_copy_loses_what_the_server_would_act_upon():
    one = message({"id": "1", "x-death": [{}], "x-delivery-count": 3, "CC": ["r"], "x-first-death-queue": "q"}, user_id="guest")
    read = wire.read_properties(copied(one, {}))
    assert read["headers"] == {"id": "1"}
    assert "user_id" not in read
    assert is_servers("x-last-death-reason")


def test_a_copy_remembers_how_its_publisher_sent_it():
    one = message({"id": "1"}, exchange="shop", routing_key="shop.mail")
    copy = wire.Message(wire.BASIC_GET_OK, "", 1, False, "", "q", 0, copied(one, {}), b"")
    delivery, is_suspect = delivery_of(copy, "q", "t", 1)
    assert (delivery.envelope.exchange, delivery.envelope.routing_key) == ("shop", "shop.mail")
    assert delivery.envelope.headers == {"id": "1"}
    assert not is_suspect


@pytest.mark.parametrize("count", [-1, "7", True, None, 1.5, {}])
def test_a_count_that_is_none_counts_as_none(count):
    delivery, _ = delivery_of(message({"x-jumpstarter-deliveries": count}), "q", "t", 1)
    assert delivery.attempt == 1


def test_a_message_whose_properties_are_broken_has_a_fault():
    broken = wire.Message(wire.BASIC_GET_OK, "", 1, False, "", "q", 0, b"\xff\xff\x09", b"body")
    delivery, _ = delivery_of(broken, "q", "t", 1)
    assert delivery.envelope is None
    assert isinstance(delivery.fault, Undecodable)
    assert delivery.raw.endswith(b"body")
    assert copied(broken, {"x": 1}) == broken.properties


def test_the_way_through_the_delay_is_not_seen_in_the_end():
    bits = ".".join("0" * 27 + "1")
    assert undelayed(f"{bits}.shop.mail") == "shop.mail"
    assert undelayed(f"{bits}.@shop") == ""
    assert undelayed("0.1.mail") is None
    assert undelayed("shop.mail." * 20) is None


def test_a_published_envelope_has_the_properties_that_celery_sends():
    envelope = Envelope(queue="q", body=b"", headers={"id": "1"}, properties={"reply_to": "me"}, priority=0)
    assert wire.read_properties(properties_of(envelope)) == {
        "content_type": "application/json",
        "content_encoding": "utf-8",
        "headers": {"id": "1"},
        "delivery_mode": 2,
        "priority": 0,
        "reply_to": "me",
    }
