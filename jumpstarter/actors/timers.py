"""Timers that an actor starts itself: after a while, again and again, or after a silence. Used by: actor, host, desk.

Each has a name, by which it is replaced and cancelled. Two kinds are cancelled by themselves: one bound to states when they are
left, one that waits for a silence is put off by every message that is handled. None outlives ``started``.
"""

from __future__ import annotations

from typing import Any

import anyio
from anyio.abc import TaskGroup

from jumpstarter.actors.letters import Letter
from jumpstarter.errors import ActorError

#: States of the life in which timers run.
_ALIVE = frozenset({"starting", "started"})


class Timer:
    """One timer that runs."""

    __slots__ = ("during", "every", "is_silence", "scope", "seconds", "what")

    def __init__(self, seconds: float, what: Any, *, every: bool, during: frozenset[str], is_silence: bool) -> None:
        self.seconds = seconds
        self.what = what
        self.every = every
        self.during = during
        self.is_silence = is_silence
        self.scope = anyio.CancelScope()


class Timers:
    """The timers of one actor. Only from the loop that hosts it."""

    def __init__(self, host: Any) -> None:
        self._host = host
        self._timers: dict[str, Timer] = {}
        #: Whether any of them waits for a silence.
        self.has_silences = False

    def start(self, task_group: TaskGroup | None, name: str, timer: Timer) -> None:
        """In place of the one that has this name, if any.

        :raises ActorError: the actor is neither starting nor started.
        """
        if task_group is None or self._host.life not in _ALIVE:
            raise ActorError(f"{self._host.name} is {self._host.life}: timers are started while it is starting or started")
        self.cancel(name)
        if timer.during and timer.during.isdisjoint(self._host.state.active):
            return
        self._timers[name] = timer
        self._note_silences()
        task_group.start_soon(self._run, name, timer, name=f"{self._host.name}: timer {name}")

    def cancel(self, name: str) -> bool:
        """True when there was one."""
        timer = self._timers.pop(name, None)
        if timer is None:
            return False
        timer.scope.cancel()
        self._note_silences()
        return True

    def follow(self, active: tuple[str, ...]) -> None:
        """After every step."""
        alive = active[0] in _ALIVE
        for name, timer in list(self._timers.items()):
            if not alive or (timer.during and timer.during.isdisjoint(active)):
                self.cancel(name)

    def put_off(self) -> None:
        """A message was handled: there is no silence yet."""
        now = anyio.current_time()
        for timer in self._timers.values():
            if timer.is_silence:
                timer.scope.deadline = now + timer.seconds

    def _note_silences(self) -> None:
        self.has_silences = any(timer.is_silence for timer in self._timers.values())

    async def _run(self, name: str, timer: Timer) -> None:
        due = anyio.current_time()
        while self._timers.get(name) is timer:
            due += timer.seconds
            with timer.scope:
                timer.scope.deadline = due
                await anyio.sleep_forever()
            if self._timers.get(name) is not timer:
                return
            if timer.every:
                timer.scope = anyio.CancelScope()
            else:
                del self._timers[name]
                self._note_silences()
            self._send(timer.what)

    def _send(self, what: Any) -> None:
        if isinstance(what, str):
            self._host.post(what)
        else:
            self._host.desk.push(Letter(what))
