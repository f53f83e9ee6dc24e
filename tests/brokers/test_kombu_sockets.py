"""No connection to a RabbitMQ server stays open without an owner, whatever goes wrong beside it."""

from __future__ import annotations

import threading
import time

import psutil
import pytest

from jumpstarter.brokers.kombu import AmqpBroker
from jumpstarter.errors import BrokerUnavailable
from jumpstarter.testing.broker_kit import LEASE, envelope
from tests.peers import eventually
from tests.rabbitmq_server import RabbitServer, rabbitmq_server

__all__ = ["rabbitmq_server"]

pytestmark = pytest.mark.timeout(600)  # the first test starts the server, which takes minutes on a busy machine

#: Seconds after which whatever was going to happen has happened, on a busy machine.
PATIENCE = 60.0


def open_sockets(server: RabbitServer) -> int:
    """How many of this process's sockets lead to the server; those that were shut down and not closed count."""
    found = psutil.Process().net_connections("tcp")
    return sum(bool(one.raddr) and one.raddr.port == server.port for one in found)


def test_a_session_that_fails_while_another_thread_reads_is_closed(rabbitmq_server):
    with AmqpBroker(rabbitmq_server.url) as broker:
        before = open_sockets(rabbitmq_server)
        broker.claim(["q"], 1, incarnation="a", lease=LEASE)
        link = broker._sessions["a"].link

        def read():
            with pytest.raises(BrokerUnavailable, match="on purpose"):
                link.pump(lambda: False, time.monotonic() + PATIENCE)

        reader = threading.Thread(target=read)
        reader.start()
        eventually(lambda: link._reading, within=PATIENCE, what="it reads")
        link.fail(BrokerUnavailable(broker.url, "on purpose"))
        reader.join(PATIENCE)
        assert not reader.is_alive()
        assert link._sock.fileno() == -1
    assert open_sockets(rabbitmq_server) == before


def test_a_connection_that_is_made_while_the_broker_is_closed_is_closed_as_well(rabbitmq_server, monkeypatch):
    before = open_sockets(rabbitmq_server)
    broker = AmqpBroker(rabbitmq_server.url)
    is_there, may_go_on = threading.Event(), threading.Event()
    connect = broker._connect

    def connect_slowly(within):
        publisher = connect(within)
        is_there.set()
        assert may_go_on.wait(PATIENCE)
        return publisher

    monkeypatch.setattr(broker, "_connect", connect_slowly)
    calls = [threading.Thread(target=call) for call in (lambda: broker.answers(PATIENCE), lambda: broker.publish([envelope()]))]
    for call in calls:
        is_there.clear()
        call.start()
        assert is_there.wait(PATIENCE)
    broker.close()
    may_go_on.set()
    for call in calls:
        call.join(PATIENCE)
    assert broker._spare == []
    assert open_sockets(rabbitmq_server) == before
