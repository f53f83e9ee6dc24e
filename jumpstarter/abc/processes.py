"""The port of child processes: how a node starts them and hears of their end."""

from __future__ import annotations

import socket
from abc import ABC, abstractmethod
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Exited:
    """A child's end.

    :ivar pid: the process.
    :ivar code: its exit code, or None when a signal ended it.
    :ivar signal: the number of that signal, or None.
    """

    pid: int
    code: int | None
    signal: int | None
    peak_memory: int | None = None
    stack: str = ""

    def __str__(self) -> str:
        return f"exit code {self.code}" if self.signal is None else f"signal {self.signal}"


@dataclass(frozen=True, slots=True)
class Spawned:
    """A child's beginning: the number it was asked for under, and its process."""

    index: int
    pid: int


class Processes(ABC):
    """A place that children come from. All methods are non-blocking, for one thread."""

    #: Readable when :meth:`events` has something to say.
    channel: socket.socket

    @abstractmethod
    def spawn(self, index: int, incarnation: str, channel: socket.socket) -> None:
        """Ask for child number ``index``; it speaks with its parent through ``channel`` (which the caller may close then)."""

    @abstractmethod
    def events(self) -> list[Spawned | Exited]:
        """What happened since the last call.

        :raises EOFError: the place itself is gone; so are all its children.
        """

    def kill(self, pid: int, number: int) -> bool:
        import os

        os.kill(pid, number)
        return True

    def ask_stack(self, pid: int) -> None: ...
    def memory(self, pid: int) -> int:
        return int(open(f"/proc/{pid}/statm").read().split()[1]) * 4096

    @abstractmethod
    def close(self) -> None:
        """No more children: the place ends when its last child has."""
