"""RabbitMQ and the network misbehave: nothing is lost, nothing is done twice that was done, and work goes on by itself."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections import Counter

import pytest

from jumpstarter.brokers.kombu import AmqpBroker
from jumpstarter.errors import BrokerUnavailable
from jumpstarter.jobs import RETURN
from jumpstarter.testing.broker_kit import LEASE, Forked, bodies, envelope, settlement
from tests.peers import eventually
from tests.rabbitmq_server import rabbitmq_server
from tests.redis_server import FaultyProxy
from tests.worker.conftest import start_node
from tests.worker.toy import ToyApplication
from tests.worker.toy import envelope as toy

__all__ = ["rabbitmq_server", "start_node"]

pytestmark = pytest.mark.timeout(600)  # the first test starts the server, which takes minutes on a busy machine

#: Seconds after which whatever was going to happen has happened, on a busy machine.
PATIENCE = 60.0


@pytest.fixture
def open_on(rabbitmq_server):
    with contextlib.ExitStack() as brokers:
        yield lambda **options: brokers.enter_context(
            AmqpBroker(options.pop("url", rabbitmq_server.url), **{"delayed_queue_type": "classic", "timeout": 30.0, **options})
        )


@pytest.fixture
def broker(open_on):
    return open_on()


def claim(broker, limit=100, by="a", queues=("q",)):
    return broker.claim(queues, limit, incarnation=by, lease=LEASE)


def next_one(broker, by="a"):
    """The next message, waited for."""
    return eventually(lambda: claim(broker, 1, by=by), within=PATIENCE, what="a message")[0]


class Consumer:
    """Claims, waits and settles as a worker does, in a thread, whatever happens to the server."""

    def __init__(self, broker, name):
        self.done = Counter()
        self._broker = broker
        self._name = name
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._work)

    def _work(self):
        while not self._ended.is_set():
            try:
                got = claim(self._broker, 5, by=self._name)
                if not got:
                    self._broker.wait(["q"], 0.5, incarnation=self._name)
                verdicts = self._broker.settle([settlement(one) for one in got], incarnation=self._name)
                self.done.update(one.envelope.body for one, held in zip(got, verdicts, strict=True) if held)
            except BrokerUnavailable:
                self._ended.wait(0.1)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *error):
        self._ended.set()
        self._thread.join(PATIENCE)


def publish_until_it_works(broker, message):
    """Publish as a client with a retry policy does."""

    def publish():
        with contextlib.suppress(BrokerUnavailable):
            broker.publish([message])
            return True

    eventually(publish, within=PATIENCE, what="a publish", every=0.1)


# Connections end


def test_consuming_goes_on_when_all_connections_are_closed_and_nothing_is_lost(rabbitmq_server, open_on):
    publisher = open_on()
    with Consumer(open_on(), "a") as one, Consumer(open_on(), "b") as two:
        for turn in range(5):
            for number in range(20):
                publish_until_it_works(publisher, envelope(b"%d-%d" % (turn, number)))
                if number == 10:
                    rabbitmq_server.close_all_connections()
            began = time.monotonic()
            eventually(lambda turn=turn: len(one.done | two.done) == 20 * (turn + 1), within=PATIENCE, what="all are done")
            print(f"consumed again {time.monotonic() - began:.2f} s later")


@pytest.mark.slow
def test_consuming_goes_on_when_the_server_is_stopped_and_started(rabbitmq_server, open_on):
    publisher = open_on()
    publisher.publish([envelope(b"%d" % number) for number in range(50)])
    held = claim(publisher, 1, by="holder")
    with Consumer(open_on(), "a") as consumer:
        rabbitmq_server.stop_app()
        try:
            with pytest.raises(BrokerUnavailable):
                publisher.publish([envelope(b"never")], timeout=1.0)
        finally:
            rabbitmq_server.start_app()
        began = time.monotonic()
        publish_until_it_works(publisher, envelope(b"after"))
        eventually(lambda: consumer.done[b"after"], within=PATIENCE, what="consuming again")
        assert time.monotonic() - began < 30
        eventually(lambda: len(consumer.done) == 51, within=PATIENCE, what="all are done")
    assert settle_patiently(publisher, [settlement(held[0])], by="holder") == [False]


@pytest.mark.slow
def test_what_was_confirmed_survives_the_death_of_the_server(rabbitmq_server, open_on):
    publisher = open_on()
    publisher.publish([envelope(b"%d" % number) for number in range(50)])
    with Consumer(open_on(), "a") as consumer:
        eventually(lambda: consumer.done, within=PATIENCE, what="a first message")
        rabbitmq_server.kill()
        rabbitmq_server.start()
        eventually(lambda: len(consumer.done) == 50, within=PATIENCE, what="all are done")


def follow(broker, got, by):
    """Settle each with a message that follows it."""
    return broker.settle([settlement(one, publish=[envelope(one.envelope.body, "r")]) for one in got], incarnation=by)


@contextlib.contextmanager
def cut_off(rabbitmq_server, open_on):
    """A broker whose answers can be cut off, another one's that cannot, and what waits in the queue."""
    publisher = open_on()
    sent = [b"%d" % number for number in range(30)]
    publisher.publish([envelope(body) for body in sent])
    with FaultyProxy(rabbitmq_server.port) as proxy:
        yield proxy, open_on(url=f"amqp://guest:guest@127.0.0.1:{proxy.port}//"), publisher, sent


