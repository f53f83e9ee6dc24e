"""The pipeline: what users subclass. An actor whose loop is its chart. Comes from: users, cli. Goes to: lane, sides, links."""

from __future__ import annotations

import math
import uuid
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Any, ClassVar, Literal
from weakref import WeakSet

import anyio

from jumpstarter.actors import Actor, Backoff, Loop, run
from jumpstarter.actors.backoff import Intensity
from jumpstarter.actors.declare import TaskSpec
from jumpstarter.actors.family import Child, ChildSpec
from jumpstarter.actors.letters import Letter
from jumpstarter.actors.lifecycle import DEFAULT_DURING, FLOWING
from jumpstarter.actors.threads import Doorbell
from jumpstarter.errors import DefinitionError
from jumpstarter.pipelines.budget import Budget
from jumpstarter.pipelines.clocks import clock
from jumpstarter.pipelines.declare import step
from jumpstarter.pipelines.design import Design, SidePlan, StepPlan, design_of
from jumpstarter.pipelines.events import SideEvent, as_row, from_row
from jumpstarter.pipelines.lane import IDLE, POLLING, PROCESSING, SETTLING, WAITING, Lane
from jumpstarter.pipelines.links import Flow, Links, connect
from jumpstarter.pipelines.report import Report
from jumpstarter.pipelines.sides import Told, call_side, side_class
from jumpstarter.pipelines.sources import Source
from jumpstarter.pipelines.stores.port import Claim, Put, Settlement

#: ``stopped``: for ever; ``empty``: until nothing waits now; ``settled``: until nothing is left that would wait again.
Until = Literal["stopped", "empty", "settled"]

#: A lane that fails (its store is away) is started again; it never gives the pipeline up.
_ENDLESS = Intensity(1_000_000, 60.0, Backoff(0.5, 30.0))
#: Tries of a durable side before an event is dead: the last about an hour after the first.
_OUTBOX_ATTEMPTS = 20
#: Seconds that a stop waits for sides that are behind.
_SIDES_BEHIND = 2.0

_running: WeakSet[Pipeline]


class PipelineType(type):
    """Lets classes be connected: ``A >> B``, ``(A & B) >> C``."""

    def __rshift__(cls, target: Any) -> Flow:
        connect(cls, target)  # type: ignore[arg-type] # a class of this metaclass is a pipeline
        return Flow([cls, target], [target])  # type: ignore[list-item] # as above

    def __and__(cls, other: Any) -> Flow:
        return Flow([cls], [cls]).__and__(other)  # type: ignore[list-item] # as above


