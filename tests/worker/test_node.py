"""A node with child processes on the embedded broker: who dies, what comes of what it held."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jumpstarter.abc.broker import Broker
from jumpstarter.abc.results import Results
from jumpstarter.brokers import open_broker
from jumpstarter.results import open_results
from jumpstarter.worker.beside import reasons
from jumpstarter.worker.node import Node
from tests.peers import eventually
from tests.worker.conftest import StartNode
from tests.worker.test_worker import result_of
from tests.worker.toy import ToyApplication, envelope

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


@pytest.fixture
def broker(durable_url: str) -> Iterator[Broker]:
    with open_broker(durable_url) as opened:
        yield opened


@pytest.fixture
def results(durable_url: str) -> Iterator[Results]:
    with open_results(durable_url) as opened:
        yield opened


def die_once(path: str) -> int:
    """Kill the own process the first time, and answer the number of the attempt."""
    with Path(path).open("a") as file:
        file.write(f"{os.getpid()}\n")
    attempts = len(Path(path).read_text().splitlines())
    if attempts == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return attempts


TOYS = ToyApplication(
    add=lambda x, y: x + y,
    pid=os.getpid,
    die_once=die_once,
    die=lambda: os.kill(os.getpid(), signal.SIGKILL),
    leave=lambda: sys.exit(3),
    sleep=time.sleep,
)


def stored(results: Results, id: str) -> Any:
    found = results.wait([f"result-{id}"], 10)
    return json.loads(found[f"result-{id}"])


def test_jobs_run_in_children(start_node: StartNode, broker: Broker, results: Results) -> None:
    node = start_node(TOYS, broker, results, pool="prefork", concurrency=2)
    broker.publish([envelope("pid", id=str(number)) for number in range(50)])
    pids = {result_of(results, str(number)) for number in range(50)}
    assert isinstance(node.actor, Node)
    assert pids <= set(node.actor.children.pids)
    assert os.getpid() not in pids


def test_a_job_whose_child_was_killed_runs_again_elsewhere(
    start_node: StartNode, broker: Broker, results: Results, tmp_path: Path
) -> None:
    start_node(TOYS, broker, results, pool="prefork", concurrency=2)
    broker.publish([envelope("die_once", str(tmp_path / "attempts"), id="killer")])
    assert result_of(results, "killer", timeout=5) == 2


def test_acked_late_without_requeue_is_lost_with_the_evidence(start_node: StartNode, broker: Broker, results: Results) -> None:
    start_node(TOYS, broker, results, pool="prefork")
    broker.publish([envelope("die", id="killer", requeue_if_lost=False)])
    assert stored(results, "killer") == {"status": "LOST", "value": "signal 9"}


def test_acked_early_is_never_run_twice(start_node: StartNode, broker: Broker, results: Results, tmp_path: Path) -> None:
    start_node(TOYS, broker, results, pool="prefork")
    broker.publish([envelope("die_once", str(tmp_path / "attempts"), id="killer", early_ack=True)])
    assert stored(results, "killer") == {"status": "LOST", "value": "signal 9"}
    assert len((tmp_path / "attempts").read_text().splitlines()) == 1


def test_a_job_that_ends_its_process_costs_only_itself(start_node: StartNode, broker: Broker, results: Results) -> None:
    start_node(TOYS, broker, results, pool="prefork")
    broker.publish([envelope("add", 1, number) for number in range(100)])
    result_of(results, f"add-{(1, 99)}")
    broker.publish(
        [
            *(envelope("add", 2, number) for number in range(20)),
            envelope("leave", id="leaver", requeue_if_lost=False),
            *(envelope("add", 3, number) for number in range(20)),
        ]
    )
    assert stored(results, "leaver") == {"status": "LOST", "value": "exit code 3"}
    for number in range(20):
        assert result_of(results, f"add-{(2, number)}") == number + 2
        assert result_of(results, f"add-{(3, number)}") == number + 3


def test_a_job_that_kills_every_child_goes_to_quarantine(start_node: StartNode, broker: Broker, results: Results) -> None:
    start_node(TOYS, broker, results, pool="prefork")
    broker.publish([envelope("die", id="poison"), envelope("add", 1, 2, id="sum")])
    assert stored(results, "poison") == {"status": "LOST", "value": "signal 9; attempt 3 of 3"}
    assert result_of(results, "sum") == 3


def test_a_cold_stop_returns_what_runs(start_node: StartNode, broker: Broker, results: Results) -> None:
    node = start_node(TOYS, broker, results, pool="prefork")
    broker.publish([envelope("add", 1, 2, id="sum"), envelope("sleep", 60, id="long")])
    result_of(results, "sum")
    assert isinstance(node.actor, Node)
    while broker.depth("toys"):
        time.sleep(0.005)  # until the long one is claimed; nothing tells this process when
    node.actor.kill()
    assert node.stop(10)
    assert broker.depth("toys") == 1


@pytest.mark.slow
def test_a_child_that_is_behind_with_reading_hears_all_that_was_said(
    start_node: StartNode, broker: Broker, results: Results
) -> None:
    node = start_node(TOYS, broker, results, pool="prefork", concurrency=2)
    actor = node.actor
    assert isinstance(actor, Node)
    children = actor.children
    slow, _ = children.pids
    os.kill(slow, signal.SIGSTOP)
    answers: list[str] = []
    said = threading.Event()

    def speak() -> None:
        for number in range(20_000):
            actor.cancel(str(number))
        actor.note("x" * 500_000)  # more than a socket takes at once
        actor.cancel("another")
        children.inquire("noted", answers.append)
        said.set()

    node.call_soon(speak)
    assert said.wait(30)
    eventually(lambda: len(answers) == 1, within=10, what="the other child answers")
    os.kill(slow, signal.SIGCONT)
    eventually(lambda: answers == ["500000", "500000"], within=10, what="both have heard all of it")


@pytest.mark.slow
def test_a_child_that_is_behind_with_reading_hears_that_it_has_to_stop(
    start_node: StartNode, broker: Broker, results: Results
) -> None:
    node = start_node(TOYS, broker, results, pool="prefork", concurrency=2)
    actor = node.actor
    assert isinstance(actor, Node)
    children = actor.children
    slow, _ = children.pids
    os.kill(slow, signal.SIGSTOP)
    said = threading.Event()
    node.call_soon(lambda: [*(actor.cancel(str(number)) for number in range(20_000)), said.set()])
    assert said.wait(30)
    actor.post("stop")
    eventually(lambda: children.is_stopping, within=10, what="the children are told to stop")
    os.kill(slow, signal.SIGCONT)
    assert node.stop(20)


def test_a_child_that_cannot_start_fails_the_node_with_the_reason(start_node: StartNode, broker: Broker, results: Results) -> None:
    class Broken(ToyApplication):
        def child_started(self) -> None:
            raise RuntimeError("no child of mine")

    with pytest.raises(Exception, match="crashed") as caught:
        start_node(Broken(), broker, results, pool="prefork")
    assert "child 0 ended with exit code 1 before it was ready" in reasons(caught.value)


def test_a_child_that_is_killed_while_the_node_starts_is_replaced(
    start_node: StartNode, broker: Broker, results: Results, tmp_path: Path
) -> None:
    class Unlucky(ToyApplication):
        def child_started(self) -> None:
            die_once(str(tmp_path / "starts"))

    start_node(Unlucky(add=lambda x, y: x + y), broker, results, pool="prefork")
    broker.publish([envelope("add", 1, 2, id="sum")])
    assert result_of(results, "sum") == 3


def test_a_node_whose_children_are_killed_one_after_the_other_gives_up(
    start_node: StartNode, broker: Broker, results: Results
) -> None:
    class Doomed(ToyApplication):
        def child_started(self) -> None:
            os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(Exception, match="crashed") as caught:
        start_node(Doomed(), broker, results, pool="prefork")
    assert "child 0 ended with signal 9 before it was ready" in reasons(caught.value)
