"""How a process that waits for a file hears at once that another process has committed something to it.

Whoever makes something ready *rings*: after its commit it touches the modification time of the database file (``utime``, 2 µs, no
file descriptor: closing one would drop SQLite's POSIX locks). Whoever waits watches that one attribute through inotify: 0.07 ms
from commit to wake-up (p50, two processes). Watching the ``-wal`` file instead wakes for every lease renewal and every ack as
well, and *before* the commit can be seen: its last write comes before the index in shared memory is changed, and whoever looks in
between sleeps on.

A writer that dies between commit and ring, and a system without inotify, are covered by looking again: every second where inotify
works, every 50 ms where it does not. There is no thread here and no state that outlives a fork.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import struct
import sys
import threading
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

#: Seconds between two looks when nothing rings: with inotify, and without.
SLOW_LOOK = 1.0
FAST_LOOK = 0.05

# When rings bring nothing for us (another queue's messages, other people's results), looks are spaced out up to this many seconds,
# so that a busy neighbour costs a waiting process at most 200 looks a second (about 30 µs each).
_LONGEST_PAUSE = 0.005
# A wait longer than this was quiet: the next ring is looked at at once again.
_QUIET = 0.05

_IN_ATTRIB = 0x004
_IN_DELETE_SELF = 0x400
_IN_MOVE_SELF = 0x800
_IN_IGNORED = 0x8000
_EVENT = struct.Struct("iIII")


class _Watch:
    """inotify on the attributes of one file. Raises OSError when there is none to be had.

    Closed when nobody refers to it any more: a thread that sleeps on it does, so its descriptor's number never goes to a stranger
    meanwhile; and brokers that nobody closed do not use up the 128 instances that a user may have.
    """

    fd: int = -1

    def __init__(self, path: str) -> None:
        if not sys.platform.startswith("linux"):
            raise OSError("inotify exists on Linux only")
        libc = ctypes.CDLL(None, use_errno=True)
        self.fd = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self.fd < 0:
            raise OSError(ctypes.get_errno(), "inotify_init1")
        if libc.inotify_add_watch(self.fd, os.fsencode(path), _IN_ATTRIB | _IN_DELETE_SELF | _IN_MOVE_SELF) < 0:
            raise OSError(ctypes.get_errno(), "inotify_add_watch", path)

    def drain(self) -> bool:
        """Read what has happened; False when the file is no longer the one that is watched."""
        try:
            events = os.read(self.fd, 4096)
        except BlockingIOError:
            return True
        masks = 0
        at = 0
        while at < len(events):
            _, mask, _, name_length = _EVENT.unpack_from(events, at)
            masks |= mask
            at += _EVENT.size + name_length
        return not masks & (_IN_IGNORED | _IN_MOVE_SELF)

    def __del__(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)


class _Ear:
    """One waiting thread: a pipe that ends its sleep."""

    __slots__ = ("_reader", "_writer", "woken")

    def __init__(self) -> None:
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._reader, False)
        os.set_blocking(self._writer, False)
        self.woken = False

    def poke(self) -> None:
        with contextlib.suppress(BlockingIOError):  # a full pipe wakes as well
            os.write(self._writer, b"!")

    def sleep(self, seconds: float, watch: _Watch | None) -> bool:
        """Sleep until poked, until the watch has something to say, or for so many seconds. True when the watch has."""
        poll = select.poll()
        poll.register(self._reader, select.POLLIN)
        if watch is not None:
            poll.register(watch.fd, select.POLLIN)
        ready = {fd for fd, _ in poll.poll(max(0.0, seconds) * 1000)}
        if self._reader in ready:
            os.read(self._reader, 4096)
        return watch is not None and watch.fd in ready

    def close(self) -> None:
        os.close(self._reader)
        os.close(self._writer)


class Doorbell:
    """Ring, wait and wake for one file. Any number of threads may wait; forks start anew."""

    def __init__(self, path: str, *, inotify: bool = True) -> None:
        self._path = path
        self._inotify = inotify
        self._reset()

    def _reset(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._ears: set[_Ear] = set()
        self._watch: _Watch | None = None
        self._wake_next = False

    def ring(self) -> None:
        """Tell every process that waits that there is something new. To be called after the commit."""
        with contextlib.suppress(OSError):  # the file is gone or not ours: the slow look finds what was committed
            os.utime(self._path)

    def wake(self) -> None:
        """End every :meth:`wait` that is under way in this process, or the next one if none is."""
        self._after_fork()
        with self._lock:
            self._wake_next = not self._ears
            for ear in self._ears:
                ear.woken = True
                ear.poke()

    def wait(self, look: Callable[[], T | None], timeout: float | None) -> T | None:
        """Call ``look`` now and whenever somebody rings, until it returns something.

        :param timeout: seconds; None for no limit.
        :return: what ``look`` returned; None when the time was over or :meth:`wake` was called.
        """
        self._after_fork()
        deadline = None if timeout is None else time.monotonic() + timeout
        woken = self._take_wake()
        found = look()
        if found is not None or woken:
            return found
        ear = _Ear()
        try:
            if not self._listen(ear):
                return None
            return self._look_until(look, deadline, ear)
        finally:
            self._forget(ear)

    def _look_until(self, look: Callable[[], T | None], deadline: float | None, ear: _Ear) -> T | None:
        pause = 0.0
        while not ear.woken:
            found = look()
            if found is not None:
                return found
            began = time.monotonic()
            left = SLOW_LOOK if deadline is None else deadline - began
            if left <= 0:
                return None
            if pause:
                time.sleep(min(pause, left))  # not on the ear: it would swallow a poke that came after our look
            self._hear(ear, left)
            quiet = time.monotonic() - began > _QUIET
            pause = 0.0 if quiet else min(_LONGEST_PAUSE, pause * 2 or 0.0005)
        return None

    def _take_wake(self) -> bool:
        with self._lock:
            woken, self._wake_next = self._wake_next, False
            return woken

    def _listen(self, ear: _Ear) -> bool:
        with self._lock:
            if self._wake_next:
                self._wake_next = False
                return False
            if not self._ears:
                self._drain()  # what rang while nobody waited is covered by the look that follows
            self._ears.add(ear)
        return True

    def _forget(self, ear: _Ear) -> None:
        with self._lock:  # nobody pokes an ear whose pipe is closed: its number may belong to somebody else by then
            self._ears.discard(ear)
            ear.close()

    def _hear(self, ear: _Ear, left: float) -> None:
        """Sleep until something may have changed."""
        watch = self._open_watch()
        longest = SLOW_LOOK if watch is not None else FAST_LOOK
        if ear.sleep(min(left, longest), watch):
            self._share(ear, watch)

    def _open_watch(self) -> _Watch | None:
        with self._lock:
            if self._watch is None and self._inotify:
                with contextlib.suppress(OSError):  # no such file yet, no inotify, or too many of them: FAST_LOOK does
                    self._watch = _Watch(self._path)
                    # Somebody may have rung since our look and before the watch: look once more.
                    for ear in self._ears:
                        ear.poke()
            return self._watch

    def _share(self, ear: _Ear, watch: _Watch | None) -> None:
        # All waiting threads sleep on the one watch; whoever drains it first tells the others, who may not have been asleep yet.
        with self._lock:
            if watch is None or self._watch is not watch:
                return
            self._drain()
            for other in self._ears:
                if other is not ear:
                    other.poke()

    def _drain(self) -> None:
        if self._watch is not None and not self._watch.drain():
            self._watch = None

    def close(self) -> None:
        """End what waits and let go of inotify. A later :meth:`wait` opens it again."""
        self._after_fork()
        with self._lock:
            for ear in self._ears:
                ear.woken = True
                ear.poke()
            self._watch = None

    def _after_fork(self) -> None:
        if self._pid == os.getpid():
            return
        # The parent's threads do not exist here; our copies of their descriptors do. Closing a copy changes nothing for the parent.
        for ear in self._ears:
            ear.close()
        self._reset()
