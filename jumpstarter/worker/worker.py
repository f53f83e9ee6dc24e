"""The worker: the actor that receives, admits, executes and settles. One lives in each child process of a node.

Its chart, beside the lifecycle that every actor has::

    started (parallel)
      health    healthy | degraded | unhealthy
      work      suspended | waiting | polling | processing      polling runs only while the worker is healthy
      slot_0 …  idle | processing | asked | stuck               one for each slot; the loop's slots share one region

The chart steps once per batch and per run of jobs, never per job. A worker whose broker or whose declared health check fails is
*degraded*: it polls no more, finishes and settles what it holds, and polls again when it is healthy.
"""

from __future__ import annotations

import logging
import math
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Final

import anyio
import anyio.to_thread

from jumpstarter.abc.broker import Broker
from jumpstarter.abc.executor import Executor
from jumpstarter.actors import Actor, DedicatedThread, loop, resource, task, timer
from jumpstarter.clock import SYSTEM_CLOCK
from jumpstarter.errors import BrokerUnavailable, ResultsUnavailable
from jumpstarter.jobs import RETURN, Job, Outcome, Place
from jumpstarter.worker.admit import admit
from jumpstarter.worker.bell import Bell
from jumpstarter.worker.capacity import Capacity
from jumpstarter.worker.execute import Runner
from jumpstarter.worker.held import Held
from jumpstarter.worker.lease import LeaseKeeper
from jumpstarter.worker.marks import Ring
from jumpstarter.worker.options import WorkerOptions
from jumpstarter.worker.parts import Parts
from jumpstarter.worker.receive import Receiver
from jumpstarter.worker.settle import Settler
from jumpstarter.worker.slots import SlotBoard, slot_regions
from jumpstarter.worker.watch import Step, Watch

logger = logging.getLogger(__name__)

BROKER: Final = "broker"
SETTLEMENT: Final = "settlement"
LEASE: Final = "lease"

