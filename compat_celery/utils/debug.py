"""Memory of this process, for those who look for leaks."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psutil  # type: ignore[import-untyped] # ships no annotations

from compat_celery.utils.text import WhateverIO

__all__ = ("blockdetection", "cry", "humanbytes", "mem_rss", "ps", "sample_mem")

#: Memory samples; see :func:`sample_mem`.
_samples: list[str] = []


@contextmanager
def blockdetection(timeout: float | None) -> Iterator[None]:
    """Raise an error when the block takes longer (seconds), by SIGALRM; no limit for None."""
    from compat_celery.platforms import signals  # noqa: PLC0415 - only here

    if not timeout:
        yield
        return
    before = signals["ALRM"]

    def on_alarm(*_: Any) -> None:
        raise RuntimeError(f"Blocking detection (timed-out after {timeout} seconds)")

    signals["ALRM"] = on_alarm
    signals.arm_alarm(timeout)
    try:
        yield
    finally:
        signals.reset_alarm()
        signals["ALRM"] = before


def ps() -> psutil.Process:
    """The process itself."""
    return psutil.Process(os.getpid())


def mem_rss() -> str:
    """The memory that this process uses, for people."""
    return humanbytes(ps().memory_info().rss)


def sample_mem() -> str:
    """Take a sample of :func:`mem_rss`, and give it."""
    sample = mem_rss()
    _samples.append(sample)
    return sample


def humanbytes(s: float) -> str:
    """A number of bytes with its unit."""
    for size, unit in ((1 << 30, "GB"), (1 << 20, "MB"), (1 << 10, "kB")):
        if s >= size:
            return f"{s / size:.2f}{unit}"
    return f"{s}b"


def cry(out: Any = None, sepchr: str = "=", seplen: int = 49) -> Any:
    """The stack of every thread, as text (or written to ``out``)."""
    import sys  # noqa: PLC0415 - only here
    import threading  # noqa: PLC0415 - only here
    import traceback  # noqa: PLC0415 - only here

    target = WhateverIO() if out is None else out
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    line = sepchr * seplen
    for ident, frame in sys._current_frames().items():
        if ident in names:
            target.write(f"{names[ident]}\n{line}\n{''.join(traceback.format_stack(frame))}{line}\n\n")
    return target.getvalue() if out is None else None
