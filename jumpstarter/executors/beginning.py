"""What a child process does before anything of the application runs in it. Comes from: template. Goes to: the child's main.

============== ==================================================================================================================
ends           with the template, whatever it does itself (``PR_SET_PDEATHSIG``)
leads          a process group, so that what it starts can be ended with it
signals        SIGTERM, SIGINT and SIGQUIT mean nothing to it: the node decides. A service manager sends them to every process.
stdin          is empty: there is one terminal and many children. (A debugger in a task sees the end of its input and gives up; the
               pool ``solo`` is for debugging.)
stacks         go to a file that the node reads, when it crashes and when it is asked
limits         of the operating system, as asked for
============== ==================================================================================================================

What a child *forks* (``multiprocessing``) gets none of that: see :func:`_in_grandchild`. Programs that it executes do not either:
handled signals have their defaults there, where ignored ones would stay ignored and ``Popen.terminate()`` would do nothing.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import resource
import signal
import socket
import sys
import threading
from collections.abc import Callable, Mapping
from functools import partial
from types import FrameType
from typing import Final

from jumpstarter.errors import ConfigurationError
from jumpstarter.executors.evidence import STACK_SIGNAL
from jumpstarter.executors.linux import die_with

#: Signals that mean nothing to a child, and what they mean to a process that it forks.
_HELD: Final[Mapping[signal.Signals, Callable[[int, FrameType | None], object] | signal.Handlers]] = {
    signal.SIGTERM: signal.SIG_DFL,
    signal.SIGQUIT: signal.SIG_DFL,
    signal.SIGINT: signal.default_int_handler,
}


def begin(template: int, link: socket.socket, stack: int, rlimits: Mapping[int, int]) -> None:
    """Turn this process, just forked, into a child.

    :param template: the process that forked it.
    :param link: its channel to the node.
    :param stack: the descriptor that its stacks go to.
    """
    die_with(template, signal.SIGKILL)
    with contextlib.suppress(OSError):  # the template does it as well: whoever is first
        os.setpgid(0, 0)
    for number in _HELD:
        signal.signal(number, _hold)
    _empty_stdin()
    faulthandler.enable(stack, all_threads=True)
    faulthandler.register(STACK_SIGNAL, stack, all_threads=True, chain=False)
    os.register_at_fork(before=_block, after_in_parent=_unblock, after_in_child=partial(_in_grandchild, link, stack))
    _limit(rlimits)


def _hold(_number: int, _frame: FrameType | None) -> None:
    """A signal that is the node's to decide upon."""


# Signals wait while a child forks, or `process.terminate()` right after `process.start()` would meet the handler that holds it.
_masks: Final = threading.local()


def _block() -> None:
    _masks.before = signal.pthread_sigmask(signal.SIG_BLOCK, _HELD)


def _unblock() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, _masks.before)


def _in_grandchild(link: socket.socket, stack: int) -> None:
    """In a process that a child forked: drop what is between the child and its node.

    ``multiprocessing`` terminates its processes by SIGTERM; the node takes an open link for a living child; and the stack of a
    grandchild that crashes is no evidence against the child, so it goes where stacks usually go.
    """
    for number, meaning in _HELD.items():
        if signal.getsignal(number) is _hold:
            signal.signal(number, meaning)
    _unblock()
    if link.fileno() >= 0:
        os.close(link.detach())
    with contextlib.suppress(OSError):  # without stderr
        os.dup2(sys.__stderr__.fileno() if sys.__stderr__ is not None else 2, stack, inheritable=False)


def _empty_stdin() -> None:
    nothing = os.open(os.devnull, os.O_RDONLY)
    if nothing != 0:
        os.dup2(nothing, 0)
        os.close(nothing)


def check_limits(rlimits: Mapping[int, int]) -> None:
    """See that they can be set.

    :raises ConfigurationError: a key is no ``resource.RLIMIT_…`` of this platform, or a value is no limit.
    """
    for name, limit in rlimits.items():
        try:
            resource.getrlimit(name)
        except (ValueError, OSError) as error:
            raise ConfigurationError(
                f"rlimits: {name!r} is no limit of this platform; use the resource module's RLIMIT_…"
            ) from error
        if limit < 0 and limit != resource.RLIM_INFINITY:
            raise ConfigurationError(f"rlimits: {limit!r} is no value for a limit")


def _limit(rlimits: Mapping[int, int]) -> None:
    """Lower each limit, the soft and the hard one: a task shall not lift what an operator has set. Tighter ones stay."""
    for name, limit in rlimits.items():
        _, hard = resource.getrlimit(name)
        bound = min(limit, hard, key=_size)
        resource.setrlimit(name, (bound, bound))


def _size(limit: int) -> float:
    return float("inf") if limit == resource.RLIM_INFINITY else limit
