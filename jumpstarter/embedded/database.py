"""The SQLite file that holds queues and results: connections, forks, transactions, the schema, and errors that say what to do.

**Connections.** One per thread and database, opened at first use; a thread that ends takes its own with it. ``close`` closes all.

**Forks.** SQLite keeps POSIX locks, which a child does not inherit, and a table of the locks it believes to hold, which it does.
A child that opens the file *anew* while an inherited connection exists believes that it holds the shared lock and takes none; the
parent's last close then finds nobody else, deletes the ``-wal`` file under the child, and what the child commits from then on is
gone (tried; see test_a_child_forked_beside_open_connections_loses_nothing). So every connection is closed before the process
forks, and opened again at next use on both sides; it costs a millisecond.

**Transactions** are short and begin with ``BEGIN IMMEDIATE``. Within the process writers queue on a lock; between processes they
try again after 0.1 … 5 ms, jittered (SQLite's own waiting goes up to 100 ms and starves).

**Durability.** WAL with ``synchronous=NORMAL``: what is committed survives the death of any process. When the *machine* loses
power the last commits may be gone (the file stays consistent); ``synchronous=FULL`` syncs every commit.
"""

from __future__ import annotations

import contextlib
import os
import random
import sqlite3
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from jumpstarter.errors import ConfigurationError, JumpstarterError

T = TypeVar("T")

#: Makes an error of the port from a URL and a reason.
Trouble = Callable[[str, object], JumpstarterError]

SCHEMA = 2

# A message is ready, parked or claimed. Its place in the queue is (priority, id): a returned claim needs no new place, and going
# to the back is a new id. A claim that is held for a time of its own says so in ``hold`` (seconds). Numbers in quarantine are never
# used again: a person may have one on the screen.
_SCHEMA_SQL = """
CREATE TABLE IF NOT EXISTS jumpstarter_counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
INSERT OR IGNORE INTO jumpstarter_counters VALUES ('epoch', 0), ('schema', 2);

CREATE TABLE IF NOT EXISTS jumpstarter_messages (
    id INTEGER PRIMARY KEY,
    queue TEXT NOT NULL,
    priority INTEGER NOT NULL,
    state TEXT NOT NULL,
    attempt INTEGER NOT NULL,
    due REAL,
    epoch INTEGER,
    claimant TEXT,
    hold REAL,
    head BLOB NOT NULL,
    body BLOB NOT NULL
);
CREATE INDEX IF NOT EXISTS jumpstarter_messages_ready ON jumpstarter_messages (queue, priority) WHERE state = 'ready';
CREATE INDEX IF NOT EXISTS jumpstarter_messages_parked ON jumpstarter_messages (due) WHERE state = 'parked';
CREATE INDEX IF NOT EXISTS jumpstarter_messages_claimed ON jumpstarter_messages (claimant) WHERE state = 'claimed';
CREATE INDEX IF NOT EXISTS jumpstarter_messages_held ON jumpstarter_messages (claimant) WHERE hold IS NOT NULL;

CREATE TABLE IF NOT EXISTS jumpstarter_leases (
    incarnation TEXT PRIMARY KEY,
    expires REAL NOT NULL,
    length REAL NOT NULL
) WITHOUT ROWID;

CREATE TABLE IF NOT EXISTS jumpstarter_quarantine (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    at REAL NOT NULL,
    reason TEXT NOT NULL,
    evidence TEXT NOT NULL,
    queue TEXT NOT NULL,
    priority INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    head BLOB NOT NULL,
    body BLOB NOT NULL
);

CREATE TABLE IF NOT EXISTS jumpstarter_documents (
    key TEXT PRIMARY KEY,
    body BLOB NOT NULL,
    expires REAL,
    final INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS jumpstarter_documents_expires ON jumpstarter_documents (expires) WHERE expires IS NOT NULL;

CREATE TABLE IF NOT EXISTS jumpstarter_joins (
    name TEXT PRIMARY KEY,
    size INTEGER,
    expires REAL,
    last INTEGER,
    closed INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS jumpstarter_joins_expires ON jumpstarter_joins (expires) WHERE expires IS NOT NULL;
CREATE TABLE IF NOT EXISTS jumpstarter_parts (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL,
    member TEXT NOT NULL,
    place INTEGER NOT NULL,
    body BLOB NOT NULL,
    UNIQUE (name, member, place)
);

CREATE TABLE IF NOT EXISTS jumpstarter_fences (
    job TEXT PRIMARY KEY,
    attempt INTEGER NOT NULL,
    expires REAL NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS jumpstarter_fences_expires ON jumpstarter_fences (expires);
"""

_OF_A_NEWER = "Upgrade, or point the URL at another file."
_OF_AN_OLDER = "Let that version finish what waits in it, then delete the file; or point the URL at another one."

_SYNCHRONOUS = ("NORMAL", "FULL")
_OLDEST_SQLITE = (3, 35, 0)  # RETURNING

# Between two attempts to become the writer, in seconds.
_FIRST_PAUSE = 0.0001
_LONGEST_PAUSE = 0.005


