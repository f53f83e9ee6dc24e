"""What every broker has to do, as tests: the executable specification of :class:`jumpstarter.abc.broker.Broker`.

Subclass :class:`BrokerKit` in a test module and say how your broker is opened::

    class TestMyBroker(BrokerKit):
        @pytest.fixture
        def broker_factory(self, clock, tmp_path):
            with contextlib.ExitStack() as brokers:
                yield lambda **options: brokers.enter_context(MyBroker(f"my://{tmp_path}", clock=clock, **options))

What the kit asks for, each a fixture or method that you may override:

===================  ========================================================================================================
``broker_factory``   fixture, required: a callable that opens one more broker on the same server, empty at the start of each test.
                     Takes ``timeout=`` (seconds) where ``stalled`` is offered; has to work in forked children where ``durable``.
``clock``            fixture: a :class:`ManualClock` by default. A server that has its own clock gives an object whose ``advance``
                     lets time pass there (by shifting what is stored) and whose ``now`` and ``monotonic`` agree with it. Where that
                     is impossible, ``advance`` skips the test, with the reason.
``results_factory``  fixture: opens results on the same server (``server`` must be equal), or None when there are none.
``durable``          attribute: several processes share the server. True by default.
``inject``           method: puts bytes that are no message into a queue. Without it, those tests are skipped.
``stalled``          context manager: while it is open the server answers nobody. Without it, those tests are skipped.
``wake_within``      attribute: seconds, the slowest median from a publish in one process to the end of a wait in another.
``cannot``           attribute: promises that this transport cannot keep, as {name of the test: why}. Those tests are skipped, and
                     pytest's summary of skipped tests (``-rs``) lists them with their reasons.
===================  ========================================================================================================

:mod:`jumpstarter.testing.broker_model` tests long random stories on the same fixtures. Needs pytest.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
import pickle
import signal
import statistics
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, ClassVar, NoReturn, Protocol

import pytest

from jumpstarter.abc.broker import Broker
from jumpstarter.abc.results import Results
from jumpstarter.clock import Clock
from jumpstarter.errors import BrokerUnavailable, JumpstarterError, PublishUnconfirmed
from jumpstarter.jobs import (
    ACK,
    ACKED,
    REQUEUE,
    RETURN,
    Action,
    Completed,
    Delivery,
    Document,
    Envelope,
    Park,
    Part,
    Quarantine,
    Quarantined,
    Settlement,
)

#: Long enough that no lease ends by itself in a test; leases end when the clock is advanced.
LEASE = 30.0
#: Seconds after which something that should have happened has not.
PATIENCE = 30.0


class ManualClock:
    """A clock that stands still until it is advanced. Begins at the present wall time."""

    def __init__(self) -> None:
        self._wall = time.time()
        self._monotonic = 1000.0

    def now(self) -> float:
        """Wall time in seconds."""
        return self._wall

    def monotonic(self) -> float:
        """Seconds that never go back."""
        return self._monotonic

    def advance(self, seconds: float) -> None:
        """Let so many seconds pass."""
        self._wall += seconds
        self._monotonic += seconds


class KitClock(Clock, Protocol):
    """What the kit's ``clock`` fixture offers."""

    def advance(self, seconds: float) -> None:
        """Let so many seconds pass, also on the server."""
        ...


class Factory(Protocol):
    """What the kit's ``broker_factory`` fixture offers."""

    def __call__(self, **options: Any) -> Broker:
        """One more broker on the same server."""
        ...


def envelope(body: bytes = b"[]", queue: str = "q", **fields: Any) -> Envelope:
    """An envelope with a body and little else."""
    return Envelope(queue=queue, body=body, headers=fields.pop("headers", {"id": body[:40].hex()}), **fields)


def bodies(deliveries: Sequence[Delivery]) -> list[bytes]:
    """The bodies of deliveries that all are messages."""
    return [delivery.envelope.body for delivery in deliveries if delivery.envelope is not None]


def settlement(delivery: Delivery, action: Action = ACK, **rest: Any) -> Settlement:
    """A settlement of the delivery."""
    return Settlement(delivery=delivery, action=action, **rest)


def part(member: str, index: int | None = None, *, join: str = "j", body: bytes | None = None, ttl: float | None = 3600.0) -> Part:
    """A part whose body looks like Celery's: ``[1, member, state, result]``."""
    text = b'[1, "%s", "SUCCESS", 0]' % member.encode()
    return Part(join=join, member=member, index=index, body=text if body is None else body, ttl=ttl, complete=None)


def completed(answer: bool | Completed) -> list[bytes]:
    """The bodies of a part that was the last of its join."""
    assert isinstance(answer, Completed), answer
    return list(answer.bodies)


