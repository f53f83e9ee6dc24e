"""Time limits and cancellation, whatever the job does and wherever it runs; and nothing but the job is hit."""

from __future__ import annotations

import os
import random
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from jumpstarter.abc.broker import Broker
from jumpstarter.abc.results import Results
from jumpstarter.brokers import open_broker
from jumpstarter.nodes import EmbeddedNode
from jumpstarter.results import open_results
from jumpstarter.worker.node import Node
from jumpstarter.worker.worker import Worker
from tests.peers import eventually
from tests.worker.conftest import StartNode
from tests.worker.test_worker import result_of
from tests.worker.toy import ToyApplication, ToyTooSlow, envelope

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")

LIMIT = 0.5
#: Seconds after its limit within which a slot must be free again.
AT_MOST = 2.0


@pytest.fixture
def broker(durable_url: str) -> Iterator[Broker]:
    with open_broker(durable_url) as opened:
        yield opened


@pytest.fixture
def results(durable_url: str) -> Iterator[Results]:
    with open_results(durable_url) as opened:
        yield opened


def spin() -> None:
    while True:
        pass


def compute(number: int, seconds: float) -> int:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass
    return number


def hold_interpreter() -> None:
    """C code that lets no other thread of the process run: a regular expression that backtracks for ages."""
    re.match(r"(a+)+$", "a" * 60 + "b")


def swallow() -> None:
    """Catches whatever it can catch."""
    while True:
        try:
            time.sleep(0.05)
        except Exception:  # noqa: BLE001 - that is the point
            continue


def clean_up(path: str) -> str:
    try:
        time.sleep(30)
    except ToyTooSlow:
        Path(path).write_text("cleaned up")
        return "caught"
    return "never asked"


async def shielded() -> None:
    with anyio.CancelScope(shield=True):
        await anyio.sleep(8)  # nothing ends it sooner, not even the node's stop at the end of the test


async def spin_on_the_loop() -> None:
    spin()


async def nap() -> None:
    await anyio.sleep(3600)


async def aclean_up(path: str) -> None:
    try:
        await anyio.sleep(3600)
    finally:
        with anyio.CancelScope(shield=True):
            await anyio.Path(path).write_text("cleaned up")


TOYS = ToyApplication(
    add=lambda x, y: x + y,
    compute=compute,
    spin=spin,
    block=lambda: time.sleep(60),
    hold_interpreter=hold_interpreter,
    swallow=swallow,
    clean_up=clean_up,
    shielded=shielded,
    spin_on_the_loop=spin_on_the_loop,
    nap=nap,
    aclean_up=aclean_up,
    sleep=time.sleep,
    thread_block=lambda: time.sleep(60),
)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("pool", "name"),
    [
        ("prefork", "spin"),
        ("prefork", "block"),
        ("prefork", "hold_interpreter"),
        ("prefork", "swallow"),
        ("prefork", "shielded"),
        ("prefork", "nap"),
        ("prefork", "spin_on_the_loop"),
        ("threads", "spin"),
        ("threads", "block"),
        ("threads", "swallow"),
        ("async", "shielded"),
        ("async", "nap"),
        ("async", "block"),
    ],
)
def test_a_hard_limit_gives_the_slot_back_in_time(
    pool: str, name: str, start_node: StartNode, broker: Broker, results: Results
) -> None:
    start_node(TOYS, broker, results, pool=pool, concurrency=1, most_stuck=100)
    began = time.monotonic()
    broker.publish([envelope(name, id="slow", hard_limit=LIMIT)])
    broker.publish([envelope("add", 1, 2, id="next")])
    assert result_of(results, "next") == 3
    assert result_of(results, "slow") == LIMIT
    assert time.monotonic() - began < LIMIT + AT_MOST
    eventually(lambda: broker.depth("toys") == 0 and not broker.quarantined(), within=5, what="both are settled")


@pytest.mark.parametrize("pool", ["prefork", "threads", "solo"])
def test_a_soft_limit_can_be_caught_and_used_to_clean_up(
    pool: str, start_node: StartNode, broker: Broker, results: Results, tmp_path: Path
) -> None:
    node = start_node(TOYS, broker, results, pool=pool, concurrency=1)
    # Into a thread it comes only between two of its own instructions: not while it sleeps.
    name, arguments = ("clean_up", [str(tmp_path / "note")]) if pool == "prefork" else ("spin", [])
    broker.publish([envelope(name, *arguments, id="soft", soft_limit=LIMIT)])
    if name == "clean_up":
        assert result_of(results, "soft") == "caught"
        assert (tmp_path / "note").read_text() == "cleaned up"
    else:
        assert result_of(results, "soft") == repr(ToyTooSlow())
    broker.publish([envelope("add", 1, 2, id="next")])
    assert result_of(results, "next") == 3
    assert node.actor.state.matches("started.health.healthy")