class Place:
    """Where a ``sqlite:`` URL points to, and with which options."""

    def __init__(self, url: str, *, synchronous: str, timeout: float) -> None:
        parts = urlsplit(url)
        options = dict(parse_qsl(parts.query))
        name = unquote(parts.path)[1:]
        if not url.startswith("sqlite:///") or not name or name == ":memory:":
            raise ConfigurationError(
                f"{url!r} names no SQLite file. Write sqlite:////absolute/path.db or sqlite:///relative/path.db; "
                "for queues that live in this process only, memory://name."
            )
        self.path = os.path.realpath(name)
        self.url = f"sqlite:///{quote(self.path)}"
        self.server = f"sqlite:{self.path}"
        self.synchronous = _synchronous(options.pop("synchronous", synchronous), url)
        self.timeout = _timeout(options.pop("timeout", timeout), url)
        if options:
            raise ConfigurationError(
                f"{url!r} has options that do not exist: {', '.join(sorted(options))}. There are: synchronous, timeout."
            )


def _synchronous(value: str, url: str) -> str:
    if value.upper() not in _SYNCHRONOUS:
        raise ConfigurationError(f"{url!r}: synchronous={value!r} is neither of {', '.join(_SYNCHRONOUS)}.")
    return value.upper()


def _timeout(value: float | str, url: str) -> float:
    try:
        seconds = float(value)
    except ValueError:
        seconds = -1.0
    if not 0 < seconds < float("inf"):
        raise ConfigurationError(f"{url!r}: timeout={value!r} is no positive number of seconds.")
    return seconds


class _Handle:
    """One thread's connection, open or not. The lock is held while it is used or closed."""

    __slots__ = ("__weakref__", "connection", "lock")

    def __init__(self) -> None:
        # Re-entrant: a signal handler that forks in the middle of a transaction spoils that transaction, instead of waiting for
        # itself.
        self.lock = threading.RLock()
        self.connection: sqlite3.Connection | None = None

    def close(self) -> None:
        with self.lock:
            if self.connection is not None:
                self.connection.close()
                self.connection = None

    def __del__(self) -> None:
        self.close()


