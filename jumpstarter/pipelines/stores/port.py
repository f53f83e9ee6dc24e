"""What every store can do: keep budgets, queues of rows with leases, joins and counts. Implemented by: memory, sqlite, redis.

All methods block and may be called from any thread. Each is one atomic step: another process sees all of it or nothing. A store
that does not answer raises :class:`~jumpstarter.errors.StoreUnavailable`.

A *claim* takes rows for a while (its *lease*) under a number, the *fence*, that no other claim has. When the lease runs out, the
next claim of that queue takes the rows back, and whatever comes under the old fence afterwards is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import tzinfo
from typing import Any, Literal, NamedTuple, Protocol

from jumpstarter.pipelines.units import Rate
from jumpstarter.pipelines.windows import Amounts, Look, Window, make_windows

#: What became of a part of a join. ``again``: this part is there already; ``late``: the join has fired.
Arrived = Literal["waiting", "fired", "again", "late"]


@dataclass(frozen=True, slots=True)
class BudgetSpec:
    """A budget as stores see it."""

    name: str
    limits: Mapping[str, tuple[Rate, ...]]
    zone: tzinfo
    is_smooth: bool
    margin: float

    def windows(self, now: float) -> tuple[Window, ...]:
        """With the calendar around that moment."""
        return make_windows(self.limits, self.zone, now, is_smooth=self.is_smooth, margin=self.margin)


@dataclass(frozen=True, slots=True)
class Grant:
    """What a budget granted.

    :ivar amounts: by unit; empty when nothing was granted.
    :ivar at: wall time in seconds by the store's clock.
    :ivar wait: seconds after which to ask again, when nothing was granted.
    """

    amounts: Mapping[str, int]
    at: float
    wait: float = 0.0

    def __bool__(self) -> bool:
        return bool(self.amounts)

    def __getitem__(self, unit: str) -> int:
        return self.amounts.get(unit, 0)


@dataclass(frozen=True, slots=True)
class Room:
    """What a budget would grant.

    :ivar at: wall time in seconds by the store's clock.
    :ivar wait: seconds until what was asked for at least may be taken.
    :ivar looks: what each window says.
    """

    at: float
    wait: float
    looks: tuple[Look, ...] = ()

    def left(self, unit: str) -> int | None:
        """How much is left, in the tightest window; None when the unit is not limited."""
        return min((look.left for look in self.looks if look.window.unit == unit), default=None)

    @property
    def requests(self) -> int:
        """Requests left."""
        return self._left("requests")

    @property
    def rows(self) -> int:
        """Rows left."""
        return self._left("rows")

    @property
    def resets(self) -> float:
        """Wall time at which the tightest window has room again."""
        return min(
            (look.resets for look in self.looks if look.left == 0), default=max((look.resets for look in self.looks), default=0.0)
        )

    def _left(self, unit: str) -> int:
        left = self.left(unit)
        if left is None:
            raise AttributeError(f"the budget does not limit {unit}")
        return left


class Row(NamedTuple):  # made in a third of the time of a frozen dataclass
    """A row that was claimed.

    :ivar key: its name in the queue.
    :ivar value: any JSON value (in memory: any object).
    :ivar attempt: 1 at the first time.
    """

    key: str
    value: Any
    attempt: int = 1


@dataclass(frozen=True, slots=True)
class Claim:
    """Rows that were taken under one fence; none, when too few wait.

    :ivar waiting: how many wait, where nothing was claimed.
    :ivar next_due: seconds until a row that was put back is due or a lease ends, where nothing was claimed; None: there is none.
    """

    fence: int
    rows: tuple[Row, ...]
    waiting: int = 0
    next_due: float | None = None


@dataclass(frozen=True, slots=True)
class Back:
    """A row goes back to its queue.

    :ivar after: seconds before it is taken again.
    :ivar is_counted: as an attempt. Those that were not begun are not.
    """

    key: str
    after: float = 0.0
    is_counted: bool = True
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Put:
    """Rows for a queue: pairs of key and value. A key that is there already, or is remembered, is passed over."""

    queue: str
    rows: Sequence[tuple[str, Any]]
    after: float = 0.0


@dataclass(frozen=True, slots=True)
class JoinSpec:
    """A join as stores see it: a queue whose rows are made of parts.

    :ivar timeout: seconds from the first part on; None: it waits for ever.
    :ivar timed_out: the queue of what timed out.
    :ivar late: the queue of parts that come too late; empty: they are dropped.
    :ivar remember: for so many seconds it is known that a key has fired.
    """

    queue: str
    expect: int
    timeout: float | None
    timed_out: str
    late: str
    remember: float


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a join."""

    join: JoinSpec
    key: str
    name: str
    value: Any


