"""What all pools have in common."""

from __future__ import annotations

__all__ = ("BasePool",)


class BasePool:
    """A pool's name and nature. It runs nothing: the worker's executors do."""

    #: Whether tasks run in this process, beside the worker itself.
    is_in_process = True
