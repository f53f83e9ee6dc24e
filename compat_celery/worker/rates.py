"""How often tasks may start in one worker: ``rate_limit``, whatever the number of its processes. Asked by: worker.application.

A task's rate is kept as Celery keeps it, in a bucket that holds one token: ``10/m`` starts one job every six seconds, however many
have come. Who comes too early either *waits* in the process that has claimed it, when its turn is near (its claim is renewed
meanwhile, and the slots run other things), or is sent *away* to be parked in the broker. It is back a little before its turn, or
within a minute: by then there may be another worker, or another rate.

The buckets lie in memory that all processes of the worker share from before they are forked.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
import tempfile
import threading
import time
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, NamedTuple

__all__ = ("Away", "Bucket", "Rates", "Wait", "ask")

#: Seconds for which a job is sent away, at most and at least.
LONGEST, SHORTEST = 60.0, 0.5
#: A job waits here when its turn is not farther than so many intervals between two starts, within so many seconds.
_AHEAD: Final = 200
_NEAREST, _FARTHEST = 1.0, 5.0
_CELL: Final = struct.Struct(
    "<ddd"
)  # the interval (seconds; 0: no limit), the next turn, the next turn of those that were sent away


class Wait(NamedTuple):
    """It has its turn in so many seconds, and nobody else has it."""

    seconds: float


class Away(NamedTuple):
    """It should come again in so many seconds."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Bucket:
    """One task's.

    :ivar interval: seconds between two starts; 0: no limit.
    :ivar turn: when the next start may be (monotonic seconds).
    :ivar away: the same after those that were sent away have come back, as far as can be told.
    """

    interval: float = 0.0
    turn: float = 0.0
    away: float = 0.0


def ask(bucket: Bucket, now: float, *, may_wait: bool) -> tuple[Bucket, Wait | Away]:
    """What becomes of a job that comes ``now``, and the bucket after it. Pure.

    :param may_wait: whether the process that has claimed it may keep it.
    """
    if bucket.interval <= 0:
        return bucket, Wait(0.0)
    turn = max(bucket.turn, now)
    near = min(max(_AHEAD * bucket.interval, _NEAREST), _FARTHEST)
    if turn <= now or (may_wait and turn - now <= near):
        return replace(bucket, turn=turn + bucket.interval), Wait(turn - now)
    # Never far ahead: those that come back and are sent away again would push it on for ever.
    away = min(max(bucket.away, turn), now + LONGEST)
    return replace(bucket, away=away + bucket.interval), Away(min(max(away - now - near / 2, SHORTEST), LONGEST))


def _unnamed_file() -> int:
    """The descriptor of a file for locks alone: in memory where that can be, as containers may have no disk to write to."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("rates")
    descriptor, name = tempfile.mkstemp()
    Path(name).unlink()
    return descriptor


class Rates:
    """The buckets of a worker. From any thread of any of its processes."""

    def __init__(self, limits: Mapping[str, float]) -> None:
        """:param limits: for every task of the worker its starts per second; 0: as often as it likes."""
        self._cells = {name: (number + 1) * _CELL.size for number, name in enumerate(limits)}
        self._memory = mmap.mmap(-1, (len(self._cells) + 1) * _CELL.size)
        # A lock that ends with the process that holds it, which a semaphore does not. It knows processes alone, not threads.
        self._file = _unnamed_file()
        weakref.finalize(self, os.close, self._file)
        self._thread_lock = threading.Lock()
        for name, limit in limits.items():
            self._put(name, Bucket(1 / limit if limit > 0 else 0.0))
        self._note_whether_any()

    @property
    def any(self) -> bool:
        """Whether any task has a limit."""
        return self._memory[0] != 0

    def limit(self, name: str, per_second: float) -> None:
        """Change a task's limit in all processes of the worker; 0 for none.

        :raises KeyError: the worker did not have such a task when it started.
        """
        with self._locked():
            before, now = self._get(name), time.monotonic()
            interval = 1 / per_second if per_second > 0 else 0.0
            self._put(name, Bucket(interval, min(before.turn, now + interval), now))
            self._note_whether_any()

    def ask(self, name: str, *, may_wait: bool) -> Wait | Away:
        """What becomes of a job of this task that has just come."""
        if not self.per_second(name):
            return Wait(0.0)
        with self._locked():
            bucket, answer = ask(self._get(name), time.monotonic(), may_wait=may_wait)
            self._put(name, bucket)
        return answer

    def per_second(self, name: str) -> float:
        """How often the task may start; 0: as often as it likes."""
        interval = self._get(name).interval if name in self._cells else 0.0
        return 1 / interval if interval > 0 else 0.0

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with self._thread_lock:
            fcntl.lockf(self._file, fcntl.LOCK_EX)
            try:
                yield
            finally:
                fcntl.lockf(self._file, fcntl.LOCK_UN)

    def _get(self, name: str) -> Bucket:
        return Bucket(*_CELL.unpack_from(self._memory, self._cells[name]))

    def _put(self, name: str, bucket: Bucket) -> None:
        _CELL.pack_into(self._memory, self._cells[name], bucket.interval, bucket.turn, bucket.away)

    def _note_whether_any(self) -> None:
        self._memory[0] = any(self._get(name).interval > 0 for name in self._cells)
