"""What sides are told. Made by: lane, after a batch is settled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jumpstarter.actors import Event
from jumpstarter.actors.activities import unwrapped
from jumpstarter.pipelines.batches import Batch


class BatchSettled(Event):
    """Rows are done: their results are stored.

    :ivar pipeline: its name. :ivar batch: the batch's id. :ivar rows: what was claimed. :ivar results: what the last step returned.
    :ivar seconds: from the claim to the end of the last sink. :ivar at: wall time.
    """

    pipeline: str
    run_id: str
    batch: str
    keys: tuple[str, ...]
    rows: tuple[Any, ...]
    results: Any
    seconds: float
    at: float


class BatchFailed(Event):
    """Rows failed, for good or for now.

    :ivar back: the keys of those that are tried again; the others are dead.
    """

    pipeline: str
    run_id: str
    batch: str
    keys: tuple[str, ...]
    rows: tuple[Any, ...]
    error: str
    back: tuple[str, ...]
    at: float


class RequestFailed(Event):
    """One try of a step failed, whether or not a later one succeeded.

    :ivar number: of the try, from 1.
    """

    pipeline: str
    run_id: str
    batch: str
    keys: tuple[str, ...]
    step: str
    error: str
    number: int
    at: float


SideEvent = BatchSettled | BatchFailed | RequestFailed

KINDS: Mapping[str, type[SideEvent]] = {kind.__name__: kind for kind in (BatchSettled, BatchFailed, RequestFailed)}


def as_row(event: SideEvent) -> dict[str, Any]:
    """An event as a row of an outbox."""
    return {"event": type(event).__name__, **vars(event)}


_TUPLES = ("keys", "rows", "back")


def from_row(row: Mapping[str, Any]) -> SideEvent:
    """The event that a row of an outbox is."""
    fields: dict[str, Any] = {name: tuple(value) if name in _TUPLES else value for name, value in row.items() if name != "event"}
    return KINDS[row["event"]](**fields)


def happened(
    pipeline: str, batch: Batch, now: float, *, results: Any, done: Sequence[str], failed: Sequence[Any], error: str
) -> list[SideEvent]:
    """What there is to tell of a batch: its failed requests, its failed rows, its rows that are done."""
    head: dict[str, Any] = {
        "pipeline": pipeline,
        "run_id": batch.run_id,
        "batch": batch.id,
        "keys": tuple(batch.keys),
        "at": now,
    }
    events: list[SideEvent] = [RequestFailed(**head, step=step, error=why, number=number) for step, why, number in batch.requests]
    if failed:
        events.append(BatchFailed(**head, rows=tuple(failed), error=error, back=tuple(one.key for one in batch.back)))
    if done:
        events.append(BatchSettled(**head, rows=tuple(batch.values), results=results, seconds=now - batch.started))
    return events


def text_of(error: BaseException | None) -> str:
    """An error in a line."""
    if isinstance(error, Exception):
        error = unwrapped(error)
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
