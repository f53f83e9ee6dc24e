"""Tells monitors that a worker is there: ``worker-online``, ``worker-heartbeat`` every two seconds, ``worker-offline``.

A thread of the node's process. What cannot be sent is not sent later: the next heartbeat says the same. Used by: apps.worker.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

from compat_celery import signals
from compat_celery.utils.sysinfo import load_average
from compat_celery.worker.reports import Sender
from compat_celery.worker.state import SOFTWARE_INFO
from jumpstarter.errors import JumpstarterError
from jumpstarter.worker.remote import Remote

__all__ = ("Heart",)

logger = logging.getLogger("celery.worker.heart")

INTERVAL = 2.0
_ANSWERS = 0.5  # seconds for the children to say what they do
_END = 5.0


class Heart:
    """:param interval: seconds between heartbeats. :param counts: how many tasks run, and how many have ended."""

    def __init__(self, sender: Sender, remote: Remote, interval: float | None, counts: Callable[[Remote, float], Any]) -> None:
        self._sender = sender
        self._remote = remote
        self._counts = counts
        self.interval = float(interval or INTERVAL)
        self._must_end = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heart", daemon=True)

    def start(self) -> None:
        """Say that the worker is there."""
        self._thread.start()

    def stop(self) -> None:
        """Say that it goes."""
        self._must_end.set()
        self._thread.join(_END)
        self.tell("worker-offline")

    def _beat(self) -> None:
        self.tell("worker-online")
        while not self._must_end.wait(self.interval):
            self.tell("worker-heartbeat")

    def tell(self, kind: str) -> None:
        """Send one of the three now."""
        active, processed = self._counts(self._remote, _ANSWERS) if kind == "worker-heartbeat" else (0, 0)
        if signals.heartbeat_sent.receivers:
            signals.heartbeat_sent.send(sender=self)
        facts = {"freq": self.interval, "active": active, "processed": processed, "loadavg": load_average(), **SOFTWARE_INFO}
        try:
            self._sender.send(self._sender.event(kind, facts), kind.replace("-", "."))
        except (JumpstarterError, OSError) as error:
            logger.debug("%s was not sent: %s", kind, error)
