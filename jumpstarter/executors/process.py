"""Child processes, forked from a template that has the application imported and nothing else running. The node's end.

::

    node ──fork──▶ template ──fork──▶ child 0, child 1, …  ──▶ processes that tasks start
      ◀── spawned / exited ──

Why a template: the node runs a loop and threads by the time a child must be replaced, and forking such a process is a known way to
deadlock. The template is forked before any of that, stays single-threaded, and costs what it wrote since (its pages are shared).
``multiprocessing.forkserver`` loses the application's state and costs twice the start-up time (DESIGN §4 has the figures).

Whoever dies takes its children along. The kernel kills the children when the template ends, also those that hold the GIL. When the
node ends, it wakes the template, which kills the children and what they started (``template``). When the template is killed, the
node does that. When somebody kills node and template at the same moment, the children die and what they started stays.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from jumpstarter.abc.processes import Exited, Processes, Spawned
from jumpstarter.errors import WorkerError
from jumpstarter.executors.beginning import check_limits
from jumpstarter.executors.evidence import STACK_SIGNAL, StackFile, resident
from jumpstarter.executors.template import CLOEXEC, MESSAGE_SIZE, ChildMain, Template, run_and_exit, signal_remains

__all__ = ["ChildMain", "ForkTemplate"]

_NO_LIMITS: Final[Mapping[int, int]] = {}


@dataclass(frozen=True, slots=True)
class _Child:
    """A child that runs, as far as is known: its handle (a pidfd, or None where there is no such thing) and its stacks."""

    pid: int
    handle: int | None
    stack: StackFile

    def signal(self, number: int) -> bool:
        """False when it has ended and its number may be another's."""
        try:
            if self.handle is None:
                os.kill(self.pid, number)
            else:
                signal.pidfd_send_signal(self.handle, number)
        except ProcessLookupError:
            return False
        return True

    def kill_group(self) -> None:
        """The child, and what it started."""
        if self.signal(signal.SIGKILL):  # the number is still its own
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
        else:
            signal_remains(self.pid, signal.SIGKILL)

    def close(self) -> None:
        self.stack.close()
        if self.handle is not None:
            os.close(self.handle)


@dataclass(frozen=True, slots=True)
class _Wish:
    """A child that the template has not been asked for yet."""

    request: bytes
    link: int
    stack: StackFile

    def close(self) -> None:
        os.close(self.link)
        self.stack.close()


class ForkTemplate(Processes):
    """Forks the template when created; asks it for children afterwards."""

    def __init__(self, main: ChildMain, *, rlimits: Mapping[int, int] = _NO_LIMITS) -> None:
        """Fork. No other thread may run at this time, except in an embedding program, whose threads the template does not have.

        :param main: what a child runs.
        :param rlimits: the operating system's limits for each child, by ``resource.RLIMIT_…``, in its units; soft and hard, and
            inherited by what it starts. What is mapped when the child starts counts: a limit to its memory must leave room for
            the application, and 8 MB of ``RLIMIT_AS`` or more for each thread. Who allocates beyond gets MemoryError;
            ``RLIMIT_CPU`` ends the child by SIGKILL.
        :raises ConfigurationError: a limit that there is not.
        """
        check_limits(rlimits)
        self._wishes: deque[_Wish] = deque()
        self._asked: deque[StackFile] = deque()  # in the order in which their children will be reported
        self._children: dict[int, _Child] = {}
        self.channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        parent = os.getpid()
        self.pid = os.fork()
        if self.pid == 0:
            self.channel.close()
            run_and_exit(lambda: Template(theirs, parent, main, rlimits).serve())
        theirs.close()
        self.channel.setblocking(False)

    def spawn(self, index: int, incarnation: str, channel: socket.socket) -> None:
        request = json.dumps([index, incarnation]).encode()
        self._wishes.append(_Wish(request, os.dup(channel.fileno()), StackFile()))
        self._ask()

    def _ask(self) -> None:
        """Pass on what the socket takes; the rest goes when the template, which has read, answers."""
        while self._wishes:
            wish = self._wishes[0]
            try:
                socket.send_fds(self.channel, [wish.request], [wish.link, wish.stack.descriptor])
            except BlockingIOError:
                return
            except OSError as error:
                self._forget_wishes()
                raise WorkerError("a child cannot be started: the template process has ended") from error
            self._wishes.popleft()
            os.close(wish.link)
            self._asked.append(wish.stack)

    def events(self) -> list[Spawned | Exited]:
        happened: list[Spawned | Exited] = []
        while True:
            try:
                message, handles, _, _ = socket.recv_fds(self.channel, MESSAGE_SIZE, 1, CLOEXEC)
            except BlockingIOError:
                with contextlib.suppress(WorkerError):  # the next call reports the end
                    self._ask()
                return happened
            except ConnectionResetError:  # it ended with requests unread; end of file comes next
                continue
            if not message:
                if happened:
                    return happened  # the next call reports the end
                self._end_children()
                raise EOFError("the template process has ended")
            happened.append(self._note(message, handles))

    def _note(self, message: bytes, handles: list[int]) -> Spawned | Exited:
        kind, *facts = json.loads(message)
        if kind == "spawned":
            index, pid = facts
            self._children[pid] = _Child(pid, handles[0] if handles else None, self._asked.popleft())
            return Spawned(index, pid)
        pid, code, number, peak_memory = facts
        child = self._children.pop(pid)
        stack = child.stack.read()
        child.close()
        return Exited(pid, code, number, peak_memory, stack)

    def kill(self, pid: int, number: int) -> bool:
        child = self._children.get(pid)
        return child is not None and child.signal(number)

    def ask_stack(self, pid: int) -> None:
        if (child := self._children.get(pid)) is not None:
            child.stack.rewind()
            child.signal(STACK_SIGNAL)

    def stack(self, pid: int) -> str:
        child = self._children.get(pid)
        return "" if child is None else child.stack.read()

    def memory(self, pid: int) -> int:
        return resident(pid) if pid in self._children else 0

    def close(self) -> None:
        if self.channel.fileno() < 0:
            return
        # Told rather than just closed: a process that this one has forked since has a copy of this end.
        with contextlib.suppress(OSError):
            self.channel.shutdown(socket.SHUT_RDWR)
        self.channel.close()
        os.waitpid(self.pid, 0)
        self._forget()

    def _end_children(self) -> None:
        """The template was killed: what its children started is left, and they themselves for a moment."""
        for child in self._children.values():
            child.kill_group()
        self._forget()

    def _forget(self) -> None:
        for child in self._children.values():
            child.close()
        self._children.clear()
        while self._asked:
            self._asked.popleft().close()
        self._forget_wishes()

    def _forget_wishes(self) -> None:
        while self._wishes:
            self._wishes.popleft().close()
