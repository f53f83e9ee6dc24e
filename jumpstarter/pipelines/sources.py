"""Where rows come from. A source is a queue of rows in a store, and perhaps something that feeds it. Goes to: lane, which claims.

Whatever the rows come from, they are claimed from the queue: leases, attempts, dead rows and ``put_back`` are the same for all.
"""

from __future__ import annotations

import itertools
import json
import sqlite3
import uuid
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import closing
from typing import Any

from jumpstarter.errors import ConfigurationError
from jumpstarter.pipelines.batches import Field, Gather, current_batch, look_up
from jumpstarter.pipelines.clocks import hop
from jumpstarter.pipelines.stores import default_redis, default_sqlite, open_store
from jumpstarter.pipelines.stores.port import Arrived, Back, Claim, Counts, DeadRow, JoinSpec, Part, Put, Settlement, Store
from jumpstarter.pipelines.units import days, minutes

#: Rows in one call of the store when many are put.
_AT_ONCE = 1_000
#: Batches that a feeder brings at once.
_PAGES = 5


class Source:
    """A queue of rows.

    :param name: of the queue; everything with the same name in the same store is the same queue.
    :param store: its address, or the store.
    :param batch: how many rows go through the steps together, or a :class:`Gather`.
    :param lease: seconds for which claimed rows belong to who claimed them; renewed at half of it while they are worked on.
    :param key: a field, or a function of a row: what makes two rows the same. A row whose key is known is not added again, neither
        while it waits nor for ``remember`` seconds after it is done. None: all rows are different.
    :param attempts: so many attempts, and a row is dead.
    :param remember: see ``key``; default: a day where there is a key.
    :raises ConfigurationError: for values that make no sense.
    """

    def __init__(
        self,
        name: str,
        *,
        store: str | Store,
        batch: int | Gather = 100,
        lease: float = minutes(5),
        key: Field = None,
        attempts: int = 5,
        remember: float | None = None,
    ) -> None:
        self.queue = name
        self.store = open_store(store)
        self.gather = batch if isinstance(batch, Gather) else Gather(batch)
        self.lease = float(lease)
        self.key = key
        self.attempts = attempts
        self.remember = float(remember if remember is not None else days(1) if key is not None else 0.0)
        if not self.lease > 0 or attempts < 1:
            raise ConfigurationError(f"{name!r}: lease={lease!r} must be more than 0 seconds, and attempts={attempts!r} at least 1")

    #: Whether something outside may bring more rows than the queue has.
    is_fed = False

    # -- for everybody --

    async def put(self, rows: Iterable[Any], *, after: float = 0.0) -> int:
        """Add rows, to be taken after so many seconds; answer how many were new."""
        return await hop(lambda: self.put_nowait(rows, after=after), is_quick=self.store.is_quick)

    def put_nowait(self, rows: Iterable[Any], *, after: float = 0.0) -> int:
        """As :meth:`put`, for code without an event loop; blocks for the time of the store's calls."""
        count, keyed = 0, self.keyed(rows)
        while page := list(itertools.islice(keyed, _AT_ONCE)):
            count += self.store.put(Put(self.queue, page, float(after)))
        return count

    async def put_back(self, rows: Iterable[Any], *, after: float = 0.0, reason: str = "") -> None:
        """In a step, a sink or ``on_failed``: have these rows of the batch wait again, for so many seconds at least.

        :raises PipelineError: no batch is being worked on, or a row is none of it.
        """
        current_batch().put_back(rows, after=after, reason=reason)

    async def counts(self) -> Counts:
        """How many rows wait, are delayed, leased and dead."""
        return await hop(self.store.counts, self.queue, is_quick=self.store.is_quick)

    async def dead(self, limit: int = 100) -> list[DeadRow]:
        """Rows that were given up, the oldest first."""
        return await hop(self.store.dead, self.queue, limit, is_quick=self.store.is_quick)

    async def revive(self, keys: Sequence[str] | None = None) -> int:
        """Let dead rows (None: all) wait again as if they had never been tried; answer how many."""
        return await hop(self.store.revive, self.queue, keys, is_quick=self.store.is_quick)

    # -- for pipelines --

    def keyed(self, rows: Iterable[Any]) -> Iterator[tuple[str, Any]]:
        """Each row with its key."""
        if self.key is None:
            return ((uuid.uuid4().hex, row) for row in rows)
        return ((str(look_up(row, self.key)), row) for row in rows)

    async def put_keyed(self, rows: Sequence[tuple[str, Any]]) -> int:
        """Add rows whose keys are known; answer how many were new."""
        return await hop(self.store.put, Put(self.queue, rows), is_quick=self.store.is_quick)

    async def claim(self, limit: int, least: int) -> Claim:
        """Take rows; none where fewer than ``least`` wait."""
        return await hop(self.store.claim, self.queue, limit, self.lease, self.attempts, least, is_quick=self.store.is_quick)

    async def feed(self, count: int) -> bool:  # noqa: ARG002 - for those who override it
        """Bring at least so many rows into the queue, where there are. False when there are no more for now."""
        return False

    async def renew(self, fence: int) -> bool:
        """Keep the lease. False when it is lost."""
        return await hop(self.store.renew, self.queue, fence, self.lease, is_quick=self.store.is_quick)

    async def release(self, fence: int, rows: Sequence[Back]) -> None:
        """Give rows back that were not begun."""
        keys = [row.key for row in rows]
        settlement = Settlement(queue=self.queue, fence=fence, keys=keys, back=rows, max_attempts=self.attempts)
        await hop(self.store.settle, settlement, is_quick=self.store.is_quick)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.queue!r} in {self.store.url}>"


