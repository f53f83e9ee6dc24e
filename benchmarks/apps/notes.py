"""What the tasks of every contestant do: note their number and the time in shared memory, outside the broker.

A file of each process, mapped into its memory: about 1 µs, no system call (which would hand the interpreter's lock to another
thread, and so slow down whoever has threads). It outlives the process, and proves that nothing was lost or done twice. Imports
nothing but the standard library: each contestant runs it in an environment of its own.
"""

import itertools
import mmap
import os
import struct
import time
from typing import Any

#: Number, monotonic seconds when the task began and when it ended, process id (written last: 0 means that there is no record yet).
#: The clock is the machine's, so all processes agree.
RECORD = struct.Struct("<iddi")
#: Bytes of a file. Only what is written takes memory.
SIZE = 1 << 24

_map: mmap.mmap | None = None
_pid = 0
_place = itertools.count(0, RECORD.size).__next__


def _open() -> mmap.mmap:
    """The file of the process."""
    global _map, _pid  # noqa: PLW0603 - one file for the process
    _pid = os.getpid()
    file = os.open(os.path.join(os.environ["BENCH_NOTES"], str(_pid)), os.O_RDWR | os.O_CREAT)  # noqa: PTH118 - cheap to import
    os.ftruncate(file, SIZE)
    _map = mmap.mmap(file, SIZE)
    os.close(file)
    return _map


def _forget() -> None:
    """In a forked process: the file is its parent's."""
    global _map, _place  # noqa: PLW0603 - as above
    _map = None
    _place = itertools.count(0, RECORD.size).__next__


os.register_at_fork(after_in_child=_forget)


def note(number: int, began: float | None = None) -> None:
    """Say that the task with this number has ended."""
    now = time.monotonic()
    RECORD.pack_into(_map or _open(), _place(), number, now if began is None else began, now, _pid)


def burn(seconds: float) -> None:
    """Compute for so long, as this process's processor time counts: what others take from the core does not shorten the work."""
    until = time.thread_time() + seconds
    while time.thread_time() < until:
        sum(range(200))


def setting(name: str, default: Any = None) -> Any:
    """A text of the environment; an integer where the default is one."""
    value = os.environ.get(name)
    if value is None:
        return default
    return int(value) if isinstance(default, int) else value
