"""What a class says about other actors: the children that it runs, and the actors that it depends on. Goes to: plan, supervision.

``catalog = child(Catalog)`` runs one beside its own life; ``catalog = needs(Catalog)`` says that it cannot work without one, which
somebody else runs. On an actor both attributes are the other actor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Literal, Self, TypeVar, overload

from jumpstarter.actors.backoff import Backoff, Intensity
from jumpstarter.errors import ActorError, ConfigurationError, DefinitionError

if TYPE_CHECKING:
    from jumpstarter.actors.actor import Actor

A = TypeVar("A", bound="Actor")

#: When a child that has ended is started again: ``always``, only after a ``crash``, or ``never``.
RestartWhen = Literal["always", "crash", "never"]

_RETRY = Backoff(0.1, 30.0)
_INTENSITY = Intensity(3, 60.0, _RETRY)


@dataclass(frozen=True, slots=True)
class Strategy:
    """What a supervisor does when a child has crashed. Made by :func:`one_for_one`, :func:`one_for_all` and :func:`rest_for_one`.

    :ivar kind: which children are restarted: ``one_for_one`` the one, ``one_for_all`` all, ``rest_for_one`` it and those that were
        started after it.
    :ivar intensity: more restarts than that, and the supervisor fails.
    """

    kind: Literal["one_for_one", "one_for_all", "rest_for_one"] = "one_for_one"
    intensity: Intensity = _INTENSITY


def one_for_one(*, restarts: int = 3, within: float = 60.0, retry: Backoff = _RETRY) -> Strategy:
    """Restart the child that crashed, at most ``restarts`` times ``within`` so many seconds, each after ``retry``'s delay."""
    return Strategy("one_for_one", Intensity(restarts, within, retry))


def one_for_all(*, restarts: int = 3, within: float = 60.0, retry: Backoff = _RETRY) -> Strategy:
    """Stop all other children, the last first, and start all again in order: for children that only make sense together."""
    return Strategy("one_for_all", Intensity(restarts, within, retry))


def rest_for_one(*, restarts: int = 3, within: float = 60.0, retry: Backoff = _RETRY) -> Strategy:
    """Stop the children that were started after it, and start it and them again: for children that build on each other."""
    return Strategy("rest_for_one", Intensity(restarts, within, retry))


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildSpec:
    """Options of a child; see :func:`child`."""

    restart: RestartWhen = "crash"
    significant: bool = False

    def __post_init__(self) -> None:
        if self.restart not in ("always", "crash", "never"):
            raise ConfigurationError(f"child: restart={self.restart!r} must be 'always', 'crash' or 'never'")
        if self.significant and self.restart == "always":
            raise ConfigurationError(
                "child: significant=True needs restart='crash' or 'never': what is always restarted never ends"
            )


class Child(Generic[A]):
    """A child that is declared. Made by :func:`child`. On an actor that has started, the attribute is the child."""

    def __init__(self, make: Callable[[Any], A], kind: type[A] | None, spec: ChildSpec) -> None:
        self.make = make
        #: Its class, where that is known before it is made.
        self.kind = kind
        self.spec = spec
        self.name = getattr(make, "__name__", "child")
        self.__doc__ = getattr(make, "__doc__", None)

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    @overload
    def __get__(self, actor: None, owner: type) -> Self: ...
    @overload
    def __get__(self, actor: Actor, owner: type) -> A: ...
    def __get__(self, actor: Actor | None, owner: type) -> Self | A:
        # A child that was made lies in the actor's own __dict__ and is found there first.
        if actor is None:
            return self
        raise ActorError(f"{actor.name}: child {self.name!r} is made when {actor.name} starts; it is {actor.state}")