class MemoryRows(Source):
    """Rows of this process: a list, or any iterable, also an asynchronous or endless one. Gone with the process.

    :param rows: read as they are needed.
    :param name: by which others of this process may put rows into it.
    """

    def __init__(self, rows: Iterable[Any] | AsyncIterable[Any] = (), *, name: str | None = None, **options: Any) -> None:
        super().__init__(name or f"rows-{uuid.uuid4().hex[:8]}", store=options.pop("store", "memory://"), **options)
        self._async = aiter(rows) if isinstance(rows, AsyncIterable) else None
        self._rows = self.keyed(rows) if isinstance(rows, Iterable) else iter(())
        self.is_fed = True

    async def feed(self, count: int) -> bool:
        if self._async is not None:
            found = list(self.keyed(await _some(self._async, count)))
        else:
            found = list(itertools.islice(self._rows, count))
        if found:
            self.store.put(Put(self.queue, found))
        return bool(found)


class SqliteRows(Source):
    """A queue in a SQLite file, for the processes of one machine.

    :param path: the file, or a ``sqlite:`` URL; default: ``pipelines.db`` in ``$JUMPSTARTER_HOME``.
    """

    def __init__(self, name: str, *, path: str | None = None, **options: Any) -> None:
        where = default_sqlite() if path is None else path if str(path).startswith("sqlite:") else f"sqlite:///{path}"
        super().__init__(name, store=options.pop("store", where), **options)


class RedisRows(Source):
    """A queue on a Redis server, for many machines.

    :param url: default: ``$JUMPSTARTER_REDIS_URL``, or the server on this machine.
    """

    def __init__(self, name: str, *, url: str | None = None, **options: Any) -> None:
        super().__init__(name, store=options.pop("store", url or default_redis()), **options)


