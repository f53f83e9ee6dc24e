"""``@handles``: which method handles which message in which states. Goes to: plan, which resolves it; desk, which asks the routes.

A handler may have several methods: ``@get.during(without_cache)`` adds one for a state. For a message the first of them whose state
is active is called, then the handler's own method if its states permit, else its ``otherwise`` says what becomes of the message.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import MethodType
from typing import Any, Generic, Literal, Self, TypedDict, TypeVar, Unpack, overload

from jumpstarter.actors.breakers import CircuitBreaker
from jumpstarter.actors.declare import SPEC, During, OnLeave, leaving, owner_of, require_async, states_of
from jumpstarter.actors.messages import Command, Document, Event, Message
from jumpstarter.actors.modes import State
from jumpstarter.errors import ConfigurationError, DefinitionError

Otherwise = Literal["stash", "reject", "dead_letter"]

A = TypeVar("A")
M = TypeVar("M")
R = TypeVar("R")
Method = TypeVar("Method", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True, kw_only=True)
class HandlerSpec:
    """Options of a handler; see :func:`handles`."""

    messages: tuple[type[Message], ...]
    during: tuple[str | State, ...] = ()
    otherwise: Otherwise = "stash"
    on_leave: OnLeave = "finish"
    raises: tuple[type[Exception], ...] = ()
    timeout: float | None = None
    thread: str | None = None
    breaker: CircuitBreaker | None = None


@dataclass(frozen=True, slots=True)
class VariantSpec:
    """What ``@handler.during(…)`` notes beside its method."""

    handler: Handler[Any, Any]
    during: tuple[str | State, ...]


class Handler(Generic[M, R]):
    """A method that handles messages. Made by :func:`handles`. On an actor it is the method, so a test may call it."""

    def __init__(self, method: Callable[[Any, M], Any], spec: HandlerSpec) -> None:
        self.method = method
        self.spec = spec
        self.name = method.__name__
        self.__doc__ = method.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    @overload
    def __get__(self, actor: None, owner: type) -> Self: ...
    @overload
    def __get__(self, actor: object, owner: type) -> Callable[[M], R]: ...
    def __get__(self, actor: object | None, owner: type) -> Self | Callable[[M], R]:
        return self if actor is None else MethodType(self.method, actor)

    def during(self, *states: str | State) -> Callable[[Method], Method]:
        """A decorator for the method that handles the same messages while one of these states is active."""
        if not states:
            raise DefinitionError(self.name, f"@{self.name}.during() needs a state, for example @{self.name}.during(degraded)")

        def mark(method: Method) -> Method:
            _require_kind(method, self.spec.thread)
            setattr(method, SPEC, VariantSpec(self, states_of(states)))
            return method

        return mark


class Options(TypedDict, total=False):
    """What :func:`handles` takes whatever it handles, for type checkers."""

    during: During
    otherwise: Otherwise
    on_leave: OnLeave
    raises: type[Exception] | tuple[type[Exception], ...]
    timeout: float | None
    breaker: CircuitBreaker | None


@overload
def handles(
    message: type[Command[R]],
    /,
    *others: type[Command[R]],
    **options: Unpack[Options],
) -> Callable[[Callable[[A, M], Awaitable[R]]], Handler[M, Awaitable[R]]]: ...
@overload
def handles(
    message: type[Command[R]],
    /,
    *others: type[Command[R]],
    thread: str,
    **options: Unpack[Options],
) -> Callable[[Callable[[A, M], R]], Handler[M, R]]: ...
@overload
def handles(
    message: type[Event | Document],
    /,
    *others: type[Event | Document],
    thread: str | None = ...,
    **options: Unpack[Options],
) -> Callable[[Callable[[A, M], R]], Handler[M, R]]: ...
def handles(
    *messages: type[Message],
    during: During = None,
    otherwise: Otherwise = "stash",
    on_leave: OnLeave = "finish",
    raises: type[Exception] | tuple[type[Exception], ...] = (),
    timeout: float | None = None,
    breaker: CircuitBreaker | None = None,
    thread: str | None = None,
) -> Any:
    """Handle messages of these classes and of their subclasses, one message at a time.

    :param during: states in which it does. Default: healthy or degraded. While the actor is paused no message is handled.
    :param otherwise: what becomes of a message that comes in another state: ``stash`` puts it aside until the states change,
        ``reject`` makes it a dead letter and, for who asked, an :class:`~jumpstarter.errors.Rejected`; ``dead_letter`` drops it
        silently: who asked waits in vain.
    :param on_leave: when these states are left while a message is being handled, ``finish`` it (within the grace, when the actor
        stops) or ``cancel`` it.
    :param raises: errors that belong to the handler's contract: told messages that end in them become dead letters and no more.
        Every other error of a told message goes to ``on_error``, which crashes the actor unless it is overridden. Errors of asked
        messages go to who asked.
    :param timeout: seconds for one message; then it fails with TimeoutError.
    :param breaker: see :func:`~jumpstarter.actors.circuit_breaker`.
    :param thread: the name of a resource with ``thread="own"``: the method is a plain function and runs there.
    :raises ConfigurationError: an option that makes no sense.
    """
    for message in messages:
        if not (isinstance(message, type) and issubclass(message, Message)):
            raise ConfigurationError(
                f"handles({message!r}): a class of messages is needed: a subclass of Command, Event or Document"
            )
    if not messages:
        raise ConfigurationError("handles() needs at least one class of messages")
    if otherwise not in ("stash", "reject", "dead_letter"):
        raise ConfigurationError(f"handles: otherwise={otherwise!r} must be 'stash', 'reject' or 'dead_letter'")
    if timeout is not None and not timeout > 0:
        raise ConfigurationError(f"handles: timeout={timeout!r} must be more than 0 seconds")
    spec = HandlerSpec(
        messages=messages,
        during=states_of(during),
        otherwise=otherwise,
        on_leave=leaving(on_leave),
        raises=raises if isinstance(raises, tuple) else (raises,),
        timeout=timeout,
        thread=thread,
        breaker=breaker,
    )

    def declare(method: Callable[[Any, Any], Any]) -> Handler[Any, Any]:
        _require_kind(method, thread)
        return Handler(method, spec)

    return declare


def _require_kind(method: Any, thread: str | None) -> None:
    if thread is None:
        require_async(method, "handler")
    elif inspect.iscoroutinefunction(method):
        why = f"a handler with thread={thread!r} runs in that thread; write 'def {method.__name__}', or leave the thread out"
        raise DefinitionError(owner_of(method)[0], why)


@dataclass(frozen=True, slots=True)
class Route:
    """What is done with a message of one class while certain states are active.

    :ivar handler: the name of the handler.
    :ivar method: the name of the method to call; None: ``spec.otherwise``.
    :ivar is_open: there is none because the handler's circuit breaker is open.
    """

    handler: str
    method: str | None
    spec: HandlerSpec
    is_open: bool = False
    #: Nothing surrounds the call: no timeout, no thread, no breaker, and nothing cancels it but the end of the grace.
    is_plain: bool = field(init=False)

    def __post_init__(self) -> None:
        spec = self.spec
        plain = spec.timeout is None and spec.thread is None and spec.breaker is None and spec.on_leave == "finish"
        object.__setattr__(self, "is_plain", plain)


@dataclass(frozen=True, slots=True)
class HandlerPlan:
    """A handler with its states resolved: ``ways`` are states and the name of the method for them, in the order they are tried."""

    name: str
    spec: HandlerSpec
    ways: tuple[tuple[frozenset[str], str], ...]
    #: The state in which its circuit breaker is open, if it has one.
    open_state: str | None = None

    def route(self, active: frozenset[str]) -> Route:
        """While these states are active."""
        if self.open_state in active:
            return Route(self.name, None, self.spec, is_open=True)
        method = next((method for states, method in self.ways if not states.isdisjoint(active)), None)
        return Route(self.name, method, self.spec)


Routes = dict[type, Route]


class HandlerTable:
    """The handlers of a class. Shared by its instances.

    :ivar states: all states on which the choice of a method depends.
    """

    def __init__(self, handlers: Iterable[HandlerPlan]) -> None:
        self.handlers = tuple(handlers)
        named = {state for handler in self.handlers for states, _ in handler.ways for state in states}
        self.states = frozenset(named.union(handler.open_state for handler in self.handlers if handler.open_state))
        self._by_type: dict[type, HandlerPlan | None] = {kind: plan for plan in self.handlers for kind in plan.spec.messages}
        self._routes: dict[frozenset[str], Routes] = {}

    def __bool__(self) -> bool:
        return bool(self.handlers)

    def find(self, kind: type) -> HandlerPlan | None:
        """The handler of a class of messages: its own, or that of the nearest class it inherits from."""
        try:
            return self._by_type[kind]
        except KeyError:
            found = next((self._by_type[base] for base in kind.__mro__ if base in self._by_type), None)
            self._by_type[kind] = found
            return found

    def routes(self, relevant: frozenset[str]) -> Routes:
        """The routes while these of :attr:`states` are active; to be filled in by :meth:`add`."""
        return self._routes.setdefault(relevant, {})

    def add(self, routes: Routes, relevant: frozenset[str], kind: type) -> Route:
        """Fill in the route of a class of messages, which has a handler."""
        handler = self.find(kind)
        assert handler is not None
        route = routes[kind] = handler.route(relevant)
        return route


def variants_of(handler: Handler[Any, Any], declared: Mapping[str, VariantSpec]) -> list[tuple[str, VariantSpec]]:
    """The methods that were added to a handler, in order."""
    return [(name, spec) for name, spec in declared.items() if spec.handler.name == handler.name]
