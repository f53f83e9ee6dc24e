"""Queues in one SQLite file: durable, for any number of processes of one machine, nothing to install. The default broker.

What survives: everything committed survives the death of any process; see :mod:`jumpstarter.embedded.database` for loss of power.

- A message is one row; its place in the queue is (priority, id). A claim sets ``claimant`` and ``epoch`` in that row, so
  returning it to the front is clearing them, and ``id.epoch`` is tag and fence at once: the epoch grows with every claim and is
  never used again.
- Leases are told by the machine's monotonic clock (time since boot, one for all processes), so setting the wall clock neither ends
  nor prolongs them. After a reboot that clock starts again near zero: a lease that would run longer than it was granted for is from
  before the boot, and over. At worst a dead worker's claims wait one lease length more.
- A claim may be held for a time of its own; it counts from the incarnation's last sign of life, as the lease does (which is why a
  hold is one, too).
- Nothing is written while idle: an empty claim writes only to prolong a lease that exists, a reap only when there is work for it.
- ``wait`` sleeps on the :mod:`~jumpstarter.embedded.doorbell`, which those ring who have made something ready.
"""

from __future__ import annotations

import itertools
import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from operator import itemgetter

from jumpstarter.abc.broker import Broker, Reaped
from jumpstarter.clock import SYSTEM_CLOCK, Clock
from jumpstarter.embedded.database import Database, Place
from jumpstarter.embedded.doorbell import Doorbell
from jumpstarter.embedded.packing import is_message, pack, pack_evidence, resting_number, unpack_delivery, unpack_resting
from jumpstarter.errors import BrokerUnavailable
from jumpstarter.jobs import (
    Ack,
    Acked,
    Completed,
    Delivery,
    Envelope,
    Park,
    Quarantine,
    Quarantined,
    Requeue,
    Return,
    Settlement,
)

# (queue, priority, state, due, head, body): what a packed envelope is in the table.
_Row = tuple[str, int, str, float | None, bytes, bytes]

#: Parked messages that move in one transaction, so that a flood of them does not keep other writers waiting; the same for what is
#: requeued from quarantine.
_MOVED_AT_ONCE = 500

_INSERT = "INSERT INTO jumpstarter_messages (queue, priority, state, attempt, due, head, body) VALUES (?, ?, ?, 1, ?, ?, ?)"
_ANY_READY = "SELECT 1 FROM jumpstarter_messages WHERE state = 'ready' AND queue = ? LIMIT 1"
_CLAIM = """
    UPDATE jumpstarter_messages SET state = 'claimed', claimant = ?, epoch = ?
    WHERE id IN (SELECT id FROM jumpstarter_messages WHERE state = 'ready' AND queue = ? ORDER BY priority, id LIMIT ?)
    RETURNING priority, id, epoch, attempt, queue, head, body
"""
_NEXT_EPOCH = "UPDATE jumpstarter_counters SET value = value + 1 WHERE name = 'epoch' RETURNING value"

_GRANT = "INSERT OR REPLACE INTO jumpstarter_leases (incarnation, expires, length) VALUES (?, ?, ?)"
_PROLONG = "UPDATE jumpstarter_leases SET expires = ?, length = ? WHERE incarnation = ?"
_HAS_LEASE = "SELECT 1 FROM jumpstarter_leases WHERE incarnation = ?"
_END_LEASE = "DELETE FROM jumpstarter_leases WHERE incarnation = ?"
_HOLD = """
    UPDATE jumpstarter_messages SET hold = ?
    WHERE state = 'claimed' AND claimant = ? AND id IN (SELECT value FROM json_each(?))
"""
_SIGN_OF_LIFE = "UPDATE jumpstarter_leases SET expires = ? + length WHERE incarnation = ?"

