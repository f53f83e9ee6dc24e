"""A Celery app as an application that Jumpstarter's worker can run: messages to jobs, and what comes of them to outcomes.

Comes from: jumpstarter.worker (through its port). Goes to: app.trace, protocol.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, tzinfo
from types import MappingProxyType
from typing import Any

import anyio.to_thread
from billiard.einfo import ExceptionInfo
from billiard.exceptions import SoftTimeLimitExceeded, TimeLimitExceeded, WorkerLostError
from kombu.exceptions import ContentDisallowed, DecodeError
from kombu.serialization import prepare_accept_content

from compat_celery import protocol, signals, states
from compat_celery.app import agents, trace
from compat_celery.app.effects import current
from compat_celery.app.shelf import Rest
from compat_celery.app.task import Context
from compat_celery.app.tickets import is_body_ticket
from compat_celery.exceptions import CanvasExpired, ImproperlyConfigured, NotRegistered, Reject, TaskRevokedError
from compat_celery.utils.serialization import jsonify
from compat_celery.utils.time import rate
from compat_celery.worker import revocations
from compat_celery.worker import state as worker_state
from compat_celery.worker.rates import Away, Rates
from compat_celery.worker.reports import Reports
from compat_celery.worker.request import Request, request_of
from compat_celery.worker.verdicts import REDELIVERED, again, verdict
from jumpstarter.clock import SYSTEM_CLOCK
from jumpstarter.errors import MessageError, ResultsUnavailable, Undecodable, UnknownTask
from jumpstarter.jobs import ACK, RETURN, Action, Delivery, Handler, Job, Outcome, Park, Place, Quarantine

logger = logging.getLogger("celery.worker.strategy")

#: Seconds between two looks at a task that nobody knew so far.
_UNKNOWN_AGAIN = 5.0


class CeleryApplication:
    """The port's :class:`~jumpstarter.abc.application.Application` over a Celery app."""

    soft_limit_error: type[Exception] = SoftTimeLimitExceeded

    def __init__(self, app: Any, hostname: str) -> None:
        """:param app: a Celery app; it is finalized here, so all its modules must be imported.
        :param hostname: the node's name, ``celery@host``, for ``request.hostname``.
        """
        app.finalize()
        self.app = app
        self.hostname = hostname
        self.name = app.main or "celery"
        self._handlers: dict[str, TaskHandler] = {}
        self.learn_tasks()
        self.rates = Rates({name: rate_of(task) for name, task in app.tasks.items()})
        self._obeys_rates = not app.conf.worker_disable_rate_limits
        self.accept: frozenset[str] = frozenset(prepare_accept_content(app.conf.accept_content))
        self.naive_zone: tzinfo = UTC if app.conf.enable_utc else app.timezone
        self.reports = Reports(app, hostname, on=bool(app.conf.worker_send_task_events))
        self._parks_unknown = unknown_tasks(app.conf) == "park"
        self._queue_leases: Mapping[str, float] = app.conf.get("worker_queue_leases") or {}
        self._is_child = False
        #: See the port; set with the first revocation.
        self.bars = False
        #: Whether somebody wants to know which tasks succeeded (:data:`compat_celery.worker.state.successful_requests`).
        self.remembers_successes = False

    def learn_tasks(self) -> None:
        """Take up the tasks that the app has got since."""
        for name, task in self.app.tasks.items():
            if name not in self._handlers:
                self._handlers[name] = TaskHandler(self, task)

    @property
    def handlers(self) -> Mapping[str, Handler]:
        return self._handlers

    def decode(self, delivery: Delivery) -> Job:
        assert delivery.envelope is not None, "the worker refuses deliveries without an envelope"
        try:
            head = protocol.read_headers(delivery.envelope, accept=self.accept, naive_zone=self.naive_zone)
        except (ContentDisallowed, DecodeError) as error:
            raise Undecodable(str(error)) from error
        handler = self._handlers.get(head.task)
        if handler is None:
            raise UnknownTask(head.task)
        task = handler.task
        job = Job(
            id=head.id,
            name=head.task,
            delivery=delivery,
            handler=handler,
            due=head.due,
            expires=head.expires,
            early_ack=not task.acks_late,
            requeue_if_lost=bool(task.reject_on_worker_lost),
            soft_limit=head.soft_limit or task.soft_time_limit,
            hard_limit=head.hard_limit or task.time_limit,
            lease=getattr(task, "lease", None) or self._queue_leases.get(delivery.queue),
            context=head,
        )
        if self.reports.on or signals.task_received.receivers or logger.isEnabledFor(logging.INFO):
            self._tell_received(job)
        return job

    def _tell_received(self, job: Job) -> None:
        """Tell of a job when it comes to run: one that is due later, or comes too often, is parked and received again."""
        if job.due is not None and job.due > SYSTEM_CLOCK.now():
            return
        if self.throttles and self.rates.per_second(job.name):
            return  # told when it has its turn
        self._tell(job)

    def _tell(self, job: Job) -> None:
        self.reports.received(job)
        headers = job.context.headers
        facts = {
            "id": job.id,
            "name": headers.get("shadow") or job.name,
            "args": headers.get("argsrepr", ""),
            "kwargs": headers.get("kwargsrepr", ""),
            "eta": headers.get("eta"),
        }
        logger.info(trace.LOG_RECEIVED, facts, extra={"data": facts})
        if signals.task_received.receivers:
            signals.task_received.send(sender=self.hostname, request=self.describe(job))

    def describe(self, job: Job) -> Request | None:
        """The job as Celery's worker shows it; None when its payload cannot be read."""
        call = self._call(job.delivery, job.context)
        if call is None:
            return None
        request = request_of(job, call, app=self.app, task=self.app.tasks[job.name], hostname=self.hostname)
        if job.started:
            request.time_start = SYSTEM_CLOCK.now() - (time.monotonic() - job.started)
        return request

    def refuse(self, delivery: Delivery, error: Exception) -> Outcome:
        """Unknown tasks get Celery's failure; every refused message is kept in quarantine, so that nothing is lost by a deploy that
        reached the publishers first."""
        reason = Quarantine(str(error), {"error": type(error).__name__})
        envelope = delivery.envelope
        if not isinstance(error, UnknownTask) or envelope is None:
            logger.error("a message in %r was refused and is kept in quarantine: %s", delivery.queue, error)
            return Outcome(delivery, None, "REFUSED", reason, error=error)
        head = protocol.read_headers(envelope, accept=self.accept, naive_zone=self.naive_zone)
        if self._parks_unknown:
            logger.warning("Task %s[%s] is unknown here and waits for a worker that knows it", error.name, head.id)
            return Outcome(delivery, None, "PARKED", Park(SYSTEM_CLOCK.now() + _UNKNOWN_AGAIN))
        logger.error(
            "Received unregistered task of type %r. The message is kept in quarantine. Did you remember to import the module "
            "containing this task?",
            error.name,
        )
        failure = NotRegistered(error.name)
        signals.task_unknown.send(sender=self.app, message=envelope, exc=failure, name=error.name, id=head.id)
        return self._fail(delivery, None, head, failure, reason, self.app.backend)

    def expire(self, job: Job) -> Outcome:
        error = TaskRevokedError("expired")
        head: protocol.Head = job.context
        logger.info("Discarding revoked task: %s[%s]", job.name, job.id)
        task = self.app.tasks[job.name]
        request = self._request(job.delivery, head, None)
        signals.task_revoked.send(sender=task, request=request, terminated=False, signum=None, expired=True)
        return self._fail(job.delivery, job, head, error, ACK, task.backend, state=states.REVOKED)

    def lose(self, job: Job, evidence: str, *, quarantine: bool, facts: Mapping[str, Any] = MappingProxyType({})) -> Outcome:
        error = WorkerLostError(f"Worker exited prematurely: {evidence} Job: {job.id}.")
        action: Action = Quarantine(evidence, {"task": job.name, "id": job.id, **facts}) if quarantine else ACK
        return self._fail(job.delivery, job, job.context, error, action, self.app.tasks[job.name].backend)

    def overrun(self, job: Job, limit: float, *, soft: bool) -> Outcome:
        error: Exception = SoftTimeLimitExceeded(limit) if soft else TimeLimitExceeded(limit)
        task = self.app.tasks[job.name]
        logger.error("%s time limit (%gs) exceeded for %s[%s]", "Soft" if soft else "Hard", limit, job.name, job.id)
        outcome = self._fail(job.delivery, job, job.context, error, verdict(task, states.FAILURE), task.backend)
        self._tell_failure(task, job, error)
        return outcome

    def _tell_failure(self, task: Any, job: Job, error: Exception) -> None:
        """``on_failure`` of a task that could not end by itself. User code: only in a child, never in the node that watches it."""
        if not self._is_child or not trace.task_has_custom(task, "on_failure"):
            return
        call = self._call(job.delivery, job.context)
        args, kwargs = ((), {}) if call is None else (call.args, call.kwargs)
        try:
            task.on_failure(error, job.id, args, kwargs, ExceptionInfo((type(error), error, None)))
        except Exception:
            logger.exception("on_failure of %s[%s] failed", job.name, job.id)

    def cancel(self, job: Job, reason: str) -> Outcome:
        logger.info("Task %s[%s] terminated: %s", job.name, job.id, reason)
        task = self.app.tasks[job.name]
        request = self._request(job.delivery, job.context, None)
        signals.task_revoked.send(sender=task, request=request, terminated=True, signum=None, expired=False)
        error = TaskRevokedError("terminated")
        return self._fail(job.delivery, job, job.context, error, ACK, task.backend, state=states.REVOKED)

    # What the node was told.

    def bar(self, job: Job) -> Outcome | None:
        head: protocol.Head = job.context
        if not revocations.is_revoked(job.id, head.headers.get("stamps")):
            return None
        logger.info("Discarding revoked task: %s[%s]", job.name, job.id)
        task = self.app.tasks[job.name]
        request = self._request(job.delivery, head, None)
        signals.task_revoked.send(sender=task, request=request, terminated=False, signum=None, expired=False)
        error = TaskRevokedError("revoked")
        return self._fail(job.delivery, job, head, error, ACK, task.backend, state=states.REVOKED)

    @property
    def throttles(self) -> bool:
        """See the port."""
        return self._obeys_rates and self.rates.any

    def turn(self, job: Job, *, may_wait: bool) -> float | Outcome:
        if self.bars and (barred := self.bar(job)) is not None:
            return barred  # what never starts takes nobody's turn
        answer = self.rates.ask(job.name, may_wait=may_wait)
        if isinstance(answer, Away):
            return Outcome(job.delivery, job, "PARKED", Park(SYSTEM_CLOCK.now() + answer.seconds))
        if self.rates.per_second(job.name):
            self._tell(job)
        return answer.seconds

    def note(self, notice: str) -> None:
        match json.loads(notice):
            case {"revoke": list(ids)}:
                worker_state.revoked.update(ids)
                self.bars = True
            case {"revoke_stamps": dict(headers)}:
                revocations.revoke_stamps(headers)
                self.bars = True
            case {"time_limit": [str(name), soft, hard]}:
                task = self.app.tasks[name]
                task.soft_time_limit, task.time_limit = soft, hard
            case {"events": bool(on)}:
                self.reports.want(on)
                self.reports.follow()
            case {"rate_limit": [str(name), limit]}:
                # In memory that all processes share, so that also those know it that are started later.
                self.app.tasks[name].rate_limit = limit
                self.rates.limit(name, rate(limit))
            case other:
                logger.warning("a notice was not understood: %r", other)

    def answer(self, question: str, running: Sequence[Job], waiting: Sequence[Job]) -> str:
        """Answers with JSON: ``active``, ``active_safe`` and ``reserved`` with what inspect tells about these jobs, ``totals`` with
        how many tasks have ended, by name, and ``pid``."""
        match question:
            case "active":
                found: Any = self._infos(running)
            case "active_safe":
                found = self._infos(running, safe=True)
            case "pid":
                found = [os.getpid()]
            case "reserved":
                found = self._infos(waiting)
            case "counts":
                found = [len(running), worker_state.all_total_count[0]]
            case "totals":
                found = dict(worker_state.total_count)
            case _:
                found = None
        return json.dumps(jsonify(found, unknown_type_filter=repr))

    def _infos(self, jobs: Sequence[Job], *, safe: bool = False) -> list[dict[str, Any]]:
        requests = [self.describe(job) for job in jobs]
        return [{**request.info(safe), "stamps": request.stamps} for request in requests if request is not None]

    def settled(self, outcomes: Sequence[Outcome]) -> None:
        names = [outcome.job.name for outcome in outcomes if outcome.job is not None and outcome.job.started]
        worker_state.total_count.update(names)
        worker_state.all_total_count[0] += len(names)
        if self.remembers_successes:
            worker_state.successful_requests.update(
                [outcome.job.id for outcome in outcomes if outcome.job is not None and outcome.status == states.SUCCESS]
            )

    def reject(self, outcome: Outcome, job: Job, request: Context, error: Reject) -> None:
        """A task has rejected its message for good: it will never run again, so it has failed for those who wait for it."""
        task = self.app.tasks[job.name]
        token = current.set(outcome)
        try:
            store = not request.ignore_result or task.store_errors_even_if_ignored
            trace.record_failure(task.backend, job.id, error, request, traceback=None, store=store)
        finally:
            current.reset(token)
        outcome.status, outcome.error = states.FAILURE, error
        info = ExceptionInfo((type(error), error, error.__traceback__))
        signals.task_failure.send(
            sender=task,
            task_id=job.id,
            exception=error,
            args=request.args,
            kwargs=request.kwargs,
            traceback=error.__traceback__,
            einfo=info,
        )

    def child_started(self) -> None:
        self._is_child = True
        self.reports.begin()
        # The pid is part of what a child says about itself; signals that users connected open their connections here.
        self.app.set_current()
        self.app.set_default()
        signals.worker_process_init.send(sender=None)

    def child_stopping(self) -> None:
        signals.worker_process_shutdown.send(sender=None, pid=os.getpid(), exitcode=0)
        self.reports.end()
        agents.child_ends()

    def _fail(
        self,
        delivery: Delivery,
        job: Job | None,
        head: protocol.Head,
        error: Exception,
        action: Action,
        backend: Any,
        *,
        state: str = states.FAILURE,
    ) -> Outcome:
        """A failure that no tracer saw, with all that hangs on it."""
        outcome = Outcome(delivery, job, state, action)
        token = current.set(outcome)
        try:
            request = self._request(delivery, head, self._call(delivery, head))
            trace.record_failure(backend, head.id, error, request, traceback=None, store=not request.ignore_result, state=state)
        finally:
            current.reset(token)
        outcome.error = None if state == states.REVOKED else error
        if state == states.FAILURE:
            self.reports.failed(head.task, head.id, error)
        return outcome

    def _call(self, delivery: Delivery, head: protocol.Head) -> protocol.Call | None:
        assert delivery.envelope is not None
        try:
            return protocol.read_body(delivery.envelope, head, accept=self.accept)
        except (ContentDisallowed, DecodeError, MessageError):
            return None  # what the payload would have named cannot be told; the task itself fails all the same

    def _request(self, delivery: Delivery, head: protocol.Head, call: protocol.Call | None) -> Context:
        if call is None:
            return Context(head.headers)
        return Context(self.request_of(delivery, call))

    def request_of(self, delivery: Delivery, call: protocol.Call) -> dict[str, Any]:
        """The fields of ``task.request``."""
        envelope = delivery.envelope
        assert envelope is not None, "the worker refuses deliveries without an envelope"
        redelivered = delivery.attempt > 1 or bool(envelope.headers.get(REDELIVERED))
        request = call.request(envelope, hostname=self.hostname, redelivered=redelivered)
        if call.chain:
            request["chain"] = self.app.shelf.chain(call.chain)
        return request

    def prepare_canvas(self, job: Job, request: dict[str, Any]) -> Outcome | None:
        """Before a task runs that is part of a large canvas: see that the canvas can go on. An outcome when it cannot now, or
        never will."""
        chain, body = request["chain"], request["chord"]
        try:
            if isinstance(chain, Rest):
                chain.prepare()
            if is_body_ticket(body):
                request["chord"] = self.app.shelf.kept_body(body)
        except ResultsUnavailable as error:
            logger.warning("Task %s[%s] waits: its canvas cannot be read: %s", job.name, job.id, error)
            return Outcome(job.delivery, job, "RETURNED", RETURN)
        except CanvasExpired as error:
            logger.error("Task %s[%s] is kept in quarantine: %s", job.name, job.id, error)
            backend = self.app.tasks[job.name].backend
            return self._fail(
                job.delivery, job, job.context, error, Quarantine(str(error), {"task": job.name, "id": job.id}), backend
            )
        return None


