"""The regions of a worker's slots, and the events that move them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any, Final

from jumpstarter.jobs import Job
from jumpstarter.worker.options import WorkerOptions

#: More slots than this share one region: a region each would make a chart that nobody can read, and slow to step.
SLOT_REGIONS: Final = 32

COROUTINES: Final = "coroutines"


def slot_regions(options: WorkerOptions) -> dict[str, Mapping[str, Any]]:
    """``slot_0`` … for plain functions, ``coroutines`` for all of the loop's slots: idle | processing each."""
    return {name: _region(name) for name in dict.fromkeys([*_names(options), COROUTINES])}


def _names(options: WorkerOptions) -> list[str]:
    """The region of each slot for plain functions."""
    slots = options.sync_slots
    return [f"slot_{number}" for number in range(slots)] if slots <= SLOT_REGIONS else ["slots"] * slots


def _region(name: str) -> Mapping[str, Any]:
    return {
        "initial": "idle",
        "states": ["idle", "processing"],
        "transitions": [
            {"trigger": f"{name}.begin", "source": "idle", "dest": "processing"},
            {"trigger": f"{name}.end", "source": "processing", "dest": "idle"},
        ],
    }


class SlotBoard:
    """Turns "slot 3 is busy" into the events of its region, from any thread."""

    def __init__(self, options: WorkerOptions, post: Callable[..., None]) -> None:
        self._post = post
        self._names = _names(options)
        self._busy = dict.fromkeys([*self._names, COROUTINES], 0)
        self._lock = threading.Lock()

    def slot_changed(self, slot: int, job: Job | None) -> None:
        """A slot for plain functions turned busy, with this job, or idle."""
        self._change(self._names[slot], job)

    def coroutine_slot_changed(self, _slot: int, job: Job | None) -> None:
        """One of the loop's slots turned busy, with this job, or idle."""
        self._change(COROUTINES, job)

    def _change(self, name: str, job: Job | None) -> None:
        with self._lock:  # the events of a region that slots share must be posted in the order in which they are counted
            before = self._busy[name]
            after = self._busy[name] = before + (-1 if job is None else 1)
            if before == 0 and job is not None:
                self._post(f"{name}.begin", job=job.name, id=job.id)
            elif after == 0:
                self._post(f"{name}.end")
