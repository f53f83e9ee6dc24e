"""The broker on Kombu's other transports passes the kit in memory and on a folder, but for what such a transport cannot."""

from __future__ import annotations

import contextlib
import threading
import time
from dataclasses import replace
from typing import ClassVar

import kombu
import pytest
from kombu.transport import TRANSPORT_ALIASES
from kombu.transport.memory import Transport as Memory

from jumpstarter.brokers import open_broker
from jumpstarter.brokers.kombu import KombuBroker, folder
from jumpstarter.clock import SYSTEM_CLOCK
from jumpstarter.errors import BrokerError, BrokerUnavailable, ConfigurationError
from jumpstarter.jobs import REQUEUE
from jumpstarter.results import open_results
from jumpstarter.testing.broker_kit import LEASE as LENGTH
from jumpstarter.testing.broker_kit import BrokerKit, Forked, ManualClock, bodies, envelope, settlement
from tests.peers import eventually
from tests.worker.conftest import start_node
from tests.worker.toy import ToyApplication
from tests.worker.toy import envelope as toy

__all__ = ["start_node"]

# What is tested in the place of a promise that cannot be kept is said behind its reason.
LEASE = "there is no lease: what a dead process held comes back when the transport's own visibility ends, or never"
PARKED = "what is not due yet waits in the process that claimed it first (test_what_is_not_due_waits_in_the_process_that_found_it)"
PRIORITY = "this transport knows no priorities"
FRONT = "what goes back goes to the end of its queue"
OTHERS = "a claim is seen and settled by the process that made it, and goes back when that closes its connection"
LOOKING = "who looks into the quarantine takes out what rests there meanwhile: another finds less"
TOPICS = "few transports know topics, and each in a way of its own (test_topics_are_refused_with_the_reason_and_queues_are_deleted)"
FOLDER = "messages of one millisecond are in no order: the transport names its files by the time and a random number"


class TestMemory(BrokerKit):
    durable = False
    wake_within = 1.0  # it looks as often as the transport's polling_interval says
    cannot: ClassVar[dict[str, str]] = {
        **dict.fromkeys(
            (
                "test_a_message_that_a_wait_took_aside_is_never_lost",
                "test_a_claim_that_was_taken_back_cannot_settle",
                "test_a_claim_whose_lease_ran_out_comes_back_counted",
                "test_renewal_keeps_the_claims",
                "test_renewing_nobody_does_nothing",
                "test_two_reapers_at_once_return_everything_once",
                "test_a_reaped_incarnation_may_live_on_with_new_claims",
                "test_a_claim_may_be_held_for_a_shorter_time_than_others",
                "test_a_claim_may_be_held_for_a_longer_time_than_others",
                "test_a_long_hold_ends_too",
                "test_held_claims_are_renewed_with_the_others",
                "test_a_hold_is_over_when_its_claim_is",
                "test_a_hold_goes_on_when_its_claim_is_kept",
                "test_the_last_hold_of_a_claim_counts",
                "test_tags_that_are_not_claimed_are_passed_over",
                "test_a_thousand_claims_may_be_held_at_once",
                "test_release_keeps_what_it_is_told_to_keep",
                "test_depth_counts_what_waits_and_nothing_else",
            ),
            LEASE,
        ),
        **dict.fromkeys(
            (
                "test_a_batch_settles_each_as_it_says",
                "test_a_message_with_a_due_time_waits_in_the_broker",
                "test_messages_become_due_in_the_order_of_their_times",
                "test_reap_says_when_the_next_message_is_due",
                "test_thousands_of_messages_become_due_at_once",
            ),
            PARKED,
        ),
        **dict.fromkeys(
            (
                "test_priority_0_is_served_first",
                "test_within_a_priority_the_first_in_is_the_first_out",
                "test_a_few_urgent_messages_pass_a_thousand_others",
                "test_what_a_settlement_publishes_is_sent_in_order",
            ),
            PRIORITY,
        ),
        **dict.fromkeys(
            (
                "test_a_topic_goes_to_every_queue_that_is_bound_to_it",
                "test_a_queue_that_is_bound_no_more_gets_nothing_more",
                "test_a_deleted_queue_is_gone_with_its_bindings",
            ),
            TOPICS,
        ),
        "test_return_puts_a_message_back_as_if_it_had_never_been_claimed": FRONT,
        "test_release_returns_all_claims_to_the_front_in_their_order": FRONT,
        "test_held_tells_what_an_incarnation_holds_and_changes_nothing": OTHERS,
        "test_closing_twice_is_fine_and_claims_stay": OTHERS,
        "test_two_people_at_once_neither_double_nor_lose_a_message": LOOKING,
    }

    @pytest.fixture
    def broker_factory(self, clock):
        with contextlib.ExitStack() as brokers:
            yield lambda **options: brokers.enter_context(
                KombuBroker("memory://", options={"polling_interval": 0.05}, clock=clock, **options)
            )
        Memory.global_state.clear()
        Memory.Channel.queues.clear()


