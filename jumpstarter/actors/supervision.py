"""The children of an actor: started in order, restarted by its strategy, stopped in reverse order. Used by: actor, phases.

Children are served by the service of their parent, so none outlives it. What follows the end of a child is decided in
:meth:`Family._ended`; whatever takes time (delays, stopping siblings) runs in a task of its own, one at a time for strategies that
touch several children.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import anyio

from jumpstarter.actors.backoff import Restarts
from jumpstarter.actors.family import ChildSpec, Place, Strategy
from jumpstarter.errors import ActorCrashed, ActorError, ChildFailed

if TYPE_CHECKING:
    from jumpstarter.actors.actor import Actor
    from jumpstarter.actors.host import Host
    from jumpstarter.actors.service import Service

logger = logging.getLogger(__name__)

A = TypeVar("A", bound="Actor")


class Member:
    """One child: the actor, and what is to become of it.

    :ivar is_settled: it has started for the first time, or will never.
    :ivar is_expected: its parent or its strategy stops it just now.
    :ivar is_over: it has ended and is not to be restarted.
    """

    __slots__ = ("actor", "host", "is_expected", "is_over", "is_settled", "left", "settled", "spec", "unfollow")

    def __init__(self, actor: Actor, spec: ChildSpec) -> None:
        self.actor = actor
        self.host: Host = actor._host
        self.spec = spec
        self.is_settled = False
        # Events are large; there are some while somebody waits.
        self.settled: anyio.Event | None = None
        self.left: anyio.Event | None = None
        self.is_expected = False
        self.is_over = False
        self.unfollow: Callable[[], None]

    def settle(self) -> None:
        """It has started, or never will."""
        self.is_settled = True
        if self.settled is not None:
            self.settled.set()

    def is_to_restart(self, *, crashed: bool) -> bool:
        """Whether its options ask for it."""
        return self.spec.restart == "always" or (crashed and self.spec.restart == "crash")


class Family:
    """The children of one actor."""

    def __init__(self, host: Host, strategy: Strategy, service: Service) -> None:
        self._host = host
        self._strategy = strategy
        self._service = service
        self._members: dict[str, Member] = {}
        self._restarts = Restarts(strategy.intensity)
        #: Of the restarts that are under way.
        self._scopes: set[anyio.CancelScope] = set()
        self._reacting = 0
        self._idle: anyio.Event | None = None
        self._lock: anyio.Lock | None = None
        self._is_closing = False

    @property
    def actors(self) -> tuple[Actor, ...]:
        """The children that live or will be restarted, in the order of their start."""
        return tuple(member.actor for member in self._members.values())

    async def start_declared(self, places: Iterable[Place]) -> None:
        """Make and start the declared children, one after the other.

        :raises ActorError: one is no actor or runs already.
        """
        parent = self._host.actor
        for place in places:
            child = place.child.make(parent)
            for need, sibling in place.wires.items():
                setattr(child, need, getattr(parent, sibling or need))
            child._host.rename(f"{self._host.name}/{place.child.name}")
            parent.__dict__[place.child.name] = child
            await self._admit(child, place.child.spec)

    async def spawn(self, child: A, spec: ChildSpec) -> A:
        """Run one more child; see :meth:`Actor.spawn`."""
        member = await self._admit(child, spec)
        if member.is_over and child.failure is not None:
            raise ActorCrashed(child.name) from child.failure
        return child

    def abandon(self) -> None:
        """Nobody serves them any more: nothing follows from their ends."""
        self._is_closing = True

    async def stop_all(self) -> None:
        """Stop all, the last first. What is being restarted is not any more."""
        self._is_closing = True
        for scope in self._scopes:
            scope.cancel()
        while self._reacting:
            self._idle = anyio.Event()
            await self._idle.wait()
        for member in reversed(list(self._members.values())):
            await self._stop(member)
            member.left = anyio.Event()
            self._dismiss(member)
            await member.left.wait()

    async def _admit(self, child: Actor, spec: ChildSpec) -> Member:
        host = child._host
        if self._is_closing:
            raise ActorError(f"{self._host.name} is stopping and has no more children")
        if host.is_serving:
            raise ActorError(f"{child.name} is hosted already; one actor has one host")
        if child.name in self._members:
            raise ActorError(f"{self._host.name} has a child {child.name!r} already; give this one another name")
        member = self._members[child.name] = Member(child, spec)
        host.supervisor = self._host.name
        host.is_to_return = spec.restart != "never"
        if host.desk is not None:
            host.desk.stays_open = spec.restart != "never"
        member.unfollow = host.add_follower(self._follower(member))
        host.serve_in(self._service, partial(self._left, member))
        if not member.is_settled:
            member.settled = anyio.Event()
            await member.settled.wait()
            member.settled = None
        return member

    def _left(self, member: Member) -> None:
        member.is_over = True
        member.unfollow()
        member.settle()
        if member.left is not None:
            member.left.set()

    def _follower(self, member: Member) -> Any:
        def follow(host: Host) -> None:
            if host.life == "started":
                member.settle()
            elif host.is_at_rest and host.life != "initializing" and not member.is_expected and not self._is_closing:
                self._ended(member)

        return follow

    def _ended(self, member: Member) -> None:
        """A child has stopped or crashed, and nobody here told it to."""
        failure = member.host.failure if member.host.life == "crashed" else None
        if not member.is_to_restart(crashed=failure is not None):
            self._give_up(member, failure)
            return
        delay = self._restarts.next_delay(anyio.current_time())
        if delay is None:
            error = ChildFailed(self._host.name, member.actor.name, f"ended more than {self._strategy.intensity.restarts} times")
            error.__cause__ = failure
            self._host.fail(error)
            return
        level = logging.WARNING if failure is not None else logging.INFO
        logger.log(level, "%s: child %s ended; again in %.3g s", self._host.name, member.actor.name, delay, exc_info=failure)
        self._reacting += 1
        assert self._service.task_group is not None
        self._service.task_group.start_soon(self._react, member, delay, name=f"{self._host.name}: restart {member.actor.name}")

    def _give_up(self, member: Member, failure: BaseException | None) -> None:
        self._dismiss(member)
        if failure is not None:
            logger.error("%s: child %s crashed and is not restarted", self._host.name, member.actor.name, exc_info=failure)
        if not member.spec.significant:
            return
        if failure is None:
            self._host.post("stop")
        else:
            error = ChildFailed(self._host.name, member.actor.name, "crashed, which is significant")
            error.__cause__ = failure
            self._host.fail(error)

    async def _react(self, member: Member, delay: float) -> None:
        """Restart what the strategy says."""
        try:
            with anyio.CancelScope() as scope:
                if self._is_closing:
                    return
                self._scopes.add(scope)
                try:
                    await self._restart(member, delay)
                finally:
                    self._scopes.discard(scope)
        finally:
            self._reacting -= 1
            if self._idle is not None:
                self._idle.set()

    async def _restart(self, member: Member, delay: float) -> None:
        if self._strategy.kind == "one_for_one":
            if member.host.life == "crashed":
                member.host.restart_after(delay)  # it shows that it backs off
            else:
                await anyio.sleep(delay)
                await self._start(member)
            return
        if self._lock is None:
            self._lock = anyio.Lock()
        async with self._lock:
            if not member.host.is_at_rest:
                return  # restarted with another one that ended
            affected = self._affected(member)
            for each in reversed(affected):
                await self._stop(each)
            await anyio.sleep(delay)
            for each in affected:
                if not await self._start(each):
                    return  # its own end is dealt with by itself

    def _affected(self, member: Member) -> list[Member]:
        members = [each for each in self._members.values() if not each.is_over]
        if self._strategy.kind == "rest_for_one" and member in members:
            members = members[members.index(member) :]
        return members

    async def _stop(self, member: Member) -> None:
        member.is_expected = True
        try:
            await member.actor.stop()
        except ActorError:
            logger.exception("%s: child %s does not stop", self._host.name, member.actor.name)

    async def _start(self, member: Member) -> bool:
        member.is_expected = False
        try:
            if member.host.life == "crashed":
                member.host.restart_after(0.0)
            await member.actor.start()
        except ActorError:
            return False
        return True

    def _dismiss(self, member: Member) -> None:
        """It is not run any more."""
        member.is_over = True
        member.host.is_to_return = False
        if self._members.get(member.actor.name) is member:
            del self._members[member.actor.name]
        if member.host.desk is not None:
            member.host.desk.shut()
        member.host.close()
        member.settle()