def test_claims_whose_answer_is_cut_off_are_not_lost(rabbitmq_server, open_on):
    done = []
    with cut_off(rabbitmq_server, open_on) as (proxy, broker, publisher, sent):
        for turn in range(200):
            with contextlib.suppress(BrokerUnavailable):
                if not claim(broker, 1, by=f"idle{turn}", queues=["nothing"]):  # it is connected
                    proxy.cut_after = 150
                    claim(broker, 3, by=f"idle{turn}")
            proxy.cut_after = None
            got = claim(publisher, 3, by="b")
            assert all(publisher.settle([settlement(one) for one in got], incarnation="b"))
            done += bodies(got)
            if len(done) == len(sent):
                break
        assert proxy.cuts > 5
    assert sorted(done, key=int) == sent


def test_settlements_whose_answer_is_cut_off_are_carried_out_once_or_not_at_all(rabbitmq_server, open_on):
    followed = []
    with cut_off(rabbitmq_server, open_on) as (proxy, broker, publisher, sent):
        for turn in range(200):
            with contextlib.suppress(BrokerUnavailable):
                got = claim(broker, 3)
                broker.topology.ensure(broker._sessions["a"].link, "r")
                proxy.cut_after = 4 if turn % 2 else None
                follow(broker, got, "a")
            proxy.cut_after = None
            followed += bodies(claim(publisher, 100, by="b", queues=["r"]))
            if len(followed) >= len(sent) and publisher.depth("q") == 0:
                break
        assert proxy.cuts > 3
    assert sorted(followed, key=int) == sent


def test_a_settlement_whose_answer_is_late_is_remembered(rabbitmq_server, open_on):
    publisher = open_on()
    publisher.publish([envelope(b"1")])
    with FaultyProxy(rabbitmq_server.port) as proxy:
        broker = open_on(url=f"amqp://guest:guest@127.0.0.1:{proxy.port}//", timeout=5.0)
        (one,) = claim(broker)
        batch = [settlement(one, publish=[envelope(b"2", "r")])]
        # Its queue is known by now, so that nothing but the transaction has to travel.
        broker._sessions["a"].link.declared.add("r")
        publisher.publish([envelope(b"0", "r")])
        proxy.hold = True
        with pytest.raises(BrokerUnavailable):
            broker.settle(batch, incarnation="a")
        proxy.let_go()
        assert broker.settle(batch, incarnation="a") == [True]
    assert publisher.depth("r") == 2
    assert publisher.depth("q") == 0


# The server is silent


