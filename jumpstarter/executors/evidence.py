"""What is left of a child process as evidence: the stacks that it wrote down, and the memory that it had."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import sys
import tempfile
from pathlib import Path
from typing import Final

#: The signal that makes a child write its threads' stacks down. Nobody else is known to use it: Celery and its users take SIGUSR1,
#: SIGUSR2 and SIGHUP, profilers SIGPROF and SIGVTALRM, managed runtimes the first of the real-time signals and valgrind the last.
if sys.platform == "linux":
    STACK_SIGNAL: Final[int] = signal.SIGRTMAX - 7
else:
    STACK_SIGNAL: Final[int] = signal.SIGINFO
#: Bytes that are kept of a child's stacks.
STACK_LIMIT: Final = 64 * 1024

_MFD_NOEXEC_SEAL: Final = 8  # Python names it from 3.13 on; without it newer kernels complain, or refuse where the machine says so


class StackFile:
    """A nameless file in memory that a child's faulthandler writes to and its node reads.

    Both have the same open file, so the node knows by its position how far the child has written. It cannot grow: a write beyond
    its end fails, which faulthandler does not mind.
    """

    __slots__ = ("descriptor",)

    def __init__(self) -> None:
        self.descriptor = _nameless_file()

    def rewind(self) -> None:
        """Forget what was written."""
        os.lseek(self.descriptor, 0, os.SEEK_SET)

    def read(self) -> str:
        """What was written since the last rewind."""
        written = min(os.lseek(self.descriptor, 0, os.SEEK_CUR), STACK_LIMIT)
        return os.pread(self.descriptor, written, 0).decode("ascii", "replace")

    def close(self) -> None:
        """Give the descriptor back."""
        os.close(self.descriptor)


def _nameless_file() -> int:
    if sys.platform == "linux":
        # Refused by some sandboxes, and with these flags by old kernels; a temporary file does as well.
        with contextlib.suppress(OSError):
            descriptor = os.memfd_create("stack", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING | _MFD_NOEXEC_SEAL)
            os.truncate(descriptor, STACK_LIMIT)
            fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK)
            return descriptor
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def peak_memory(usage: float) -> int:
    """A process's greatest resident size in bytes, from the ``ru_maxrss`` of :func:`os.wait4`."""
    return int(usage) if sys.platform == "darwin" else int(usage) * 1024


def resident(pid: int) -> int:
    """A process's resident memory in bytes; 0 when there is no such process."""
    if sys.platform == "linux":
        try:
            pages = Path(f"/proc/{pid}/statm").read_bytes().split()[1]
        except (FileNotFoundError, ProcessLookupError):
            return 0
        return int(pages) * _PAGE
    else:  # noqa: RET505 - mypy skips what is not for this platform in this form only
        import psutil  # noqa: PLC0415 - Linux does without

        try:
            return int(psutil.Process(pid).memory_info().rss)
        except psutil.NoSuchProcess:
            return 0


_PAGE: Final = os.sysconf("SC_PAGESIZE")
