"""The service of an actor: one task that pumps its host and the hosts of all its descendants, and what surrounds that.

Comes from: hosting (``run``, ``hosted``). Goes to: host. A child has no task of its own, so ten thousand idle ones cost little; it
lives in the task group and under the shelter of the actor at the root.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import anyio
from anyio.abc import TaskGroup, TaskStatus

from jumpstarter.actors.deadlines import Deadlines
from jumpstarter.actors.registry import registry
from jumpstarter.actors.threads import Doorbell
from jumpstarter.errors import ActorError

if TYPE_CHECKING:
    from jumpstarter.actors.host import Host


class Service:
    """Serves one actor that is nobody's child."""

    def __init__(self, root: Host, *, until_stopped: bool) -> None:
        self._root = root
        self._until_stopped = until_stopped
        #: The way in, from other threads as well.
        self.doorbell = Doorbell()
        #: In which everything runs, while something runs.
        self.task_group: TaskGroup | None = None
        #: Of those who ask from the same loop.
        self.deadlines = Deadlines()
        self._ready: deque[Host] = deque()
        self._woken: anyio.Event | None = None

    def wake(self, host: Host) -> None:
        """In the loop's thread: have this host pumped soon."""
        self._ready.append(host)
        if self._woken is not None:
            self._woken.set()

    async def run(self, shelter: anyio.CancelScope, over: anyio.Event) -> None:
        """Serve until the root is at rest and nobody wants more of it."""
        try:
            with shelter:
                async with anyio.create_task_group() as self.task_group:
                    try:
                        await self._pump()
                    finally:
                        self.deadlines.close()
                        if self._root.holds_anything:
                            # The way down was not gone: a KeyboardInterrupt in a task.
                            with anyio.move_on_after(self._root.patience(0.0), shield=True):
                                await self._root.release_all()
                            self._root.abandon()
        finally:
            self.task_group = None
            over.set()

    async def _pump(self) -> None:
        if self._until_stopped:
            self._root.post("start")
        self._ready.append(self._root)
        while True:
            self._woken = anyio.Event()
            for _ in range(len(self._ready)):
                host = self._ready.popleft()
                host.pump()
                if host is not self._root and host.is_over(until_stopped=False):
                    host.end_service()
            if self._root.is_over(until_stopped=self._until_stopped):
                return
            if self._ready:
                self._woken.set()
            await self._woken.wait()


async def serve(host: Host, *, until_stopped: bool, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
    """Run the actor, until it has stopped or until it is closed. To be cancelled at will: then it is stopped within its grace.

    :raises ActorError: it is served already.
    """
    if host.is_serving:
        raise ActorError(f"{host.name} is hosted already; one actor has one host")
    host.service = service = Service(host, until_stopped=until_stopped)
    registry.spawned(host, is_root=True)
    task_status.started()
    over = anyio.Event()
    try:
        async with anyio.create_task_group() as outer:
            # The cancellation of the caller must not reach what the actor runs before the actor has stopped in its own way.
            shelter = anyio.CancelScope(shield=True)
            outer.start_soon(service.run, shelter, over, name=f"{host.name}: host")
            try:
                await over.wait()
            except anyio.get_cancelled_exc_class():
                with anyio.move_on_after(host.patience(host.actor.stop_grace), shield=True):
                    host.close()
                    await over.wait()
                host.abandon()
                shelter.cancel()
                raise
    finally:
        host.end_service()