class SqlQuery(Source):
    """The rows of a query, page by page, behind a cursor that the store keeps: after a restart it goes on where it was.

    ``SqlQuery("keywords", connect, "select id, text from keywords where id > ? order by id limit ?", cursor="id")``

    :param connect: makes a DB-API connection, or is the path of a SQLite file. Used in a thread, closed after each page.
    :param sql: with two parameters: the cursor and the number of rows. Ordered by the cursor's column, which is unique.
    :param cursor: that column, as it is called in the result. Rows are dicts.
    :param start: the cursor before the first row.
    :param store: where the queue and the cursor are kept; default: this process.
    """

    is_fed = True

    def __init__(
        self,
        name: str,
        connect: Callable[[], Any] | str,
        sql: str,
        *,
        cursor: str,
        start: Any = 0,
        store: str | Store | None = None,
        **options: Any,
    ) -> None:
        own = f"memory://{uuid.uuid4().hex}" if store is None else store
        super().__init__(name, store=own, **{"key": cursor, "remember": 0.0, **options})
        self._connect = (lambda: sqlite3.connect(connect)) if isinstance(connect, str) else connect
        self._sql = sql
        self._column = cursor
        self._start = start

    async def feed(self, count: int) -> bool:
        return await hop(self._feed, max(count, self.gather.size * _PAGES))

    def _feed(self, count: int) -> bool:
        while True:
            before = self.store.cursor(self.queue)
            rows = self._page(self._start if before is None else json.loads(before), count)
            if not rows:
                return False
            put = Put(self.queue, list(self.keyed(rows)))
            if self.store.feed(put, before, json.dumps(rows[-1][self._column])):
                return True

    def _page(self, position: Any, count: int) -> list[dict[str, Any]]:
        with closing(self._connect()) as connection:
            reader = connection.cursor()
            reader.execute(self._sql, (position, count))
            names = [column[0] for column in reader.description]
            if self._column not in names:
                raise ConfigurationError(
                    f"{self.queue!r}: the query has no column {self._column!r}, which is its cursor; it has {', '.join(names)}"
                )
            return [dict(zip(names, row, strict=True)) for row in reader.fetchall()]


class Join(Source):
    """N to 1: a row is there, once, when ``expect`` parts of it have arrived: ``{"key": …, "parts": {…}, "complete": True}``.

    Parts come from pipelines (``(Orders & Prices & Stock) >> Report``; the name of a part is that of its pipeline), and from
    anything else by :meth:`arrive`, for example from three Celery tasks. A part that arrives twice counts once.

    :param expect: how many parts.
    :param by: a field of the results of pipelines, or a function of a result: which row the part belongs to.
    :param timeout: seconds after the first part in which the others must come; then the row is there with those that did, and
        ``complete`` is False. None: it waits for ever.
    :param timed_out: the queue for rows that are not complete; default: this one.
    :param late: the queue for parts that come when their row is there already: ``{"key": …, "part": …, "value": …}``; default:
        they are dropped.
    :param remember: seconds for which it is known that a row was there.
    """

    def __init__(
        self,
        name: str,
        *,
        expect: int,
        store: str | Store,
        by: Field = None,
        timeout: float | None = None,
        timed_out: str | Source | None = None,
        late: str | Source | None = None,
        remember: float = days(1),
        **options: Any,
    ) -> None:
        super().__init__(name, store=store, **{"batch": 1, **options})
        if expect < 1:
            raise ConfigurationError(f"join {name!r}: expect={expect!r} must be at least 1 part")
        self.by = by
        self.spec = JoinSpec(
            queue=name,
            expect=expect,
            timeout=None if timeout is None else float(timeout),
            timed_out=self._queue_of(timed_out) or name,
            late=self._queue_of(late),
            remember=float(remember),
        )

    async def arrive(self, key: str, part: str, value: Any) -> Arrived:
        """A part is there. ``fired``: it was the last; ``again``: it was there before; ``late``; else ``waiting``."""
        return await hop(self.arrive_nowait, key, part, value, is_quick=self.store.is_quick)

    def arrive_nowait(self, key: str, part: str, value: Any) -> Arrived:
        """As :meth:`arrive`, for code without an event loop: Celery tasks, scripts."""
        return self.store.arrive(Part(self.spec, str(key), part, value))

    async def claim(self, limit: int, least: int) -> Claim:
        if self.spec.timeout is not None:
            await hop(self.store.expire, self.spec, is_quick=self.store.is_quick)
        return await super().claim(limit, least)

    def parts_of(self, pipeline: str, results: Iterable[Any]) -> list[Part]:
        """What a pipeline's results are here."""
        return [Part(self.spec, str(look_up(result, self.by)), pipeline, result) for result in results]

    def _queue_of(self, where: str | Source | None) -> str:
        if isinstance(where, Source) and where.store is not self.store:
            raise ConfigurationError(f"join {self.queue!r}: {where!r} is in another store; keep both in one")
        return where.queue if isinstance(where, Source) else where or ""


async def _some(rows: AsyncIterator[Any], count: int) -> list[Any]:
    found = []
    async for row in rows:
        found.append(row)
        if len(found) == count:
            break
    return found
