"""The AMQP broker on RabbitMQ passes the kit on classic and on quorum queues."""

from __future__ import annotations

import contextlib
import time

import pytest

from jumpstarter.brokers.kombu import AmqpBroker
from jumpstarter.testing.broker_kit import BrokerKit
from tests.rabbitmq_server import rabbitmq_server, shared_rabbitmq

__all__ = ["rabbitmq_server", "shared_rabbitmq"]


class WallClock:
    """The server's clock cannot be set."""

    def now(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()

    def advance(self, seconds: float) -> None:
        pytest.skip("CLOCK")


class TestClassicQueues(BrokerKit):
    queue_type = "classic"

    @pytest.fixture
    def broker_factory(self, rabbitmq_server):
        self.server = rabbitmq_server
        with contextlib.ExitStack() as brokers:
            yield lambda **options: brokers.enter_context(
                AmqpBroker(rabbitmq_server.url, **{"queue_type": self.queue_type, "delayed_queue_type": "classic", **options})
            )

    @pytest.fixture
    def clock(self):
        return WallClock()

    def quarantined(self, broker):
        return [(resting.queue, resting.reason) for resting in broker.quarantined()]

    @contextlib.contextmanager
    def stalled(self, broker):
        self.server.freeze()
        try:
            yield
        finally:
            self.server.thaw()


class TestQuorumQueues(TestClassicQueues):
    queue_type = "quorum"
