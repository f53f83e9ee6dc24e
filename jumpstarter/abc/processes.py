"""The port of child processes: how a node starts them, looks at them, ends them and hears of their end."""

from __future__ import annotations

import socket
from abc import ABC, abstractmethod
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Exited:
    """A child's end, with the evidence that is left of it.

    :ivar pid: the process.
    :ivar code: its exit code, or None when a signal ended it.
    :ivar signal: the number of that signal, or None.
    :ivar peak_memory: the most resident memory that it had, or one process of its own that it waited for; bytes, or None where the
        platform does not tell. Pages that it shared with others count.
    :ivar stack: what its threads did when it crashed or was last asked (:meth:`Processes.ask_stack`), or "". At most 64 KB.
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
    """A place that children come from. All methods are non-blocking (but for :meth:`close`), for one thread.

    A child is known from its :class:`Spawned` to its :class:`Exited`; a pid that is not known is nobody's, and nothing happens to
    the process that has it.
    """

    #: Readable when :meth:`events` has something to say.
    channel: socket.socket

    @abstractmethod
    def spawn(self, index: int, incarnation: str, channel: socket.socket) -> None:
        """Ask for child number ``index``; it speaks with its parent through ``channel`` (which the caller may close then).

        :raises WorkerError: the place has ended or was closed.
        """

    @abstractmethod
    def events(self) -> list[Spawned | Exited]:
        """What happened since the last call: for every child one ``Spawned`` and then one ``Exited``.

        :raises EOFError: the place itself is gone; so are all its children.
        """

    @abstractmethod
    def kill(self, pid: int, number: int) -> bool:
        """Send a signal to a child; False when it is not known or has ended. Never hits another process that got its number."""

    @abstractmethod
    def ask_stack(self, pid: int) -> None:
        """Have a child write down what its threads do, also while C code holds its GIL; what it wrote before is forgotten.

        It takes the child a millisecond once it gets a CPU; then :meth:`stack` has it, and so has :attr:`Exited.stack`, unless it
        was killed before it came to that.
        """

    @abstractmethod
    def stack(self, pid: int) -> str:
        """What a child has written so far since it was last asked, or "". At most 64 KB."""

    @abstractmethod
    def memory(self, pid: int) -> int:
        """A child's resident memory now, in bytes; 0 when it is not known or has ended. Costs about 10 µs."""

    @abstractmethod
    def close(self) -> None:
        """No more children: the place ends when its last child has, and this waits for it."""