def test_a_coroutine_whose_soft_limit_is_over_is_cancelled_and_cleans_up(
    start_node: StartNode, broker: Broker, results: Results, tmp_path: Path
) -> None:
    start_node(TOYS, broker, results, pool="async", concurrency=1)
    broker.publish([envelope("aclean_up", str(tmp_path / "note"), id="soft", soft_limit=LIMIT)])
    assert result_of(results, "soft") == LIMIT
    assert (tmp_path / "note").read_text() == "cleaned up"


@pytest.mark.slow
def test_only_the_guilty_job_of_a_killed_child_is_failed(start_node: StartNode, broker: Broker, results: Results) -> None:
    node = start_node(TOYS, broker, results, pool="prefork", concurrency=1)
    broker.publish([envelope("nap", id="innocent")])
    broker.publish([envelope("hold_interpreter", id="guilty", hard_limit=1.5)])
    assert result_of(results, "guilty") == 1.5
    eventually(lambda: broker.depth("toys") == 0, within=10, what="the innocent one runs again in the next child")
    assert not broker.quarantined()
    assert results.get(["result-innocent"]) == [None]
    assert isinstance(node.actor, Node)
    node.call_soon(node.actor.kill)


@pytest.mark.slow
def test_a_child_with_too_many_stuck_threads_is_replaced(start_node: StartNode, broker: Broker, results: Results) -> None:
    node = start_node(TOYS, broker, results, pool="prefork", concurrency=1, threads=2, most_stuck=2)
    assert isinstance(node.actor, Node)
    before = node.actor.children.pids
    broker.publish([envelope("thread_block", id=str(number), hard_limit=LIMIT) for number in range(2)])
    assert [result_of(results, str(number)) for number in range(2)] == [LIMIT, LIMIT]
    broker.publish([envelope("add", 1, 2, id="next")])
    assert result_of(results, "next") == 3
    eventually(lambda: not set(before) & set(running_pids(node)), within=10, what="the child with the stuck threads is gone")


def running_pids(node: EmbeddedNode) -> list[int]:
    assert isinstance(node.actor, Node)
    return node.actor.children.pids


@pytest.mark.slow
@pytest.mark.parametrize(("pool", "name"), [("prefork", "block"), ("prefork", "nap"), ("threads", "spin"), ("async", "shielded")])
def test_a_cancelled_job_ends_and_is_told_so(pool: str, name: str, start_node: StartNode, broker: Broker, results: Results) -> None:
    node = start_node(TOYS, broker, results, pool=pool, concurrency=1)
    broker.publish([envelope(name, id="doomed"), envelope("add", 1, 2, id="next")])
    eventually(lambda: broker.depth("toys") <= 1, within=10, what="the first one is claimed")

    def cancel() -> bool:
        on_loop(node, lambda: cancel_in(node, "doomed"))
        return bool(results.get(["result-doomed"])[0])

    eventually(cancel, within=10, what="the job is cancelled")
    assert result_of(results, "doomed") == "it was cancelled"
    assert result_of(results, "next") == 3


def cancel_in(node: EmbeddedNode, job: str, attempt: int | None = None) -> None:
    assert isinstance(node.actor, Node | Worker)
    node.actor.cancel(job, attempt)


def on_loop(node: EmbeddedNode, call: Any) -> None:
    """Have something called on the node's loop."""
    node.call_soon(call)


@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_racing_cancellations_never_hit_another_job(pool: str, start_node: StartNode, broker: Broker, results: Results) -> None:
    """Pain 19: 10,000 short jobs. For every tenth somebody cries stop, again and again, from when it may have been claimed until it
    must be over."""
    count, dice = 10_000, random.Random(7)
    node = start_node(TOYS, broker, results, pool=pool, concurrency=2, most_stuck=1_000_000)
    broker.publish([envelope("compute", number, dice.random() / 1500, id=str(number)) for number in range(count)])
    doomed = sorted(dice.sample(range(count), count // 10))
    while left := broker.depth("toys"):
        # Claimed in the order of their numbers, some hundreds at a time.
        near = [number for number in doomed if -700 < number - (count - left) < 50]
        said = threading.Event()
        on_loop(node, lambda near=near, said=said: [*(cancel_in(node, str(number)) for number in near), said.set()])
        assert said.wait(60)
    values = {number: result_of(results, str(number), timeout=60) for number in range(count)}
    hit = {number for number, value in values.items() if value != number}
    assert hit <= set(doomed)
    assert {values[number] for number in hit} == {"it was cancelled"}, "and some were hit, or nothing was tried"
