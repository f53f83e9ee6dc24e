"""The regions of a worker's slots, and the events that move them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

from jumpstarter.jobs import Job, Place
from jumpstarter.worker.options import WorkerOptions
from jumpstarter.worker.watch import Step

#: More slots than this share one region: a region each would make a chart that nobody can read, and slow to step.
SLOT_REGIONS: Final = 32

THREADS: Final = "threads"
COROUTINES: Final = "coroutines"


def slot_regions(options: WorkerOptions) -> dict[str, Mapping[str, Any]]:
    """``slot_0`` … for the pool's own slots, ``threads`` for all thread slots beside them, ``coroutines`` for all of the loop's:
    idle | processing | asked | stuck each."""
    beside = [THREADS] if options.threads else []
    return {name: _region(name) for name in dict.fromkeys([*_names(options), *beside, COROUTINES])}


def _names(options: WorkerOptions) -> list[str]:
    """The region of each of the pool's own slots."""
    slots = options.sync_slots
    return [f"slot_{number}" for number in range(slots)] if slots <= SLOT_REGIONS else ["slots"] * slots


def _region(name: str) -> Mapping[str, Any]:
    return {
        "initial": "idle",
        "states": ["idle", "processing", "asked", "stuck"],
        "transitions": [
            {"trigger": f"{name}.begin", "source": "idle", "dest": "processing"},
            {"trigger": f"{name}.ask", "source": "processing", "dest": "asked"},
            {"trigger": f"{name}.stick", "source": ["processing", "asked"], "dest": "stuck"},
            {"trigger": f"{name}.end", "source": ["processing", "asked", "stuck"], "dest": "idle"},
        ],
    }


class SlotBoard:
    """Turns "slot 3 is busy" into the events of its region, from any thread."""

    def __init__(self, options: WorkerOptions, post: Callable[..., None]) -> None:
        self._post = post
        self._names = _names(options)
        self._busy = dict.fromkeys([*self._names, THREADS, COROUTINES], 0)
        self._lock = threading.Lock()
        # Events that are kept back, while they are.
        self._kept: list[tuple[str, dict[str, str]]] | None = None
        self._ended = threading.Event()

    @contextmanager
    def head_start(self) -> Iterator[Callable[[float], object]]:
        """The loop hears of what happens in this block when it is left. It gets a function that waits until a slot turns idle, for
        so many seconds at most. A loop that woke up at once would take the interpreter from a short job for longer than that job
        takes."""
        self._ended.clear()
        with self._lock:
            self._kept = []
        try:
            yield self._ended.wait
        finally:
            with self._lock:
                kept, self._kept = self._kept, None
                for event, data in kept:
                    self._post(event, **data)

    def changed(self, place: Place, slot: int, job: Job | None) -> None:
        """A slot turned busy, with this job, or idle."""
        name = self._name(place, slot)
        with self._lock:  # the events of a region that slots share must be posted in the order in which they are counted
            before = self._busy[name]
            after = self._busy[name] = before + (-1 if job is None else 1)
            if before == 0 and job is not None:
                self._tell(f"{name}.begin", job=job.name, id=job.id)
            elif after == 0:
                self._tell(f"{name}.end")
                self._ended.set()

    def stepped(self, place: Place, job: Job, step: Step) -> None:
        """A job was asked to end, or abandoned. Told only of slots with a region of their own: others go on beside it."""
        name = self._name(place, job.slot)
        if place == "slot" and self._names.count(name) == 1:
            with self._lock:
                self._tell(f"{name}.ask" if step is Step.ASK else f"{name}.stick", job=job.name, id=job.id)

    def _tell(self, event: str, **data: str) -> None:
        if self._kept is None:
            self._post(event, **data)
        else:
            self._kept.append((event, data))

    def _name(self, place: Place, slot: int) -> str:
        if place == "slot":
            return self._names[slot]
        return THREADS if place == "thread" else COROUTINES
