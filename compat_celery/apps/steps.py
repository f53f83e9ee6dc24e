"""The boot steps that an app adds to its workers. Between: apps.worker (starts and stops them) and bootsteps.

They run in the node's process, beside the actors: after the node is ready, until it has ended.
"""

from __future__ import annotations

import logging
import threading
from contextlib import suppress
from functools import cached_property
from typing import Any

from compat_celery.bootsteps import Blueprint, ConsumerStep

__all__ = ("Steps", "steps_of")

logger = logging.getLogger("celery.worker")


def steps_of(worker: Any) -> Steps | None:
    """The steps of the worker's app; None when there are none.

    :raises CycleError: steps require each other.
    """
    added = worker.app.steps
    return Steps(worker) if added["worker"] or added["consumer"] else None


class _Consumer:
    """What steps of the consumer get as their parent. Celery's consumer receives tasks as well; ours are received in children."""

    def __init__(self, worker: Any) -> None:
        self.controller = worker
        self.app = worker.app
        self.hostname = worker.hostname
        self.steps: list[Any] = []

    @property
    def timer(self) -> Any:
        """Calls functions later."""
        return self.controller.timer

    @cached_property
    def connection(self) -> Any:
        """A connection of its own."""
        return self.app.connection_for_read()


class Steps:
    """The steps of one worker."""

    def __init__(self, worker: Any) -> None:
        self._worker = worker
        self._consumer = _Consumer(worker)
        worker.steps = []
        self._blueprints = [
            (Blueprint(worker.app.steps["worker"], name="Worker").apply(worker), worker),
            (Blueprint(worker.app.steps["consumer"], name="Consumer").apply(self._consumer), self._consumer),
        ]
        worker.blueprint = self._blueprints[0][0]
        self._ended = threading.Event()
        self._reader: threading.Thread | None = None

    def start(self) -> None:
        """Start them, in order. One that cannot be started is logged, and the worker works without those behind it."""
        for blueprint, parent in self._blueprints:
            try:
                blueprint.start(parent)
            except Exception:
                logger.exception("a boot step of %s could not be started", blueprint.alias)
        if any(isinstance(step, ConsumerStep) and step.consumers for step in self._consumer.steps):
            self._reader = threading.Thread(target=self._read, name="consumer-steps", daemon=True)
            self._reader.start()

    def _read(self) -> None:
        """Let the steps' own consumers have their messages."""
        connection = self._consumer.connection
        while not self._ended.is_set():
            with suppress(TimeoutError):
                try:
                    connection.drain_events(timeout=0.5)
                except (*connection.connection_errors, *connection.channel_errors) as error:
                    logger.error("the consumers of boot steps have lost their connection: %s", error)
                    return

    def stop(self) -> None:
        """Stop them, the last first."""
        self._ended.set()
        if self._reader is not None:
            self._reader.join()
        for blueprint, parent in reversed(self._blueprints):
            blueprint.stop(parent)
        timer = vars(self._worker).get("timer")
        if timer is not None:
            timer.stop()
        connection = vars(self._consumer).get("connection")
        if connection is not None:
            connection.release()
