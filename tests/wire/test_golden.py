"""Golden messages: what genuine Celery 5.7.0 published is understood by ours, and is what ours publish, byte for byte.

Ids, times and the publisher's name differ from run to run. They are replaced by their order of appearance, everything else has to
be the same: the body to the byte, what is around it as JSON. Capture them anew with ``python -m tests.wire.golden``.
"""

from __future__ import annotations

import base64
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
from kombu import compression, serialization
from kombu.serialization import prepare_accept_content

from compat_celery import Celery, protocol
from compat_celery.security.certificate import Certificate, CertStore
from compat_celery.security.serialization import SecureSerializer
from jumpstarter.brokers.redis import layout
from jumpstarter.jobs import Delivery
from tests.compat.inline_worker import InlineWorker, make_app
from tests.peers import RedisServer
from tests.wire.golden import FOLDER, Golden, golden, published

MESSAGES = list(golden())
#: A kind of messages and a case: one test.
CASES = list(dict.fromkeys((message.kind, message.case) for message in MESSAGES))
UUID = re.compile(rb"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
MOMENT = re.compile(rb"20[23]\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}\+00:00")
ACCEPT = frozenset(prepare_accept_content(["json", "pickle", "yaml", "msgpack"]))


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], list[Golden]]:
    """What our client publishes for the same cases."""
    with RedisServer(tmp_path_factory.mktemp("golden")) as server:
        found: dict[tuple[str, str], list[Golden]] = {}
        for message in published([sys.executable, "-m", "compat_celery"], server.url):
            found.setdefault((message.kind, message.case), []).append(message)
        return found


@cache
def kept(kind: str, case: str) -> tuple[Golden, ...]:
    return tuple(message for message in MESSAGES if (message.kind, message.case) == (kind, case))


class Names:
    """What is random, named by its order of appearance: once for all messages of a case, since they refer to each other."""

    def __init__(self) -> None:
        self._ids: dict[bytes, bytes] = {}

    def plain(self, text: bytes) -> bytes:
        text = UUID.sub(lambda match: self._ids.setdefault(match[0], b"id-%034d" % len(self._ids))[-36:], text)
        return MOMENT.sub(b"a moment", text)

    def message(self, message: Golden) -> Any:
        raw = json.loads(message.raw)
        properties = raw["properties"]
        properties.pop("delivery_tag")
        if "expiration" in properties:
            properties["expiration"] = "soon" if int(properties["expiration"]) < 3_600_001 else "later"
        if "origin" in raw["headers"]:
            raw["headers"]["origin"] = re.sub(r"gen\d+@", "gen@", raw["headers"]["origin"])
        body = base64.b64decode(raw.pop("body"))
        if "compression" in raw["headers"]:
            body = compression.decompress(body, raw["headers"]["compression"])
        # First the body: canvases in it are in the order in which they were made on both sides.
        shown = self.plain(body)
        return message.list, shown, json.loads(self.plain(json.dumps(raw, sort_keys=True).encode()))


@pytest.mark.parametrize(("kind", "case"), [case for case in CASES if not case[0].startswith("signed")])
def test_our_messages_are_those_of_genuine_celery(kind: str, case: str, ours: Any) -> None:
    theirs = kept(kind, case)
    mine = ours[kind, case]
    names, other_names = Names(), Names()
    assert [names.message(message) for message in mine] == [other_names.message(message) for message in theirs]


# Reading them.


def sent_as_data() -> dict[str, Any]:
    """The calls of golden_program.py, which cannot be imported here: it is a client of whichever Celery runs it."""
    text = (FOLDER.parent / "golden_program.py").read_text("utf-8")
    begin, end = text.index("TYPED = "), text.index("#: Each serializer")
    space: dict[str, Any] = {}
    imports = "from datetime import UTC, date, datetime, time\nfrom decimal import Decimal\nfrom uuid import UUID\n"
    exec(imports + text[begin:end], space)
    calls: dict[str, Any] = space["CALLS"]
    return calls


CALLS = sent_as_data()
PRIORITY_STEPS = {"priority 0": "", "priority 5": "\x06\x163", "priority 9": "\x06\x169"}


def received(message: Golden) -> Delivery:
    return layout.decode(message.raw.encode(), tag="t", queue=message.list, epoch=1)


def read(message: Golden, accept: Any = ACCEPT) -> tuple[protocol.Head, protocol.Call]:
    delivery = received(message)
    assert delivery.fault is None
    assert delivery.envelope is not None
    head = protocol.read_headers(delivery.envelope, accept=accept)
    return head, protocol.read_body(delivery.envelope, head, accept=accept)


@pytest.fixture
def pickles() -> Iterator[None]:
    """Kombu refuses to read pickles until somebody says that they may."""
    disabled = set(serialization.registry._disabled_content_types)
    serialization.enable_insecure_serializers(["pickle", "yaml", "msgpack"])
    yield
    serialization.registry._disabled_content_types.clear()
    serialization.registry._disabled_content_types.update(disabled)


