"""Somebody who waits for a state of an actor. Used by: actor, host."""

from __future__ import annotations

from collections.abc import Callable

import anyio

from jumpstarter.actors.view import StateView


class Waiter:
    """Waits until a state is met, or the actor has come to rest without it.

    :ivar is_patient: a crash is not the end for it where a supervisor restarts the actor.
    :ivar was_handled: what became of the event that was posted with it: False when no transition took it.
    :ivar has_missed: the actor came to rest before the state was reached.
    """

    __slots__ = ("_is_met", "has_missed", "is_patient", "over", "was_handled")

    def __init__(self, is_met: Callable[[StateView], bool], *, is_patient: bool = False) -> None:
        self._is_met = is_met
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
