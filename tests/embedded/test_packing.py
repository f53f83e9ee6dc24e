"""Envelopes as bytes: everything JSON knows survives, everything else is refused with its reason."""

import datetime as dt
import math
import types
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jumpstarter.embedded.packing import pack, pack_evidence, unpack
from jumpstarter.errors import MessageError, Undecodable
from jumpstarter.jobs import Envelope

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda values: st.lists(values, max_size=3) | st.dictionaries(st.text(), values, max_size=3),
    max_leaves=5,
)
heads = st.dictionaries(st.text(), json_values, max_size=3)


@given(headers=heads, properties=heads, texts=st.lists(st.text(min_size=1), min_size=4, max_size=4), body=st.binary())
def test_an_envelope_survives(headers, properties, texts, body):
    content_type, content_encoding, exchange, routing_key = texts
    envelope = Envelope(
        queue="q",
        body=body,
        headers=headers,
        properties=properties,
        content_type=content_type,
        content_encoding=content_encoding,
        exchange=exchange,
        routing_key=routing_key,
        priority=6,
    )
    assert unpack("q", 6, pack(envelope), body) == envelope


@given(st.binary(max_size=60))
def test_no_bytes_make_it_fail_otherwise_than_undecodable(raw):
    with pytest.raises(Undecodable):
        unpack("q", 0, raw, b"")


@pytest.mark.parametrize(
    "raw",
    [
        b"[{},{},1,2,3,4]",
        b'[[],{},"a","b","c","d"]',
        b'{"a":1,"b":1,"c":1,"d":1,"e":1,"f":1}',
        b"[" * 100_000,
        b'[{},{},"a","b","c","d","e"]',
    ],
)
def test_json_of_another_shape_is_undecodable(raw):
    with pytest.raises(Undecodable):
        unpack("q", 0, raw, b"")


def test_mappings_that_are_no_dicts_become_dicts():
    headers = types.MappingProxyType({"inner": types.MappingProxyType({"a": 1})})
    assert unpack("q", 0, pack(Envelope(queue="q", body=b"", headers=headers)), b"").headers == {"inner": {"a": 1}}


def test_lone_surrogates_survive():
    assert unpack("q", 0, pack(Envelope(queue="q", body=b"", headers={"x": "\ud800"})), b"").headers == {"x": "\ud800"}


def test_what_json_has_no_number_for_becomes_null():
    assert unpack("q", 0, pack(Envelope(queue="q", body=b"", headers={"x": math.nan, "y": math.inf})), b"").headers == {
        "x": None,
        "y": None,
    }


@pytest.mark.parametrize("value", [object(), {1, 2}, b"bytes", dt.datetime(2026, 1, 1, tzinfo=dt.UTC)])
def test_what_json_does_not_know_is_refused(value):
    with pytest.raises(MessageError, match=r"queue 'mail' cannot be sent.*Put such values into the body"):
        pack(Envelope(queue="mail", body=b"", headers={"x": value}))


def test_a_structure_that_contains_itself_is_refused():
    loop = []
    loop.append(loop)
    with pytest.raises(MessageError):
        pack(Envelope(queue="mail", body=b"", headers={"x": loop}))


def test_evidence_is_always_packed():
    loop = {}
    loop["self"] = loop
    assert "object object" in pack_evidence({"what": object(), ("a", "b"): 1})
    assert "self" in pack_evidence(loop)
    assert str(uuid.UUID(int=1)) in pack_evidence({"id": uuid.UUID(int=1)})