class Pipeline(Actor, metaclass=PipelineType):
    """Takes rows from a source, in batches, through its steps, within a budget: again and again.

    Subclasses say ``rows`` (a source), perhaps ``budget``, and declare :func:`step`, :func:`sink`, :func:`on_failed`,
    :func:`side` and :func:`next_run`. All that actors have they have as well: resources, health checks, messages.

    :param until: ``stopped``: it goes on for ever; ``empty``: until nothing waits; ``settled``: until also nothing is leased or
        delayed that would wait again.
    :param run_id: names this run in events and in ``current_batch()``.
    :param rows: in place of the class's own source.
    """

    rows: ClassVar[Any] = None
    budget: ClassVar[Budget | None] = None
    targets: ClassVar[tuple[type[Pipeline], ...]] = ()
    design: ClassVar[Design]
    #: Whether events are made although no side is told: for tests.
    hears_all: ClassVar[bool] = False

    def __init_subclass__(cls, **options: Any) -> None:
        cls.design = design = design_of(cls)
        if design.rows is not None:
            for budget in design.budgets:
                budget.settle_in(design.rows.store)
        cls.targets = ()
        _declare_lanes(cls, design.lanes if design.steps or design.sinks else 0)
        for plan in design.sides:
            child = Child(_maker_of_side(cls, plan), None, ChildSpec())
            child.name = _side_name(plan)
            setattr(cls, child.name, child)
        super().__init_subclass__(**options)

    def __init__(
        self, *, name: str | None = None, until: Until = "stopped", run_id: str | None = None, rows: Source | None = None
    ) -> None:
        super().__init__(name=name)
        if rows is not None:
            self.__dict__["rows"] = rows
        if not isinstance(self.rows, Source):
            raise DefinitionError(type(self).__name__, "it has no rows: write rows = SqliteRows('name'), or hand some over")
        self.run_id = run_id or uuid.uuid4().hex[:12]
        self.report = Report()
        #: Rows that are being worked on.
        self.in_flight = 0
        #: Counts what has come in by hand; see :meth:`ring`.
        self.news = 0
        self.is_finishing = False
        self._until: Until = until
        self._bell: anyio.Event | None = None
        self._doorbell: Doorbell | None = None
        self._lanes = [Lane(self, _region(number)) for number in range(self.design.lanes)]
        self._limiters: dict[str, AbstractAsyncContextManager[Any]] = {}
        self.links = Links(self.kind, self.source, [target.rows for target in type(self).targets])

    @classmethod
    def regions(cls) -> Mapping[str, Mapping[str, Any]]:
        """A region for each lane, in which the stage it is in can be seen."""
        return {_region(number): _lane_region(number) for number in range(cls.design.lanes)} if cls._has_lanes() else {}

    @classmethod
    def _has_lanes(cls) -> bool:
        design = cls.__dict__.get("design") or getattr(cls, "design", None)
        return bool(design and (design.steps or design.sinks))

    # -- for everybody --

    @classmethod
    def run_sync(cls, *, until: Until = "empty", backend: str = "asyncio", **options: Any) -> Report:
        """Run it in an event loop of its own and block until it ends; answer its report. For Celery tasks and scripts.

        :raises ActorCrashed: it crashed.
        """
        pipeline = cls(until=until, **options)
        anyio.run(run, pipeline, backend=backend)
        return pipeline.report

    async def drain(self, until: Until = "empty") -> Report:
        """Work on what waits (``settled``: also on what will wait again), then stop; answer the report."""
        self._until = until
        self.ring()
        await self.wait_stopped()
        return self.report

    def ring(self) -> None:
        """Say that there are rows, so that it does not idle any longer. From any thread."""
        if self._doorbell is not None:
            self._doorbell.ring(self._hear)

    @property
    def kind(self) -> str:
        """The name of its class, under which its counts are kept."""
        return type(self).__name__

    @property
    def source(self) -> Source:
        """Where its rows come from."""
        source: Source = self.rows
        return source

    async def on_stopping(self) -> None:
        """Lets sides that are behind come after, for a while. Call it from an override."""
        with anyio.move_on_after(_SIDES_BEHIND):
            while self.in_flight or any(side.mailbox_depth for side in self.family):  # noqa: ASYNC110 - a mailbox tells nobody
                await anyio.sleep(0.01)

    # -- for lanes --

    async def go_round(self, number: int) -> bool:
        """One round of a lane."""
        if self.may_work() or self.is_finishing:
            await self._lanes[number].round()
        return True

    def _begin(self) -> None:
        """A hook of the chart: it has started, perhaps again, and perhaps in another event loop."""
        self._bell = anyio.Event()
        self._doorbell = Doorbell()
        self.is_finishing = False
        self._limiters = {}
        self.report.started = self.report.started or clock().now()
        for budget in self.design.budgets:
            for unit, rates in budget.spec.limits.items():
                self.report.allowance[unit] = min(rate.limit / rate.period for rate in rates)
        _running.add(self)

    def enter(self, region: str, state: str) -> None:
        """A lane goes on to a state of its region."""
        self._host.post(f"{region}.{state}")
        self._host.pump()

    async def nap(self, seconds: float) -> None:
        """Sleep so long, or until somebody rings."""
        assert self._bell is not None
        with anyio.move_on_after(None if math.isinf(seconds) else seconds):
            await self._bell.wait()

    def may_work(self) -> bool:
        """Whether lanes may begin something: it is started, well enough, neither paused nor finishing."""
        active = self.state.active
        return FLOWING in active and not self.is_finishing and any(state in active for state in DEFAULT_DURING)

    @property
    def is_draining(self) -> bool:
        """Whether it ends when there is nothing left."""
        return self._until != "stopped"

    def is_over(self, claim: Claim) -> bool:
        """Whether such a claim means that there is nothing left to do."""
        if self.in_flight or claim.waiting:
            return False
        return self._until == "empty" or (self._until == "settled" and claim.next_due is None)

    def finish(self) -> None:
        """Stop, as soon as no batch is being worked on."""
        self.is_finishing = True
        self.end_if_finished()

    def end_if_finished(self) -> None:
        """See :meth:`finish`."""
        if self.is_finishing and not self.in_flight:
            self._host.post("stop")

    def limiter(self, plan: StepPlan) -> AbstractAsyncContextManager[Any]:
        """What bounds how many lanes are in a step."""
        if plan.spec.concurrency >= self.design.lanes:
            return nullcontext()
        return self._limiters.setdefault(plan.name, anyio.Semaphore(plan.spec.concurrency))

    def outboxes(self, event: SideEvent) -> list[Put]:
        """Where an event is kept for durable sides."""
        found = []
        for plan in self.design.sides:
            if plan.spec.durable and isinstance(event, plan.kinds):
                key = f"{event.batch}/{type(event).__name__}/{uuid.uuid4().hex}"
                found.append(Put(_outbox(self.kind, plan), [(key, as_row(event))]))
        return found

    def settled(self, settlement: Settlement, events: list[SideEvent]) -> None:
        """Tell sides, and the pipelines that were handed something."""
        for plan in self.design.sides:
            side = getattr(self, _side_name(plan))
            if plan.spec.durable:
                side.ring()
                continue
            for event in events:
                if isinstance(event, plan.kinds):
                    side._host.desk.put_nowait(Letter(Told(event)))
        if settlement.puts or settlement.parts or self.targets:
            for other in list(_running):
                if type(other) in type(self).targets:
                    other.ring()

    def _hear(self) -> None:
        self.news += 1
        self._ring()

    def _ring(self) -> None:
        """Wake the lanes: a hook of the chart as well, when they have to leave."""
        if self._bell is not None:
            self._bell.set()
            self._bell = anyio.Event()


