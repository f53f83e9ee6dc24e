"""The port of result stores: documents by key with expiry, waiting, and joins.

Blocking, thread-safe and fork-safe as brokers are (see :mod:`jumpstarter.abc.broker`); raises
:class:`~jumpstarter.errors.ResultsUnavailable`. Keys and documents are the application's: ``compat_celery`` uses Celery's keys
and JSON.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from types import TracebackType
from typing import Any, NamedTuple, Self

from jumpstarter.jobs import Document, Part


class Fence(NamedTuple):
    """By whom a write is made: a job and which delivery of it (:attr:`jumpstarter.jobs.Delivery.attempt`)."""

    job: str
    attempt: int


class Results(ABC):
    """A store of result documents.

    On the broker's own server, writes travel inside the broker's ``settle`` and are fenced by the claim. Elsewhere nothing can be
    atomic with the ack; there a worker that gets a message again first calls :meth:`fence`, and from then on what an earlier
    attempt still writes ``by`` its own fence is refused.
    """

    #: See :attr:`jumpstarter.abc.broker.Broker.server`.
    server: str
    url: str

    @abstractmethod
    def writes(self, documents: Sequence[Document]) -> Sequence[Any]:
        """The documents as commands, one for each in their order, that a broker on the same server carries out inside its
        ``settle``. No I/O."""

    @abstractmethod
    def part_write(self, part: Part) -> Any:
        """The part as a command that a broker on the same server carries out inside its ``settle``. No I/O."""

    @abstractmethod
    def close_write(self, join: str) -> Any:
        """:meth:`close_join` as a command for the same. No I/O."""

    @abstractmethod
    def fence(self, fences: Sequence[Fence], ttl: float) -> None:
        """From now on, and for ``ttl`` seconds, refuse what smaller attempts of these jobs write. One round trip; never lowers a
        fence."""

    @abstractmethod
    def put(self, documents: Sequence[Document], *, by: Sequence[Fence | None] = ()) -> list[bool]:
        """Store the documents and announce them, in one round trip. A ``final`` document that is there already stays.

        :param by: who writes each document; nobody in particular if not given.
        :returns: False for each that was refused because a later attempt of its job is under way.
        """

    @abstractmethod
    def get(self, keys: Sequence[str]) -> list[bytes | None]:
        """The documents in the order of the keys; None where there is none."""

    @abstractmethod
    def wait(self, keys: Sequence[str], timeout: float | None) -> dict[str, bytes]:
        """Wait until at least one of these keys is written *from now on or already there*, and return every document that is there.

        Empty after ``timeout`` seconds (None: no limit). Callers who wait for several keys to be final call it again with those
        that are not. Costs the server next to nothing while it waits, and survives the loss of its connection.
        """

    @abstractmethod
    def delete(self, keys: Sequence[str]) -> int:
        """Forget the documents; answer how many there were."""

    # Joins: wait until n parts are there, then do one thing once.

    @abstractmethod
    def open_join(self, join: str, size: int, ttl: float | None) -> None:
        """Say how many parts the join has. May come after the first parts."""

    @abstractmethod
    def add_parts(self, parts: Sequence[Part], *, by: Sequence[Fence | None] = ()) -> list[Sequence[bytes] | None]:
        """Count the parts in one round trip (each once per member and index, however often it is added). Where one completes its
        join, or has completed it before and it is not yet closed: the bodies of all parts in order of index; else None, also
        where ``by`` was refused. Other parts that are added again to a complete join may be left to the one that completed it."""

    @abstractmethod
    def close_join(self, join: str) -> None:
        """The join's one thing was done; forget its parts. Parts that arrive later complete nothing."""

    @abstractmethod
    def ping(self) -> None:
        """Return when the server answers, or raise :class:`ResultsUnavailable`."""

    @abstractmethod
    def close(self) -> None:
        """Close this process's connections. Idempotent."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None) -> None:
        self.close()
