"""A node's children: started, heard, stopped, buried and replaced."""

from __future__ import annotations

import itertools
import logging
import signal
import socket
import time
import uuid
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Final, Self

import anyio
from anyio.abc import TaskGroup

from jumpstarter.abc.application import Application
from jumpstarter.abc.processes import Exited, Processes, Spawned
from jumpstarter.errors import ChildStartFailed, WorkerError
from jumpstarter.jobs import Job, Outcome
from jumpstarter.worker.bury import Condemn
from jumpstarter.worker.link import ANSWER, ANSWERED, ASK, CANCEL, NOTE, PARKED, READY, RETIRE, RETIRING, STOP, Link
from jumpstarter.worker.marks import Marks, Started
from jumpstarter.worker.options import WorkerOptions
from jumpstarter.worker.watch import GRACE

logger = logging.getLogger(__name__)

#: Places in shared memory for each child: for it, and for predecessors that still finish what they had begun.
SEATS: Final = 3
_STARTS: Final = 5  # children that may be killed while the node starts
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 10.0  # seconds before a child is replaced that never became ready
_LATE: Final = 1.0  # seconds after which the node does what a child should have done
_QUESTIONS: Final = 100  # at most so many questions are under way; answers to older ones find nobody
_STACK: Final = 0.05  # seconds that a child has to write down where it is


@dataclass(slots=True, eq=False)
class Child:
    """One child process, from the wish for it to its end.

    :ivar index: whose place in the node it takes.
    :ivar seat: where its marks are; no two that live have the same.
    :ivar killed: the node killed it, for no fault of what ran in it.
    :ivar condemned: what comes of the jobs for whose sake it was killed, by tag.
    :ivar verdict: why the node killed it, for people.
    """

    index: int
    seat: int
    incarnation: str
    link: Link
    pid: int | None = None
    is_ready: bool = False
    is_retiring: bool = False
    killed: bool = False
    condemned: dict[str, Condemn] = field(default_factory=dict)
    verdict: str = ""
    gone: anyio.Event = field(default_factory=anyio.Event)


#: Settles what a dead child held: (child, the jobs that it had started by tag, how it ended).
Bury = Callable[[Child, Mapping[str, Started], Exited], Awaitable[None]]


