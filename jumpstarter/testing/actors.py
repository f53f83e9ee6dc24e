"""A harness for tests of actors: run one, tell it things, let things go wrong, and wait for what follows.

::

    async def test_it_serves_without_its_cache():
        async with harness(Catalog()) as test:
            test.refuse("cache")
            test.lose("cache")
            await test.until("without_cache")
            assert await test.ask(GetItem(7)) == Item(7)

With virtual time (:func:`~jumpstarter.testing.virtual_backend`) waiting takes no time, so every wait has a limit and says what
happened instead.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Generic, Literal, TypeVar

import anyio

from jumpstarter.actors import Actor, Command, DeadLetter, Message, State, dead_letters, hosted
from jumpstarter.errors import ActorCrashed, ActorError, ConfigurationError
from jumpstarter.telemetry.bus import StateTransition, bus
from jumpstarter.testing.clock import virtual_backend

A = TypeVar("A", bound=Actor)
M = TypeVar("M", bound=Message)
R = TypeVar("R")
T = TypeVar("T")

#: Seconds after which a wait of the harness fails.
PATIENCE = 3600.0


@dataclass(frozen=True, slots=True)
class Handled:
    """A message that the actor handled, and the error that its handler ended with, or None."""

    message: Message
    error: BaseException | None


class harness(Generic[A]):  # noqa: N801 - used as a function: async with harness(actor) as test
    """Runs an actor as long as a block lasts, as ``hosted`` does, and watches it. A crash that the test did not wait for
    (:meth:`until_crashed`) is raised at the end.

    :ivar actor: the actor.
    :ivar handled: what it handled, in order.
    :ivar dead: its dead letters.
    :ivar transitions: what its chart and its resources did.
    """

    def __init__(self, actor: A) -> None:
        self.actor = actor
        self.handled: list[Handled] = []
        self.dead: list[DeadLetter] = []
        self.transitions: list[StateTransition] = []
        self._hosted = hosted(actor)
        self._refused: dict[str, tuple[Exception, int | None]] = {}
        self._failing: list[tuple[type[Message], Exception]] = []
        self._changed = anyio.Event()
        self._ends: list[Callable[[], None]] = []
        self._may_have_crashed = False

    async def __aenter__(self) -> harness[A]:
        host = self.actor._host
        host.faults = self._raise_fault
        if host.desk is not None:
            host.desk.on_handled = self._note_handled
        self._ends = [bus.subscribe(self._note_transition), dead_letters.subscribe(self._note_dead)]
        try:
            await self._hosted.__aenter__()
        except BaseException:
            self._end()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        try:
            return await self._hosted.__aexit__(kind, error, trace)
        except ActorCrashed:
            if not self._may_have_crashed:
                raise
            return None
        finally:
            self._end()

    # -- what the test does --

    async def tell(self, message: Message) -> None:
        """See :meth:`Actor.tell`."""
        await self.actor.tell(message)

    async def ask(self, message: Command[R]) -> R:
        """See :meth:`Actor.ask`."""
        return await self.actor.ask(message)

    def lose(self, resource: str, error: Exception | None = None) -> None:
        """The resource does not work any more: it is released and acquired anew."""
        self.actor.report_lost(resource, error or ConnectionError(f"{resource}: lost by the test"))

    def refuse(self, resource: str, error: Exception | None = None, *, times: int | None = None) -> None:
        """From now on acquiring the resource fails; so many ``times``, or until :meth:`grant`. Also before the block begins."""
        self._require_resource(resource)
        self._refused[resource] = (error or ConnectionError(f"{resource}: refused by the test"), times)

    def grant(self, resource: str) -> None:
        """Acquiring it works again."""
        self._refused.pop(resource, None)

    def fail_next(self, message: type[Message], error: Exception) -> None:
        """The next message of this class ends in this error, in place of its handler."""
        self._failing.append((message, error))

    # -- what the test waits for: at most ``within`` seconds --

    async def until(self, state: str | State, *, within: float = PATIENCE) -> None:
        """Until the state is active.

        :raises AssertionError: it did not become active; the message has the transitions.
        """
        await self._within(self.actor.wait(state), within, f"{state} was not reached")

    async def until_handled(self, message: type[M], *, within: float = PATIENCE) -> M:
        """Until a message of this class was handled since the last call of this; returns it.

        :raises AssertionError: none was.
        """

        async def look() -> M:
            while True:
                for number, one in enumerate(self.handled[self._seen :], self._seen):
                    if isinstance(one.message, message):
                        self._seen = number + 1
                        return one.message
                await self._changed.wait()

        return await self._within(look(), within, f"no {message.__name__} was handled")

    async def until_crashed(self, *, within: float = PATIENCE) -> BaseException:
        """Until it has crashed; returns the failure, and the block does not raise it.

        :raises AssertionError: it did not, or it stopped.
        """
        self._may_have_crashed = True

        async def crash() -> None:
            with contextlib.suppress(ActorCrashed):
                await self.actor.wait_stopped()

        await self._within(crash(), within, "it did not crash")
        assert self.actor.failure is not None, f"{self.actor.name} stopped and did not crash\n{self.story()}"
        return self.actor.failure

    def states(self, region: str = "") -> list[str]:
        """The states that it came through in this region, as last names; the empty region is its life."""
        return [event.target.rpartition(".")[2] for event in self.transitions if event.region == region]

    def story(self) -> str:
        """What happened, a line for each transition: for messages of assertions."""
        lines = [f"{event.source or '·'} → {event.target} ({event.trigger})" for event in self.transitions]
        return "\n".join(lines) or "nothing happened"

    # -- inside --

    _seen = 0

    async def _within(self, waiting: Awaitable[T], within: float, what: str) -> T:
        try:
            with anyio.fail_after(within):
                return await waiting
        except TimeoutError:
            why = f"{what} within {within:g} s; {self.actor.name} is {self.actor.state}"
        except ActorError as error:
            why = f"{what}: {error}"
        raise AssertionError(f"{why}\n{self.story()}")

    def _raise_fault(self, kind: str, what: Any) -> None:
        if kind == "resource" and what in self._refused:
            error, times = self._refused[what]
            if times is not None and times <= 1:
                del self._refused[what]
            elif times is not None:
                self._refused[what] = (error, times - 1)
            raise error
        if kind == "message":
            for number, (message, error) in enumerate(self._failing):
                if isinstance(what, message):
                    del self._failing[number]
                    raise error

    def _require_resource(self, resource: str) -> None:
        known = [one.name for one in self.actor._host.plan.resources]
        if resource not in known:
            raise ConfigurationError(f"{self.actor.name} has no resource {resource!r}; it has {', '.join(known) or 'none'}")

    def _note_handled(self, message: Message, error: BaseException | None) -> None:
        self.handled.append(Handled(message, error))
        self._note_change()

    def _note_transition(self, event: StateTransition) -> None:
        if event.machine == self.actor.name:
            self.transitions.append(event)

    def _note_dead(self, letter: DeadLetter) -> None:
        if letter.actor == self.actor.name:
            self.dead.append(letter)

    def _note_change(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()

    def _end(self) -> None:
        for end in self._ends:
            end()
        self.actor._host.faults = None
        if self.actor._host.desk is not None:
            self.actor._host.desk.on_handled = None


def run_virtually(main: Callable[..., Awaitable[T]], *arguments: Any, backend: Literal["asyncio", "trio"] = "asyncio") -> T:
    """Run an async function in virtual time, on asyncio or trio, and return its result: for tests without anyio's pytest plugin."""
    name, options = virtual_backend(backend)
    return anyio.run(main, *arguments, backend=name, backend_options=options)
