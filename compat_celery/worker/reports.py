"""What a worker tells monitors about its tasks: events ``task-received``, ``task-started`` … Used by: worker.application, heart.

Off unless somebody wants them (``-E``, ``worker_send_task_events``, ``enable_events``), and then no task costs anything for it:
reports are receivers of signals, which are connected when they are wanted. They leave in batches, by a thread of each process.
"""

from __future__ import annotations

import logging
import mmap
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import kombu
from kombu.utils.encoding import safe_repr

from compat_celery import protocol, signals
from compat_celery.app.effects import current
from compat_celery.app.publisher import broker_for
from compat_celery.events.event import Event
from compat_celery.utils.time import utcoffset
from jumpstarter.errors import JumpstarterError
from jumpstarter.jobs import Envelope

__all__ = ("Reports", "Sender")

logger = logging.getLogger("celery.worker.reports")

_PAUSE: Final = 0.05  # seconds in which events gather
_AGAIN: Final = 1.0  # seconds between attempts while the broker is away
_BATCH: Final = 100
#: Events that are kept while the broker is away; the oldest are dropped first.
_KEPT: Final = 10_000
_END: Final = 2.0


class Sender:
    """Sends events from one process, in a thread that begins with the first. From any thread."""

    def __init__(self, app: Any, hostname: str) -> None:
        self._app = app
        self._hostname = hostname
        self.restart()

    def restart(self) -> None:
        """In a process that was just forked."""
        self._waiting: deque[dict[str, Any]] = deque(maxlen=_KEPT)
        self._wanted = threading.Event()
        self._must_end = threading.Event()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def event(self, kind: str, fields: Mapping[str, Any]) -> dict[str, Any]:
        """An event of this worker, now."""
        common = {"hostname": self._hostname, "utcoffset": utcoffset(), "pid": os.getpid(), "clock": self._app.clock.forward()}
        return Event(kind, {**common, "timestamp": time.time(), **fields})

    def put(self, kind: str, /, **fields: Any) -> None:
        """Have an event sent soon."""
        self._waiting.append(self.event(kind, fields))
        if self._thread is None:
            with self._lock:
                if self._thread is None:
                    self._thread = threading.Thread(target=self._serve, name="events", daemon=True)
                    self._thread.start()
        self._wanted.set()

    def close(self) -> None:
        """Send what is left, if that goes at once."""
        self._must_end.set()
        self._wanted.set()
        if self._thread is not None:
            self._thread.join(_END)

    def _serve(self) -> None:
        while not self._must_end.is_set():
            self._wanted.wait()
            self._must_end.wait(_PAUSE)
            self._wanted.clear()
            if not self._flush():
                self._must_end.wait(_AGAIN)
                self._wanted.set()

    def _flush(self) -> bool:
        while self._waiting:
            batch = [self._waiting.popleft() for _ in range(min(_BATCH, len(self._waiting)))]
            try:
                self.send(batch, "task.multi")
            except (JumpstarterError, OSError) as error:
                logger.debug("%d events wait: %s", len(batch), error)
                self._waiting.extendleft(reversed(batch))
                return False
        return True

    def send(self, events: Any, routing_key: str) -> None:
        """Send them now, as one message.

        :raises JumpstarterError: the broker cannot be reached.
        """
        conf = self._app.conf
        broker = broker_for(self._app, write=True)
        if not broker.tells_monitors:
            self._send_by_kombu(events, routing_key)
            return
        payload = protocol.encode(events, conf.event_serializer)
        broker.fan_out(
            Envelope(
                queue=conf.event_exchange,
                body=payload.body,
                headers={"hostname": self._hostname},
                properties={"delivery_mode": 1},
                content_type=payload.content_type,
                content_encoding=payload.content_encoding,
                exchange=conf.event_exchange,
                routing_key=routing_key,
            ),
            kind="topic",
        )

    def _send_by_kombu(self, events: Any, routing_key: str) -> None:
        """Where monitors listen in this process' memory."""
        exchange = kombu.Exchange(self._app.conf.event_exchange, type="topic")
        with self._app.connection_for_write() as connection:
            kombu.Producer(connection.channel()).publish(
                events,
                exchange=exchange,
                routing_key=routing_key,
                declare=[exchange],
                serializer=self._app.conf.event_serializer,
                headers={"hostname": self._hostname},
                delivery_mode=1,
            )