class Forked:
    """A function that runs in a forked child; what it returns or raises is told by :meth:`result`."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self._reader, writer = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self._reader)
            self._run(writer, function, arguments)
        os.close(writer)

    def _run(self, writer: int, function: Callable[..., Any], arguments: tuple[Any, ...]) -> NoReturn:
        try:
            answer = (True, function(*arguments))
        except BaseException:  # noqa: BLE001  whatever it was, the parent's test has to hear of it
            answer = (False, traceback.format_exc())
        with os.fdopen(writer, "wb") as pipe:
            pipe.write(pickle.dumps(answer))
        os._exit(0)

    def result(self) -> Any:
        """What the function returned. Fails the test when it raised or was killed."""
        with os.fdopen(self._reader, "rb") as pipe:
            answer = pipe.read()
        os.waitpid(self.pid, 0)
        assert answer, "the child died before it could answer"
        is_good, value = pickle.loads(answer)  # noqa: S301  our own child
        assert is_good, f"in the child:\n{value}"
        return value

    def kill(self) -> None:
        """End it by SIGKILL, whatever it is doing."""
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self._reader)


@contextlib.contextmanager
def background(function: Callable[[], Any]) -> Iterator[concurrent.futures.Future[Any]]:
    """Run the function in a thread meanwhile; its future tells what came of it."""
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        yield pool.submit(function)


class BrokerKit:
    """The specification. See the module's text for what to override."""

    durable = True
    wake_within = 0.05
    cannot: ClassVar[Mapping[str, str]] = {}

    def __init_subclass__(cls) -> None:
        for name in cls.cannot:
            assert callable(getattr(cls, name, None)), f"{cls.__name__}.cannot names {name!r}, which is no test"

    @pytest.fixture(autouse=True)
    def _can_keep_this_promise(self, request: pytest.FixtureRequest) -> None:
        name = request.function.__name__
        if why := self.cannot.get(name):
            pytest.skip(f"{type(self).__name__} cannot promise {name.removeprefix('test_')!r}: {why}")

    # What a broker's own tests give

    @pytest.fixture
    def broker_factory(self) -> Factory:
        """Opens one more broker on the same server."""
        raise NotImplementedError("give the kit a broker_factory fixture; see jumpstarter.testing.broker_kit")

    @pytest.fixture
    def clock(self) -> KitClock:
        """Time under the test's control."""
        return ManualClock()

    @pytest.fixture
    def results_factory(self) -> Callable[[], Results] | None:
        """Opens results on the same server, or None."""
        return None

    def inject(self, broker: Broker, queue: str, raw: bytes) -> None:  # noqa: ARG002  for those who override it
        """Put bytes that are no message at the end of the queue."""
        pytest.skip("this broker's tests do not say how to store bytes that are no message")

    def stalled(self, broker: Broker) -> AbstractContextManager[None]:  # noqa: ARG002  for those who override it
        """Meanwhile the server answers nobody."""
        pytest.skip("this broker's tests do not say how to stall its server")

    # What the tests below are given

    @pytest.fixture
    def broker(self, broker_factory: Factory) -> Broker:
        """One broker; others come from the factory."""
        return broker_factory()

    @pytest.fixture
    def results(self, results_factory: Callable[[], Results] | None) -> Results:
        """Results on the same server."""
        if results_factory is None:
            pytest.skip("there are no results on this server")
        return results_factory()

    @pytest.fixture
    def several_processes(self) -> None:
        """The test needs a broker that several processes share."""
        if not self.durable:
            pytest.skip("this broker lives in one process")

    def claim(self, broker: Broker, limit: int = 100, by: str = "a", queues: Sequence[str] = ("q",)) -> list[Delivery]:
        """Claim for an incarnation."""
        return broker.claim(queues, limit, incarnation=by, lease=LEASE)

    def claim_one(self, broker: Broker, by: str = "a", queues: Sequence[str] = ("q",)) -> Delivery:
        """Claim the one message that there must be."""
        (delivery,) = self.claim(broker, 1, by, queues)
        return delivery

    def waiting(self, broker: Broker, queue: str = "q") -> list[bytes]:
        """The bodies that wait in the queue, in their order. Looks by claiming and returning."""
        deliveries = self.claim(broker, 10_000, "onlooker", [queue])
        broker.release("onlooker")
        return bodies(deliveries)

    # Publishing

    def test_a_message_arrives_as_it_was_published(self, broker: Broker) -> None:
        sent = Envelope(
            queue="q",
            body=b'[[1, "\xc3\xa4"], {}, {}]',
            headers={"id": "7", "task": "shop.send", "nested": {"list": [1, None, True, 0.5, "ä\u2028"]}, "big": -(2**60)},
            properties={"correlation_id": "7", "reply_to": "me", "delivery_mode": 2, "expiration": "60000"},
            content_type="application/x-yaml",
            content_encoding="binary",
            exchange="shop",
            routing_key="shop.mail",
            priority=3,
        )
        broker.publish([sent])
        got = self.claim_one(broker)
        assert got.fault is None
        assert got.queue == "q"
        assert got.raw == b""
        assert got.envelope is not None
        assert got.envelope.queue == "q"
        assert got.envelope.body == sent.body
        assert got.envelope.headers == sent.headers
        # A transport may add properties of its own (Kombu's delivery_tag).
        assert {name: got.envelope.properties.get(name) for name in sent.properties} == sent.properties
        assert (got.envelope.content_type, got.envelope.content_encoding) == (sent.content_type, sent.content_encoding)
        assert (got.envelope.exchange, got.envelope.routing_key) == (sent.exchange, sent.routing_key)
        assert got.envelope.priority == sent.priority

    def test_a_header_may_be_an_integer_of_any_size(self, broker: Broker) -> None:
        broker.publish([envelope(headers={"big": 2**70})])
        got = self.claim_one(broker).envelope
        assert got is not None
        assert got.headers["big"] == 2**70

    def test_an_empty_routing_key_becomes_the_queues_name(self, broker: Broker) -> None:
        broker.publish([envelope()])
        got = self.claim_one(broker).envelope
        assert got is not None
        assert got.routing_key == "q"

    def test_a_body_may_be_any_bytes(self, broker: Broker) -> None:
        body = bytes(range(256)) * 3
        broker.publish([envelope(body), envelope(b"")])
        assert bodies(self.claim(broker)) == [body, b""]

    def test_a_body_of_8_mib_arrives_whole(self, broker: Broker) -> None:
        body = os.urandom(8 * 1024 * 1024)
        broker.publish([envelope(body, headers={})])
        delivery = self.claim_one(broker)
        assert bodies([delivery]) == [body]
        assert broker.settle([settlement(delivery)], incarnation="a") == [True]

    def test_messages_published_together_keep_their_order(self, broker: Broker) -> None:
        sent = [b"%d" % number for number in range(500)]
        broker.publish([envelope(body) for body in sent])
        assert bodies(self.claim(broker, 500)) == sent

    def test_messages_published_one_by_one_keep_their_order(self, broker: Broker, broker_factory: Factory) -> None:
        other = broker_factory()
        for number in range(10):
            (broker, other)[number % 2].publish([envelope(b"%d" % number)])
        assert bodies(self.claim(broker)) == [b"%d" % number for number in range(10)]

    def test_publishing_nothing_does_nothing(self, broker: Broker) -> None:
        broker.publish([])
        assert broker.depth("q") == 0

    def test_what_cannot_be_encoded_is_refused_and_nothing_of_the_batch_is_sent(self, broker: Broker) -> None:
        with pytest.raises((JumpstarterError, TypeError, ValueError)):
            broker.publish([envelope(), envelope(headers={"what": object()})])
        assert broker.depth("q") == 0

    # Claiming

    def test_a_claim_on_an_empty_queue_returns_nothing_at_once(self, broker: Broker) -> None:
        assert self.claim(broker) == []

    def test_a_claim_takes_at_most_its_limit(self, broker: Broker) -> None:
        broker.publish([envelope(b"%d" % number) for number in range(5)])
        assert bodies(self.claim(broker, 0)) == []
        assert bodies(self.claim(broker, 2)) == [b"0", b"1"]
        assert bodies(self.claim(broker, 9)) == [b"2", b"3", b"4"]

    def test_a_claimed_message_is_given_to_nobody_else(self, broker: Broker, broker_factory: Factory) -> None:
        broker.publish([envelope()])
        assert self.claim(broker, by="a")
        assert self.claim(broker, by="a") == []
        assert self.claim(broker_factory(), by="b") == []

    def test_a_claim_takes_from_the_queues_it_names_only(self, broker: Broker) -> None:
        broker.publish([envelope(b"1", "q"), envelope(b"2", "r"), envelope(b"3", "s")])
        got = self.claim(broker, queues=["q", "s"])
        assert sorted((delivery.queue, delivery.envelope.body) for delivery in got if delivery.envelope) == [
            ("q", b"1"),
            ("s", b"3"),
        ]

    def test_every_claim_of_a_message_has_its_own_tag_and_a_higher_epoch(self, broker: Broker, broker_factory: Factory) -> None:
        broker.publish([envelope()])
        seen: list[Delivery] = []
        for owner in (broker, broker_factory(), broker):
            delivery = self.claim_one(owner)
            owner.settle([settlement(delivery, RETURN)], incarnation="a")
            seen.append(delivery)
        assert len({delivery.tag for delivery in seen}) == 3
        assert seen[0].epoch < seen[1].epoch < seen[2].epoch

    def test_all_tags_of_one_claim_differ(self, broker: Broker) -> None:
        broker.publish([envelope()] * 50)
        assert len({delivery.tag for delivery in self.claim(broker)}) == 50

    def test_the_first_delivery_is_attempt_one(self, broker: Broker) -> None:
        broker.publish([envelope()])
        assert self.claim_one(broker).attempt == 1

    def test_priority_0_is_served_first(self, broker: Broker) -> None:
        # Kombu's layout rounds priorities down to these steps; between them nothing is promised.
        broker.publish([envelope(b"%d" % priority, priority=priority) for priority in (9, 3, 0, 6)])
        assert bodies(self.claim(broker)) == [b"0", b"3", b"6", b"9"]

    def test_within_a_priority_the_first_in_is_the_first_out(self, broker: Broker) -> None:
        for number in range(6):
            broker.publish([envelope(b"%d" % number, priority=(number % 2) * 3)])
        assert bodies(self.claim(broker, 4)) + bodies(self.claim(broker, 4)) == [b"0", b"2", b"4", b"1", b"3", b"5"]

    def test_a_few_urgent_messages_pass_a_thousand_others(self, broker: Broker) -> None:
        broker.publish([envelope(b"low", priority=9)] * 1000)
        broker.publish([envelope(b"high", priority=0)] * 10)
        assert bodies(self.claim(broker, 20)).count(b"high") == 10

    @pytest.mark.parametrize("limit", [1, 3])
    def test_no_queue_starves_another(self, broker: Broker, limit: int) -> None:
        queues = ["q", "r", "s"]
        for queue in queues:
            broker.publish([envelope(queue=queue)] * 60)
        counts = dict.fromkeys(queues, 0)
        for _ in range(12):
            for delivery in self.claim(broker, limit, queues=queues):
                counts[delivery.queue] += 1
        assert all(count >= 2 * limit for count in counts.values()), counts

    def test_threads_that_claim_at_once_share_the_messages(self, broker: Broker) -> None:
        broker.publish([envelope(b"%d" % number) for number in range(400)])

        def work(name: str) -> list[bytes]:
            mine: list[bytes] = []
            while got := self.claim(broker, 7, name):
                assert broker.settle([settlement(delivery) for delivery in got], incarnation=name) == [True] * len(got)
                mine += bodies(got)
            return mine

        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            taken = [body for mine in pool.map(work, "abcd") for body in mine]
        assert sorted(taken, key=int) == [b"%d" % number for number in range(400)]

    @pytest.mark.usefixtures("several_processes")
    def test_processes_that_claim_at_once_share_the_messages(self, broker: Broker) -> None:
        broker.publish([envelope(b"%d" % number) for number in range(300)])

        def work(name: str) -> list[bytes]:
            mine: list[bytes] = []
            while got := self.claim(broker, 7, name):
                assert broker.settle([settlement(delivery) for delivery in got], incarnation=name) == [True] * len(got)
                mine += bodies(got)
            return mine

        children = [Forked(work, name) for name in "abc"]
        taken = [body for child in children for body in child.result()]
        assert sorted(taken, key=int) == [b"%d" % number for number in range(300)]
        assert broker.depth("q") == 0

    # Bytes that are no message

    @pytest.mark.parametrize("raw", [b"", b"\xff\xfe\x00", b"not JSON", b"null", b"[1,2]", b'{"body": 1}', b"[" * 100_000])
    def test_bytes_that_are_no_message_come_back_with_a_fault(self, broker: Broker, raw: bytes) -> None:
        self.inject(broker, "q", raw)
        broker.publish([envelope(b"good")])
        bad, good = self.claim(broker)
        assert bad.envelope is None
        assert isinstance(bad.fault, Exception)
        assert bad.raw == raw
        assert bad.queue == "q"
        assert bodies([good]) == [b"good"]

    @pytest.mark.parametrize("action", [ACK, Quarantine("no message", {"fault": "x"})])
    def test_what_is_no_message_can_be_settled(self, broker: Broker, action: Action) -> None:
        self.inject(broker, "q", b"not JSON")
        bad = self.claim_one(broker)
        assert broker.settle([settlement(bad, action)], incarnation="a") == [True]
        assert broker.held("a") == []
        assert broker.depth("q") == 0

    def test_what_is_no_message_is_held_released_and_reaped_like_others(self, broker: Broker, clock: KitClock) -> None:
        self.inject(broker, "q", b"not JSON")
        self.claim_one(broker)
        assert [delivery.raw for delivery in broker.held("a")] == [b"not JSON"]
        assert broker.release("a") == 1
        self.claim_one(broker)
        clock.advance(LEASE + 1)
        assert broker.reap().returned == 1
        assert self.claim_one(broker).raw == b"not JSON"

    # Waiting

    def test_a_wait_ends_at_once_when_a_message_is_there(self, broker: Broker) -> None:
        broker.publish([envelope(queue="r")])
        assert broker.wait(["q", "r"], PATIENCE, incarnation="a") is True
        assert self.claim(broker, queues=["q", "r"])

    def test_a_wait_ends_after_its_time(self, broker: Broker) -> None:
        broker.publish([envelope(queue="other")])
        began = time.monotonic()
        assert broker.wait(["q"], 0.2, incarnation="a") is False
        assert 0.15 <= time.monotonic() - began < PATIENCE / 2

    def test_a_wait_of_no_time_only_looks(self, broker: Broker) -> None:
        assert broker.wait(["q"], 0.0, incarnation="a") is False

    def test_whoever_rests_after_a_wait_leaves_messages_to_others(self, broker: Broker) -> None:
        broker.publish([envelope(b"1")])
        assert broker.wait(["q", "r"], PATIENCE, incarnation="a") is True
        assert bodies(self.claim(broker, queues=["q", "r"])) == [b"1"]
        broker.publish([envelope(b"2", queue="r")])
        broker.rest(incarnation="a")
        assert bodies(self.claim(broker, queues=["q", "r"], by="b")) == [b"2"]
        broker.publish([envelope(b"3"), envelope(b"4", queue="r")])
        assert len(self.claim(broker, queues=["q", "r"], by="b")) == 2
        broker.rest(incarnation="nobody")

    def test_a_publish_ends_a_wait(self, broker: Broker, broker_factory: Factory) -> None:
        other = broker_factory()
        with background(lambda: broker.wait(["q", "r"], PATIENCE, incarnation="a")) as waiting:
            other.publish([envelope(b"late", "r")])
            assert waiting.result(PATIENCE / 2) is True
        assert bodies(self.claim(broker, queues=["q", "r"])) == [b"late"]

    def test_a_message_that_comes_back_ends_a_wait(self, broker: Broker, broker_factory: Factory) -> None:
        other = broker_factory()
        other.publish([envelope()])
        delivery = self.claim_one(other, "b")
        with background(lambda: broker.wait(["q"], PATIENCE, incarnation="a")) as waiting:
            other.settle([settlement(delivery, RETURN)], incarnation="b")
            assert waiting.result(PATIENCE / 2) is True

    def test_a_message_that_becomes_due_ends_a_wait(self, broker: Broker, broker_factory: Factory, clock: KitClock) -> None:
        broker.publish([envelope(due=clock.now() + 60)])
        clock.advance(61)
        other = broker_factory()
        with background(lambda: broker.wait(["q"], PATIENCE, incarnation="a")) as waiting:
            other.reap()
            assert waiting.result(PATIENCE / 2) is True

    def test_wake_ends_a_wait_under_way(self, broker: Broker) -> None:
        with background(lambda: broker.wait(["q"], PATIENCE, incarnation="a")) as waiting:
            time.sleep(0.05)  # lets the wait begin; when it has not, the wake ends it all the same
            broker.wake()
            assert waiting.result(PATIENCE / 2) is False

    def test_wake_ends_the_next_wait_if_none_is_under_way(self, broker: Broker) -> None:
        broker.wake()
        assert broker.wait(["q"], PATIENCE, incarnation="a") is False
        began = time.monotonic()
        assert broker.wait(["q"], 0.1, incarnation="a") is False
        assert time.monotonic() - began >= 0.05, "one wake ended two waits"

    def test_a_message_that_a_wait_took_aside_is_claimed_first(self, broker: Broker) -> None:
        with background(lambda: broker.wait(["q"], PATIENCE, incarnation="a")) as waiting:
            broker.publish([envelope(b"1"), envelope(b"2")])
            assert waiting.result(PATIENCE / 2) is True
        assert bodies(self.claim(broker)) == [b"1", b"2"]

    @pytest.mark.parametrize("how", ["release", "reap"])
    def test_a_message_that_a_wait_took_aside_is_never_lost(
        self, broker: Broker, broker_factory: Factory, clock: KitClock, how: str
    ) -> None:
        self.claim(broker)
        with background(lambda: broker.wait(["q"], PATIENCE, incarnation="a")) as waiting:
            broker_factory().publish([envelope()])
            assert waiting.result(PATIENCE / 2) is True
        if how == "release":
            broker.release("a")
        else:
            clock.advance(LEASE + 1)
            broker.reap()
        assert self.claim_one(broker_factory(), "b").attempt == 1

    def test_waiting_costs_next_to_nothing(self, broker: Broker) -> None:
        broker.wait(["q"], 0.01, incarnation="a")
        began = time.thread_time()
        assert broker.wait(["q"], 1.0, incarnation="a") is False
        assert time.thread_time() - began < 0.1

    @pytest.mark.usefixtures("several_processes")
    def test_a_wait_in_another_process_ends_promptly(self, broker: Broker, capsys: pytest.CaptureFixture[str]) -> None:
        rounds = 100
        asking, telling = os.pipe()

        def listen() -> list[float]:
            ends = []
            for _ in range(rounds):
                os.write(telling, b"!")
                assert broker.wait(["q"], PATIENCE, incarnation="a")
                ends.append(time.monotonic())
                broker.settle([settlement(self.claim_one(broker))], incarnation="a")
            return ends

        child = Forked(listen)
        starts = []
        for _ in range(rounds):
            os.read(asking, 1)
            time.sleep(0.002)  # lets the wait fall asleep: it is the wake-up that is measured
            starts.append(time.monotonic())
            broker.publish([envelope()])
        delays = [end - start for start, end in zip(starts, child.result(), strict=True)]
        os.close(asking)
        os.close(telling)
        median = statistics.median(delays)
        with capsys.disabled():
            print(f"\n{type(broker).__name__}: publish to wake-up p50 {median * 1e3:.2f} ms, max {max(delays) * 1e3:.2f} ms")
        assert median <= self.wake_within

    # Settling

    def test_ack_ends_a_message(self, broker: Broker, clock: KitClock) -> None:
        broker.publish([envelope()])
        assert broker.settle([settlement(self.claim_one(broker))], incarnation="a") == [True]
        clock.advance(LEASE + 1)
        assert broker.reap().returned == 0
        assert self.claim(broker) == []

    def test_one_message_is_acked_alone_and_once(self, broker: Broker) -> None:
        broker.publish([envelope(b"%d" % number) for number in range(3)])
        first, second, third = self.claim(broker)
        assert broker.ack(second, incarnation="a")
        assert not broker.ack(second, incarnation="a")
        assert broker.settle([settlement(second), settlement(first)], incarnation="a") == [False, True]
        assert not broker.ack(first, incarnation="a")
        assert broker.release("a") == 1
        assert bodies(self.claim(broker)) == bodies([third])

    def test_settling_nothing_does_nothing(self, broker: Broker) -> None:
        assert broker.settle([], incarnation="a") == []

    def test_return_puts_a_message_back_as_if_it_had_never_been_claimed(self, broker: Broker) -> None:
        broker.publish([envelope(b"1"), envelope(b"2"), envelope(b"3")])
        first, second = self.claim(broker, 2)
        assert broker.settle([settlement(first, RETURN), settlement(second, RETURN)], incarnation="a") == [True, True]
        again = self.claim(broker)
        assert bodies(again) == [b"1", b"2", b"3"]
        assert [delivery.attempt for delivery in again] == [1, 1, 1]

    def test_requeue_delivers_a_message_again_and_counts(self, broker: Broker) -> None:
        broker.publish([envelope(b"again", headers={"id": "7"}, priority=3)])
        for attempt in (1, 2, 3):
            delivery = self.claim_one(broker)
            assert delivery.attempt == attempt
            assert delivery.envelope is not None
            assert delivery.envelope.body == b"again"
            assert delivery.envelope.headers["id"] == "7"
            assert delivery.envelope.priority == 3
            assert broker.settle([settlement(delivery, REQUEUE)], incarnation="a") == [True]
        assert broker.depth("q") == 1

    def test_the_count_survives_a_return(self, broker: Broker) -> None:
        broker.publish([envelope()])
        for action in (REQUEUE, RETURN, RETURN):
            broker.settle([settlement(self.claim_one(broker), action)], incarnation="a")
        assert self.claim_one(broker).attempt == 2

    def test_park_keeps_a_message_until_it_is_due_and_does_not_count(self, broker: Broker, clock: KitClock) -> None:
        broker.publish([envelope(b"later")])
        assert broker.settle([settlement(self.claim_one(broker), Park(clock.now() + 60))], incarnation="a") == [True]
        assert broker.held("a") == []
        assert broker.depth("q") == 0
        assert broker.reap().promoted == 0
        assert self.claim(broker) == []
        clock.advance(61)
        assert broker.reap().promoted == 1
        delivery = self.claim_one(broker)
        assert bodies([delivery]) == [b"later"]
        assert delivery.attempt == 1

    def test_quarantine_takes_a_message_out_of_the_queue_with_its_reason(self, broker: Broker, clock: KitClock) -> None:
        broker.publish([envelope(b"poison")])
        evidence = {"signal": 9, "stack": "…", "odd": object(), "exit": None}
        action = Quarantine("it killed its process 3 times", evidence)
        assert broker.settle([settlement(self.claim_one(broker), action)], incarnation="a") == [True]
        clock.advance(LEASE + 1)
        broker.reap()
        assert self.claim(broker) == []
        assert broker.held("a") == []
        (resting,) = broker.quarantined()
        assert (resting.queue, resting.reason) == ("q", "it killed its process 3 times")

    def test_a_batch_settles_each_as_it_says(self, broker: Broker, clock: KitClock) -> None:
        broker.publish([envelope(b"%d" % number) for number in range(6)])
        got = self.claim(broker, 5)
        actions: list[Action] = [ACK, REQUEUE, RETURN, Park(clock.now() + 60), Quarantine("why not")]
        batch = [settlement(delivery, action) for delivery, action in zip(got, actions, strict=True)]
        assert broker.settle(batch, incarnation="a") == [True] * 5
        assert sorted(self.waiting(broker)) == [b"1", b"2", b"5"]
        clock.advance(61)
        broker.reap()
        assert sorted(self.waiting(broker)) == [b"1", b"2", b"3", b"5"]

    def test_a_thousand_settle_in_one_call(self, broker: Broker) -> None:
        # Lua's unpack ends near 8,000 values, SQL statements near 32,766 parameters.
        broker.publish([envelope(b"%d" % number) for number in range(5000)])
        got = self.claim(broker, 5000)
        assert len(got) == 5000
        batch = [settlement(delivery, REQUEUE if number % 2 else ACK) for number, delivery in enumerate(got)]
        assert broker.settle(batch, incarnation="a") == [True] * 5000
        assert broker.depth("q") == 2500
        assert len(self.claim(broker, 5000)) == 2500
        assert broker.release("a") == 2500

    @pytest.mark.parametrize("action", [ACK, RETURN, REQUEUE, Park(4e9), Quarantine("x")])
    def test_a_delivery_settles_once(self, broker: Broker, action: Action) -> None:
        broker.publish([envelope()])
        delivery = self.claim_one(broker)
        assert broker.settle([settlement(delivery, action), settlement(delivery)], incarnation="a") == [True, False]
        assert broker.settle([settlement(delivery, action)], incarnation="a") == [False]

    def test_what_a_settlement_publishes_is_sent_in_order(self, broker: Broker, clock: KitClock) -> None:
        broker.publish([envelope(b"1"), envelope(b"2")])
        first, second = self.claim(broker)
        sends = [envelope(b"1a"), envelope(b"1b"), envelope(b"1c", "r"), envelope(b"1d", due=clock.now() + 60)]
        batch = [settlement(first, publish=sends), settlement(second, publish=[envelope(b"2a", priority=3), envelope(b"2b")])]
        assert broker.settle(batch, incarnation="a") == [True, True]
        assert self.waiting(broker) == [b"1a", b"1b", b"2b", b"2a"]
        assert self.waiting(broker, "r") == [b"1c"]
        clock.advance(61)
        assert broker.reap().promoted == 1
        assert sorted(self.waiting(broker)) == [b"1a", b"1b", b"1d", b"2a", b"2b"]

    def test_a_settlement_without_a_claim_does_nothing_at_all(self, broker: Broker, results: Results, clock: KitClock) -> None:
        broker.publish([envelope(b"mine"), envelope(b"theirs")])
        lost, kept = self.claim(broker)
        clock.advance(LEASE + 1)
        assert broker.reap().returned == 2
        kept = self.claim_one(broker)
        batch = [
            settlement(lost, publish=[envelope(b"never", "r")], writes=results.writes([Document("never", b"x")])),
            settlement(kept, publish=[envelope(b"once", "r")], writes=results.writes([Document("once", b"x")])),
        ]
        assert broker.settle(batch, incarnation="a") == [False, True]
        assert self.waiting(broker, "r") == [b"once"]
        assert results.get(["never", "once"]) == [None, b"x"]

    def test_a_settlement_that_cannot_be_encoded_does_nothing(self, broker: Broker) -> None:
        broker.publish([envelope(b"1"), envelope(b"2")])
        first, second = self.claim(broker)
        batch = [settlement(first), settlement(second, publish=[envelope(b"3", "r"), envelope(headers={"what": object()})])]
        with pytest.raises((JumpstarterError, TypeError, ValueError)):
            broker.settle(batch, incarnation="a")
        assert broker.depth("r") == 0
        assert len(broker.held("a")) == 2

    def test_results_are_written_with_the_ack(self, broker: Broker, results: Results) -> None:
        assert broker.server == results.server
        broker.publish([envelope()])
        writes = results.writes([Document("a", b"1"), Document("b", b"2", ttl=60.0)])
        assert broker.settle([settlement(self.claim_one(broker), writes=writes)], incarnation="a") == [True]
        assert results.get(["a", "b"]) == [b"1", b"2"]

    def test_results_written_with_an_ack_leave_final_ones_alone(self, broker: Broker, results: Results) -> None:
        final = b'{"status": "SUCCESS", "result": 1}'
        results.put([Document("a", final, final=True)])
        broker.publish([envelope(), envelope()])
        first, second = self.claim(broker)
        writes = [results.writes([Document("a", b'{"status": "FAILURE"}')]), results.writes([Document("b", b"later")])]
        batch = [settlement(first, writes=writes[0]), settlement(second, writes=writes[1])]
        assert broker.settle(batch, incarnation="a") == [True, True]
        assert results.get(["a", "b"]) == [final, b"later"]

    def test_who_waits_for_a_result_hears_of_a_settlement(
        self, broker: Broker, results: Results, results_factory: Callable[[], Results]
    ) -> None:
        broker.publish([envelope()])
        delivery = self.claim_one(broker)
        with background(lambda: results_factory().wait(["a"], PATIENCE)) as waiting:
            broker.settle([settlement(delivery, writes=results.writes([Document("a", b"1")]))], incarnation="a")
            assert waiting.result(PATIENCE / 2) == {"a": b"1"}

    # Joins: the parts are counted with the ack

    def join_of(self, broker: Broker, results: Results, *members: str, join: str = "j") -> None:
        """Open a join and publish a message for each of its members."""
        results.open_join(join, len(members), 3600.0)
        broker.publish([envelope(member.encode()) for member in members])

    def with_part(self, delivery: Delivery, results: Results, index: int, join: str = "j", **rest: Any) -> Settlement:
        """What settles the member's message and counts its part."""
        (member,) = bodies([delivery])
        return settlement(delivery, part=results.part_write(part(member.decode(), index, join=join)), **rest)

    def test_a_part_that_is_not_the_last_is_counted_and_all_else_is_done(self, broker: Broker, results: Results) -> None:
        self.join_of(broker, results, "a", "b")
        delivery = self.claim_one(broker)
        writes = results.writes([Document("a", b"1")])
        batch = [self.with_part(delivery, results, 0, publish=[envelope(b"next", "r")], writes=writes)]
        assert broker.settle(batch, incarnation="a") == [True]
        assert broker.held("a") == []
        assert self.waiting(broker, "r") == [b"next"]
        assert results.get(["a"]) == [b"1"]
        assert results.add_parts([part("b", 1)]) == [[part("a").body, part("b").body]]

    def test_the_last_part_is_counted_and_nothing_else_is_done(self, broker: Broker, results: Results) -> None:
        self.join_of(broker, results, "a", "b")
        first, last = self.claim(broker)
        assert broker.settle([self.with_part(first, results, 0)], incarnation="a") == [True]
        writes = results.writes([Document("b", b"1")])
        batch = [self.with_part(last, results, 1, publish=[envelope(b"next", "r")], writes=writes)]
        (answer,) = broker.settle(batch, incarnation="a")
        assert completed(answer) == [part("a").body, part("b").body]
        assert [delivery.tag for delivery in broker.held("a")] == [last.tag]
        assert broker.depth("r") == 0
        assert results.get(["b"]) == [None]

    def test_the_settlement_that_closes_a_join_does_everything(self, broker: Broker, results: Results) -> None:
        self.join_of(broker, results, "a")
        delivery = self.claim_one(broker)
        (answer,) = broker.settle([self.with_part(delivery, results, 0)], incarnation="a")
        assert completed(answer) == [part("a").body]
        writes = results.writes([Document("a", b"1")])
        closing = settlement(delivery, publish=[envelope(b"body", "r")], writes=writes, closes=results.close_write("j"))
        assert broker.settle([closing], incarnation="a") == [True]
        assert broker.held("a") == []
        assert self.waiting(broker, "r") == [b"body"]
        assert results.get(["a"]) == [b"1"]
        assert broker.settle([closing], incarnation="a") == [False]
        assert self.waiting(broker, "r") == [b"body"]

    def test_after_a_join_was_closed_a_part_completes_nothing_and_is_settled(self, broker: Broker, results: Results) -> None:
        self.join_of(broker, results, "a")
        delivery = self.claim_one(broker)
        broker.settle([self.with_part(delivery, results, 0)], incarnation="a")
        assert broker.settle([settlement(delivery, closes=results.close_write("j"))], incarnation="a") == [True]
        broker.publish([envelope(b"a"), envelope(b"late")])
        again, late = self.claim(broker)
        batch = [self.with_part(again, results, 0), self.with_part(late, results, 1, publish=[envelope(b"next", "r")])]
        assert broker.settle(batch, incarnation="a") == [True, True]
        assert self.waiting(broker, "r") == [b"next"]
        assert results.add_parts([part("a", 0)]) == [None]

    def test_parts_of_one_batch_are_counted_in_its_order(self, broker: Broker, results: Results) -> None:
        self.join_of(broker, results, "a", "b", "c")
        first, second, third = self.claim(broker)
        batch = [self.with_part(second, results, 1), self.with_part(third, results, 2), self.with_part(first, results, 0)]
        *before, answer = broker.settle(batch, incarnation="a")
        assert before == [True, True]
        assert completed(answer) == [part("a").body, part("b").body, part("c").body]
        assert [delivery.tag for delivery in broker.held("a")] == [first.tag]

    def test_joins_of_one_batch_do_not_mix(self, broker: Broker, results: Results) -> None:
        self.join_of(broker, results, "a", "b", join="j")
        self.join_of(broker, results, "c", join="k")
        a, b, c = self.claim(broker)
        batch = [
            self.with_part(a, results, 0),
            self.with_part(c, results, 0, join="k"),
            self.with_part(b, results, 1),
            settlement(Delivery(tag="x", queue="q", envelope=None), part=results.part_write(part("x", 7, join="k"))),
        ]
        one, two, three, four = broker.settle(batch, incarnation="a")
        assert (one, four) == (True, False)
        assert completed(two) == [part("c").body]
        assert completed(three) == [part("a").body, part("b").body]

    @pytest.mark.parametrize("how", ["same claim", "release", "reap"])
    def test_a_join_that_was_complete_when_its_worker_died_is_completed_again(
        self, broker: Broker, results: Results, broker_factory: Factory, clock: KitClock, how: str
    ) -> None:
        self.join_of(broker, results, "a", "b")
        first, last = self.claim(broker)
        broker.settle([self.with_part(first, results, 0)], incarnation="a")
        (before,) = broker.settle([self.with_part(last, results, 1)], incarnation="a")
        owner, by = broker, "a"
        if how == "release":
            broker.release("a")
        elif how == "reap":
            clock.advance(LEASE + 1)
            assert broker.reap().returned == 1
        if how != "same claim":
            owner, by = broker_factory(), "b"
            last = self.claim_one(owner, by)
        (again,) = owner.settle([self.with_part(last, results, 1)], incarnation=by)
        assert completed(again) == completed(before) == [part("a").body, part("b").body]
        closing = settlement(last, publish=[envelope(b"body", "r")], closes=results.close_write("j"))
        assert owner.settle([closing], incarnation=by) == [True]
        assert self.waiting(owner, "r") == [b"body"]

    def test_a_claim_that_was_taken_back_counts_writes_and_closes_nothing(
        self, broker: Broker, results: Results, broker_factory: Factory, clock: KitClock
    ) -> None:
        self.join_of(broker, results, "a", "b")
        self.join_of(broker, results, "c", join="k")
        stale = self.claim(broker)
        broker.settle([self.with_part(stale[2], results, 0, join="k")], incarnation="a")
        clock.advance(LEASE + 1)
        assert broker.reap().returned == 3
        other = broker_factory()
        fresh = self.claim(other, by="b")
        writes = results.writes([Document("stale", b"1")])
        send = [envelope(b"stale", "r")]
        batch = [
            self.with_part(stale[0], results, 0, publish=send, writes=writes),
            self.with_part(stale[1], results, 1, publish=send, writes=writes),
            settlement(stale[2], publish=send, writes=writes, closes=results.close_write("k")),
        ]
        assert broker.settle(batch, incarnation="a") == [False] * 3
        assert broker.depth("r") == 0
        assert results.get(["stale"]) == [None]
        # Nothing was counted for j, and k is not closed.
        assert other.settle([self.with_part(fresh[1], results, 1)], incarnation="b") == [True]
        (answer,) = other.settle([self.with_part(fresh[0], results, 0)], incarnation="b")
        assert completed(answer) == [part("a").body, part("b").body]
        (answer,) = other.settle([self.with_part(fresh[2], results, 0, join="k")], incarnation="b")
        assert completed(answer) == [part("c").body]

    def test_two_copies_of_the_last_part_close_a_join_once(self, broker: Broker, results: Results) -> None:
        # A publisher that repeats itself sends the same task twice: both copies complete the join before either has closed it.
        self.join_of(broker, results, "a")
        broker.publish([envelope(b"a")])
        one, two = self.claim(broker)
        for copy in (one, two):
            (answer,) = broker.settle([self.with_part(copy, results, 0)], incarnation="a")
            assert completed(answer) == [part("a").body]
        closes = results.close_write("j")
        assert broker.settle([settlement(one, publish=[envelope(b"body", "r")], closes=closes)], incarnation="a") == [True]
        (answer,) = broker.settle([settlement(two, publish=[envelope(b"body", "r")], closes=closes)], incarnation="a")
        assert completed(answer) == [], "it was closed already: nothing was done, and there is nothing to complete"
        assert [delivery.tag for delivery in broker.held("a")] == [two.tag]
        assert broker.settle([self.with_part(two, results, 0)], incarnation="a") == [True]
        assert self.waiting(broker, "r") == [b"body"]

    def test_threads_that_settle_the_last_parts_at_once_complete_a_join_once(self, broker: Broker, results: Results) -> None:
        size = 12
        for number in range(5):
            join = f"j{number}"
            self.join_of(broker, results, *(f"{place}" for place in range(size)), join=join)
            start = threading.Barrier(4)

            def work(by: str, join: str = join, start: threading.Barrier = start) -> int:
                mine = self.claim(broker, size // 4, by)
                start.wait(PATIENCE)
                answers: list[bool | Completed] = []
                for delivery in mine:
                    (member,) = bodies([delivery])
                    answers += broker.settle([self.with_part(delivery, results, int(member), join=join)], incarnation=by)
                return sum(isinstance(answer, Completed) for answer in answers)

            with concurrent.futures.ThreadPoolExecutor(4) as pool:
                assert sum(pool.map(work, "abcd")) == 1
            for by in "abcd":
                for delivery in broker.held(by):
                    assert broker.settle([settlement(delivery)], incarnation=by) == [True]

    @pytest.mark.usefixtures("several_processes")
    @pytest.mark.parametrize("after", [1, 17, 60])
    def test_a_process_killed_at_any_moment_sends_each_joins_body_once(self, broker: Broker, results: Results, after: int) -> None:
        joins, size = 40, 3
        for number in range(joins):
            self.join_of(broker, results, *(f"{number}.{place}" for place in range(size)), join=f"j{number}")
        progress, telling = os.pipe()

        def work(by: str, limit: int) -> None:
            while got := self.claim(broker, limit, by):
                for delivery in got:
                    (member,) = bodies([delivery])
                    number, place = member.decode().split(".")
                    (answer,) = broker.settle([self.with_part(delivery, results, int(place), f"j{number}")], incarnation=by)
                    os.write(telling, b"!")
                    if isinstance(answer, Completed):
                        body = [envelope(number.encode(), "bodies")]
                        closing = settlement(delivery, publish=body, closes=results.close_write(f"j{number}"))
                        broker.settle([closing], incarnation=by)

        child = Forked(work, "child", 5)
        for _ in range(after):
            os.read(progress, 1)
        child.kill()
        broker.release("child", counted=True)
        work("parent", 5)
        os.close(progress)
        os.close(telling)
        assert sorted(self.waiting(broker, "bodies"), key=int) == [b"%d" % number for number in range(joins)]

    # What was acked before it began

    def test_what_came_of_an_acked_job_is_carried_out_all_the_same(self, broker: Broker) -> None:
        broker.publish([envelope(b"1"), envelope(b"2")])
        first, second = self.claim(broker)
        assert broker.settle([settlement(first)], incarnation="a") == [True]
        send = [envelope(b"next", "r")]
        assert broker.settle([settlement(first, ACKED, publish=send), settlement(second)], incarnation="a") == [True, True]
        assert self.waiting(broker, "r") == [b"next"]
        assert self.waiting(broker) == []
        assert broker.held("a") == []

    def test_results_and_parts_of_an_acked_job_are_stored(self, broker: Broker, results: Results) -> None:
        self.join_of(broker, results, "a", "b")
        first, last = self.claim(broker)
        assert broker.settle([settlement(first), settlement(last)], incarnation="a") == [True, True]
        writes = results.writes([Document("a", b"1")])
        assert broker.settle([self.with_part(first, results, 0, action=ACKED, writes=writes)], incarnation="a") == [True]
        assert results.get(["a"]) == [b"1"]
        writes = results.writes([Document("b", b"1")])
        (answer,) = broker.settle([self.with_part(last, results, 1, action=ACKED, writes=writes)], incarnation="a")
        assert completed(answer) == [part("a").body, part("b").body]
        assert results.get(["b"]) == [None]
        closes = results.close_write("j")
        batch = [settlement(last, ACKED, publish=[envelope(b"body", "r")], writes=writes, closes=closes)]
        assert broker.settle(batch, incarnation="a") == [True]
        assert results.get(["b"]) == [b"1"]
        assert self.waiting(broker, "r") == [b"body"]

    # Fences

    def test_nobody_settles_another_incarnations_claim(self, broker: Broker) -> None:
        broker.publish([envelope()])
        delivery = self.claim_one(broker, "a")
        assert broker.settle([settlement(delivery)], incarnation="b") == [False]
        assert broker.settle([settlement(delivery)], incarnation="a") == [True]

    def test_a_tag_that_never_was_settles_nothing(self, broker: Broker) -> None:
        broker.publish([envelope()])
        strangers = [
            Delivery(tag=tag, queue="q", envelope=envelope()) for tag in ("", "x", "1", "1.1", "-1.5", "a.1.0", "9" * 30 + ".1")
        ]
        assert broker.settle([settlement(stranger) for stranger in strangers], incarnation="a") == [False] * len(strangers)
        assert broker.depth("q") == 1

    @pytest.mark.parametrize("how", ["return", "requeue", "release", "reap"])
    def test_a_claim_that_was_taken_back_cannot_settle(
        self, broker: Broker, broker_factory: Factory, clock: KitClock, how: str
    ) -> None:
        broker.publish([envelope()])
        old = self.claim_one(broker, "a")
        match how:
            case "return":
                broker.settle([settlement(old, RETURN)], incarnation="a")
            case "requeue":
                broker.settle([settlement(old, REQUEUE)], incarnation="a")
            case "release":
                broker.release("a")
            case "reap":
                clock.advance(LEASE + 1)
                broker.reap()
        assert broker.settle([settlement(old)], incarnation="a") == [False]
        other = broker_factory()
        new = self.claim_one(other, "b")
        assert broker.settle([settlement(old)], incarnation="a") == [False]
        assert other.settle([settlement(new)], incarnation="b") == [True]

    def test_an_old_claim_cannot_settle_the_new_claim_of_the_same_incarnation(self, broker: Broker) -> None:
        broker.publish([envelope()])
        old = self.claim_one(broker, "a")
        broker.release("a")
        new = self.claim_one(broker, "a")
        assert broker.settle([settlement(old)], incarnation="a") == [False]
        assert [delivery.tag for delivery in broker.held("a")] == [new.tag]
        assert broker.settle([settlement(new)], incarnation="a") == [True]

    # Leases

    def test_a_claim_whose_lease_ran_out_comes_back_counted(self, broker: Broker, broker_factory: Factory, clock: KitClock) -> None:
        broker.publish([envelope(b"1"), envelope(b"2"), envelope(b"3")])
        self.claim(broker, 2, "a")
        clock.advance(LEASE + 1)
        assert broker_factory().reap().returned == 2
        again = self.claim(broker, by="b")
        assert sorted(bodies(again)) == [b"1", b"2", b"3"]
        assert {delivery.attempt for delivery in again if delivery.envelope and delivery.envelope.body != b"3"} == {2}
        assert broker.held("a") == []

    def test_a_lease_that_runs_is_left_alone(self, broker: Broker, clock: KitClock) -> None:
        broker.publish([envelope()])
        self.claim(broker)
        clock.advance(LEASE - 1)
        assert broker.reap().returned == 0
        assert len(broker.held("a")) == 1

    def test_a_claim_does_not_look_at_expired_leases(self, broker: Broker, clock: KitClock) -> None:
        broker.publish([envelope()])
        delivery = self.claim_one(broker, "a")
        clock.advance(LEASE + 1)
        assert self.claim(broker, by="b") == []
        # Nobody has taken it back, so the late worker may still settle it.
        assert broker.settle([settlement(delivery)], incarnation="a") == [True]

    def test_renewal_keeps_the_claims(self, broker: Broker, clock: KitClock) -> None:
        broker.publish([envelope(b"1"), envelope(b"2"), envelope(b"3")])
        for name in "abc":
            self.claim_one(broker, name)
        clock.advance(LEASE - 1)
        broker.renew(["a", "b", "never-seen"], LEASE)
        clock.advance(LEASE - 1)
        assert broker.reap().returned == 1
        assert [len(broker.held(name)) for name in "abc"] == [1, 1, 0]
        clock.advance(2)
        assert broker.reap().returned == 2

    def test_renewing_nobody_does_nothing(self, broker: Broker, clock: KitClock) -> None:
        broker.publish([envelope()])
        self.claim(broker)
        clock.advance(LEASE - 1)
        broker.renew([], LEASE)
        clock.advance(2)
        assert broker.reap().returned == 1

    @pytest.mark.parametrize("more", [0, 1])
    def test_every_claim_renews_the_lease(self, broker: Broker, clock: KitClock, more: int) -> None:
        broker.publish([envelope()])
        self.claim(broker)
        clock.advance(LEASE - 1)
        broker.publish([envelope()] * more)
        assert len(self.claim(broker)) == more
        clock.advance(LEASE - 1)
        assert broker.reap().returned == 0

    def test_two_reapers_at_once_return_everything_once(self, broker: Broker, broker_factory: Factory, clock: KitClock) -> None:
        broker.publish([envelope(b"%d" % number) for number in range(200)])
        broker.publish([envelope(b"%d" % number, due=clock.now() + 10) for number in range(200, 400)])
        for number in range(20):
            self.claim(broker, 10, f"dead-{number}")
        clock.advance(LEASE + 1)
        start = threading.Barrier(3)

        def reap(_: int) -> tuple[int, int]:
            reaper = broker_factory()
            start.wait(PATIENCE)
            done = reaper.reap()
            return done.returned, done.promoted

        with concurrent.futures.ThreadPoolExecutor(3) as pool:
            counts = list(pool.map(reap, range(3)))
        assert [sum(column) for column in zip(*counts, strict=True)] == [200, 200]
        assert sorted(self.waiting(broker), key=int) == [b"%d" % number for number in range(400)]

    def test_a_reaped_incarnation_may_live_on_with_new_claims(self, broker: Broker, clock: KitClock) -> None:
        broker.publish([envelope()])
        old = self.claim_one(broker)
        clock.advance(LEASE + 1)
        broker.reap()
        new = self.claim_one(broker)
        assert new.attempt == 2
        assert broker.reap().returned == 0
        assert broker.settle([settlement(old), settlement(new)], incarnation="a") == [False, True]

    # Leases of single claims

    def test_a_claim_may_be_held_for_a_shorter_time_than_others(self, broker: Broker, clock: KitClock) -> None:
        broker.publish([envelope(b"1"), envelope(b"2"), envelope(b"3")])
        first, second, third = self.claim(broker)
        broker.hold([second.tag], 5.0, incarnation="a")
        clock.advance(4)
        assert broker.reap().returned == 0
        clock.advance(2)
        assert broker.reap().returned == 1
        assert [delivery.tag for delivery in broker.held("a")] == [first.tag, third.tag]
        again = self.claim_one(broker, "b")
        assert (bodies([again]), again.attempt) == ([b"2"], 2)
        batch = [settlement(first), settlement(second), settlement(third)]
        assert broker.settle(batch, incarnation="a") == [True, False, True]
        assert broker.settle([settlement(again)], incarnation="b") == [True]

    def test_a_claim_may_be_held_for_a_longer_time_than_others(self, broker: Broker, clock: KitClock) -> None:
        broker.publish([envelope(b"1"), envelope(b"2")])
        first, second = self.claim(broker)
        broker.hold([second.tag], 10 * LEASE, incarnation="a")
        clock.advance(LEASE + 1)
        assert broker.reap().returned == 1
        assert [delivery.tag for delivery in broker.held("a")] == [second.tag]
        clock.advance(8 * LEASE)
        assert broker.reap().returned == 0
        assert broker.settle([settlement(first), settlement(second)], incarnation="a") == [False, True]

    def test_a_long_hold_ends_too(self, broker: Broker, clock: KitClock) -> None:
        broker.publish([envelope()])
        held = self.claim_one(broker)
        broker.hold([held.tag], 10 * LEASE, incarnation="a")
        clock.advance(LEASE + 1)
        assert broker.reap().returned == 0
        clock.advance(9 * LEASE)
        assert broker.reap().returned == 1
        assert self.claim_one(broker).attempt == 2

    @pytest.mark.parametrize("lease", [0.4 * LEASE, 2 * LEASE])
    @pytest.mark.parametrize("how", ["renew", "claim"])
    def test_held_claims_are_renewed_with_the_others(self, broker: Broker, clock: KitClock, lease: float, how: str) -> None:
        broker.publish([envelope(b"1"), envelope(b"2")])
        held, _ = self.claim(broker)
        broker.hold([held.tag], lease, incarnation="a")
        for _ in range(4):
            clock.advance(lease - 2)
            if how == "renew":
                broker.renew(["a"], 10 * LEASE)
            else:
                broker.claim(["q"], 1, incarnation="a", lease=10 * LEASE)
            assert broker.reap().returned == 0
        clock.advance(lease + 1)
        assert broker.reap().returned == 1
        assert held.tag not in [delivery.tag for delivery in broker.held("a")]

    @pytest.mark.parametrize("how", ["release", "reap", "return", "requeue", "park"])
    def test_a_hold_is_over_when_its_claim_is(self, broker: Broker, clock: KitClock, how: str) -> None:
        broker.publish([envelope()])
        held = self.claim_one(broker)
        broker.hold([held.tag], 5.0, incarnation="a")
        if how == "release":
            broker.release("a")
        elif how == "reap":
            clock.advance(6)
            assert broker.reap().returned == 1
        else:
            actions: dict[str, Action] = {"return": RETURN, "requeue": REQUEUE, "park": Park(clock.now() + 1)}
            assert broker.settle([settlement(held, actions[how])], incarnation="a") == [True]
            clock.advance(2)
            broker.reap()
        again = self.claim_one(broker)
        clock.advance(6)
        assert broker.reap().returned == 0
        assert broker.settle([settlement(again)], incarnation="a") == [True]

    def test_a_hold_goes_on_when_its_claim_is_kept(self, broker: Broker, clock: KitClock) -> None:
        broker.publish([envelope(), envelope()])
        kept, _ = self.claim(broker)
        broker.hold([kept.tag], 5.0, incarnation="a")
        assert broker.release("a", keep=[kept.tag]) == 1
        clock.advance(6)
        assert broker.reap().returned == 1

    def test_the_last_hold_of_a_claim_counts(self, broker: Broker, clock: KitClock) -> None:
        broker.publish([envelope()])
        tag = self.claim_one(broker).tag
        broker.hold([tag], 5.0, incarnation="a")
        broker.hold([tag], 20.0, incarnation="a")
        clock.advance(19)
        assert broker.reap().returned == 0
        clock.advance(2)
        assert broker.reap().returned == 1

    def test_tags_that_are_not_claimed_are_passed_over(self, broker: Broker, clock: KitClock) -> None:
        broker.publish([envelope(b"1"), envelope(b"2"), envelope(b"3")])
        gone, mine = self.claim(broker, 2)
        theirs = self.claim_one(broker, "b")
        broker.settle([settlement(gone)], incarnation="a")
        broker.hold([gone.tag, theirs.tag, "", "x", "9" * 30 + ".1", mine.tag], 5.0, incarnation="a")
        broker.hold([], 5.0, incarnation="a")
        broker.hold([gone.tag], 5.0, incarnation="never-seen")
        clock.advance(6)
        assert broker.reap().returned == 1
        assert [len(broker.held(name)) for name in "ab"] == [0, 1]

    def test_an_old_claims_tag_does_not_shorten_the_new_claim(self, broker: Broker, clock: KitClock) -> None:
        broker.publish([envelope()])
        old = self.claim_one(broker)
        broker.release("a")
        self.claim_one(broker)
        broker.hold([old.tag], 5.0, incarnation="a")
        clock.advance(6)
        assert broker.reap().returned == 0

    def test_a_thousand_claims_may_be_held_at_once(self, broker: Broker, clock: KitClock) -> None:
        broker.publish([envelope(b"%d" % number) for number in range(2000)])
        got = self.claim(broker, 2000)
        broker.hold([delivery.tag for delivery in got[:1000]], 5.0, incarnation="a")
        clock.advance(6)
        assert broker.reap().returned == 1000
        assert [delivery.tag for delivery in broker.held("a")] == [delivery.tag for delivery in got[1000:]]

    # Held and release

    def test_held_tells_what_an_incarnation_holds_and_changes_nothing(self, broker: Broker, broker_factory: Factory) -> None:
        broker.publish([envelope(b"1", headers={"id": "1"}), envelope(b"2"), envelope(b"3")])
        mine = self.claim(broker, 2, "a")
        self.claim(broker, 1, "b")
        for _ in range(2):
            held = sorted(broker_factory().held("a"), key=lambda delivery: bodies([delivery]))
            assert [delivery.tag for delivery in held] == [delivery.tag for delivery in mine]
            assert bodies(held) == [b"1", b"2"]
            assert [(d.queue, d.attempt, d.epoch) for d in held] == [(d.queue, d.attempt, d.epoch) for d in mine]
        assert broker.held("nobody") == []
        # For the parent of a child that died: it settles what it finds, for that incarnation.
        assert broker_factory().settle([settlement(held[0])], incarnation="a") == [True]

    def test_release_returns_all_claims_to_the_front_in_their_order(self, broker: Broker) -> None:
        broker.publish([envelope(b"%d" % number) for number in range(5)])
        self.claim(broker, 1, "a")
        self.claim(broker, 2, "a")
        assert broker.release("a") == 3
        again = self.claim(broker, by="b")
        assert bodies(again) == [b"0", b"1", b"2", b"3", b"4"]
        assert {delivery.attempt for delivery in again} == {1}
        assert broker.release("a") == 0

    def test_release_counts_when_asked(self, broker: Broker) -> None:
        broker.publish([envelope()])
        self.claim(broker)
        assert broker.release("a", counted=True) == 1
        assert self.claim_one(broker).attempt == 2

    def test_release_keeps_what_it_is_told_to_keep(self, broker: Broker, clock: KitClock) -> None:
        broker.publish([envelope(b"1"), envelope(b"2"), envelope(b"3")])
        first, second, third = self.claim(broker)
        assert broker.release("a", keep=[second.tag]) == 2
        assert self.waiting(broker) == [b"1", b"3"]
        assert broker.settle([settlement(first), settlement(second), settlement(third)], incarnation="a") == [False, True, False]
        # The lease of what was kept goes on.
        broker.publish([envelope(b"4", "r")])
        kept = self.claim_one(broker, queues=["r"])
        broker.release("a", keep=[kept.tag])
        clock.advance(LEASE + 1)
        assert broker.reap().returned == 1

    def test_release_leaves_others_alone(self, broker: Broker) -> None:
        broker.publish([envelope(), envelope()])
        self.claim_one(broker, "a")
        self.claim_one(broker, "b")
        assert broker.release("a") == 1
        assert len(broker.held("b")) == 1

    # Messages with a due time

    def test_a_message_with_a_due_time_waits_in_the_broker(self, broker: Broker, clock: KitClock) -> None:
        broker.publish([envelope(b"later", due=clock.now() + 60), envelope(b"now"), envelope(b"past", due=clock.now() - 60)])
        broker.reap()
        assert sorted(self.waiting(broker)) == [b"now", b"past"]
        assert broker.depth("q") == 2
        clock.advance(61)
        assert broker.reap().promoted == 1
        assert sorted(self.waiting(broker)) == [b"later", b"now", b"past"]

    def test_messages_become_due_in_the_order_of_their_times(self, broker: Broker, clock: KitClock) -> None:
        broker.publish([envelope(b"%d" % seconds, due=clock.now() + seconds) for seconds in (30, 10, 20, 90)])
        clock.advance(60)
        assert broker.reap().promoted == 3
        assert bodies(self.claim(broker)) == [b"10", b"20", b"30"]

    def test_reap_says_when_the_next_message_is_due(self, broker: Broker, clock: KitClock) -> None:
        assert broker.reap().next_due is None
        broker.publish([envelope(due=clock.now() + 60), envelope(due=clock.now() + 20)])
        assert broker.reap().next_due == pytest.approx(20, abs=5)
        clock.advance(30)
        done = broker.reap()
        assert done.promoted == 1
        assert done.next_due == pytest.approx(30, abs=5)
        clock.advance(60)
        assert broker.reap().next_due is None

    def test_a_due_message_keeps_its_priority(self, broker: Broker, clock: KitClock) -> None:
        broker.publish([envelope(b"urgent", priority=0, due=clock.now() + 10), envelope(b"not", priority=9)])
        clock.advance(11)
        broker.reap()
        assert bodies(self.claim(broker)) == [b"urgent", b"not"]

    def test_thousands_of_messages_become_due_at_once(self, broker: Broker, clock: KitClock) -> None:
        broker.publish([envelope(b"%d" % number, due=clock.now() + 10) for number in range(3000)])
        clock.advance(11)
        promoted = 0
        while (done := broker.reap()).promoted:
            promoted += done.promoted
        assert promoted == 3000
        assert broker.depth("q") == 3000

    # Quarantine

    def quarantine(self, broker: Broker, *messages: Envelope, attempts: int = 1) -> list[Quarantined]:
        """Publish the messages and put each into quarantine in its last attempt; answer what rests there now."""
        for message in messages:
            broker.publish([message])
            for _ in range(attempts - 1):
                delivery = self.claim_one(broker, queues=[message.queue])
                broker.settle([settlement(delivery, REQUEUE)], incarnation="a")
            delivery = self.claim_one(broker, queues=[message.queue])
            batch = [settlement(delivery, Quarantine("poison", {"signal": 9, "stack": "line 1\nline 2"}))]
            assert broker.settle(batch, incarnation="a") == [True]
        return broker.quarantined()

    def test_an_empty_quarantine_holds_nothing(self, broker: Broker) -> None:
        assert broker.quarantined() == []
        assert broker.requeue_quarantined([]) == broker.requeue_quarantined(["1", "no such id"]) == 0
        assert broker.drop_quarantined([]) == broker.drop_quarantined(["1", "no such id"]) == 0

    def test_quarantine_shows_the_message_with_all_that_is_known(
        self, broker: Broker, broker_factory: Factory, clock: KitClock
    ) -> None:
        message = envelope(bytes(range(256)), headers={"id": "7", "task": "shop.send"}, priority=3, exchange="shop")
        self.quarantine(broker, message, attempts=3)
        (resting,) = broker_factory().quarantined()
        assert (resting.queue, resting.reason, resting.attempt, resting.raw) == ("q", "poison", 3, b"")
        assert {"signal": 9, "stack": "line 1\nline 2"}.items() <= resting.evidence.items()
        assert resting.at == pytest.approx(clock.now(), abs=60)
        assert resting.id
        assert not set(resting.id) & set(" \t\n")
        shown = resting.envelope
        assert shown is not None
        assert (shown.queue, shown.body, shown.priority, shown.exchange) == ("q", bytes(range(256)), 3, "shop")
        assert {"id": "7", "task": "shop.send"}.items() <= shown.headers.items()

    def test_quarantine_keeps_what_json_does_not_know_as_its_repr(self, broker: Broker) -> None:
        broker.publish([envelope()])
        action = Quarantine("odd", {"odd": {1}, "exit": None})
        assert broker.settle([settlement(self.claim_one(broker), action)], incarnation="a") == [True]
        (resting,) = broker.quarantined()
        assert {"odd": "{1}", "exit": None}.items() <= resting.evidence.items()

    def test_quarantine_is_shown_in_pages_the_oldest_first(self, broker: Broker) -> None:
        self.quarantine(broker, *(envelope(b"%d" % number) for number in range(25)))
        pages, after = [], ""
        while page := broker.quarantined(limit=10, after=after):
            pages.append([resting.envelope.body for resting in page if resting.envelope])
            after = page[-1].id
        assert [len(page) for page in pages] == [10, 10, 5]
        assert [body for page in pages for body in page] == [b"%d" % number for number in range(25)]
        assert broker.quarantined(limit=0) == []

    def test_pages_go_on_behind_a_message_that_was_dropped(self, broker: Broker) -> None:
        resting = self.quarantine(broker, *(envelope(b"%d" % number) for number in range(5)))
        assert broker.drop_quarantined([one.id for one in resting[:2]]) == 2
        assert [one.id for one in broker.quarantined(after=resting[1].id)] == [one.id for one in resting[2:]]

    def test_an_id_is_never_used_again(self, broker: Broker) -> None:
        # Somebody may have a list on the screen and drop what stands in it.
        (first,) = self.quarantine(broker, envelope(b"1"))
        broker.drop_quarantined([first.id])
        (second,) = self.quarantine(broker, envelope(b"2"))
        assert second.id != first.id
        assert broker.drop_quarantined([first.id]) == 0

    def test_a_requeued_message_goes_to_the_end_of_its_queue_as_if_it_were_new(self, broker: Broker) -> None:
        message = envelope(bytes(range(256)), headers={"id": "7", "task": "shop.send"}, priority=3)
        (resting,) = self.quarantine(broker, message, attempts=3)
        broker.publish([envelope(b"before", priority=3)])
        assert broker.requeue_quarantined([resting.id]) == 1
        assert broker.quarantined() == []
        before, again = self.claim(broker)
        assert bodies([before, again]) == [b"before", message.body]
        assert again.attempt == 1
        assert again.envelope is not None
        assert again.envelope.headers["id"] == "7"
        assert again.envelope.priority == 3
        assert broker.settle([settlement(again)], incarnation="a") == [True]

    def test_a_requeued_message_counts_its_attempts_anew(self, broker: Broker) -> None:
        (resting,) = self.quarantine(broker, envelope(), attempts=3)
        broker.requeue_quarantined([resting.id])
        (resting,) = self.quarantine_again(broker)
        assert resting.attempt == 1
        assert broker.requeue_quarantined([resting.id]) == 1
        broker.settle([settlement(self.claim_one(broker), REQUEUE)], incarnation="a")
        assert self.claim_one(broker).attempt == 2

    def quarantine_again(self, broker: Broker) -> list[Quarantined]:
        """Put the one message that waits into quarantine."""
        batch = [settlement(self.claim_one(broker), Quarantine("again"))]
        assert broker.settle(batch, incarnation="a") == [True]
        return broker.quarantined()

    def test_what_is_requeued_and_dropped_is_what_was_named(self, broker: Broker) -> None:
        resting = self.quarantine(broker, *(envelope(b"%d" % number, "qrs"[number % 3]) for number in range(6)))
        ids = [one.id for one in resting]
        assert len(set(ids)) == 6
        assert broker.requeue_quarantined([ids[4], ids[1], ids[1], "unknown"]) == 2
        assert broker.drop_quarantined([ids[0], ids[1], ids[5], ids[5], "unknown"]) == 2
        assert [one.id for one in broker.quarantined()] == [ids[2], ids[3]]
        assert sorted(self.waiting(broker, "r")) == [b"1", b"4"]
        assert self.waiting(broker, "q") == self.waiting(broker, "s") == []

    def test_a_requeued_message_ends_a_wait(self, broker: Broker, broker_factory: Factory) -> None:
        (resting,) = self.quarantine(broker, envelope())
        other = broker_factory()
        with background(lambda: broker.wait(["q"], PATIENCE, incarnation="a")) as waiting:
            other.requeue_quarantined([resting.id])
            assert waiting.result(PATIENCE / 2) is True

    @pytest.mark.parametrize("raw", [b"not JSON", b"\xff\xfe\x00", b'{"body": 1}'])
    def test_what_is_no_message_rests_until_it_is_dropped(self, broker: Broker, raw: bytes) -> None:
        self.inject(broker, "q", raw)
        broker.publish([envelope(b"good")])
        batch = [settlement(delivery, Quarantine("no message")) for delivery in self.claim(broker)]
        assert broker.settle(batch, incarnation="a") == [True, True]
        bad, good = broker.quarantined()
        assert (bad.envelope, bad.raw, bad.queue, bad.reason) == (None, raw, "q", "no message")
        assert broker.requeue_quarantined([bad.id, good.id]) == 1
        assert self.waiting(broker) == [b"good"]
        assert [one.id for one in broker.quarantined()] == [bad.id]
        assert broker.drop_quarantined([bad.id]) == 1
        assert broker.quarantined() == []

    def test_a_thousand_are_requeued_in_one_call(self, broker: Broker) -> None:
        broker.publish([envelope(b"%d" % number) for number in range(3000)])
        batch = [settlement(delivery, Quarantine("all")) for delivery in self.claim(broker, 3000)]
        assert broker.settle(batch, incarnation="a") == [True] * 3000
        resting = broker.quarantined(limit=5000)
        assert len(resting) == 3000
        assert len(broker.quarantined()) == 100
        assert broker.requeue_quarantined([one.id for one in resting[:2000]]) == 2000
        assert broker.drop_quarantined([one.id for one in resting]) == 1000
        assert sorted(self.waiting(broker), key=int) == sorted((b"%d" % number for number in range(2000)), key=int)

    @pytest.mark.parametrize("rival", ["requeue", "drop"])
    def test_two_people_at_once_neither_double_nor_lose_a_message(
        self, broker: Broker, broker_factory: Factory, rival: str
    ) -> None:
        resting = self.quarantine(broker, *(envelope(b"%d" % number) for number in range(100)))
        ids = [one.id for one in resting]
        start = threading.Barrier(2)

        def press(how: str) -> int:
            mine = broker_factory()
            start.wait(PATIENCE)
            act = mine.requeue_quarantined if how == "requeue" else mine.drop_quarantined
            return sum(act(ids[first : first + 5]) for first in range(0, len(ids), 5))

        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            requeued, other = pool.map(press, ["requeue", rival])
        assert requeued + other == len(ids)
        assert broker.quarantined() == []
        waiting = self.waiting(broker)
        assert len(set(waiting)) == len(waiting) == (len(ids) if rival == "requeue" else requeued)

    # Upkeep

    def test_depth_counts_what_waits_and_nothing_else(self, broker: Broker, clock: KitClock) -> None:
        broker.publish([envelope(priority=priority) for priority in (0, 3, 9)])
        broker.publish([envelope(due=clock.now() + 60), envelope(queue="r")])
        self.claim_one(broker)
        assert broker.depth("q") == 2
        assert broker.depth("r") == 1
        assert broker.depth("never seen") == 0

    def test_purge_drops_what_waits_and_leaves_claims(self, broker: Broker) -> None:
        broker.publish([envelope(priority=priority) for priority in (0, 0, 3, 9)])
        broker.publish([envelope(queue="r")])
        delivery = self.claim_one(broker)
        assert broker.purge("q") == 3
        assert broker.purge("q") == 0
        assert broker.depth("r") == 1
        assert broker.settle([settlement(delivery, RETURN)], incarnation="a") == [True]
        assert broker.depth("q") == 1

    def test_a_topic_goes_to_every_queue_that_is_bound_to_it(self, broker: Broker, broker_factory: Callable[..., Broker]) -> None:
        broker.publish_topic("news", envelope(b"nobody hears"))
        for queue in ("q", "r"):
            broker.bind_topic("news", queue)
            broker.bind_topic("news", queue)
        broker.bind_topic("other", "s")
        broker_factory().publish_topic("news", envelope(b"all hear", "elsewhere", headers={"x": 1}))
        claimed = {one.queue: one for one in self.claim_all(broker, "q", "r", "s", "elsewhere")}
        assert sorted(claimed) == ["q", "r"]
        for delivery in claimed.values():
            assert delivery.envelope is not None
            assert (delivery.envelope.body, delivery.envelope.headers["x"]) == (b"all hear", 1)

    def test_a_queue_that_is_bound_no_more_gets_nothing_more(self, broker: Broker) -> None:
        broker.bind_topic("news", "q")
        broker.bind_topic("news", "r")
        broker.unbind_topic("news", "q")
        broker.unbind_topic("news", "never bound")
        broker.publish_topic("news", envelope(b"x"))
        assert [one.queue for one in self.claim_all(broker, "q", "r")] == ["r"]

    def test_a_deleted_queue_is_gone_with_its_bindings(self, broker: Broker) -> None:
        broker.bind_topic("news", "q")
        broker.publish_topic("news", envelope(b"x"))
        broker.publish([envelope(b"y")])
        broker.delete_queue("q")
        broker.delete_queue("never seen")
        assert broker.depth("q") == 0
        broker.publish_topic("news", envelope(b"z"))
        assert self.claim_all(broker, "q") == []

    def claim_all(self, broker: Broker, *queues: str) -> list[Delivery]:
        """All that waits in these queues, or comes within a moment."""
        found: list[Delivery] = []
        while claimed := broker.claim(queues, 100, incarnation="a", lease=LEASE) or (
            broker.claim(queues, 100, incarnation="a", lease=LEASE) if broker.wait(queues, 0.3, incarnation="a") else []
        ):
            found += claimed
        return found

    def test_queue_names_may_be_odd(self, broker: Broker) -> None:
        names = ["ü ñ", "a:b", "a.b", "'; DROP TABLE x; --", "x" * 200, "{tag}", "percent%s"]
        broker.publish([envelope(b"%d" % number, name) for number, name in enumerate(names)])
        for number, name in enumerate(names):
            delivery = self.claim_one(broker, queues=[name])
            assert delivery.queue == name
            assert bodies([delivery]) == [b"%d" % number]

    def test_ping_returns(self, broker: Broker) -> None:
        broker.ping()

    def test_closing_twice_is_fine_and_claims_stay(self, broker: Broker, broker_factory: Factory) -> None:
        broker.publish([envelope()])
        delivery = self.claim_one(broker)
        broker.close()
        broker.close()
        other = broker_factory()
        assert [held.tag for held in other.held("a")] == [delivery.tag]

    def test_the_address_names_the_server_without_secrets(self, broker: Broker, broker_factory: Factory) -> None:
        assert broker.server == broker_factory().server
        assert "://" in broker.url
        assert "secret" not in broker.url

    # Failures

    def test_a_publish_that_takes_too_long_ends_in_time_and_says_whether_it_was_sent(
        self, broker: Broker, broker_factory: Factory
    ) -> None:
        impatient = broker_factory(timeout=PATIENCE)
        impatient.ping()
        with self.stalled(broker):
            began = time.monotonic()
            with pytest.raises(BrokerUnavailable) as caught:
                impatient.publish([envelope(b"late")], timeout=0.3)
            assert time.monotonic() - began < PATIENCE / 2
        broker_factory().publish([envelope(b"after")])
        waiting = self.waiting(broker)
        assert b"after" in waiting
        assert isinstance(caught.value, PublishUnconfirmed) or b"late" not in waiting

    def test_a_server_that_does_not_answer_makes_every_call_raise(self, broker: Broker, broker_factory: Factory) -> None:
        broker.publish([envelope(b"1"), envelope(b"2")])
        (delivery,) = self.claim(broker, 1, "a")
        impatient = broker_factory(timeout=0.3)
        impatient.ping()
        calls: list[Callable[[], object]] = [
            lambda: impatient.publish([envelope()]),
            lambda: self.claim(impatient),
            lambda: impatient.settle([settlement(delivery)], incarnation="a"),
            lambda: impatient.renew(["a"], LEASE),
            lambda: impatient.release("a"),
            lambda: impatient.purge("q"),
            lambda: impatient.hold([delivery.tag], LEASE, incarnation="a"),
            lambda: impatient.requeue_quarantined(["1"]),
            lambda: impatient.drop_quarantined(["1"]),
            impatient.ping,
        ]
        with self.stalled(broker):
            for call in calls:
                began = time.monotonic()
                with pytest.raises(BrokerUnavailable):
                    call()
                assert time.monotonic() - began < PATIENCE / 2
        # It connects again by itself.
        assert impatient.settle([settlement(delivery)], incarnation="a") in ([True], [False])
        assert b"2" in self.waiting(impatient)

    @pytest.mark.usefixtures("several_processes")
    def test_a_broker_survives_fork(self, broker: Broker) -> None:
        broker.publish([envelope(b"1"), envelope(b"2")])
        mine = self.claim_one(broker, "parent")

        def work() -> list[bytes]:
            theirs = self.claim_one(broker, "child")
            broker.publish([envelope(b"3")])
            assert broker.settle([settlement(theirs)], incarnation="child") == [True]
            return bodies([theirs])

        child = Forked(work)
        assert broker.settle([settlement(mine)], incarnation="parent") == [True]
        assert child.result() == [b"2"]
        assert self.waiting(broker) == [b"3"]

    @pytest.mark.usefixtures("several_processes")
    def test_a_fork_does_not_disturb_a_wait_in_a_thread(self, broker: Broker) -> None:
        with background(lambda: broker.wait(["q"], PATIENCE, incarnation="a")) as waiting:
            assert Forked(lambda: broker.wait(["q"], 0.05, incarnation="b")).result() is False
            Forked(lambda: broker.publish([envelope()])).result()
            assert waiting.result(PATIENCE / 2) is True

    @pytest.mark.usefixtures("several_processes")
    @pytest.mark.parametrize("after", [1, 40, 133])
    def test_a_process_killed_at_any_moment_has_settled_all_or_nothing(self, broker: Broker, results: Results, after: int) -> None:
        # One message begets the next. Whenever the child dies, exactly one exists, and the result tells which.
        broker.publish([envelope(b"1")])
        progress, telling = os.pipe()

        def work() -> None:
            while True:
                delivery = self.claim_one(broker, "child")
                number = int(bodies([delivery])[0])
                writes = results.writes([Document("last", b"%d" % number)])
                send = [envelope(b"%d" % (number + 1))]
                broker.settle([settlement(delivery, publish=send, writes=writes)], incarnation="child")
                os.write(telling, b"!")

        child = Forked(work)
        for _ in range(after):
            os.read(progress, 1)
        child.kill()
        os.close(progress)
        os.close(telling)
        broker.release("child")
        (survivor,) = self.waiting(broker)
        assert results.get(["last"]) == [b"%d" % (int(survivor) - 1)]
