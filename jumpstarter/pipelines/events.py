"""What sides are told. Made by: lane, after a batch is settled."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jumpstarter.actors import Event


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
