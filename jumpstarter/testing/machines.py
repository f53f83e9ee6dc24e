"""State machines for hypothesis, derived from charts and actors: it invents what happens, and shrinks it when something breaks.

::

    TestDoor = chart_machine(DOOR_CHART, Door).TestCase
    TestCatalog = actor_machine(Catalog, messages=[st.builds(GetItem, st.integers())]).TestCase

Needs hypothesis, which is no dependency of Jumpstarter. Actors run on asyncio in virtual time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import anyio
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from jumpstarter.actors import Actor, Message, hosted
from jumpstarter.errors import ActorCrashed, UnhandledEvent
from jumpstarter.states import Chart
from jumpstarter.states.paths import named_events, outcomes
from jumpstarter.testing.clock import VirtualTimeLoop

Check = Callable[[Any], object]


def chart_machine(
    chart: Chart, model: Callable[[], object] | None = None, *, events: Sequence[str] = (), check: Check | None = None
) -> type[RuleBasedStateMachine]:
    """A machine that sends events to an instance of the chart, in any order. It fails when a hook raises, when a step leads where
    the pure kernel could not have led, and when ``check`` raises.

    :param model: makes the object that has the hooks and guards; its class, most likely.
    :param events: what may be sent; by default all that the chart names.
    :param check: called with the instance after every event.
    """
    sent = sorted(events or named_events(chart))

    class ChartMachine(RuleBasedStateMachine):
        def __init__(self) -> None:
            super().__init__()
            self.instance = chart.instance(model() if model is not None else None)
            self.instance.start()

        @rule(event=st.sampled_from(sent))
        def send(self, event: str) -> None:
            """Something happens."""
            before = self.instance.snapshot()
            try:
                step = self.instance.send(event)
            except UnhandledEvent:
                assert self.instance.snapshot() == before
                return
            after = self.instance.snapshot()
            if step.queued or step.postponed or before["postponed"] or after["postponed"]:
                return  # what hooks send and what waited comes on top of what the kernel says
            possible = [reached["active"] for _, reached, _ in outcomes(chart, before, event)]
            assert after["active"] in possible, f"{event} led from {before['active']} to {after['active']}, not to {possible}"

        @invariant()
        def holds(self) -> None:
            """What the user says."""
            if check is not None:
                check(self.instance)

    ChartMachine.__name__ = ChartMachine.__qualname__ = f"{chart.name}Machine"
    return ChartMachine


def actor_machine(
    make: Callable[[], Actor],
    *,
    messages: Sequence[st.SearchStrategy[Message]] = (),
    events: Sequence[str] = (),
    check: Check | None = None,
    may_crash: bool = False,
) -> type[RuleBasedStateMachine]:
    """A machine that runs an actor in virtual time and tells it messages, posts it events, complains and recovers, takes its
    resources away, pauses, resumes and restarts it, and lets time pass. It fails when the actor crashes (unless it ``may_crash``),
    when it does not stop, and when ``check`` raises.

    :param make: makes the actor; its class, most likely.
    :param messages: strategies for what it is told.
    :param events: what is posted.
    :param check: called with the actor after everything that happens.
    """

    def tell(self: _ActorMachine, message: Message) -> None:
        self.do(lambda: self.actor.tell_nowait(message))

    def post(self: _ActorMachine, event: str) -> None:
        self.do(lambda: self.actor.post(event))

    body: dict[str, Any] = {"make": staticmethod(make), "check": staticmethod(check or _nothing), "may_crash": may_crash}
    if messages:
        body["tell"] = rule(message=st.one_of(*messages))(tell)
    if events:
        body["post"] = rule(event=st.sampled_from(sorted(events)))(post)
    return type(f"{getattr(make, '__name__', 'Actor')}Machine", (_ActorMachine,), body)


class _ActorMachine(RuleBasedStateMachine):
    make: Callable[[], Actor]
    check: Check
    may_crash: bool

    def __init__(self) -> None:
        super().__init__()
        self.actor = self.make()
        self._runner = asyncio.Runner(loop_factory=VirtualTimeLoop)
        self._resources = [one.name for one in self.actor._host.plan.resources]
        self._life: asyncio.Task[None] | None = None
        self._stop: anyio.Event

    @initialize()
    def begin(self) -> None:
        """The actor starts."""
        self._run(self._begin)

    @rule(source=st.sampled_from(["disk", "net"]), how=st.sampled_from(["report_warning", "report_problem", "recover"]))
    def report(self, source: str, how: str) -> None:
        """Somebody complains, or takes it back."""
        self.do(lambda: getattr(self.actor, how)(source))

    @rule(data=st.data())
    def lose(self, data: st.DataObject) -> None:
        """A resource is lost."""
        if self._resources:
            name = data.draw(st.sampled_from(self._resources))
            self.do(lambda: self.actor.report_lost(name, ConnectionError("lost by the test")))

    @rule(what=st.sampled_from(["pause", "resume", "restart"]))
    def control(self, what: str) -> None:
        """Somebody controls it."""
        self.do(lambda: self.actor.post(what))

    @rule(seconds=st.sampled_from([0.01, 1.0, 60.0, 3600.0]))
    def wait(self, seconds: float) -> None:
        """Time passes."""
        self._run(lambda: anyio.sleep(seconds))
        self._look()

    def teardown(self) -> None:
        """The actor stops, whatever happened."""
        try:
            if self._life is not None:
                self._run(self._end)
        finally:
            self._runner.close()
        assert self.actor.state.active[0] in ("initializing", "stopped", "crashed"), f"it did not stop: {self.actor.state}"

    def do(self, what: Callable[[], object]) -> None:
        """In the loop of the actor, which gets a moment to follow."""

        async def act() -> None:
            what()
            await anyio.sleep(0.001)

        self._run(act)
        self._look()

    def _look(self) -> None:
        if not self.may_crash and self.actor.failure is not None:
            raise AssertionError(f"{self.actor.name} crashed") from self.actor.failure
        self.check(self.actor)

    def _run(self, what: Callable[[], Any]) -> None:
        async def call() -> None:
            await what()

        self._runner.run(call())

    async def _begin(self) -> None:
        started, self._stop = anyio.Event(), anyio.Event()

        async def live() -> None:
            try:
                async with hosted(self.actor):
                    started.set()
                    await self._stop.wait()
            except ActorCrashed:
                started.set()

        self._life = asyncio.get_running_loop().create_task(live())
        await started.wait()

    async def _end(self) -> None:
        self._stop.set()
        assert self._life is not None
        await self._life


def _nothing(_: Any) -> None:
    """No check."""
