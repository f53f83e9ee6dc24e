"""What an actor's state looks like from outside: an immutable view, safe to read in any thread. Made by: host."""

from __future__ import annotations

from dataclasses import dataclass

from jumpstarter.actors.modes import State
from jumpstarter.actors.plan import StateNames


@dataclass(frozen=True, slots=True, eq=False)
class StateView:
    """The configuration of an actor at one moment.

    :ivar active: the paths of all active states in document order: those without children, and those around them.
    """

    active: tuple[str, ...]
    _names: StateNames

    def matches(self, state: str | State) -> bool:
        """Whether the state is active. ``started.health.degraded``, or a unique ending of it: ``degraded``.

        :raises DefinitionError: there is no such state, or the short name means several.
        """
        path = str(state)
        return path in self.active or self._names.find(path) in self.active

    @property
    def leaves(self) -> tuple[str, ...]:
        """The active states without active states inside them: one per region."""
        active = self.active
        # In document order a state's children come right after it.
        return tuple(
            state for index, state in enumerate(active) if index + 1 == len(active) or not active[index + 1].startswith(f"{state}.")
        )

    def __str__(self) -> str:
        return " | ".join(self.leaves)

    def __eq__(self, other: object) -> bool:
        return self.active == other.active if isinstance(other, StateView) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.active)