def is_shelved(request: Mapping[str, Any]) -> bool:
    """Whether a part of the task's canvas is on the shelf."""
    return isinstance(request["chain"], Rest) or is_body_ticket(request["chord"])


class TaskHandler:
    """Runs the jobs of one Celery task."""

    def __init__(self, application: CeleryApplication, task: Any) -> None:
        self.name: str = task.name
        self.task = task
        self.runs_in = runs_in(task)
        self._application = application
        self._acaller: trace.Tracer | None = None

    def run(self, job: Job) -> Outcome:
        """Decode the payload, trace the task, and collect what it wants done."""
        delivery, application = job.delivery, self._application
        envelope = delivery.envelope
        assert envelope is not None, "the worker refuses deliveries without an envelope"
        outcome = Outcome(delivery, job, states.PENDING)
        token = current.set(outcome)
        try:
            call = protocol.read_body(envelope, job.context, accept=application.accept)
            request = application.request_of(delivery, call)
            if (call.chain or call.chord) and (refusal := application.prepare_canvas(job, request)) is not None:
                return refusal
            tracer = self.task.__trace__ or self._make_tracer()
            result = tracer(job.id, call.args, call.kwargs, request)
        except (ContentDisallowed, DecodeError, Undecodable) as error:
            return application.refuse(delivery, error)
        finally:
            current.reset(token)
        if outcome.status != states.SUCCESS:
            self._conclude(outcome, job, call, request, result.retval)
        return outcome

    async def arun(self, job: Job) -> Outcome:
        """The same for a coroutine task."""
        delivery, application = job.delivery, self._application
        envelope = delivery.envelope
        assert envelope is not None, "the worker refuses deliveries without an envelope"
        outcome = Outcome(delivery, job, states.PENDING)
        token = current.set(outcome)
        try:
            call = protocol.read_body(envelope, job.context, accept=application.accept)
            request = application.request_of(delivery, call)
            if (call.chain or call.chord) and (refusal := await self._prepared(job, request)) is not None:
                return refusal
            tracer = self._acaller or self._make_coroutine_tracer()
            result = await tracer.acall(job.id, call.args, call.kwargs, request)
        except (ContentDisallowed, DecodeError, Undecodable) as error:
            return application.refuse(delivery, error)
        finally:
            current.reset(token)
        if outcome.status != states.SUCCESS:
            self._conclude(outcome, job, call, request, result.retval)
        return outcome

    async def _prepared(self, job: Job, request: dict[str, Any]) -> Outcome | None:
        if not is_shelved(request):
            return None
        return await anyio.to_thread.run_sync(self._application.prepare_canvas, job, request)

    def _conclude(self, outcome: Outcome, job: Job, call: protocol.Call, request: dict[str, Any], retval: Any) -> None:
        """What becomes of the message of a task that did not succeed."""
        outcome.action = verdict(self.task, outcome.status)
        if isinstance(retval, Reject):
            self._application.reports.put(job.name, "task-rejected", uuid=job.id, requeue=bool(retval.requeue))
            if retval.requeue:
                outcome.publish = [*outcome.publish, again(job.delivery)]
            else:
                self._application.reject(outcome, job, Context(request, args=call.args, kwargs=call.kwargs), retval)

    def _make_tracer(self) -> Any:
        task, application = self.task, self._application
        # Through the module: monitoring agents replace build_tracer there.
        task.__trace__ = trace.build_tracer(task.name, task, app=application.app, hostname=application.hostname)
        return task.__trace__

    def _make_coroutine_tracer(self) -> trace.Tracer:
        """Never through ``build_tracer``: what agents put in its place calls the task as a function, which a coroutine is not."""
        application = self._application
        self._acaller = trace.coroutine_tracer(self.task, app=application.app, hostname=application.hostname)
        return self._acaller


