"""Notices: what is said through the broker is known before what is published afterwards starts."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from jumpstarter.abc.broker import Broker
from jumpstarter.brokers.memory import MemoryBroker
from jumpstarter.brokers.redis import RedisBroker
from jumpstarter.brokers.sqlite import SqliteBroker
from jumpstarter.testing.broker_kit import envelope
from tests.redis_server import redis_server, shared_redis

__all__ = ["redis_server", "shared_redis"]


@pytest.fixture(params=["memory", "redis"])
def pair(request: Any) -> Iterator[tuple[Broker, Broker]]:
    """Two brokers on one server, as two processes have them."""
    if request.param == "memory":
        url = f"memory://{uuid.uuid4().hex}"
        yield MemoryBroker(url), MemoryBroker(url)
        return
    url = request.getfixturevalue("redis_server").url
    with RedisBroker(url) as one, RedisBroker(url) as other:
        yield one, other


def test_a_claim_of_what_was_published_later_knows_of_the_notice(pair: tuple[Broker, Broker]) -> None:
    client, worker = pair
    for number in range(20):
        assert client.notify(f"notice {number}", ttl=60)
        client.publish([envelope(b"%d" % number)])
        assert worker.claim(["q"], 1, incarnation="worker", lease=30)
        assert worker.notices() == [f"notice {number}"]
        assert worker.notices() == []


def test_who_starts_later_hears_what_was_said_before(pair: tuple[Broker, Broker]) -> None:
    client, worker = pair
    client.notify("one", ttl=60)
    client.notify("two", ttl=60)
    assert worker.notices(look=True) == ["one", "two"]
    assert worker.notices(look=True) == []


def test_what_is_no_longer_of_interest_is_forgotten(pair: tuple[Broker, Broker]) -> None:
    client, worker = pair
    client.notify("old", ttl=0.01)
    deadline = time.monotonic() + 10
    while heard := type(worker)(worker.url).notices(look=True):
        assert time.monotonic() < deadline, heard


def test_a_broker_that_cannot_say_it_says_so(tmp_path: Any) -> None:
    broker = SqliteBroker(f"sqlite:///{tmp_path}/queues.db")
    assert broker.notify("notice", ttl=60) is False
    assert broker.notices(look=True) == []
