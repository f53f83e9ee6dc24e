"""Claims deliveries from one queue and sees to it that each is settled. Told by: deliver. Goes to: the broker, in threads.

A delivery is acked when it was handled, so what a process held when it was killed is delivered again, to another one or to the next
life of this one: at least once. Its lease is renewed as long as this actor lives.
"""

from __future__ import annotations

import logging
import math
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import anyio
from anyio.to_thread import run_sync

from jumpstarter.abc.broker import Broker
from jumpstarter.actors import Actor, backoff, loop, resource, task, timer
from jumpstarter.errors import BrokerUnavailable
from jumpstarter.jobs import ACK, RETURN, Delivery, Envelope, Quarantine, Settlement

logger = logging.getLogger(__name__)

#: How many deliveries of one receiver may be on their way.
AT_ONCE = 64
#: Attempts after which a message that nobody could finish rests in quarantine.
ATTEMPTS = 5

Deliver = Callable[[Delivery, "Receipt"], Awaitable[None]]


class Receipt:
    """For one delivery: exactly one of its methods is called, once, when it is known what became of it. In the receiver's loop,
    which is that of the post office, so the actors that it serves live there as well."""

    __slots__ = ("_delivery", "_receiver")

    def __init__(self, receiver: Receiver, delivery: Delivery) -> None:
        self._receiver = receiver
        self._delivery = delivery

    def done(self, publish: Sequence[Envelope] = ()) -> None:
        """It was handled; these are to be sent in the same step."""
        self._receiver.settle(Settlement(self._delivery, ACK, publish=tuple(publish)))

    def back(self) -> None:
        """It was not handled: somebody else, or this one later, gets it again."""
        self._receiver.settle(Settlement(self._delivery, RETURN))

    def failed(self, why: object) -> None:
        """It cannot be handled: it rests in quarantine, with the reason."""
        self._receiver.settle(Settlement(self._delivery, Quarantine(str(why), {"error": repr(why)})))


class Receiver(Actor):
    """Serves one queue.

    :param deliver: what is done with each delivery: it hands it to somebody who uses the receipt.
    :param lease: seconds of silence after which what this process holds goes to others.
    :param room: how many more deliveries whoever gets them can take now; None: as many as there are.
    """

    work = loop("receiving", "handing_over", idle=backoff(0, 0))

    def __init__(
        self, broker: Broker, queue: str, deliver: Deliver, *, name: str, lease: float = 30.0, room: Callable[[], int] | None = None
    ) -> None:
        super().__init__(name=name)
        self.broker = broker
        self.queue = queue
        self._deliver = deliver
        self._lease = lease
        self._room = room
        self._incarnation = ""
        self._held: set[str] = set()
        #: Since the last claim.
        self._has_waited = False
        self._settlements: list[Settlement] = []
        self._has_work = anyio.Event()
        self._has_room = anyio.Event()

    @resource
    async def claims(self) -> AsyncIterator[str]:
        """The claims of this life; what is left of them goes back to the queue."""
        self._incarnation = str(uuid.uuid4())
        self._held.clear()
        try:
            yield self._incarnation
        finally:
            with anyio.CancelScope(shield=True):
                await self._flush()
                await self._quietly(self.broker.release, self._incarnation)

    @work.receiving
    async def receive(self) -> list[Delivery]:
        """Wait for deliveries, as many as there is room for."""
        while True:
            room = min(AT_ONCE - len(self._held), self._room() if self._room is not None else AT_ONCE)
            if room <= 0:
                if self._has_waited:
                    self._has_waited = False
                    await self._quietly(self._leave_to_others)
                await self._wait_for_room()
                continue
            deliveries = await self._claim(room)
            if deliveries:
                self._held.update(delivery.tag for delivery in deliveries)
                return deliveries

    @work.handing_over
    async def hand_over(self, deliveries: list[Delivery]) -> None:
        """To who handles them."""
        for delivery in deliveries:
            receipt = Receipt(self, delivery)
            if delivery.envelope is None:
                receipt.failed(delivery.fault or "no message")
            elif delivery.attempt > ATTEMPTS:
                receipt.failed(f"not finished in {ATTEMPTS} attempts")
            else:
                await self._deliver(delivery, receipt)

    @task(during=("started.health", "stopping.draining"))
    async def settling(self) -> None:
        """Carry out settlements in batches, as they come."""
        while True:
            await self._has_work.wait()
            if not await self._flush():
                await anyio.sleep(1)

    @timer(every=1, during="started.health")
    async def renewing(self) -> None:
        """Say that this process lives, and give back what dead ones held."""
        if self._held:
            await self._quietly(self.broker.renew, [self._incarnation], self._lease)
        await self._quietly(self.broker.reap)

    def settle(self, settlement: Settlement) -> None:
        """Carry it out soon. In the loop's thread."""
        self._settlements.append(settlement)
        self._has_work.set()

    def on_exit_started(self) -> None:
        """A hook of the chart: the thread that waits for messages ends at once."""
        self.broker.wake()

    async def _claim(self, room: int) -> list[Delivery]:
        try:
            found = await run_sync(self._claim_or_wait, room)
        except BrokerUnavailable as error:
            self.report_problem("broker", error)
            await anyio.sleep(1)
            return []
        if "broker" in self.concerns:
            self.recover("broker")
        return found

    def _claim_or_wait(self, room: int) -> list[Delivery]:
        self._has_waited = False
        claimed = self.broker.claim([self.queue], room, incarnation=self._incarnation, lease=self._lease)
        if not claimed:
            self._has_waited = True
            self.broker.wait([self.queue], 0.5, incarnation=self._incarnation)
        return claimed

    def _leave_to_others(self) -> None:
        """A wait may have taken a message aside for this receiver, which has no room for it."""
        self.broker.rest(incarnation=self._incarnation)
        self.broker.release(self._incarnation, keep=tuple(self._held))

    async def _wait_for_room(self) -> None:
        self._has_room = anyio.Event()
        # Room in a mailbox tells nobody when it comes.
        with anyio.move_on_after(0.01 if len(self._held) < AT_ONCE else math.inf):
            await self._has_room.wait()

    async def _flush(self) -> bool:
        """Carry out what there is. False when the broker is away."""
        batch, self._settlements = self._settlements, []
        self._has_work = anyio.Event()
        if not batch:
            return True
        try:
            await run_sync(lambda: self.broker.settle(batch, incarnation=self._incarnation))
        except BrokerUnavailable as error:
            self._settlements = batch + self._settlements
            self._has_work.set()
            self.report_problem("broker", error)
            return False
        self._held.difference_update(settlement.delivery.tag for settlement in batch)
        self._has_room.set()
        return True

    async def _quietly(self, call: Callable[..., Any], *arguments: Any) -> None:
        try:
            await run_sync(call, *arguments)
        except BrokerUnavailable as error:
            logger.warning("%s: %s", self.name, error)
