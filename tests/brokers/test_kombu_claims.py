"""What the kit does not ask of an AMQP broker: who holds what on the server, what counts, what travels in one transaction, and that
genuine Kombu clients see their own bytes."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import kombu
import pytest
from kombu import Exchange, Queue

from jumpstarter.brokers import open_broker
from jumpstarter.brokers.kombu import AmqpBroker
from jumpstarter.errors import BrokerError, BrokerUnavailable, ConfigurationError, MessageError, QueueNotFound
from jumpstarter.jobs import ACKED, RETURN, Envelope, Quarantine
from jumpstarter.testing.broker_kit import LEASE, Forked, bodies, envelope, settlement
from tests.peers import eventually
from tests.rabbitmq_server import rabbitmq_server

__all__ = ["rabbitmq_server"]

pytestmark = pytest.mark.timeout(400)  # the first test starts the server, which takes minutes on a busy machine


@pytest.fixture
def open_on(rabbitmq_server):
    with contextlib.ExitStack() as brokers:
        yield lambda **options: brokers.enter_context(
            AmqpBroker(rabbitmq_server.url, **{"delayed_queue_type": "classic", "timeout": 30.0, **options})
        )


@pytest.fixture
def broker(open_on):
    return open_on()


@pytest.fixture
def genuine(rabbitmq_server):
    """A connection as a genuine Celery has it."""
    with kombu.Connection(rabbitmq_server.url) as connection:
        yield connection


def claim(broker, limit=100, by="a", queues=("q",)):
    return broker.claim(queues, limit, incarnation=by, lease=LEASE)


def held_on(server, queue, count, within=20.0):
    """The server says that so many messages of the queue are unacked."""
    eventually(lambda: server.unacked(queue) == count, within=within, what=f"{count} unacked in {queue}")


# Nothing is hoarded


@pytest.mark.parametrize("queue_type", ["classic", "quorum"])
def test_a_claim_takes_no_more_from_the_server_than_it_hands_out(rabbitmq_server, open_on, queue_type):
    broker = open_on(queue_type=queue_type)
    broker.publish([envelope(b"%d" % number) for number in range(50)])
    for limit in (1, 3, 7):
        assert len(claim(broker, limit)) == limit
    held_on(rabbitmq_server, "q", 11)
    assert rabbitmq_server.ready("q") == 39


def test_what_was_pushed_and_nobody_claims_goes_back_uncounted(rabbitmq_server, open_on):
    broker, other = open_on(), open_on()
    assert not broker.wait(["q"], 0.01, incarnation="a")
    other.publish([envelope(b"1"), envelope(b"2")])
    held_on(rabbitmq_server, "q", 1)
    began = time.monotonic()
    held_on(rabbitmq_server, "q", 0)
    assert time.monotonic() - began < 10
    assert sorted((d.envelope.body, d.attempt) for d in claim(other, by="b")) == [(b"1", 1), (b"2", 1)]
    # And nothing more is pushed until somebody claims or waits again.
    other.publish([envelope(b"3")])
    assert bodies(claim(other, by="b")) == [b"3"]


def test_an_idle_claimant_is_pushed_one_message_of_each_queue_at_most(rabbitmq_server, open_on):
    broker, other = open_on(), open_on()
    assert not broker.wait(["q", "r"], 0.01, incarnation="a")
    other.publish([envelope(queue=queue) for queue in "qqqrrr"])
    assert broker.wait(["q", "r"], 20, incarnation="a")
    assert rabbitmq_server.unacked("q") <= 1
    assert rabbitmq_server.unacked("r") <= 1
    assert len(claim(broker, 100, queues=["q", "r"])) == 6


@pytest.mark.parametrize("queue_type", ["classic", "quorum"])
def test_where_claims_keep_coming_back_full_the_server_pushes_and_stops_when_they_end(rabbitmq_server, open_on, queue_type):
    broker = open_on(queue_type=queue_type)
    broker.publish([envelope(b"%d" % number) for number in range(1000)])
    done = []
    while len(done) < 300:
        got = claim(broker, 50)
        if not got:
            assert broker.wait(["q"], 30, incarnation="a")
        assert broker.settle([settlement(one) for one in got], incarnation="a") == [True] * len(got)
        done += bodies(got)
    assert broker._sessions["a"]._streamed == {"q"}
    # Nobody claims any more: all that was pushed is there again, in any order, and counts as new.
    held_on(rabbitmq_server, "q", 0)
    eventually(lambda: not broker._sessions["a"]._watched, within=20, what="no consumer is left")
    rest = claim(open_on(), 1000, by="b")
    assert {one.attempt for one in rest} == {1}
    assert sorted([*done, *bodies(rest)], key=int) == [b"%d" % number for number in range(1000)]


def test_a_stream_brings_no_more_than_what_was_asked_for(rabbitmq_server, open_on):
    """Where jobs are acked one by one, each ack would bring one message, on its own."""
    broker = open_on()
    broker.publish([envelope()] * 2000)
    session = None
    while session is None or not session._streamed or session._watched or session._arrived:
        got = claim(broker, 50)
        assert all(broker.ack(one, incarnation="a") for one in got)
        session = broker._sessions["a"]
        if not got:
            assert broker.wait(["q"], 30, incarnation="a")
    held_on(rabbitmq_server, "q", 0)
    assert broker._sessions["a"] is session
    assert eventually(lambda: claim(broker, 50), within=60, what="the next ones")


def test_a_consumer_that_ends_as_it_begins_does_not_disturb_the_server(open_on):
    """RabbitMQ 3.10 fails where a cancel overtakes what it has to say of the consumer's start."""
    broker = open_on()
    claim(broker)
    session = broker._sessions["a"]
    for _ in range(100):
        broker.wait(["q"], 1e-6, incarnation="a")
        broker.rest(incarnation="a")
    assert session.link.failure is None


