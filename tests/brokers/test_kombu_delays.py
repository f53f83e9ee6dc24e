"""Messages for later on RabbitMQ: Celery's delayed delivery, both ways. On the wall clock, so with delays of a second or two."""

from __future__ import annotations

import contextlib
import math
import time

import kombu
import pytest
from kombu import Exchange, Queue
from kombu.transport.native_delayed_delivery import (
    bind_queue_to_native_delayed_delivery_exchange,
    calculate_routing_key,
    declare_native_delayed_delivery_exchanges_and_queues,
)

from jumpstarter.brokers.kombu import AmqpBroker
from jumpstarter.brokers.kombu.topology import LONGEST_DELAY, Topology
from jumpstarter.jobs import REQUEUE, Park
from jumpstarter.testing.broker_kit import LEASE, bodies, envelope, settlement
from tests.peers import eventually
from tests.rabbitmq_server import rabbitmq_server

__all__ = ["rabbitmq_server"]

pytestmark = pytest.mark.timeout(600)  # the first test starts the server, which takes minutes on a busy machine

#: Seconds that a delay may last longer: it is rounded up to whole seconds, and machines are busy.
LATE = 20.0


@pytest.fixture
def open_on(rabbitmq_server):
    with contextlib.ExitStack() as brokers:
        yield lambda **options: brokers.enter_context(
            AmqpBroker(rabbitmq_server.url, **{"delayed_queue_type": "classic", "timeout": 60.0, **options})
        )


@pytest.fixture
def broker(open_on):
    return open_on()


@pytest.fixture
def genuine(rabbitmq_server):
    with kombu.Connection(rabbitmq_server.url) as connection:
        yield connection


def claim(broker, limit=100, by="a", queues=("q",)):
    return broker.claim(queues, limit, incarnation=by, lease=LEASE)


def next_one(broker, queue="q"):
    return eventually(lambda: claim(broker, 1, queues=[queue]), within=LATE, what="a message")[0]


def park(broker, one, seconds):
    """Park the delivery; when it is due."""
    due = time.time() + seconds
    assert broker.settle([settlement(one, Park(due))], incarnation="a") == [True]
    return due


def test_a_parked_message_comes_back_when_it_is_due_and_is_not_counted(broker):
    broker.publish([envelope(b"later", headers={"id": "7"}, exchange="shop", routing_key="shop.mail")])
    due = park(broker, next_one(broker), 1.5)
    assert broker.held("a") == []
    assert broker.depth("q") == 0
    assert claim(broker) == []
    assert broker.wait(["q"], LATE, incarnation="a")
    assert time.time() >= due
    one = next_one(broker)
    assert (one.envelope.body, one.envelope.headers, one.attempt) == (b"later", {"id": "7"}, 1)
    assert (one.envelope.exchange, one.envelope.routing_key) == ("shop", "shop.mail")


def test_a_message_is_published_for_later(broker):
    due = time.time() + 1.2
    broker.publish([envelope(b"later", due=due), envelope(b"now"), envelope(b"past", due=time.time() - 5)])
    assert sorted(bodies([next_one(broker), next_one(broker)])) == [b"now", b"past"]
    assert bodies([next_one(broker)]) == [b"later"]
    assert time.time() >= due


def test_the_attempt_survives_being_parked_again_and_again(broker):
    broker.publish([envelope(b"1")])
    broker.settle([settlement(next_one(broker), REQUEUE)], incarnation="a")
    for _ in range(3):  # a message with the server's notes of its last way through the delay would be dropped
        one = next_one(broker)
        assert one.attempt == 2
        park(broker, one, 0.2)
    assert next_one(broker).attempt == 2


def test_a_settlement_sends_for_later_in_its_transaction(broker):
    broker.publish([envelope(b"1")])
    batch = [settlement(next_one(broker), publish=[envelope(b"2", "r", due=time.time() + 1)])]
    assert broker.settle(batch, incarnation="a") == [True]
    assert broker.depth("r") == 0
    assert bodies([next_one(broker, "r")]) == [b"2"]


def test_delays_end_in_the_order_of_their_times(broker):
    now = time.time()
    broker.publish([envelope(b"%d" % seconds, due=now + seconds) for seconds in (4, 1, 2)])
    assert bodies([next_one(broker) for _ in range(3)]) == [b"1", b"2", b"4"]


