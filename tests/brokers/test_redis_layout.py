"""Messages as they lie in Redis: what is usual is opened in few steps, and what is not is understood or named all the same."""

from __future__ import annotations

import json
from typing import Any

import pytest

from jumpstarter.brokers.redis import layout
from jumpstarter.jobs import Delivery

USUAL: dict[str, Any] = {
    "body": "W10=",
    "content-encoding": "utf-8",
    "content-type": "application/json",
    "headers": {"task": "add"},
    "properties": {
        "body_encoding": "base64",
        "delivery_info": {"exchange": "", "routing_key": "toys"},
        "priority": 3,
        "delivery_tag": "t",
    },
}


def opened(raw: bytes) -> Delivery:
    return layout.decode(raw, tag="a.1.1", queue="toys", epoch=1)


def without(name: str) -> dict[str, Any]:
    return {key: value for key, value in USUAL.items() if key != name}


@pytest.mark.parametrize(
    ("message", "why"),
    [
        ([1], "a JSON list instead of an object"),
        (without("headers"), "headers is missing"),
        (without("properties"), "properties is missing"),
        ({**USUAL, "headers": [1]}, "headers is no object"),
        ({**USUAL, "headers": "text"}, "headers is no object"),
        ({**USUAL, "properties": None}, "properties is no object"),
        ({**USUAL, "content-type": 7}, "content-type is no string"),
        ({**USUAL, "body": 7}, "body is no string"),
        ({**USUAL, "body": "a"}, "base64"),
        ({**USUAL, "properties": {"body_encoding": "rot13"}}, "'rot13' is unknown"),
    ],
)
def test_what_is_wrong_with_a_message_is_named(message: object, why: str) -> None:
    raw = json.dumps(message).encode()
    delivery = opened(raw)
    assert delivery.envelope is None
    assert delivery.raw == raw
    assert why.lower() in str(delivery.fault).lower()


def test_what_a_message_leaves_out_has_its_default() -> None:
    envelope = opened(json.dumps({"body": None, "headers": {}, "properties": {}}).encode()).envelope
    assert envelope is not None
    assert (envelope.body, envelope.content_type, envelope.content_encoding) == (b"", "application/data", "binary")
    assert (envelope.exchange, envelope.routing_key, envelope.priority) == ("", "toys", 0)


@pytest.mark.parametrize(("said", "meant"), [(0, 0), (9, 9), (10, 9), (-1, 0), ("4", 4), (True, 1), ([1], 0), (None, 0)])
def test_a_priority_of_any_kind_is_understood(said: object, meant: int) -> None:
    message = {**USUAL, "properties": {**USUAL["properties"], "priority": said}}
    envelope = opened(json.dumps(message).encode()).envelope
    assert envelope is not None
    assert envelope.priority == meant


@pytest.mark.parametrize(("count", "attempt"), [(0, 1), (2, 3), (-1, 1), ("2", 1), (True, 1)])
def test_only_a_whole_number_counts_deliveries(count: object, attempt: int) -> None:
    delivery = opened(json.dumps({**USUAL, "headers": {"task": "add", layout.DELIVERIES: count}}).encode())
    assert delivery.attempt == attempt
    assert delivery.envelope is not None
    assert delivery.envelope.headers == {"task": "add"}


@pytest.mark.parametrize("text", ["1234567890123456789", "0" * 40])
def test_digits_in_a_text_change_nothing(text: str) -> None:
    envelope = opened(json.dumps({**USUAL, "headers": {"task": text}}).encode()).envelope
    assert envelope is not None
    assert envelope.headers == {"task": text}
