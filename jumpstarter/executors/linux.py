"""What only Linux offers to processes that belong together. Elsewhere these do nothing."""

from __future__ import annotations

import ctypes
import os
import sys
from typing import Final

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_CHILD_SUBREAPER: Final = 36
_LIBC: Final = ctypes.CDLL(None, use_errno=True)


def die_with(parent: int, number: int) -> None:
    """Get this signal when the parent ends; end at once when it is gone already.

    The trap: the kernel sends it when the *thread* that forked this process ends. Whoever catches it asks for the parent once more.
    """
    if sys.platform == "linux":
        _LIBC.prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)


def adopt_orphans() -> None:
    """Be the parent of descendants whose own parent is dead. Otherwise process 1 is; in a container that is often the node, which
    does not reap strangers."""
    if sys.platform == "linux":
        _LIBC.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
