"""What commands of remote control find as ``state.consumer``: their worker. Over: :class:`jumpstarter.worker.remote.Remote`.

Celery's consumer receives tasks as well; ours are received in the children, so that this is a view of the node and no more.
"""

from __future__ import annotations

import json
import os
import resource
import time
from collections import Counter
from collections.abc import Mapping
from typing import Any

from compat_celery.app.publisher import broker_for
from jumpstarter.worker.remote import Remote

__all__ = ("Consumer", "counts")


class Consumer:
    """A running worker.

    :ivar controller: the program that it runs in (:class:`compat_celery.apps.worker.Worker`).
    """

    #: Celery's consumer has these; here nothing corresponds to them.
    gossip = None
    timer = None
    event_dispatcher = None

    def __init__(self, controller: Any, remote: Remote) -> None:
        self.controller = controller
        self.app = controller.app
        self.hostname: str = controller.hostname
        self._remote = remote
        self._began = time.monotonic()

    # What it is told.

    def tell(self, notice: Mapping[str, Any], *, said: bool = False) -> None:
        """Have every process of the worker know of a revocation or a limit
        (see :meth:`compat_celery.worker.application.CeleryApplication.note`).

        :param said: the client has said it through the broker as well, where each process hears it once.
        """
        if said:
            self._remote.look()
        else:
            self._remote.note(json.dumps(notice))

    def cancel(self, task_id: str) -> None:
        """End a task that runs here."""
        self._remote.cancel(task_id)

    def beat(self) -> None:
        """Tell monitors now that the worker is there."""
        heart = self.controller.heart
        if heart is not None:
            heart.tell("worker-heartbeat")

    def stop(self) -> None:
        """A warm shutdown."""
        self._remote.stop()

    # What it tells.

    @property
    def reports_tasks(self) -> bool:
        """Whether it sends events about tasks."""
        return bool(self.controller.reports.wanted)

    def _asked(self, question: str) -> list[Any]:
        return [json.loads(answer) for answer in self._remote.ask(question)]

    def active(self, *, safe: bool = False) -> list[dict[str, Any]]:
        """The tasks that run, as inspect shows them. ``safe``: with the texts of their arguments."""
        return self._infos("active_safe" if safe else "active")

    def reserved(self) -> list[dict[str, Any]]:
        """The tasks that wait for a slot."""
        return self._infos("reserved")

    def _infos(self, question: str) -> list[dict[str, Any]]:
        return [info for infos in self._asked(question) for info in infos]

    def active_queues(self) -> list[dict[str, Any]]:
        """The queues that it consumes from."""
        queues = self.app.amqp.queues
        return [dict(queues[name].as_dict(recurse=True)) for name in self._remote.options.queues]

    def stats(self) -> dict[str, Any]:
        """Numbers about the worker, in Celery's layout."""
        totals: Counter[str] = Counter()
        for counts in self._asked("totals"):
            totals.update(counts)
        options = self._remote.options
        return {
            "total": dict(totals),
            "pid": os.getpid(),
            "clock": str(self.app.clock),
            "uptime": round(time.monotonic() - self._began),
            "pool": {
                "implementation": f"jumpstarter:{options.pool}",
                "max-concurrency": options.concurrency,
                "processes": [pid for pid, *_ in self._asked("pid")],
                "max-tasks-per-child": options.max_tasks or "N/A",
                "put-guarded-by-semaphore": False,
                "timeouts": [self.app.conf.task_soft_time_limit or 0, self.app.conf.task_time_limit or 0],
            },
            # Claims follow the free slots.
            "prefetch_count": options.concurrency,
            "broker": {"transport": broker_for(self.app).url.partition("://")[0], "uri": broker_for(self.app).url},
            "rusage": _rusage(),
        }


def counts(remote: Remote, within: float) -> tuple[int, int]:
    """How many tasks run in a worker, and how many have ended in the processes that it has now.

    :param within: seconds for their answers.
    """
    told = [json.loads(answer) for answer in remote.ask("counts", within=within)]
    return sum(running for running, _ in told), sum(ended for _, ended in told)


def _rusage() -> dict[str, float]:
    """What this process has used."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return {
        name.removeprefix("ru_"): getattr(usage, name)
        for name in ("ru_utime", "ru_stime", "ru_maxrss", "ru_minflt", "ru_majflt", "ru_nvcsw", "ru_nivcsw")
    }
