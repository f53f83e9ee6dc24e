"""The port of executors: where jobs run. An executor has slots; each runs one job at a time."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence

from jumpstarter.jobs import Job, Outcome

#: Runs one job in the slot of that number; never raises for a user's error. None: the job was abandoned meanwhile.
Run = Callable[[Job, int], Outcome | None]
#: The same for coroutine jobs.
AsyncRun = Callable[[Job, int], Awaitable[Outcome | None]]
#: Takes what came of a job, in the thread that ran it.
OnOutcome = Callable[[Outcome], None]
#: Told in the slot's thread that the slot turned busy, with the job that it begins with, or idle (None): once per run of jobs,
#: not once per job.
OnSlot = Callable[[int, Job | None], None]


class Executor(ABC):
    """Runs jobs in slots. ``submit`` never blocks."""

    #: How many jobs run at a time.
    slots: int
    #: Whether ``submit`` may be called from any thread; else only from the loop's.
    takes_from_threads = True

    _low_water = -1
    _on_low: Callable[[], None]

    def call_when_low(self, backlog: int, call: Callable[[], None]) -> None:
        """From now on, ``call`` whenever a job has ended and at most ``backlog`` jobs wait (-1: never). From any thread, and in the
        thread that ran the job."""
        self._on_low = call  # first: a slot that sees the mark must find what to call
        self._low_water = backlog

    def call_with_last(self, call: OnOutcome) -> None:  # noqa: B027 - most slots have no such moment
        """Give an outcome to ``call`` instead when its slot has nothing else to do. For executors whose slots may wait."""

    @abstractmethod
    def submit(self, jobs: Sequence[Job]) -> None:
        """Add jobs to the backlog; free slots take them in order."""

    @property
    @abstractmethod
    def backlog(self) -> int:
        """Jobs that were submitted and are not started."""

    @property
    @abstractmethod
    def busy(self) -> int:
        """Slots that run a job now."""

    @abstractmethod
    def withdraw(self) -> list[Job]:
        """Take back every job that is not started."""

    @property
    @abstractmethod
    def stuck(self) -> int:
        """Places that are lost to abandoned jobs which have not ended yet."""

    @abstractmethod
    def replace(self, slot: int) -> bool:
        """The job in this slot was abandoned: let the slot run the next one elsewhere. False where there is no elsewhere (a
        process's main thread), so that the process must be replaced. To be called on the loop's thread."""