def test_a_frozen_server_makes_calls_fail_in_time_and_costs_no_claim(rabbitmq_server, open_on):
    broker = open_on(timeout=2.0)
    broker.publish([envelope(b"%d" % number) for number in range(5)])
    first, second, third = claim(broker, 3)
    rabbitmq_server.freeze()
    try:
        for call in (
            lambda: broker.publish([envelope()]),
            lambda: claim(broker),
            lambda: broker.settle([settlement(first, RETURN)], incarnation="a"),
            lambda: broker.settle([settlement(first, publish=[envelope()]), settlement(second)], incarnation="a"),
            lambda: broker.purge("q"),
            lambda: broker.depth("q"),
            broker.ping,
        ):
            began = time.monotonic()
            with pytest.raises(BrokerUnavailable):
                call()
            assert time.monotonic() - began < PATIENCE / 2
    finally:
        rabbitmq_server.thaw()
    # It had been carried out, or is by now; the others are still ours.
    eventually(lambda: not raises_unavailable(broker.ping), within=PATIENCE, what="an answer")
    assert settle_patiently(broker, [settlement(first), settlement(second), settlement(third)]) == [True, True, True]


def raises_unavailable(call):
    try:
        call()
    except BrokerUnavailable:
        return True
    return False


def settle_patiently(broker, batch, by="a"):
    """As the worker's settler does it."""
    for _ in range(20):
        with contextlib.suppress(BrokerUnavailable):
            return broker.settle(batch, incarnation=by)
    raise AssertionError("it could not be settled")


@pytest.mark.slow
def test_consuming_goes_on_after_the_server_was_frozen_for_five_seconds(rabbitmq_server, open_on):
    publisher = open_on()
    with Consumer(open_on(timeout=2.0), "a") as consumer:
        publisher.publish([envelope(b"%d" % number) for number in range(10)])
        eventually(lambda: len(consumer.done) == 10, within=PATIENCE, what="the first ten")
        rabbitmq_server.freeze()
        time.sleep(5)  # the fault's length
        rabbitmq_server.thaw()
        began = time.monotonic()
        publish_until_it_works(publisher, envelope(b"after"))
        eventually(lambda: consumer.done[b"after"], within=PATIENCE, what="consuming again")
        assert time.monotonic() - began < 20


# The server is short of memory


class Cut:
    """A socket whose next send waits, and then fails."""

    def __init__(self, sock):
        self._sock = sock
        self.has_begun, self.may_fail = threading.Event(), threading.Event()

    def __getattr__(self, name):
        return getattr(self._sock, name)

    def send(self, _data):
        self.has_begun.set()
        assert self.may_fail.wait(PATIENCE)
        raise ConnectionResetError("cut")


def test_a_send_that_fails_while_others_are_about_to_send_fails_for_all(broker):
    """Each has what the other one waits for, unless the first lets go before it tells of its failure."""
    broker.publish([envelope(b"1")])
    (one,) = claim(broker)
    link = broker._sessions["a"].link
    link._sock = cut = Cut(link._sock)

    def ack():
        with contextlib.suppress(BrokerUnavailable), link.cond:
            cut.may_fail.set()
            broker.ack(one, incarnation="a")

    threads = [threading.Thread(target=call, daemon=True) for call in (lambda: link.send(b"beat"), ack)]
    threads[0].start()
    assert cut.has_begun.wait(PATIENCE)
    threads[1].start()
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive()
    assert link.failure is not None
    assert bodies([next_one(broker)]) == [b"1"]


def test_under_a_memory_alarm_publishers_are_told_why_and_consumers_go_on(rabbitmq_server, open_on):
    broker, publisher = open_on(timeout=3.0), open_on(timeout=3.0)
    publisher.publish([envelope(b"%d" % number) for number in range(4)])
    first, second = claim(broker, 2)
    rabbitmq_server.set_memory_alarm()
    try:
        # The server tells its connections in its own time: until then it takes messages.
        eventually(lambda: raises_unavailable(lambda: publisher.publish([envelope(b"late")])), within=10, what="the alarm is heard")
        # What publishes nothing is not held up.
        assert broker.settle([settlement(first)], incarnation="a") == [True]
        assert bodies(claim(broker, 1)) == [b"2"]
        batch = [settlement(second, publish=[envelope(b"next", "r")])]
        with pytest.raises(BrokerUnavailable):
            broker.settle(batch, incarnation="a")
    finally:
        rabbitmq_server.clear_memory_alarm()
    assert settle_patiently(broker, batch) == [True]
    publish_until_it_works(publisher, envelope(b"after"))
    assert bodies(claim(open_on(), by="b", queues=["r"])) == [b"next"]


