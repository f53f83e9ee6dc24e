"""The host of an actor: one task that takes events from a queue, steps the chart, and starts and ends what the step asks for.

Comes from: actor (events from anywhere). Goes to: states (the chart), activities, phases, publish. A step never waits, so the actor
answers to ``stop`` and ``fail`` at any moment; whatever takes time runs in a task of its own in the host's task group.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import anyio
from anyio.abc import TaskGroup, TaskStatus

from jumpstarter.actors import lifecycle
from jumpstarter.actors.activities import Activities, Activity
from jumpstarter.actors.breakers import Circuit
from jumpstarter.actors.desk import Desk
from jumpstarter.actors.health import Health
from jumpstarter.actors.modes import Severity
from jumpstarter.actors.phases import Phases
from jumpstarter.actors.plan import Plan
from jumpstarter.actors.publish import Publisher
from jumpstarter.actors.supervision import Family
from jumpstarter.actors.threads import DedicatedThread, Doorbell
from jumpstarter.actors.timers import Timers
from jumpstarter.actors.view import StateView
from jumpstarter.actors.work import (
    check_activity,
    circuit_activity,
    task_activities,
    timeout_activity,
    trial_activity,
    unwell_activity,
)
from jumpstarter.errors import ActorError, StopTimeout
from jumpstarter.states import Step
from jumpstarter.telemetry.bus import bus

if TYPE_CHECKING:
    from jumpstarter.actors.actor import Actor

logger = logging.getLogger(__name__)


class Waiter:
    """Somebody who waits for a state.

    :ivar was_handled: what became of the event that was posted with it: False when no transition took it.
    :ivar has_missed: the actor came to rest before the state was reached.
    """

    __slots__ = ("_is_met", "has_missed", "is_patient", "over", "was_handled")

    def __init__(self, is_met: Callable[[StateView], bool], *, is_patient: bool = False) -> None:
        self._is_met = is_met
        #: A crash is not the end for it where a supervisor restarts the actor.
        self.is_patient = is_patient
        self.over = anyio.Event()
        self.was_handled = True
        self.has_missed = False

    def look(self, state: StateView, *, at_rest: bool) -> bool:
        """After a step. True when there is nothing more to wait for."""
        if not self._is_met(state):
            if not at_rest:
                return False
            self.has_missed = True
        self.over.set()
        return True


class Host:
    """Runs one actor. ``post``, ``fail``, ``state`` and ``health`` may be used from any thread, all else in the event loop's."""

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
        self.timers: Timers | None = None
        self.circuits: Mapping[str, Circuit] = {name: Circuit(self, name, options) for name, options in plan.breakers.items()}
        self.desk = Desk(self, plan.handlers, actor.mailbox, self.circuits) if plan.handlers else None
        self._followers: tuple[Callable[[Host], object], ...] = ()
        self.threads: dict[str, DedicatedThread] = {}
        self.publisher = Publisher(name, type(actor).__name__, plan.chart)
        self.task_group: TaskGroup | None = None
        self.activities = Activities(self)
        self.phases = Phases(self, plan.resources)
        self._instance = plan.chart.instance(actor)
        self._instance.start()
        self.state = StateView(tuple(self._instance.active), plan.names)
        self._queue: deque[tuple[str, Mapping[str, Any], Waiter | None]] = deque()
        #: Set while somebody serves; a post rings it unless the host is awake, or was rung already.
        self._doorbell: Doorbell | None = None
        self._is_rung = False
        self._is_stepping = False
        self._woken: anyio.Event | None = None
        self._waiters: list[Waiter] = []
        self._is_pausing = False
        self._is_closing = False
        self._started_at = 0.0
        for activity in self._make_activities():
            self.activities.add(activity)

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
            doorbell = self._doorbell
            if doorbell is not None:
                self._is_rung = True
                doorbell.ring(self._wake)

    @property
    def life(self) -> str:
        """The state of its life: ``initializing``, ``starting``, ``started`` and so on."""
        return self.state.active[0]

    @property
    def is_at_rest(self) -> bool:
        """Nothing runs and nothing is held."""
        return self.state.active[0] in lifecycle.AT_REST

    @property
    def is_serving(self) -> bool:
        """Whether anybody runs this actor."""
        return self._doorbell is not None

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
        if self.task_group is None or self.life not in ("starting", "started"):
            raise ActorError(f"{self.name} is {self.life}: children are for actors that are starting or started")
        if self.family is None:
            self.family = Family(self, self.actor.strategy, self.task_group)
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

    async def serve(self, *, until_stopped: bool, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Run the actor, until it has stopped or until :meth:`close`. To be cancelled at will: then it is stopped within its grace.

        :raises ActorError: it is served already.
        """
        if self.is_serving:
            raise ActorError(f"{self.name} is hosted already; one actor has one host")
        self._doorbell = Doorbell()
        task_status.started()
        over = anyio.Event()
        try:
            async with anyio.create_task_group() as outer:
                # The cancellation of the caller must not reach what the actor runs before the actor has stopped in its own way.
                shelter = anyio.CancelScope(shield=True)
                outer.start_soon(self._sheltered, shelter, over, until_stopped, name=f"{self.name}: host")
                try:
                    await over.wait()
                except anyio.get_cancelled_exc_class():
                    with anyio.move_on_after(self.patience(self.actor.stop_grace), shield=True):
                        self.close()
                        await over.wait()
                    self.phases.abandon()
                    shelter.cancel()
                    raise
        finally:
            self._end_service()

    async def serve_in(self, task_group: TaskGroup) -> None:
        """Run the actor in the task group of its parent, whose shelter is its own, until :meth:`close`."""
        self._doorbell = Doorbell()
        self.post("start")
        try:
            await self._live(task_group, until_stopped=False)
        finally:
            self._end_service()

    def _end_service(self) -> None:
        self._doorbell = None
        self._is_rung = self._is_closing = False
        self._settle_accounts()

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
            for _ in range(len(self._queue)):
                self._handle(*self._queue.popleft())
        finally:
            self._is_stepping = self._is_rung = False
        # In this order: whoever posts after the flag fell rings, whoever posted before is seen here.
        if self._queue or (self._is_closing and self.is_at_rest):
            self._is_rung = True
            self._wake()

    async def _sheltered(self, shelter: anyio.CancelScope, over: anyio.Event, until_stopped: bool) -> None:
        try:
            with shelter:
                async with anyio.create_task_group() as task_group:
                    await self._live(task_group, until_stopped=until_stopped)
        finally:
            over.set()

    async def _live(self, task_group: TaskGroup, *, until_stopped: bool) -> None:
        self.task_group = task_group
        self.activities.open(task_group)
        self.phases.open(task_group)
        try:
            await self._work(until_stopped=until_stopped)
        finally:
            if self.phases.holds_anything:
                # The way down was not gone: a KeyboardInterrupt in a task.
                with anyio.move_on_after(self.patience(0.0), shield=True):
                    await self.phases.release_all()
                self.phases.abandon()
            self.task_group = None

    async def _work(self, *, until_stopped: bool) -> None:
        if until_stopped:
            self.post("start")
        while True:
            self._woken = anyio.Event()
            self.pump()
            if self.is_at_rest and not self._queue and (self._is_closing or until_stopped):
                return
            await self._woken.wait()

    def _wake(self) -> None:
        if self._woken is not None:
            self._woken.set()

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
        """Nobody serves any more: whoever waits learns it, and an actor that did not get down its way counts as crashed."""
        if not self.is_at_rest:
            self.failure = self.failure or StopTimeout(self.name, self.actor.stop_grace)
            self._instance = self.plan.chart.instance(self.actor)
            self._instance.start()
            self._after(self._instance.send("fail"), "fail", {"error": self.failure})
        for waiter in self._waiters:
            waiter.look(self.state, at_rest=True)
        self._waiters = []

    def _make_activities(self) -> list[Activity]:
        tasks = [activity for plan in self.plan.tasks for activity in task_activities(self, plan)]
        checks = [check_activity(self, name, spec) for name, spec in self.plan.checks]
        chart = self.plan.chart
        timeouts = [timeout_activity(self, state, seconds, chart.timeout_event(state)) for state, seconds in chart.timeouts.items()]
        rests = [circuit_activity(circuit) for circuit in self.circuits.values()]
        rests += [trial_activity(self.circuits[plan.name]) for plan in self.plan.tasks if plan.name in self.circuits]
        desk = [self.desk.activity(("started.mailbox.running",))] if self.desk is not None else []
        return [*self.phases.activities(), *tasks, *desk, *checks, *timeouts, *rests, unwell_activity(self)]


_NOTHING_DONE = Step(handled=False)


def _detail(event: str, data: Mapping[str, Any]) -> str:
    """What an observer reads about the event: only built when somebody listens."""
    if not data or not bus.active:
        return ""
    if event == "fail":
        return repr(data.get("error"))
    return ", ".join(f"{key}={value}" for key, value in data.items())
