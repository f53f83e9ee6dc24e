"""Long random stories for brokers, checked against a model that fits on a page. Needs hypothesis.

The model knows for every message whether it is waiting, claimed (by whom, under which tag), parked, resting in quarantine, or
done. The rules do what workers, parents and reapers do: publish, claim, settle in every way, renew, let time pass, reap, release,
and die. After every rule the broker has to agree with the model.

Subclass :class:`BrokerMachine` and let pytest run its ``TestCase``::

    class MyMachine(BrokerMachine):
        def open_server(self):
            clock = ManualClock()
            self.enter(temporary_server := ...)
            return clock, lambda: self.enter(MyBroker(..., clock=clock))

    TestStories = MyMachine.TestCase
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TypeVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from jumpstarter.abc.broker import Broker
from jumpstarter.jobs import ACK, REQUEUE, RETURN, Action, Delivery, Envelope, Park, Quarantine
from jumpstarter.testing.broker_kit import LEASE, KitClock, envelope, settlement

T = TypeVar("T")

QUEUES = ("q", "r")
INCARNATIONS = ("a", "b", "c")
# The steps of Kombu's layout: every broker serves these in this order.
PRIORITIES = (0, 3, 6, 9)


@dataclass
class Known:
    """What the model knows of one message."""

    body: bytes
    queue: str
    priority: int
    state: str
    attempt: int = 1
    due: float = 0.0
    claimant: str = ""
    delivery: Delivery | None = None


class BrokerMachine(RuleBasedStateMachine):
    """The stories. Subclasses say how a server is opened."""

    def __init__(self) -> None:
        super().__init__()
        self._stack = contextlib.ExitStack()
        self._bodies = itertools.count()
        self.messages: dict[bytes, Known] = {}
        self.leases: dict[str, float] = {}
        self.stale: list[tuple[str, Delivery]] = []
        self.epoch = 0

    def open_server(self) -> tuple[KitClock, Callable[[], Broker]]:
        """An empty server: its clock, and how to open one more broker on it. :meth:`enter` what has to be closed."""
        raise NotImplementedError("say how a server is opened; see jumpstarter.testing.broker_model")

    def enter(self, resource: AbstractContextManager[T]) -> T:
        """Enter the resource; it is left when the story ends."""
        return self._stack.enter_context(resource)

    @initialize()
    def begin(self) -> None:
        """Two workers' brokers on one server."""
        self.clock, open_broker = self.open_server()
        self.brokers = (open_broker(), open_broker())

    def teardown(self) -> None:
        self._stack.close()

    # What the model knows

    def in_state(self, state: str, **facts: object) -> list[Known]:
        """All messages in the state that the facts hold for."""
        return [
            known
            for known in self.messages.values()
            if known.state == state and all(getattr(known, name) == value for name, value in facts.items())
        ]

    def free(self, known: Known, state: str) -> None:
        """The claim is over; what held it is a stale handle now."""
        assert known.delivery is not None
        self.stale.append((known.claimant, known.delivery))
        known.state, known.claimant, known.delivery = state, "", None

    def expire(self) -> None:
        """Return what a reaper has to return."""
        for incarnation, expires in list(self.leases.items()):
            if expires <= self.clock.monotonic():
                del self.leases[incarnation]
                for known in self.in_state("claimed", claimant=incarnation):
                    self.free(known, "waiting")
                    known.attempt += 1

    # What happens

    @rule(
        which=st.integers(0, 1),
        sends=st.lists(st.tuples(st.sampled_from(QUEUES), st.sampled_from(PRIORITIES), st.sampled_from([0, 0, 5, 50])), max_size=4),
    )
    def publish(self, which: int, sends: list[tuple[str, int, int]]) -> None:
        """Messages for now and for later."""
        self.brokers[which].publish([self._new(*send) for send in sends])

    def _new(self, queue: str, priority: int, delay: int) -> Envelope:
        body = b"%d" % next(self._bodies)
        due = self.clock.now() + delay
        self.messages[body] = Known(body, queue, priority, "parked" if delay else "waiting", due=due)
        return envelope(body, queue, priority=priority, due=due if delay else None)

    @rule(
        which=st.integers(0, 1), incarnation=st.sampled_from(INCARNATIONS), limit=st.integers(0, 4), queues=st.permutations(QUEUES)
    )
    def claim(self, which: int, incarnation: str, limit: int, queues: Sequence[str]) -> None:
        """Take what waits, the most urgent first."""
        before = {queue: [known.priority for known in self.in_state("waiting", queue=queue)] for queue in queues}
        got = self.brokers[which].claim(queues, limit, incarnation=incarnation, lease=LEASE)
        assert len(got) == min(limit, sum(map(len, before.values())))
        for delivery in got:
            self._claimed(delivery, incarnation)
        for queue in queues:
            taken = [delivery.envelope.priority for delivery in got if delivery.queue == queue and delivery.envelope]
            assert taken == sorted(before[queue])[: len(taken)]
        if got:
            assert {delivery.epoch > self.epoch for delivery in got} == {True}
            self.epoch = max(delivery.epoch for delivery in got)
        if got or incarnation in self.leases:
            self.leases[incarnation] = self.clock.monotonic() + LEASE

    def _claimed(self, delivery: Delivery, incarnation: str) -> None:
        assert delivery.envelope is not None
        known = self.messages[delivery.envelope.body]
        assert (known.state, known.queue, known.attempt) == ("waiting", delivery.queue, delivery.attempt)
        known.state, known.claimant, known.delivery = "claimed", incarnation, delivery

    @precondition(lambda self: self.in_state("claimed"))
    @rule(
        which=st.integers(0, 1),
        data=st.data(),
        actions=st.lists(st.sampled_from(["ack", "return", "requeue", "park", "quarantine"]), min_size=1, max_size=3),
        follow=st.booleans(),
    )
    def settle(self, which: int, data: st.DataObject, actions: list[str], follow: bool) -> None:
        """Settle some claims of one incarnation, each in its own way, and with them some claims that are no longer held."""
        incarnation = data.draw(st.sampled_from(sorted({known.claimant for known in self.in_state("claimed")})))
        claims = self.in_state("claimed", claimant=incarnation)
        stale = [delivery for owner, delivery in self.stale if owner == incarnation][-2:]
        batch = [settlement(delivery, publish=[envelope(b"never")]) for delivery in stale]
        for known, action in zip(claims, actions, strict=False):
            assert known.delivery is not None
            send = [self._new("r", 3, 0)] if follow else []
            batch.append(settlement(known.delivery, self._act(known, action), publish=send))
        verdicts = self.brokers[which].settle(batch, incarnation=incarnation)
        assert verdicts == [False] * len(stale) + [True] * (len(batch) - len(stale))

    def _act(self, known: Known, action: str) -> Action:
        match action:
            case "ack":
                self.free(known, "done")
                return ACK
            case "return":
                self.free(known, "waiting")
                return RETURN
            case "requeue":
                self.free(known, "waiting")
                known.attempt += 1
                return REQUEUE
            case "park":
                self.free(known, "parked")
                known.due = self.clock.now() + 20
                return Park(known.due)
            case _:
                self.free(known, "resting")
                return Quarantine("the story says so")

    @rule(which=st.integers(0, 1), incarnations=st.lists(st.sampled_from(INCARNATIONS), unique=True))
    def renew(self, which: int, incarnations: list[str]) -> None:
        """A parent's heartbeat."""
        self.brokers[which].renew(incarnations, LEASE)
        for incarnation in set(incarnations) & set(self.leases):
            self.leases[incarnation] = self.clock.monotonic() + LEASE

    @rule(which=st.integers(0, 1), seconds=st.sampled_from([1, 10, 25, 40]))
    def let_time_pass_and_reap(self, which: int, seconds: int) -> None:
        """Leases run out, and parked messages become due; together with the reaper that sees it."""
        self.clock.advance(seconds)
        held_before = len(self.in_state("claimed"))
        self.expire()
        due = [known for known in self.in_state("parked") if known.due <= self.clock.now()]
        for known in due:
            known.state = "waiting"
        done = self.brokers[which].reap()
        assert done.returned == held_before - len(self.in_state("claimed"))
        assert done.promoted == len(due)
        assert (done.next_due is None) == (not self.in_state("parked"))

    @rule(which=st.integers(0, 1), incarnation=st.sampled_from(INCARNATIONS), counted=st.booleans(), keep=st.booleans())
    def release(self, which: int, incarnation: str, counted: bool, keep: bool) -> None:
        """A child ends, or its parent saw it die. Its parent may keep what had been started."""
        claims = self.in_state("claimed", claimant=incarnation)
        kept = [known.delivery.tag for known in claims[:1] if known.delivery is not None] if keep else []
        gone = claims[len(kept) :]
        assert self.brokers[which].release(incarnation, keep=kept, counted=counted) == len(gone)
        for known in gone:
            self.free(known, "waiting")
            known.attempt += counted
        if not kept:
            self.leases.pop(incarnation, None)

    @rule(incarnation=st.sampled_from(INCARNATIONS))
    def crash(self, incarnation: str) -> None:
        """An incarnation is never heard of again: time passes, others renew their leases, and a reaper comes."""
        others = [name for name in INCARNATIONS if name != incarnation]
        self.renew(0, others)
        self.let_time_pass_and_reap(1, 25)
        self.renew(1, others)
        self.let_time_pass_and_reap(0, 10)
        assert self.brokers[0].held(incarnation) == []

    # What must hold after every step

    @invariant()
    def depths_agree(self) -> None:
        """What waits is what the model says."""
        if self.messages:
            assert {queue: self.brokers[0].depth(queue) for queue in QUEUES} == {
                queue: len(self.in_state("waiting", queue=queue)) for queue in QUEUES
            }

    @invariant()
    def claims_agree(self) -> None:
        """Everybody holds what the model says, under the same tags."""
        for incarnation in INCARNATIONS if self.messages else ():
            held = {(delivery.tag, delivery.attempt) for delivery in self.brokers[1].held(incarnation)}
            claims = self.in_state("claimed", claimant=incarnation)
            assert held == {(known.delivery.tag, known.attempt) for known in claims if known.delivery is not None}