class Database:
    """Transactions on one file, from any thread of any process.

    :param trouble: makes the error of the port (``BrokerUnavailable`` or ``ResultsUnavailable``) from the URL and a reason.
    """

    def __init__(self, place: Place, trouble: Trouble) -> None:
        if sqlite3.sqlite_version_info < _OLDEST_SQLITE:
            raise ConfigurationError(f"SQLite {sqlite3.sqlite_version} is too old: 3.35 or newer is needed.")
        self.place = place
        self._trouble = trouble
        self._local = threading.local()
        self._gate = threading.RLock()
        self._handles: weakref.WeakSet[_Handle] = weakref.WeakSet()
        self._writing = threading.Lock()
        self._forking: list[_Handle] = []
        with _databases_lock:
            _databases.add(self)

    def read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """What ``work`` answers. It may be called again when the file was locked for a moment; it must not write."""
        with self._handle() as handle, self._explained():
            deadline = time.monotonic() + self.place.timeout
            return _patiently(lambda: work(self._connection(handle, deadline)), deadline)

    def write(self, work: Callable[[sqlite3.Connection], T], *, timeout: float | None = None) -> T:
        """What ``work`` answers after one transaction: all of it is done, or nothing.

        :param timeout: seconds until the transaction has to have begun; the database's own when None.
        """
        seconds = self.place.timeout if timeout is None else timeout
        deadline = time.monotonic() + seconds
        with self._handle() as handle, self._explained(), self._turn(seconds):
            connection = self._connection(handle, deadline)
            _patiently(lambda: connection.execute("BEGIN IMMEDIATE"), deadline)
            try:
                answer = work(connection)
                connection.execute("COMMIT")
            except BaseException:
                _roll_back(connection)
                raise
            return answer

    def close(self) -> None:
        """Close every thread's connection, after what each is doing just now. They open again at next use."""
        with self._gate:
            for handle in list(self._handles):
                handle.close()

    @contextlib.contextmanager
    def _handle(self) -> Iterator[_Handle]:
        handle: _Handle | None = getattr(self._local, "handle", None)
        if handle is None:
            handle = self._local.handle = _Handle()
            with self._gate:
                self._handles.add(handle)
        with handle.lock:
            yield handle

    @contextlib.contextmanager
    def _turn(self, seconds: float) -> Iterator[None]:
        if not self._writing.acquire(timeout=seconds):
            raise _Busy
        try:
            yield
        finally:
            self._writing.release()

    def _connection(self, handle: _Handle, deadline: float) -> sqlite3.Connection:
        if handle.connection is None:
            handle.connection = self._connect(deadline)
        return handle.connection

    def _connect(self, deadline: float) -> sqlite3.Connection:
        # Each handle has a lock of its own, so that another thread may close its connection: check_same_thread would forbid it.
        connection = sqlite3.connect(self.place.path, timeout=0, isolation_level=None, check_same_thread=False)
        try:
            _patiently(lambda: self._prepare(connection), deadline)
        except BaseException:
            connection.close()
            raise
        return connection

    def _prepare(self, connection: sqlite3.Connection) -> None:
        (mode,) = connection.execute("PRAGMA journal_mode=WAL").fetchone()
        if mode != "wal":
            raise ConfigurationError(
                f"{self.place.path} lies on a file system without shared memory (a network share?). Put it on a local disk."
            )
        connection.execute(f"PRAGMA synchronous={self.place.synchronous}")
        schema = _schema_of(connection)
        if schema is None:
            connection.executescript(f"BEGIN IMMEDIATE; {_SCHEMA_SQL} COMMIT;")
            schema = _schema_of(connection)
        if schema != SCHEMA:
            raise ConfigurationError(
                f"{self.place.path} was written by another version of Jumpstarter (schema {schema}; this one knows {SCHEMA}). "
                + (_OF_A_NEWER if schema is not None and schema > SCHEMA else _OF_AN_OLDER)
            )

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise self._explain(error) from error

    def _explain(self, error: sqlite3.Error) -> JumpstarterError:
        path, url = self.place.path, self.place.url
        match getattr(error, "sqlite_errorcode", 0) & 0xFF:
            case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
                return self._trouble(
                    url, "another transaction has held the file locked all the time; is a program stopped in the middle of one?"
                )
            case sqlite3.SQLITE_NOTADB:
                return ConfigurationError(f"{path} is no SQLite database. Move it away, or point the URL at another file.")
            case sqlite3.SQLITE_CANTOPEN:
                return self._explain_cannot_open(error)
            case sqlite3.SQLITE_READONLY | sqlite3.SQLITE_PERM:
                return ConfigurationError(
                    f"{path} cannot be written by user {os.geteuid()}. SQLite writes the file and two more beside it (-wal, -shm): "
                    "give the user the right to write the file and its directory."
                )
            case sqlite3.SQLITE_FULL:
                return self._trouble(url, "the disk is full")
            case sqlite3.SQLITE_CORRUPT:
                return self._trouble(url, f"the file is damaged ({error}); stop the workers and try `sqlite3 {path} .recover`")
            case _:
                return self._trouble(url, f"{type(error).__name__}: {error}")

    def _explain_cannot_open(self, error: sqlite3.Error) -> JumpstarterError:
        path = Path(self.place.path)
        if not path.parent.is_dir():
            return ConfigurationError(
                f"the directory {path.parent} does not exist. Create it, or correct the URL {self.place.url}."
            )
        if path.is_dir():
            return ConfigurationError(f"{path} is a directory. The URL has to name a file in it.")
        return self._trouble(self.place.url, f"{error}; may user {os.geteuid()} write to {path.parent}?")

    def before_fork(self) -> None:
        """Close all connections and let nobody open one until :meth:`after_fork`."""
        self._gate.acquire()
        self._forking = list(self._handles)
        for handle in self._forking:
            handle.lock.acquire()
            handle.close()

    def after_fork(self) -> None:
        """Go on, in the parent and in the child."""
        for handle in self._forking:
            handle.lock.release()
        self._forking = []
        self._gate.release()


class _Busy(sqlite3.OperationalError):
    """Other threads of this process took all the time there was."""

    sqlite_errorcode = sqlite3.SQLITE_BUSY


def _patiently(work: Callable[[], T], deadline: float) -> T:
    """Do the work, again and again while the file is locked, until the deadline (monotonic seconds)."""
    pause = _FIRST_PAUSE
    while True:
        try:
            return work()
        except sqlite3.OperationalError as error:
            busy = error.sqlite_errorcode & 0xFF in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
            if not busy or time.monotonic() >= deadline:
                raise
        time.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311  jitter, no secret
        pause = min(_LONGEST_PAUSE, pause * 1.5)


def _roll_back(connection: sqlite3.Connection) -> None:
    # The first error is the one to tell; a connection closed under us (a fork in a signal handler) has rolled back already.
    with contextlib.suppress(sqlite3.Error):
        if connection.in_transaction:
            connection.execute("ROLLBACK")


def _schema_of(connection: sqlite3.Connection) -> int | None:
    """The schema's number; None in a file that has none of our tables."""
    try:
        row = connection.execute("SELECT value FROM jumpstarter_counters WHERE name = 'schema'").fetchone()
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode == sqlite3.SQLITE_ERROR:  # no such table
            return None
        raise
    return None if row is None else int(row[0])


# Forks: see the module's text. One hook for all databases; the lock keeps a database from being made between closing and forking.
_databases: weakref.WeakSet[Database] = weakref.WeakSet()
_databases_lock = threading.RLock()
_forking: list[Database] = []


def _before_fork() -> None:
    _databases_lock.acquire()
    _forking.extend(_databases)
    for database in _forking:
        database.before_fork()


def _after_fork() -> None:
    for database in _forking:
        database.after_fork()
    _forking.clear()
    _databases_lock.release()


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork)
