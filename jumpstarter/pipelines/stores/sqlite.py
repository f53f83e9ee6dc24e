"""A store in a SQLite file, shared by the processes of one machine. One transaction for each call; see embedded.database.

The tables lie beside those of brokers and results, so one file may hold all of them.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from jumpstarter.embedded.database import Database, Place
from jumpstarter.errors import StoreUnavailable
from jumpstarter.pipelines.clocks import clock
from jumpstarter.pipelines.stores.budgets import LocalBudgets
from jumpstarter.pipelines.stores.port import (
    Arrived,
    Back,
    BudgetSpec,
    Claim,
    Counts,
    DeadRow,
    JoinSpec,
    Part,
    Put,
    Row,
    Settlement,
    joined_row,
    late_row,
)
from jumpstarter.pipelines.windows import State

T = TypeVar("T")

# A row waits (due, fence and dead are NULL), is delayed (due), claimed (fence) or dead. Its place is its id; what was tried and
# failed goes to the end by a new one.
_TABLES = """
CREATE TABLE IF NOT EXISTS jumpstarter_rows (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    queue TEXT NOT NULL,
    key TEXT NOT NULL,
    body TEXT NOT NULL,
    tries INTEGER NOT NULL DEFAULT 0,
    due REAL,
    fence INTEGER,
    dead TEXT,
    died REAL,
    UNIQUE (queue, key)
);
CREATE INDEX IF NOT EXISTS jumpstarter_rows_waiting ON jumpstarter_rows (queue, id)
    WHERE due IS NULL AND fence IS NULL AND dead IS NULL;
