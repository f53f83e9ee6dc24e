"""A batch: rows that go through the steps together, and how rows are gathered into one. Comes from: lane. Goes to: steps."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from jumpstarter.errors import ConfigurationError, PipelineError
from jumpstarter.pipelines.stores.port import Back, Row

_NOTHING: Mapping[str, Any] = MappingProxyType({})

#: What tells a row's group or key: the name of a field, or a function of the row.
Field = str | Callable[[Any], Any] | None


@dataclass(frozen=True, slots=True)
class Gather:
    """How a batch is gathered: ``batch=Gather(100, within=seconds(5), by="customer")``.

    :ivar size: at most so many rows.
    :ivar within: seconds to wait for a full batch once a row waits; then what there is makes one.
    :ivar by: a field of the rows, or a function of a row: only rows of which it says the same go together.
    """

    size: int = 100
    within: float = 0.0
    by: Field = None

    def __post_init__(self) -> None:
        if self.size < 1 or self.within < 0:
            raise ConfigurationError(f"batch: size={self.size!r} must be at least 1, and within={self.within!r} at least 0 seconds")

    def split(self, rows: Sequence[Row]) -> list[list[Row]]:
        """The rows by what ``by`` says of them, in the order of their first ones."""
        if self.by is None:
            return [list(rows)]
        groups: dict[Any, list[Row]] = {}
        for row in rows:
            groups.setdefault(look_up(row.value, self.by), []).append(row)
        return list(groups.values())


def look_up(value: Any, field: Field) -> Any:
    """A field of a row (of a mapping or an object), or what a function says of it; the row itself when there is none."""
    if field is None:
        return value
    if callable(field):
        return field(value)
    return value[field] if isinstance(value, Mapping) else getattr(value, field)


class Batch:
    """Rows on their way through the steps. In a step, a sink or ``on_failed``: :func:`current_batch`.

    :ivar id: the same for the same rows, at every attempt: for the other side's idempotency keys.
    :ivar keys: of the rows, in their order.
    :ivar attempt: 1 when none of the rows was ever tried.
    :ivar run_id: of the run that works on it.
    :ivar params: what ``@next_run`` said.
    """

    __slots__ = (
        "_back",
        "_dead",
        "_refused",
        "_rows",
        "failed",
        "fence",
        "params",
        "requests",
        "run_id",
        "source",
        "started",
        "values",
    )

    def __init__(
        self,
        source: str,
        fence: int,
        rows: Sequence[Row],
        *,
        run_id: str = "",
        params: Mapping[str, Any] = _NOTHING,
        now: float = 0.0,
    ) -> None:
        self.source = source
        self.fence = fence
        self.run_id = run_id
        self.params = params
        self.started = now
        #: Failed calls of steps: what happened, by step.
        self.requests: list[tuple[str, str, int]] = []
        self.failed: dict[str, str] = {}
        self._back: dict[str, Back] = {}
        self._dead: dict[str, str] = {}
        self._refused: tuple[Row, ...] = ()
        self._set(rows)

    def _set(self, rows: Sequence[Row]) -> None:
        self._rows = tuple(rows)
        self.values = [row.value for row in rows]

    @property
    def rows(self) -> list[Any]:
        """The rows themselves."""
        return self.values

    @property
    def keys(self) -> list[str]:
        return [row.key for row in self._rows]

    @property
    def id(self) -> str:
        text = "\n".join([self.source, *self.keys])
        return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()

    @property
    def attempt(self) -> int:
        return max((row.attempt for row in self._rows), default=1)

    def __len__(self) -> int:
        return len(self._rows)

    def put_back(self, rows: Iterable[Any] | None = None, *, after: float = 0.0, reason: str = "") -> None:
        """Have these rows (None: all) wait again when the batch is settled, after so many seconds. It counts as an attempt."""
        for key in self._keys_of(rows):
            self._dead.pop(key, None)
            self._back[key] = Back(key, float(after), True, reason)

    def give_up(self, rows: Iterable[Any] | None = None, *, reason: str) -> None:
        """Put these rows (None: all) to the dead ones when the batch is settled."""
        for key in self._keys_of(rows):
            self._back.pop(key, None)
            self._dead[key] = reason

    def fail(self, rows: Iterable[Any], reason: object = "failed") -> None:
        """Say in a step or sink that these rows failed and the others did not. ``@on_failed`` gets them."""
        for key in self._keys_of(rows):
            self.failed[key] = str(reason)

    # -- for the lane --

    def shorten(self, count: int) -> list[Back]:
        """Keep the first ``count`` rows; the others go back unbegun."""
        rest = self._rows[count:]
        self._set(self._rows[:count])
        return [Back(row.key, 0.0, False) for row in rest]

    def refuse(self, reasons: Mapping[int, str]) -> None:
        """Take the rows at these places out: they failed, and are dead unless ``@on_failed`` says something else."""
        for place, reason in reasons.items():
            key = self._rows[place].key
            self.failed[key] = self._dead[key] = reason
        self._refused += tuple(self._rows[place] for place in reasons)
        self._set([row for place, row in enumerate(self._rows) if place not in reasons])

    def unbegun(self, after: float) -> list[Back]:
        """All rows as those that go back without having been tried."""
        return [Back(row.key, after, False) for row in self._rows]

    def failed_rows(self) -> list[Any]:
        """The rows that failed one by one."""
        return [row.value for row in self._every_row() if row.key in self.failed]

    @property
    def every_key(self) -> list[str]:
        """The keys of the rows in it and of those that were refused."""
        return [row.key for row in self._every_row()]

    def _every_row(self) -> tuple[Row, ...]:
        return (*self._rows, *self._refused)

    @property
    def back(self) -> list[Back]:
        """What goes back."""
        return list(self._back.values())

    @property
    def dead(self) -> list[tuple[str, str]]:
        """What is given up."""
        return list(self._dead.items())

    def undecided(self) -> list[str]:
        """The keys of the rows that neither failed nor were decided about."""
        keys = self.keys
        if not (self.failed or self._back or self._dead):
            return keys
        return [key for key in keys if key not in self.failed and not self.is_decided(key)]

    def is_decided(self, key: str) -> bool:
        """Whether somebody has said what becomes of it."""
        return key in self._back or key in self._dead

    def _keys_of(self, rows: Iterable[Any] | None) -> list[str]:
        if rows is None:
            return self.keys
        every = self._every_row()
        by_identity = {id(row.value): row.key for row in every}
        found = []
        for row in rows:
            key = by_identity.get(id(row))
            if key is None:
                key = next((one.key for one in every if one.value == row or one.key == row), None)
            if key is None:
                raise PipelineError(f"{row!r} is no row of this batch: give the rows that the step was given, or their keys")
            found.append(key)
        return found


_current: ContextVar[Batch] = ContextVar("jumpstarter_batch")


def current_batch() -> Batch:
    """The batch that is being worked on: in steps, sinks and ``on_failed``, also in those that run in a thread.

    :raises PipelineError: none is.
    """
    try:
        return _current.get()
    except LookupError:
        raise PipelineError("no batch is being worked on here: current_batch() is for steps, sinks and on_failed") from None


def set_current(batch: Batch) -> None:
    """In this task, and in what it starts."""
    _current.set(batch)
