"""Subscriptions to fanout exchanges on Redis. That they speak with Kombu is tried in tests/compat and tests/wire."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import pytest
import redis

from jumpstarter.brokers.redis import RedisBroker, exchanges
from jumpstarter.errors import BrokerUnavailable
from tests.peers import eventually
from tests.redis_server import RedisServer, redis_server, shared_redis
from tests.reliability.proxies import Proxy

__all__ = ["redis_server", "shared_redis"]

SAID = json.dumps({"body": "", "headers": {"n": 1}, "properties": {}})


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchanges, "_SILENCE", 0.1)
    monkeypatch.setattr(exchanges, "_ANSWER", 0.5)


@pytest.fixture
def broker(redis_server: RedisServer) -> Iterator[RedisBroker]:
    with RedisBroker(redis_server.url) as opened:
        yield opened


def test_a_subscription_that_heard_nothing_for_long_is_still_open(broker: RedisBroker, redis_server: RedisServer) -> None:
    with redis.Redis(port=redis_server.port) as client:
        said = broker.listen("news")
        end = time.monotonic() + 1.5  # many times as long as an answer may take
        while time.monotonic() < end:
            assert said.next(0.05, pytest.fail) is None
        assert client.publish("/0.news", SAID) == 1
        heard = eventually(lambda: said.next(1, pytest.fail), within=10, what="it is heard")
        assert heard.headers == {"n": 1}
        said.close()


def test_a_subscription_that_a_firewall_has_forgotten_is_noticed(redis_server: RedisServer) -> None:
    with Proxy(redis_server.port) as proxy, RedisBroker(proxy.url) as broker:
        said = broker.listen("news")
        proxy.swallow = True
        with pytest.raises(BrokerUnavailable, match="no answers"):
            eventually(lambda: said.next(0.05, pytest.fail), within=10, what="it is noticed")
        said.close()


def test_what_is_no_message_is_told_of(broker: RedisBroker, redis_server: RedisServer) -> None:
    faults: list[Exception] = []
    with redis.Redis(port=redis_server.port) as client:
        said = broker.listen("news")
        client.publish("/0.news", "garbage")
        client.publish("/0.news", SAID)
        assert eventually(lambda: said.next(1, faults.append), within=10, what="the good one is heard") is not None
        assert len(faults) == 1
        said.close()
