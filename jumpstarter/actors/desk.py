"""The desk of an actor: takes letters from its mailbox, one at a time, and calls the handler that its states permit.

Comes from: actor, refs (``tell``, ``ask``). Told by: host, after every step. Goes to: the methods of the actor. Nothing here steps
the chart for a message: which method handles what is looked up again only when a state changes that it depends on.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import anyio
from anyio.lowlevel import checkpoint

from jumpstarter.actors.activities import Activity, Run, unwrapped
from jumpstarter.actors.breakers import Circuit
from jumpstarter.actors.handlers import HandlerTable, Route
from jumpstarter.actors.letters import Letter, Mailbox, Reason, dead_letter, dead_letters
from jumpstarter.actors.port import HostPort
from jumpstarter.actors.signals import Signal, make_signal
from jumpstarter.errors import ActorStopped, CircuitOpen, HandlingCancelled, MailboxFull, Rejected

#: Handled messages in a row after which everybody else gets a turn: handlers that never wait would shut them out.
_TURN = 32

#: States of the life in which letters are taken and wait for better times.
_OPEN = frozenset({"initializing", "starting", "started", "restarting"})

#: The letters of an actor that never had one: most of ten thousand idle ones, and an empty deque takes 0.7 KB.
_NO_LETTERS: deque[Letter] = deque(maxlen=0)
_making = threading.Lock()


def _after_fork() -> None:
    """Another thread may have held it at that moment."""
    global _making  # noqa: PLW0603 - there is one lock per process
    _making = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)

_NONE_RELEVANT: frozenset[str] = frozenset({"?"})


class Desk:
    """The mailbox of one actor and what empties it. ``put_nowait`` may be called from any thread, ``put`` from any event loop."""

    __slots__ = (
        "_capacity",
        "_circuits",
        "_current",
        "_host",
        "_is_open",
        "_is_postponed",
        "_letters",
        "_options",
        "_relevant",
        "_routes",
        "_scope",
        "_stash",
        "_table",
        "_task_id",
        "_waiting",
        "_wake",
        "dead",
        "on_handled",
        "stays_open",
    )

    def __init__(self, host: HostPort, table: HandlerTable, options: Mailbox, circuits: Mapping[str, Circuit]) -> None:
        self._host = host
        self._table = table
        self._options = options
        self._capacity = options.capacity
        self._circuits = circuits
        self._letters = _NO_LETTERS
        self._stash: deque[Letter] | None = None
        self._relevant = _NONE_RELEVANT
        self._routes: dict[type, Route] = {}
        self._is_open = True
        #: Somebody will start it again when it has crashed, so that letters wait for that. Set by supervisors.
        self.stays_open = False
        #: How many letters died here.
        self.dead = 0
        #: Called after every message that was handled, for tests: with the message and its error, or None.
        self.on_handled: Callable[[Any, BaseException | None], object] | None = None
        self._wake: Signal | None = None
        self._waiting: deque[Signal] | None = None
        self._current: Letter | None = None
        self._is_postponed = False
        self._scope: anyio.CancelScope | None = None
        self._task_id = 0

    @property
    def depth(self) -> int:
        """How many messages wait, those included that were put aside."""
        return len(self._letters) + (len(self._stash) if self._stash else 0)

    @property
    def room(self) -> int:
        """How many more messages may come; none while the actor is not there."""
        return self._options.capacity - self.depth if self._is_open else 0

    @property
    def current(self) -> Letter | None:
        """The letter that is being handled."""
        return self._current

    # -- putting in --

    def offer(self, letter: Letter) -> bool:
        """The plain case of :meth:`put_nowait`, from any thread: the actor is there and there is room. False, and nothing is done,
        when it is not that plain."""
        letters = self._letters
        if len(letters) >= self._capacity or self._stash or letters is _NO_LETTERS or not self._is_open:
            return False
        letters.append(letter)
        wake = self._wake
        if wake is not None:
            wake.set()
        return True

    def put_nowait(self, letter: Letter) -> None:
        """From any thread.

        :raises MailboxFull: there is no room, and the policy is not to drop something.
        """
        if not self._is_open:
            self._bury(letter, "stopped")
        elif self.is_full() and not self._make_room(letter):
            return
        else:
            self._append(letter)

    async def put(self, letter: Letter) -> None:
        """As :meth:`put_nowait`, but waits for room where the policy is to wait.

        :raises MailboxFull: the policy is to reject, or the actor would wait for itself.
        """
        if self._options.when_full == "wait":
            while self.is_full() and self._is_open:
                await self._wait_for_room(letter)
        self.put_nowait(letter)

    def push(self, letter: Letter) -> None:
        """As :meth:`put_nowait`, room or not: for what the framework itself sends, which is bounded by what it is about."""
        if not self._is_open:
            self._bury(letter, "stopped")
        else:
            self._append(letter)

    def _append(self, letter: Letter) -> None:
        letters = self._letters
        if letters is _NO_LETTERS:
            letters = self._make_letters()
        letters.append(letter)
        if self._wake is not None:
            self._wake.set()

    def _make_letters(self) -> deque[Letter]:
        with _making:
            if self._letters is _NO_LETTERS:
                self._letters = deque()
            return self._letters

    def is_full(self) -> bool:
        """Whether there is no room for another message."""
        return len(self._letters) + (len(self._stash) if self._stash else 0) >= self._options.capacity

    def _make_room(self, letter: Letter) -> bool:
        """By the policy. False when the letter itself was dropped."""
        match self._options.when_full:
            case "drop_oldest":
                # What was put aside came first.
                self._bury((self._stash or self._letters).popleft(), "full")
                return True
            case "drop_newest":
                self._bury(letter, "full")
                return False
            case _:
                raise MailboxFull(self._host.name, self._options.capacity)

    async def _wait_for_room(self, letter: Letter) -> None:
        if self._task_id and anyio.get_current_task().id == self._task_id:
            raise MailboxFull(self._host.name, self._options.capacity, "its own handler cannot wait for room in it")
        if letter.reply is not None and letter.reply.is_over:
            return
        if self._waiting is None:
            self._waiting = deque()
        signal = make_signal()
        self._waiting.append(signal)
        try:
            await signal.wait()
        except BaseException:
            # Whoever was called and cannot come passes it on.
            if signal.is_set():
                self._call_next()
            else:
                self._waiting.remove(signal)
            raise

    def _call_next(self) -> None:
        if self._waiting:
            self._waiting.popleft().set()

    # -- told by the host --

    def follow(self, active: tuple[str, ...]) -> None:
        """After every step: states have changed."""
        relevant = self._table.states.intersection(active)
        if relevant != self._relevant:
            self._relevant = relevant
            self._routes = self._table.routes(relevant)
            self._cancel_if_left()
            self._take_up_stash()
        is_open = active[0] in _OPEN or self.stays_open
        if is_open != self._is_open:
            self._is_open = is_open
            if not is_open:
                self.discard()

    def discard(self) -> None:
        """Bury everything that waits: nobody will handle it."""
        while self._letters or self._stash:
            self._bury((self._stash or self._letters).popleft(), "stopped")
        while self._waiting:
            self._call_next()

    def shut(self) -> None:
        """Nobody will start this actor any more."""
        self.stays_open = False
        self.follow((self._host.life,))

    def postpone(self) -> bool:
        """Put the message that is being handled aside when its handler has returned. False when none is."""
        self._is_postponed = self._current is not None
        return self._is_postponed

    def cancel(self) -> None:
        """Wake the wait for letters up: leaving ends it (see :class:`~jumpstarter.actors.activities.Run`)."""
        if self._wake is not None:
            self._wake.set()

    def _cancel_if_left(self) -> None:
        """The method that is running may be no longer permitted."""
        if self._scope is None or self._current is None:
            return
        if self._route(type(self._current.message)).method is None:
            self._scope.cancel()

    def _take_up_stash(self) -> None:
        if self._stash:
            self._make_letters().extendleft(reversed(self._stash))
            self._stash = None
            if self._wake is not None:
                self._wake.set()

    # -- working --

    def activity(self, states: frozenset[str]) -> Activity:
        """What empties the mailbox while these states are active."""

        def on_end(error: Exception | None) -> None:
            if error is not None:
                self._host.fail(error)

        return Activity("mailbox", self._work, states, on_end=on_end, zone=frozenset(), on_leave="finish", flows=True)

    async def _work(self, run: Run) -> None:
        run.nap = self
        self._task_id = anyio.get_current_task().id
        turn = 0
        signal = make_signal()
        try:
            while not run.is_leaving:
                if not self._letters:
                    self._wake = signal = signal.renewed()
                    # In this order: what came before the signal is seen here, what comes later sets it.
                    if not self._letters:
                        await signal.wait()
                    self._wake = None
                    turn = 0
                    continue
                letter = self._letters.popleft()
                if self._waiting:
                    self._call_next()
                await self._deal_with(letter)
                turn += 1
                if turn >= _TURN:
                    turn = 0
                    await checkpoint()
        finally:
            self._task_id = 0
            self._wake = None

    def _route(self, kind: type) -> Route:
        route = self._routes.get(kind)
        return route if route is not None else self._table.add(self._routes, self._relevant, kind)

    async def _deal_with(self, letter: Letter) -> None:
        message, reply = letter.message, letter.reply
        if reply is not None and reply.is_over:
            self._bury(letter, "expired")
            return
        route = self._routes.get(type(message)) or self._route(type(message))
        if route.method is None:
            self._refuse(letter, route)
            return
        self._current = letter
        try:
            if self._host.faults is not None:
                self._host.faults("message", message)
            if route.is_plain:
                value = await getattr(self._host.actor, route.method)(message)
            else:
                value = await self._call_guarded(route, message)
        except Exception as raised:  # noqa: BLE001 - a handler may raise anything; the failure table says what follows
            self._current = None
            await self._failed(letter, route, unwrapped(raised))
            return
        except BaseException:
            self._current = None
            self._bury(letter, "cancelled")
            raise
        self._current = None
        if self._is_postponed:
            self._is_postponed = False
            self._put_aside(letter)
        elif reply is not None:
            reply.answer(value)
        else:
            letter.handled()
        self._note_handled(message, None)

    def _note_handled(self, message: Any, error: BaseException | None) -> None:
        timers = self._host.timers
        if timers is not None and timers.has_silences:
            timers.put_off()
        if self.on_handled is not None:
            self.on_handled(message, error)

    async def _call_guarded(self, route: Route, message: Any) -> Any:
        spec = route.spec
        with anyio.CancelScope() as scope:
            if spec.timeout is not None:
                scope.deadline = anyio.current_time() + spec.timeout
            if spec.on_leave == "cancel":
                self._scope = scope
            try:
                value = await self._call(route, message)
            finally:
                self._scope = None
        if scope.cancelled_caught:
            if spec.timeout is not None and anyio.current_time() >= scope.deadline:
                raise TimeoutError(f"{self._host.name}: {route.method}({message!r}) took longer than {spec.timeout:g} s")
            raise HandlingCancelled(self._host.name, message)
        if spec.breaker is not None:
            self._circuits[route.handler].succeeded()
        return value

    async def _call(self, route: Route, message: Any) -> Any:
        assert route.method is not None
        method = getattr(self._host.actor, route.method)
        if route.spec.thread is None:
            return await method(message)
        return await self._host.threads[route.spec.thread].run(method, message)

    def _refuse(self, letter: Letter, route: Route) -> None:
        """No method is permitted now."""
        if route.is_open and letter.reply is not None:
            letter.reply.fail(CircuitOpen(self._host.name, route.handler))
            return
        match route.spec.otherwise:
            case "stash":
                self._put_aside(letter)
            case "reject":
                self._bury(letter, "rejected", Rejected(self._host.name, letter.message, str(self._host.state)))
            case "dead_letter":
                letter.reply = None
                self._bury(letter, "rejected")

    def _put_aside(self, letter: Letter) -> None:
        if self._stash is None:
            self._stash = deque()
        self._stash.append(letter)

    async def _failed(self, letter: Letter, route: Route, error: Exception) -> None:
        """The failure table: an error belongs to who asked; told messages die, and ``on_error`` decides about the actor."""
        self._is_postponed = False
        if isinstance(error, HandlingCancelled):
            self._bury(letter, "cancelled", error)
            return
        self._note_handled(letter.message, error)
        is_declared = isinstance(error, route.spec.raises)
        if route.spec.breaker is not None and not is_declared:
            self._circuits[route.handler].failed(anyio.current_time(), error)
        if letter.reply is not None:
            letter.reply.fail(error)
            return
        self._bury(letter, "error", error)
        if not is_declared and route.spec.breaker is None:
            await self._host.actor.on_error(letter.message, error)

    def _bury(self, letter: Letter, reason: Reason, error: BaseException | None = None) -> None:
        """The letter reaches nobody; who asked learns why."""
        self.dead += 1
        name = self._host.name
        letter.died(reason, error)
        if letter.reply is not None:
            letter.reply.fail(error or self._why(reason, letter))
            if reason != "expired":
                error = None  # it has gone to who asked
        dead_letters.add(dead_letter(name, type(self._host.actor).__name__, letter.message, reason, error))

    def _why(self, reason: Reason, letter: Letter) -> Exception:
        name = self._host.name
        if reason == "stopped":
            return ActorStopped(name, self._host.life)
        if reason == "full":
            return MailboxFull(name, self._options.capacity)
        return HandlingCancelled(name, letter.message)