# What the silence of incarnations has cost them by :now. CROSS JOIN looks at the leases first and at the claims of those that are
# over only. 1 µs of slack: a sum and a difference of floats need not cancel out.
_BEFORE_BOOT = "expires > :now + length + 1e-6"
_OVER_CLAIMS = f"""
    SELECT id FROM jumpstarter_leases CROSS JOIN jumpstarter_messages ON claimant = incarnation
    WHERE state = 'claimed' AND hold IS NULL AND (expires <= :now OR {_BEFORE_BOOT})
    UNION ALL
    SELECT id FROM jumpstarter_messages JOIN jumpstarter_leases ON claimant = incarnation
    WHERE hold IS NOT NULL AND (expires - length + hold <= :now OR {_BEFORE_BOOT})
"""  # noqa: S608  put together from constants
# What is held for longer needs the lease to be renewed with.
_OVER_LEASES = f"""
    FROM jumpstarter_leases WHERE (expires <= :now OR {_BEFORE_BOOT})
    AND NOT EXISTS (SELECT 1 FROM jumpstarter_messages WHERE state = 'claimed' AND claimant = incarnation)
"""  # noqa: S608  as above
_ANY_OVER = f"SELECT EXISTS ({_OVER_CLAIMS}) OR EXISTS (SELECT 1 {_OVER_LEASES})"
_RETURN_OVER = f"""
    UPDATE jumpstarter_messages SET state = 'ready', claimant = NULL, epoch = NULL, hold = NULL, attempt = attempt + 1
    WHERE id IN ({_OVER_CLAIMS})
"""  # noqa: S608  as above
_END_OVER = f"DELETE {_OVER_LEASES}"

_HELD = """
    SELECT priority, id, epoch, attempt, queue, head, body FROM jumpstarter_messages
    WHERE state = 'claimed' AND claimant = ? ORDER BY epoch, priority, id
"""
_HELD_OF_THESE = """
    SELECT id, epoch FROM jumpstarter_messages
    WHERE state = 'claimed' AND claimant = ? AND id IN (SELECT value FROM json_each(?))
"""
_RELEASE = """
    UPDATE jumpstarter_messages SET state = 'ready', claimant = NULL, epoch = NULL, hold = NULL, attempt = attempt + ?
    WHERE state = 'claimed' AND claimant = ? AND id NOT IN (SELECT value FROM json_each(?))
"""

_DELETE = "DELETE FROM jumpstarter_messages WHERE id = ?"
_RETURN = "UPDATE jumpstarter_messages SET state = 'ready', claimant = NULL, epoch = NULL, hold = NULL WHERE id = ?"
# A new id puts a row behind all others. Evaluated row by row, so a batch keeps its order.
_REQUEUE = """
    UPDATE jumpstarter_messages
    SET id = (SELECT max(id) + 1 FROM jumpstarter_messages), state = 'ready', claimant = NULL, epoch = NULL, hold = NULL,
        attempt = attempt + 1
    WHERE id = ?
"""
_PARK = "UPDATE jumpstarter_messages SET state = 'parked', claimant = NULL, epoch = NULL, hold = NULL, due = ? WHERE id = ?"
_QUARANTINE = """
    INSERT INTO jumpstarter_quarantine (at, reason, evidence, queue, priority, attempt, head, body)
    SELECT ?, ?, ?, queue, priority, attempt, head, body FROM jumpstarter_messages WHERE id = ?
"""
_QUARANTINED = """
    SELECT id, queue, priority, head, body, reason, evidence, at, attempt FROM jumpstarter_quarantine
    WHERE id > ? ORDER BY id LIMIT ?
"""
_RESTING = """
    SELECT id, queue, priority, head, body FROM jumpstarter_quarantine WHERE id IN (SELECT value FROM json_each(?)) ORDER BY id
"""
_DROP = "DELETE FROM jumpstarter_quarantine WHERE id IN (SELECT value FROM json_each(?))"

_NEXT_DUE = "SELECT min(due) FROM jumpstarter_messages WHERE state = 'parked'"
_ARE_DUE = "SELECT id FROM jumpstarter_messages WHERE state = 'parked' AND due <= ? ORDER BY due, id LIMIT ?"
_PROMOTE = """
    UPDATE jumpstarter_messages
    SET id = (SELECT max(id) + 1 FROM jumpstarter_messages), state = 'ready', due = NULL
    WHERE id = ?
"""

