"""Results that come as messages: the mailbox of one app in one process. Over: the app's broker. Used by: rpc.

Replies to a call go to the queue that its message named, one for each thread that has called (``app.thread_oid``). Whoever waits
first reads them all, for everybody: any thread may wait for any call of its process.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import Any, Final

from compat_celery import protocol, states
from compat_celery.app.publisher import broker_for
from jumpstarter._redis import on_fork
from jumpstarter.abc.broker import Broker
from jumpstarter.jobs import ACK, Delivery, Settlement

__all__ = ("Replies",)

#: Replies that nobody has asked for yet are kept, at most so many: the oldest are dropped first.
KEPT: Final = 65_536
_BATCH: Final = 256
_LOOK: Final = 1.0  # seconds at a stretch that one thread listens for all
_LEASE: Final = 30.0


class Replies:
    """Reads replies, and keeps them for those who will ask. From any thread; a forked process has none.

    :param expires: seconds for which the server keeps a queue that nobody reads; None: for ever.
    :param accept: content types that are read; others are dropped.
    """

    def __init__(self, app: Any, *, expires: float | None, accept: Any) -> None:
        self._app = app
        self._expires = expires
        self._accept = accept
        self._start_afresh()
        on_fork(self._start_afresh)

    def _start_afresh(self) -> None:
        self._queues: dict[str, None] = {}
        self._kept: OrderedDict[str, dict[str, Any]] = OrderedDict()
        self._changed = threading.Condition()
        self._is_read = False
        self._incarnation = f"replies-{uuid.uuid4().hex}"

    @property
    def _broker(self) -> Broker:
        return broker_for(self._app)

    def listen(self, queue: str) -> None:
        """From now on, what is sent to this queue is kept for us.

        :raises BrokerUnavailable: the broker does not answer.
        """
        if queue not in self._queues:
            self._broker.open_reply_queue(queue, expires=self._expires)
            self._queues[queue] = None

    def get(self, ids: Iterable[str]) -> list[dict[str, Any] | None]:
        """The newest reply of each call that has come by now, or None.

        :raises BrokerUnavailable: the broker does not answer.
        """
        wanted = list(ids)
        if any(self._unready(one) for one in wanted):
            self._read_or_wait(0.0)
        return [self._kept.get(one) for one in wanted]

    def wait(self, ids: Sequence[str], timeout: float | None) -> dict[str, dict[str, Any]]:
        """The replies that are there, by id, once there is one that says how its call ended, or after ``timeout`` seconds.

        :raises BrokerUnavailable: the broker does not answer.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            left = _LOOK if deadline is None else min(_LOOK, deadline - time.monotonic())
            if left <= 0 or not all(self._unready(one) for one in ids):
                return {one: self._kept[one] for one in ids if one in self._kept}
            self._read_or_wait(left)

    def forget(self, task_id: str) -> None:
        """Keep nothing of this call."""
        self._kept.pop(task_id, None)

    def _unready(self, task_id: str) -> bool:
        document = self._kept.get(task_id)
        return document is None or document.get("status") not in states.READY_STATES

    def _read_or_wait(self, seconds: float) -> None:
        """Read what has come, for everybody, waiting for so many seconds; or wait until another thread that does has read."""
        with self._changed:
            if self._is_read:
                self._changed.wait(seconds or _LOOK)
                return
            self._is_read = True
        try:
            self._read(seconds)
        finally:
            with self._changed:
                self._is_read = False
                self._changed.notify_all()

    def _read(self, seconds: float) -> None:
        broker, queues = self._broker, list(self._queues)
        if not queues:
            time.sleep(seconds)
            return
        deliveries = self._claim(broker, queues)
        if not deliveries and seconds:
            broker.wait(queues, seconds, incarnation=self._incarnation)
            deliveries = self._claim(broker, queues)
            broker.rest(incarnation=self._incarnation)
        while deliveries:
            for delivery in deliveries:
                self._keep(delivery)
            # Kept before they are acked: were this to fail, they come again.
            broker.settle([Settlement(delivery, ACK) for delivery in deliveries], incarnation=self._incarnation)
            deliveries = self._claim(broker, queues) if len(deliveries) == _BATCH else []

    def _claim(self, broker: Broker, queues: Sequence[str]) -> list[Delivery]:
        return broker.claim(queues, _BATCH, incarnation=self._incarnation, lease=_LEASE)

    def _keep(self, delivery: Delivery) -> None:
        envelope = delivery.envelope
        if envelope is None:
            return
        try:
            document = protocol.decode(envelope.body, envelope.content_type, envelope.content_encoding, accept=self._accept)
        except Exception:  # noqa: BLE001 - whatever it is, it is no result
            return
        if not isinstance(document, dict) or "status" not in document:
            return
        task_id = str(document.get("task_id") or envelope.properties.get("correlation_id"))
        # What comes late or twice must not hide how it ended.
        if self._unready(task_id):
            self._kept[task_id] = document
            self._kept.move_to_end(task_id)
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)
