"""A node's children: started, heard, stopped, buried and replaced."""

from __future__ import annotations

import logging
import os
import signal
import socket
import uuid
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final, Self

import anyio
from anyio.abc import TaskGroup

from jumpstarter.abc.processes import Exited, Processes, Spawned
from jumpstarter.errors import ChildStartFailed, WorkerError
from jumpstarter.worker.link import PARKED, READY, STOP, Link
from jumpstarter.worker.marks import Marks, Started
from jumpstarter.worker.options import WorkerOptions

logger = logging.getLogger(__name__)

_STARTS: Final = 5  # children that may be killed while the node starts
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 10.0  # seconds before a child is replaced that never became ready


@dataclass(slots=True, eq=False)
class Child:
    """One child process, from the wish for it to its end."""

    index: int
    incarnation: str
    link: Link
    pid: int | None = None
    is_ready: bool = False
    killed: bool = False
    gone: anyio.Event = field(default_factory=anyio.Event)


#: Settles what a dead child held: (child, the jobs that it had started by tag, how it ended, whether the node killed it).
Bury = Callable[[Child, Mapping[str, Started], str, bool], Awaitable[None]]


class Children:
    """The children of one node; see :meth:`running`."""

    def __init__(
        self,
        options: WorkerOptions,
        processes: Processes,
        marks: Marks,
        *,
        bury: Bury,
        on_event: Callable[[str], None],
        on_parked: Callable[[], None],
        on_failure: Callable[[BaseException], None],
    ) -> None:
        self._options = options
        self._processes = processes
        self._marks = marks
        self._bury = bury
        self._on_event = on_event
        self._on_parked = on_parked
        self._on_failure = on_failure
        self._children: dict[int, Child] = {}
        self._is_stopping = False
        self._all_ready = anyio.Event()
        self._start_failure: ChildStartFailed | None = None
        self._deaths: deque[float] = deque()
        self._pause = _FIRST_PAUSE
        self._failed_starts = 0
        self._group: TaskGroup

    @property
    def incarnations(self) -> list[str]:
        """Whose leases are to be renewed. From any thread."""
        return [child.incarnation for child in list(self._children.values())]

    @property
    def is_stopping(self) -> bool:
        """Whether they were told to end."""
        return self._is_stopping

    @property
    def pids(self) -> list[int]:
        """The processes that are known to run."""
        return [child.pid for child in self._children.values() if child.pid is not None]

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
        for child in self._children.values():
            child.link.say(STOP)
        while self._children:
            await next(iter(self._children.values())).gone.wait()

    def kill(self) -> None:
        """End all children now (SIGKILL). What they hold is buried as they go."""
        self._is_stopping = True
        for child in self._children.values():
            self._kill(child)

    def _kill(self, child: Child) -> None:
        child.killed = True
        if child.pid is not None:
            os.kill(child.pid, signal.SIGKILL)

    def _spawn(self, index: int) -> None:
        ours, theirs = socket.socketpair()
        child = Child(index, uuid.uuid4().hex, Link(ours))
        self._children[index] = child
        self._marks.clear(index)
        self._processes.spawn(index, child.incarnation, theirs)
        theirs.close()
        self._on_event(f"child_{index}.spawn")
        self._group.start_soon(self._hear, child)

    async def _hear(self, child: Child) -> None:
        try:
            async for word in child.link.words():
                if word == READY:
                    self._ready(child)
                elif word == PARKED:
                    self._on_parked()
        finally:
            child.link.close()

    def _ready(self, child: Child) -> None:
        child.is_ready = True
        self._pause = _FIRST_PAUSE
        self._on_event(f"child_{child.index}.ready")
        if all(other.is_ready for other in self._children.values()):
            self._all_ready.set()

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
                    case Spawned(index, pid):
                        self._born(self._children[index], pid)
                    case Exited():
                        self._died(event)

    def _born(self, child: Child, pid: int) -> None:
        child.pid = pid
        if child.killed:
            self._kill(child)
        elif self._is_stopping:
            child.link.say(STOP)

    def _died(self, exited: Exited) -> None:
        child = next((child for child in self._children.values() if child.pid == exited.pid), None)
        if child is None:
            return
        self._on_event(f"child_{child.index}.exit")
        # Read before a successor takes the place and clears the ring.
        started = self._marks.started(child.index)
        self._group.start_soon(self._part_with, child, started, exited)

    async def _part_with(self, child: Child, started: Mapping[str, Started], exited: Exited) -> None:
        """Bury a child and, unless the node stops, replace it."""
        if self._is_stopping and exited.code == 0:
            self._forget(child)  # it has settled what it could and given back the rest
            return
        if not child.killed:
            logger.error("child %d (process %d) ended with %s", child.index, exited.pid, exited)
        if child.is_ready and not self._is_stopping:
            self._check_intensity(exited)
            await self._bury_and_replace(child, started, exited)
            return
        await self._bury(child, started, str(exited), child.killed)
        if self._cannot_start(child, exited):
            self._start_failure = ChildStartFailed(f"child {child.index} ended with {exited} before it was ready; its log says why")
            self._forget(child)
            self._all_ready.set()
        elif self._is_stopping:
            self._forget(child)
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

    async def _bury_and_replace(self, child: Child, started: Mapping[str, Started], exited: Exited) -> None:
        """The successor starts while its predecessor is buried: the slot must not wait for a slow broker."""
        self._replace(child)
        await self._bury(child, started, str(exited), child.killed)

    def _replace(self, child: Child) -> None:
        if self._is_stopping:
            self._forget(child)
        else:
            child.gone.set()
            self._spawn(child.index)

    def _forget(self, child: Child) -> None:
        if self._children.get(child.index) is child:
            del self._children[child.index]
        child.gone.set()

    def _all_gone(self) -> None:
        for child in list(self._children.values()):
            self._forget(child)
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