class Reports:
    """Whether and what a worker tells about its tasks. One for all its processes, made before they are forked."""

    def __init__(self, app: Any, hostname: str, *, on: bool) -> None:
        self.sender = Sender(app, hostname)
        self._tasks = app.tasks
        self._shared = mmap.mmap(-1, 1)
        self._shared[0] = on
        #: Whether this process reports.
        self.on = False
        self._receivers: Sequence[tuple[Any, Callable[..., None]]] = (
            (signals.task_prerun, self._started),
            (signals.task_success, self._succeeded),
            (signals.task_failure, self._failed),
            (signals.task_retry, self._retried),
            (signals.task_revoked, self._revoked),
        )

    @property
    def wanted(self) -> bool:
        """Whether all processes of the worker are to report."""
        return self._shared[0] != 0

    def want(self, on: bool) -> None:
        """Say so, also for processes that are started later."""
        self._shared[0] = on

    def begin(self) -> None:
        """In a process that was just forked, or runs tasks itself."""
        self.sender.restart()
        self.follow()

    def end(self) -> None:
        """Send what is left, and report no more in this process."""
        self._turn(False)
        self.sender.close()

    def follow(self) -> None:
        """Report or not, in this process, as is wanted."""
        self._turn(self.wanted)

    def _turn(self, on: bool) -> None:
        if self.on == on:
            return
        self.on = on
        for signal, receiver in self._receivers:
            (signal.connect if self.on else signal.disconnect)(receiver)

    def put(self, name: str, kind: str, /, **fields: Any) -> None:
        """Report an event about a task of this name."""
        if self.on and getattr(self._tasks.get(name), "send_events", True):
            self.sender.put(kind, **fields)

    def received(self, job: Any) -> None:
        """A job has come that may start."""
        headers = job.context.headers
        self.put(
            job.name,
            "task-received",
            uuid=job.id,
            name=job.name,
            args=headers.get("argsrepr", ""),
            kwargs=headers.get("kwargsrepr", ""),
            root_id=headers.get("root_id"),
            parent_id=headers.get("parent_id"),
            retries=headers.get("retries") or 0,
            eta=headers.get("eta"),
            expires=headers.get("expires"),
        )

    def failed(self, name: str, task_id: str, error: BaseException, traceback: str | None = None) -> None:
        """A job has failed without having been run to its end."""
        self.put(name, "task-failed", uuid=task_id, exception=safe_repr(error), traceback=traceback)

    # Receivers of signals.

    def _started(self, task_id: str, task: Any, **_: Any) -> None:
        if _is_job(task_id):
            self.put(task.name, "task-started", uuid=task_id)

    def _succeeded(self, sender: Any, result: Any, **more: Any) -> None:
        task_id = sender.request.id
        if _is_job(task_id):
            self.put(sender.name, "task-succeeded", uuid=task_id, result=safe_repr(result), runtime=more.get("runtime", 0.0))

    def _failed(self, sender: Any, task_id: str, exception: BaseException, einfo: Any = None, **_: Any) -> None:
        if _is_job(task_id):
            self.failed(sender.name, task_id, exception, getattr(einfo, "traceback", None))

    def _retried(self, sender: Any, request: Any, reason: Any, einfo: Any = None, **_: Any) -> None:
        if _is_job(request.id):
            cause = getattr(reason, "exc", None) or reason
            trace = getattr(einfo, "traceback", None)
            self.put(sender.name, "task-retried", uuid=request.id, exception=safe_repr(cause), traceback=trace)

    def _revoked(self, sender: Any, request: Any, terminated: bool, signum: Any, expired: bool, **_: Any) -> None:
        self.put(sender.name, "task-revoked", uuid=request.id, terminated=terminated, signum=signum, expired=expired)


def _is_job(task_id: str) -> bool:
    """Whether this is what the worker was sent, and not a task that another one runs on the spot."""
    outcome = current.get()
    return outcome is not None and outcome.job is not None and outcome.job.id == task_id