_PATIENCE: Final = 0.25  # seconds between two looks at whether jobs end
_HEAD_START: Final = 0.001  # seconds for which the loop leaves the interpreter to jobs that a claim has brought
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
        on_retiring: Callable[[], None] = lambda: None,
        leave: Callable[[], None] | None = None,
    ) -> None:
        """:param incarnation: the random name under which this life of the process claims.
        :param marks: see :class:`~jumpstarter.worker.marks.Ring`.
        :param keeps_lease: True where no node's parent process does it.
        :param on_parked: see :class:`~jumpstarter.worker.settle.Settler`.
        :param on_retiring: called when it takes no more jobs and a successor should start.
        :param leave: ends the process, where jobs that never end keep it from ending by itself; None where it is not the worker's.
        """
        self.options = options
        self.incarnation = incarnation
        self.application = parts.application
        self.handlers = parts.application.handlers
        self.broker: Broker = parts.broker
        self._parts = parts
        self._keeps_lease = keeps_lease
        self._on_retiring = on_retiring
        self._leave = leave
        self._is_retiring = False
        self._marks = marks
        acks_at_start = options.strict_early_ack or parts.broker.acks_at_start
        self.runner = Runner(
            parts.application,
            parts.broker.url,
            marks,
            may_exit=options.pool == "prefork",
            first_marks={"slot": 0, "thread": options.sync_slots, "loop": options.sync_slots + options.threads},
            ack_now=self._ack_now if acks_at_start else None,
            ack_blocks=parts.broker.ack_blocks,
        )
        self.settlement = Settler(
            parts.broker,
            parts.results,
            incarnation,
            on_trouble=self._settling_troubled,
            on_parked=on_parked or self._look,
            on_settled=self._settled,
            more_come=lambda: self.executor.backlog > 0,
        )
        self.watch = Watch(parts.application, self.runner, settle=self.settlement.put, on_step=self._stepped)
        self._receiver = Receiver(parts.broker, incarnation, options)
        self._bell = Bell()
        self.held = Held()
        self._held_bell = Bell()
        self._polling_ended = threading.Event()
        self._handing_over = threading.Lock()
        self._retry = _FIRST_RETRY
        self._recovered_at = 0.0
        self._waits_for_room = False
        # Batches with jobs that may not have started yet, for those who ask what waits here.
        self._admitted: deque[Sequence[Job]] = deque()
        self._board = SlotBoard(options, self.post)
        self.executor: Executor = parts.make_executor(self.runner.run, self.settlement.put, partial(self._slot_changed, "slot"))
        self.executor.call_with_last(self.settlement.put_last)
        #: By the kind of their slots; the loop's joins when the worker starts.
        self.executors: dict[Place, Executor] = {"slot": self.executor}
        if options.threads:
            self.executors["thread"] = parts.make_thread_executor(
                options.threads, self.runner.run_beside, self._done_beside, partial(self._slot_changed, "thread")
            )
        super().__init__(name=name or options.name)

    def regions(self) -> Mapping[str, Mapping[str, Any]]:
        return slot_regions(self.options)

    @classmethod
    def prepare(cls, options: WorkerOptions) -> None:
        """Compile its chart, for all processes that are forked from this one."""
        cls._plan_for(slot_regions(options))

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
            self.broker,
            self.options.lease,
            lambda: [self.incarnation],
            on_trouble=lambda error: self._troubled(LEASE, error),
            every=self.options.renewed_every,
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

    @resource
    @asynccontextmanager
    async def solo_watch(self) -> AsyncIterator[None]:
        """Where a job holds the loop itself, its time limits are kept from another thread."""
        ended = threading.Event()

        def look() -> None:
            while not ended.wait(_PATIENCE):
                self.watch.look()

        if self.options.pool == "solo":
            threading.Thread(target=look, name=f"{self.name} watch", daemon=True).start()
        try:
            yield
        finally:
            ended.set()

    @resource(release_timeout=math.inf)
    @asynccontextmanager
    async def capacity(self) -> AsyncIterator[Capacity]:
        """The slots. Leaving it waits until the jobs that run are done."""
        self._bell.open()
        self._held_bell.open()
        async with anyio.create_task_group() as group:
            self.executors["loop"] = self._parts.make_loop_executor(
                self.options.loop_slots, self.runner.arun, self._done_beside, partial(self._slot_changed, "loop"), group
            )
            capacity = Capacity(self.options, self.runner, self.executors, self.settlement)
            yield capacity
            self._return([*capacity.withdraw(), *self.held.withdraw()])
            with anyio.CancelScope(shield=True):
                group.start_soon(self._watch_the_last)
                while not capacity.is_idle:
                    await self._bell.wait()
                group.cancel_scope.cancel()
                if self.executors["loop"].stuck and self._leave is not None:
                    await self._leave_the_stuck()

    async def _watch_the_last(self) -> None:
        """Time limits hold while the worker stops, too."""
        while True:
            self.watch.look()
            await anyio.sleep(_PATIENCE)

    async def _leave_the_stuck(self) -> None:
        """Coroutines that were abandoned and cannot be cancelled would keep the loop from ending."""
        await anyio.to_thread.run_sync(self.settlement.close)
        await self.claims.run(self._give_back)
        self.leave()

    def leave(self) -> None:
        """End the process, if it is the worker's own, although jobs that were abandoned still run in it."""
        if self._leave is not None:
            self._leave()

    # The way of a batch.

    @work.polling
    async def poll(self) -> Mapping[Place, Sequence[Job]] | None:
        """Claim what there is room for; wait for it if need be. What other threads run begins at once; the rest is returned."""
        ended = self._polling_ended = threading.Event()
        try:
            return await self.claims.run(self._receive, ended, abandoned=self._take_back)
        except (BrokerUnavailable, ResultsUnavailable) as error:
            self.report_warning(BROKER if isinstance(error, BrokerUnavailable) else SETTLEMENT, error)
            return None
        except anyio.get_cancelled_exc_class():
            self._end_polling(ended)
            raise

    def _receive(self, ended: threading.Event) -> Mapping[Place, Sequence[Job]]:
        """In the claims' thread: the whole way of a batch from the broker to the slots. Handing it to the loop first would cost a
        switch of threads: 0.2 ms of the 1.7 ms that a call and its result take on an idle machine."""
        deliveries = self._receiver.receive(lambda: self.capacity.claims, ended)
        if not deliveries:
            return {}
        self._hear()
        admitted = admit(deliveries, self.application, now=SYSTEM_CLOCK.now(), max_attempts=self.options.max_attempts)
        for outcome in admitted.outcomes:
            self.settlement.put(outcome)
        try:
            self._secure(admitted.jobs)
        except (BrokerUnavailable, ResultsUnavailable):
            self._return(admitted.jobs)
            raise
        jobs = self._in_turn(admitted.jobs) if self.application.throttles else admitted.jobs
        self.capacity.learn(len(deliveries), len(jobs))
        by_place = self.capacity.sort(jobs)
        with self._board.head_start() as wait:
            with self._handing_over:
                # Once polling has ended, the slots may be about to close: the jobs go through the loop, or back.
                left = by_place if ended.is_set() else self._submit(by_place, lambda executor: executor.takes_from_threads)
            if by_place and not left and self._receiver.is_drained:
                wait(_HEAD_START)
        return left

    def _submit(self, by_place: Mapping[Place, Sequence[Job]], suits: Callable[[Executor], bool]) -> Mapping[Place, Sequence[Job]]:
        """Hand jobs to the executors that suit; what is left."""
        left = {}
        for place, jobs in by_place.items():
            if suits(self.executors[place]):
                self._remember(jobs)
                self.executors[place].submit(jobs)
            else:
                left[place] = jobs
        return left

    def _in_turn(self, jobs: Sequence[Job]) -> Sequence[Job]:
        """Those that may start now. Others are held back, or settled with what else comes of them."""
        now = []
        for job in jobs:
            place = self.capacity.place_of(job)
            # As many as its slots can have started by the time when they may: the rest is for other processes, and for later.
            most = self.executors[place].slots + self.capacity.look_ahead(place)
            verdict = self.application.turn(job, may_wait=self.held.count(job.name) < most)
            if isinstance(verdict, Outcome):
                job.returned = True
                self.settlement.put(verdict)
            elif verdict > 0:
                self.held.add(job, verdict)
                self._held_bell.ring()
            else:
                now.append(job)
        return now

    @task(during="started")
    async def let_held_jobs_start(self) -> None:
        """Give each job that is held back to its slots when its turn has come."""
        while True:
            with anyio.move_on_after(self.held.seconds):
                await self._held_bell.wait()
            if jobs := self.held.due():
                with self._handing_over:  # the thread that claims hands jobs over as well
                    self._submit(self.capacity.sort(jobs), lambda _executor: True)

    def _end_polling(self, ended: threading.Event) -> None:
        with self._handing_over:
            ended.set()
        self._receiver.interrupt(ended)

    @work.processing
    async def process(self, by_place: Mapping[Place, Sequence[Job]]) -> None:
        """Hand what is left of a batch to its slots, and wait until another is worth a claim."""
        self._submit(by_place, lambda _executor: True)
        await self._wait_for_room()

    def _secure(self, jobs: Sequence[Job]) -> None:
        """Tell the servers what they must know before these jobs begin.

        :raises BrokerUnavailable: the broker could not be told.
        :raises ResultsUnavailable: the results could not.
        """
        repeated = []
        by_lease: dict[float, list[str]] = {}
        for job in jobs:
            if job.delivery.attempt > 1:
                repeated.append(job)
            if job.lease is not None and job.lease != self.options.lease:
                by_lease.setdefault(job.lease, []).append(job.delivery.tag)
        for lease, tags in by_lease.items():
            self.broker.hold(tags, lease, incarnation=self.incarnation)
        if repeated:
            self.settlement.fence(repeated)

    async def _wait_for_room(self) -> None:
        capacity = self.capacity
        # Set before the room is looked at, here and below: what ends in between rings.
        self._waits_for_room = True
        try:
            while True:
                self.executor.call_when_low(capacity.worthwhile_backlog, self._bell.ring)
                if capacity.is_worthwhile():
                    return
                if self._receiver.listens:
                    await self.claims.run(self._receiver.rest)
                await self._bell.wait()
        finally:
            self.executor.call_when_low(-1, self._bell.ring)
            self._waits_for_room = False

    @property
    def current(self) -> Mapping[int, Job]:
        """The job that each of the pool's slots runs, by the slot's number. From any thread."""
        return {job.slot: job for job in list(self.runner.running) if job.handler.runs_in == "slot"}

    @timer(every=_PATIENCE)
    async def relieve(self) -> None:
        """When a job takes long: end it if its time is over, hand back what waits behind it, and stop a claim that still counts on
        it to be short."""
        self.watch.look()
        is_news, jobs = self.capacity.notice_stall()
        if is_news:
            self._end_polling(self._polling_ended)
        self._return(jobs)

    def cancel(self, job_id: str, attempt: int | None = None) -> bool:
        """End a job that runs here; True if it does. ``attempt`` None: whichever it is. On the loop's thread."""
        return self.watch.cancel(job_id, attempt)

    # What others want to know, or to say. From any thread.

    def _remember(self, jobs: Sequence[Job]) -> None:
        """Jobs of one place, which begin in their order: when the last has begun none of them waits."""
        while self._admitted and (self._admitted[0][-1].started or self._admitted[0][-1].returned):
            self._admitted.popleft()
        if jobs:
            self._admitted.append(jobs)

    @property
    def waiting(self) -> list[Job]:
        """The jobs that were claimed and are not started."""
        admitted = [job for jobs in list(self._admitted) for job in jobs if not (job.started or job.returned)]
        return [*admitted, *self.held.jobs]

    def _hear(self, *, look: bool = False) -> None:
        """Take note of what was said by the broker."""
        for notice in self.broker.notices(look=look):
            self.application.note(notice)

    def note(self, notice: str) -> None:
        """See :meth:`jumpstarter.abc.application.Application.note`; without a text: see what the broker has to say."""
        if notice:
            self.application.note(notice)
            return
        try:
            self._hear(look=True)
        except BrokerUnavailable as error:
            logger.warning("%s: what was revoked is learnt with the next claim: %s", self.name, error)

    def answer(self, question: str) -> str:
        """See :meth:`jumpstarter.abc.application.Application.answer`."""
        return self.application.answer(question, list(self.runner.running), self.waiting)

    def retire(self) -> None:
        """Take no more jobs; stop when those that run are done. From any thread."""
        if not self._is_retiring:
            self._is_retiring = True
            self._on_retiring()
            self.post("stop")

    def _stepped(self, job: Job, step: Step) -> None:
        """A job was asked to end, or abandoned."""
        place = self.capacity.place_of(job)
        self._board.stepped(place, job, step)
        if step is not Step.ABANDON:
            return
        self._mark_idle(place, job.slot)
        has_place = self.executors[place].replace(job.slot)
        self._bell.ring()
        self._receiver.widen()
        if not has_place or self.capacity.stuck >= self.options.most_stuck:
            self.retire()

    def _ack_now(self, job: Job) -> bool:
        return self.broker.ack(job.delivery, incarnation=self.incarnation)

    def _return(self, jobs: Iterable[Job]) -> None:
        for job in jobs:
            job.returned = True
            self.settlement.put(Outcome(job.delivery, job, "RETURNED", RETURN))

    def _take_back(self, by_place: Mapping[Place, Sequence[Job]]) -> None:
        """A claim came in when polling had already ended: nobody has seen it."""
        for jobs in by_place.values():
            self._return(jobs)

    def _give_back(self) -> None:
        try:
            self.broker.release(self.incarnation)
        except BrokerUnavailable as error:
            logger.warning("%s: what it still claimed returns to its queues once its lease has run out: %s", self.name, error)

    # Called from slots, in their threads.

    def _done_beside(self, outcome: Outcome) -> None:
        self.settlement.put(outcome)
        if self._waits_for_room:
            self._bell.ring()

    def _slot_changed(self, place: Place, slot: int, job: Job | None) -> None:
        self._board.changed(place, slot, job)
        if job is None:
            self._mark_idle(place, slot)
            self._bell.ring()
            self._receiver.widen()
            if self.options.max_tasks is not None and self.runner.begun >= self.options.max_tasks:
                self.retire()

    def _mark_idle(self, place: Place, slot: int) -> None:
        if self._marks is not None:
            self._marks.idle(self.runner.first_marks[place] + slot)

    def _settled(self, outcomes: Sequence[Outcome]) -> None:
        self.application.settled(outcomes)
        # Should this come just before the mark: as long as there is no room, more batches are settled.
        if self._waits_for_room and self.capacity.waits_for_settling:
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