def test_a_stream_does_not_starve_a_quiet_queue(open_on):
    broker, other = open_on(), open_on()
    broker.publish([envelope(b"hot", "hot")] * 2000)
    turns = 0
    seen = 0
    while not seen:
        got = claim(broker, 50, queues=["hot", "quiet"])
        if not got:
            assert broker.wait(["hot", "quiet"], 30, incarnation="a")
        if "hot" in broker._sessions["a"]._streamed and not turns:
            other.publish([envelope(b"quiet", "quiet")])
            turns = 1
        turns += bool(turns)
        seen = sum(one.queue == "quiet" for one in got)
        broker.settle([settlement(one) for one in got], incarnation="a")
    assert turns < 20


def test_a_claim_from_many_queues_finds_the_few_that_have_something(open_on):
    broker = open_on()
    queues = [f"q{number}" for number in range(60)]
    broker.publish([envelope(queue=queues[13]), envelope(queue=queues[47]), envelope(queue=queues[47])])
    assert sorted(one.queue for one in claim(broker, 2, queues=queues)) in ([queues[13], queues[47]], [queues[47]] * 2)
    assert len(claim(broker, 100, queues=queues)) == 1
    assert not broker.wait(queues, 0.1, incarnation="a")
    broker.publish([envelope(b"late", queues[59])])
    assert broker.wait(queues, 20, incarnation="a")
    assert bodies(claim(broker, 1, queues=queues)) == [b"late"]


# What counts


def die_holding(broker, count, by="victim"):
    """A process of its own claims so many messages and is killed."""

    def work():
        got = broker.claim(["q"], count, incarnation=by, lease=LEASE)
        assert len(got) == count, len(got)
        os.kill(os.getpid(), signal.SIGKILL)

    child = Forked(work)
    os.waitpid(child.pid, 0)
    os.close(child._reader)


def next_one(broker, by="a"):
    """The next message, waited for: the server notices a dead process a moment later."""
    return eventually(lambda: claim(broker, 1, by=by), within=20, what="a message")[0]


