"""The AMQP broker on RabbitMQ passes the kit on classic and on quorum queues, but for what AMQP cannot."""

from __future__ import annotations

import contextlib
import time
from typing import ClassVar

import pytest

from jumpstarter.brokers.kombu import AmqpBroker
from jumpstarter.testing.broker_kit import BrokerKit
from tests.rabbitmq_server import rabbitmq_server

__all__ = ["rabbitmq_server"]

pytestmark = pytest.mark.timeout(600)  # the first test starts the server, which takes minutes on a busy machine

# What is tested in the place of a promise that cannot be kept is said behind its reason.
PRIORITY = "the higher priority is served first, and only by queues that were declared with x-max-priority"
INTEGER = "AMQP's integers end at 64 bits; others are refused"
FRONT = "what goes back goes to the end of its queue: put back in its place it would be marked as redelivered, which counts"
OTHERS = "a claim is seen and settled through the connection that made it, by nobody else"
RENEWAL = "renewal asks nothing of the server, so it does not fail either (test_kombu_faults asks for the other calls)"
TIME = (
    "time cannot be made to pass on the server: leases end with their connections (test_kombu_faults), "
    "and of delays the server tells nothing (test_kombu_delays)"
)


class WallClock:
    """The server's clock, which nobody can advance."""

    def __init__(self, test: str) -> None:
        self._test = test

    def now(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()

    def advance(self, seconds: float) -> None:
        pytest.skip(f"cannot promise {self._test.removeprefix('test_')!r}: {TIME}")


class TestClassicQueues(BrokerKit):
    # On a busy machine, thousands of gets from a quorum queue and the declaration of the delay take their time.
    options: ClassVar[dict[str, object]] = {"queue_type": "classic", "delayed_queue_type": "classic", "timeout": 100.0}
    cannot: ClassVar[dict[str, str]] = {
        "test_priority_0_is_served_first": PRIORITY,
        "test_within_a_priority_the_first_in_is_the_first_out": PRIORITY,
        "test_a_few_urgent_messages_pass_a_thousand_others": PRIORITY,
        "test_what_a_settlement_publishes_is_sent_in_order": PRIORITY,
        "test_a_header_may_be_an_integer_of_any_size": INTEGER,
        "test_return_puts_a_message_back_as_if_it_had_never_been_claimed": FRONT,
        "test_release_returns_all_claims_to_the_front_in_their_order": FRONT,
        "test_held_tells_what_an_incarnation_holds_and_changes_nothing": OTHERS,
        "test_closing_twice_is_fine_and_claims_stay": OTHERS,
        "test_reap_says_when_the_next_message_is_due": TIME,
        "test_a_server_that_does_not_answer_makes_every_call_raise": RENEWAL,
    }

    @pytest.fixture
    def broker_factory(self, rabbitmq_server):
        self.server = rabbitmq_server
        with contextlib.ExitStack() as brokers:
            yield lambda **options: brokers.enter_context(AmqpBroker(rabbitmq_server.url, **{**self.options, **options}))

    @pytest.fixture
    def clock(self, request):
        return WallClock(request.function.__name__)

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
    options: ClassVar[dict[str, object]] = {**TestClassicQueues.options, "queue_type": "quorum"}
