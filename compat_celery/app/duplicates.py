"""The setting ``worker_deduplicate_successful_tasks``: a message that comes again runs no more once its result is a success.

On Redis and in memory a worker of ours stores the result, sends what follows and acks in one step, so this cannot happen there;
it does with results and brokers that are apart, and after a genuine worker died between result and ack. Used by: trace.
"""

from __future__ import annotations

import logging
from typing import Any

from compat_celery import states
from compat_celery.exceptions import BackendGetMetaError, Reject
from compat_celery.worker.state import successful_requests

__all__ = ("deduplicates", "is_done")

logger = logging.getLogger("celery.app.trace")


def deduplicates(app: Any, task: Any) -> bool:
    """Whether a task's messages are looked up when they come again: it acks late, and results outlive the process."""
    conf = app.conf
    return bool(conf.worker_deduplicate_successful_tasks and (conf.task_acks_late or task.acks_late) and app.backend.persistent)


def is_done(tracer: Any, result_cls: Any, uuid: str, request: Any) -> bool:
    """Whether the task has succeeded before. If it then died before its follow-ups were sent, they are sent now.

    :param tracer: of the task.
    :param result_cls: makes the task's result: ``result_cls(id, app=app)``.
    :param request: a :class:`~compat_celery.app.task.Context`.
    :raises Reject: the follow-ups cannot be sent; the message shall come again.
    """
    if not (request.delivery_info or {}).get("redelivered"):
        return False
    task_id = request.id or uuid
    if task_id in successful_requests:
        return True
    result = result_cls(task_id, app=tracer.app)
    try:
        if result.state != states.SUCCESS:
            return False
    except BackendGetMetaError:
        return False
    logger.info("Task %s[%s] ignored: it has succeeded already", tracer.name, task_id)
    try:
        meta = result._get_task_meta()
        # What a task sent is stored with its result.
        if (request.callbacks or request.chain) and not meta.get("children"):
            tracer.follow_up(uuid, request, meta.get("result"))
    except MemoryError:
        raise
    except Exception as error:
        tracer.log.error("the follow-ups of the deduplicated task %s could not be sent", task_id, exc_info=error)
        raise Reject(error, requeue=True) from error
    successful_requests.add(task_id)
    return True