@overload
def child(make: type[A], /, *, restart: RestartWhen = ..., significant: bool = ...) -> Child[A]: ...
@overload
def child(make: Callable[[Any], A], /) -> Child[A]: ...
@overload
def child(*, restart: RestartWhen = ..., significant: bool = ...) -> Callable[[Callable[[Any], A]], Child[A]]: ...
def child(make: Any = None, /, *, restart: RestartWhen = "crash", significant: bool = False) -> Any:
    """Declare an actor that this one runs: by its class, or, as a decorator, by a method that makes it.

    Children are made and started in order before ``on_start``, when the resources are held; each is given the siblings that it
    ``needs``, which are started before it. They are stopped in reverse order when the tasks have ended. What follows a crash is
    said by the class's ``strategy``.

    :param restart: ``crash``: it is started again when it has crashed; ``always``: also when it has stopped by itself; ``never``.
    :param significant: when it ends and is not to be restarted, its parent stops (after a crash: fails).
    """
    spec = ChildSpec(restart=restart, significant=significant)

    def declare(what: Any) -> Child[Any]:
        if isinstance(what, type):
            return Child(lambda _: what(), what, spec)
        return Child(what, None, spec)

    return declare if make is None else declare(make)


class Need(Generic[A]):
    """Another actor that this one cannot do without. Made by :func:`needs`; on an actor the attribute is the other one."""

    def __init__(self, kind: type[A]) -> None:
        self.kind = kind
        self.name = ""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    @overload
    def __get__(self, actor: None, owner: type) -> Self: ...
    @overload
    def __get__(self, actor: Actor, owner: type) -> A: ...
    def __get__(self, actor: Actor | None, owner: type) -> Self | A:
        if actor is None:
            return self
        try:
            found: A = actor.__dict__[self.name]
        except KeyError:
            raise ActorError(
                f"{actor.name} needs {self.name!r}, a {self.kind.__name__}, and was given none; say {actor.name}.{self.name} = …"
            ) from None
        return found

    def __set__(self, actor: Actor, other: A) -> None:
        if not isinstance(other, self.kind):
            raise ActorError(f"{actor.name}.{self.name} must be a {self.kind.__name__}, not {other!r}")
        actor.__dict__[self.name] = other


def needs(kind: type[A]) -> Need[A]:
    """Depend on another actor: this one starts when that one has started, is unhealthy while it is not, and recovers with it.

    A parent gives it to its children; otherwise assign it before the start: ``orders.catalog = catalog``.
    """
    return Need(kind)


@dataclass(frozen=True, slots=True)
class Place:
    """A child in the order of its siblings.

    :ivar wires: by need, the name of the sibling that is given to it; None: the parent's own need of that name.
    """

    child: Child[Any]
    wires: Mapping[str, str | None]


def in_order(owner: str, declared: Iterable[Child[Any]]) -> tuple[Place, ...]:
    """Children in the order in which they start: as declared, but what one needs before it.

    :raises DefinitionError: they need each other in a circle.
    """
    children = list(declared)
    places = {one.name: Place(one, _wires(one, children)) for one in children}
    ordered: dict[str, Place] = {}

    def put(name: str, above: tuple[str, ...]) -> None:
        if name in above:
            circle = " → ".join((*above[above.index(name) :], name))
            raise DefinitionError(owner, f"children need each other in a circle: {circle}; let one of them be told instead")
        for wire in places[name].wires.values():
            if wire is not None:
                put(wire, (*above, name))
        ordered.setdefault(name, places[name])

    for name in places:
        put(name, ())
    return tuple(ordered.values())


def _wires(one: Child[Any], siblings: Iterable[Child[Any]]) -> dict[str, str | None]:
    """What is given to a child for each of its needs: the sibling of that name, or the only one of that class."""
    if one.kind is None:
        return {}
    found: dict[str, str | None] = {}
    for name, need in one.kind._declared.needs.items():
        fitting = [each.name for each in siblings if each is not one and each.kind is not None and issubclass(each.kind, need.kind)]
        found[name] = name if name in fitting else fitting[0] if len(fitting) == 1 else None
    return found
