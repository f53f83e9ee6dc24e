"""What a class declares: resources, tasks, loops, timers, health checks. Goes to: plan, which reads it off the class.

A decorator only notes options beside the function; the method stays an ordinary method, so a test may call it and a subclass may
override it (the override keeps the options). ``resource`` alone replaces the method: the attribute is what the resource holds.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Literal, Self, TypeVar, overload

from jumpstarter.actors.backoff import Backoff, Intensity, backoff
from jumpstarter.actors.breakers import CircuitBreaker
from jumpstarter.actors.modes import Severity, State
from jumpstarter.errors import ConfigurationError, DefinitionError

if TYPE_CHECKING:
    from jumpstarter.actors.actor import Actor

T = TypeVar("T")
Method = TypeVar("Method", bound=Callable[..., Any])
OnLeave = Literal["cancel", "finish"]
During = str | State | tuple[str | State, ...] | None

#: Where a decorated function keeps its specification.
SPEC = "__jumpstarter__"

#: For resources: five attempts, the last about 15 seconds after the first.
DEFAULT_RETRY = backoff(1, 30, tries=5)
#: For tasks: three restarts a minute.
DEFAULT_INTENSITY = Intensity()
#: For loops with nothing to do.
DEFAULT_IDLE = backoff(0.1, 5)


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSpec:
    """Options of a :func:`task`, a :func:`timer` (``every`` is set) or a :func:`loop` (``stages`` is set).

    :ivar during: states in which it runs, as they were written; empty for the default.
    """

    kind: Literal["task", "timer", "loop"]
    during: tuple[str | State, ...] = ()
    on_leave: OnLeave = "cancel"
    intensity: Intensity = DEFAULT_INTENSITY
    every: float = 0.0
    idle: Backoff = DEFAULT_IDLE
    stages: tuple[str, ...] = ()
    breaker: CircuitBreaker | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckSpec:
    """Options of a :func:`health_check`."""

    every: float
    timeout: float
    degrade_after: int | None
    fail_after: int
    recover_after: int
    severity: Severity
    unhealthy_for: float | None


@overload
def task(method: Method, /) -> Method: ...
@overload
def task(
    *,
    during: During = ...,
    on_leave: OnLeave = ...,
    restarts: int = ...,
    within: float = ...,
    retry: Backoff = ...,
    breaker: CircuitBreaker | None = ...,
) -> Callable[[Method], Method]: ...
def task(
    method: Any = None,
    /,
    *,
    during: During = None,
    on_leave: OnLeave = "cancel",
    restarts: int = 3,
    within: float = 60.0,
    retry: Backoff = DEFAULT_INTENSITY.retry,
    breaker: CircuitBreaker | None = None,
) -> Any:
    """Run this async method while the actor is in certain states. Used bare or with options.

    :param during: a state or several; in any of them it runs. Default: healthy or degraded. A state that does not exist is a
        :class:`~jumpstarter.errors.DefinitionError` when the class is created. ``actor.pause()`` suspends it, unless ``during``
        names ``started`` itself.
    :param on_leave: when the last of these states is left, ``cancel`` it and wait for its end, or let it ``finish``.
    :param restarts: it is started anew after an error at most this many times ``within`` so many seconds; then the actor fails.
    :param retry: how long to wait before that.
    :param breaker: in place of that limit: after too many failures it rests for ever longer whiles, the actor is degraded and does
        not fail. See :func:`~jumpstarter.actors.circuit_breaker`.
    """

    def mark(function: Method) -> Method:
        require_async(function, "task")
        spec = TaskSpec(
            kind="task",
            during=states_of(during),
            on_leave=leaving(on_leave),
            intensity=Intensity(restarts, within, retry),
            breaker=breaker,
        )
        return _marked(function, spec)

    return mark if method is None else mark(method)


def timer(
    *, every: float, during: During = None, restarts: int = 3, within: float = 60.0, retry: Backoff = DEFAULT_INTENSITY.retry
) -> Callable[[Method], Method]:
    """Run this async method every so many seconds, for the first time after the first of them.

    Never two at a time: what falls due while one runs is skipped, and the rhythm is kept. ``during`` and the restarts are those
    of :func:`task`.
    """
    _require_positive("timer", "every", every)

    def mark(function: Method) -> Method:
        require_async(function, "timer")
        spec = TaskSpec(kind="timer", during=states_of(during), every=every, intensity=Intensity(restarts, within, retry))
        return _marked(function, spec)

    return mark


def health_check(
    *,
    every: float,
    timeout: float = 5.0,
    degrade_after: int | None = None,
    fail_after: int = 1,
    recover_after: int = 1,
    severity: Severity = "problem",
    unhealthy_for: float | None = None,
) -> Callable[[Method], Method]:
    """Ask this async method every so many seconds whether all is well: True or None. False, an error and a timeout mean no.

    It is asked at once when the actor has started. A check never crashes the actor; it makes a concern under its own name.

    :param timeout: seconds after which it is cancelled and counts as failed.
    :param degrade_after: failures in a row that make a warning of it; less than ``fail_after``. None: there is no such step.
    :param fail_after: failures in a row that make the concern.
    :param recover_after: successes in a row that take it back.
    :param severity: ``problem`` makes the actor unhealthy, ``warning`` degrades it.
    :param unhealthy_for: seconds after which a concern that has not been taken back fails the actor, so that its supervisor
        restarts it. None: never.
    :raises ConfigurationError: for values that make no sense.
    """
    _require_positive("health_check", "every", every)
    _require_positive("health_check", "timeout", timeout)
    if fail_after < 1 or recover_after < 1:
        raise ConfigurationError(f"health_check: fail_after={fail_after!r} and recover_after={recover_after!r} must be at least 1")
    if degrade_after is not None and not 1 <= degrade_after < fail_after:
        raise ConfigurationError(
            f"health_check: degrade_after={degrade_after!r} must be at least 1 and less than fail_after={fail_after!r}"
        )
    if unhealthy_for is not None:
        _require_positive("health_check", "unhealthy_for", unhealthy_for)
    if severity not in ("warning", "problem"):
        raise ConfigurationError(f"health_check: severity={severity!r} must be 'warning' or 'problem'")

    def mark(function: Method) -> Method:
        require_async(function, "health_check")
        spec = CheckSpec(
            every=every,
            timeout=timeout,
            degrade_after=degrade_after,
            fail_after=fail_after,
            recover_after=recover_after,
            severity=severity,
            unhealthy_for=unhealthy_for,
        )
        return _marked(function, spec)

    return mark


class Loop:
    """Stages that feed each other, round and round. Made by :func:`loop`; each stage is a decorator: ``@work.polling``.

    :ivar methods: the name of the method of each stage; looked up on the actor, so subclasses may override them.
    """

    def __init__(self, stages: tuple[str, ...], spec: TaskSpec) -> None:
        self.stages = stages
        self.spec = spec
        self.methods: dict[str, str] = {}

    def __getattr__(self, stage: str) -> Callable[[Method], Method]:
        if stage.startswith("__"):
            raise AttributeError(stage)
        if stage not in self.stages:
            raise DefinitionError(f"loop{self.stages!r}", f"it has no stage {stage!r}; it has {', '.join(self.stages)}")

        def mark(function: Method) -> Method:
            require_async(function, f"stage {stage!r}")
            name = function.__name__
            if self.methods.setdefault(stage, name) != name:
                why = f"stage {stage!r} is {self.methods[stage]!r} already; override that method instead of declaring {name!r}"
                raise DefinitionError(f"loop{self.stages!r}", why)
            return function

        return mark


def loop(
    *stages: str,
    during: During = None,
    on_leave: OnLeave = "cancel",
    idle: Backoff = DEFAULT_IDLE,
    restarts: int = 3,
    within: float = 60.0,
    retry: Backoff = DEFAULT_INTENSITY.retry,
) -> Loop:
    """Run stages in turn: what one returns is the argument of the next; after the last comes the first, which has no argument.

    None from the first stage means that there is nothing to do: the loop is ``waiting`` for ``idle``'s delay, which grows until
    there is something again. ``during``, ``on_leave`` and the restarts are those of :func:`task`; with ``finish`` the round that
    has begun is gone through to its end. The region has the states waiting, the stages, suspended and failed.
    """
    if not stages:
        raise DefinitionError("loop()", "it needs at least one stage, for example loop('polling', 'processing')")
    for stage in stages:
        if stage in ("waiting", "suspended", "failed") or not stage.isidentifier() or stages.count(stage) > 1:
            why = (
                f"{stage!r} cannot be a stage: stages are different words, and waiting, suspended and failed have a meaning already"
            )
            raise DefinitionError(f"loop{stages!r}", why)
    intensity = Intensity(restarts, within, retry)
    spec = TaskSpec(
        kind="loop", during=states_of(during), on_leave=leaving(on_leave), intensity=intensity, idle=idle, stages=tuple(stages)
    )
    return Loop(tuple(stages), spec)


class Resource(Generic[T]):
    """A context manager that lives as long as the actor. Made by :func:`resource`. On an actor the attribute is what it holds."""

    def __init__(
        self,
        make: Callable[[Any], Any],
        *,
        retry: Backoff,
        timeout: float | None,
        release_timeout: float | None,
        optional: bool,
        thread: Literal["own"] | None,
    ) -> None:
        self.name = make.__name__
        self.__doc__ = make.__doc__
        self.retry = retry
        self.timeout = timeout
        self.release_timeout = release_timeout
        self.optional = optional
        self.thread = thread
        if inspect.isasyncgenfunction(make):
            self.make: Callable[[Any], Any] = asynccontextmanager(make)
        else:
            self.make = contextmanager(make) if inspect.isgeneratorfunction(make) else make

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    @overload
    def __get__(self, actor: None, owner: type) -> Self: ...
    @overload
    def __get__(self, actor: Actor, owner: type) -> T: ...
    def __get__(self, actor: Actor | None, owner: type) -> Self | T | None:
        # What is held lies in the actor's own __dict__ and is found there first: this is reached only while nothing is held.
        if actor is None:
            return self
        missing: T = actor._missing(self)
        return missing


Manager = AbstractAsyncContextManager[T, Any] | AbstractContextManager[T, Any]
Maker = (
    Callable[[Any], Manager[T]]
    | Callable[[Any], Awaitable[Manager[T]]]
    | Callable[[Any], AsyncIterator[T]]
    | Callable[[Any], Iterator[T]]
)


@overload
def resource(make: Maker[T], /) -> Resource[T]: ...
@overload
def resource(
    *,
    retry: Backoff = ...,
    timeout: float | None = ...,
    release_timeout: float | None = ...,
    optional: Literal[True],
    thread: Literal["own"] | None = ...,
) -> Callable[[Maker[T]], Resource[T | None]]: ...
@overload
def resource(
    *,
    retry: Backoff = ...,
    timeout: float | None = ...,
    release_timeout: float | None = ...,
    optional: Literal[False] = ...,
    thread: Literal["own"] | None = ...,
) -> Callable[[Maker[T]], Resource[T]]: ...
def resource(
    make: Any = None,
    /,
    *,
    retry: Backoff = DEFAULT_RETRY,
    timeout: float | None = None,
    release_timeout: float | None = None,
    optional: bool = False,
    thread: Literal["own"] | None = None,
) -> Any:
    """Declare a resource by a method that returns its context manager, sync or async, or that is a generator with one ``yield``.

    Resources are acquired in the order of their declaration before the actor has started, and released in reverse order; each is
    entered and left in one and the same task. A later one may use an earlier one.

    :param retry: how often acquiring it is tried, and how long to wait in between. When the tries are exhausted the actor crashes.
    :param timeout: seconds for one attempt to acquire it; None for no limit.
    :param release_timeout: seconds to release it; default: the actor's ``release_timeout``.
    :param optional: the actor starts without it (the attribute is None and the actor is degraded), and it is retried for ever.
    :param thread: ``own``: a synchronous context manager is made, entered and left on a thread of its own:
        ``await self.threads["gpu"].run(self.gpu.render, frame)``. Otherwise a synchronous one is entered in the event loop's
        thread, which it must not block.
    """

    def declare(function: Callable[[Any], Any]) -> Resource[Any]:
        if thread not in (None, "own"):
            raise ConfigurationError(f"resource {function.__name__!r}: thread={thread!r} must be None or 'own'")
        if thread == "own" and (inspect.isasyncgenfunction(function) or inspect.iscoroutinefunction(function)):
            raise ConfigurationError(
                f"resource {function.__name__!r}: thread='own' is for synchronous context managers; leave it out"
            )
        return Resource(function, retry=retry, timeout=timeout, release_timeout=release_timeout, optional=optional, thread=thread)

    return declare if make is None else declare(make)


def _marked(function: Method, spec: object) -> Method:
    setattr(function, SPEC, spec)
    return function


def require_async(function: Any, what: str) -> None:
    """:raises DefinitionError: it is no coroutine function."""
    if not inspect.iscoroutinefunction(function):
        owner, name = owner_of(function)
        raise DefinitionError(owner, f"a {what} must be an async method; write 'async def {name}(self)'")


def owner_of(function: Any) -> tuple[str, str]:
    """The name of the class in whose body a function stands, which is not there yet, or else its own; and its own."""
    name = getattr(function, "__name__", repr(function))
    around = getattr(function, "__qualname__", name).split(".")[-2:-1]
    return (around[0] if around and around[0] != "<locals>" else name), name


def _require_positive(what: str, option: str, value: float) -> None:
    if not value > 0:
        raise ConfigurationError(f"{what}: {option}={value!r} must be more than 0 seconds")


def states_of(during: During) -> tuple[str | State, ...]:
    """What was written after ``during=``, as a tuple.

    :raises ConfigurationError: it is neither a state nor several.
    """
    if during is None:
        return ()
    states = (during,) if isinstance(during, str | State) else tuple(during)
    if not states or not all(isinstance(state, str | State) for state in states):
        raise ConfigurationError(f"during={during!r} must be a state, the name of a state, or a tuple of these")
    return states


def leaving(on_leave: OnLeave) -> OnLeave:
    """What was written after ``on_leave=``.

    :raises ConfigurationError: it is neither of the two.
    """
    if on_leave not in ("cancel", "finish"):
        raise ConfigurationError(f"on_leave={on_leave!r} must be 'cancel' or 'finish'")
    return on_leave