# Made when it is first needed, so that files of before know topics as well.
_TOPICS = "CREATE TABLE IF NOT EXISTS jumpstarter_topics (topic TEXT, queue TEXT, PRIMARY KEY (topic, queue)) WITHOUT ROWID"
_HAS_TOPICS = "SELECT 1 FROM sqlite_master WHERE name = 'jumpstarter_topics'"
_BIND = "INSERT OR IGNORE INTO jumpstarter_topics VALUES (?, ?)"
_UNBIND = "DELETE FROM jumpstarter_topics WHERE topic = ? AND queue = ?"
_BOUND = "SELECT queue FROM jumpstarter_topics WHERE topic = ? ORDER BY queue"
_UNBIND_ALL = "DELETE FROM jumpstarter_topics WHERE queue = ?"

_DEPTH = "SELECT count(*) FROM jumpstarter_messages WHERE state = 'ready' AND queue = ?"
_PURGE = "DELETE FROM jumpstarter_messages WHERE state = 'ready' AND queue = ?"


class SqliteBroker(Broker):
    """A broker in a SQLite file.

    :param url: ``sqlite:////absolute/path.db`` or ``sqlite:///relative/path.db``; the options may also stand behind a ``?``.
    :param synchronous: ``NORMAL``: commits survive every process, the last ones perhaps not a loss of power; ``FULL``: that too.
    :param timeout: seconds that a call waits for other processes' transactions before it raises.
    :param clock: wall time for messages with a due time, monotonic time for leases.
    """

    exclusive = True

    def __init__(self, url: str, *, synchronous: str = "NORMAL", timeout: float = 5.0, clock: Clock = SYSTEM_CLOCK) -> None:
        place = Place(url, synchronous=synchronous, timeout=timeout)
        self.url = place.url
        self.server = place.server
        self._clock = clock
        self._database = Database(place, BrokerUnavailable)
        self._doorbell = Doorbell(place.path)
        self._turn = 0

    # Publishing and claiming

    def publish(self, envelopes: Sequence[Envelope], *, timeout: float | None = None) -> None:
        rows = self._rows(envelopes)
        if rows:
            self._database.write(lambda connection: connection.executemany(_INSERT, rows), timeout=timeout)
            self._doorbell.ring()

    def _rows(self, envelopes: Sequence[Envelope]) -> list[_Row]:
        now = self._clock.now()
        return [_row(envelope, now) for envelope in envelopes]

    def claim(self, queues: Sequence[str], limit: int, *, incarnation: str, lease: float) -> list[Delivery]:
        self._turn += 1
        first = self._turn % (len(queues) or 1)
        in_turn = [*queues[first:], *queues[:first]]
        if limit <= 0 or not self._any_ready(in_turn):
            self._prolong_if_any(incarnation, lease)
            return []
        rows = self._database.write(lambda connection: self._claim(connection, in_turn, limit, incarnation, lease))
        return [_delivery(*row) for row in rows]

    def _claim(
        self, connection: sqlite3.Connection, queues: Sequence[str], limit: int, incarnation: str, lease: float
    ) -> list[tuple[int, int, int, int, str, bytes, bytes]]:
        ((epoch,),) = connection.execute(_NEXT_EPOCH).fetchall()
        claimed: list[tuple[int, int, int, int, str, bytes, bytes]] = []
        for queue in queues:
            if len(claimed) < limit:
                rows = connection.execute(_CLAIM, (incarnation, epoch, queue, limit - len(claimed))).fetchall()
                rows.sort(key=itemgetter(0, 1))  # RETURNING promises no order
                claimed += rows
        expires = self._clock.monotonic() + lease
        if claimed:
            connection.execute(_GRANT, (incarnation, expires, lease))
        else:  # somebody was faster
            connection.execute(_PROLONG, (expires, lease, incarnation))
        return claimed

    def _any_ready(self, queues: Sequence[str]) -> bool:
        return self._database.read(lambda connection: any(connection.execute(_ANY_READY, (queue,)).fetchall() for queue in queues))

    def _prolong_if_any(self, incarnation: str, lease: float) -> None:
        if self._database.read(lambda connection: connection.execute(_HAS_LEASE, (incarnation,)).fetchall()):
            self.renew([incarnation], lease)

    def wait(self, queues: Sequence[str], timeout: float, *, incarnation: str) -> bool:  # noqa: ARG002  nothing is taken aside here
        return self._doorbell.wait(lambda: self._any_ready(queues) or None, timeout) is not None

    def wake(self) -> None:
        self._doorbell.wake()

    # Settling

    def settle(self, settlements: Sequence[Settlement], *, incarnation: str) -> list[bool | Completed]:
        # Packed before the transaction begins: what cannot be sent fails here, and nothing is done.
        packed = [self._rows(settlement.publish) for settlement in settlements]
        if not settlements:
            return []
        answers = self._database.write(lambda connection: self._settle(connection, settlements, packed, incarnation))
        if any(answer is True and _makes_news(settlement) for answer, settlement in zip(answers, settlements, strict=True)):
            self._doorbell.ring()
        return answers

    def _settle(
        self, connection: sqlite3.Connection, settlements: Sequence[Settlement], packed: Sequence[list[_Row]], incarnation: str
    ) -> list[bool | Completed]:
        verdicts = _verdicts(connection, settlements, incarnation)
        answers = [_join(connection, one) if held else False for one, held in zip(settlements, verdicts, strict=True)]
        done = [(one, rows) for one, rows, answer in zip(settlements, packed, answers, strict=True) if answer is True]
        steps = itertools.chain.from_iterable(self._steps(settlement, rows) for settlement, rows in done)
        # Most batches are 100 times the same: running equal statements together makes them cheap. Sorting keeps equals in order.
        for _, group in itertools.groupby(sorted(steps, key=itemgetter(0)), key=itemgetter(0, 1)):
            chunk = list(group)
            connection.executemany(chunk[0][1], [values for _, _, values in chunk])
        return answers

    def _steps(self, settlement: Settlement, rows: list[_Row]) -> Iterator[tuple[int, str, Sequence[object]]]:
        """What the settlement does, as (rank, statement, values): the message itself first, then publishing, then results."""
        number, _ = _parse(settlement.delivery.tag)
        match settlement.action:
            case Ack():
                yield 3, _DELETE, (number,)
            case Return():
                yield 0, _RETURN, (number,)
            case Requeue():
                yield 1, _REQUEUE, (number,)
            case Park(due=due):
                yield 2, _PARK, (due, number)
            case Quarantine(reason=reason, evidence=evidence):
                yield 2, _QUARANTINE, (self._clock.now(), reason, pack_evidence(evidence), number)
                yield 3, _DELETE, (number,)
        for row in rows:
            yield 4, _INSERT, row
        for statement, values in itertools.chain.from_iterable(settlement.writes):
            yield 5, statement, values

    # Leases

    def hold(self, tags: Sequence[str], lease: float, *, incarnation: str) -> None:
        claims = [_parse(tag) for tag in tags]
        if claims:
            self._database.write(lambda connection: self._hold(connection, claims, lease, incarnation))

    def _hold(self, connection: sqlite3.Connection, claims: list[tuple[int, int]], lease: float, incarnation: str) -> None:
        held = _held_of(connection, claims, incarnation)
        if held:
            connection.execute(_HOLD, (lease, incarnation, json.dumps([number for number, _ in held])))
            connection.execute(_SIGN_OF_LIFE, (self._clock.monotonic(), incarnation))

    def renew(self, incarnations: Iterable[str], lease: float) -> None:
        expires = self._clock.monotonic() + lease
        rows = [(expires, lease, incarnation) for incarnation in incarnations]
        if rows:
            self._database.write(lambda connection: connection.executemany(_PROLONG, rows))

    def held(self, incarnation: str) -> list[Delivery]:
        rows = self._database.read(lambda connection: connection.execute(_HELD, (incarnation,)).fetchall())
        return [_delivery(*row) for row in rows]

    def release(self, incarnation: str, *, keep: Iterable[str] = (), counted: bool = False) -> int:
        kept = [_parse(tag) for tag in keep]
        released = self._database.write(lambda connection: self._release(connection, incarnation, kept, counted=counted))
        if released:
            self._doorbell.ring()
        return released

    def _release(self, connection: sqlite3.Connection, incarnation: str, kept: list[tuple[int, int]], *, counted: bool) -> int:
        # A tag whose epoch is not the row's is from an earlier claim: it keeps nothing.
        held = _held_of(connection, kept, incarnation)
        numbers = json.dumps([number for number, _ in held])
        released = connection.execute(_RELEASE, (int(counted), incarnation, numbers)).rowcount
        if not kept:
            connection.execute(_END_LEASE, (incarnation,))
        return released

    def reap(self) -> Reaped:
        returned = self._return_over()
        promoted = self._promote_due()
        if returned or promoted:
            self._doorbell.ring()
        next_due = self._next_due()
        return Reaped(
            returned=returned, promoted=promoted, next_due=None if next_due is None else max(0.0, next_due - self._clock.now())
        )

    def _return_over(self) -> int:
        # The clock is read when the database is ours, not before the wait for it: a lease that was renewed in between would seem to
        # run longer than it was granted for, as one from before a reboot does.
        def look(connection: sqlite3.Connection) -> bool:
            ((is_any,),) = connection.execute(_ANY_OVER, {"now": self._clock.monotonic()}).fetchall()
            return bool(is_any)

        if not self._database.read(look):
            return 0

        def work(connection: sqlite3.Connection) -> int:
            now = {"now": self._clock.monotonic()}
            returned = connection.execute(_RETURN_OVER, now).rowcount
            connection.execute(_END_OVER, now)
            return returned

        return self._database.write(work)

    def _promote_due(self) -> int:
        promoted = 0
        while True:
            due = self._next_due()
            if due is None or due > self._clock.now():
                return promoted
            promoted += self._database.write(self._promote)

    def _promote(self, connection: sqlite3.Connection) -> int:
        rows = connection.execute(_ARE_DUE, (self._clock.now(), _MOVED_AT_ONCE)).fetchall()
        connection.executemany(_PROMOTE, rows)
        return len(rows)

    def _next_due(self) -> float | None:
        ((due,),) = self._database.read(lambda connection: connection.execute(_NEXT_DUE).fetchall())
        return None if due is None else float(due)

    # Quarantine

    # Topics

    def bind_topic(self, topic: str, queue: str) -> None:
        def work(connection: sqlite3.Connection) -> None:
            connection.execute(_TOPICS)
            connection.execute(_BIND, (topic, queue))

        self._database.write(work)

    def unbind_topic(self, topic: str, queue: str) -> None:
        self._in_topics(_UNBIND, (topic, queue))

    def publish_topic(self, topic: str, envelope: Envelope, *, timeout: float | None = None) -> None:
        def look(connection: sqlite3.Connection) -> list[tuple[str]]:
            has_topics = connection.execute(_HAS_TOPICS).fetchall()
            return connection.execute(_BOUND, (topic,)).fetchall() if has_topics else []

        queues = self._database.read(look)
        self.publish([replace(envelope, queue=queue) for (queue,) in queues], timeout=timeout)

    def delete_queue(self, queue: str) -> None:
        self.purge(queue)
        self._in_topics(_UNBIND_ALL, (queue,))

    def _in_topics(self, statement: str, values: tuple[str, ...]) -> None:
        def work(connection: sqlite3.Connection) -> None:
            if connection.execute(_HAS_TOPICS).fetchall():
                connection.execute(statement, values)

        self._database.write(work)

    def quarantined(self, *, limit: int = 100, after: str = "") -> list[Quarantined]:
        values = (resting_number(after), limit)
        rows = self._database.read(lambda connection: connection.execute(_QUARANTINED, values).fetchall())
        return [_resting(*row) for row in rows]

    def requeue_quarantined(self, ids: Sequence[str]) -> int:
        numbers, requeued = _numbers(ids), 0
        for first in range(0, len(numbers), _MOVED_AT_ONCE):
            some = json.dumps(numbers[first : first + _MOVED_AT_ONCE])
            requeued += self._database.write(partial(_requeue, numbers=some))
        if requeued:
            self._doorbell.ring()
        return requeued

    def drop_quarantined(self, ids: Sequence[str]) -> int:
        numbers = json.dumps(_numbers(ids))
        return self._database.write(lambda connection: connection.execute(_DROP, (numbers,)).rowcount)

    # Upkeep

    def depth(self, queue: str) -> int:
        ((waiting,),) = self._database.read(lambda connection: connection.execute(_DEPTH, (queue,)).fetchall())
        return int(waiting)

    def purge(self, queue: str) -> int:
        return self._database.write(lambda connection: connection.execute(_PURGE, (queue,)).rowcount)

    def ping(self) -> None:
        self._database.write(lambda _: None)

    def close(self) -> None:
        self._doorbell.close()
        self._database.close()