def late_row(part: Part) -> tuple[str, dict[str, Any]]:
    """The key and the row that a part becomes when its join has fired."""
    return f"{part.key}/{part.name}", {"key": part.key, "part": part.name, "value": part.value}


def joined_row(key: str, parts: Mapping[str, Any], *, is_complete: bool) -> tuple[str, dict[str, Any]]:
    """The key and the row that the parts become when their join fires."""
    return key, {"key": key, "parts": parts, "complete": is_complete}


@dataclass(frozen=True, slots=True, kw_only=True)
class Settlement:
    """What becomes of rows that were claimed, and what follows: all of it, or nothing when the fence does not hold any more.

    :ivar keys: the rows that it is about; None: all that are still claimed under the fence.
    :ivar back: of these, the ones that go back; ``dead``: the ones that are given up, with the reason; the others are done.
    :ivar max_attempts: a row that goes back after so many attempts is dead.
    :ivar remember: seconds for which the keys that are done are known.
    :ivar counts: to be added to the counts of ``pipeline``.
    """

    queue: str
    fence: int
    keys: Sequence[str] | None = None
    back: Sequence[Back] = ()
    dead: Sequence[tuple[str, str]] = ()
    max_attempts: int = 5
    remember: float = 0.0
    puts: Sequence[Put] = ()
    parts: Sequence[Part] = ()
    pipeline: str = ""
    counts: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Counts:
    """Rows of a queue: ``waiting`` now, ``delayed`` (put back for later), ``leased``, ``dead``."""

    waiting: int = 0
    delayed: int = 0
    leased: int = 0
    dead: int = 0

    @property
    def open(self) -> int:
        """All that is not settled."""
        return self.waiting + self.delayed + self.leased


@dataclass(frozen=True, slots=True)
class DeadRow:
    """A row that was given up.

    :ivar at: wall time in seconds.
    """

    key: str
    value: Any
    reason: str
    attempts: int
    at: float


class Store(Protocol):
    """See the module's text."""

    #: The address for people and for equality: no password in it.
    url: str
    #: It does not block, so that it needs no thread.
    is_quick: bool

    def take(self, budget: BudgetSpec, want: Amounts, least: Amounts) -> Grant:
        """Grant up to what is wanted if the least can be had."""

    def peek(self, budget: BudgetSpec, least: Amounts) -> Room:
        """What would be granted; takes nothing."""

    def refund(self, budget: BudgetSpec, grant: Grant, back: Amounts) -> None:
        """Take back what was granted and not used."""

    def block(self, budget: BudgetSpec, seconds: float | None, until: float | None) -> None:
        """Grant nothing for so many seconds, or until that wall time; never shortens."""

    def put(self, put: Put) -> int:
        """Add rows; answer how many were new."""

    def feed(self, put: Put, before: str | None, after: str) -> bool:
        """Add rows and move the cursor from ``before`` (None: there was none) to ``after``. False when somebody else did."""

    def cursor(self, queue: str) -> str | None:
        """Where the reader of the queue's rows is."""

    def claim(self, queue: str, limit: int, lease: float, max_attempts: int, least: int = 1) -> Claim:
        """Take at most ``limit`` rows, if at least ``least`` wait, after taking back those whose lease ran out or that are due."""

    def renew(self, queue: str, fence: int, lease: float) -> bool:
        """Extend a lease to so many seconds from now. False when it does not hold any more."""

    def settle(self, settlement: Settlement) -> bool:
        """Carry it out; False when the fence does not hold any more, and nothing was done."""

    def counts(self, queue: str) -> Counts:
        """How many rows there are."""

    def dead(self, queue: str, limit: int) -> list[DeadRow]:
        """Rows that were given up, the oldest first."""

    def revive(self, queue: str, keys: Sequence[str] | None) -> int:
        """Let these dead rows (None: all) wait again, as if they had never been tried; answer how many."""

    def arrive(self, part: Part) -> Arrived:
        """Add a part of a join; the last one fires it."""

    def expire(self, join: JoinSpec) -> int:
        """Fire the joins whose time is over; answer how many."""

    def add(self, pipeline: str, counts: Mapping[str, float]) -> None:
        """Add to counts."""

    def progress(self, pipeline: str) -> dict[str, float]:
        """The counts of a pipeline."""

    def forget(self, queue: str) -> None:
        """Drop all rows of a queue, its joins and its cursor."""

    def close(self) -> None:
        """Close this process's connections; they are opened again when they are needed."""
