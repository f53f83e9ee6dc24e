"""The memory broker passes the kit; beside that: names, processes, and what its scheme is."""

import contextlib
import itertools

import pytest
from hypothesis import settings

from jumpstarter.brokers import open_broker
from jumpstarter.brokers.memory import MemoryBroker
from jumpstarter.embedded.space import Message, Space
from jumpstarter.errors import ConfigurationError
from jumpstarter.results.memory import MemoryResults
from jumpstarter.testing.broker_kit import BrokerKit, Forked, ManualClock, envelope
from jumpstarter.testing.broker_model import BrokerMachine

_names = itertools.count()


@pytest.fixture
def url():
    return f"memory://test-{next(_names)}"


class TestMemoryBroker(BrokerKit):
    durable = False

    @pytest.fixture
    def broker_factory(self, clock, url):
        with contextlib.ExitStack() as brokers:
            yield lambda **_: brokers.enter_context(MemoryBroker(url, clock=clock))

    @pytest.fixture
    def results_factory(self, clock, url):
        return lambda: MemoryResults(url, clock=clock)

    def inject(self, broker, queue, raw):
        space = Space.of(broker.url)
        with space.changed:
            space.make_last(Message(0, queue, 0, raw, b""))


class MemoryMachine(BrokerMachine):
    def open_server(self):
        clock, self.url = ManualClock(), f"memory://story-{next(_names)}"
        return clock, lambda: self.enter(MemoryBroker(self.url, clock=clock))

    def open_results(self):
        return MemoryResults(self.url, clock=self.clock)


TestStories = MemoryMachine.TestCase
TestStories.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)


def test_everybody_who_names_it_meets(url):
    with open_broker(url) as publisher, open_broker(url) as worker:
        publisher.publish([envelope(b"hello")])
        assert worker.depth("q") == 1


def test_spaces_of_different_names_do_not_meet(url):
    with open_broker(url) as one, open_broker(f"{url}-other") as other:
        one.publish([envelope()])
        assert other.depth("q") == 0
        assert one.server != other.server


def test_what_was_published_stays_when_everybody_has_closed(url):
    with open_broker(url) as broker:
        broker.publish([envelope()])
    with open_broker(url) as broker:
        assert broker.depth("q") == 1


def test_a_forked_child_is_told_that_it_cannot_use_the_parents_queues(url):
    broker = open_broker(url)

    def use(call):
        with pytest.raises(ConfigurationError, match=r"lives in process \d+ .* sqlite:///"):
            call()

    for call in (
        lambda: broker.publish([envelope()]),
        lambda: broker.depth("q"),
        lambda: open_broker(url),
        broker.wake,
        broker.ping,
    ):
        Forked(use, call).result()


def test_a_forked_child_may_have_queues_of_its_own(url):
    def use():
        with open_broker(f"{url}-child") as broker:
            broker.publish([envelope()])
            return broker.depth("q")

    assert Forked(use).result() == 1


def test_whoever_holds_a_claim_is_not_silent(url):
    clock = ManualClock()
    with MemoryBroker(url, clock=clock) as broker:
        broker.publish([envelope(b"1"), envelope(b"2")])
        held, _ = broker.claim(["q"], 2, incarnation="a", lease=30.0)
        clock.advance(20)
        broker.hold([held.tag], 5.0, incarnation="a")
        clock.advance(4)
        assert broker.reap().returned == 0
        clock.advance(2)
        assert broker.reap().returned == 1
        clock.advance(23)
        assert broker.reap().returned == 0, "the others' lease began anew, too"
        clock.advance(2)
        assert broker.reap().returned == 1