class Children:
    """The children of one node; see :meth:`running`."""

    def __init__(
        self,
        options: WorkerOptions,
        application: Application,
        processes: Processes,
        marks: Marks,
        *,
        bury: Bury,
        on_event: Callable[[str], None],
        on_parked: Callable[[], None],
        on_failure: Callable[[BaseException], None],
    ) -> None:
        self._options = options
        self._application = application
        self._processes = processes
        self._marks = marks
        self._bury = bury
        self._on_event = on_event
        self._on_parked = on_parked
        self._on_failure = on_failure
        #: Those that live, by seat: one in each place, and those that retire.
        self._living: dict[int, Child] = {}
        #: Those that are being buried.
        self._dead: list[Child] = []
        self._is_stopping = False
        self._all_ready = anyio.Event()
        self._start_failure: ChildStartFailed | None = None
        self._deaths: deque[float] = deque()
        self._pause = _FIRST_PAUSE
        self._failed_starts = 0
        self._cancelled: dict[tuple[str, int | None], float] = {}
        #: Questions under way: by number, who is told of each child's answer.
        self._questions: dict[str, Callable[[str], None]] = {}
        self._asked = itertools.count(1)
        self._group: TaskGroup

    @property
    def incarnations(self) -> list[str]:
        """Whose leases are to be renewed. From any thread."""
        return [child.incarnation for child in list(self._living.values())]

    @property
    def is_stopping(self) -> bool:
        """Whether they were told to end."""
        return self._is_stopping

    @property
    def pids(self) -> list[int]:
        """The processes that are known to run."""
        return [child.pid for child in self._living.values() if child.pid is not None]

    @property
    def states(self) -> dict[str, str]:
        """``absent``, ``starting`` or ``running`` for each place, by its name. On the loop's thread."""
        current = {f"child_{index}": self._current(index) for index in range(self._options.children)}
        return {name: "absent" if child is None else "running" if child.is_ready else "starting" for name, child in current.items()}

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Self]:
        """All children are ready when it is entered and gone when it is left.

        :raises ChildStartFailed: one of them ended before it was ready.
        """
        try:
            async with anyio.create_task_group() as self._group:
                self._group.start_soon(self._listen)
                try:
                    for index in range(self._options.children):
                        self._spawn(index)
                    await self._all_ready.wait()
                    if self._start_failure is not None:
                        raise self._start_failure
                    yield self
                finally:
                    with anyio.CancelScope(shield=True):
                        await self._stop()
                    self._group.cancel_scope.cancel()
        finally:
            self._processes.close()

    async def _stop(self) -> None:
        """Warm: each child finishes what it runs, however long that takes; :meth:`kill` cuts it short."""
        self._is_stopping = True
        for child in list(self._living.values()):
            child.link.tell(STOP)
        while left := [*self._living.values(), *self._dead]:
            await left[0].gone.wait()

    def kill(self) -> None:
        """End all children now (SIGKILL). What they hold is buried as they go."""
        self._is_stopping = True
        for child in list(self._living.values()):
            self._kill(child)

    def _kill(self, child: Child) -> None:
        child.killed = True
        if child.pid is not None:
            self._processes.kill(child.pid, signal.SIGKILL)

    def _spawn(self, index: int) -> None:
        """Start the next child in this place, once it has a free seat."""
        seat = next((seat for seat in self._seats_of(index) if seat not in self._living), None)
        if seat is None:
            return  # when one of the predecessors has gone
        ours, theirs = socket.socketpair()
        child = Child(index, seat, uuid.uuid4().hex, Link(ours))
        self._living[seat] = child
        self._marks.clear(seat)
        self._processes.spawn(seat, child.incarnation, theirs)
        theirs.close()
        self._on_event(f"child_{index}.spawn")
        self._group.start_soon(self._talk, child)

    def _seats_of(self, index: int) -> list[int]:
        return [index + turn * self._options.children for turn in range(SEATS)]

    def _current(self, index: int) -> Child | None:
        """The child that holds the place now."""
        in_place = (self._living.get(seat) for seat in self._seats_of(index))
        return next((child for child in in_place if child is not None and not child.is_retiring), None)

    async def _talk(self, child: Child) -> None:
        """Hear what the child says, and send what it is told, until it is gone."""
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(child.link.deliver)
                await self._hear(child)
                group.cancel_scope.cancel()
        finally:
            child.link.close()

    async def _hear(self, child: Child) -> None:
        parts: dict[str, list[str]] = {}
        async for word, *rest in child.link.words():
            if word == READY:
                self._ready(child)
            elif word == PARKED:
                self._on_parked()
            elif word == RETIRING:
                self._retire(child)
            elif word == ANSWER:
                parts.setdefault(rest[0], []).append(rest[1])
            elif word == ANSWERED:
                self._answered(rest[0], "".join(parts.pop(rest[0], ())))

    def _ready(self, child: Child) -> None:
        child.is_ready = True
        self._pause = _FIRST_PAUSE
        self._on_event(f"child_{child.index}.ready")
        if all(other.is_ready for other in self._living.values()):
            self._all_ready.set()

    def _retire(self, child: Child) -> None:
        """It takes no more jobs: its successor need not wait until it has finished those it has."""
        if child.is_retiring or self._living.get(child.seat) is not child:
            return
        child.is_retiring = True
        if not self._is_stopping:
            self._on_event(f"child_{child.index}.exit")
            self._spawn(child.index)

    # What a child cannot do when its interpreter is held.

    async def watch(self) -> None:
        """To be called at intervals: end children that use too much memory, and jobs whose child cannot do it."""
        for child in list(self._living.values()):
            if child.pid is not None and not child.verdict:
                self._watch_memory(child, child.pid)
                await self._watch_limits(child, child.pid)
        now = time.monotonic()
        self._cancelled = {key: at for key, at in self._cancelled.items() if now - at < 10 * GRACE}

    def _watch_memory(self, child: Child, pid: int) -> None:
        most, deadly = self._options.max_memory, self._options.deadly_memory
        if deadly is None:
            return
        used = self._processes.memory(pid)
        if used >= deadly:
            child.verdict = f"killed by its node: it used {used >> 20} MiB of memory, where {deadly >> 20} MiB are allowed"
            self._processes.kill(pid, signal.SIGKILL)
        elif most is not None and used >= most and not child.is_retiring:
            child.link.say(RETIRE)

    async def _watch_limits(self, child: Child, pid: int) -> None:
        if not self._condemned(child):
            return
        self._processes.ask_stack(pid)
        await anyio.sleep(_STACK)
        # Stopped, it cannot go on to another job between the last look and its end.
        self._processes.kill(pid, signal.SIGSTOP)
        child.condemned = self._condemned(child)
        if child.condemned:
            child.killed = True
            child.verdict = "killed by its node: it did not end a job whose time was over"
            self._processes.kill(pid, signal.SIGKILL)
        else:
            self._processes.kill(pid, signal.SIGCONT)

    def _condemned(self, child: Child) -> dict[str, Condemn]:
        """What comes of the jobs that the child should have ended and has not, by tag."""
        now = time.monotonic()
        found: dict[str, Condemn] = {}
        for entry in self._marks.running(child.seat).values():
            if entry.hard_limit and now - entry.started > entry.hard_limit + _LATE:
                found[entry.tag] = partial(self._application.overrun, limit=entry.hard_limit, soft=False)
            elif self._is_cancelled(entry):
                found[entry.tag] = self._cancel
        return found

    def _is_cancelled(self, entry: Started) -> bool:
        asked = [at for attempt in (None, entry.attempt) if (at := self._cancelled.get((entry.id, attempt))) is not None]
        return bool(asked) and time.monotonic() - min(asked) > GRACE + _LATE

    def _cancel(self, job: Job) -> Outcome:
        return self._application.cancel(job, "it was cancelled")

    def cancel(self, job_id: str, attempt: int | None) -> None:
        """End a job, wherever it runs here."""
        self._cancelled[(job_id[:60], attempt)] = time.monotonic()
        for child in list(self._living.values()):
            child.link.say(CANCEL, job_id, *([] if attempt is None else [str(attempt)]))

    def note(self, notice: str) -> None:
        """Pass it on to all children."""
        for child in list(self._living.values()):
            child.link.tell(NOTE, notice)

    def inquire(self, question: str, on_answer: Callable[[str], None]) -> int:
        """Ask all children that are ready; how many. ``on_answer`` is called with the answer of each that gives one."""
        number = str(next(self._asked))
        asked = [child for child in self._living.values() if child.is_ready]
        self._questions[number] = on_answer
        for old in list(self._questions)[:-_QUESTIONS]:
            del self._questions[old]
        for child in asked:
            child.link.tell(ASK, number, question)
        return len(asked)

    def _answered(self, number: str, answer: str) -> None:
        on_answer = self._questions.get(number)
        if on_answer is not None:
            on_answer(answer)

    async def _listen(self) -> None:
        """Hear from the template who was born and who died."""
        while True:
            await anyio.wait_readable(self._processes.channel)
            try:
                events = self._processes.events()
            except EOFError as error:
                self._on_failure(WorkerError(f"{error}; its children went with it"))
                self._all_gone()
                return
            for event in events:
                match event:
                    case Spawned(seat, pid):
                        self._born(self._living[seat], pid)
                    case Exited():
                        self._died(event)

    def _born(self, child: Child, pid: int) -> None:
        child.pid = pid
        if child.killed:
            self._kill(child)

    def _died(self, exited: Exited) -> None:
        child = next((child for child in self._living.values() if child.pid == exited.pid), None)
        if child is None:
            return
        if not child.is_retiring:
            self._on_event(f"child_{child.index}.exit")
        # Read before a successor takes the seat and clears it.
        started = self._marks.started(child.seat)
        self._group.start_soon(self._part_with, child, started, exited)

    async def _part_with(self, child: Child, started: Mapping[str, Started], exited: Exited) -> None:
        """Bury a child and, unless the node stops, replace it."""
        self._dead.append(child)
        try:
            if exited.code != 0 and not child.killed:
                logger.error("child %d (process %d) ended with %s%s", child.index, exited.pid, exited, _because(child))
            if child.is_ready or self._is_stopping:
                await self._part_with_ready(child, started, exited)
            else:
                await self._part_with_unready(child, started, exited)
        finally:
            self._dead.remove(child)
            child.gone.set()

    async def _part_with_ready(self, child: Child, started: Mapping[str, Started], exited: Exited) -> None:
        if exited.code != 0 and not child.killed and not self._is_stopping:
            self._check_intensity(exited)
        # The successor starts while its predecessor is buried: the slot must not wait for a slow broker.
        self._forget(child)
        if self._current(child.index) is None:
            self._replace(child)
        has_said_goodbye = exited.code == 0 and (child.is_retiring or self._is_stopping)
        if not has_said_goodbye:  # else it has settled what it could and given back the rest
            await self._bury(child, started, exited)

    async def _part_with_unready(self, child: Child, started: Mapping[str, Started], exited: Exited) -> None:
        await self._bury(child, started, exited)
        self._forget(child)
        if self._cannot_start(child, exited):
            self._start_failure = ChildStartFailed(f"child {child.index} ended with {exited} before it was ready; its log says why")
            self._all_ready.set()
        else:
            await anyio.sleep(self._pause)
            self._pause = min(self._pause * 2, _LONGEST_PAUSE)
            self._replace(child)

    def _cannot_start(self, child: Child, exited: Exited) -> bool:
        """Whether the node, which is starting, should give up: at once when a child ended by itself, since the next one would as
        well; after some attempts when something kills them (a lack of memory may pass)."""
        if child.is_ready or self._all_ready.is_set():
            return False
        self._failed_starts += 1
        return exited.signal is None or self._failed_starts > _STARTS

    def _replace(self, child: Child) -> None:
        if not self._is_stopping:
            self._spawn(child.index)

    def _forget(self, child: Child) -> None:
        if self._living.get(child.seat) is child:
            del self._living[child.seat]

    def _all_gone(self) -> None:
        for child in list(self._living.values()):
            self._forget(child)
            child.gone.set()
        self._all_ready.set()

    def _check_intensity(self, exited: Exited) -> None:
        now, deaths, options = anyio.current_time(), self._deaths, self._options
        deaths.append(now)
        while deaths[0] < now - options.restart_period:
            deaths.popleft()
        if len(deaths) > options.restarts:
            self._on_failure(
                WorkerError(f"{len(deaths)} children ended within {options.restart_period:g} s, the last with {exited}: giving up")
            )


def _because(child: Child) -> str:
    return f" ({child.verdict})" if child.verdict else ""