class TestFolder(BrokerKit):
    wake_within = 1.0
    cannot: ClassVar[dict[str, str]] = {
        **TestMemory.cannot,
        **dict.fromkeys(
            (
                "test_a_body_may_be_any_bytes",
                "test_messages_published_together_keep_their_order",
                "test_messages_published_one_by_one_keep_their_order",
                "test_a_claim_takes_at_most_its_limit",
                "test_a_message_that_a_wait_took_aside_is_claimed_first",
                "test_a_due_message_keeps_its_priority",
                "test_quarantine_is_shown_in_pages_the_oldest_first",
                "test_pages_go_on_behind_a_message_that_was_dropped",
                "test_what_is_requeued_and_dropped_is_what_was_named",
                "test_a_requeued_message_goes_to_the_end_of_its_queue_as_if_it_were_new",
                "test_a_thousand_are_requeued_in_one_call",
                "test_park_keeps_a_message_until_it_is_due_and_does_not_count",
                "test_a_broker_survives_fork",
            ),
            FOLDER,
        ),
    }

    @pytest.fixture
    def broker_factory(self, clock, tmp_path):
        with contextlib.ExitStack() as brokers:
            yield lambda **options: brokers.enter_context(
                KombuBroker("filesystem://", options=folders(tmp_path), clock=clock, **options)
            )

    @pytest.mark.slow  # the transport lists the folder for each message
    def test_a_thousand_settle_in_one_call(self, broker):
        super().test_a_thousand_settle_in_one_call(broker)


def folders(path):
    """Transport options for queues in this folder."""
    (path / "data").mkdir(exist_ok=True)
    names = {"data_folder_in": "data", "data_folder_out": "data", "control_folder": "control"}
    return {**{option: str(path / name) for option, name in names.items()}, "polling_interval": 0.05}


# What a folder can do instead


@pytest.fixture
def clock():
    return ManualClock()


@pytest.fixture
def open_on(clock, tmp_path):
    with contextlib.ExitStack() as brokers:
        yield lambda **options: brokers.enter_context(
            KombuBroker("filesystem://", **{"options": folders(tmp_path), "clock": clock, **options})
        )


def claim(broker, limit=100, by="a"):
    return broker.claim(["q"], limit, incarnation=by, lease=LENGTH)


def test_what_is_not_due_waits_in_the_process_that_found_it(open_on, clock):
    broker, other = open_on(), open_on()
    broker.publish([envelope(b"later", due=clock.now() + 60)])
    assert claim(broker) == []
    assert (broker.depth("q"), broker.reap().next_due) == (0, pytest.approx(60, abs=1))
    # When it stops, another one waits.
    broker.release("a")
    assert claim(other) == []
    clock.advance(61)
    assert other.wait(["q"], 10, incarnation="a") is True
    (late,) = claim(other)
    assert (late.envelope.body, late.attempt) == (b"later", 1)


def test_a_wait_ends_when_what_is_parked_becomes_due(open_on):
    broker = open_on(clock=SYSTEM_CLOCK)
    broker.publish([envelope(b"soon", due=time.time() + 0.3)])
    assert claim(broker) == []
    assert broker.wait(["q"], 30, incarnation="a") is True
    assert bodies(claim(broker)) == [b"soon"]


def test_a_broker_that_is_closed_gives_back_what_it_held(open_on):
    broker = open_on()
    broker.publish([envelope(b"1")])
    claim(broker)
    assert open_on().depth("q") == 0
    broker.close()
    assert bodies(claim(open_on())) == [b"1"]


def test_a_forked_child_does_not_put_back_what_its_parent_holds(open_on):
    broker = open_on()
    broker.publish([envelope(b"1")])
    (one,) = claim(broker)
    assert Forked(lambda: broker.settle([settlement(one)], incarnation="a")).result() == [False]
    assert broker.depth("q") == 0
    assert broker.settle([settlement(one)], incarnation="a") == [True]