# The claimant is silent


def test_a_stopped_process_loses_its_claims_and_cannot_settle_them_any_more(rabbitmq_server, open_on):
    broker = open_on()
    broker.publish([envelope(b"1")])
    told, telling = os.pipe()

    def work():
        with AmqpBroker(rabbitmq_server.url, timeout=30.0, heartbeat=1) as mine:
            (one,) = mine.claim(["q"], 1, incarnation="sleeper", lease=LEASE)
            os.write(telling, b"!")
            while mine.held("sleeper"):
                time.sleep(0.01)
            batch = [settlement(one, publish=[envelope(b"never", "r")])]
            return mine.settle(batch, incarnation="sleeper")

    child = Forked(work)
    os.read(told, 1)
    os.kill(child.pid, signal.SIGSTOP)
    again = next_one(broker)
    assert (again.envelope.body, again.attempt) == (b"1", 2)
    os.kill(child.pid, signal.SIGCONT)
    assert child.result() == [False]
    assert broker.settle([settlement(again)], incarnation="a") == [True]
    assert broker.depth("r") == 0
    os.close(told)
    os.close(telling)


def test_a_process_that_settles_the_moment_it_wakes_up_is_refused(rabbitmq_server, open_on):
    broker = open_on()
    broker.publish([envelope(b"1")])
    told, telling = os.pipe()

    def work():
        # Without a keeper's look at the connection before it: the settlement itself has to find out.
        with AmqpBroker(rabbitmq_server.url, timeout=30.0, heartbeat=1) as mine:
            (one,) = mine.claim(["q"], 1, incarnation="sleeper", lease=LEASE)
            mine._start_keeper = lambda: None
            mine._sessions["sleeper"].keep = lambda: None
            os.write(telling, b"!")
            os.kill(os.getpid(), signal.SIGSTOP)
            try:
                return mine.settle([settlement(one)], incarnation="sleeper")
            except BrokerUnavailable:
                return mine.settle([settlement(one)], incarnation="sleeper")

    child = Forked(work)
    os.read(told, 1)
    again = next_one(broker)
    assert again.attempt == 2
    os.kill(child.pid, signal.SIGCONT)
    assert child.result() == [False]
    assert broker.settle([settlement(again)], incarnation="a") == [True]
    os.close(told)
    os.close(telling)


def test_signs_of_life_are_sent_while_a_job_runs(rabbitmq_server, open_on):
    broker = open_on(heartbeat=1)
    broker.publish([envelope(b"1")])
    (one,) = claim(broker)
    time.sleep(6)  # five times what the server waits for
    assert broker.settle([settlement(one, publish=[envelope(b"2", "r")])], incarnation="a") == [True]


# consumer_timeout: RabbitMQ takes it ill when a message is not acked in time (pain 8)


@pytest.fixture
def impatient(rabbitmq_server):
    """The server waits four seconds for an ack."""
    rabbitmq_server.set_consumer_timeout(4)
    yield rabbitmq_server
    rabbitmq_server.set_consumer_timeout(None)


