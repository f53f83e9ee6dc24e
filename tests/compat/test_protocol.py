"""Messages: what genuine peers send is understood, what we send they understand."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kombu import serialization
from kombu.exceptions import ContentDisallowed, DecodeError, EncodeError

from compat_celery import protocol
from compat_celery.utils.saferepr import saferepr
from jumpstarter.errors import Undecodable
from jumpstarter.jobs import Envelope

JSON = frozenset({"application/json"})

# What genuine Celery 5.7.0 sent for add.apply_async((1, 2), task_id="id-1"), but for the host's name.
GENUINE_HEADERS = {
    "lang": "py",
    "task": "rec.add",
    "id": "id-1",
    "shadow": None,
    "eta": None,
    "expires": None,
    "group": None,
    "group_index": None,
    "retries": 0,
    "timelimit": [None, None],
    "root_id": "id-1",
    "parent_id": None,
    "argsrepr": "(1, 2)",
    "kwargsrepr": "{}",
    "origin": "gen1@host",
    "ignore_result": False,
    "replaced_task_nesting": 0,
    "stamped_headers": None,
    "stamps": {},
}
GENUINE_BODY = b'[[1, 2], {}, {"callbacks": null, "errbacks": null, "chain": null, "chord": null}]'


def envelope(headers: dict[str, Any] | None = None, body: bytes = GENUINE_BODY, **more: Any) -> Envelope:
    return Envelope(queue="celery", body=body, headers=GENUINE_HEADERS if headers is None else headers, **more)


def test_a_plain_call_has_the_headers_and_bytes_that_genuine_celery_sends() -> None:
    message = protocol.task_message_v2("id-1", "rec.add", (1, 2), {}, origin="gen1@host")
    assert message.headers == GENUINE_HEADERS
    assert list(message.headers) == list(GENUINE_HEADERS)
    assert message.properties == {"correlation_id": "id-1", "reply_to": ""}
    payload = protocol.encode(message.body)
    assert payload == (GENUINE_BODY, "application/json", "utf-8", None)


def test_a_genuine_message_is_understood_without_its_body() -> None:
    head = protocol.read_headers(envelope(body=b"not even json"), accept=JSON)
    assert (head.task, head.id, head.due, head.expires, head.payload) == ("rec.add", "id-1", None, None, None)


def test_a_genuine_body_becomes_a_call() -> None:
    message = envelope()
    call = protocol.read_body(message, protocol.read_headers(message), accept=JSON)
    assert (call.task, call.id, call.args, call.kwargs) == ("rec.add", "id-1", [1, 2], {})
    assert (call.callbacks, call.errbacks, call.chain, call.chord) == (None, None, None, None)


def test_eta_and_expiry_are_wall_times_and_naive_ones_are_utc() -> None:
    headers = GENUINE_HEADERS | {"eta": "2030-01-02T03:04:05", "expires": "2031-01-01T01:00:00+01:00"}
    head = protocol.read_headers(envelope(headers))
    assert head.due == datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC).timestamp()
    assert head.expires == datetime(2031, 1, 1, tzinfo=UTC).timestamp()


def test_a_naive_eta_is_read_in_the_zone_that_is_given() -> None:
    head = protocol.read_headers(
        envelope(GENUINE_HEADERS | {"eta": "2030-01-02T03:00:00"}), naive_zone=timezone(timedelta(hours=2))
    )
    assert head.due == datetime(2030, 1, 2, 1, tzinfo=UTC).timestamp()


def test_time_limits_are_hard_then_soft() -> None:
    head = protocol.read_headers(envelope(GENUINE_HEADERS | {"timelimit": [10, 5]}))
    assert (head.hard_limit, head.soft_limit) == (10, 5)


@pytest.mark.parametrize(
    ("header", "value"),
    [
        ("eta", "yesterday"),
        ("eta", 1e308),
        ("eta", ["2030"]),
        ("expires", {"a": 1}),
        ("expires", "9999-99-99"),
        ("timelimit", [1]),
        ("timelimit", "ab"),
        ("timelimit", ["1", None]),
        ("timelimit", 5),
        ("retries", "3"),
        ("retries", 1.5),
        ("task", 5),
        ("id", ["x"]),
    ],
)
def test_a_header_of_a_wrong_type_is_named(header: str, value: Any) -> None:
    with pytest.raises(Undecodable, match=header):
        protocol.read_headers(envelope(GENUINE_HEADERS | {header: value}))


def test_protocol_1_is_understood() -> None:
    body = {
        "task": "old.add",
        "id": "id-5",
        "args": [1],
        "kwargs": {"y": 2},
        "group": "g",
        "taskset": "g",
        "retries": 1,
        "eta": "2030-01-02T03:04:05",
        "expires": None,
        "utc": True,
        "callbacks": [{"task": "old.next"}],
        "errbacks": None,
        "timelimit": [7, None],
        "chord": None,
    }
    message = envelope({}, json.dumps(body).encode())
    head = protocol.read_headers(message, accept=JSON)
    call = protocol.read_body(message, head, accept=JSON)
    assert (head.task, head.id, head.hard_limit, head.headers["retries"], head.headers["group"]) == ("old.add", "id-5", 7, 1, "g")
    assert head.due == datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC).timestamp()
    assert (call.args, call.kwargs, call.callbacks, call.chain) == ([1], {"y": 2}, [{"task": "old.next"}], None)


def test_a_hybrid_has_its_arguments_in_the_body_and_what_the_headers_say_wins() -> None:
    body = {"task": "other", "id": "other", "args": [3], "kwargs": {}, "errbacks": [1]}
    message = envelope({"task": "rec.add", "id": "id-6"}, json.dumps(body).encode())
    head = protocol.read_headers(message, accept=JSON)
    call = protocol.read_body(message, head, accept=JSON)
    assert (call.task, call.id, call.args, call.errbacks) == ("rec.add", "id-6", [3], [1])


def test_our_protocol_1_reads_back() -> None:
    written = protocol.task_message_v1("i", "t", (1,), {"k": 2}, group_id="g", callbacks=[5], utc=True)
    assert written.headers == {}
    message = envelope({}, protocol.encode(written.body).body)
    call = protocol.read_body(message, protocol.read_headers(message))
    assert (call.task, call.args, call.kwargs, call.callbacks, call.headers["group"]) == ("t", [1], {"k": 2}, [5], "g")


@pytest.mark.parametrize("body", [b"[]", b"5", b'"text"', b"null", b'{"task": "x"}', b"[[1], {}, {}, 4]"])
def test_what_is_no_task_message_says_so(body: bytes) -> None:
    with pytest.raises(Undecodable, match="no task message"):
        protocol.read_headers(envelope({}, body), accept=JSON)


@pytest.mark.parametrize("body", [b"[1]", b"[5, {}, {}]", b"[[], [], {}]", b"[[], {}, [1]]", b'{"args": 5, "kwargs": {}}'])
def test_a_body_that_is_no_call_says_what_is_wrong(body: bytes) -> None:
    message = envelope(body=body)
    with pytest.raises(Undecodable, match="must be"):
        protocol.read_body(message, protocol.read_headers(message), accept=JSON)


@pytest.mark.parametrize("body", [b"\xff\xfe", b"[1,", b"", b'{"__type__": "datetime", "__value__": "never"}'])
def test_bytes_that_are_not_what_they_are_said_to_be_are_a_decode_error(body: bytes) -> None:
    with pytest.raises(DecodeError):
        protocol.decode(body, "application/json", "utf-8", accept=JSON)


def test_a_content_type_that_is_not_accepted_is_refused_before_anything_is_decompressed() -> None:
    with pytest.raises(ContentDisallowed, match="pickle"):
        protocol.decode(b"no gzip", "application/x-python-serialize", "binary", compression="application/x-gzip", accept=JSON)


def test_pickle_is_decoded_where_it_is_accepted() -> None:
    payload = protocol.encode({"a": {1, 2}}, "pickle")
    found = protocol.decode(payload.body, payload.content_type, payload.content_encoding, accept={payload.content_type})
    assert found == {"a": {1, 2}}


@pytest.mark.parametrize("name", ["gzip", "bzip2", "zlib"])
def test_compression_is_named_in_a_header_and_undone(name: str) -> None:
    payload = protocol.encode([1, "é"], "json", name)
    assert payload.compression
    assert protocol.decode(payload.body, payload.content_type, payload.content_encoding, compression=payload.compression) == [
        1,
        "é",
    ]


def test_a_broken_compressed_body_is_a_decode_error() -> None:
    with pytest.raises(DecodeError, match="decompress"):
        protocol.decode(b"nonsense", "application/json", "utf-8", compression="application/x-gzip")


@pytest.mark.parametrize("value", [timedelta(1), {1}, object()])
def test_what_json_cannot_carry_is_an_encode_error(value: object) -> None:
    with pytest.raises(EncodeError):
        protocol.encode([value])


def test_a_codec_that_replaces_kombus_json_is_used() -> None:
    original = serialization.registry._encoders["json"], serialization.registry._decoders["application/json"]
    serialization.register("json", lambda data: "[]", lambda text: "mine", "application/json", "utf-8")
    try:
        assert protocol.encode([1]).body == b"[]"
        assert protocol.decode(b"[1]", "application/json", "utf-8") == "mine"
    finally:
        serialization.registry._encoders["json"], serialization.registry._decoders["application/json"] = original


def test_a_decoder_alone_that_replaces_kombus_json_is_used() -> None:
    original = serialization.registry._decoders["application/json"]
    serialization.registry.register("json", None, lambda text: "mine", "application/json", "utf-8")
    try:
        assert protocol.decode(b"[1]", "application/json", "utf-8") == "mine"
        assert protocol.encode([1]).body == b"[1]"
    finally:
        serialization.registry._decoders["application/json"] = original


def test_json_that_is_disabled_is_not_read_on_the_fast_way_either() -> None:
    serialization.disable_insecure_serializers(["pickle"])
    try:
        with pytest.raises(ContentDisallowed):
            protocol.decode(b"[1]", "application/json", "utf-8")
    finally:
        serialization.enable_insecure_serializers(["json"])
        serialization.disable_insecure_serializers(["json"])


TYPED = st.one_of(
    st.datetimes(timezones=st.none() | st.just(UTC)),
    st.dates(),
    st.times(),
    st.decimals(allow_nan=False),
    st.uuids(),
    st.binary(max_size=8),
)
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20) | TYPED,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@given(args=st.lists(JSON_VALUES, max_size=4), kwargs=st.dictionaries(st.text(min_size=1, max_size=8), JSON_VALUES, max_size=3))
def test_any_call_survives_the_wire(args: list[Any], kwargs: dict[str, Any]) -> None:
    written = protocol.task_message_v2("i", "t", args, kwargs, origin="o", chain=[{"task": "next"}])
    payload = protocol.encode(written.body)
    message = Envelope(queue="q", body=payload.body, headers=written.headers)
    call = protocol.read_body(message, protocol.read_headers(message, accept=JSON), accept=JSON)
    assert (call.args, call.kwargs, call.chain) == (args, kwargs, [{"task": "next"}])


@given(value=JSON_VALUES)
def test_our_json_is_kombus_byte_for_byte(value: Any) -> None:
    assert protocol.encode(value).body.decode() == serialization.dumps(value, "json")[2]


@given(body=st.binary(max_size=60))
def test_no_bytes_make_reading_raise_anything_but_its_own_errors(body: bytes) -> None:
    message = envelope({}, body)
    with pytest.raises((Undecodable, DecodeError)):
        protocol.read_headers(message, accept=JSON)


def test_a_type_marker_that_is_written_with_escapes_is_understood() -> None:
    body = b'[{"__\\u0074ype__": "uuid", "__value__": {"hex": "00000000000000000000000000000001"}}]'
    assert protocol.decode(body, "application/json", "utf-8") == [UUID(int=1)]


def test_typed_values_come_back_as_what_they_were() -> None:
    values = [datetime(2030, 1, 2, tzinfo=UTC), date(2030, 1, 2), time(1, 2), Decimal("1.50"), UUID(int=7), b"text", b"\xff"]
    payload = protocol.encode(values)
    assert protocol.decode(payload.body, payload.content_type, payload.content_encoding) == values


def test_the_request_has_the_headers_and_the_facts_of_the_delivery() -> None:
    message = envelope(properties={"reply_to": "me", "correlation_id": "id-1", "priority": 3}, exchange="", routing_key="")
    call = protocol.read_body(message, protocol.read_headers(message))
    request = call.request(message, hostname="w1@host", redelivered=True)
    assert request["id"] == "id-1"
    assert request["called_directly"] is False
    assert (request["hostname"], request["reply_to"], request["correlation_id"]) == ("w1@host", "me", "id-1")
    assert request["delivery_info"] == {"exchange": "", "routing_key": "celery", "priority": 3, "redelivered": True}


# Observed on genuine Celery 5.7.0: argsrepr and kwargsrepr are on the wire.
@pytest.mark.parametrize(
    ("value", "maxlen", "levels", "text"),
    [
        ([1, [2, [3, [4]]]], None, 3, "[1, [2, [3, [...]]]]"),
        ({"a": "it's", "b": b"\xff"}, None, 3, "{'a': 'it\\'s', 'b': b'ff'}"),
        (list(range(100)), 20, 3, "[0, 1, 2, 3, 4, 5, 6..., ...]"),
        ("a long sentence of words", 10, 3, "'a long...'"),
        ((1,), None, 3, "(1,)"),
        ({"k": {"x": [1, 2]}}, None, 2, "{'k': {'x': [...]}}"),
        (set(), None, 3, "set()"),
        ((), 1024, 3, "()"),
        ({}, 1024, 3, "{}"),
    ],
)
def test_the_text_of_arguments_is_celerys(value: Any, maxlen: int | None, levels: int, text: str) -> None:
    assert saferepr(value, maxlen, maxlevels=levels) == text


def test_the_text_of_arguments_survives_loops_and_broken_reprs() -> None:
    loop: list[Any] = [1]
    loop.append(loop)

    class Broken:
        def __repr__(self) -> str:
            raise RuntimeError("no")

    assert saferepr(loop).startswith("[1, <Recursion on list")
    assert "Unrepresentable" in saferepr([Broken()])
