"""States as objects, and modes: the user's own kinds of bad days, computed like all of health. Goes to: declare, plan, health.

``during=healthy`` is checked when Python reads the line, and ``without_cache = degraded(when=lost(cache))`` makes a state inside
``started.health.degraded`` that is active while its condition holds. A mode also says *how bad* it is: what it names in ``lost`` or
``failing`` counts as a warning in a mode of ``degraded``, and as a problem in one of ``unhealthy``, whatever it would count
otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from jumpstarter.errors import ConfigurationError, DefinitionError

Severity = Literal["warning", "problem"]
Level = Literal["healthy", "degraded", "unhealthy"]

#: A warning degrades, a problem makes unhealthy.
LEVELS: Mapping[Severity, Level] = {"warning": "degraded", "problem": "unhealthy"}

#: The state inside of a level that has modes, while none of them holds.
OTHER = "other"


class State:
    """A state of an actor, to be named in ``during=`` and in :meth:`Actor.wait`. ``str(state)`` is its path."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __str__(self) -> str:
        return self.path

    def __repr__(self) -> str:
        return f"<state {self.path}>"


class Condition:
    """Asked with the sources of all concerns: does it hold? Made by :func:`lost`, :func:`failing` and :func:`reported`; ``&`` and
    ``|`` combine conditions.

    :ivar sources: all concerns that it asks about.
    """

    def __init__(self, holds: Callable[[Collection[str]], bool], sources: Iterable[str], text: str) -> None:
        self.holds = holds
        self.sources = frozenset(sources)
        self._text = text

    def __and__(self, other: Condition) -> Condition:
        return Condition(lambda now: self.holds(now) and other.holds(now), self.sources | other.sources, f"{self} and {other}")

    def __or__(self, other: Condition) -> Condition:
        return Condition(lambda now: self.holds(now) or other.holds(now), self.sources | other.sources, f"({self} or {other})")

    def __str__(self) -> str:
        return self._text


class Mode(State):
    """A state of health of the user's own, made by ``degraded(when=…)`` or ``unhealthy(when=…)`` in the body of a class.

    :ivar level: ``degraded`` or ``unhealthy``.
    """

    def __init__(self, level: Literal["degraded", "unhealthy"], when: Condition) -> None:
        super().__init__("")
        self.level = level
        self.when = when
        self.name = ""

    def __set_name__(self, owner: type, name: str) -> None:
        if name == OTHER:
            raise DefinitionError(
                owner.__name__, f"a mode cannot be called {OTHER!r}: that is where no mode holds; call it what it is"
            )
        self.name = name
        self.path = f"started.health.{self.level}.{name}"


class HealthState(State):
    """``degraded`` or ``unhealthy``: a state, and called with ``when=`` the maker of a mode inside it."""

    def __init__(self, level: Literal["degraded", "unhealthy"]) -> None:
        super().__init__(f"started.health.{level}")
        self._level = level

    def __call__(self, *, when: Condition) -> Mode:
        """A mode: the state that is active while the actor is as (un)well as this and ``when`` holds. Of several modes that hold
        the one that is declared first counts.

        :raises ConfigurationError: ``when`` is no condition.
        """
        if not isinstance(when, Condition):
            raise ConfigurationError(
                f"{self._level}(when={when!r}): a condition is needed: lost(resource), failing(check) or reported('source')"
            )
        return Mode(self._level, when)


healthy = State("started.health.healthy")
degraded = HealthState("degraded")
unhealthy = HealthState("unhealthy")


def lost(*resources: Any) -> Condition:
    """Holds while any of these resources (or of these names of resources) is not held, for whatever reason."""
    return _any_of("lost", "resource.", resources)


def failing(*checks: Any) -> Condition:
    """Holds while any of these health checks (or of these names) counts as failed."""
    return _any_of("failing", "", checks)


def reported(*sources: str) -> Condition:
    """Holds while any of these sources has reported a warning or a problem that it has not taken back."""
    return _any_of("reported", "", sources)


@dataclass(frozen=True, slots=True)
class Ward:
    """What the modes of a class make of its concerns.

    :ivar modes: in the order of their declaration.
    :ivar severities: by source, how bad it is because a mode says so.
    """

    modes: tuple[Mode, ...] = ()
    severities: Mapping[str, Severity] | None = None

    @classmethod
    def of(cls, modes: Iterable[Mode]) -> Ward:
        """For these modes."""
        found = tuple(modes)
        severities: dict[str, Severity] = {}
        for mode in found:
            for source in mode.when.sources:
                severities.setdefault(source, "warning" if mode.level == "degraded" else "problem")
        return cls(found, severities or None)

    def place(self, level: Level, sources: Collection[str]) -> str:
        """Where in the health region an actor of this level with concerns from these sources is: ``degraded.without_cache``."""
        if not any(mode.level == level for mode in self.modes):
            return level
        holding = (mode.name for mode in self.modes if mode.level == level and mode.when.holds(sources))
        return f"{level}.{next(holding, OTHER)}"

    def places(self) -> tuple[str, ...]:
        """All places that there are, the worst last."""
        found = ["healthy"]
        for level in ("degraded", "unhealthy"):
            names = [mode.name for mode in self.modes if mode.level == level]
            found += [f"{level}.{name}" for name in (*names, OTHER)] if names else [level]
        return tuple(found)


#: No modes.
NO_WARD = Ward()


def _any_of(word: str, prefix: str, things: Iterable[Any]) -> Condition:
    names = [_name_of(word, thing) for thing in things]
    if not names:
        raise ConfigurationError(f"{word}() needs at least one name")
    sources = [prefix + name for name in names]
    return Condition(lambda now: any(source in now for source in sources), sources, f"{word}({', '.join(names)})")


def _name_of(word: str, thing: Any) -> str:
    name = thing if isinstance(thing, str) else getattr(thing, "name", None) or getattr(thing, "__name__", None)
    if not isinstance(name, str):
        raise ConfigurationError(f"{word}({thing!r}): it must be declared above in the same class, or be a name")
    return name