def _row(envelope: Envelope, now: float) -> _Row:
    due = None if envelope.due is None or envelope.due <= now else envelope.due
    state = "ready" if due is None else "parked"
    return envelope.queue, envelope.priority, state, due, pack(envelope), envelope.body


def _parse(tag: str) -> tuple[int, int]:
    """The row and the epoch of a tag; a row that does not exist for a tag that is not ours."""
    number, _, epoch = tag.partition(".")
    return (int(number), int(epoch)) if number.isdecimal() and epoch.isdecimal() else (-1, -1)


def _verdicts(connection: sqlite3.Connection, settlements: Sequence[Settlement], incarnation: str) -> list[bool]:
    """For each whether it may be carried out: its claim still holds, or needs to no more. The second of two for one claim may not:
    the first has settled it, or has to be settled again."""
    claims = [_parse(settlement.delivery.tag) for settlement in settlements]
    held = _held_of(connection, claims, incarnation)
    verdicts = []
    for settlement, claim in zip(settlements, claims, strict=True):
        if isinstance(settlement.action, Acked):
            verdicts.append(True)
        else:
            verdicts.append(claim in held)
            held.discard(claim)
    return verdicts


def _join(connection: sqlite3.Connection, settlement: Settlement) -> bool | Completed:
    """Count the settlement's part and close its join; True where the rest of it is to be done.

    ``part`` and ``closes`` are a results store's, to be called with the connection: they answer bodies or None, and whether the
    join was open."""
    if settlement.part is not None and (bodies := settlement.part(connection)) is not None:
        return Completed(bodies)
    if settlement.closes is not None and not settlement.closes(connection):
        return Completed(())
    return True