def test_what_was_settled_before_a_failure_is_not_done_again(open_on, tmp_path):
    broker = open_on()
    broker.publish([envelope(b"%d" % number) for number in range(2)])
    first, second = claim(broker)
    batch = [
        settlement(first, publish=[envelope(b"next", "r")]),
        settlement(second, publish=[envelope(b"a", "r"), envelope(b"b", "a/b")]),
    ]
    with pytest.raises(BrokerUnavailable):
        broker.settle(batch, incarnation="a")
    (tmp_path / "data").rename(tmp_path / "elsewhere")
    with pytest.raises(BrokerUnavailable):
        broker.settle(batch, incarnation="a")
    (tmp_path / "elsewhere").rename(tmp_path / "data")
    good = [batch[0], settlement(second, publish=[envelope(b"a", "r"), envelope(b"b", "r")])]
    assert broker.settle(good, incarnation="a") == [True, True]
    assert sorted(bodies(broker.claim(["r"], 10, incarnation="b", lease=LENGTH))) == [b"a", b"b", b"next"]


def test_genuine_kombu_and_we_read_each_other(open_on, tmp_path):
    broker = open_on()
    with kombu.Connection("filesystem://", transport_options=folders(tmp_path)) as genuine:
        queue = kombu.Queue("q", kombu.Exchange("shop"), routing_key="mail")
        genuine.Producer().publish(
            [1, "x"], exchange=queue.exchange, routing_key="mail", declare=[queue], headers={"id": "7"}, correlation_id="7"
        )
        (one,) = claim(broker)
        assert one.envelope.body == b'[1, "x"]'
        assert (one.envelope.exchange, one.envelope.routing_key) == ("shop", "mail")
        assert (one.envelope.headers, one.envelope.properties["correlation_id"]) == ({"id": "7"}, "7")
        # What goes round in our hands keeps what it had.
        assert broker.settle([settlement(one, REQUEUE)], incarnation="a") == [True]
        (again,) = claim(broker)
        assert (again.envelope.exchange, again.envelope.routing_key, again.attempt) == ("shop", "mail", 2)
        assert broker.settle([settlement(again)], incarnation="a") == [True]

        broker.publish([envelope(b'[2, "x"]', properties={"correlation_id": "8"}, headers={"id": "8"})])
        message = queue(genuine.default_channel).get()
        assert (message.payload, message.headers, message.properties["correlation_id"]) == ([2, "x"], {"id": "8"}, "8")
        message.ack()


def test_a_file_that_is_no_message_does_not_end_the_claimant(open_on, tmp_path):
    broker = open_on()
    broker.publish([envelope(b"1")])
    (tmp_path / "data" / "0_0.q.msg").write_text("no message")
    assert bodies(claim(broker)) == [b"1"]


def test_what_is_published_while_others_look_is_read_whole(open_on):
    sent = [b"%d" % number for number in range(300)]
    got = []
    publisher, reader = open_on(), open_on()
    thread = threading.Thread(target=lambda: [publisher.publish([envelope(body)]) for body in sent])
    thread.start()
    while thread.is_alive() or reader.depth("q"):
        got += bodies(claim(reader))
    thread.join()
    got += bodies(claim(reader))
    assert sorted(got) == sorted(sent)


def test_a_message_is_not_seen_before_it_is_written(open_on, monkeypatch):
    """The moment that the test above may miss."""
    seen = []
    publisher, reader = open_on(), open_on()

    class Watched(type(folder.Path())):
        def write_text(self, *arguments):
            super().write_text(*arguments)
            seen.append(reader.depth("q"))

    monkeypatch.setattr(folder, "Path", Watched)
    publisher.publish([envelope(b"1")])
    assert seen == [0]
    assert bodies(claim(reader)) == [b"1"]


def test_a_folder_that_is_not_there_is_a_broker_that_is_not_there(tmp_path):
    broker = KombuBroker("filesystem://", options={"data_folder_in": str(tmp_path / "no"), "data_folder_out": str(tmp_path / "no")})
    for call in (broker.ping, lambda: broker.publish([envelope()]), lambda: claim(broker)):
        with pytest.raises(BrokerUnavailable, match="No such file"):
            call()


