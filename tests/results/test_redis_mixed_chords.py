"""A chord whose header tasks end partly on genuine Celery workers and partly on ours fires once."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest
import redis

from jumpstarter.brokers.redis import RedisBroker
from jumpstarter.jobs import Completed, Document, Part
from jumpstarter.results.redis import RedisResults
from jumpstarter.testing.broker_kit import background, envelope, settlement
from tests.peers import Conversation, PeerUnavailable, install_peer
from tests.redis_server import redis_server, shared_redis

__all__ = ["redis_server", "shared_redis"]

pytestmark = pytest.mark.slow
ROUNDS = 60


@pytest.fixture(scope="module")
def peer():
    try:
        return install_peer()
    except PeerUnavailable as why:
        pytest.skip(str(why))


@pytest.mark.parametrize("database", [0, 4])
def test_a_chord_with_parts_on_both_sides_fires_once(redis_server, peer, tmp_path: Path, database):
    store = f"redis://127.0.0.1:{redis_server.port}/{database}"
    env = {**os.environ, "BROKER": redis_server.url, "BACKEND": store}
    command = [peer.python, Path(__file__).with_name("genuine_part.py")]
    random.seed(database)
    by_whom = {"ours": 0, "theirs": 0}
    with (
        RedisBroker(redis_server.url, timeout=30) as broker,
        RedisResults(store, timeout=30) as results,
        Conversation(command, folder=tmp_path, env=env, log=tmp_path / "genuine.log") as genuine,
        redis.Redis(port=redis_server.port) as client,
    ):
        for number in range(ROUNDS):
            group, size = f"group-{number}", random.randint(2, 6)
            join = f"celery-taskset-meta-{group}"
            results.open_join(join, size, 3600.0)
            places = random.sample(range(size), size)
            cut = random.randint(1, size - 1)
            theirs = [{"task": f"{group}-{place}", "group": group, "index": place, "result": place} for place in places[:cut]]
            if number % 3 == 0:
                theirs *= 2  # delivered twice
            with background(lambda parts=theirs: genuine.ask({"parts": parts})) as answer:
                fired = finish(broker, results, group, places[cut:])
                answer.result(60)
            by_whom["ours" if fired else "theirs"] += 1
            # Copies that come late change nothing.
            genuine.ask({"parts": theirs[:1]})
            assert not finish(broker, results, group, places[cut:])
            assert client.llen("body") == 1, f"round {number}: {by_whom}"
            client.delete("body")
            assert results.get([f"result-{group}-{place}" for place in places[cut:]]) == [b"{}"] * (size - cut)
    # Both ways were taken, or this test tells nothing.
    assert min(by_whom.values()) > 0, by_whom


def finish(broker, results, group, places) -> bool:
    """Our header tasks end, one by one; whether one of them sent the body."""
    fired = False
    join = f"celery-taskset-meta-{group}"
    for place in places:
        task = f"{group}-{place}"
        broker.publish([envelope(task.encode(), "header")])
        (delivery,) = broker.claim(["header"], 1, incarnation="ours", lease=30)
        body = b'[1, "%b", "SUCCESS", %d]' % (task.encode(), place)
        part = results.part_write(Part(join, task, place, body, 3600.0, None))
        writes = results.writes([Document(f"result-{task}", b"{}")])
        (answer,) = broker.settle([settlement(delivery, part=part, writes=writes)], incarnation="ours")
        if isinstance(answer, Completed):
            closing = settlement(delivery, publish=[envelope(b"[]", "body")], writes=writes, closes=results.close_write(join))
            (answer,) = broker.settle([closing], incarnation="ours")
            assert answer is True
            fired = True
        assert answer is True
    return fired
