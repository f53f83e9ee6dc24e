"""The worker: the actor that receives, admits, executes and settles. One lives in each child process of a node.

Its chart, beside the lifecycle that every actor has::

    started (parallel)
      health    healthy | degraded | unhealthy
      work      suspended | waiting | polling | processing      polling runs only while the worker is healthy
      slot_0 …  idle | processing                               one for each slot; the loop's slots share one region

The chart steps once per batch and per run of jobs, never per job. A worker whose broker or whose declared health check fails is
*degraded*: it polls no more, finishes and settles what it holds, and polls again when it is healthy.
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

import anyio

from jumpstarter.abc.broker import Broker
from jumpstarter.abc.executor import Executor
from jumpstarter.actors import Actor, DedicatedThread, loop, resource, task, timer
from jumpstarter.clock import SYSTEM_CLOCK
from jumpstarter.errors import BrokerUnavailable
from jumpstarter.jobs import RETURN, Delivery, Job, Outcome
from jumpstarter.worker.admit import admit
from jumpstarter.worker.bell import Bell
from jumpstarter.worker.execute import Capacity, Runner
from jumpstarter.worker.lease import LeaseKeeper
from jumpstarter.worker.marks import Ring
from jumpstarter.worker.options import WorkerOptions
from jumpstarter.worker.parts import Parts
from jumpstarter.worker.receive import Receiver
from jumpstarter.worker.settle import Settler
from jumpstarter.worker.slots import SlotBoard, slot_regions

logger = logging.getLogger(__name__)

BROKER: Final = "broker"
SETTLEMENT: Final = "settlement"
LEASE: Final = "lease"

_PATIENCE: Final = 0.25  # seconds between two looks at whether jobs end
_FIRST_RETRY, _LONGEST_RETRY = 0.1, 2.0  # seconds between looks at a broker that is away
_STABLE: Final = 10.0  # seconds after which a broker that came back counts as back


class Worker(Actor):
    """Runs an application's jobs. ``start``, ``stop`` and the rest come from :class:`~jumpstarter.actors.Actor`.

    Subclasses may declare resources, tasks and health checks of their own; a failing health check stops the polling.
    """

    work = loop("polling", "processing", during="started.health.healthy")

    def __init__(
        self,
        parts: Parts,
        options: WorkerOptions,
        incarnation: str,
        *,
        name: str | None = None,
        marks: Ring | None = None,
        keeps_lease: bool = False,
        on_parked: Callable[[], None] | None = None,
    ) -> None:
        """:param incarnation: the random name under which this life of the process claims.
        :param marks: see :class:`~jumpstarter.worker.marks.Ring`.
        :param keeps_lease: True where no node's parent process does it.
        :param on_parked: see :class:`~jumpstarter.worker.settle.Settler`.
        """
        self.options = options
        self.incarnation = incarnation
        self.application = parts.application
        self.handlers = parts.application.handlers
        self.broker: Broker = parts.broker
        self._parts = parts
        self._keeps_lease = keeps_lease
        self.runner = Runner(parts.application, parts.broker.url, marks, may_exit=options.pool == "prefork")
        self.settlement = Settler(
            parts.broker,
            parts.results,
            incarnation,
            on_trouble=self._settling_troubled,
            on_parked=on_parked or self._look,
            on_settled=self._settled,
        )
        self._receiver = Receiver(parts.broker, incarnation, options)
        self._bell = Bell()
        self._polling_ended = threading.Event()
        self._retry = _FIRST_RETRY
        self._recovered_at = 0.0
        self._waits_for_room = False
        self._ring_at = -1  # the backlog at which a finished job rings; -1 while nobody waits for room
        self._board = SlotBoard(options, self.post)
        self.executor: Executor = parts.make_executor(self.runner.run, self._done, self._slot_changed)
        super().__init__(name=name or options.name)

    def regions(self) -> Mapping[str, Mapping[str, Any]]:
        return slot_regions(self.options)

    # Resources, in the order of acquiring; released in reverse: first the slots come to rest, then everything is settled, then
    # what is still claimed goes back, and only then the lease may end.

    @resource
    @asynccontextmanager
    async def keeper(self) -> AsyncIterator[LeaseKeeper | None]:
        """Renews this worker's own lease where nobody else does."""
        if not self._keeps_lease:
            yield None
            return
        keeper = LeaseKeeper(
            self.broker, self.options.lease, lambda: [self.incarnation], on_trouble=lambda error: self._troubled(LEASE, error)
        )
        with keeper:
            yield keeper

    @resource
    @asynccontextmanager
    async def claims(self) -> AsyncIterator[DedicatedThread]:
        """The thread that claims. What is still claimed when all is settled goes back to its queues."""
        thread = DedicatedThread(f"{self.name} claims")
        try:
            yield thread
        finally:
            with anyio.CancelScope(shield=True):
                await thread.run(self._give_back)
                await thread.aclose()

    @resource(thread="own", release_timeout=math.inf)
    def settler(self) -> Settler:
        """Leaving it settles what is left."""
        return self.settlement

    @resource(release_timeout=math.inf)
    @asynccontextmanager
    async def capacity(self) -> AsyncIterator[Capacity]:
        """The slots. Leaving it waits until the jobs that run are done."""
        self._bell.open()
        async with anyio.create_task_group() as group:
            self._coroutines = self._parts.make_loop_executor(
                self.options.loop_slots, self.runner.arun, self._done, self._coroutine_slot_changed, group
            )
            capacity = Capacity(self.options, self.runner, self.executor, self._coroutines, self.settlement)
            yield capacity
            self._hand_back(capacity)
            while not capacity.is_idle:
                await self._bell.wait()

    # The way of a batch.

    @work.polling
    async def poll(self) -> list[Delivery] | None:
        """Claim what there is room for; wait for it if need be."""
        ended = self._polling_ended = threading.Event()
        capacity = self.capacity
        try:
            return await self.claims.run(self._receiver.receive, lambda: capacity.room, ended, abandoned=self._take_back)
        except BrokerUnavailable as error:
            self.report_warning(BROKER, error)
            return None
        finally:
            self._receiver.interrupt(ended)

    @work.processing
    async def process(self, deliveries: list[Delivery]) -> None:
        """Hand a batch to the slots, and wait until another is worth a claim."""
        admitted = admit(deliveries, self.application, now=SYSTEM_CLOCK.now(), max_attempts=self.options.max_attempts)
        for outcome in admitted.outcomes:
            self.settlement.put(outcome)
        self._coroutines.submit(admitted.coroutine_jobs)
        self.executor.submit(admitted.jobs)
        await self._wait_for_room()

    async def _wait_for_room(self) -> None:
        capacity = self.capacity
        # Set before the room is looked at, here and below: what ends in between rings.
        self._waits_for_room = True
        try:
            while True:
                self._ring_at = capacity.look_ahead - capacity.worthwhile
                if capacity.room >= capacity.worthwhile:
                    return
                await self._bell.wait()
        finally:
            self._ring_at = -1
            self._waits_for_room = False

    @property
    def current(self) -> Mapping[int, Job]:
        """The job that each slot for plain functions runs, by the slot's number. From any thread."""
        return dict(self.runner.current)

    @timer(every=_PATIENCE)
    async def relieve(self) -> None:
        """When a job takes long: hand back what waits behind it, and stop a claim that still counts on it to be short."""
        if self.capacity.notice_stall():
            self._receiver.interrupt(self._polling_ended)
            self._hand_back(self.capacity)

    def _hand_back(self, capacity: Capacity) -> None:
        for job in capacity.withdraw():
            self.settlement.put(Outcome(job.delivery, job, "RETURNED", RETURN))

    def _take_back(self, deliveries: list[Delivery]) -> None:
        """A claim came in when polling had already ended: nobody has seen it."""
        for delivery in deliveries:
            self.settlement.put(Outcome(delivery, None, "RETURNED", RETURN))

    def _give_back(self) -> None:
        try:
            self.broker.release(self.incarnation)
        except BrokerUnavailable as error:
            logger.warning("%s: what it still claimed returns to its queues once its lease has run out: %s", self.name, error)

    # Called from slots, in their threads.

    def _done(self, outcome: Outcome) -> None:
        self.settlement.put(outcome)
        if self.executor.backlog <= self._ring_at:
            self._bell.ring()

    def _slot_changed(self, slot: int, job: Job | None) -> None:
        self._board.slot_changed(slot, job)
        if job is None:
            self._bell.ring()

    def _coroutine_slot_changed(self, slot: int, job: Job | None) -> None:
        self._board.coroutine_slot_changed(slot, job)
        if job is None:
            self._bell.ring()

    def _settled(self) -> None:
        if self._waits_for_room:
            self._bell.ring()

    # Health.

    @task(during="started.health.degraded")
    async def reconnect(self) -> None:
        """While degraded: find out whether the broker is back."""
        if anyio.current_time() - self._recovered_at > _STABLE:
            self._retry = _FIRST_RETRY
        while BROKER in self.concerns:
            # Before the first look as well: a server may answer to a ping and still refuse to be written to.
            await anyio.sleep(self._retry)
            self._retry = min(self._retry * 2, _LONGEST_RETRY)
            try:
                await self.claims.run(self.broker.ping)
            except BrokerUnavailable:
                continue
            self._recovered_at = anyio.current_time()
            self.recover(BROKER)
        await anyio.sleep_forever()

    def _settling_troubled(self, error: Exception | None) -> None:
        self._troubled(SETTLEMENT, error)

    def _troubled(self, source: str, error: Exception | None) -> None:
        if error is None:
            self.recover(source)
        else:
            self.report_warning(source, error)

    def _look(self) -> None:
        if self.keeper is not None:
            self.keeper.look()
