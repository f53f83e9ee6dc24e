"""The node: the actor in a worker's parent process. It owns the children, their leases, and what they leave behind when they die.

Its chart, beside the lifecycle that every actor has::

    started (parallel)
      health     healthy | degraded | unhealthy
      child_0 …  absent | starting | running        one for each child

No user code runs here once the children are started.
"""

from __future__ import annotations

import logging
import math
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import Any, Final

import anyio
import anyio.to_thread

from jumpstarter.abc.application import Application
from jumpstarter.abc.broker import Broker
from jumpstarter.abc.processes import Exited, Processes
from jumpstarter.abc.results import Results
from jumpstarter.actors import Actor, backoff, resource, timer
from jumpstarter.errors import BrokerUnavailable, ResultsUnavailable
from jumpstarter.worker.bury import Death, bury
from jumpstarter.worker.children import Child, Children
from jumpstarter.worker.lease import LeaseKeeper
from jumpstarter.worker.marks import Marks, Started
from jumpstarter.worker.options import WorkerOptions
from jumpstarter.worker.settle import Settler

logger = logging.getLogger(__name__)

BROKER: Final = "broker"
#: More children than this have no regions of their own.
CHILD_REGIONS: Final = 32
_WATCH: Final = 0.25  # seconds between two looks at the children's memory and overdue jobs
_PATIENCE: Final = 10.0  # seconds that a node which stops tries to settle what a dead child held
_BURY_AGAIN: Final = 0.5  # seconds between attempts to settle a dead child's claims while a server is away


class Node(Actor):
    """A worker's parent process as an actor."""

    def __init__(
        self,
        options: WorkerOptions,
        application: Application,
        broker: Broker,
        results: Results | None,
        processes: Processes,
        marks: Marks,
    ) -> None:
        self.options = options
        self.application = application
        self.broker = broker
        self.results = results
        self.processes = processes
        self.marks = marks
        self._children: Children | None = None
        super().__init__(name=options.name)

    def regions(self) -> Mapping[str, Mapping[str, Any]]:
        return _child_regions(self.options)

    @classmethod
    def prepare(cls, options: WorkerOptions) -> None:
        """Compile its chart before anything is forked."""
        cls._plan_for(_child_regions(options))

    @resource
    @asynccontextmanager
    async def keeper(self) -> AsyncIterator[LeaseKeeper]:
        """Renews the children's leases from before the first claim until after the last settlement."""
        keeper = LeaseKeeper(
            self.broker,
            self.options.lease,
            self._incarnations,
            on_trouble=self._broker_troubled,
            every=self.options.renewed_every,
        )
        with keeper:
            yield keeper

    # Not tried again: what keeps a child from starting is in the application or the machine, and a clear end says so at once.
    @resource(retry=backoff(1, 1, tries=1), release_timeout=math.inf)
    def children(self) -> AbstractAsyncContextManager[Children]:
        """The child processes."""
        self._children = Children(
            self.options,
            self.application,
            self.processes,
            self.marks,
            bury=self._bury,
            on_event=self._child_event,
            on_parked=self.keeper.look,
            on_failure=self.fail,
        )
        return self._children.running()

    @timer(every=_WATCH)
    async def watch(self) -> None:
        """Memory, and time limits that a child cannot keep itself."""
        await self.children.watch()

    def cancel(self, job_id: str, attempt: int | None = None) -> None:
        """End a job, wherever in this node it runs, and nothing else. ``attempt`` None: whichever it is. On the loop's thread."""
        self.children.cancel(job_id, attempt)

    def note(self, notice: str) -> None:
        """Have all children, and this process, bear something in mind. On the loop's thread."""
        self.application.note(notice)
        self.children.note(notice)

    def inquire(self, question: str, on_answer: Callable[[str], None]) -> int:
        """Ask all children; how many were asked. On the loop's thread, where ``on_answer`` is called for each answer."""
        return self.children.inquire(question, on_answer)

    @property
    def child_states(self) -> Mapping[str, str]:
        """``absent``, ``starting`` or ``running`` for each child, by its name. On the loop's thread."""
        return self._children.states if self._children is not None else {}

    def kill(self) -> None:
        """Cold shutdown: end the children now; what they had started and is acked late is returned to its queues."""
        self.post("stop")
        if self._children is not None:
            self._children.kill()

    @property
    def _is_stopping(self) -> bool:
        return self._children is not None and self._children.is_stopping

    def _incarnations(self) -> list[str]:
        return self._children.incarnations if self._children is not None else []

    def _child_event(self, event: str) -> None:
        if self.options.children <= CHILD_REGIONS:
            self.post(event)

    def _broker_troubled(self, error: Exception | None) -> None:
        if error is None:
            self.recover(BROKER)
        else:
            self.report_warning(BROKER, error)

    async def _bury(self, child: Child, started: Mapping[str, Started], exited: Exited) -> None:
        """Settle what a dead child held, as often as it takes: until then it stays claimed, and after the lease any reaper
        returns it. A node that stops tries for so long only."""
        give_up_at = anyio.current_time() + _PATIENCE
        while True:
            try:
                await anyio.to_thread.run_sync(partial(self._bury_now, child, started, exited))
            except (BrokerUnavailable, ResultsUnavailable) as error:
                self._broker_troubled(error)
                if self._is_stopping and anyio.current_time() > give_up_at:
                    logger.error("what child %d held is returned once its lease has run out: %s", child.index, error)
                    return
                await anyio.sleep(_BURY_AGAIN)
            except Exception:
                logger.exception("what child %d held could not be settled; it is returned once its lease has run out", child.index)
                return
            else:
                return

    def _bury_now(self, child: Child, started: Mapping[str, Started], exited: Exited) -> None:
        evidence = f"{exited} ({child.verdict})" if child.verdict else str(exited)
        death = Death(
            evidence=evidence,
            facts=_facts(exited),
            killed_by_us=child.killed,
            condemned=child.condemned,
            ran={entry.tag for entry in started.values() if entry.runs},
        )
        held = self.broker.held(child.incarnation)
        outcomes = bury(held, started, self.application, death, max_attempts=self.options.max_attempts)
        for outcome in outcomes:
            if outcome.job is not None:
                logger.warning("%s[%s]: its process ended with %s: %s", outcome.job.name, outcome.job.id, evidence, outcome.status)
        if outcomes:
            Settler(self.broker, self.results, child.incarnation, on_trouble=self._broker_troubled).settle(outcomes)
        self.broker.release(child.incarnation)


def _facts(exited: Exited) -> dict[str, Any]:
    """What is known of a child's end, as evidence."""
    facts = {"pid": exited.pid, "exit_code": exited.code, "signal": exited.signal, "peak_memory": exited.peak_memory}
    return {name: value for name, value in facts.items() if value is not None} | ({"stack": exited.stack} if exited.stack else {})


def _child_regions(options: WorkerOptions) -> dict[str, Mapping[str, Any]]:
    if options.children > CHILD_REGIONS:
        return {}
    return {name: _child_region(name) for name in (f"child_{number}" for number in range(options.children))}


def _child_region(name: str) -> Mapping[str, Any]:
    return {
        # The node has started when its children are ready; what they did before that is told by their own machines.
        "initial": "running",
        "states": ["absent", "starting", "running"],
        "transitions": [
            {"trigger": f"{name}.spawn", "source": "absent", "dest": "starting"},
            {"trigger": f"{name}.ready", "source": "starting", "dest": "running"},
            {"trigger": f"{name}.exit", "source": ["starting", "running"], "dest": "absent"},
        ],
    }
