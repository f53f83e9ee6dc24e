"""Errors that the runs must find, planted into a worker of ours by ``CHAOS_FAULT``: a harness that cannot see these proves nothing.

Each takes one guard out, the way a careless change would, by wrapping the same methods of the ports as the crash points do.
"""

from __future__ import annotations

import dataclasses
import os
import time
import uuid
from collections.abc import Callable
from typing import Any

from tests.chaos.points import around, broker_class, reach, results_class


def ack_before_run() -> None:
    """Claimed messages are acked at once: what dies with its process is gone."""
    from jumpstarter.jobs import ACK, Settlement  # noqa: PLC0415 - ours only

    def claim(original: Any, broker: Any, *args: Any, incarnation: str, **kwargs: Any) -> Any:
        deliveries = original(broker, *args, incarnation=incarnation, **kwargs)
        if deliveries:
            broker.settle([Settlement(delivery, ACK) for delivery in deliveries], incarnation=incarnation)
        return deliveries

    around(broker_class(), "claim", claim)


def no_fence() -> None:
    """What a job wants sent is sent also when its message belongs to another worker by now."""

    def settle(original: Any, broker: Any, settlements: Any, *, incarnation: str) -> Any:
        answers = original(broker, settlements, incarnation=incarnation)
        for settlement, answer in zip(settlements, answers, strict=True):
            if answer is False and settlement.publish:
                broker.publish(settlement.publish)
        return answers

    around(broker_class(), "settle", settle)


def no_renewal() -> None:
    """Nobody renews the leases of jobs that take long."""
    around(broker_class(), "renew", lambda _original, *_args, **_kwargs: None)


def non_atomic_claim() -> None:
    """Popped in one step, recorded in the next, as Kombu does it on Redis."""
    from jumpstarter.jobs import ACK, Settlement  # noqa: PLC0415 - ours only

    def claim(original: Any, broker: Any, queues: Any, limit: int, *, incarnation: str, lease: float) -> Any:
        popped = original(broker, queues, limit, incarnation=incarnation, lease=lease)
        if not popped:
            return []
        broker.settle([Settlement(delivery, ACK) for delivery in popped], incarnation=incarnation)
        reach("claim.window")
        time.sleep(0.05)
        broker.publish([delivery.envelope for delivery in popped])
        return original(broker, queues, len(popped), incarnation=incarnation, lease=lease)

    around(broker_class(), "claim", claim)


def count_based_join() -> None:
    """A chord counts deliveries instead of members: one that is delivered again counts twice."""

    def as_another(part: Any) -> Any:
        return dataclasses.replace(part, member=str(uuid.uuid4()))

    results = results_class()
    if "add_parts" in vars(results):
        around(
            results,
            "add_parts",
            lambda original, store, parts, **more: original(store, [as_another(part) for part in parts], **more),
        )
        around(results, "part_write", lambda original, store, part: original(store, as_another(part)))
    else:
        around(results, "add_part", lambda original, store, part: original(store, as_another(part)))


FAULTS: dict[str, Callable[[], None]] = {
    "ack-before-run": ack_before_run,
    "no-fence": no_fence,
    "no-renewal": no_renewal,
    "non-atomic-claim": non_atomic_claim,
    "count-based-join": count_based_join,
}


def plant() -> None:
    """Plant the one that the environment names, if any."""
    name = os.environ.get("CHAOS_FAULT")
    if name:
        FAULTS[name]()
