"""A session: all that one incarnation holds on an AMQP server. Comes from: the broker. Goes to: a link.

One connection with one channel, replaced as a whole when anything about it breaks: what it held then belongs to the server again,
and every tag of it settles to False. The connection is the lease: the server gives back what a silent one held.

**Transactions.** The channel is in AMQP's tx mode: what a settlement publishes and its acks become effective together, or not at
all when the connection is gone. That is the fence; on an own connection, a worker that wakes up late would publish the next step
of a chain whose message somebody else has by now. See :mod:`~jumpstarter.brokers.kombu.transactions`.

**Fetching.** A claim asks for as many messages as it may take (``basic.get``, many in one write), so that nothing is held that
nobody wants. Idle queues are *watched*: a consumer with a prefetch of 1 brings the first message of each. Where claims of 16 and
more keep coming back full, the queue is *streamed*: a consumer with a prefetch as large as the claims, which costs the server half
as much on classic queues and a tenth on quorum queues (a get is a round of Raft there). A stream comes in *bursts*: a consumer that
has brought as many messages as it may is cancelled, and the next claim that has room starts another, because it would bring one
message for each ack, on its own, where jobs are acked one by one (half as much again of the server's processor time, and claims of
three messages). What was pushed and not claimed within 0.3 s goes back, and the consumers are cancelled until the next claim.

**Counting.** The server only says that a message may have been delivered before. So a message that comes redelivered is not handed
out: a copy with a grown count takes its place (at the end of the queue), and the original is acked. What goes back unstarted is
sent as a copy as well, with the same count, because the server would mark it as redelivered. A message whose process may have died
of it is *suspect*: no other suspect is handed out for 0.3 s or until it is settled, so that those beside it are not counted again
and again when it kills the process.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Collection, Container, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from jumpstarter.brokers.kombu import message as messages
from jumpstarter.brokers.kombu import wire
from jumpstarter.brokers.kombu.claim import Claim
from jumpstarter.brokers.kombu.link import WORK, Declarer, Link
from jumpstarter.brokers.kombu.publisher import Parcel
from jumpstarter.brokers.kombu.refresh import Refresh
from jumpstarter.brokers.kombu.topology import LONGEST_DELAY, QUARANTINE
from jumpstarter.brokers.kombu.transactions import Transactions
from jumpstarter.errors import BrokerUnavailable
from jumpstarter.jobs import ACK, Ack, Acked, Action, Delivery, Envelope, Park, Quarantine, Requeue, Return, Settlement

if TYPE_CHECKING:
    from jumpstarter.brokers.kombu.broker import AmqpBroker

log = logging.getLogger(__name__)

#: Seconds after which what nobody claims goes back, and that a suspect has to itself.
PATIENCE: Final = 0.3
#: Messages to ask a queue for before anything is known of it; an answer says how many are left.
FIRST: Final = 4
#: At most so many gets in a round trip.
MOST: Final = 512
#: Claims of at least so many that come back full, twice within a second, begin a stream.
STREAM_FROM: Final = 16
#: Claims of less end it.
STREAM_UNTIL: Final = 4
#: Seconds for which a burst is awaited, as long as it goes on, and between two looks at it: reading each packet on its own would
#: cost a system call and a change of threads for every other message.
BURST: Final = 0.02
GATHER: Final = 0.002
#: The server's limit of a prefetch count is 65,535.
WIDEST: Final = 5000
#: Seconds that a silent connection gets once its server answers others. One that was stopped and goes on greets those who are new
#: before it has read what the old connections sent.
SECOND_CHANCE: Final = 2.0
#: Seconds without a word from the server after which an ack is waited for: the connection may be gone.
FRESH: Final = 1.0
#: More empty queues than this are looked at before they are asked.
FEW: Final = 4


class Session:
    """What one incarnation holds. Thread-safe. Has a thread of its own, which keeps the connection alive while jobs run.

    :param lease: seconds; the connection's heartbeat, unless the broker was given one.
    :raises BrokerUnavailable: the server cannot be reached.
    """

    def __init__(self, broker: AmqpBroker, incarnation: str, lease: float) -> None:
        self._broker = broker
        self._topology = broker.topology
        self.incarnation = incarnation
        self.name = f"{incarnation}.{uuid.uuid4().hex[:8]}"
        self._serial = itertools.count(1)
        # Of the unacked messages, in the order of their delivery; and of those that were handed out.
        self.unacked: dict[int, Claim] = {}
        self.held: dict[str, Claim] = {}
        self._arrived: deque[Claim] = deque()
        self._redelivered: list[Claim] = []
        self._asked: deque[str] = deque()
        self._consumers: dict[str, str] = {}
        self._watched: dict[str, str] = {}
        self._streamed: set[str] = set()
        # By queue: how many more messages its consumer is meant to bring.
        self._credit: dict[str, int] = {}
        # What its bursts were meant to bring lately.
        self._width = STREAM_FROM
        self._claimed = 0.0
        self._starting: set[str] = set()
        self._ending: set[str] = set()
        self._cancelling: set[str] = set()
        self._dry: set[str] = set()
        self._left: dict[str, int] = {}
        self._full: list[float] = []
        self._suspect: Claim | None = None
        self._suspect_until = 0.0
        self._turn = 0
        self._doubtful: dict[str, int] = {}
        self._closing = False
        self._claiming = threading.Lock()
        self._called = time.monotonic()
        self._others_answered: float | None = None
        heartbeat = broker.heartbeat if broker.heartbeat is not None else max(1.0, lease)
        self.link = Link(
            broker.address,
            timeout=broker.timeout,
            heartbeat=heartbeat,
            on_message=self._on_message,
            on_method=self._on_method,
            on_failure=self._on_failure,
        )
        self._tx = Transactions(self.link, broker)
        self._refresh = Refresh(self, self._tx, broker)
        self.link.call(WORK, [wire.method(WORK, wire.TX_SELECT)], wire.TX_SELECT_OK)

    # What arrives; under the link's lock

    def _on_message(self, message: wire.Message) -> None:
        if message.kind == wire.BASIC_RETURN:
            self._tx.take_back(message)
            return
        if message.kind == wire.BASIC_GET_OK:
            queue = self._asked.popleft()
            if queue == self._refresh.queue:
                self._refresh.take(message)
                return
            self._left[queue] = message.left
        else:
            queue = self._consumers[message.consumer]
            self._dry.discard(queue)
            self._credit[queue] -= 1
        claim = Claim(message, queue, message.tag, time.monotonic())
        self.unacked[message.tag] = claim
        if message.redelivered:
            self._redelivered.append(claim)
        else:
            self._arrived.append(claim)

    def _on_method(self, number: int, arguments: bytes) -> None:
        match number:
            case wire.BASIC_GET_EMPTY:
                queue = self._asked.popleft()
                self._dry.add(queue)
                self._left[queue] = 0
            case wire.TX_COMMIT_OK:
                self._tx.committed += 1
            case wire.BASIC_CONSUME_OK:
                self._starting.discard(wire.read_consumer(arguments))
            case wire.BASIC_CANCEL_OK:
                consumer = wire.read_consumer(arguments)
                self._cancelling.discard(consumer)
                self._consumers.pop(consumer, None)
            case wire.BASIC_CANCEL:
                queue = self._consumers.get(wire.read_consumer(arguments), "?")
                why = f"the server has cancelled the consumer of queue {queue!r} (was the queue deleted?)"
                self.link.fail(BrokerUnavailable(self._broker.url, why))

    def _on_failure(self) -> None:
        self._tx.fail()
        held = len(self.held)
        self.held.clear()
        self.unacked.clear()
        self._arrived.clear()
        self._redelivered.clear()
        if held and not self._closing:
            log.warning("%d claimed message(s) went back to their queues: %s", held, self.link.failure)

    # Claiming

    @property
    def is_broken(self) -> bool:
        """It is of no use any more: everything that it held belongs to the server."""
        return self.link.failure is not None

    def claim(self, queues: Sequence[str], limit: int) -> list[Delivery]:
        """See :meth:`jumpstarter.abc.broker.Broker.claim`."""
        deadline = time.monotonic() + self._broker.timeout
        with self._claiming:
            try:
                for queue in queues:
                    self._topology.ensure_consumed(self.link, queue)
                return self._claim(queues, limit, deadline)
            finally:
                self._called = time.monotonic()

    def _claim(self, queues: Sequence[str], limit: int, deadline: float) -> list[Delivery]:
        self.link.look()
        if self._is_suspect_young():
            return []
        self._recount(deadline)
        taken: list[Claim] = []
        try:
            self._collect(queues, limit, taken, deadline)
            deliveries = self._hand_out(taken, deadline)
        except BrokerUnavailable:
            # For the next claim, or back to their queues when there is none.
            with self.link.cond:
                self._arrived.extendleft(claim for claim in reversed(taken) if claim.number in self.unacked)
            raise
        if deliveries:
            self._claimed = time.monotonic()
        if len(deliveries) == limit >= STREAM_FROM:
            self._consider_streams(queues, limit, deadline)
        return deliveries

    def _collect(self, queues: Sequence[str], limit: int, taken: list[Claim], deadline: float) -> None:
        wanted = frozenset(queues)
        streamed = self._streamed & wanted
        if not streamed:
            taken += self._take(wanted, limit)
            self._fetch(queues, limit, taken, deadline)
            return
        # Streams would take all the room: others are asked for a half of it first.
        others = [queue for queue in queues if queue not in streamed]
        if others:
            self._fetch(others, max(1, limit // 2), taken, deadline)
        taken += self._take(wanted, limit - len(taken))
        if limit < STREAM_UNTIL:
            self._quieten(deadline)
            return
        if len(taken) <= limit // 2:
            self._burst(streamed, limit - len(taken), deadline)
            taken += self._take(wanted, limit - len(taken))
        self._cancel([queue for queue in streamed if queue in self._watched and self._is_spent(queue)], deadline)

    def _fetch(self, queues: Sequence[str], limit: int, taken: list[Claim], deadline: float) -> None:
        """Ask for what is missing, until there is no more."""
        self._turn += 1
        first = self._turn % len(queues)
        active = [queue for queue in (*queues[first:], *queues[:first]) if not (queue in self._dry and queue in self._watched)]
        wanted = frozenset(queues)
        while active and len(taken) < limit:
            missing = limit - len(taken)
            if len(active) > max(missing, FEW):
                counts = Declarer(self.link).counts(active)
                active = [queue for queue, count in zip(active, counts, strict=True) if count]
                if not active:
                    break
            self._dry.difference_update(active)
            self.ask(self._shares(active, missing), deadline)
            if self._recount(deadline):
                self._dry.clear()
            taken += self._take(wanted, missing)
            active = [queue for queue in active if queue not in self._dry]

    def _is_spent(self, queue: str) -> bool:
        return self._credit.get(queue, 0) <= 0

    def _burst(self, queues: Iterable[str], number: int, deadline: float) -> None:
        """Let so many messages of the streamed queues come. Those whose consumers have brought what they were meant to get new
        ones."""
        spent = [queue for queue in queues if self._is_spent(queue)]
        if spent:
            self._width = min(WIDEST, -(-number // len(spent)))
            self._watch(spent, deadline, prefetch=self._width)
        elif time.monotonic() - self._claimed > GATHER:
            return  # little comes, and it need not wait
        before, ends = -1, time.monotonic() + BURST
        while before < len(self._arrived) < number and time.monotonic() < ends:
            before = len(self._arrived)
            time.sleep(GATHER)
            self.link.look()

    def _shares(self, queues: Sequence[str], missing: int) -> list[tuple[str, int]]:
        """How many messages to ask which queue for."""
        share, rest = divmod(min(missing, MOST), len(queues))
        shares = [(queue, share + (number < rest)) for number, queue in enumerate(queues)]
        return [(queue, min(most, max(FIRST, self._left.get(queue, 0)))) for queue, most in shares if most]

    def ask(self, shares: Iterable[tuple[str, int]], deadline: float) -> None:
        """Get so many messages of each queue, and wait for the answers."""
        frames = []
        with self._tx.turn(deadline):
            for queue, number in shares:
                frames.append(wire.get(WORK, queue) * number)
                self._asked.extend([queue] * number)
            self.link.send(*frames)
        self._tx.wait(lambda: not self._asked, deadline)

    def _take(self, queues: Collection[str], limit: int) -> list[Claim]:
        """What has arrived from these queues, in its order."""
        with self.link.cond:
            taken: list[Claim] = []
            kept: deque[Claim] = deque()
            while self._arrived and len(taken) < limit:
                claim = self._arrived.popleft()
                (taken if claim.queue in queues else kept).append(claim)
            self._arrived.extendleft(reversed(kept))
            return taken

    def _is_suspect_young(self) -> bool:
        suspect = self._suspect
        if suspect is None:
            return False
        if suspect.tag in self.held and time.monotonic() < self._suspect_until:
            return True
        self._suspect = None
        return False

    def _hand_out(self, claims: Sequence[Claim], deadline: float) -> list[Delivery]:
        epoch = self._broker.next_epoch()
        soon = time.time() + 1
        chosen: list[tuple[Claim, Delivery]] = []
        others: list[Claim] = []
        later: list[tuple[Claim, float]] = []
        suspect: Claim | None = None
        for claim in claims:
            tag = f"{self.name}.{next(self._serial)}"
            delivery, is_suspect = messages.delivery_of(claim.message, claim.queue, tag, epoch)
            claim.count = delivery.attempt - 1
            due = delivery.envelope.due if delivery.envelope is not None else None
            if due is not None and due > soon:
                later.append((claim, due))
            elif is_suspect and suspect is not None:
                others.append(claim)
            else:
                suspect = claim if is_suspect else suspect
                chosen.append((claim, delivery))
        if suspect is not None or later:
            self._put_aside(others, later, deadline)
        with self.link.cond:
            if self.link.failure is not None:
                raise self.link.failure
            for claim, delivery in chosen:
                claim.tag, claim.epoch = delivery.tag, epoch
                self.held[delivery.tag] = claim
            if suspect is not None:
                self._suspect, self._suspect_until = suspect, time.monotonic() + PATIENCE
        return [delivery for _, delivery in chosen]

    def _put_aside(self, others: Sequence[Claim], later: Sequence[tuple[Claim, float]], deadline: float) -> None:
        """Beside a suspect nothing is kept that was not handed out; and what is not due yet goes on waiting."""
        claims = [*others, *(claim for claim, _ in later)]
        copies = [*map(self._copy, others), *(self._copy_later(claim, due) for claim, due in later)]
        if claims:
            self._transact(copies, [claim.number for claim in claims], deadline)
        self._quieten(deadline)

    def _take_but(self, queues: Container[str]) -> list[Claim]:
        """What has arrived, but for these queues."""
        with self.link.cond:
            taken = [claim for claim in self._arrived if claim.queue not in queues]
            left = [claim for claim in self._arrived if claim.queue in queues]
            self._arrived.clear()
            self._arrived.extend(left)
            return taken

    # Redelivered messages, and what goes back

    def _recount(self, deadline: float) -> int:
        """Send copies with grown counts in the place of messages that came redelivered; how many."""
        with self.link.cond:
            claims, self._redelivered = self._redelivered, []
        if claims:
            log.info("%d message(s) were delivered before without an outcome", len(claims))
            copies = [self._copy(claim, grown=1, is_suspect=True) for claim in claims]
            self._transact(copies, [claim.number for claim in claims], deadline)
        return len(claims)

    def _give_back(self, claims: Sequence[Claim], deadline: float) -> None:
        """Send copies in the place of messages that were not started."""
        if claims:
            self._transact([self._copy(claim) for claim in claims], [claim.number for claim in claims], deadline)

    def _copy(self, claim: Claim, *, grown: int = 0, is_suspect: bool = False) -> Parcel:
        """A publish of the message to its own queue; ``grown``: deliveries to add to its count."""
        changes: dict[str, int | bool | None] = {}
        if grown:
            count = claim.count if claim.tag else messages.count_of(claim.message)
            changes = {messages.DELIVERIES: count + grown, messages.SUSPECT: is_suspect or None}
        properties = messages.copied(claim.message, changes)
        return Parcel(claim.queue, "", claim.queue, properties, claim.message.body)

    def _copy_later(self, claim: Claim, due: float) -> Parcel:
        """A publish of the message that reaches its queue when it is due."""
        seconds = due - time.time()
        exchange, routing_key = self._topology.delay(self.link, claim.queue, seconds)
        properties = messages.copied(claim.message, {messages.DUE: float(due) if seconds > LONGEST_DELAY else None})
        return Parcel(claim.queue, exchange, routing_key, properties, claim.message.body)

    def _transact(self, publishes: Sequence[Parcel], acked: Sequence[int], deadline: float) -> None:
        """Parcel and ack, both or neither, and wait until it is done."""
        with self._tx.turn(deadline):
            ticket = self._tx.commit(publishes, [self.forget(number) for number in acked])
        self._tx.wait(lambda: self._tx.committed >= ticket, deadline)
        self._tx.see_to_returned(ticket)

    def forget(self, number: int) -> bytes:
        """The ack of an unacked message."""
        self.unacked.pop(number, None)
        return wire.ack(WORK, number)

    # Waiting

    def wait(self, queues: Sequence[str], timeout: float, is_woken: Callable[[], bool]) -> bool:
        """Return when something has arrived (True), somebody woke us, or the time is over."""
        deadline = time.monotonic() + timeout
        with self._claiming:
            try:
                if self._is_suspect_young():
                    until = min(deadline, self._suspect_until)
                    self.link.pump(lambda: is_woken() or not self._is_suspect_young(), until)
                    return not is_woken()
                self._watch_all(queues, time.monotonic() + self._broker.timeout)
                self.link.pump(lambda: is_woken() or self.has_arrived(queues), deadline)
                return self.has_arrived(queues) and not is_woken()
            finally:
                self._called = time.monotonic()

    def rest(self) -> None:
        """Nobody will claim for a while: let the server push to others, and give back what it has pushed here."""
        with self._claiming:
            if self._watched or self._arrived:
                self._quieten(time.monotonic() + self._broker.timeout)

    def has_arrived(self, queues: Sequence[str]) -> bool:
        """Whether a claim from these queues would find something."""
        return bool(self._redelivered) or any(claim.queue in queues for claim in self._arrived)

    def _watch_all(self, queues: Sequence[str], deadline: float) -> None:
        idle = [queue for queue in queues if queue not in self._watched]
        self._watch([queue for queue in idle if queue not in self._streamed], deadline)
        self._watch([queue for queue in idle if queue in self._streamed], deadline, prefetch=self._width)

    def _watch(self, queues: Sequence[str], deadline: float, prefetch: int = 1) -> None:
        """Start consumers, in the place of those that these queues have."""
        if not queues:
            return
        frames = [wire.qos(WORK, prefetch)]
        for queue in queues:
            self._topology.ensure_consumed(self.link, queue)
        with self._tx.turn(deadline):
            replaced = [self._watched.pop(queue) for queue in queues if queue in self._watched]
            for queue in queues:
                consumer = f"{self.name}.{next(self._serial)}"
                self._consumers[consumer] = queue
                self._watched[queue] = consumer
                self._credit[queue] = prefetch
                self._starting.add(consumer)
                frames.append(wire.consume(WORK, queue, consumer))
            self.link.send(*frames)
        self._broker.stir()
        # Afterwards: a queue that is deleted with its last consumer has one all the time.
        self._end(replaced, deadline)

    def _consider_streams(self, queues: Sequence[str], limit: int, deadline: float) -> None:
        """Where claims keep coming back full, let the server push."""
        now = time.monotonic()
        self._full = [*(at for at in self._full if now - at < 1.0), now]
        if len(self._full) < 2 or self._suspect is not None:
            return
        hot = [queue for queue in queues if queue not in self._streamed and self._left.get(queue, 0) > limit]
        # A stream that may not end would hold back what others could do.
        hot = [queue for queue in hot if not self._topology.ends_with_its_consumers(queue)]
        if hot:
            self._width = min(WIDEST, -(-limit // len(hot)))
            self._watch(hot, deadline, prefetch=self._width)
            self._streamed.update(hot)

    def _cancel(self, queues: Sequence[str], deadline: float) -> None:
        """End the consumers of these queues. What they brought until then counts as arrived."""
        self._dry.difference_update(queues)
        self._end([self._watched.pop(queue) for queue in queues], deadline)

    def _end(self, consumers: Sequence[str], deadline: float) -> None:
        # Kept until it is sent: where it does not come to that in time, the next call goes on with it.
        self._ending.update(consumers)
        if not self._ending:
            return
        # RabbitMQ (3.10) fails, and closes the connection with a 541, where a cancel overtakes what it has to say of the start.
        self._tx.wait(lambda: self._starting.isdisjoint(self._ending), deadline)
        with self._tx.turn(deadline):
            ending, self._ending = self._ending, set()
            self._cancelling |= ending
            self.link.send(*(wire.cancel(WORK, consumer) for consumer in ending))

    def _quieten(self, deadline: float, *, for_good: bool = False) -> None:
        """End the consumers, and give back what nobody claimed. A queue that would be deleted with its last consumer, and what
        waits in it as well, keeps its own until the session ends, and that keeps the message it has brought."""
        kept = set() if for_good else {queue for queue in self._watched if self._topology.ends_with_its_consumers(queue)}
        self._cancel([queue for queue in self._watched if queue not in kept], deadline)
        self._full.clear()
        self._streamed.clear()
        self._tx.wait(lambda: not self._cancelling, deadline)
        self._recount(deadline)
        self._give_back(self._take_but(kept), deadline)

    # Settling

    def ack(self, delivery: Delivery) -> bool:
        """Ack this one message; False where it is not held any more. On the way of every job that is acked before it begins: the
        server takes it with the next look at the connection, and nobody waits for it (see :meth:`_settle`)."""
        link, tag = self.link, delivery.tag
        with link.lock:
            claim = self.held.get(tag)
            if claim is None:
                return False
            if claim.number and self._tx.committed >= self._tx.gate and time.monotonic() - link.heard <= FRESH:
                del self.held[tag]
                self.unacked.pop(claim.number, None)
                link.send(wire.ack_and_commit(WORK, claim.number))
                self._tx.commits += 1
                if link.failure is not None:
                    raise link.failure
                return True
        return self.settle([Settlement(delivery, ACK)])[0]

    def settle(self, settlements: Sequence[Settlement]) -> list[bool]:
        """See :meth:`jumpstarter.abc.broker.Broker.settle`."""
        deadline = time.monotonic() + self._broker.timeout
        done = self._recall(settlements, deadline)
        todo: dict[str, tuple[Claim, Settlement]] = {}
        verdicts = []
        for settlement in settlements:
            tag = settlement.delivery.tag
            claim = self.held.get(tag)
            is_new = claim is not None and tag not in todo
            if claim is not None and is_new:
                todo[tag] = (claim, settlement)
            verdicts.append(is_new or tag in done)
        if any(not claim.number for claim, _ in todo.values()):
            self._tx.wait(lambda: all(claim.number or claim.tag not in self.held for claim, _ in todo.values()), deadline)
            return self.settle(settlements)
        if todo and not self._settle(todo, deadline):
            return self.settle(settlements)
        return verdicts

    def _recall(self, settlements: Sequence[Settlement], deadline: float) -> set[str]:
        """The tags among these that an earlier call settled without hearing of it."""
        doubtful = {one.delivery.tag: self._doubtful[one.delivery.tag] for one in settlements if one.delivery.tag in self._doubtful}
        if doubtful:
            last = max(doubtful.values())
            self._tx.wait(lambda: self._tx.committed >= last, deadline)
            for tag, ticket in doubtful.items():
                self._doubtful.pop(tag, None)
                self._tx.see_to_returned(ticket)
        return set(doubtful)

    def _settle(self, todo: Mapping[str, tuple[Claim, Settlement]], deadline: float) -> bool:
        """False when one of these claims changed meanwhile, and nothing was done."""
        # All is encoded before anything is sent: what cannot be encoded fails here, and nothing is done.
        publishes: list[Parcel] = []
        rejected: list[Claim] = []
        acked: list[Claim] = []
        for claim, settlement in todo.values():
            publishes += [self._publish(envelope) for envelope in settlement.publish]
            copies = self._act(settlement.action, claim)
            if copies is None:
                rejected.append(claim)
            else:
                publishes += copies
                acked.append(claim)
        if publishes and self.link.blocked:
            self._tx.wait(lambda: not self.link.blocked, deadline)
        with self._tx.turn(deadline):
            if self.link.failure is not None:
                raise self.link.failure
            if not all(claim.number and tag in self.held for tag, (claim, _) in todo.items()):
                return False  # it is being refreshed
            acks = self._acks([claim.number for claim in acked])
            for claim in rejected:
                self.unacked.pop(claim.number, None)
                acks.append(wire.reject(WORK, claim.number))
            ticket = self._tx.commit(publishes, acks)
            if self.link.failure is not None:
                raise self.link.failure
            for tag in todo:
                del self.held[tag]
        # An ack alone is not waited for, as long as the server was just heard: where it gets lost the connection is lost with it,
        # and the message comes again.
        if publishes or rejected or time.monotonic() - self.link.heard > FRESH:
            self._await_settled(ticket, todo, deadline)
        return True

    def _await_settled(self, ticket: int, tags: Iterable[str], deadline: float) -> None:
        try:
            self._tx.wait(lambda: self._tx.committed >= ticket, deadline)
        except BrokerUnavailable:
            if not self.is_broken:
                self._doubtful.update(dict.fromkeys(tags, ticket))
            raise
        self._tx.see_to_returned(ticket)

    def _publish(self, envelope: Envelope) -> Parcel:
        properties, (exchange, routing_key) = self._broker.prepare(self.link, envelope)
        return Parcel(envelope.queue, exchange, routing_key, properties, envelope.body, envelope.mandatory)

    def _act(self, action: Action, claim: Claim) -> list[Parcel] | None:
        """What is published in the place of the message; None to reject it."""
        match action:
            case Return():
                return [self._copy(claim)]
            case Requeue():
                return [self._copy(claim, grown=1)]
            case Park(due):
                return [self._copy_later(claim, due) if due > time.time() else self._copy(claim)]
            case Quarantine(reason, evidence):
                if self._topology.has_dead_letters(claim.queue):
                    return None
                self._topology.ensure_quarantine(self.link)
                properties = messages.resting(claim.message, claim.queue, reason, evidence, claim.count + 1)
                return [Parcel(QUARANTINE, "", QUARANTINE, properties, claim.message.body)]
            case Ack() | Acked():
                return []

    def _acks(self, numbers: list[int]) -> list[bytes]:
        """Acks of these: as many as possible in one. Under the link's lock."""
        unacked, wanted = self.unacked, set(numbers)
        last = 0
        for number in unacked:
            if number not in wanted:
                break
            last = number
        together = [number for number in numbers if number <= last]
        for number in numbers:
            unacked.pop(number, None)
        frames = [wire.ack(WORK, last, multiple=len(together) > 1)] if last else []
        return frames + [wire.ack(WORK, number) for number in numbers if number > last]

    # Ends

    def release(self, keep: Iterable[str], *, counted: bool) -> int:
        """Return what is held, but for the tags to keep; how many."""
        kept = set(keep)
        deadline = time.monotonic() + self._broker.timeout
        with self._claiming, self._refresh.lock:
            self._quieten(deadline, for_good=not kept)
            with self.link.cond:
                gone = [claim for tag, claim in self.held.items() if tag not in kept]
                for claim in gone:
                    del self.held[claim.tag]
            copies = [self._copy(claim, grown=int(counted)) for claim in gone]
            self._transact(copies, [claim.number for claim in gone], deadline)
            return len(gone)

    def close(self) -> None:
        """Give back what was pushed and not claimed, if that goes quickly, and hang up. What is held goes back by itself."""
        self._closing = True
        if not self.is_broken:
            with contextlib.suppress(BrokerUnavailable):
                self._quieten(time.monotonic() + min(1.0, self._broker.timeout), for_good=True)
        self.link.close()

    # Upkeep, by the broker's keeper

    @property
    def is_watching(self) -> bool:
        """Whether the server may push something."""
        return bool(self._watched or self._ending or self._arrived or self._redelivered)

    @property
    def patience(self) -> float:
        """Seconds until the next :meth:`keep`, at most."""
        soon = SECOND_CHANCE / 2 if self._others_answered is not None else 0.0
        return min(each for each in (soon, self.link.heartbeat / 4, self._broker.consumer_timeout / 12, 60.0) if each)

    def keep(self) -> None:
        """Once in a while: a sign of life, claims are refreshed, and back goes what nobody claims.

        :raises BrokerUnavailable: the connection is gone.
        """
        self.link.look()
        self.link.beat()
        self._mind_silence()
        self._refresh.keep(time.monotonic() + self._broker.timeout)
        if self.is_watching and time.monotonic() - self._called > PATIENCE and self._claiming.acquire(blocking=False):
            try:
                self._quieten(time.monotonic() + self._broker.timeout)
            finally:
                self._claiming.release()

    def _mind_silence(self) -> None:
        """A connection may be dead and nobody tells: a firewall has forgotten it, or its server's machine is gone. Where the server
        answers others, what it owes us will never come. A server that answers nobody (it is stopped, or the network is) may go on
        where it was, and our claims with it."""
        patience = self._broker.timeout
        if self.link.silence() < patience or not self._broker.answers(min(patience, self.link.heartbeat / 3 or patience)):
            self._others_answered = None
            return
        now = time.monotonic()
        if self._others_answered is None:
            self._others_answered = now
        elif now - self._others_answered >= SECOND_CHANCE:
            self.link.look()
            if (silence := self.link.silence()) >= patience:
                why = f"not a word for {silence:.1f} s on this connection, while it answers on others"
                self.link.fail(BrokerUnavailable(self._broker.url, why))

    def deliveries(self) -> list[Delivery]:
        """What was handed out and is not settled."""
        with self.link.cond:
            claims = list(self.held.values())
        return [self._delivery(claim) for claim in claims]

    def _delivery(self, claim: Claim) -> Delivery:
        return messages.delivery_of(claim.message, claim.queue, claim.tag, claim.epoch)[0]