@pytest.mark.parametrize("queue_type", ["classic", "quorum"])
def test_every_death_of_its_process_counts_and_returns_do_not(open_on, queue_type):
    broker = open_on(queue_type=queue_type)
    broker.publish([envelope(b"poison", headers={"id": "7"}, exchange="shop", routing_key="shop.mail")])
    for attempt in (1, 2, 3):
        for _ in range(2):
            one = next_one(broker)
            assert one.attempt == attempt
            assert broker.settle([settlement(one, RETURN)], incarnation="a") == [True]
        broker.release("a")
        eventually(lambda: broker.depth("q") == 1, within=20, what="it is back")
        die_holding(broker, 1)
    one = next_one(broker)
    assert one.attempt == 4
    assert one.envelope.headers == {"id": "7"}
    assert (one.envelope.exchange, one.envelope.routing_key) == ("shop", "shop.mail")


def work_until_the_poison_kills(broker):
    """A worker that claims as much as it gets, and dies of the poison at once: what was claimed with it, what it settled before."""
    done: list[tuple[bytes, int]] = []
    idle = 0
    while idle < 3:
        got = broker.claim(["q"], 100, incarnation="w", lease=LEASE)
        claimed = [(one.envelope.body, one.attempt) for one in got]
        if b"poison" in bodies(got):
            return claimed, done
        assert all(broker.settle([settlement(one) for one in got], incarnation="w"))
        done += claimed
        idle = 0 if got or broker.wait(["q"], 1, incarnation="w") else idle + 1
    return [], done


def test_messages_that_died_together_are_handed_out_one_by_one_so_that_only_the_guilty_one_is_counted(open_on):
    broker = open_on()
    broker.publish([envelope(b"poison"), *(envelope(b"%d" % number) for number in range(8))])
    # A worker that has claimed all nine dies of the first.
    die_holding(broker, 9)
    eventually(lambda: broker.depth("q") == 9, within=20, what="all are back")
    innocent: dict[bytes, int] = {}
    for life in range(3):
        # Its process ends without a word to the server, as if it had been killed.
        among, settled = Forked(work_until_the_poison_kills, broker).result()
        innocent |= dict(settled)
        assert among == [(b"poison", life + 2)]
        left = 9 - len(innocent)
        eventually(lambda left=left: broker.depth("q") == left, within=20, what="all are back")
    assert set(innocent.values()) <= {2}
    assert Forked(work_until_the_poison_kills, broker).result()[0] == [(b"poison", 5)]


def test_a_suspect_does_not_hold_up_the_others_for_long(open_on):
    broker = open_on()
    broker.publish([envelope(b"1"), envelope(b"2")])
    die_holding(broker, 2)
    first = next_one(broker)
    began = time.monotonic()
    second = next_one(broker)
    assert time.monotonic() - began < 10
    assert {first.attempt, second.attempt} == {2}


def test_a_settled_suspect_makes_room_at_once(open_on):
    broker = open_on()
    broker.publish([envelope(b"%d" % number) for number in range(30)])
    die_holding(broker, 30)
    eventually(lambda: broker.depth("q") == 30, within=20, what="all are back")
    began = time.monotonic()
    for _ in range(30):
        one = next_one(broker)
        assert broker.settle([settlement(one)], incarnation="a") == [True]
    assert time.monotonic() - began < 30 * 0.3


# Transactions


def test_a_settlement_after_the_connection_ended_does_nothing_at_all(rabbitmq_server, open_on):
    broker, other = open_on(), open_on()
    broker.publish([envelope(b"mine")])
    (mine,) = claim(broker)
    rabbitmq_server.close_all_connections()
    theirs = next_one(other, by="b")
    assert theirs.attempt == 2
    settlements = [settlement(mine, publish=[envelope(b"never", "r")])]
    with contextlib.suppress(BrokerUnavailable):
        assert broker.settle(settlements, incarnation="a") == [False]
    assert broker.settle(settlements, incarnation="a") == [False]
    assert other.depth("r") == 0
    assert other.settle([settlement(theirs)], incarnation="b") == [True]


