"""Queues in the memory of one process: for tests, and for a worker that is embedded in the program that publishes.

``memory://name`` is the same broker for everybody in the process. Nothing outlives the process, and forked children are refused.
Messages are packed as everywhere else, so what is not JSON fails here as it would elsewhere. Neighbours:
:mod:`jumpstarter.embedded.space` holds the data, :class:`~jumpstarter.results.memory.MemoryResults` shares it.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import replace

from jumpstarter.abc.broker import Broker, Reaped
from jumpstarter.clock import SYSTEM_CLOCK, Clock
from jumpstarter.embedded.packing import is_message, pack, pack_evidence, resting_number, unpack_delivery, unpack_resting
from jumpstarter.embedded.space import Lease, Message, Resting, Space, carry_out
from jumpstarter.jobs import (
    Ack,
    Acked,
    Action,
    Completed,
    Delivery,
    Envelope,
    Park,
    Quarantine,
    Quarantined,
    Requeue,
    Return,
    Settlement,
)


class MemoryBroker(Broker):
    """A broker in the memory of this process.

    :param url: ``memory://`` or ``memory://name``.
    :param clock: wall time for messages with a due time, monotonic time for leases.
    """

    exclusive = True

    def __init__(self, url: str = "memory://", *, clock: Clock = SYSTEM_CLOCK) -> None:
        self._space = Space.of(url)
        self._clock = clock
        self._turn = 0
        self._waiters = 0
        self._wakes = 0
        self._wake_next = False
        self._notices_read = 0
        self.url = f"memory://{self._space.name}"
        self.server = f"memory:{self._space.name}"

    def publish(self, envelopes: Sequence[Envelope], *, timeout: float | None = None) -> None:  # noqa: ARG002  nothing here takes time
        self._space.check_process()
        messages = [_packed(envelope) for envelope in envelopes]
        with self._space.changed:
            self._send(messages)

    def _send(self, messages: Iterable[tuple[Message, float | None]]) -> None:
        now = self._clock.now()
        for message, due in messages:
            if due is not None and due > now:
                self._space.park(message, due)
            else:
                self._space.make_last(message)

    def claim(self, queues: Sequence[str], limit: int, *, incarnation: str, lease: float) -> list[Delivery]:
        space = self._space
        space.check_process()
        with space.changed:
            messages = self._take(queues, limit)
            epoch = next(space.epochs) if messages else 0
            for message in messages:
                message.epoch, message.claimant = epoch, incarnation
                space.claims[message.tag] = message
                space.claimed_by[incarnation][message.tag] = None
            if messages or incarnation in space.leases:
                space.leases[incarnation] = Lease(self._clock.monotonic(), lease)
            return [_delivery(message) for message in messages]

    def notify(self, notice: str, *, ttl: float) -> bool:
        self._space.check_process()
        with self._space.changed:
            self._space.notices.append((self._clock.monotonic() + ttl, notice))
        return True

    def notices(self, *, look: bool = False) -> list[str]:  # noqa: ARG002 - to look costs nothing here
        space = self._space
        if self._notices_read == len(space.notices):
            return []
        with space.changed:
            new, self._notices_read = space.notices[self._notices_read :], len(space.notices)
        now = self._clock.monotonic()
        return [notice for expires, notice in new if expires > now]

    def _take(self, queues: Sequence[str], limit: int) -> list[Message]:
        taken: list[Message] = []
        for queue in self._in_turn(queues):
            heap = self._space.waiting.get(queue)
            while heap and len(taken) < limit:
                taken.append(heapq.heappop(heap)[2])
        return taken

    def _in_turn(self, queues: Sequence[str]) -> list[str]:
        self._turn += 1
        first = self._turn % (len(queues) or 1)
        return [*queues[first:], *queues[:first]]

    def wait(self, queues: Sequence[str], timeout: float, *, incarnation: str) -> bool:  # noqa: ARG002  nothing is taken aside here
        space = self._space
        space.check_process()
        with space.changed:
            wakes, self._wakes = self._wakes, self._wakes + self._wake_next
            self._wake_next = False
            self._waiters += 1
            try:
                ready = space.wait(lambda: self._any_ready(queues), timeout, lambda: self._wakes != wakes)
            finally:
                self._waiters -= 1
            return ready is not None

    def _any_ready(self, queues: Sequence[str]) -> bool | None:
        return any(self._space.waiting.get(queue) for queue in queues) or None

    def wake(self) -> None:
        self._space.check_process()
        with self._space.changed:
            if self._waiters:
                self._wakes += 1
            else:
                self._wake_next = True
            self._space.changed.notify_all()

    def settle(self, settlements: Sequence[Settlement], *, incarnation: str) -> list[bool | Completed]:
        space = self._space
        space.check_process()
        # Packed before anything is touched: what cannot be sent fails here, and nothing is done.
        packed = [[_packed(envelope) for envelope in settlement.publish] for settlement in settlements]
        with space.changed:
            return [
                self._settle(settlement, messages, incarnation) for settlement, messages in zip(settlements, packed, strict=True)
            ]

    def _settle(
        self, settlement: Settlement, messages: Sequence[tuple[Message, float | None]], incarnation: str
    ) -> bool | Completed:
        space, action, part, closes = self._space, settlement.action, settlement.part, settlement.closes
        is_acked = isinstance(action, Acked)
        if not is_acked and not self._holds(settlement.delivery.tag, incarnation):
            return False
        if part is not None and (bodies := space.count(part.part, part.at)) is not None:
            return Completed(bodies)
        if closes is not None and not space.close(closes.join, closes.at):
            return Completed(())
        if not is_acked:
            self._act(action, space.unclaim(settlement.delivery.tag))
        self._send(messages)
        carry_out(space, settlement.writes)
        return True

    def _holds(self, tag: str, incarnation: str) -> bool:
        message = self._space.claims.get(tag)
        return message is not None and message.claimant == incarnation

    def _act(self, action: Action, message: Message) -> None:
        match action:
            case Ack() | Acked():
                pass
            case Return():
                self._space.make_ready(message)
            case Requeue():
                message.attempt += 1
                self._space.make_last(message)
            case Park(due=due):
                self._space.park(message, due)
            case Quarantine(reason=reason, evidence=evidence):
                self._space.rest(Resting(message, reason, pack_evidence(evidence), self._clock.now()))

    def hold(self, tags: Sequence[str], lease: float, *, incarnation: str) -> None:
        space = self._space
        space.check_process()
        with space.changed:
            held = [tag for tag in tags if self._holds(tag, incarnation)]
            if held:
                space.holds[incarnation].update(dict.fromkeys(held, lease))
                # Whoever says so is not silent.
                self._renew(incarnation, space.leases[incarnation].length)

    def _renew(self, incarnation: str, lease: float) -> None:
        if incarnation in self._space.leases:
            self._space.leases[incarnation] = Lease(self._clock.monotonic(), lease)

    def renew(self, incarnations: Iterable[str], lease: float) -> None:
        self._space.check_process()
        with self._space.changed:
            for incarnation in incarnations:
                self._renew(incarnation, lease)

    def held(self, incarnation: str) -> list[Delivery]:
        self._space.check_process()
        with self._space.changed:
            return [_delivery(self._space.claims[tag]) for tag in self._space.claimed_by.get(incarnation, ())]

    def release(self, incarnation: str, *, keep: Iterable[str] = (), counted: bool = False) -> int:
        self._space.check_process()
        kept = set(keep)
        with self._space.changed:
            tags = [tag for tag in self._space.claimed_by.get(incarnation, ()) if tag not in kept]
            self._give_back(tags, counted=counted)
            if not kept:
                self._space.leases.pop(incarnation, None)
            return len(tags)

    def _give_back(self, tags: Iterable[str], *, counted: bool) -> None:
        for tag in tags:
            message = self._space.unclaim(tag)
            message.attempt += counted
            self._space.make_ready(message)

    def reap(self) -> Reaped:
        space = self._space
        space.check_process()
        with space.changed:
            returned = sum(self._return_over(incarnation) for incarnation in list(space.leases))
            promoted = self._promote()
            next_due = max(0.0, space.parked[0][0] - self._clock.now()) if space.parked else None
            return Reaped(returned=returned, promoted=promoted, next_due=next_due)

    def _return_over(self, incarnation: str) -> int:
        space, now = self._space, self._clock.monotonic()
        over = space.claims_over(incarnation, now)
        self._give_back(over, counted=True)
        # What is held for longer needs the lease to be renewed with.
        if space.leases[incarnation].is_over(now) and incarnation not in space.claimed_by:
            del space.leases[incarnation]
        return len(over)

    def _promote(self) -> int:
        now = self._clock.now()
        promoted = 0
        while self._space.parked and self._space.parked[0][0] <= now:
            self._space.make_last(heapq.heappop(self._space.parked)[2])
            promoted += 1
        return promoted

    def depth(self, queue: str) -> int:
        self._space.check_process()
        with self._space.changed:
            return len(self._space.waiting.get(queue, ()))

    def purge(self, queue: str) -> int:
        self._space.check_process()
        with self._space.changed:
            return len(self._space.waiting.pop(queue, ()))

    def bind_topic(self, topic: str, queue: str) -> None:
        self._space.check_process()
        with self._space.changed:
            self._space.topics[topic].add(queue)

    def unbind_topic(self, topic: str, queue: str) -> None:
        self._space.check_process()
        with self._space.changed:
            self._space.topics[topic].discard(queue)

    def publish_topic(self, topic: str, envelope: Envelope, *, timeout: float | None = None) -> None:
        self._space.check_process()
        with self._space.changed:
            queues = sorted(self._space.topics[topic])
        self.publish([replace(envelope, queue=queue) for queue in queues], timeout=timeout)

    def delete_queue(self, queue: str) -> None:
        self.purge(queue)
        with self._space.changed:
            for queues in self._space.topics.values():
                queues.discard(queue)

    def quarantined(self, *, limit: int = 100, after: str = "") -> list[Quarantined]:
        self._space.check_process()
        last = resting_number(after)
        with self._space.changed:
            later = ((number, resting) for number, resting in self._space.quarantine.items() if number > last)
            return [_resting(number, resting) for number, resting in itertools.islice(later, limit)]

    def requeue_quarantined(self, ids: Sequence[str]) -> int:
        space = self._space
        space.check_process()
        with space.changed:
            numbers = [number for number in self._numbers(ids) if _is_message(space.quarantine[number].message)]
            for number in numbers:
                message = space.quarantine.pop(number).message
                message.attempt = 1
                space.make_last(message)
            return len(numbers)

    def drop_quarantined(self, ids: Sequence[str]) -> int:
        self._space.check_process()
        with self._space.changed:
            numbers = self._numbers(ids)
            for number in numbers:
                del self._space.quarantine[number]
            return len(numbers)

    def _numbers(self, ids: Iterable[str]) -> list[int]:
        return sorted(set(map(resting_number, ids)) & self._space.quarantine.keys())

    def ping(self) -> None:
        self._space.check_process()

    def close(self) -> None:
        """Nothing to close: the queues stay until the process ends."""


def _packed(envelope: Envelope) -> tuple[Message, float | None]:
    head = pack(envelope)
    return Message(0, envelope.queue, envelope.priority, head, bytes(envelope.body)), envelope.due


def _delivery(message: Message) -> Delivery:
    stored = (message.queue, message.priority, message.head, message.body)
    return unpack_delivery(message.tag, *stored, epoch=message.epoch, attempt=message.attempt)


def _resting(number: int, resting: Resting) -> Quarantined:
    message = resting.message
    stored = (message.queue, message.priority, message.head, message.body)
    return unpack_resting(number, *stored, reason=resting.reason, evidence=resting.evidence, at=resting.at, attempt=message.attempt)


def _is_message(message: Message) -> bool:
    return is_message(message.queue, message.head)
