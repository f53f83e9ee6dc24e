"""What a publish to RabbitMQ says of messages that did not arrive, or may not have: nothing was sent, or nobody knows."""

from __future__ import annotations

import contextlib
import socket
import time

import pytest

from jumpstarter.brokers.kombu import AmqpBroker
from jumpstarter.brokers.kombu import broker as kombu_broker
from jumpstarter.brokers.kombu.link import Declarer, Refused
from jumpstarter.errors import BrokerUnavailable, PublishTimeout, PublishUnconfirmed
from jumpstarter.testing.broker_kit import LEASE, bodies, envelope
from tests.chaos.proxy import Network
from tests.peers import eventually
from tests.rabbitmq_server import rabbitmq_server
from tests.redis_server import FaultyProxy
from tests.reliability.proxies import Silence

__all__ = ["rabbitmq_server"]

pytestmark = pytest.mark.timeout(400)  # the first test starts the server, which takes minutes on a busy machine

PATIENCE = 60.0


@pytest.fixture
def open_on(rabbitmq_server):
    with contextlib.ExitStack() as brokers:

        def open_one(port=rabbitmq_server.port, **options):
            url = f"amqp://guest:guest@127.0.0.1:{port}//"
            return brokers.enter_context(AmqpBroker(url, **{"timeout": 30.0, **options}))

        yield open_one


@contextlib.contextmanager
def nothing_sent(match):
    with pytest.raises(BrokerUnavailable, match=match) as caught:
        yield
    assert not isinstance(caught.value, PublishUnconfirmed)


def test_where_nobody_listens_nothing_was_sent(open_on):
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    broker = open_on(port)
    with nothing_sent("refused"):
        broker.publish([envelope()])


def test_a_server_that_never_answers_is_an_error_in_time(rabbitmq_server, open_on):
    with Silence() as silence:
        broker = open_on(silence.port)
        began = time.monotonic()
        with nothing_sent("timed out"):
            broker.publish([envelope()], timeout=0.3)
        assert time.monotonic() - began < PATIENCE / 2  # the broker's own time is 30 s
    broker = open_on(timeout=PATIENCE)
    broker.ping()
    rabbitmq_server.freeze()
    try:
        began = time.monotonic()
        with nothing_sent("no answer in time|timed out|no time was left"):
            broker.publish([envelope()], timeout=0.3)
        assert time.monotonic() - began < PATIENCE / 2
    finally:
        rabbitmq_server.thaw()
    assert open_on().depth("q") == 0


def test_a_connection_that_ends_before_the_confirmation_leaves_the_message_in_doubt(rabbitmq_server, open_on):
    with FaultyProxy(rabbitmq_server.port) as proxy:
        broker = open_on(proxy.port)
        broker.publish([envelope(b"before")])
        proxy.cut_after = 0
        with pytest.raises(PublishUnconfirmed) as caught:
            broker.publish([envelope(b"doubtful")])
        assert not isinstance(caught.value, PublishTimeout)
        proxy.cut_after = None
        broker.publish([envelope(b"after")])
    assert open_on().depth("q") == 3


def takes_nothing(broker):
    with contextlib.suppress(BrokerUnavailable):
        broker.publish([envelope(b"early", "other")], timeout=0.3)
        return False
    return True


@pytest.mark.parametrize("has_published", [True, False])
def test_under_an_alarm_nothing_is_sent(rabbitmq_server, open_on, monkeypatch, has_published):
    """A server that is short of memory does not read what a publisher sends, and publishes it when the alarm is over."""
    monkeypatch.setattr(kombu_broker, "STALE", 0.0)
    broker = open_on()
    broker.ping()
    if has_published:
        broker.publish([envelope(b"before")])
    rabbitmq_server.set_memory_alarm()
    try:
        # The server tells its connections in its own time: until then they publish.
        eventually(lambda: takes_nothing(open_on()), within=PATIENCE, what="the alarm is heard")
        for _ in range(2):
            with nothing_sent("nothing was sent: the server blocks publishers .low on memory"):
                broker.publish([envelope(b"1"), envelope(b"2")], timeout=0.3)
    finally:
        rabbitmq_server.clear_memory_alarm()
    broker.publish([envelope(b"after")])
    assert bodies(open_on().claim(["q"], 10, incarnation="a", lease=LEASE)) == [b"before"] * has_published + [b"after"]


