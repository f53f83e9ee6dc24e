"""Children that are replaced in time: after so many jobs, for their memory; and nodes that stop in Celery's three ways."""

from __future__ import annotations

import itertools
import os
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

from jumpstarter.abc.broker import Broker
from jumpstarter.abc.results import Results
from jumpstarter.brokers import open_broker
from jumpstarter.results import open_results
from jumpstarter.worker.node import Node
from tests.peers import eventually
from tests.worker.conftest import StartNode
from tests.worker.test_worker import result_of
from tests.worker.toy import ToyApplication, envelope

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")

MEBIBYTE = 1 << 20


@pytest.fixture
def broker(durable_url: str) -> Iterator[Broker]:
    with open_broker(durable_url) as opened:
        yield opened


@pytest.fixture
def results(durable_url: str) -> Iterator[Results]:
    with open_results(durable_url) as opened:
        yield opened


def bloat(mebibytes: int, seconds: float) -> int:
    """Use memory for a while."""
    hoard = bytearray(os.urandom(1024)) * (mebibytes * 1024)
    time.sleep(seconds)
    return len(hoard) and os.getpid()


async def apid_after(seconds: float) -> int:
    await anyio.sleep(seconds)
    return os.getpid()


TOYS = ToyApplication(pid=os.getpid, bloat=bloat, sleep=time.sleep, apid_after=apid_after)


def test_a_child_is_replaced_after_its_jobs(start_node: StartNode, broker: Broker, results: Results) -> None:
    broker.publish([envelope("pid", id=str(number)) for number in range(30)])
    start_node(TOYS, broker, results, pool="prefork", concurrency=2, max_tasks=5)
    jobs = Counter(result_of(results, str(number)) for number in range(30))
    assert max(jobs.values()) <= 5
    assert len(jobs) >= 6
    eventually(lambda: broker.depth("toys") == 0, within=5, what="all is settled")


@pytest.mark.slow
def test_five_hundred_children_for_a_job_each_with_large_arguments(start_node: StartNode, broker: Broker, results: Results) -> None:
    """Pain 5, without the kills (which tests/chaos adds): no stall of more than two seconds."""
    large = "x" * (8 * MEBIBYTE)
    toys = ToyApplication(measure=lambda text: [len(text), os.getpid(), time.monotonic()])
    for number in range(10):
        broker.publish([envelope("measure", large, id=str(number))])
    start_node(toys, broker, results, pool="prefork", concurrency=2, max_tasks=1)
    answers = [result_of(results, str(number), timeout=20) for number in range(10)]
    assert {length for length, _, _ in answers} == {8 * MEBIBYTE}
    assert len({pid for _, pid, _ in answers}) == 10
    times = sorted(at for _, _, at in answers)
    assert max(later - earlier for earlier, later in itertools.pairwise(times)) < 2


@pytest.mark.slow
def test_the_successor_does_not_wait_for_what_its_predecessor_still_runs(
    start_node: StartNode, broker: Broker, results: Results
) -> None:
    start_node(TOYS, broker, results, pool="prefork", concurrency=1, max_tasks=2)
    broker.publish([envelope("apid_after", 3, id="long")])
    broker.publish([envelope("pid", id="first"), envelope("pid", id="second")])
    first, second = result_of(results, "first"), result_of(results, "second")
    assert results.get(["result-long"]) == [None]
    assert result_of(results, "long") == first != second


def test_a_child_over_its_memory_is_replaced_after_its_job(start_node: StartNode, broker: Broker, results: Results) -> None:
    node = start_node(TOYS, broker, results, pool="prefork", concurrency=1, max_memory=200 * MEBIBYTE, kill_memory=4096 * MEBIBYTE)
    assert isinstance(node.actor, Node)
    broker.publish([envelope("bloat", 250, 1.0, id="large"), envelope("pid", id="next")])
    large, following = result_of(results, "large"), result_of(results, "next")
    assert large != following
    assert not broker.quarantined()


def test_a_child_far_over_its_memory_is_killed_at_once_and_its_job_ends_in_quarantine(
    start_node: StartNode, broker: Broker, results: Results
) -> None:
    """Pain 28: much memory at a small cap; others are not affected."""
    start_node(TOYS, broker, results, pool="prefork", concurrency=2, max_memory=150 * MEBIBYTE, max_attempts=2)
    broker.publish([envelope("bloat", 2048, 30, id="huge")])
    began = time.monotonic()
    broker.publish([envelope("pid", id=str(number)) for number in range(20)])
    assert len([result_of(results, str(number)) for number in range(20)]) == 20
    assert "of memory, where 300 MiB are allowed" in result_of(results, "huge", timeout=20)
    assert time.monotonic() - began < 10
    (resting,) = broker.quarantined()
    assert resting.evidence["signal"] == 9
    assert resting.evidence["peak_memory"] > 300 * MEBIBYTE


def test_jobs_of_all_kinds_share_a_node(start_node: StartNode, broker: Broker, results: Results, tmp_path: Path) -> None:
    toys = ToyApplication(block=lambda: time.sleep(1.5), thread_nap=lambda: time.sleep(0.3), apid_after=apid_after, pid=os.getpid)
    start_node(toys, broker, results, pool="prefork", concurrency=1, threads=4, coroutines=50, queues=("toys", "io", "cpu"))
    broker.publish([envelope("block", id="cpu", queue="cpu")])
    began = time.monotonic()
    broker.publish([envelope("thread_nap", id=f"t{number}", queue="io") for number in range(8)])
    broker.publish([envelope("apid_after", 0.3, id=f"c{number}") for number in range(50)])
    for number in range(8):
        result_of(results, f"t{number}")
    for number in range(50):
        result_of(results, f"c{number}")
    assert time.monotonic() - began < 1.5, "the busy process slot held up threads or coroutines"
    assert results.get(["result-cpu"]) == [None]
    result_of(results, "cpu")