def test_a_session_that_broke_is_replaced_by_the_next_claim(rabbitmq_server, broker):
    broker.publish([envelope()])
    assert not broker.wait(["r"], 0.01, incarnation="a")
    rabbitmq_server.close_all_connections()
    eventually(lambda: broker._sessions["a"].is_broken, within=20, what="the keeper notices")
    assert len(claim(broker)) == 1


def test_a_deleted_queue_costs_its_consumers_their_session_and_nothing_else(rabbitmq_server, broker):
    broker.publish([envelope(b"1", "r")])
    (kept,) = claim(broker, queues=["r"])
    assert not broker.wait(["q", "r"], 0.01, incarnation="a")
    session = broker._sessions["a"]
    rabbitmq_server.delete_queues()
    eventually(lambda: session.is_broken, within=60, what="it is told so")  # whoever reads first
    assert "cancelled the consumer" in str(session.link.failure)
    assert broker.settle([settlement(kept)], incarnation="a") == [False]
    broker.publish([envelope(b"2")])
    assert bodies([next_one(broker)]) == [b"2"]


def test_a_message_whose_queue_was_deleted_a_moment_ago_is_sent_all_the_same(rabbitmq_server, open_on):
    broker = open_on()
    broker.publish([envelope(b"1"), envelope(b"0", "r")])
    (first,) = claim(broker)
    rest = claim(broker, queues=["r"])
    assert broker.settle([settlement(rest[0], publish=[envelope(b"warm", "r")])], incarnation="a") == [True]
    rabbitmq_server.ask(
        'rabbit_amqqueue:delete(element(2, rabbit_amqqueue:lookup(rabbit_misc:r(<<"/">>, queue, <<"r">>))), false, false, <<"me">>)'
    )
    assert broker.settle([settlement(first, publish=[envelope(b"next", "r")])], incarnation="a") == [True]
    other = open_on()
    assert bodies(eventually(lambda: claim(other, queues=["r"]), within=20, what="the message")) == [b"next"]


def test_what_was_acked_before_it_began_is_carried_out_all_the_same(open_on):
    broker = open_on()
    broker.publish([envelope(b"1"), envelope(b"2")])
    first, second = claim(broker)
    assert broker.acks_at_start
    assert broker.settle([settlement(first)], incarnation="a") == [True]
    batch = [settlement(first, ACKED, publish=[envelope(b"1a", "r")]), settlement(second, publish=[envelope(b"2a", "r")])]
    assert broker.settle(batch, incarnation="a") == [True, True]
    broker.release("a")
    assert broker.settle([settlement(first, ACKED, publish=[envelope(b"1b", "r")])], incarnation="a") == [True]
    assert bodies(claim(broker, queues=["r"])) == [b"1a", b"2a", b"1b"]


def test_claims_beside_settlements_that_publish_do_not_disturb_the_server_in_its_commits(open_on):
    """It takes whatever comes on a channel while it carries out a commit for an error, and closes the connection."""
    broker = open_on()
    broker.publish([envelope(b"%d" % number) for number in range(100)])
    claimed = queue.SimpleQueue()

    def claim_all():
        for _ in range(100):
            claimed.put(claim(broker, 1)[0])
            broker.wait(["idle"], 0.001, incarnation="a")  # starts a consumer, the first time

    with ThreadPoolExecutor(1) as threads:
        claiming = threads.submit(claim_all)
        for _ in range(100):
            one = claimed.get(timeout=60)
            # Durable, and stored for two queues: the server is busy with it for a while.
            follow_ups = [envelope(b"x" * 10_000, name) for name in ("r", "s")]
            assert broker.settle([settlement(one, publish=follow_ups)], incarnation="a") == [True]
        claiming.result(60)
    assert [broker.depth(name) for name in ("q", "r", "s")] == [0, 100, 100]