@pytest.mark.parametrize("pool", ["prefork", "async"])
def test_a_node_works_on_a_folder_and_gives_back_what_it_has_not_begun(open_on, start_node, tmp_path, pool):
    def note(name, seconds):
        with (tmp_path / "runs").open("a") as file:
            file.write(f"{name}\n")
        time.sleep(seconds)

    broker = open_on(clock=SYSTEM_CLOCK)
    broker.publish([toy("note", name, 0.01) for name in "abcdefgh"])
    broker.publish([replace(toy("note", "late", 0), due=time.time() + 0.5), toy("note", "last", 0)])
    with open_results(f"sqlite:///{tmp_path}/results.db") as results:
        node = start_node(ToyApplication(note=note), broker, results, pool=pool, concurrency=2)
        eventually(lambda: (tmp_path / "runs").exists() and len(runs(tmp_path)) == 10, within=60, what="all have run")
        broker.publish([toy("note", name, 0.5) for name in ("long 1", "long 2", "long 3", "long 4", "long 5", "long 6")])
        eventually(lambda: len(runs(tmp_path)) > 11, within=60, what="two of them run")
        assert node.stop(30)
    begun = runs(tmp_path)[10:]
    assert len(begun) + open_on().depth("toys") == 6
    assert len(set(begun)) == len(begun)


def runs(folder):
    return (folder / "runs").read_text().splitlines()


# Which URLs lead here


def test_urls_that_only_kombu_knows_open_its_broker(tmp_path):
    with open_broker("filesystem://", options=folders(tmp_path)) as broker:
        assert isinstance(broker, KombuBroker)
        broker.ping()


def test_an_url_that_nobody_knows_says_what_there_is():
    with pytest.raises(ConfigurationError, match=r"'smoke'.*filesystem"):
        open_broker("smoke://signals")
    with pytest.raises(ConfigurationError, match="kazoo"):
        open_broker("zookeeper://localhost")  # its library is not installed here


@pytest.mark.parametrize("options", [{"timeout": 0}])
def test_options_are_checked(options):
    with pytest.raises(ConfigurationError):
        KombuBroker("filesystem://", **options)


# Transports that hide what they hand out for a while


class HidingChannel(Memory.Channel):
    """Kombu's channel of Amazon SQS, seen from where we touch it."""

    hidden: ClassVar[list[tuple[object, ...]]] = []
    visibility_timeout = 1
    marks: ClassVar[dict[str, object]] = {
        "sqs_queue": "url",
        "sqs_message": {"ReceiptHandle": "handle", "Attributes": {"ApproximateReceiveCount": "3"}},
    }

    def _get(self, queue, timeout=None):
        payload = super()._get(queue)
        payload["properties"]["delivery_info"].update(self.marks)
        return payload

    def canonical_queue_name(self, name):
        return name

    def sqs(self, queue):
        return self

    def change_message_visibility(self, *, QueueUrl, ReceiptHandle, VisibilityTimeout):  # noqa: N803 - boto's names
        self.hidden.append((QueueUrl, ReceiptHandle, VisibilityTimeout))


class PgmqChannel(HidingChannel):
    """The same of PGMQ."""

    marks: ClassVar[dict[str, object]] = {"pgmq_queue": "url", "pgmq_msg_id": "handle"}

    @property
    def pgmq(self):
        return self

    def set_vt(self, queue, message_id, seconds):
        self.hidden.append((queue, message_id, seconds))


class SqsTransport(Memory):
    Channel = HidingChannel


class PgmqTransport(Memory):
    Channel = PgmqChannel


@pytest.mark.parametrize(("transport", "attempt"), [("SqsTransport", 3), ("PgmqTransport", 1)])
def test_what_is_held_stays_hidden_from_others_until_it_is_settled(monkeypatch, transport, attempt):
    monkeypatch.setitem(TRANSPORT_ALIASES, transport.lower(), f"{__name__}:{transport}")
    hidden = HidingChannel.hidden
    hidden.clear()
    with KombuBroker(f"{transport.lower()}://") as broker:
        broker.publish([envelope(b"1", "hidden")])
        (one,) = broker.claim(["hidden"], 1, incarnation="a", lease=LENGTH)
        assert one.attempt == attempt  # SQS counts how often it hands a message out
        eventually(lambda: len(hidden) > 1, within=30, what="its visibility is extended, again and again")
        assert set(hidden) == {("url", "handle", 1)}
        assert broker.settle([settlement(one)], incarnation="a") == [True]
        assert broker.release("a") == 0


def test_topics_are_refused_with_the_reason_and_queues_are_deleted():
    with KombuBroker("memory://", options={"polling_interval": 0.05}) as broker:
        for refused in (
            lambda: broker.bind_topic("news", "q"),
            lambda: broker.unbind_topic("news", "q"),
            lambda: broker.publish_topic("news", envelope(b"x")),
        ):
            with pytest.raises(BrokerError, match=r"carries no topics.*Redis, RabbitMQ or SQLite"):
                refused()
        broker.publish([envelope(b"x")])
        broker.delete_queue("q")
        assert broker.depth("q") == 0