CREATE INDEX IF NOT EXISTS jumpstarter_rows_delayed ON jumpstarter_rows (queue, due) WHERE due IS NOT NULL;
CREATE INDEX IF NOT EXISTS jumpstarter_rows_claimed ON jumpstarter_rows (fence) WHERE fence IS NOT NULL;
CREATE INDEX IF NOT EXISTS jumpstarter_rows_dead ON jumpstarter_rows (queue) WHERE dead IS NOT NULL;
CREATE TABLE IF NOT EXISTS jumpstarter_row_leases (
    fence INTEGER PRIMARY KEY AUTOINCREMENT, queue TEXT NOT NULL, until REAL NOT NULL
);
CREATE INDEX IF NOT EXISTS jumpstarter_row_leases_until ON jumpstarter_row_leases (queue, until);
CREATE TABLE IF NOT EXISTS jumpstarter_rows_seen (
    queue TEXT NOT NULL, key TEXT NOT NULL, expires REAL NOT NULL, PRIMARY KEY (queue, key)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS jumpstarter_rows_seen_expires ON jumpstarter_rows_seen (queue, expires);
CREATE TABLE IF NOT EXISTS jumpstarter_joined (
    queue TEXT NOT NULL, key TEXT NOT NULL, deadline REAL, fired REAL, PRIMARY KEY (queue, key)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS jumpstarter_join_parts (
    queue TEXT NOT NULL, key TEXT NOT NULL, part TEXT NOT NULL, body TEXT NOT NULL, PRIMARY KEY (queue, key, part)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS jumpstarter_budgets (name TEXT PRIMARY KEY, state TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS jumpstarter_cursors (queue TEXT PRIMARY KEY, position TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS jumpstarter_progress (
    pipeline TEXT NOT NULL, name TEXT NOT NULL, value REAL NOT NULL, PRIMARY KEY (pipeline, name)
) WITHOUT ROWID;
"""

_WAITS = "queue = ? AND due IS NULL AND fence IS NULL AND dead IS NULL"


class SqliteStore(LocalBudgets):
    """See the module's text.

    :param url: ``sqlite:////absolute/path.db`` or ``sqlite:///relative/path.db``.
    """

    is_quick = False

    def __init__(self, url: str) -> None:
        place = Place(url, synchronous="NORMAL", timeout=30.0)
        self.url = place.url
        self._database = Database(place, StoreUnavailable)
        self._lock = threading.Lock()
        self._is_prepared = False

    def _write(self, work: Callable[[sqlite3.Connection], T]) -> T:
        if not self._is_prepared:
            with self._lock:
                self._database.write(_make_tables)
                self._is_prepared = True
        return self._database.write(work)

    # -- budgets --

    def on_state(self, budget: BudgetSpec, work: Callable[[State], T]) -> T:
        def change(connection: sqlite3.Connection) -> T:
            row = connection.execute("SELECT state FROM jumpstarter_budgets WHERE name = ?", (budget.name,)).fetchone()
            state: State = json.loads(row[0]) if row else {}
            answer = work(state)
            text = json.dumps(state)
            if row is None or text != row[0]:
                connection.execute("INSERT OR REPLACE INTO jumpstarter_budgets VALUES (?, ?)", (budget.name, text))
            return answer

        return self._write(change)

    # -- rows --

    def put(self, put: Put) -> int:
        now = clock().now()
        return self._write(lambda connection: _put(connection, put, now))

    def feed(self, put: Put, before: str | None, after: str) -> bool:
        now = clock().now()

        def change(connection: sqlite3.Connection) -> bool:
            if _cursor(connection, put.queue) != before:
                return False
            connection.execute("INSERT OR REPLACE INTO jumpstarter_cursors VALUES (?, ?)", (put.queue, after))
            _put(connection, put, now)
            return True

        return self._write(change)

    def cursor(self, queue: str) -> str | None:
        return self._write(lambda connection: _cursor(connection, queue))

    def claim(self, queue: str, limit: int, lease: float, max_attempts: int, least: int = 1) -> Claim:
        now = clock().now()

        def change(connection: sqlite3.Connection) -> Claim:
            _take_back(connection, queue, now, max_attempts)
            # Counted no further than needed.
            waiting = connection.execute(
                f"SELECT count(*) FROM (SELECT 1 FROM jumpstarter_rows WHERE {_WAITS} LIMIT ?)",  # noqa: S608 - a constant
                (queue, least),
            ).fetchone()[0]
            if waiting < max(1, least):
                due = _next_due(connection, queue)
                return Claim(0, (), waiting, None if due is None else max(0.0, due - now))
            fence = connection.execute(
                "INSERT INTO jumpstarter_row_leases (queue, until) VALUES (?, ?) RETURNING fence", (queue, now + lease)
            ).fetchone()[0]
            rows = connection.execute(
                f"UPDATE jumpstarter_rows SET fence = ? WHERE id IN (SELECT id FROM jumpstarter_rows WHERE {_WAITS} ORDER BY id"  # noqa: S608 - a constant
                " LIMIT ?) RETURNING id, key, body, tries",
                (fence, queue, limit),
            ).fetchall()
            rows.sort()
            # All in one text: a third of the time of one by one.
            values = json.loads(f"[{','.join([row[2] for row in rows])}]")
            return Claim(fence, tuple([Row(row[1], value, row[3] + 1) for row, value in zip(rows, values, strict=True)]))

        return self._write(change)

    def renew(self, queue: str, fence: int, lease: float) -> bool:
        until = clock().now() + lease

        def change(connection: sqlite3.Connection) -> bool:
            changed = connection.execute(
                "UPDATE jumpstarter_row_leases SET until = ? WHERE fence = ? AND queue = ?", (until, fence, queue)
            )
            return changed.rowcount > 0

        return self._write(change)

    def settle(self, settlement: Settlement) -> bool:
        now = clock().now()

        def change(connection: sqlite3.Connection) -> bool:
            fence = settlement.fence
            if connection.execute("SELECT 1 FROM jumpstarter_row_leases WHERE fence = ?", (fence,)).fetchone() is None:
                return False
            _settle_rows(connection, settlement, now)
            connection.execute(
                "DELETE FROM jumpstarter_row_leases WHERE fence = ?1"
                " AND NOT EXISTS (SELECT 1 FROM jumpstarter_rows WHERE fence = ?1)",
                (fence,),
            )
            for put in settlement.puts:
                _put(connection, put, now)
            for part in settlement.parts:
                _arrive(connection, part, now)
            _add(connection, settlement.pipeline, settlement.counts)
            return True

        return self._write(change)

    def counts(self, queue: str) -> Counts:
        def look(connection: sqlite3.Connection) -> Counts:
            waiting, delayed, leased, dead = (
                connection.execute(f"SELECT count(*) FROM jumpstarter_rows WHERE {where}", (queue,)).fetchone()[0]  # noqa: S608 - constants
                for where in (
                    _WAITS,
                    "queue = ? AND due IS NOT NULL",
                    "fence IN (SELECT fence FROM jumpstarter_row_leases WHERE queue = ?)",
                    "queue = ? AND dead IS NOT NULL",
                )
            )
            return Counts(waiting, delayed, leased, dead)

        return self._write(look)

    def dead(self, queue: str, limit: int) -> list[DeadRow]:
        def look(connection: sqlite3.Connection) -> list[DeadRow]:
            rows = connection.execute(
                "SELECT key, body, dead, tries, died FROM jumpstarter_rows WHERE queue = ? AND dead IS NOT NULL"
                " ORDER BY died, id LIMIT ?",
                (queue, limit),
            )
            return [DeadRow(key, json.loads(body), reason, tries, at) for key, body, reason, tries, at in rows]

        return self._write(look)

    def revive(self, queue: str, keys: Sequence[str] | None) -> int:
        wanted = "" if keys is None else " AND key IN (SELECT value FROM json_each(?))"

        def change(connection: sqlite3.Connection) -> int:
            return connection.execute(
                f"UPDATE jumpstarter_rows SET dead = NULL, died = NULL, tries = 0 WHERE queue = ? AND dead IS NOT NULL{wanted}",  # noqa: S608 - constants
                (queue,) if keys is None else (queue, json.dumps(list(keys))),
            ).rowcount

        return self._write(change)

    # -- joins --

    def arrive(self, part: Part) -> Arrived:
        now = clock().now()
        return self._write(lambda connection: _arrive(connection, part, now))

    def expire(self, join: JoinSpec) -> int:
        now = clock().now()

        def change(connection: sqlite3.Connection) -> int:
            late = connection.execute(
                "SELECT key FROM jumpstarter_joined WHERE queue = ? AND fired IS NULL AND deadline <= ?", (join.queue, now)
            ).fetchall()
            for (key,) in late:
                _fire(connection, join, key, now, is_complete=False)
            return len(late)

        return self._write(change)

    # -- counts --

    def add(self, pipeline: str, counts: Mapping[str, float]) -> None:
        self._write(lambda connection: _add(connection, pipeline, counts))

    def progress(self, pipeline: str) -> dict[str, float]:
        return self._write(
            lambda connection: dict(
                connection.execute("SELECT name, value FROM jumpstarter_progress WHERE pipeline = ?", (pipeline,)).fetchall()
            )
        )

    def close(self) -> None:
        self._database.close()

    def forget(self, queue: str) -> None:
        def change(connection: sqlite3.Connection) -> None:
            for table in ("rows", "row_leases", "rows_seen", "joined", "join_parts", "cursors"):
                connection.execute(f"DELETE FROM jumpstarter_{table} WHERE queue = ?", (queue,))  # noqa: S608 - constants

        self._write(change)


def _make_tables(connection: sqlite3.Connection) -> None:
    # executescript() would end the transaction.
    for statement in _TABLES.split(";"):
        connection.execute(statement)


def _put(connection: sqlite3.Connection, put: Put, now: float) -> int:
    due = now + put.after if put.after > 0 else None
    before = connection.total_changes
    connection.executemany(
        "INSERT OR IGNORE INTO jumpstarter_rows (queue, key, body, due) SELECT ?1, ?2, ?3, ?4 WHERE NOT EXISTS"
        " (SELECT 1 FROM jumpstarter_rows_seen WHERE queue = ?1 AND key = ?2 AND expires > ?5)",
        [(put.queue, key, json.dumps(value), due, now) for key, value in put.rows],
    )
    return connection.total_changes - before


def _cursor(connection: sqlite3.Connection, queue: str) -> str | None:
    row = connection.execute("SELECT position FROM jumpstarter_cursors WHERE queue = ?", (queue,)).fetchone()
    return None if row is None else str(row[0])


def _take_back(connection: sqlite3.Connection, queue: str, now: float, max_attempts: int) -> None:
    over = connection.execute("SELECT fence FROM jumpstarter_row_leases WHERE queue = ? AND until <= ?", (queue, now)).fetchall()
    for (fence,) in over:
        connection.execute(
            "UPDATE jumpstarter_rows SET fence = NULL, tries = tries + 1,"
            " dead = CASE WHEN tries + 1 >= ?1 THEN 'its lease ran out' END, died = CASE WHEN tries + 1 >= ?1 THEN ?2 END"
            " WHERE fence = ?3",
            (max_attempts, now, fence),
        )
        connection.execute("DELETE FROM jumpstarter_row_leases WHERE fence = ?", (fence,))
    connection.execute("UPDATE jumpstarter_rows SET due = NULL WHERE queue = ? AND due <= ?", (queue, now))
    connection.execute("DELETE FROM jumpstarter_rows_seen WHERE queue = ? AND expires <= ?", (queue, now))


def _next_due(connection: sqlite3.Connection, queue: str) -> float | None:
    row = connection.execute(
        "SELECT min(moment) FROM (SELECT min(due) AS moment FROM jumpstarter_rows WHERE queue = ?1 AND due IS NOT NULL"
        " UNION ALL SELECT min(until) FROM jumpstarter_row_leases WHERE queue = ?1)",
        (queue,),
    ).fetchone()
    return None if row[0] is None else float(row[0])


def _settle_rows(connection: sqlite3.Connection, settlement: Settlement, now: float) -> None:
    fence, queue = settlement.fence, settlement.queue
    for back in settlement.back:
        _back(connection, back, fence, now, settlement.max_attempts)
    connection.executemany(
        "UPDATE jumpstarter_rows SET fence = NULL, tries = tries + 1, dead = ?, died = ? WHERE key = ? AND fence = ?",
        [(reason, now, key, fence) for key, reason in settlement.dead],
    )
    which = "fence = ?"
    arguments: list[Any] = [fence]
    if settlement.keys is not None:
        which += " AND key IN (SELECT value FROM json_each(?))"
        arguments.append(json.dumps(list(settlement.keys)))
    if settlement.remember > 0:
        connection.execute(
            f"INSERT OR REPLACE INTO jumpstarter_rows_seen SELECT queue, key, ? FROM jumpstarter_rows WHERE {which}",  # noqa: S608 - constants
            (now + settlement.remember, *arguments),
        )
    connection.execute(f"DELETE FROM jumpstarter_rows WHERE {which} AND queue = ?", (*arguments, queue))  # noqa: S608 - constants


def _back(connection: sqlite3.Connection, back: Back, fence: int, now: float, max_attempts: int) -> None:
    due = now + back.after if back.after > 0 else None
    if not back.is_counted:
        connection.execute("UPDATE jumpstarter_rows SET fence = NULL, due = ? WHERE key = ? AND fence = ?", (due, back.key, fence))
        return
    row = connection.execute("SELECT tries FROM jumpstarter_rows WHERE key = ? AND fence = ?", (back.key, fence)).fetchone()
    if row is None:
        return
    tries = row[0] + 1
    if tries >= max_attempts:
        reason = back.reason or f"tried {tries} times"
        change: tuple[Any, ...] = (tries, None, reason, now)
    else:
        change = (tries, due, None, None)
    connection.execute(
        "UPDATE jumpstarter_rows SET id = (SELECT seq FROM sqlite_sequence WHERE name = 'jumpstarter_rows') + 1, fence = NULL,"
        " tries = ?, due = ?, dead = ?, died = ? WHERE key = ? AND fence = ?",
        (*change, back.key, fence),
    )
    connection.execute("UPDATE sqlite_sequence SET seq = seq + 1 WHERE name = 'jumpstarter_rows'")


def _arrive(connection: sqlite3.Connection, part: Part, now: float) -> Arrived:
    join, key = part.join, part.key
    row = connection.execute("SELECT fired FROM jumpstarter_joined WHERE queue = ? AND key = ?", (join.queue, key)).fetchone()
    if row is not None and row[0] is not None and row[0] > now:
        if join.late:
            _put(connection, Put(join.late, [late_row(part)]), now)
        return "late"
    added = connection.execute(
        "INSERT OR IGNORE INTO jumpstarter_join_parts VALUES (?, ?, ?, ?)", (join.queue, key, part.name, json.dumps(part.value))
    )
    if added.rowcount == 0:
        return "again"
    if row is None or row[0] is not None:
        deadline = None if join.timeout is None else now + join.timeout
        connection.execute("INSERT OR REPLACE INTO jumpstarter_joined VALUES (?, ?, ?, NULL)", (join.queue, key, deadline))
    (count,) = connection.execute(
        "SELECT count(*) FROM jumpstarter_join_parts WHERE queue = ? AND key = ?", (join.queue, key)
    ).fetchone()
    if count < join.expect:
        return "waiting"
    _fire(connection, join, key, now, is_complete=True)
    return "fired"


def _fire(connection: sqlite3.Connection, join: JoinSpec, key: str, now: float, *, is_complete: bool) -> None:
    parts = connection.execute(
        "DELETE FROM jumpstarter_join_parts WHERE queue = ? AND key = ? RETURNING part, body", (join.queue, key)
    ).fetchall()
    row = joined_row(key, {name: json.loads(body) for name, body in parts}, is_complete=is_complete)
    connection.execute("DELETE FROM jumpstarter_joined WHERE queue = ? AND fired <= ?", (join.queue, now))
    connection.execute(
        "UPDATE jumpstarter_joined SET fired = ?, deadline = NULL WHERE queue = ? AND key = ?",
        (now + join.remember, join.queue, key),
    )
    _put(connection, Put(join.queue if is_complete else join.timed_out, [row]), now)


def _add(connection: sqlite3.Connection, pipeline: str, counts: Mapping[str, float]) -> None:
    rows: Iterable[tuple[str, str, float]] = [(pipeline, name, value) for name, value in counts.items() if value]
    connection.executemany(
        "INSERT INTO jumpstarter_progress VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET value = value + excluded.value", rows
    )