def test_acks_of_one_beside_settlements_that_publish_do_not_disturb_the_server_either(open_on):
    broker = open_on()
    broker.publish([envelope(b"%d" % number) for number in range(2_000)])
    late, early = claim(broker, 50), claim(broker, 2_000)

    def settle_all():
        batches = [[settlement(one, publish=[envelope(b"x" * 10_000, name) for name in ("r", "s")])] for one in late]
        return [broker.settle(batch, incarnation="a") for batch in batches]

    with ThreadPoolExecutor(1) as threads:
        settling = threads.submit(settle_all)
        assert all(broker.ack(one, incarnation="a") for one in early)
        assert settling.result(60) == [[True]] * 50
    assert broker.release("a") == 0
    assert [broker.depth(name) for name in ("q", "r", "s")] == [0, 50, 50]


def test_acks_are_joined_where_they_can_be(rabbitmq_server, broker):
    broker.publish([envelope(b"%d" % number) for number in range(100)])
    got = claim(broker)
    session = broker._sessions["a"]
    assert len(session._acks([session.held[one.tag].number for one in got[:50]])) == 1
    assert len(session._acks([session.held[one.tag].number for one in (got[52], got[54])])) == 2


def test_single_acks_and_joined_ones_leave_the_right_messages(rabbitmq_server, broker):
    broker.publish([envelope(b"%d" % number) for number in range(10)])
    got = claim(broker)
    for some in ([3], [0, 1, 5], [2, 4], [9, 6]):
        assert broker.settle([settlement(got[number]) for number in some], incarnation="a") == [True] * len(some)
    held_on(rabbitmq_server, "q", 2)
    broker.close()
    assert {one.envelope.body for one in (next_one(broker, "b"), next_one(broker, "b"))} == {b"7", b"8"}


# Queues as the application declares them


def test_a_quarantined_message_goes_where_its_queue_sends_dead_letters(open_on):
    dead = Queue("dead", Exchange("dead", type="fanout"))
    queue = Queue("q", Exchange("q"), routing_key="q", queue_arguments={"x-dead-letter-exchange": "dead"})
    broker = open_on(queues=[queue, dead])
    assert claim(broker, queues=["dead"]) == []
    broker.publish([envelope(b"poison")])
    (poison,) = claim(broker)
    assert broker.settle([settlement(poison, Quarantine("why not"))], incarnation="a") == [True]
    assert broker.quarantined() == []
    found = eventually(lambda: claim(broker, queues=["dead"]), within=20, what="the dead letter")
    assert bodies(found) == [b"poison"]
    assert found[0].envelope.headers["x-death"][0]["reason"] == "rejected"


def test_a_queue_that_ends_with_its_last_consumer_outlives_a_rest(open_on):
    queue = Queue("brief", Exchange("brief"), routing_key="brief", auto_delete=True)
    broker, publisher = open_on(queues=[queue]), open_on(queues=[queue])
    assert claim(broker, queues=["brief"]) == []
    assert not broker.wait(["brief"], 0.1, incarnation="a")
    publisher.publish([envelope(b"%d" % number, "brief") for number in range(3)])
    assert broker.wait(["brief"], 30, incarnation="a")
    broker.rest(incarnation="a")
    assert sorted(bodies(claim(broker, queues=["brief"]))) == [b"0", b"1", b"2"]


def test_priorities_are_served_where_the_queue_has_them(open_on):
    broker = open_on(queues=[Queue("q", Exchange("q"), routing_key="q", max_priority=10)])
    broker.publish([envelope(b"%d" % priority, priority=priority) for priority in (3, 9, 0, 6)])
    assert bodies(claim(broker)) == [b"9", b"6", b"3", b"0"]
    broker.release("a")
    assert bodies(claim(broker)) == [b"9", b"6", b"3", b"0"]


