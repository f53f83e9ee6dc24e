"""A handle on a running node or worker, for other threads of its process: remote control goes through it.

Comes from: nodes. Used by: applications (:class:`~jumpstarter.nodes.NodeSetup.beside`).
"""

from __future__ import annotations

import queue
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from jumpstarter.actors.threads import Doorbell
from jumpstarter.worker.node import Node
from jumpstarter.worker.options import WorkerOptions
from jumpstarter.worker.worker import Worker


class Remote:
    """All methods may be called from any thread but the loop's own."""

    def __init__(self, actor: Node | Worker, doorbell: Doorbell, options: WorkerOptions) -> None:
        self._actor = actor
        self._doorbell = doorbell
        self.options = options

    def note(self, notice: str) -> None:
        """Have every process of the node bear something in mind (:meth:`jumpstarter.abc.application.Application.note`)."""
        if isinstance(self._actor, Worker):
            self._actor.note(notice)
        else:
            self._doorbell.ring(partial(self._actor.note, notice))

    def look(self) -> None:
        """Have every process of the node hear now what the broker has to say (:meth:`jumpstarter.abc.broker.Broker.notices`), also
        about what it has claimed already.

        :raises BrokerUnavailable: this process could not hear it.
        """
        if isinstance(self._actor, Worker):
            self._actor.note("")
            return
        for notice in self._actor.broker.notices(look=True):
            self._actor.application.note(notice)
        self._doorbell.ring(partial(self._actor.children.note, ""))

    def ask(self, question: str, *, within: float = 1.0) -> list[str]:
        """The answers of all processes that run jobs and answer ``within`` so many seconds."""
        if isinstance(self._actor, Worker):
            return [self._actor.answer(question)]
        answers: queue.SimpleQueue[str] = queue.SimpleQueue()
        count: queue.SimpleQueue[int] = queue.SimpleQueue()
        node, deadline = self._actor, time.monotonic() + within
        if not self._doorbell.ring(lambda: count.put(node.inquire(question, answers.put))):
            return []
        try:
            left = count.get(timeout=within)
        except queue.Empty:
            return []
        found: list[str] = []
        with suppress(queue.Empty):
            found.extend(answers.get(timeout=max(0.0, deadline - time.monotonic())) for _ in range(left))
        return found

    def cancel(self, job_id: str) -> None:
        """End a job, wherever in the node it runs."""
        self._doorbell.ring(lambda: self._actor.cancel(job_id))

    def stop(self) -> None:
        """Finish what runs, and end."""
        self._actor.post("stop")

    @property
    def child_states(self) -> dict[str, str]:
        """``absent``, ``starting`` or ``running`` for each child; empty where there are none."""
        return {} if isinstance(self._actor, Worker) else dict(self._actor.child_states)


#: Called when a node is ready, with the handle on it; what it returns is called when the node is about to end.
Beside = Callable[[Remote], Callable[[], None]]
