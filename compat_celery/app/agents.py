"""What monitoring agents put in the place of billiard's and kombu's methods, called by us where those would have been called.

Agents replace methods of classes that genuine Celery's worker and publisher go through, and ours do not. Nothing here imports
kombu or billiard: where nobody did, nobody replaced anything. Used by: worker.application, app.amqp, the command line.
"""

from __future__ import annotations

import logging
import os
import sys
from types import SimpleNamespace
from typing import Any

__all__ = ("child_ends", "instrument_late", "publish_of")

logger = logging.getLogger("celery.worker")


def _is_own(function: Any, file: str) -> bool:
    """Whether the function is the library's, and not somebody's in its place."""
    code = getattr(function, "__code__", None)
    return code is not None and code.co_filename.endswith(file)


# billiard.pool.Worker.workloop: the life of a child. Sentry sends what it has collected when it ends.


def child_ends() -> None:
    """Let agents that surround the loop of a child do what they do at its end."""
    pool = sys.modules.get("billiard.pool")
    if pool is None or _is_own(pool.Worker.workloop, "billiard/pool.py"):
        return
    try:
        pool.Worker.workloop(_ended(pool.Worker))
    except Exception:
        logger.exception("what an agent put in the place of billiard.pool.Worker.workloop failed")


def _ended(worker_class: Any) -> Any:
    """A pool's worker whose loop ends before the first job."""
    worker = worker_class.__new__(worker_class)
    worker.maxtasks = worker.max_memory_per_child = 0
    worker.inqW_fd = worker.synqW_fd = None
    worker.wait_for_job = worker.wait_for_syn = worker.on_ready_counter = None
    worker.outq = SimpleNamespace(put=lambda _: None)
    return worker


# kombu.Producer.publish: Sentry and others make a span of it, and add headers.


def publish_of(producer: Any) -> Any:
    """What publishes a message: the producer's own method, within what agents have put in the place of kombu's."""
    messaging = sys.modules.get("kombu.messaging")
    if messaging is None or _is_own(messaging.Producer.publish, "kombu/messaging.py") or isinstance(producer, messaging.Producer):
        return producer.publish
    from compat_celery.app._watched import publish_watched  # noqa: PLC0415 - it imports kombu

    return publish_watched(producer)


# opentelemetry-instrument: looks at the start of Python what is installed, before `jumpstarter celery` installs the alias.


def instrument_late() -> None:
    """Instrument Celery where ``opentelemetry-instrument`` runs the program and found no Celery when it looked."""
    if "opentelemetry.instrumentation.auto_instrumentation" not in sys.modules:
        return
    if "celery" in os.environ.get("OTEL_PYTHON_DISABLED_INSTRUMENTATIONS", "").replace(" ", "").split(","):
        return
    from importlib.metadata import entry_points  # noqa: PLC0415 - 30 ms, for those who are instrumented

    for entry in entry_points(group="opentelemetry_instrumentor", name="celery"):
        instrumentor = entry.load()()
        if not instrumentor.is_instrumented_by_opentelemetry:
            instrumentor.instrument(skip_dep_check=True)