def test_topics_are_routed_by_the_server_as_the_application_declared_them(open_on):
    shop = Exchange("shop", type="topic")
    broker = open_on(queues=[Queue("mail", shop, routing_key="shop.mail.#"), Queue("all", shop, routing_key="#")])
    claim(broker, queues=["mail", "all"])
    assert broker.routes
    broker.publish([envelope(b"1", "mail", exchange="shop", routing_key="shop.mail.welcome")])
    got = claim(broker, queues=["mail", "all"])
    assert sorted(one.queue for one in got) == ["all", "mail"]
    assert {(one.envelope.exchange, one.envelope.routing_key) for one in got} == {("shop", "shop.mail.welcome")}


def test_a_queue_that_exists_under_other_terms_is_used_as_it_is(open_on, genuine, caplog):
    Queue("odd", Exchange("odd"), routing_key="odd", max_length=5, channel=genuine.channel()).declare()
    broker = open_on()
    broker.publish([envelope(b"1", "odd")])
    assert bodies(claim(broker, queues=["odd"])) == [b"1"]
    assert "queue 'odd' is used as it is" in caplog.text


def test_a_message_that_no_queue_takes_is_an_error_that_names_the_queue(open_on):
    broker = open_on(queues=[Queue("q", Exchange("shop", type="direct"), routing_key="one")])
    with pytest.raises(QueueNotFound, match="'q'") as caught:
        broker.publish([envelope(b"1", exchange="shop", routing_key="two")])
    assert caught.value.queue == "q"
    broker.publish([envelope(b"2", exchange="shop", routing_key="one")])
    assert bodies(claim(broker)) == [b"2"]


def test_a_full_queue_refuses_with_its_name(open_on):
    limited = Queue("q", Exchange("q"), routing_key="q", queue_arguments={"x-max-length": 2, "x-overflow": "reject-publish"})
    broker = open_on(queues=[limited])
    with pytest.raises(BrokerError, match="'q' refuses"):
        broker.publish([envelope(b"1")] * 10)


def test_headers_that_amqp_cannot_carry_are_refused_before_anything_is_sent(broker):
    with pytest.raises(MessageError, match="64 bits"):
        broker.publish([envelope(b"1"), envelope(headers={"big": 2**70})])
    assert broker.depth("q") == 0


# Beside genuine Kombu


def test_kombu_gets_the_bytes_that_it_would_have_sent(broker, genuine):
    headers = {"id": "1", "task": "t", "retries": 0, "eta": None, "timelimit": [None, 1.5], "stamps": {"ä": ["\u2028"]}}
    properties = {"correlation_id": "1", "reply_to": "me", "expiration": "60000"}
    broker.publish(
        [Envelope(queue="q", body=b"[[1], {}, {}]", headers=headers, properties={**properties, "delivery_mode": 2}, priority=3)]
    )
    with genuine.channel() as channel:
        genuine.Producer(channel).publish(
            b"[[1], {}, {}]",
            routing_key="q",
            headers=headers,
            content_type="application/json",
            content_encoding="utf-8",
            priority=3,
            delivery_mode=2,
            expiration=60,
            correlation_id="1",
            reply_to="me",
        )
        ours, theirs = (eventually(lambda: channel.basic_get("q"), within=20, what="a message") for _ in range(2))
        assert ours.body == theirs.body
        assert ours.properties == theirs.properties
        for message in (ours, theirs):
            channel.basic_ack(message.delivery_tag)


def test_what_kombu_sends_is_claimed_as_it_was_sent(broker, genuine):
    assert claim(broker) == []
    genuine.Producer().publish({"a": [1, None]}, routing_key="q", headers={"id": "1", "big": 2**40}, priority=1, serializer="json")
    one = next_one(broker)
    assert one.envelope.body == b'{"a": [1, null]}'
    assert one.envelope.headers == {"id": "1", "big": 2**40}
    assert (one.envelope.content_type, one.envelope.content_encoding) == ("application/json", "utf-8")
    assert (one.envelope.priority, one.envelope.properties["delivery_mode"], one.attempt) == (1, 2, 1)


