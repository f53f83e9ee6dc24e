"""Child processes, forked from a template that has the application imported and nothing else running.

::

    node ──fork──▶ template ──fork──▶ child 0, child 1, …
      ◀── spawned / exited ──

Why a template: the node runs a loop and threads by the time a child must be replaced, and forking such a process is a known way to
deadlock. The template is forked before any of that, stays single-threaded, and costs what it wrote since (its pages are shared).
``multiprocessing.forkserver`` loses the application's state and costs twice the start-up time (DESIGN §4 has the figures).

Whoever dies takes its children along: ``PR_SET_PDEATHSIG`` makes the kernel send SIGKILL down the chain, also to a child that
holds the GIL. The trap: the signal is sent when the *thread* that forked ends, so the template must be forked from a thread that
lives as long as the node.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import os
import selectors
import signal
import socket
import sys
from collections.abc import Callable
from typing import Final, NoReturn

from jumpstarter.abc.processes import Exited, Processes, Spawned

#: Runs in a new child, in its main thread: (index, incarnation, channel to the node) -> exit code.
ChildMain = Callable[[int, str, socket.socket], int]

_PR_SET_PDEATHSIG: Final = 1
_MESSAGE_SIZE: Final = 4096


class ForkTemplate(Processes):
    """Forks the template when created; asks it for children afterwards."""

    def __init__(self, main: ChildMain) -> None:
        """Fork. No other thread may run at this time, except in an embedding program, whose threads the template does not have.

        :param main: what a child runs.
        """
        self.channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        parent = os.getpid()
        self.pid = os.fork()
        if self.pid == 0:
            self.channel.close()
            _run_and_exit(lambda: _Template(theirs, parent, main).serve())
        theirs.close()
        self.channel.setblocking(False)

    def spawn(self, index: int, incarnation: str, channel: socket.socket) -> None:
        request = json.dumps([index, incarnation]).encode()
        socket.send_fds(self.channel, [request], [channel.fileno()])

    def events(self) -> list[Spawned | Exited]:
        happened: list[Spawned | Exited] = []
        while True:
            try:
                message = self.channel.recv(_MESSAGE_SIZE)
            except BlockingIOError:
                return happened
            if not message:
                if happened:
                    return happened  # the next call reports the end
                raise EOFError("the template process has ended")
            kind, *facts = json.loads(message)
            happened.append(Spawned(*facts) if kind == "spawned" else Exited(*facts))

    def close(self) -> None:
        if self.channel.fileno() < 0:
            return
        self.channel.close()
        os.waitpid(self.pid, 0)


class _Template:
    """The template's own life: fork on request, report who ended."""

    def __init__(self, channel: socket.socket, parent: int, main: ChildMain) -> None:
        self.channel = channel
        self.main = main
        self.children: set[int] = set()
        _die_with(parent)
        # The terminal sends these to the whole group; only the node decides what they mean.
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT):
            signal.signal(number, signal.SIG_IGN)
        self._woken, wake = socket.socketpair()
        for end in (self._woken, wake):
            end.setblocking(False)
        signal.signal(signal.SIGCHLD, lambda *_: None)  # ignored signals do not write to the wake-up descriptor
        signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False)
        self._wake = wake
        # What is allocated up to here lives as long as the process: keep the collector from touching (and so copying) its pages.
        gc.collect()
        gc.freeze()

    def serve(self) -> int:
        """Until the node closes its end and the last child is gone."""
        with selectors.DefaultSelector() as selector:
            selector.register(self.channel, selectors.EVENT_READ)
            selector.register(self._woken, selectors.EVENT_READ)
            open_ = True
            while open_ or self.children:
                for key, _ in selector.select():
                    if key.fileobj is self.channel:
                        open_ = self._answer()
                        if not open_:
                            selector.unregister(self.channel)
                    else:
                        self._drain_wake()
                self._reap()
        return 0

    def _answer(self) -> bool:
        request, descriptors, _, _ = socket.recv_fds(self.channel, _MESSAGE_SIZE, 1)
        if not request:
            return False
        index, incarnation = json.loads(request)
        link = socket.socket(fileno=descriptors[0])
        template = os.getpid()
        pid = os.fork()
        if pid == 0:
            _run_and_exit(lambda: self._become_child(template, index, incarnation, link))
        link.close()
        self.children.add(pid)
        self._tell(["spawned", index, pid])
        return True

    def _become_child(self, template: int, index: int, incarnation: str, link: socket.socket) -> int:
        _die_with(template)
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for end in (self.channel, self._woken, self._wake):
            end.close()
        return self.main(index, incarnation, link)

    def _drain_wake(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while self._woken.recv(_MESSAGE_SIZE):
                pass

    def _reap(self) -> None:
        for pid in list(self.children):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                self.children.discard(pid)
                code = os.waitstatus_to_exitcode(status)
                self._tell(["exited", pid, None if code < 0 else code, -code if code < 0 else None])

    def _tell(self, message: list[object]) -> None:
        with contextlib.suppress(ConnectionError):  # the node is closing: it waits for this process instead
            self.channel.send(json.dumps(message).encode())


def _die_with(parent: int) -> None:
    """Be killed when the parent's forking thread ends; end at once when it is gone already."""
    if sys.platform != "linux":
        return  # elsewhere children notice the end of their parent when the channel closes
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def _run_and_exit(main: Callable[[], int]) -> NoReturn:
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
