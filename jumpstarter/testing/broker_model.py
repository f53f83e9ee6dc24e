"""Long random stories for brokers, checked against a model that fits on a page. Needs hypothesis.

The model knows for every message whether it is waiting, claimed (by whom, under which tag, held for how long), parked, resting in
quarantine, or done, and for every join who was counted. The rules do what workers, parents, reapers and people do: publish, claim,
settle in every way, hold, renew, let time pass, reap, release, die, and requeue or drop what rests. After every rule the broker has
to agree with the model.

Subclass :class:`BrokerMachine` and let pytest run its ``TestCase``::

    class MyMachine(BrokerMachine):
        def open_server(self):
            clock = ManualClock()
            self.enter(temporary_server := ...)
            return clock, lambda: self.enter(MyBroker(..., clock=clock))

        def open_results(self):  # only where results live on the same server
            return self.enter(MyResults(..., clock=self.clock))

    TestStories = MyMachine.TestCase
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TypeVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from jumpstarter.abc.broker import Broker
from jumpstarter.abc.results import Results
from jumpstarter.jobs import ACK, ACKED, REQUEUE, RETURN, Action, Completed, Delivery, Envelope, Park, Part, Quarantine, Settlement
from jumpstarter.testing.broker_kit import LEASE, KitClock, envelope, part, settlement

T = TypeVar("T")

QUEUES = ("q", "r")
INCARNATIONS = ("a", "b", "c")
# The steps of Kombu's layout: every broker serves these in this order.
PRIORITIES = (0, 3, 6, 9)


@dataclass
class Join:
    """What the model knows of a join: which places were counted, which of them made it complete, and whether it was closed."""

    name: str
    size: int
    counted: set[int] = field(default_factory=set)
    last: int | None = None
    closed: bool = False

    @property
    def bodies(self) -> list[bytes]:
        """What whoever completes it is given."""
        return [part(f"m{place}").body for place in range(self.size)]


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
    hold: float | None = None
    join: Join | None = None
    place: int = 0


def _tells(answer: bool | Completed, bodies: list[bytes]) -> bool:
    return isinstance(answer, Completed) and list(answer.bodies) == bodies


class BrokerMachine(RuleBasedStateMachine):
    """The stories. Subclasses say how a server is opened."""

    def __init__(self) -> None:
        super().__init__()
        self._stack = contextlib.ExitStack()
        self._bodies = itertools.count()
        self.messages: dict[bytes, Known] = {}
        #: incarnation → when it was heard of last, and its lease.
        self.leases: dict[str, tuple[float, float]] = {}
        self.stale: list[tuple[str, Delivery, Known]] = []
        #: Deliveries that were acked, for jobs that go on after that.
        self.acked: list[tuple[str, Delivery]] = []
        self.resting: list[Known] = []
        self.joins: list[Join] = []
        self.results: Results | None = None
        self.epoch = 0

    def open_server(self) -> tuple[KitClock, Callable[[], Broker]]:
        """An empty server: its clock, and how to open one more broker on it. :meth:`enter` what has to be closed."""
        raise NotImplementedError("say how a server is opened; see jumpstarter.testing.broker_model")

    def open_results(self) -> Results | None:
        """Results on the same server, after :meth:`open_server`; None when there are none, and then no joins are told of."""
        return None

    def enter(self, resource: AbstractContextManager[T]) -> T:
        """Enter the resource; it is left when the story ends."""
        return self._stack.enter_context(resource)

    @initialize()
    def begin(self) -> None:
        """Two workers' brokers on one server."""
        self.clock, open_broker = self.open_server()
        self.brokers = (open_broker(), open_broker())
        self.results = self.open_results()

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
        self.stale.append((known.claimant, known.delivery, known))
        known.state, known.claimant, known.delivery, known.hold = state, "", None, None

    def expire(self) -> None:
        """Return what a reaper has to return."""
        now = self.clock.monotonic()
        for incarnation, (heard, lease) in list(self.leases.items()):
            claims = self.in_state("claimed", claimant=incarnation)
            over = [known for known in claims if heard + (known.hold or lease) <= now]
            for known in over:
                self.free(known, "waiting")
                known.attempt += 1
            if heard + lease <= now and len(over) == len(claims):
                del self.leases[incarnation]

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
            self.leases[incarnation] = self.clock.monotonic(), LEASE

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
        self._settle(which, incarnation, actions, follow=follow)

    @precondition(lambda self: self.in_state("claimed"))
    @rule(which=st.integers(0, 1), data=st.data())
    def finish(self, which: int, data: st.DataObject) -> None:
        """One incarnation acks all that it holds. (Without this few joins would ever be complete.)"""
        incarnation = data.draw(st.sampled_from(sorted({known.claimant for known in self.in_state("claimed")})))
        self._settle(which, incarnation, ["ack"] * len(self.messages), follow=False)

    @precondition(lambda self: self.stale)
    @rule(which=st.integers(0, 1), data=st.data())
    def wake_up_late(self, which: int, data: st.DataObject) -> None:
        """One incarnation was stopped, and settles what it has lost meanwhile."""
        incarnation = data.draw(st.sampled_from(sorted({owner for owner, _, _ in self.stale})))
        self._settle(which, incarnation, [], follow=False)

    def _settle(self, which: int, incarnation: str, actions: Sequence[str], *, follow: bool) -> None:
        claims = self.in_state("claimed", claimant=incarnation)
        # First those whose part would make a difference.
        gone = [(delivery, known) for owner, delivery, known in self.stale if owner == incarnation]
        stale = sorted(gone, key=lambda one: one[1].join is not None and one[1].place not in one[1].join.counted)[-3:]
        batch = [self._late(delivery, known) for delivery, known in stale]
        expected: list[Callable[[bool | Completed], bool]] = [lambda answer: answer is False] * len(stale)
        for known, action in zip(claims, actions, strict=False):
            one, expect = self._settlement(known, action, follow=follow)
            batch.append(one)
            expected.append(expect)
        answers = self.brokers[which].settle(batch, incarnation=incarnation)
        assert len(answers) == len(batch)
        for answer, expect, one in zip(answers, expected, batch, strict=True):
            assert expect(answer), (answer, one)

    def _late(self, delivery: Delivery, known: Known) -> Settlement:
        """What somebody settles who does not know that the claim is gone."""
        writes = {}
        if self.results is not None and known.join is not None:
            writes = {"part": self.results.part_write(self._part(known)), "closes": self.results.close_write(known.join.name)}
        return settlement(delivery, publish=[envelope(b"never")], **writes)

    def _part(self, known: Known) -> Part:
        assert known.join is not None
        return part(f"m{known.place}", known.place, join=known.join.name, ttl=1e6)

    def _settlement(self, known: Known, action: str, *, follow: bool) -> tuple[Settlement, Callable[[bool | Completed], bool]]:
        """The settlement, and what the broker has to answer."""
        delivery = known.delivery
        assert delivery is not None
        if known.join is None or action != "ack":
            done = self._act(known, action)
            return settlement(delivery, done, publish=self._follow(follow)), lambda answer: answer is True
        assert self.results is not None
        join, write = known.join, self.results.part_write(self._part(known))
        join.counted.add(known.place)
        if join.closed or len(join.counted) < join.size:
            self._act(known, action)
            return settlement(delivery, part=write, publish=self._follow(follow)), lambda answer: answer is True
        if join.last is None:
            join.last = known.place
        if join.last == known.place:
            # Nothing else is done.
            return settlement(delivery, part=write, publish=[envelope(b"never")]), lambda answer: _tells(answer, join.bodies)
        # A copy of another member: a broker may leave the completion to the one who has it.
        return settlement(delivery, part=write), lambda answer: self._may_leave(known, answer)

    def _may_leave(self, known: Known, answer: bool | Completed) -> bool:
        assert known.join is not None
        if answer is True:
            self._act(known, "ack")
            return True
        return _tells(answer, known.join.bodies)

    def _follow(self, follow: bool) -> list[Envelope]:
        return [self._new("r", 3, 0)] if follow else []

    def _act(self, known: Known, action: str) -> Action:
        match action:
            case "ack":
                assert known.delivery is not None
                self.acked.append((known.claimant, known.delivery))
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
                self.resting.append(known)
                return Quarantine("the story says so")

    @precondition(lambda self: self.acked)
    @rule(which=st.integers(0, 1), data=st.data())
    def settle_what_was_acked(self, which: int, data: st.DataObject) -> None:
        """A job that was acked before it began has ended."""
        incarnation, delivery = data.draw(st.sampled_from(self.acked))
        batch = [settlement(delivery, ACKED, publish=[self._new("q", 0, 0)])]
        assert self.brokers[which].settle(batch, incarnation=incarnation) == [True]

    @precondition(lambda self: self.results is not None)
    @rule(
        which=st.integers(0, 1),
        queue=st.sampled_from(QUEUES),
        size=st.integers(1, 3),
        copied=st.lists(st.integers(0, 2), max_size=2),
        claimed_by=st.sampled_from([None, *INCARNATIONS]),
    )
    def publish_join(self, which: int, queue: str, size: int, copied: list[int], claimed_by: str | None) -> None:
        """The members of a join, some of them twice: a publisher whose connection broke has sent them again. Often somebody claims
        them at once."""
        assert self.results is not None
        join = Join(f"j{len(self.joins)}", size)
        self.joins.append(join)
        self.results.open_join(join.name, size, 1e6)
        envelopes = []
        for place in [*range(size), *(place for place in copied if place < size)]:
            envelopes.append(self._new(queue, 0, 0))
            known = self.messages[envelopes[-1].body]
            known.join, known.place = join, place
        self.brokers[which].publish(envelopes)
        if claimed_by is not None:
            self.claim(which, claimed_by, 100, QUEUES)

    @precondition(lambda self: self._completing())
    @rule(which=st.integers(0, 1), data=st.data())
    def close_join(self, which: int, data: st.DataObject) -> None:
        """Whoever completed a join does its one thing, unless somebody has done it meanwhile."""
        known = data.draw(st.sampled_from(self._completing()))
        assert self.results is not None
        assert known.join is not None
        assert known.delivery is not None
        closes = self.results.close_write(known.join.name)
        batch = [settlement(known.delivery, publish=[] if known.join.closed else [self._new("q", 3, 0)], closes=closes)]
        (answer,) = self.brokers[which].settle(batch, incarnation=known.claimant)
        if known.join.closed:
            assert _tells(answer, [])
        else:
            assert answer is True
            known.join.closed = True
            self._act(known, "ack")

    def _completing(self) -> list[Known]:
        """Claimed messages that made their join complete."""
        return [known for known in self.in_state("claimed") if known.join is not None and known.join.last == known.place]

    @precondition(lambda self: self.in_state("claimed"))
    @rule(which=st.integers(0, 1), data=st.data(), lease=st.sampled_from([5.0, 45.0, 300.0]), count=st.integers(1, 2))
    def hold(self, which: int, data: st.DataObject, lease: float, count: int) -> None:
        """A worker sees that a job needs another lease than the others."""
        incarnation = data.draw(st.sampled_from(sorted({known.claimant for known in self.in_state("claimed")})))
        chosen = self.in_state("claimed", claimant=incarnation)[:count]
        tags = [known.delivery.tag for known in chosen if known.delivery is not None]
        # In this order the story says the same of brokers that take a hold for a sign of life and of those that do not.
        self.renew(which, [incarnation])
        self.brokers[which].hold([*tags, *(delivery.tag for _, delivery, _ in self.stale[-2:])], lease, incarnation=incarnation)
        for known in chosen:
            known.hold = lease

    @precondition(lambda self: self.resting)
    @rule(which=st.integers(0, 1), data=st.data(), requeue=st.booleans())
    def empty_quarantine(self, which: int, data: st.DataObject, requeue: bool) -> None:
        """A person requeues or drops some of what rests."""
        broker = self.brokers[which]
        places = data.draw(st.lists(st.integers(0, len(self.resting) - 1), unique=True, min_size=1, max_size=3))
        shown = broker.quarantined()
        ids = [shown[place].id for place in places]
        act = broker.requeue_quarantined if requeue else broker.drop_quarantined
        assert act(ids) == len(ids)
        assert act(ids) == 0
        for known in [self.resting[place] for place in places]:
            self.resting.remove(known)
            known.state, known.attempt = ("waiting", 1) if requeue else ("done", known.attempt)

    @rule(which=st.integers(0, 1), incarnations=st.lists(st.sampled_from(INCARNATIONS), unique=True))
    def renew(self, which: int, incarnations: list[str]) -> None:
        """A parent's heartbeat."""
        self.brokers[which].renew(incarnations, LEASE)
        for incarnation in set(incarnations) & set(self.leases):
            self.leases[incarnation] = self.clock.monotonic(), LEASE

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
        held = {known.delivery.tag for known in self.in_state("claimed", claimant=incarnation) if known.delivery is not None}
        assert {delivery.tag for delivery in self.brokers[0].held(incarnation)} == held

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

    @invariant()
    def quarantine_agrees(self) -> None:
        """What rests is what the model says, the oldest first."""
        if self.messages:
            shown = [(one.envelope.body, one.queue, one.attempt) for one in self.brokers[0].quarantined() if one.envelope]
            assert shown == [(known.body, known.queue, known.attempt) for known in self.resting]