def test_what_comes_back_and_what_a_settlement_sends_is_what_kombu_would_have_sent(broker, genuine):
    broker.publish([envelope(b"1", headers={"id": "1"})])
    with genuine.channel() as channel:
        first = eventually(lambda: channel.basic_get("q"), within=20, what="the message")
        before = dict(first.properties)
        channel.basic_reject(first.delivery_tag, requeue=False)
        broker.publish([envelope(b"1", headers={"id": "1"})])
        (one,) = claim(broker)
        broker.settle([settlement(one, RETURN, publish=[envelope(b"2", "r", headers={"id": "2"})])], incarnation="a")
        again = eventually(lambda: channel.basic_get("q"), within=20, what="the message")
        assert (again.properties, again.body) == (before, "1")
        assert not again.delivery_info["redelivered"]
        nxt = eventually(lambda: channel.basic_get("r"), within=20, what="the next")
        assert nxt.properties == {**before, "application_headers": {"id": "2"}}
        for message in (again, nxt):
            channel.basic_ack(message.delivery_tag)


# Publishing


def test_a_fork_leaves_the_parents_connections_alone(rabbitmq_server, broker):
    broker.publish([envelope(b"1")])
    (mine,) = claim(broker)

    def work():
        broker.publish([envelope(b"2")])
        assert broker.held("a") == []
        assert broker.settle([settlement(mine)], incarnation="a") == [False]
        broker.close()

    Forked(work).result()
    assert broker.settle([settlement(mine)], incarnation="a") == [True]
    broker.publish([envelope(b"3")])
    assert bodies(claim(broker)) == [b"2", b"3"]


def test_publishing_starts_no_thread(broker):
    before = threading.active_count()
    broker.publish([envelope()])
    broker.ping()
    assert broker.depth("q") == 1
    assert threading.active_count() == before


def test_the_keeper_ends_with_the_last_session(broker):
    broker.publish([envelope()])
    claim(broker)
    keeper = broker._keeper
    assert keeper.is_alive()
    broker.close()
    assert not keeper.is_alive()


def test_an_idle_connection_that_the_server_closed_is_not_used_again(rabbitmq_server, broker):
    broker.publish([envelope(b"1")])
    rabbitmq_server.close_all_connections()
    broker.publish([envelope(b"2")])
    assert broker.depth("q") == 2


def test_urls_and_errors_hold_no_password():
    broker = open_broker("amqps://me:secret@host.invalid:5671/shop", timeout=1.0)
    assert isinstance(broker, AmqpBroker)
    assert broker.url == "amqps://me@host.invalid:5671/shop"
    assert broker.server == "amqp:host.invalid:5671/shop"
    with pytest.raises(BrokerUnavailable) as caught:
        broker.ping()
    assert "secret" not in str(caught.value)
    assert broker.server == open_broker("amqp://you:other@host.invalid:5671/shop").server


def test_the_next_server_is_tried_where_one_is_away(rabbitmq_server):
    away = "amqp://guest:guest@127.0.0.1:1//"
    with AmqpBroker(f"{away};{rabbitmq_server.url}", timeout=30.0) as broker:
        broker.publish([envelope(b"1")])
        assert bodies(claim(broker)) == [b"1"]


def test_a_wrong_password_is_told(rabbitmq_server):
    url = rabbitmq_server.url.replace("guest:guest", "guest:wrong")
    with AmqpBroker(url, timeout=30.0) as broker, pytest.raises(BrokerUnavailable, match="ACCESS_REFUSED"):
        broker.ping()


@pytest.mark.parametrize("options", [{"timeout": 0}, {"queue_type": "stream"}, {"delayed_queue_type": "x"}])
def test_options_are_checked(options):
    with pytest.raises(ConfigurationError):
        AmqpBroker("amqp://localhost", **options)
