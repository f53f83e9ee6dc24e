"""The host of an actor: one task that takes events from a queue, steps the chart, and starts and ends what the step asks for.

Comes from: actor (events from anywhere). Goes to: states (the chart), activities, phases, publish. A step never waits, so the actor
answers to ``stop`` and ``fail`` at any moment; whatever takes time runs in a task of its own in the host's task group.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import anyio
from anyio.abc import TaskGroup

from jumpstarter.actors import lifecycle
from jumpstarter.actors.activities import Activities
from jumpstarter.actors.breakers import Circuit
from jumpstarter.actors.desk import Desk
from jumpstarter.actors.health import Health
from jumpstarter.actors.modes import Severity
from jumpstarter.actors.phases import Phases
from jumpstarter.actors.plan import Plan
from jumpstarter.actors.publish import Publisher
from jumpstarter.actors.registry import registry
from jumpstarter.actors.supervision import Family
from jumpstarter.actors.threads import DedicatedThread
from jumpstarter.actors.timers import Timers
from jumpstarter.actors.view import StateView
from jumpstarter.actors.waiting import Waiter
from jumpstarter.errors import ActorError, StopTimeout
from jumpstarter.states import Step
from jumpstarter.telemetry.bus import bus

if TYPE_CHECKING:
    from jumpstarter.actors.actor import Actor
    from jumpstarter.actors.service import Service

logger = logging.getLogger(__name__)


_NO_CIRCUITS: Mapping[str, Circuit] = MappingProxyType({})


class Host:
    """Runs one actor. ``post``, ``fail``, ``state`` and ``health`` may be used from any thread, all else in the event loop's."""

    __slots__ = (
        "__weakref__",
        "_followers",
        "_instance",
        "_is_closing",
        "_is_pausing",
        "_is_rung",
        "_is_stepping",
        "_on_left",
        "_queue",
        "_started_at",
        "_threads",
        "_waiters",
        "activities",
        "actor",
        "circuits",
        "desk",
        "failure",
        "family",
        "faults",
        "health",
        "is_to_return",
        "name",
        "phases",
        "plan",
        "publisher",
        "restart_delay",
        "restarts",
        "service",
        "state",
        "supervisor",
        "timers",
    )

    def __init__(self, actor: Actor, name: str, plan: Plan) -> None:
        self.actor: Any = actor
        self.name = name
        self.plan = plan
        self.health = Health(plan.ward)
        self.failure: BaseException | None = None
        #: Restarts in a row, none of which was followed by a good while of being started.
        self.restarts = 0
        #: Seconds that the next restart backs off, where a supervisor says so.
        self.restart_delay: float | None = None
        #: The name of the actor whose child it is.
        self.supervisor: str | None = None
        #: Whether that one restarts it when it has crashed.
        self.is_to_return = False
        self.family: Family | None = None
        #: Called with ("resource", name) before it is acquired and ("message", message) before it is handled; tests let it raise.
        self.faults: Callable[[str, Any], object] | None = None
        self.timers: Timers | None = None
        self.circuits: Mapping[str, Circuit] = (
            {name: Circuit(self, name, options) for name, options in plan.breakers.items()} if plan.breakers else _NO_CIRCUITS
        )
        self.desk = Desk(self, plan.handlers, actor.mailbox, self.circuits) if plan.handlers else None
        self._followers: tuple[Callable[[Host], object], ...] = ()
        self._threads: dict[str, DedicatedThread] | None = None
        self.publisher = Publisher(name, type(actor).__name__, plan.chart)
        self.activities = Activities(self, plan.makers)
        self.phases = Phases(self)
        self._instance = plan.chart.instance(actor)
        self._instance.start()
        self.state = StateView(tuple(self._instance.active), plan.names)
        # A list, because an empty deque takes 0.7 KB, and it is emptied in batches.
        self._queue: list[tuple[str, Mapping[str, Any], Waiter | None]] = []
        #: Who serves it. A post rings there, unless the host is awake or was rung already.
        self.service: Service | None = None
        self._on_left: Callable[[], object] | None = None
        self._is_rung = False
        self._is_stepping = False
        self._waiters: list[Waiter] = []
        self._is_pausing = False
        self._is_closing = False
        self._started_at = 0.0

    # -- from anywhere --

    def post(self, event: str, /, **data: Any) -> None:
        """Queue an event for the chart. Never blocks; also from other threads and signal handlers."""
        self.enqueue(event, data, None)

    def fail(self, error: BaseException) -> None:
        """Crash the actor, after what it holds was released."""
        self.enqueue("fail", {"error": error}, None)

    def enqueue(self, event: str, data: Mapping[str, Any], waiter: Waiter | None) -> None:
        """As :meth:`post`; the waiter starts waiting with the step of this very event."""
        self._queue.append((event, data, waiter))
        if not self._is_rung:
            service = self.service
            if service is not None:
                self._is_rung = True
                service.doorbell.ring(self._wake)

    @property
    def task_group(self) -> TaskGroup | None:
        """In which everything of it runs, while it is served."""
        return self.service.task_group if self.service is not None else None

    @property
    def life(self) -> str:
        """The state of its life: ``initializing``, ``starting``, ``started`` and so on."""
        return self.state.active[0]

    @property
    def threads(self) -> dict[str, DedicatedThread]:
        """The threads of the resources that have one of their own."""
        if self._threads is None:
            self._threads = {}
        return self._threads

    @property
    def is_at_rest(self) -> bool:
        """Nothing runs and nothing is held."""
        return self.state.active[0] in lifecycle.AT_REST

    @property
    def is_serving(self) -> bool:
        """Whether anybody runs this actor."""
        return self.service is not None

    def rename(self, name: str) -> None:
        """Before it is served: its parent calls it something else."""
        self.name = self.actor.name = name
        self.publisher.machine = name

    # -- in the loop --

    def add_follower(self, follower: Callable[[Host], object]) -> Callable[[], None]:
        """Call it after every step in which the state of the life changes, until the returned function is called."""
        self._followers = (*self._followers, follower)

        def remove() -> None:
            self._followers = tuple(each for each in self._followers if each is not follower)

        return remove

    def restart_after(self, delay: float) -> None:
        """Restart it; it backs off for so many seconds."""
        self.restart_delay = delay
        self.post("restart")

    def make_family(self) -> Family:
        """Where its children are.

        :raises ActorError: it is neither starting nor started.
        """
        if self.service is None or self.life not in ("starting", "started"):
            raise ActorError(f"{self.name} is {self.life}: children are for actors that are starting or started")
        if self.family is None:
            self.family = Family(self, self.actor.strategy, self.service)
        return self.family

    def make_timers(self) -> Timers:
        """Where its timers are."""
        if self.timers is None:
            self.timers = Timers(self)
        return self.timers

    def watch(self, waiter: Waiter, *, at_rest: bool = False) -> None:
        """Have the waiter look at the state now and after each step.

        :param at_rest: it is over at once if the actor is at rest now and its state is another one.
        """
        if not waiter.look(self.state, at_rest=at_rest and self._is_end_for(waiter)):
            self._waiters.append(waiter)

    def serve_in(self, service: Service, on_left: Callable[[], object]) -> None:
        """Run the actor by the service of its parent, until it was closed and is at rest: then ``on_left`` is called."""
        self.service = service
        self._on_left = on_left
        registry.spawned(self, is_root=False)
        self.post("start")

    def is_over(self, *, until_stopped: bool) -> bool:
        """Nothing is left to do, and nobody wants more of it."""
        return (self._is_closing or until_stopped) and self.is_at_rest and not self._queue

    def end_service(self) -> None:
        """Nobody serves any more: whoever waits learns it, and an actor that did not get down its way counts as crashed."""
        if self.service is None:
            return
        family, self.family = self.family, None
        if family is not None:
            family.abandon()
            for child in family.actors:
                child._host.end_service()
        self.service = None
        self._is_rung = self._is_closing = False
        self._settle_accounts()
        registry.stopped(self)
        on_left, self._on_left = self._on_left, None
        if on_left is not None:
            on_left()

    @property
    def holds_anything(self) -> bool:
        """Whether it or a descendant holds resources."""
        return self.phases.holds_anything or any(child.holds_anything for child in self._children())

    async def release_all(self) -> None:
        """Release what it and its descendants hold, the last acquired first."""
        for child in reversed(self._children()):
            await child.release_all()
        await self.phases.release_all()

    def abandon(self) -> None:
        """No time is left: cancel even the releases."""
        for child in self._children():
            child.abandon()
        self.phases.abandon()

    def _children(self) -> tuple[Host, ...]:
        return tuple(child._host for child in self.family.actors) if self.family is not None else ()

    def close(self) -> None:
        """Stop the actor, and end :meth:`serve` when it is at rest."""
        self._is_closing = True
        self.post("stop")

    def patience(self, grace: float) -> float:
        """Seconds that a stop may take in all: draining, then cancelling, then one release after the other."""
        each = (self.actor.release_timeout if one.release_timeout is None else one.release_timeout for one in self.plan.resources)
        children = self.family.actors if self.family is not None else ()
        own = grace + float(self.actor.release_timeout) + sum(each)
        return own + sum(child._host.patience(child.stop_grace) for child in children)

    def pump(self) -> None:
        """Step through what was posted before this call. What a hook posts comes next, after other tasks had their turn."""
        if self._is_stepping:
            return
        self._is_stepping = self._is_rung = True
        try:
            if self._is_pausing and not self.activities.is_flowing():
                self.post("flow_halted")
            queue = self._queue
            batch = queue[:]
            del queue[: len(batch)]  # other threads may have appended since
            for event in batch:
                self._handle(*event)
        finally:
            self._is_stepping = self._is_rung = False
        # In this order: whoever posts after the flag fell rings, whoever posted before is seen here.
        if self._queue or (self._is_closing and self.is_at_rest):
            self._is_rung = True
            self._wake()

    def _wake(self) -> None:
        if self.service is not None:
            self.service.wake(self)

    # -- one event --

    def _handle(self, event: str, data: Mapping[str, Any], waiter: Waiter | None) -> None:
        match event:
            case "report_warning" | "report_problem":
                severity: Severity = "warning" if event == "report_warning" else "problem"
                self.health.report(data["source"], severity, data.get("detail"))
            case "recover":
                self.health.recover(data["source"])
            case "fail":
                self._note_failure(data.get("error"))
            case "stop" if data.get("grace") is not None:
                self.phases.limit_grace(data["grace"])
            case "resource_lost":
                self.phases.lose(data["resource"], data.get("error"))
                return
            case "start" | "restart" if self._is_closing:
                event = ""  # nobody will serve what would be started now
        step = self._send(event, data) if event else _NOTHING_DONE
        if step.transitions or step.entered or step.exited:
            self._after(step, event, data)
        if waiter is not None:
            waiter.was_handled = step.handled
            self.watch(waiter, at_rest=True)

    def _send(self, event: str, data: Mapping[str, Any]) -> Step:
        try:
            return self._instance.send(event, **data)
        except Exception as raised:  # noqa: BLE001 - hooks and guards are the user's; the chart is where it was before the event
            error = raised
        error.add_note(f"raised in a hook or guard of {self.name} for the event {event!r}")
        if event not in lifecycle.WAY_DOWN:
            self.fail(error)
            return _NOTHING_DONE
        self._note_failure(error)
        logger.error("%s: a hook failed on the way down, which is gone on without hooks", self.name, exc_info=error)
        return self._send_without_hooks(event)

    def _send_without_hooks(self, event: str) -> Step:
        guards = {"_has_failed": self.failure is not None}
        snapshot, step = self.plan.chart.step(self._instance.snapshot(), event, lambda name: guards.get(name, False))
        self._instance.restore(snapshot)
        return step

    def _after(self, step: Step, event: str, data: Mapping[str, Any]) -> None:
        before = self.state.active[0]
        self.state = StateView(tuple(self._instance.active), self.plan.names)
        active = self.state.active
        self.publisher.step(step, active, _detail(event, data))
        self._follow_life(step, event)
        if self.timers is not None:
            self.timers.follow(active)
        if self.desk is not None:
            self.desk.follow(active)
        self.activities.follow(active, step.exited, step.entered)
        if self._followers and active[0] != before:
            for follower in self._followers:
                follower(self)
        if self._waiters:
            self._waiters = [one for one in self._waiters if not one.look(self.state, at_rest=self._is_end_for(one))]

    def _is_end_for(self, waiter: Waiter) -> bool:
        return self.is_at_rest and not (waiter.is_patient and self.is_to_return)

    def _follow_life(self, step: Step, event: str) -> None:
        self._is_pausing = "started.flow.pausing" in self.state.active
        if "starting" in step.entered:
            self.failure = None
            self.health.clear()
            for circuit in self.circuits.values():
                circuit.reset()
        if "started" in step.entered:
            self._started_at = anyio.current_time()
            self.phases.was_started = True
        if event == "restart":
            lasted = "started" in step.exited and anyio.current_time() - self._started_at > self.actor.restart_backoff.cap
            self.restarts = 1 if lasted else self.restarts + 1
            self.failure = None

    def _note_failure(self, error: BaseException | None) -> None:
        error = error or ActorError(f"{self.name} was told to fail")
        if self.state.active[0] in ("stopped", "crashed"):
            logger.error("%s: failure after its end", self.name, exc_info=error)
        elif self.failure is None:
            self.failure = error
        elif self.failure is not error:
            logger.error("%s: another failure while it is failing", self.name, exc_info=error)

    def _settle_accounts(self) -> None:
        if not self.is_at_rest:
            self.failure = self.failure or StopTimeout(self.name, self.actor.stop_grace)
            self._instance = self.plan.chart.instance(self.actor)
            self._instance.start()
            self._after(self._instance.send("fail"), "fail", {"error": self.failure})
        for waiter in self._waiters:
            waiter.look(self.state, at_rest=True)
        self._waiters = []


_NOTHING_DONE = Step(handled=False)


def _detail(event: str, data: Mapping[str, Any]) -> str:
    """What an observer reads about the event: only built when somebody listens."""
    if not data or not bus.active:
        return ""
    if event == "fail":
        return repr(data.get("error"))
    return ", ".join(f"{key}={value}" for key, value in data.items())
