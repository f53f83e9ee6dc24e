"""Whether an app's queues are quorum queues, with which RabbitMQ has no global prefetch and delays messages another way."""

from __future__ import annotations

from typing import Any

__all__ = ("detect_quorum_queues",)


def detect_quorum_queues(app: Any, driver_type: str) -> tuple[bool, str]:
    """Whether any of the app's queues is one, and the name of the first that is (or an empty text).

    :param driver_type: of the broker, as kombu calls it: only ``amqp`` has such queues.
    """
    if driver_type != "amqp":
        return False, ""
    queues = app.amqp.queues
    for name in queues:
        if (queues[name].queue_arguments or {}).get("x-queue-type") == "quorum":
            return True, name
    return False, ""
