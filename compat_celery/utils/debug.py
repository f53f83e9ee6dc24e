"""Memory of this process, blocking calls, stacks: for those who look for leaks and locks."""

from __future__ import annotations

import gc
import inspect
import os
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pprint import pformat
from typing import Any, NoReturn

from psutil import Process  # type: ignore[import-untyped] # ships no annotations

from compat_celery.platforms import signals
from compat_celery.utils.text import WhateverIO

__all__ = ("blockdetection", "cry", "humanbytes", "mem_rss", "memdump", "ps", "sample", "sample_mem")

_UNITS = ((1 << 40, "TB"), (1 << 30, "GB"), (1 << 20, "MB"), (1 << 10, "KB"))

#: This process.
_process: Process | None = None

#: Memory samples; see :func:`sample_mem`.
_mem_sample: list[Any] = []


def _on_blocking(signum: int, frame: Any) -> NoReturn:  # noqa: ARG001 - a signal handler's signature
    raise RuntimeError(f"Blocking detection timed-out at: {inspect.getframeinfo(frame)}")


@contextmanager
def blockdetection(timeout: float | None) -> Iterator[None]:
    """Raise an error when the block takes longer (seconds), by SIGALRM; no limit for None."""
    if not timeout:
        yield
        return
    before = signals["ALRM"]
    signals["ALRM"] = _on_blocking
    signals.arm_alarm(timeout)
    try:
        yield
    finally:
        if before is not _on_blocking:
            signals["ALRM"] = before
        signals.reset_alarm()


def ps() -> Any:
    """The process itself, as psutil sees it."""
    global _process  # noqa: PLW0603 - made once; tests put another in its place
    if _process is None:
        _process = Process(os.getpid())
    return _process


def mem_rss() -> str | None:
    """The memory that this process uses, for people."""
    process = ps()
    return None if process is None else humanbytes(process.memory_info().rss)


def sample_mem() -> str | None:
    """Take a sample of :func:`mem_rss`, and give it. :func:`memdump` shows the samples."""
    current = mem_rss()
    _mem_sample.append(current)
    return current


def memdump(samples: int = 10, file: Any = None) -> None:
    """Print so many of the samples, forget them all, and print what is used after a garbage collection."""
    taken = list(_mem_sample)
    _mem_sample.clear()
    shown = taken if len(taken) <= samples else list(sample(taken, samples))
    if shown:
        print("- rss (sample):", file=file)
        for size in shown:
            print(f"-    > {size},", file=file)
    gc.collect()
    print(f"- rss (end): {mem_rss()}.", file=file)


def sample(x: Sequence[Any], n: int, k: int = 0) -> Iterator[Any]:
    """``n`` of the items at equal distances, beginning with the one at ``k``."""
    step = len(x) // n
    for position in range(k, k + n * step, step or 1):
        if position >= len(x):
            return
        yield x[position]


def hfloat(f: float, p: int = 5) -> Any:
    """A number with ``p`` digits, and none behind the point that say nothing."""
    return int(f) if int(f) == f else f"{f:.{p}}"


def humanbytes(s: float) -> str:
    """A number of bytes with its unit: ``64KB``."""
    for size, unit in _UNITS:
        if s >= size:
            return f"{hfloat(s / size)}{unit}"
    return f"{hfloat(s)}b"


def cry(out: Any = None, sepchr: str = "=", seplen: int = 49) -> Any:
    """The stack and local variables of every thread, as text; also written to ``out``."""
    target = WhateverIO() if out is None else out
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    line = sepchr * seplen
    for ident, frame in sys._current_frames().items():
        if ident not in names:
            continue  # left over from a fork
        stack = "".join(traceback.format_stack(frame))
        target.write(f"{names[ident]}\n{line}\n{stack}{line}\nLOCAL VARIABLES\n{line}\n{pformat(frame.f_locals)}\n\n\n")
    return target.getvalue()
