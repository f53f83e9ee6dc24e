"""Brokers and embedded nodes for the worker's tests."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from jumpstarter.abc.broker import Broker
from jumpstarter.abc.results import Results
from jumpstarter.brokers import open_broker
from jumpstarter.nodes import EmbeddedNode, NodeSetup
from jumpstarter.results import open_results
from jumpstarter.worker import Worker, WorkerOptions
from tests.worker.toy import ToyApplication


@pytest.fixture
def broker() -> Iterator[Broker]:
    with open_broker(f"memory://{uuid.uuid4().hex}") as opened:
        yield opened


@pytest.fixture
def results(broker: Broker) -> Iterator[Results]:
    with open_results(broker.url) as opened:
        yield opened


@pytest.fixture
def durable_url(tmp_path: Path) -> str:
    """A database in a file, for nodes with child processes."""
    return f"sqlite:///{tmp_path}/queues.db"


StartNode = Callable[..., EmbeddedNode]


@pytest.fixture
def start_node() -> Iterator[StartNode]:
    """``start_node(application, broker, results, pool=…)`` gives a running node, which is stopped after the test."""
    nodes: list[EmbeddedNode] = []

    def start(
        application: ToyApplication,
        broker: Broker,
        results: Results | None,
        *,
        worker_class: type[Worker] = Worker,
        **options: Any,
    ) -> EmbeddedNode:
        chosen = {"name": "toys@test", "queues": ("toys",), "pool": "threads", **options}
        setup = NodeSetup(
            application=application,
            broker=broker,
            results=results,
            options=WorkerOptions(**chosen),
            worker_class=worker_class,
        )
        node = EmbeddedNode(setup)
        node.start()
        nodes.append(node)
        return node

    yield start
    for node in nodes:
        assert node.stop(30), "a node did not stop within 30 s"