@pytest.mark.parametrize(("kind", "case"), [case for case in CASES if case[0].startswith(("call", "encoding"))])
def test_a_call_is_read_as_it_was_made(kind: str, case: str, pickles: None) -> None:
    (message,) = kept(kind, case)
    args, kwargs, options = CALLS[case]
    head, call = read(message)
    assert (call.task, call.id) == ("golden.echo", f"id of {case}")
    assert [list(call.args), call.kwargs] == [args, kwargs]
    assert head.headers["retries"] == options.get("retries", 0)
    if case not in ("countdown", "expires in"):  # of these only the capturing clock knows
        assert head.due == (options["eta"].timestamp() if "eta" in options else None)
        assert head.expires == (options["expires"].timestamp() if "expires" in options else None)
    assert (head.hard_limit, head.soft_limit) == (options.get("time_limit"), options.get("soft_time_limit"))
    assert message.list == ("orders" if "queue" in options else "celery") + PRIORITY_STEPS.get(case, "")


@pytest.mark.parametrize(("kind", "case"), [case for case in CASES if case[0] == "call, protocol 2"])
def test_what_a_task_sees_of_a_call_is_what_was_said(kind: str, case: str) -> None:
    (message,) = kept(kind, case)
    _, _, options = CALLS[case]
    delivery = received(message)
    assert delivery.envelope is not None
    _, call = read(message)
    request = call.request(delivery.envelope, hostname="here")
    wanted = {
        "ignored result": {"ignore_result": True},
        "shadow": {"shadow": "another name"},
        "headers": {"tenant": "t-1", "depth": [1, {"a": None}]},
        "reply to": {"reply_to": "somebody"},
        "stamps": {"stamps": {"batch": "b-1"}, "stamped_headers": ["batch"]},
        "family": {"root_id": "the-root", "parent_id": "the-parent"},
        "in a group": {"group": "the-group", "group_index": 3},
    }.get(case, {})
    assert {name: request[name] for name in wanted} == wanted
    assert request["delivery_info"]["priority"] == options.get("priority", 0)
    if case == "property":
        assert request["properties"]["app_id"] == "golden"


def shown(signatures: Any) -> list[Any]:
    return [(step["task"], list(step["args"]), step["immutable"]) for step in signatures]


def test_the_steps_of_a_chain_are_read_in_their_order() -> None:
    (message,) = kept("canvas, protocol 2", "chain")
    _, call = read(message)
    assert shown(reversed(call.chain or ())) == [("golden.echo", [2], False), ("golden.echo", [3], True)]


def test_protocol_1_hides_the_steps_of_a_chain_in_callbacks() -> None:
    (message,) = kept("canvas, protocol 1", "chain")
    _, call = read(message)
    assert call.chain is None
    assert call.callbacks is not None
    (following,) = call.callbacks
    (last,) = following["options"]["link"]
    assert (following["args"], last["args"], last["immutable"]) == ([2], [3], True)


@pytest.mark.parametrize("number", [1, 2])
def test_the_links_of_a_call_are_read(number: int) -> None:
    (message,) = kept(f"canvas, protocol {number}", "links")
    _, call = read(message)
    assert shown(call.callbacks) == [("golden.echo", [2], False), ("golden.echo", [3], True)]
    assert shown(call.errbacks) == [("golden.error", [], False), ("golden.error", ["x"], True)]


@pytest.mark.parametrize("number", [1, 2])
def test_the_header_of_a_chord_carries_its_body(number: int) -> None:
    header = kept(f"canvas, protocol {number}", "chord")
    calls = [read(message)[1] for message in header]
    assert [call.headers["group_index"] for call in calls] == [0, 1]
    assert len({call.headers["group"] for call in calls}) == 1
    assert [call.chord["task"] for call in calls] == ["golden.total"] * 2


@pytest.mark.parametrize("case", [case for kind, case in CASES if kind.startswith("signed")])
def test_a_signed_call_is_read_with_the_certificate_alone(case: str) -> None:
    (message,) = kept("signed, protocol 2", case)
    store = CertStore()
    certificate = Certificate((FOLDER / "cert.pem").read_text())
    store.add_cert(certificate)
    delivery = received(message)
    assert delivery.envelope is not None
    serializer = SecureSerializer(None, certificate, store, digest="sha256", serializer="json")
    args, kwargs, embed = serializer.deserialize(delivery.envelope.body)
    assert [args, kwargs] == list(CALLS[case][:2])
    assert embed == {"callbacks": None, "errbacks": None, "chain": None, "chord": None}


def test_what_is_not_accepted_is_not_decoded() -> None:
    (message,) = kept("encoding, protocol 2, pickle, gzip", "plain")
    with pytest.raises(protocol.ContentDisallowed, match="pickle"):
        read(message, accept=frozenset({"application/json"}))


def test_a_worker_of_ours_runs_what_genuine_clients_sent() -> None:
    """Each call that asks for nothing but to be run, through the whole way of a message."""
    app: Celery = make_app(accept_content=["json", "pickle", "yaml", "msgpack"])

    @app.task(shared=False, name="golden.echo")
    def echo(*args: Any, **kwargs: Any) -> Any:
        return [args, kwargs]

    worker = InlineWorker(app)
    messages = [
        message
        for message in MESSAGES
        if message.kind.startswith(("call", "encoding")) and message.case not in ("countdown", "eta", "expires in")
    ]
    assert len(messages) > 150
    for message in messages:
        envelope = received(message).envelope
        assert envelope is not None
        worker._broker.publish([replace(envelope, queue="celery", priority=0)])
        worker.run()
        outcome = worker.outcomes[-1]
        assert (outcome.job.id, outcome.status) == (f"id of {message.case}", "SUCCESS"), (message.kind, message.case)
    assert len(worker.outcomes) == len(messages)
