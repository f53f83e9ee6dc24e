"""The actor: what users subclass and what others call. Its life is run by its host.

Comes from: users and the worker. Goes to: plan (when a class is created), host (everything else).
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar

import anyio

from jumpstarter.actors.backoff import Backoff
from jumpstarter.actors.declare import Resource
from jumpstarter.actors.health import Concern
from jumpstarter.actors.host import Host, Waiter
from jumpstarter.actors.plan import Declared, Plan, declared, frozen, make_plan
from jumpstarter.actors.threads import DedicatedThread
from jumpstarter.actors.view import StateView
from jumpstarter.errors import ActorCrashed, ActorError, StopTimeout
from jumpstarter.states import Chart

_names: dict[str, itertools.count[int]] = {}


class Actor:
    """A component whose life is a hierarchical state machine.

    Subclasses declare resources, tasks, loops, timers and health checks, and override the hooks ``on_start`` … ``on_stopped``. To
    run one: ``await run(actor)``, or ``async with hosted(actor)``.

    :ivar name: unique in this process when it is not given: the class's, with a number from the second on.
    """

    #: Seconds that starting may take in all; None for no limit.
    start_timeout: float | None = None
    #: Seconds for draining when the actor stops: ``on_stopping``, and what finishes instead of being cancelled.
    stop_grace: float = 30.0
    #: Seconds for the release of each resource that has no limit of its own.
    release_timeout: float = 10.0
    #: How long to wait before a restart; grows while restarts follow each other.
    restart_backoff: Backoff = Backoff(0.1, 30.0)

    _declared: ClassVar[Declared]
    _plans: ClassVar[dict[Any, Plan]]

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        cls._declared = declared(cls)
        cls._plans = {}
        regions = inspect.getattr_static(cls, "regions")
        if isinstance(regions, classmethod):
            cls._plan_for(regions.__get__(None, cls)())
        elif regions is vars(Actor)["regions"]:
            cls._plan_for({})

    def __init__(self, *, name: str | None = None) -> None:
        self.name = name if name is not None else _unique(type(self).__name__)
        self._host = Host(self, self.name, self._plan_for(self.regions()))

    def regions(self) -> Mapping[str, Mapping[str, Any]]:
        """Further regions of ``started``, by name: definitions with ``states``, ``initial`` and ``transitions``.

        Asked for once per instance, before ``__init__`` of :class:`Actor` returns; as a class method once per class. Callbacks
        named in it are methods of the actor.
        """
        return {}

    # -- hooks --

    async def on_start(self) -> None:
        """All resources are held; what it does not finish keeps the actor in ``starting``. An error crashes the actor."""

    async def on_ready(self) -> None:
        """The actor has started, its tasks begin. Cancelled when ``started`` is left. An error crashes the actor."""

    async def on_stopping(self) -> None:
        """The actor drains: tasks are cancelled or finishing, resources are held. Within the grace. Only if it had started."""

    async def on_failure(self, error: BaseException) -> None:
        """The actor fails: its tasks have ended, its resources are still held."""

    async def on_stopped(self) -> None:
        """Everything is released; the actor is about to be ``stopped`` or ``crashed``."""

    # -- from any thread --

    @property
    def state(self) -> StateView:
        """The active states, as they were after the last step. From any thread."""
        return self._host.state

    @property
    def chart(self) -> Chart:
        """The compiled chart of its class; ``chart.mermaid()`` draws it. From any thread."""
        return self._host.plan.chart

    @property
    def concerns(self) -> Mapping[str, Concern]:
        """What is wrong, by source; health is the worst of it. From any thread."""
        return self._host.health.concerns

    @property
    def failure(self) -> BaseException | None:
        """Why the actor fails or crashed. From any thread."""
        return self._host.failure

    @property
    def threads(self) -> Mapping[str, DedicatedThread]:
        """The threads of the resources that have one of their own and are held, by name."""
        return MappingProxyType(self._host.threads)

    def post(self, event: str, /, **data: Any) -> None:
        """Queue an event for the chart; its hooks get the data. Never blocks; from any thread and from signal handlers.

        An event that no active state has a transition for does nothing.

        :raises ActorError: no transition of the chart has such an event.
        """
        if event not in self._host.plan.events:
            self._host.plan.require_event(event)
        self._host.enqueue(event, data, None)

    def report_warning(self, source: str, detail: object = None) -> None:
        """Say that something works worse: the actor is at least ``degraded`` until the source recovers. From any thread."""
        self._host.post("report_warning", source=source, detail=detail)

    def report_problem(self, source: str, detail: object = None) -> None:
        """Say that something does not work: the actor is ``unhealthy`` until the source recovers. From any thread."""
        self._host.post("report_problem", source=source, detail=detail)

    def recover(self, source: str) -> None:
        """Take back what this source reported. From any thread."""
        self._host.post("recover", source=source)

    def report_lost(self, resource: str, error: BaseException | None = None) -> None:
        """Say that a resource which is held does not work any more: it is released and acquired anew. From any thread."""
        if resource not in (one.name for one in self._host.plan.resources):
            raise ActorError(f"{self.name} has no resource {resource!r}")
        self._host.post("resource_lost", resource=resource, error=error)

    def fail(self, error: BaseException) -> None:
        """Crash the actor with this cause; what it holds is released first. From any thread."""
        self._host.fail(error)

    # -- from any task of the event loop that hosts it --

    async def start(self) -> None:
        """Start, and wait until it has started. Returns at once when it has.

        :raises ActorCrashed: it failed while starting; the reason is the ``__cause__``.
        :raises ActorError: nobody hosts it, or it was stopped meanwhile.
        """
        self._require_host("start")
        await self._request("start", lambda state: "started" in state.active, "started")

    async def stop(self, *, grace: float | None = None) -> None:
        """Stop, and wait until it has stopped or crashed. Does nothing when it is at rest.

        :param grace: seconds for draining, in place of ``stop_grace``; 0 cancels at once. A second call can only shorten it.
        :raises StopTimeout: something ignores its cancellation, or a release hangs. The actor goes on stopping.
        """
        if not self._host.is_serving:
            return
        limit = self.stop_grace if grace is None else grace
        waiter = Waiter(lambda _: self._host.is_at_rest)
        self._host.enqueue("stop", {"grace": limit}, waiter)
        with anyio.move_on_after(self._host.patience(limit)) as scope:
            await waiter.over.wait()
        if scope.cancelled_caught:
            raise StopTimeout(self.name, limit)

    async def restart(self) -> None:
        """Stop, back off, start again, and wait until it has started. From ``started`` or ``crashed``.

        :raises ActorCrashed: it failed on its way.
        :raises ActorError: it can not be restarted from where it is.
        """
        self._require_host("restart")
        await self._request("restart", lambda state: "started" in state.active, "started", refusable=True)

    async def pause(self) -> None:
        """Suspend tasks, loops and timers, and wait until they have ended (or until somebody resumes).

        :raises ActorError: it has not started.
        """
        self._require_host("pause")
        await self._request(
            "pause", lambda state: "started" in state.active and "started.flow.pausing" not in state.active, "paused"
        )

    async def resume(self) -> None:
        """Let tasks, loops and timers run again.

        :raises ActorError: it has not started.
        """
        self._require_host("resume")
        await self._request("resume", lambda state: "started.flow.running" in state.active, "started.flow.running")

    async def wait(self, state: str) -> None:
        """Wait until the state is active; see :meth:`StateView.matches`.

        :raises ActorCrashed: the actor crashed instead.
        :raises ActorError: the actor stopped instead.
        :raises DefinitionError: there is no such state.
        """
        path = self._host.plan.names.find(state, "wait: ")
        waiter = Waiter(lambda view: path in view.active)
        self._host.watch(waiter, at_rest="crashed" in self.state.active)
        await self._over(waiter, path)

    async def wait_stopped(self) -> None:
        """Wait until it has stopped.

        :raises ActorCrashed: it crashed; the reason is the ``__cause__``.
        """
        waiter = Waiter(lambda view: view.active[0] in ("stopped", "crashed"))
        self._host.watch(waiter)
        await waiter.over.wait()
        self._raise_crash()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r}: {self.state}>"

    # -- inside --

    @classmethod
    def _plan_for(cls, regions: Mapping[str, Mapping[str, Any]]) -> Plan:
        if "_plans" not in vars(cls):  # Actor itself
            cls._declared, cls._plans = declared(cls), {}
        key = frozen(regions)
        plan = cls._plans.get(key)
        if plan is None:
            plan = cls._plans[key] = make_plan(cls, cls._declared, regions)
        return plan

    async def _request(self, event: str, is_met: Any, state: str, *, refusable: bool = False) -> None:
        waiter = Waiter(is_met)
        before = str(self.state)
        self._host.enqueue(event, {}, waiter)
        await waiter.over.wait()
        if refusable and not waiter.was_handled:
            raise ActorError(f"{self.name} cannot {event} while it is {before}")
        await self._over(waiter, state)

    async def _over(self, waiter: Waiter, state: str) -> None:
        await waiter.over.wait()
        if waiter.has_missed:
            self._raise_crash()
            raise ActorError(f"{self.name} is {self.state} and did not get to {state!r}")

    def _raise_crash(self) -> None:
        if "crashed" in self.state.active:
            raise ActorCrashed(self.name) from self.failure

    def _require_host(self, what: str) -> None:
        if not self._host.is_serving:
            raise ActorError(f"{self.name} cannot {what}: nobody hosts it; use 'await run(actor)' or 'async with hosted(actor)'")

    def _missing(self, resource: Resource[Any]) -> Any:
        """What an attribute of a resource is while the resource is not held."""
        if resource.optional:
            return None
        raise ActorError(f"{self.name}: resource {resource.name!r} is not held now; the actor is {self.state}")

    # Guards of the life cycle.

    def _has_failed(self) -> bool:
        return self._host.failure is not None

    def _is_healthy(self) -> bool:
        return self._host.health.level == "healthy"

    def _is_degraded(self) -> bool:
        return self._host.health.level == "degraded"

    def _is_unhealthy(self) -> bool:
        return self._host.health.level == "unhealthy"


def _unique(name: str) -> str:
    number = next(_names.setdefault(name, itertools.count(1)))
    return name if number == 1 else f"{name}-{number}"
