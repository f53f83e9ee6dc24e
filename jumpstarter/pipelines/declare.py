"""What a pipeline class declares: steps, sinks, sides, what follows a failure and what decides the next run. Goes to: design.

As with actors, a decorator only notes options beside the function: the method stays a method, and an override keeps the options.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, overload

from jumpstarter.actors import Backoff
from jumpstarter.actors.declare import owner_of
from jumpstarter.errors import ConfigurationError, DefinitionError

Method = TypeVar("Method", bound=Callable[..., Any])

#: Where a decorated function keeps its specification; actors have an attribute of their own.
MARK = "__pipeline__"

#: What one call of a step costs: by unit a number, or a function of what the step is given.
Cost = Mapping[str, int | Callable[[Any], int]]

OnFull = Literal["drop_oldest", "drop_newest"]

_ONCE = Backoff(1.0, 60.0, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class StepSpec:
    """Options of a :func:`step` or a :func:`sink`."""

    kind: Literal["step", "sink"]
    cost: Cost
    retry: Backoff
    timeout: float | None
    concurrency: int
    budget: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SideSpec:
    """Options of a :func:`side`."""

    on_full: OnFull
    capacity: int
    durable: bool


@dataclass(frozen=True, slots=True)
class HookSpec:
    """``on_failed`` or ``next_run``."""

    kind: Literal["on_failed", "next_run"]


@dataclass(frozen=True, slots=True)
class NextRun:
    """What ``@next_run`` answers.

    :ivar rows: the loop takes at most so many rows; None: a whole batch.
    :ivar after: seconds to wait first.
    :ivar params: for the steps, as ``current_batch().params``.
    """

    rows: int | None = None
    after: float = 0.0
    params: Mapping[str, Any] | None = None


@overload
def step(method: Method, /) -> Method: ...
@overload
def step(
    *,
    cost: Cost | int | None = ...,
    retry: Backoff = ...,
    timeout: float | None = ...,
    concurrency: int = ...,
    budget: str = ...,
) -> Callable[[Method], Method]: ...
def step(
    method: Any = None,
    /,
    *,
    cost: Cost | int | None = None,
    retry: Backoff = _ONCE,
    timeout: float | None = None,
    concurrency: int = 1,
    budget: str = "budget",
) -> Any:
    """Do something with a batch of rows: ``async def geocode(self, rows)``. The next step or sink is given what it returns.

    A plain ``def`` runs in a thread. Steps run in the order of their declaration. A Celery task may be a step:
    ``geocode = step(cost=1)(tasks.geocode)`` publishes it with the rows and waits for its result.

    :param cost: what one call takes of the budget: ``dict(requests=1, rows=len)``; a number is so many requests.
    :param retry: after an error, it is tried again while there are tries left, each of which costs. Then the rows failed.
    :param timeout: seconds for one try; None: no limit.
    :param concurrency: so many batches may be in this step at once. The pipeline works on as many batches as its widest step.
    :param budget: the attribute of the class that holds the budget.
    """

    def mark(given: Any) -> Any:
        function = _calling(given) if hasattr(given, "apply_async") else given
        spec = StepSpec(
            kind="step",
            cost=_cost(function, cost),
            retry=retry,
            timeout=_limit(function, timeout),
            concurrency=_width(function, concurrency),
            budget=budget,
        )
        return _marked(function, spec)

    return mark if method is None else mark(method)


@overload
def sink(method: Method, /) -> Method: ...
@overload
def sink(*, retry: Backoff = ..., timeout: float | None = ...) -> Callable[[Method], Method]: ...
def sink(method: Any = None, /, *, retry: Backoff = _ONCE, timeout: float | None = None) -> Any:
    """Store what came of a batch: ``async def store(self, results)``. Rows count as done when every sink has returned.

    After a crash the same rows come again, so a sink writes by key. ``retry`` and ``timeout`` are those of :func:`step`.
    """

    def mark(function: Method) -> Method:
        spec = StepSpec(
            kind="sink", cost={}, retry=retry, timeout=_limit(function, timeout), concurrency=1_000_000, budget="budget"
        )
        return _marked(function, spec)

    return mark if method is None else mark(method)


def on_failed(method: Method, /) -> Method:
    """Decide about rows that failed: ``async def put_back(self, rows)`` or ``(self, rows, error)``.

    What it does not put back is dead. Without it, rows are tried again later, up to the source's ``attempts``.
    """
    return _marked(method, HookSpec("on_failed"))


def next_run(method: Method, /) -> Method:
    """Decide before each round whether, when and with what the loop goes round again: ``async def size(self, room)``.

    It is given the :class:`Room` in the budget, or nothing where it takes no argument, and answers a :class:`NextRun`, a number of
    rows, or None: the pipeline ends.
    """
    return _marked(method, HookSpec("next_run"))


@overload
def side(method: Method, /) -> Method: ...
@overload
def side(*, on_full: OnFull = ..., capacity: int = ..., durable: bool = ...) -> Callable[[Method], Method]: ...
def side(method: Any = None, /, *, on_full: OnFull = "drop_oldest", capacity: int = 1000, durable: bool = False) -> Any:
    """Do something beside the loop that cannot hurt it: ``async def history(self, event: BatchSettled)``.

    It runs as an actor of its own, with its own mailbox, and is told after a batch is settled. What it raises is logged and
    counted; while it stalls, the loop goes on. The annotation says of what it is told; without one of everything.

    :param on_full: what happens to events when ``capacity`` of them wait: the oldest or the newest are dropped.
    :param durable: events are kept in the store, in the same step as the rows are settled, until it has returned: none is dropped.
        What it fails to do for about an hour lies with the dead rows of the queue ``<pipeline>/<method>``.
    """

    def mark(function: Method) -> Method:
        if on_full not in ("drop_oldest", "drop_newest"):
            raise ConfigurationError(
                f"side {function.__name__!r}: on_full={on_full!r} must be 'drop_oldest' or 'drop_newest': nothing waits for a side"
            )
        return _marked(function, SideSpec(on_full=on_full, capacity=capacity, durable=durable))

    return mark if method is None else mark(method)


def _calling(task: Any) -> Callable[..., Any]:
    """A step that has a Celery task do the work, and waits for its result in a thread."""

    def call(self: Any, rows: Any) -> Any:  # noqa: ARG001 - a method
        result = task.delay(rows)
        # Also inside of another task: nothing here waits for a slot of its own pool.
        return result.get(disable_sync_subtasks=False)

    call.__name__ = getattr(task, "__name__", "call")
    call.__doc__ = task.__doc__
    return call


def _marked(function: Method, spec: object) -> Method:
    if not callable(function):
        raise ConfigurationError(f"{function!r} is no method")
    if not inspect.isfunction(function):
        owner, name = owner_of(function)
        raise DefinitionError(owner, f"{name} is no function; write a method that calls it")
    setattr(function, MARK, spec)
    return function


def _cost(function: Any, cost: Cost | int | None) -> Cost:
    found = {} if cost is None else {"requests": cost} if isinstance(cost, int) else dict(cost)
    for unit, amount in found.items():
        if not callable(amount) and not (isinstance(amount, int) and amount >= 0):
            raise ConfigurationError(
                f"step {function.__name__!r}: cost of {unit} is {amount!r}: a whole number or a function of the rows"
            )
    return found


def _limit(function: Any, timeout: float | None) -> float | None:
    if timeout is not None and not timeout > 0:
        raise ConfigurationError(f"{function.__name__!r}: timeout={timeout!r} must be more than 0 seconds, or None")
    return None if timeout is None else float(timeout)


def _width(function: Any, concurrency: int) -> int:
    if concurrency < 1:
        raise ConfigurationError(f"step {function.__name__!r}: concurrency={concurrency!r} must be at least 1")
    return concurrency
