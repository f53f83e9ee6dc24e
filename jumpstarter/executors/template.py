"""The template's own life: fork on request, report who ended, and end what they left behind.

Comes from: process (which forks it). Goes to: beginning (in each child).

It leads a session of its own, and each child a process group in it, for three reasons. What a child started and left behind can be
ended with it. A signal to the node's group (a terminal's Ctrl-C, ``timeout``, ``kill -9 -pgid``) reaches the node alone, and the
template lives to clean up. And there is no terminal in that session: a child that writes to one is never stopped for it
(``stty tostop``), and none waits for input in the background.

When a child has ended, what is left of its group gets SIGTERM and, after a grace, SIGKILL. Why not SIGKILL at once:
``multiprocessing``'s and joblib's resource trackers, which ignore SIGTERM, remove their dead clients' shared memory from the
machine in that time. What leaves the group (``start_new_session=True``) is left alone.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import selectors
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, NoReturn

from jumpstarter.executors.beginning import begin
from jumpstarter.executors.evidence import STACK_SIGNAL, peak_memory
from jumpstarter.executors.linux import adopt_orphans, die_with

#: Runs in a new child, in its main thread: (index, incarnation, channel to the node) -> exit code.
ChildMain = Callable[[int, str, socket.socket], int]

MESSAGE_SIZE: Final = 4096
#: Descriptors that travel by socket must not leak into programs that are executed.
CLOEXEC: Final = socket.MSG_CMSG_CLOEXEC if sys.platform == "linux" else 0
#: Seconds that a dead child's processes have to end after SIGTERM.
GRACE: Final = 0.5

_FORK_AGAIN: Final = 0.5  # seconds until a fork that the system refused is tried again
#: Says that the node's process, or just its forking thread, has ended.
if sys.platform == "linux":
    _ORPHANED: Final[int] = signal.SIGRTMAX - 6
else:
    _ORPHANED: Final[int] = signal.SIGURG  # sent by nobody: there the end of the channel has to do
#: Somebody sends these to every process there is. Only the node decides what they mean.
_NODES_OWN: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT)
#: The same, but children have them as they were.
_IGNORED: Final = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


@dataclass(frozen=True, slots=True)
class _Request:
    """A child that the node wants: its number, its incarnation, its link to the node and the descriptor of its stacks."""

    index: int
    incarnation: str
    link: socket.socket
    stack: int

    def close(self) -> None:
        self.link.close()
        os.close(self.stack)


class Template:
    """Lives in a process of its own; see :meth:`serve`."""

    def __init__(self, channel: socket.socket, parent: int, main: ChildMain, rlimits: Mapping[int, int]) -> None:
        self._channel = channel
        self._parent = parent
        self._main = main
        self._rlimits = rlimits
        self._is_open = True
        self._is_orphan = False
        self._requests: deque[_Request] = deque()
        self._fork_at = 0.0
        self._children: set[int] = set()
        self._remains: dict[int, float] = {}  # groups whose leader is reaped: when they are killed
        os.setsid()
        adopt_orphans()
        for number in (*_NODES_OWN, STACK_SIGNAL):
            signal.signal(number, signal.SIG_IGN)
        self._before = {number: signal.signal(number, signal.SIG_IGN) for number in _IGNORED}
        self._woken, self._wake = socket.socketpair()
        for end in (self._woken, self._wake):
            end.setblocking(False)
        for number in (signal.SIGCHLD, _ORPHANED):
            signal.signal(number, lambda *_: None)  # ignored signals do not write to the wake-up descriptor
        signal.set_wakeup_fd(self._wake.fileno(), warn_on_full_buffer=False)
        # Catchable, unlike the children's: the template has to end their processes before it goes.
        die_with(parent, _ORPHANED)
        # What is allocated up to here lives as long as the process: keep the collector from touching (and so copying) its pages.
        gc.collect()
        gc.freeze()

    def serve(self) -> int:
        """Until the node closes its end or is gone, and the last child is gone with what it left behind."""
        # Poll, because epoll and kqueue have a descriptor that every child would inherit.
        with selectors.PollSelector() as selector:
            selector.register(self._channel, selectors.EVENT_READ)
            selector.register(self._woken, selectors.EVENT_READ)
            while self._is_open or self._children or self._remains:
                for key, _ in selector.select(self._patience()):
                    if key.fileobj is self._woken:
                        self._drain_wake()
                    elif not self._hear():
                        self._shut(selector)
                if not self._is_orphan and os.getppid() != self._parent:
                    self._is_orphan = True
                    self._shut(selector)
                    self._end_children()
                self._fork_requested()
                self._reap()
                self._kill_remains()
        return 0

    def _patience(self) -> float | None:
        """Seconds until there is something to do that nobody tells."""
        times = list(self._remains.values())
        if self._requests:
            times.append(self._fork_at)
        return max(0.0, min(times) - time.monotonic()) if times else None

    def _drain_wake(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while self._woken.recv(MESSAGE_SIZE):
                pass

    def _hear(self) -> bool:
        """Note what the node asks for; False when it has closed its end."""
        try:
            request, descriptors, _, _ = socket.recv_fds(self._channel, MESSAGE_SIZE, 2, CLOEXEC)
        except ConnectionError:  # it had not read all that it was told
            return False
        if not request:
            return False
        index, incarnation = json.loads(request)
        link, stack = descriptors
        self._requests.append(_Request(index, incarnation, socket.socket(fileno=link), stack))
        return True

    def _shut(self, selector: selectors.BaseSelector) -> None:
        """Nobody listens any more, and nobody asks."""
        if self._is_open:
            self._is_open = False
            selector.unregister(self._channel)
            while self._requests:
                self._requests.popleft().close()

    def _end_children(self) -> None:
        for pid in self._children:
            os.kill(pid, signal.SIGKILL)

    # A child's beginning.

    def _fork_requested(self) -> None:
        """In order. A system that refuses (no memory, too many processes) is asked again after a while."""
        while self._requests and time.monotonic() >= self._fork_at:
            request = self._requests[0]
            try:
                pid = self._fork(request)
            except OSError as error:
                print(f"child {request.index} cannot be forked yet: {error}", file=sys.stderr, flush=True)
                self._fork_at = time.monotonic() + _FORK_AGAIN
                return
            self._requests.popleft().close()
            with contextlib.suppress(OSError):  # the child does it as well: whoever is first
                os.setpgid(pid, pid)
            self._children.add(pid)
            with _handle(pid) as handles:
                self._tell(["spawned", request.index, pid], handles)

    def _fork(self, request: _Request) -> int:
        template = os.getpid()
        pid = os.fork()
        if pid == 0:
            run_and_exit(lambda: self._become_child(template, request))
        return pid

    def _become_child(self, template: int, request: _Request) -> int:
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGCHLD, _ORPHANED):
            signal.signal(number, signal.SIG_DFL)
        for number, handler in self._before.items():
            if handler is not None:  # set by C code, which Python cannot set again
                signal.signal(number, handler)
        for end in (self._channel, self._woken, self._wake):
            end.close()
        for other in list(self._requests)[1:]:
            other.close()
        begin(template, request.link, request.stack, self._rlimits)
        return self._main(request.index, request.incarnation, request.link)

    # A child's end.

    def _reap(self) -> None:
        with contextlib.suppress(ChildProcessError):  # there are no children at all
            while True:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
                if pid == 0:
                    return
                if pid in self._children:  # and not an orphan that one of them left behind
                    self._children.discard(pid)
                    self._remains[pid] = time.monotonic() + GRACE
                    signal_remains(pid, signal.SIGTERM)
                    code = os.waitstatus_to_exitcode(status)
                    signalled = -code if code < 0 else None
                    self._tell(["exited", pid, None if code < 0 else code, signalled, peak_memory(usage.ru_maxrss)])

    def _kill_remains(self) -> None:
        now = time.monotonic()
        for group, kill_at in list(self._remains.items()):
            if kill_at <= now:
                signal_remains(group, signal.SIGKILL)
            if kill_at <= now or not signal_remains(group, 0):
                del self._remains[group]

    def _tell(self, message: list[object], descriptors: tuple[int, ...] = ()) -> None:
        if self._is_open:
            with contextlib.suppress(ConnectionError):  # the node is closing: it waits for this process instead
                socket.send_fds(self._channel, [json.dumps(message).encode()], descriptors)


@contextlib.contextmanager
def _handle(pid: int) -> Iterator[tuple[int, ...]]:
    """A descriptor of the process that stays its own when its number is another's, where the system has such a thing. To be made
    while the process cannot have been reaped."""
    try:
        descriptor = os.pidfd_open(pid)
    except (AttributeError, OSError):
        yield ()
        return
    try:
        yield (descriptor,)
    finally:
        os.close(descriptor)


def signal_remains(group: int, number: int) -> bool:
    """Send a signal (0: none) to what is left of a group whose leader has been reaped; False when nothing is left.

    The kernel gives a number to no process while a group has it, so one that has the leader's number now is a stranger.
    """
    with contextlib.suppress(ProcessLookupError):
        try:
            os.kill(group, 0)
        except PermissionError:
            return False
        except ProcessLookupError:
            with contextlib.suppress(PermissionError):  # they run as another user by now
                os.killpg(group, number)
            return True
    return False


def run_and_exit(main: Callable[[], int]) -> NoReturn:
    """Run in a forked process and never return into the code that forked it (its ``finally`` blocks are not ours)."""
    code = 1
    try:
        code = main()
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:  # noqa: BLE001 - the last frame of a process: report it, whatever it is
        sys.excepthook(*sys.exc_info())
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(code & 0xFF)