def runs_in(task: Any) -> Place:
    """Where a task's jobs run: coroutines on the loop, functions with ``executor="thread"`` in thread slots, others in the pool's.

    :raises ImproperlyConfigured: its ``executor`` is something else.
    """
    if getattr(task, "is_coroutine", False):
        return "loop"
    executor = getattr(task, "executor", None)
    if executor not in (None, "pool", "thread"):
        raise ImproperlyConfigured(f"task {task.name}: executor must be 'pool' or 'thread', not {executor!r}")
    return "thread" if executor == "thread" else "slot"


def rate_of(task: Any) -> float:
    """How often a task may start, per second; 0: as often as it likes.

    :raises ImproperlyConfigured: its ``rate_limit`` cannot be understood.
    """
    try:
        return rate(task.rate_limit)
    except (TypeError, ValueError, KeyError):
        raise ImproperlyConfigured(
            f"task {task.name}: rate_limit must be a number per second or one like '10/s', '10/m', '10/h', not {task.rate_limit!r}"
        ) from None


def unknown_tasks(conf: Any) -> str:
    """The setting ``worker_unknown_tasks``: ``fail`` (Celery's way) or ``park``.

    :raises ImproperlyConfigured: it is something else.
    """
    setting = str(conf.get("worker_unknown_tasks") or "fail")
    if setting not in ("fail", "park"):
        raise ImproperlyConfigured(f"worker_unknown_tasks must be 'fail' or 'park', not {setting!r}")
    return setting


def tasks_of(app: Any) -> Iterator[str]:
    """The names of the app's own tasks, Celery's built-in ones left out."""
    return (name for name in sorted(app.tasks) if not name.startswith("celery."))
