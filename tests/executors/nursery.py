"""A template under test, with waits that end; and eyes on processes that are nobody's children."""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from jumpstarter.abc.processes import Exited, Spawned
from jumpstarter.errors import WorkerError
from jumpstarter.executors.process import ForkTemplate

E = TypeVar("E", Spawned, Exited)

ChildMain = Callable[[int, str, socket.socket], int]


class Nursery:
    """A :class:`ForkTemplate` as ``place``, and what it told that nobody has asked for yet."""

    def __init__(self, main: ChildMain, rlimits: Mapping[int, int] | None = None) -> None:
        self.place = ForkTemplate(main, rlimits=rlimits or {})
        self._told: list[Spawned | Exited] = []
        self._running: set[int] = set()
        self._links: list[socket.socket] = []

    def spawn(self, index: int = 0, incarnation: str = "abc") -> socket.socket:
        """The link to a new child; closing it tells most of them to end."""
        ours, theirs = socket.socketpair()
        try:
            self.place.spawn(index, incarnation, theirs)
        except WorkerError:
            ours.close()
            raise
        finally:
            theirs.close()
        ours.settimeout(20)
        self._links.append(ours)
        return ours

    def next(self, kind: type[E], within: float = 10) -> E:
        """The next event of that kind."""
        while True:
            for event in self._told:
                if isinstance(event, kind):
                    self._told.remove(event)
                    return event
            self._told += self.events(within)

    def events(self, within: float = 10) -> list[Spawned | Exited]:
        """What happens next."""
        readable, _, _ = select.select([self.place.channel], [], [], within)
        assert readable, f"nothing happens within {within} s"
        happened = self.place.events()
        for event in happened:
            if isinstance(event, Spawned):
                self._running.add(event.pid)
            else:
                self._running.remove(event.pid)
        return happened

    def born(self) -> int:
        """The pid of the next child."""
        return self.next(Spawned).pid

    def start(self, index: int = 0) -> tuple[int, socket.socket]:
        """A child that has said something, which is read: its pid and its link."""
        link = self.spawn(index)
        pid = self.born()
        assert link.recv(1000), "the child ended without a word"
        return pid, link

    def ended(self, within: float = 10) -> Exited:
        """How the next child ended."""
        return self.next(Exited, within)

    def is_over(self) -> bool:
        """Whether the template has ended, as it tells after the last event."""
        try:
            self.events()
        except EOFError:
            return True
        return False

    def close(self) -> None:
        for pid in self._running:
            self.place.kill(pid, signal.SIGKILL)
        self.place.close()
        for link in self._links:
            link.close()


class Watched:
    """A process that somebody else started: its handle stays its own."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._handle = os.pidfd_open(pid)

    def ends(self, within: float) -> bool:
        """Whether it has ended by then."""
        readable, _, _ = select.select([self._handle], [], [], within)
        return bool(readable)

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._handle, signal.SIGKILL)

    def close(self) -> None:
        os.close(self._handle)


def hold_the_interpreter() -> None:
    """Wait in C code for ever: nothing else of Python runs in this process, no signal's handler either. In a lock, since a signal
    would end a sleep."""
    library, mutex = ctypes.PyDLL(None), ctypes.create_string_buffer(128)
    for _ in range(2):
        library.pthread_mutex_lock(mutex)


def descriptors(pid: int) -> dict[str, str]:
    """A process's open descriptors and what they are."""
    found = {}
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # the one that reads the folder
            found[entry.name] = str(entry.readlink())
    return found


def offspring(pid: int) -> list[int]:
    """The children of a process, zombies included."""
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