@pytest.mark.slow
@pytest.mark.parametrize("queue_type", [pytest.param("classic", marks=pytest.mark.heavy), "quorum"])
def test_long_claims_are_refreshed_before_the_server_takes_it_ill(impatient, open_on, queue_type):
    broker = open_on(consumer_timeout=4, queue_type=queue_type)
    headers = {"id": "7", "task": "t"}
    broker.publish([envelope(b"%d" % number, headers=headers, exchange="shop", routing_key="mail") for number in range(3)])
    got = claim(broker)
    time.sleep(14)  # more than three times as long
    assert [one.tag for one in broker.held("a")] == [one.tag for one in got]
    done, returned, _ = got
    batch = [settlement(done, publish=[envelope(b"next", "r")]), settlement(returned, RETURN)]
    assert broker.settle(batch, incarnation="a") == [True, True]
    assert open_on().depth("r") == 1
    again = next_one(broker)
    assert (again.envelope.body, again.envelope.headers, again.attempt) == (b"1", headers, 1)
    assert (again.envelope.exchange, again.envelope.routing_key) == ("shop", "mail")
    # What is still held when the connection ends comes back from its lease queue, counted.
    broker.close()
    others = [open_on(consumer_timeout=4, queue_type=queue_type) for _ in "bc"]  # one of them has to wait longer than that
    back = sorted((next_one(other, by) for other, by in zip(others, "bc", strict=True)), key=lambda one: one.envelope.body)
    assert [(one.envelope.body, one.attempt) for one in back] == [(b"1", 2), (b"2", 2)]
    assert back[1].envelope.headers == headers


@pytest.mark.slow
def test_a_server_that_takes_it_ill_all_the_same_costs_the_claim_and_no_more(impatient, open_on):
    broker = open_on(consumer_timeout=None)
    broker.publish([envelope(b"1")])
    (one,) = claim(broker)
    eventually(lambda: broker.held("a") == [], within=PATIENCE, what="the server ends the channel")
    assert "406" in str(broker._sessions["a"].link.failure)
    assert broker.settle([settlement(one, publish=[envelope(b"never", "r")])], incarnation="a") == [False]
    again = next_one(broker)
    assert again.attempt == 2
    assert broker.settle([settlement(again)], incarnation="a") == [True]
    assert broker.depth("r") == 0


def test_a_process_stopped_while_it_refreshes_has_lost_the_claim(open_on, monkeypatch):
    monkeypatch.setattr("jumpstarter.brokers.kombu.refresh.LEASE_TTL", 1)
    broker, other = open_on(consumer_timeout=600), open_on()
    broker.publish([envelope(b"1")])
    (one,) = claim(broker)
    session = broker._sessions["a"]
    monkeypatch.setattr(session, "ask", lambda *_: next_one(other, "b"))  # meanwhile it expires, and another has it
    broker.consumer_timeout = 1e-6
    session._refresh.keep(time.monotonic() + broker.timeout)
    assert broker.held("a") == []
    assert broker.settle([settlement(one)], incarnation="a") == [False]
    assert [(held.envelope.body, held.attempt) for held in other.held("b")] == [(b"1", 2)]


def test_a_refresh_whose_answer_is_late_is_finished_later(rabbitmq_server, open_on):
    broker = open_on(timeout=1.0, consumer_timeout=600, heartbeat=600)
    broker.publish([envelope(b"1")])
    (one,) = claim(broker)
    session = broker._sessions["a"]
    session._refresh.declare()
    rabbitmq_server.freeze()
    try:
        broker.consumer_timeout = 1e-6
        with pytest.raises(BrokerUnavailable):
            session._refresh.keep(time.monotonic() + broker.timeout)
        broker.consumer_timeout = 600
    finally:
        rabbitmq_server.thaw()
    # The broker's keeper goes on with it; until then there is nothing to ack.
    assert settle_patiently(broker, [settlement(one)]) == [True]
    assert broker.depth("q") == 0


@pytest.mark.slow
@pytest.mark.heavy
def test_a_worker_outlives_consumer_timeout_and_runs_a_long_job_once(impatient, open_on, start_node, tmp_path):
    runs = tmp_path / "runs"

    def long():
        with runs.open("a") as file:
            file.write("run\n")
        time.sleep(14)

    broker = open_on(consumer_timeout=4)
    start_node(ToyApplication(long=long), broker, None, pool="threads", concurrency=2)
    broker.publish([toy("long")])
    eventually(runs.exists, within=PATIENCE, what="it runs")
    time.sleep(16)
    eventually(lambda: impatient.unacked("toys") == 0 and impatient.ready("toys") == 0, within=PATIENCE, what="it is settled")
    assert runs.read_text() == "run\n"
