"""A Celery queue as a source: its messages become rows. Comes from: a broker (the port). Goes to: a store, then as every source.

A message is put into the store under its id and acked after that; a crash in between brings it again, and its key is known.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from typing import Any

from jumpstarter.abc.broker import Broker
from jumpstarter.jobs import ACK, Delivery, Quarantine, Settlement
from jumpstarter.pipelines.clocks import hop
from jumpstarter.pipelines.sources import Source
from jumpstarter.pipelines.stores.port import Put, Store

#: Seconds for which messages are held on their way into the store.
_LEASE = 60.0


class QueueRows(Source):
    """The messages of a queue that Celery clients publish to: ``{"id": …, "task": …, "args": […], "kwargs": {…}}``.

    :param name: of the queue.
    :param broker: ``jumpstarter.brokers.open_broker(url)``.
    :param store: where rows are kept from then on.
    :param decode: makes a row of a delivery, in place of the above. What it raises sends the message to the broker's quarantine.
    """

    is_fed = True

    def __init__(
        self, name: str, broker: Broker, *, store: str | Store, decode: Callable[[Delivery], Any] | None = None, **options: Any
    ) -> None:
        super().__init__(name, store=store, **{"key": "id", **options})
        self._broker = broker
        self._decode = decode or _row
        self._incarnation = f"pipeline-{uuid.uuid4().hex[:12]}"

    async def feed(self, count: int) -> bool:
        return await hop(self._feed, count)

    def _feed(self, count: int) -> bool:
        found = self._broker.claim([self.queue], count, incarnation=self._incarnation, lease=_LEASE)
        if not found:
            self._broker.reap()
            return False
        rows, settlements = [], []
        for delivery in found:
            try:
                row = self._decode(delivery)
                rows.append((_key(row, delivery), row))
                settlements.append(Settlement(delivery, ACK))
            except Exception as error:  # noqa: BLE001 - a message that is no row is poison, whatever decoding raises
                settlements.append(Settlement(delivery, Quarantine(f"no row for a pipeline: {error!r}")))
        self.store.put(Put(self.queue, rows))
        self._broker.settle(settlements, incarnation=self._incarnation)
        return bool(rows)


def _row(delivery: Delivery) -> dict[str, Any]:
    if delivery.envelope is None:
        raise ValueError(delivery.fault)
    args, kwargs, *_ = json.loads(delivery.envelope.body)
    headers = delivery.envelope.headers
    return {"id": headers["id"], "task": headers["task"], "args": args, "kwargs": kwargs}


def _key(row: Any, delivery: Delivery) -> str:
    if isinstance(row, dict) and "id" in row:
        return str(row["id"])
    return str(delivery.envelope.headers.get("id") if delivery.envelope is not None else delivery.tag)
