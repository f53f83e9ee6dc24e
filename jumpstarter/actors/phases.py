"""The phases of a life that take time: acquire → on_start → started (on_ready) → drain → end tasks → release → on_stopped.

Each is an activity bound to states of the life cycle, so it is started, cancelled and awaited like any other; it ends by posting
the event that leads on. Comes from: host. Goes to: resources, activities, and the hooks of the actor.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Container
from typing import TYPE_CHECKING

import anyio

from jumpstarter.actors.activities import Activity, Maker, Run
from jumpstarter.actors.backoff import Backoff
from jumpstarter.actors.port import HostPort
from jumpstarter.actors.resources import Keeper
from jumpstarter.actors.signals import Signal, make_signal

if TYPE_CHECKING:
    from jumpstarter.actors.host import Host

logger = logging.getLogger(__name__)


class Phases:
    """The phases of one actor, and what they have acquired."""

    __slots__ = ("_draining", "_followed", "_grace_ends", "_has_drained", "_host", "_keepers", "was_started")

    def __init__(self, host: HostPort) -> None:
        self._host = host
        #: By name, in the order of acquisition.
        self._keepers: dict[str, Keeper] = {}
        #: What ends the watch over the actors that this one needs.
        self._followed: list[Callable[[], None]] = []
        #: Whether this life got as far as ``started``; set by the host.
        self.was_started = False
        self._has_drained = False
        #: The wait for everything that finishes; its deadline is the grace.
        self._draining: anyio.CancelScope | None = None
        self._grace_ends: float | None = None

    def limit_grace(self, grace: float) -> None:
        """Let draining take at most so many seconds from now; never lengthens it."""
        ends = anyio.current_time() + max(grace, 0.0)
        self._grace_ends = ends if self._grace_ends is None else min(ends, self._grace_ends)
        if self._draining is not None:
            self._draining.deadline = self._grace_ends

    def lose(self, name: str, error: BaseException | None) -> None:
        """A resource does not work any more."""
        if name in self._keepers:
            self._keepers[name].lose(error)

    @property
    def holds_anything(self) -> bool:
        """Whether resources are held."""
        return bool(self._keepers)

    async def release_all(self) -> None:
        """Release what is held, the last acquired first."""
        while self._keepers:
            name, keeper = next(reversed(self._keepers.items()))
            keeper.release()
            await keeper.ended.wait()
            self._keepers.pop(name, None)

    def abandon(self) -> None:
        """No time is left: cancel even the releases."""
        for keeper in self._keepers.values():
            keeper.abandon()

    async def _wait_for_needs(self) -> None:
        for need in self._host.plan.needs:
            other: Host = getattr(self._host.actor, need.name)._host
            concern = f"needs.{need.name}"
            started = make_signal()

            def follow(host: Host, concern: str = concern, started: Signal = started) -> None:
                if host.life == "started":
                    self._host.post("recover", source=concern)
                    started.set()
                else:
                    self._host.post("report_problem", source=concern, detail=f"{host.name} is {host.life}")

            self._followed.append(other.add_follower(follow))
            if other.life != "started":
                await started.wait()

    async def _let_go(self) -> None:
        while self._followed:
            self._followed.pop()()

    async def _acquire(self) -> None:
        self.was_started = self._has_drained = False
        self._grace_ends = None
        task_group = self._host.task_group
        assert task_group is not None
        for resource in self._host.plan.resources:
            keeper = self._keepers[resource.name] = Keeper(self._host, resource)
            task_group.start_soon(keeper.run, name=f"{self._host.name}: resource {resource.name}")
            await keeper.settled.wait()
            if keeper.failure is not None:
                raise keeper.failure

    async def _start(self) -> None:
        if self._host.plan.children:
            await self._host.make_family().start_declared(self._host.plan.children)
        await self._host.actor.on_start()

    async def _limit_start(self) -> None:
        timeout = self._host.actor.start_timeout
        if timeout is None:
            return
        await anyio.sleep(timeout)
        raise TimeoutError(f"{self._host.name} did not start within {timeout:g} s (start_timeout)")

    async def _ready(self) -> None:
        await self._host.actor.on_ready()

    async def _drain(self) -> None:
        if self._grace_ends is None:
            self.limit_grace(self._host.actor.stop_grace)
        assert self._grace_ends is not None
        with anyio.CancelScope(deadline=self._grace_ends) as self._draining:
            if self.was_started and not self._has_drained:
                self._has_drained = True
                await self._host.actor.on_stopping()
            for run in self._host.activities.finishing():
                await run.wait_ended()
        if self._draining.cancelled_caught:
            logger.warning("%s: draining was cut short when its grace was over", self._host.name)
        self._draining = None

    async def _end_tasks(self) -> None:
        for run in self._host.activities.cancel_tasks():
            await run.wait_ended()
        if self._host.family is not None:
            await self._host.family.stop_all()
            self._host.family = None
            for place in self._host.plan.children:
                self._host.actor.__dict__.pop(place.child.name, None)
        if self._host.failure is not None:
            await self._host.actor.on_failure(self._host.failure)

    async def _release(self) -> None:
        await self.release_all()
        await self._host.actor.on_stopped()

    async def _back_off(self) -> None:
        delays: Backoff = self._host.actor.restart_backoff
        delay, self._host.restart_delay = self._host.restart_delay, None
        await anyio.sleep(delays.delay(self._host.restarts) if delay is None else delay)


#: The name of each phase, what it does, the event that leads on, and its states. In this order.
_PHASES: tuple[tuple[str, Callable[[Phases], Awaitable[None]], str, tuple[str, ...]], ...] = (
    ("dependencies", Phases._wait_for_needs, "dependencies_started", ("starting.dependencies",)),
    ("acquire", Phases._acquire, "resources_acquired", ("starting.resources",)),
    ("on_start", Phases._start, "ready", ("starting.tasks",)),
    ("start_timeout", Phases._limit_start, "", ("starting",)),
    ("on_ready", Phases._ready, "", ("started",)),
    ("drain", Phases._drain, "drained", ("stopping.draining", "restarting.stopping.draining")),
    ("end tasks", Phases._end_tasks, "tasks_ended", ("stopping.tasks", "restarting.stopping.tasks")),
    ("release", Phases._release, "released", ("stopping.resources", "restarting.stopping.resources")),
    ("let go", Phases._let_go, "let_go", ("stopping.dependencies", "restarting.stopping.dependencies")),
    ("back off", Phases._back_off, "backed_off", ("restarting.backing_off",)),
)


def phase_makers(states: Container[str]) -> list[Maker]:
    """The phases as activities, those that a chart with these states has."""
    return [_maker(*phase) for phase in _PHASES if phase[3][0] in states]


def _maker(name: str, phase: Callable[[Phases], Awaitable[None]], event: str, states: tuple[str, ...]) -> Maker:
    bound = frozenset(states)

    def make(host: HostPort) -> list[Activity]:
        async def body(_: Run) -> None:
            await phase(host.phases)

        def on_end(error: Exception | None) -> None:
            if error is not None:
                host.fail(error)
            if event and (error is None or states[0].startswith("stopping")):  # a stop goes on whatever fails in it
                host.post(event)

        return [Activity(name, body, bound, on_end=on_end)]

    return Maker(make, bound)