@pytest.mark.parametrize("name", ["a.b", "ü ñ", "#", "a*b", "x" * 250, "%2E"])
def test_a_queue_gets_what_was_parked_for_it_and_nothing_else(broker, name):
    bystanders = ["b", "a", "q", "x" * 249]
    for queue in (name, *bystanders):
        claim(broker, queues=[queue])
    # They are bound to the delay as well.
    broker.publish([envelope(b"theirs", queue, due=time.time() + 0.5) for queue in bystanders])
    broker.publish([envelope(b"ours", name, due=time.time() + 0.5)])
    assert bodies([next_one(broker, name)]) == [b"ours"]
    for queue in bystanders:
        assert bodies([next_one(broker, queue)]) == [b"theirs"]
    assert [broker.depth(queue) for queue in (name, *bystanders)] == [0] * 5


def test_what_is_due_later_than_the_delay_can_tell_goes_round_again(broker, monkeypatch):
    monkeypatch.setattr("jumpstarter.brokers.kombu.topology.LONGEST_DELAY", 1)
    monkeypatch.setattr("jumpstarter.brokers.kombu.session.LONGEST_DELAY", 1)
    monkeypatch.setattr("jumpstarter.brokers.kombu.broker.LONGEST_DELAY", 1)
    due = time.time() + 3.5
    broker.publish([envelope(b"much later", due=due)])
    assert bodies([next_one(broker)]) == [b"much later"]
    assert time.time() >= due - 1


@pytest.mark.parametrize("seconds", [0.001, 1, 1.001, 2, 3.5, 1000, LONGEST_DELAY, LONGEST_DELAY + 9])
def test_the_routing_key_tells_the_seconds_in_bits_rounded_up(broker, seconds):
    claim(broker)
    link = broker._sessions["a"].link
    exchange, routing_key = broker.topology.delay(link, "q", seconds)
    whole = min(math.ceil(seconds), LONGEST_DELAY)
    assert routing_key == calculate_routing_key(whole, "@q")
    assert exchange == f"celery_delayed_{whole.bit_length() - 1}"


# Beside a genuine fleet


@pytest.mark.parametrize("kind", ["classic", "quorum"])
def test_celery_finds_the_delay_as_it_declares_it_itself(open_on, genuine, kind):
    broker = open_on(delayed_queue_type=kind)
    broker.publish([envelope(b"1", due=time.time() + 1)])
    # Refused by the server if there were a difference.
    declare_native_delayed_delivery_exchanges_and_queues(genuine, kind)
    assert bodies([next_one(broker)]) == [b"1"]


def test_we_find_the_delay_as_celery_declares_it(open_on, genuine):
    declare_native_delayed_delivery_exchanges_and_queues(genuine, "classic")
    broker = open_on()
    broker.publish([envelope(b"1", due=time.time() + 1)])
    assert bodies([next_one(broker)]) == [b"1"]


@pytest.mark.parametrize("kind", ["topic", "direct"])
def test_what_celery_delays_arrives_also_by_direct_exchanges(open_on, genuine, kind):
    quorum = {"x-queue-type": "quorum"}
    queue = Queue("q", Exchange("shop", type=kind), routing_key="shop.mail", queue_arguments=quorum)
    broker = open_on(queues=[queue])
    assert claim(broker) == []  # consuming binds it
    producer = genuine.Producer(exchange=Exchange("celery_delayed_27", type="topic"), auto_declare=False)
    producer.publish([1], routing_key=calculate_routing_key(1, "shop.mail"), headers={"id": "1"})
    one = next_one(broker)
    assert one.envelope.body == b"[1]"
    assert one.envelope.routing_key == "shop.mail"


def test_a_genuine_worker_gets_what_we_parked_for_its_queue_once(open_on, genuine):
    queue = Queue("q", Exchange("shop", type="topic"), routing_key="q", queue_arguments={"x-queue-type": "quorum"})
    with genuine.channel() as channel:
        declare_native_delayed_delivery_exchanges_and_queues(genuine, "classic")
        queue(channel).declare()
        bind_queue_to_native_delayed_delivery_exchange(genuine, queue)
        broker = open_on(queues=[queue])
        broker.publish([envelope(b"1", due=time.time() + 1)])
        message = eventually(lambda: channel.basic_get("q"), within=LATE, what="the message")
        assert message.body == "1"
        channel.basic_ack(message.delivery_tag)
        assert channel.basic_get("q") is None


def test_options_name_the_delay():
    topology = Topology(delayed_prefix="mine")
    assert topology._level(3) == "mine_celery_delayed_3"