_running = WeakSet()


def _region(number: int) -> str:
    return "work" if number == 0 else f"work_{number + 1}"


def _lane_name(number: int) -> str:
    return "lane" if number == 0 else f"lane_{number + 1}"


def _side_name(plan: SidePlan) -> str:
    return f"{plan.name}_side"


def _outbox(kind: str, plan: SidePlan) -> str:
    return f"{kind}/{plan.name}"


def _maker_of_side(owner: type[Pipeline], plan: SidePlan) -> Callable[[Any], Actor]:
    if plan.spec.durable:
        return type(f"{owner.__name__}_{plan.name}", (Outbox,), {"plan": plan, "__module__": __name__})
    return side_class(owner.__name__, plan)


def _declare_lanes(owner: Any, count: int) -> None:
    spec = TaskSpec(kind="loop", on_leave="finish", intensity=_ENDLESS, stages=("round",))
    for number in range(count):
        loop = Loop(("round",), spec)
        loop.methods["round"] = f"_{_lane_name(number)}"
        setattr(owner, _lane_name(number), loop)
        setattr(owner, loop.methods["round"], _round_of(number))
    while getattr(owner, _lane_name(count), None) is not None:  # a subclass may be narrower
        setattr(owner, _lane_name(count), None)
        count += 1


def _round_of(number: int) -> Callable[[Pipeline], Any]:
    async def go_round(self: Pipeline) -> bool:
        return await self.go_round(number)

    return go_round


def _lane_region(number: int) -> dict[str, Any]:
    name, loop = _region(number), f"started.{_lane_name(number)}.round"
    resting = [IDLE, WAITING]
    states = [IDLE, WAITING, POLLING, PROCESSING, SETTLING]
    follows = {
        WAITING: ["suspended", IDLE, POLLING, SETTLING],
        POLLING: [WAITING],
        PROCESSING: ["suspended", POLLING, SETTLING],
        SETTLING: [PROCESSING],
        IDLE: ["suspended", POLLING, WAITING, SETTLING],
    }
    return {
        "initial": "suspended",
        # A lane that sleeps hears that it has to leave: for a pause it is suspended, for a stop the region is left.
        "on_exit": "_ring",
        **({"on_enter": "_begin"} if number == 0 else {}),
        "states": [{"name": "suspended", "on_enter": "_ring"}, *states],
        "transitions": [
            *({"trigger": f"{name}.{state}", "source": source, "dest": state} for state, source in follows.items()),
            {"trigger": "", "source": resting, "dest": "suspended", "unless": [f"In({FLOWING})"]},
            {"trigger": "", "source": resting, "dest": "suspended", "unless": [f"In({state})" for state in DEFAULT_DURING]},
            {"trigger": "", "source": states, "dest": "suspended", "unless": [f"In({loop})"]},
        ],
    }


class Outbox(Pipeline):
    """Runs one durable side: its rows are the events. What fails is tried again, and dead in the end."""

    plan: ClassVar[SidePlan]

    def __init__(self, pipeline: Pipeline) -> None:
        store = pipeline.source.store
        rows = Source(_outbox(pipeline.kind, self.plan), store=store, batch=1, lease=60.0, attempts=_OUTBOX_ATTEMPTS)
        super().__init__(name=f"{pipeline.name}.{self.plan.name}", rows=rows)
        self._pipeline = pipeline

    @step
    async def tell_it(self, rows: list[Any]) -> None:
        """Call the user's method."""
        for row in rows:
            await call_side(self._pipeline, self.plan, from_row(row))
