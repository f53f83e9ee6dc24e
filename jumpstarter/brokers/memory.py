"""Queues in the memory of one process: for tests, and for a worker that is embedded in the program that publishes.

``memory://name`` is the same broker for everybody in the process. Nothing outlives the process, and forked children are refused.
Messages are packed as everywhere else, so what is not JSON fails here as it would elsewhere. Neighbours:
:mod:`jumpstarter.embedded.space` holds the data, :class:`~jumpstarter.results.memory.MemoryResults` shares it.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence

from jumpstarter.abc.broker import Broker, Reaped
from jumpstarter.clock import SYSTEM_CLOCK, Clock
from jumpstarter.embedded.packing import pack, pack_evidence, unpack
from jumpstarter.embedded.space import Message, Resting, Space, carry_out
from jumpstarter.errors import Undecodable
from jumpstarter.jobs import Ack, Action, Delivery, Envelope, Park, Quarantine, Requeue, Return, Settlement


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
                space.leases[incarnation] = self._clock.monotonic() + lease
            return [_delivery(message) for message in messages]

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

    def settle(self, settlements: Sequence[Settlement], *, incarnation: str) -> list[bool]:
        space = self._space
        space.check_process()
        # Packed before anything is touched: what cannot be sent fails here, and nothing is done.
        packed = [[_packed(envelope) for envelope in settlement.publish] for settlement in settlements]
        with space.changed:
            return [
                self._settle(settlement, messages, incarnation) for settlement, messages in zip(settlements, packed, strict=True)
            ]

    def _settle(self, settlement: Settlement, messages: Sequence[tuple[Message, float | None]], incarnation: str) -> bool:
        message = self._space.claims.get(settlement.delivery.tag)
        if message is None or message.claimant != incarnation:
            return False
        self._act(settlement.action, self._space.unclaim(settlement.delivery.tag))
        self._send(messages)
        carry_out(self._space, settlement.writes)
        return True

    def _act(self, action: Action, message: Message) -> None:
        match action:
            case Ack():
                pass
            case Return():
                self._space.make_ready(message)
            case Requeue():
                message.attempt += 1
                self._space.make_last(message)
            case Park(due=due):
                self._space.park(message, due)
            case Quarantine(reason=reason, evidence=evidence):
                self._space.quarantine.append(Resting(message, reason, pack_evidence(evidence), self._clock.now()))

    def renew(self, incarnations: Iterable[str], lease: float) -> None:
        self._space.check_process()
        with self._space.changed:
            expires = self._clock.monotonic() + lease
            for incarnation in incarnations:
                if incarnation in self._space.leases:
                    self._space.leases[incarnation] = expires

    def held(self, incarnation: str) -> list[Delivery]:
        self._space.check_process()
        with self._space.changed:
            return [_delivery(self._space.claims[tag]) for tag in self._space.claimed_by.get(incarnation, ())]

    def release(self, incarnation: str, *, keep: Iterable[str] = (), counted: bool = False) -> int:
        self._space.check_process()
        kept = set(keep)
        with self._space.changed:
            released = self._release(incarnation, kept, counted=counted)
            if not kept:
                self._space.leases.pop(incarnation, None)
            return released

    def _release(self, incarnation: str, kept: set[str], *, counted: bool) -> int:
        tags = [tag for tag in self._space.claimed_by.get(incarnation, ()) if tag not in kept]
        for tag in tags:
            message = self._space.unclaim(tag)
            message.attempt += counted
            self._space.make_ready(message)
        return len(tags)

    def reap(self) -> Reaped:
        space = self._space
        space.check_process()
        with space.changed:
            monotonic = self._clock.monotonic()
            returned = 0
            for incarnation in [name for name, expires in space.leases.items() if expires <= monotonic]:
                returned += self._release(incarnation, set(), counted=True)
                del space.leases[incarnation]
            promoted = self._promote()
            next_due = max(0.0, space.parked[0][0] - self._clock.now()) if space.parked else None
            return Reaped(returned=returned, promoted=promoted, next_due=next_due)

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

    def ping(self) -> None:
        self._space.check_process()

    def close(self) -> None:
        """Nothing to close: the queues stay until the process ends."""


def _packed(envelope: Envelope) -> tuple[Message, float | None]:
    head = pack(envelope)
    return Message(0, envelope.queue, envelope.priority, head, bytes(envelope.body)), envelope.due


def _delivery(message: Message) -> Delivery:
    envelope, fault = None, None
    try:
        envelope = unpack(message.queue, message.priority, message.head, message.body)
    except Undecodable as error:
        fault = error
    return Delivery(
        tag=message.tag,
        queue=message.queue,
        envelope=envelope,
        epoch=message.epoch,
        attempt=message.attempt,
        fault=fault,
        raw=b"" if fault is None else message.head + message.body,
    )