def _held_of(connection: sqlite3.Connection, claims: Sequence[tuple[int, int]], incarnation: str) -> set[tuple[int, int]]:
    numbers = json.dumps([number for number, _ in claims])
    return set(claims) & set(connection.execute(_HELD_OF_THESE, (incarnation, numbers)).fetchall())


def _makes_news(settlement: Settlement) -> bool:
    """Somebody may be waiting for what the settlement does."""
    return bool(settlement.publish or settlement.writes) or isinstance(settlement.action, Return | Requeue)


def _requeue(connection: sqlite3.Connection, numbers: str) -> int:
    resting = connection.execute(_RESTING, (numbers,)).fetchall()
    moving = [(number, queue, priority, head, body) for number, queue, priority, head, body in resting if is_message(queue, head)]
    connection.execute(_DROP, (json.dumps([number for number, *_ in moving]),))
    connection.executemany(_INSERT, [(queue, priority, "ready", None, head, body) for _, queue, priority, head, body in moving])
    return len(moving)


def _numbers(ids: Iterable[str]) -> list[int]:
    return sorted({resting_number(one) for one in ids} - {0})


def _delivery(priority: int, number: int, epoch: int, attempt: int, queue: str, head: bytes, body: bytes) -> Delivery:
    return unpack_delivery(f"{number}.{epoch}", queue, priority, head, body, epoch=epoch, attempt=attempt)


def _resting(
    number: int,
    queue: str,
    priority: int,
    head: bytes,
    body: bytes,
    reason: str,
    evidence: str,
    at: float,
    attempt: int,
) -> Quarantined:
    return unpack_resting(number, queue, priority, head, body, reason=reason, evidence=evidence, at=at, attempt=attempt)
