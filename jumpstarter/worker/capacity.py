"""Capacity: from which queues to claim, and how much. Comes from: worker. Asked by: receive.

A worker claims what its free slots can start, plus a look-ahead sized from what the last jobs took: hundreds when jobs take
microseconds (so that they travel in batches), none when they take longer than a blink (so that nobody hoards). What was claimed
ahead and then waits behind a job that turns out long is handed back.

Slots are of up to three kinds (a pool's own, thread slots beside it, the loop's), each with its own room, while a message does not
say before it is claimed which kind it needs. So the worker keeps in mind what each queue brought lately: a queue that brings
CPU-bound functions is left alone while their slots are taken, and coroutines of another go on.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from jumpstarter.abc.executor import Executor
from jumpstarter.jobs import Job, Place
from jumpstarter.worker.execute import Runner
from jumpstarter.worker.options import WorkerOptions
from jumpstarter.worker.settle import Settler

_UNSETTLED: Final = 1024
_MEMORY: Final = 0.8  # how much of what a queue brought before counts beside the newest batch
_LONG: Final = 0.25  # seconds; with longer jobs even many slots may all be busy for so long, and what waits for them is hoarded
_FRUITLESS: Final = 128  # messages in a claim, at most, after one that brought nothing to run: see learn()
_RARE: Final = 0.02  # a kind with a smaller share of a queue's jobs does not limit its claims


class Claim(NamedTuple):
    """At most ``limit`` messages from ``queues``."""

    limit: int
    queues: Sequence[str]


class Capacity:
    """How much may still be claimed, given the executors and the measured run times."""

    def __init__(self, options: WorkerOptions, runner: Runner, executors: Mapping[Place, Executor], settler: Settler) -> None:
        """:param executors: by the kind of their slots; a kind that is missing runs on ``slot``."""
        self._options = options
        self._runner = runner
        self._executors = dict(executors)
        self._settler = settler
        self._own: Place = "loop" if options.pool == "async" else "slot"
        #: Shares of each kind among what a queue brought lately; empty before anything is known.
        self._mixes: dict[str, dict[Place, float]] = {queue: {} for queue in options.queues}
        self._turn = 0
        #: There was no room the last time, because too many outcomes wait to be settled.
        self.waits_for_settling = False
        # How many to claim ahead because the last claims brought nothing to run.
        self._fruitless = 0
        # By kind, numbers of jobs that had ended, so that the next one to end needs to reset nothing.
        self._looked_at: dict[Place, int] = {}
        self._stalled_at: dict[Place, int] = {}

    # What to claim.

    @property
    def claims(self) -> Sequence[Claim]:
        """What may be claimed now, in the order in which it should be tried; nothing when there is no room.

        Usually one claim from all queues. When some may bring more at a time than others, there is one for each size, with all
        queues that may bring so many; which size comes first changes from call to call, so that none starves another.
        """
        if self._is_unsettled():
            return ()
        limits = self._limits(self._rooms())
        if not limits:
            return ()
        sizes = sorted({_rounded(limit) for limit in limits.values()})
        self._turn += 1
        turn = self._turn % len(sizes)
        return [Claim(size, [queue for queue in limits if limits[queue] >= size]) for size in [*sizes[turn:], *sizes[:turn]]]

    def is_worthwhile(self) -> bool:
        """Whether a claim is worth its round trip: for half of what is held when full, so that batches stay large."""
        if self._is_unsettled():
            return False
        limits, most = self._limits(self._rooms()), self._limits(self._rooms(when_empty=True))
        return any(limit >= most.get(queue, 0) // 2 for queue, limit in limits.items())

    def _is_unsettled(self) -> bool:
        self.waits_for_settling = self._settler.pending > _UNSETTLED
        return self.waits_for_settling

    def _limits(self, rooms: Mapping[Place, int]) -> dict[str, int]:
        """How many messages each queue may bring; without those that may bring none. At least one, where each kind finds room."""
        limits = {}
        for queue, mix in self._mixes.items():
            if not mix:
                limit: float = rooms[self._own] or min(1, max(rooms.values()))
            else:
                limit = math.inf
                for place, share in mix.items():
                    if share > _RARE:
                        limit = min(limit, rooms[place] / share)
            if limit > 0:
                limits[queue] = math.ceil(limit)
        return limits

    @property
    def worthwhile_backlog(self) -> int:
        """How much may still wait for the pool's own slots when a claim is worth its round trip."""
        look_ahead = self.look_ahead("slot")
        return look_ahead - max(1, look_ahead // 2)

    def _rooms(self, *, when_empty: bool = False) -> dict[Place, int]:
        """How many more jobs of each kind may be held, or might be if there were none."""
        most, left = self._options.max_tasks, sys.maxsize
        if most is not None:  # jobs that this process may still take before it is replaced
            left = most - self._runner.begun - sum(executor.backlog for executor in self._executors.values())
        rooms = {}
        for place, executor in self._executors.items():
            room = executor.slots + max(self.look_ahead(place), self._fruitless)
            if not when_empty:
                room -= executor.backlog + executor.busy
            rooms[place] = max(0, min(room, left))
        return rooms

    def look_ahead(self, place: Place) -> int:
        """Jobs to hold beyond those that run: none before anything is known, nor while something takes unexpectedly long."""
        average = self._runner.averages.get(place)
        if average is None or self._stalled_at.get(place) == self._runner.ended[place]:
            return 0
        if average > _LONG:
            return 0
        seconds = self._options.look_ahead_seconds
        return min(self._options.look_ahead, int(seconds * self._executors[place].slots / max(average, 1e-6)))

    def learn(self, claimed: int, jobs: int) -> None:
        """Of a batch: so many messages, and so many of them are jobs to run now.

        A flood of messages that are due later, or expired, occupies no slot and leaves no run times. By one or two at a time it is
        parked at some hundred a second, and what was published after it waits as long. So each claim that brings nothing to run
        makes the next one larger; the first job ends that. See test_7_a_flood_of_etas_is_parked_in_batches.
        """
        self._fruitless = 0 if jobs else min(_FRUITLESS, max(8, 2 * claimed))

    def sort(self, jobs: Sequence[Job]) -> Mapping[Place, Sequence[Job]]:
        """A batch by the kind of slot that its jobs run in here. Learns from it which kinds its queues bring."""
        by_place: dict[Place, list[Job]] = {}
        brought: dict[str, dict[Place, int]] = {}
        for job in jobs:
            place = job.handler.runs_in
            if place not in self._executors:
                place = "slot"
            by_place.setdefault(place, []).append(job)
            kinds = brought.setdefault(job.delivery.queue, {})
            kinds[place] = kinds.get(place, 0) + 1
        for queue, kinds in brought.items():
            self._mixes[queue] = _mixed(self._mixes.get(queue, {}), kinds)
        return by_place

    def place_of(self, job: Job) -> Place:
        """The kind of slot that the job runs in here."""
        place = job.handler.runs_in
        return place if place in self._executors else "slot"

    # What is held.

    @property
    def is_idle(self) -> bool:
        """Nothing runs and nothing waits to run."""
        return not any(executor.busy or executor.backlog for executor in self._executors.values())

    @property
    def stuck(self) -> int:
        """Places that abandoned jobs still occupy."""
        return sum(executor.stuck for executor in self._executors.values())

    def notice_stall(self) -> tuple[bool, list[Job]]:
        """To be called at intervals: whether slots of some kind turn out to be busy for long (no job of theirs has ended since the
        last call), and what waits for such slots, taken back. Until one ends, nothing is claimed ahead for them."""
        is_news, jobs = False, []
        for place, executor in self._executors.items():
            ended, last = self._runner.ended[place], self._looked_at.get(place)
            self._looked_at[place] = ended
            if ended == last and executor.busy:
                is_news |= self._stalled_at.get(place) != ended
                self._stalled_at[place] = ended
                jobs += executor.withdraw()
        return is_news, jobs

    def withdraw(self) -> list[Job]:
        """Take back what is not started."""
        return [job for executor in self._executors.values() for job in executor.withdraw()]


def _rounded(limit: int) -> int:
    """Down to a power of two, from eight on, so that there are few sizes."""
    return limit if limit < 8 else 1 << (limit.bit_length() - 1)


def _mixed(before: Mapping[Place, float], kinds: Mapping[Place, int]) -> dict[Place, float]:
    """The shares of the kinds after a batch; small batches change little."""
    total = sum(kinds.values())
    memory = _MEMORY ** min(total, 16) if before else 0.0
    mixed = {place: memory * share for place, share in before.items()}
    for place, count in kinds.items():
        mixed[place] = mixed.get(place, 0.0) + (1 - memory) * count / total
    return mixed