def test_an_idle_connection_that_died_without_a_word_costs_no_message(rabbitmq_server, open_on, monkeypatch):
    monkeypatch.setattr(kombu_broker, "STALE", 0.0)
    monkeypatch.setattr(kombu_broker, "PROOF", 0.2)
    with Network(rabbitmq_server.port) as network:
        broker = open_on(network.port)
        with broker._publisher(), broker._publisher():
            pass
        assert len(broker._spare) == 2
        broker.publish([envelope(b"1")])
        network.half_open()
        broker.publish([envelope(b"2")])
        # One of the two was asked in vain; the other did not get the chance to cost as much.
        assert len(broker._spare) == 1
    assert bodies(open_on().claim(["q"], 10, incarnation="a", lease=LEASE)) == [b"1", b"2"]


def test_a_claimant_whose_connection_died_without_a_word_connects_anew_long_before_the_heartbeat_tells(rabbitmq_server, open_on):
    with Network(rabbitmq_server.port) as network:
        broker = open_on(network.port, timeout=1.0, heartbeat=600)
        assert broker.claim(["q"], 1, incarnation="a", lease=LEASE) == []
        session = broker._sessions["a"]
        network.half_open()
        eventually(lambda: session.is_broken, within=PATIENCE, what="the dead connection is noticed")
        assert "answers on others" in str(session.link.failure)
        open_on().publish([envelope(b"1")])
        assert bodies(broker.claim(["q"], 1, incarnation="a", lease=LEASE)) == [b"1"]


def test_a_claimant_whose_server_answers_nobody_keeps_its_claims(rabbitmq_server, open_on):
    with Network(rabbitmq_server.port) as network:
        direct = open_on()
        broker = open_on(network.port, timeout=0.5, heartbeat=600)
        direct.publish([envelope(b"1")])
        (one,) = broker.claim(["q"], 1, incarnation="a", lease=LEASE)
        session = broker._sessions["a"]
        network.silence()
        eventually(lambda: session.link.silence() > 2.0, within=PATIENCE, what="it has been silent for a while")
        network.heal()
        eventually(lambda: session.link.silence() == 0.0, within=PATIENCE, what="it speaks again")
        assert [held.tag for held in broker.held("a")] == [one.tag]
        assert not session.is_broken


def test_a_claimant_that_is_answered_later_than_newcomers_keeps_its_claims(rabbitmq_server, open_on):
    """A server that was stopped and goes on, on a busy machine, greets newcomers first."""
    with Network(rabbitmq_server.port) as network:
        direct = open_on()
        broker = open_on(network.port, timeout=0.5, heartbeat=600)
        direct.publish([envelope(b"1")])
        (one,) = broker.claim(["q"], 1, incarnation="a", lease=LEASE)
        session = broker._sessions["a"]
        network.stall()
        eventually(lambda: session._others_answered is not None, within=PATIENCE, what="newcomers are answered, and it is not")
        network.heal()
        eventually(lambda: session.link.silence() == 0.0, within=PATIENCE, what="it speaks again")
        eventually(lambda: session._others_answered is None, within=PATIENCE, what="that is noticed")
        assert [held.tag for held in broker.held("a")] == [one.tag]
        assert not session.is_broken


def test_a_claimant_whose_declaration_was_refused_does_not_take_the_servers_silence_for_death(rabbitmq_server, open_on):
    """The last thing that it said needs no answer."""
    broker = open_on(heartbeat=600)
    broker.claim(["q"], 1, incarnation="a", lease=LEASE)
    link = broker._sessions["a"].link
    with pytest.raises(Refused):
        Declarer(link).queue_declare("nobody declared it", passive=True)
    assert link.silence() == 0.0
