"""Tasks and the context of their execution. Comes from: user code, the tracer. Goes to: ``send_task``, canvas, the tracer."""

from __future__ import annotations

import inspect
import sys
import types
from collections.abc import Callable, Iterable, Mapping
from traceback import format_exception
from typing import TYPE_CHECKING, Any, ClassVar

from compat_celery import states
from compat_celery._later import kombu_exceptions
from compat_celery._names import celery_named
from compat_celery._state import _task_stack, current_app
from compat_celery.app.annotations import resolve_all as resolve_all_annotations
from compat_celery.app.registry import _unpickle_task_v2
from compat_celery.app.utils import appstr
from compat_celery.exceptions import Ignore, ImproperlyConfigured, MaxRetriesExceededError, Reject, Retry
from compat_celery.local import class_property
from compat_celery.utils import abstract, deprecated
from compat_celery.utils.functional import is_coroutine_function, mattrgetter, maybe_list
from compat_celery.utils.ids import uuid
from compat_celery.utils.imports import instantiate
from compat_celery.utils.nodenames import gethostname
from compat_celery.utils.serialization import raise_with_context
from compat_celery.utils.threads import LocalStack

if TYPE_CHECKING:
    from compat_celery.canvas import Signature
    from compat_celery.result import AsyncResult, EagerResult

__all__ = ("Context", "Task")

#: What a task's attributes say about its calls.
extract_exec_options = mattrgetter(
    "queue",
    "routing_key",
    "exchange",
    "priority",
    "expires",
    "serializer",
    "delivery_mode",
    "compression",
    "time_limit",
    "soft_time_limit",
    "immediate",
    "mandatory",
)

#: What a RabbitMQ broker adds to dead letters. Sent again, it would drop the message as going in circles.
X_DEATH_HEADERS = frozenset(
    {
        "x-death",
        "x-first-death-exchange",
        "x-first-death-queue",
        "x-first-death-reason",
        "x-last-death-exchange",
        "x-last-death-queue",
        "x-last-death-reason",
    }
)

TaskType = type

_UNSET: Any = object()
#: ``timelimit`` of a message that has none.
_NO_LIMITS = [None, None]


def get_actual_ignore_result(task: Any, req: Any) -> Any:
    """Whether the result is ignored: what the call says, else what the task says."""
    if req is None:
        return task.ignore_result
    # The False of the class Context says nothing.
    said = req.__dict__.get("ignore_result") if isinstance(req, Context) else getattr(req, "ignore_result", None)
    return task.ignore_result if said is None else said


@celery_named
class Context:
    """What a task knows about its execution (``self.request``). Any header of the message is an attribute."""

    _children: list[Any] | None = None
    _protected = 0
    args: Any = None
    callbacks: Any = None
    called_directly = True
    #: The rest of the chain, its next step last. May be set to None to end the chain here.
    chain: Any = None
    chord: Any = None
    correlation_id: str | None = None
    delivery_info: Any = None
    errbacks: Any = None
    eta: str | None = None
    expires: Any = None
    group: str | None = None
    group_index: int | None = None
    headers: Any = None
    hostname: str | None = None
    id: str | None = None
    ignore_result: Any = False
    is_eager = False
    kwargs: Any = None
    logfile: Any = None
    loglevel: Any = None
    origin: str | None = None
    parent_id: str | None = None
    properties: Any = None
    retries: int = 0
    reply_to: str | None = None
    replaced_task_nesting = 0
    root_id: str | None = None
    shadow: str | None = None
    taskset: str | None = None
    timelimit: Any = None
    time_limit: float | None = None
    soft_time_limit: float | None = None
    utc: Any = None
    stamped_headers: Any = None
    stamps: Any = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        fields = self.__dict__
        fields.update(*args, **kwargs)
        if fields.get("timelimit", _NO_LIMITS) != _NO_LIMITS:
            self._tell_limits()
        if self.headers is None:
            custom = fields.keys() - _OWN_HEADERS
            headers = {}
            for name in fields if custom else ():  # in their order; a loop, as this is on the way of every traced message
                if name in custom:
                    headers[name] = fields[name]
            self.headers = headers or None

    def update(self, *args: Any, **kwargs: Any) -> None:
        """Set attributes, as ``dict.update`` sets items."""
        attributes = self.__dict__
        before = attributes.get("timelimit", _UNSET)
        attributes.update(*args, **kwargs)
        if attributes.get("timelimit", _UNSET) is not before:
            self._tell_limits()

    def _tell_limits(self) -> None:
        limits = self.timelimit
        is_pair = isinstance(limits, list | tuple) and len(limits) >= 2
        self.time_limit, self.soft_time_limit = (limits[0], limits[1]) if is_pair else (None, None)

    def clear(self) -> None:
        """Forget all."""
        self.__dict__.clear()

    def get(self, key: str, default: Any = None) -> Any:
        """An attribute, or the default."""
        return getattr(self, key, default)

    def __repr__(self) -> str:
        return f"<Context: {vars(self)!r}>"

    def as_execution_options(self) -> dict[str, Any]:
        """Options that call the task again as it was called."""
        hard, soft = self.timelimit or (None, None)
        options = {
            "task_id": self.id,
            "root_id": self.root_id,
            "parent_id": self.parent_id,
            "group_id": self.group,
            "group_index": self.group_index,
            "shadow": self.shadow,
            "chord": self.chord,
            "chain": self.chain,
            "link": self.callbacks,
            "link_error": self.errbacks,
            "expires": self.expires,
            "soft_time_limit": soft,
            "time_limit": hard,
            "headers": {name: value for name, value in (self.headers or {}).items() if name not in X_DEATH_HEADERS},
            "retries": self.retries,
            "reply_to": self.reply_to,
            "replaced_task_nesting": self.replaced_task_nesting,
            "origin": self.origin,
        }
        if self.stamps is not None and self.stamped_headers is not None:
            options["stamped_headers"] = self.stamped_headers
            options.update((name, value) for name, value in self.stamps.items() if name in self.stamped_headers)
        return options

    @property
    def children(self) -> list[Any]:
        """Results of the calls that the task made."""
        if self._children is None:
            self._children = []
        return self._children


#: Headers that are Celery's own; the rest are the caller's.
_OWN_HEADERS = frozenset(vars(Context)) | {"lang", "task", "argsrepr", "kwargsrepr", "compression"}


@celery_named
class Task:
    """A task. ``@app.task`` makes a subclass of it from a function; or subclass it and define :meth:`run`."""

    MaxRetriesExceededError = MaxRetriesExceededError
    #: For subclasses that replace what Celery's own worker does with a message.
    Strategy: Any = "celery.worker.strategy:default"
    Request: Any = "celery.worker.request:Request"

    __trace__: Any = None
    __v2_compat__ = False
    __bound__ = False
    _app: Any = None
    _backend: Any = None
    _default_request: Context | None = None
    _exec_options: dict[str, Any] | None = None
    _dump_pydantic_arguments: Any = None

    name: str | None = None
    #: Calls are checked against the function's signature.
    typing: bool | None = None
    #: None: without end.
    max_retries: int | None = 3
    #: Seconds.
    default_retry_delay: float = 180
    #: ``"100/s"``, ``"10/m"``, ``"5/h"``, or None.
    rate_limit: str | None = None
    ignore_result: bool | None = None
    #: The request keeps the results of the calls that the task makes.
    trail = True
    send_events = True
    store_errors_even_if_ignored: bool | None = None
    serializer: str | None = None
    #: Seconds until the task's process is ended, or None.
    time_limit: float | None = None
    #: Seconds until SoftTimeLimitExceeded is raised in the task, or None.
    soft_time_limit: float | None = None
    track_started: bool | None = None
    #: The message is acked when the task is done, not when it starts.
    acks_late: bool | None = None
    acks_on_failure_or_timeout: bool | None = None
    acks_on_failure: bool | None = None
    acks_on_timeout: bool | None = None
    reject_on_worker_lost: bool | None = None
    retry_on_worker_lost: bool | None = None
    #: Errors that are expected: they are logged as information.
    throws: Any = ()
    expires: Any = None
    priority: int | None = None
    #: Characters of the result in logs and events.
    resultrepr_maxsize = 1024
    request_stack: Any = None
    abstract = True
    #: The task is a coroutine function; it runs on a loop.
    is_coroutine = False
    store_eager_result: bool | None = None

    #: Attributes that come from settings where the task does not say.
    from_config: ClassVar[tuple[tuple[str, str], ...]] = (
        ("serializer", "task_serializer"),
        ("rate_limit", "task_default_rate_limit"),
        ("priority", "task_default_priority"),
        ("time_limit", "task_time_limit"),
        ("soft_time_limit", "task_soft_time_limit"),
        ("track_started", "task_track_started"),
        ("acks_late", "task_acks_late"),
        ("acks_on_failure_or_timeout", "task_acks_on_failure_or_timeout"),
        ("acks_on_failure", "task_acks_on_failure"),
        ("acks_on_timeout", "task_acks_on_timeout"),
        ("reject_on_worker_lost", "task_reject_on_worker_lost"),
        ("retry_on_worker_lost", "task_retry_on_worker_lost"),
        ("ignore_result", "task_ignore_result"),
        ("store_eager_result", "task_store_eager_result"),
        ("store_errors_even_if_ignored", "task_store_errors_even_if_ignored"),
    )

    # Binding to an app. It happens at the first use, so that settings are read as late as can be.

    @classmethod
    def bind(cls, app: Any) -> Any:
        """Belong to this app: take what the task does not say from its settings."""
        was_bound, cls.__bound__ = cls.__bound__, True
        cls._app = app
        conf = app.conf
        cls._exec_options = None
        if not was_bound:
            cls._warn_about_routing()
        if cls.typing is None:
            cls.typing = app.strict_typing
        for attribute, setting in cls.from_config:
            if getattr(cls, attribute, None) is None:
                setattr(cls, attribute, conf[setting])
        both = cls.acks_on_failure_or_timeout
        for attribute in ("acks_on_failure", "acks_on_timeout"):
            if getattr(cls, attribute) is None:
                setattr(cls, attribute, True if both is None else both)
        if not was_bound:
            cls.is_coroutine = is_coroutine_function(cls.run)
            cls.annotate()
            cls.request_stack = LocalStack()
        cls.on_bound(app)
        return app

    @classmethod
    def _warn_about_routing(cls) -> None:
        for attribute in ("queue", "exchange", "exchange_type", "routing_key", "delivery_mode", "priority"):
            if attribute in cls.__dict__:
                deprecated.warn(
                    description=f"The {attribute!r} task attribute",
                    removal="6.0",
                    alternative="Use the task_routes setting instead.",
                )

    @classmethod
    def on_bound(cls, app: Any) -> None:
        """For subclasses: the class belongs to an app now."""

    @classmethod
    def _get_app(cls) -> Any:
        if cls._app is None:
            cls._app = current_app
        if not cls.__bound__:
            # Whoever sets Task.app on the class replaces the property, so that bind() was not called.
            cls.bind(cls._app)
        return cls._app

    app = class_property(_get_app, bind)

    @classmethod
    def annotate(cls) -> None:
        """Apply the setting ``task_annotations``."""
        for attributes in resolve_all_annotations(cls.app.annotations, cls):
            for name, value in attributes.items():
                if name.startswith("@"):
                    cls.add_around(name[1:], value)
                else:
                    setattr(cls, name, value)

    @classmethod
    def add_around(cls, attr: str, around: Callable[[Any], Any]) -> None:
        """Replace a method by what ``around`` makes of it."""
        original = getattr(cls, attr)
        original = getattr(original, "__wrapped__", None) or original
        method = around(original)
        method.__wrapped__ = original
        setattr(cls, attr, method)

    # Running.

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self.is_coroutine:
            return self._run_coroutine(args, kwargs)
        _task_stack.push(self)
        self.push_request(args=args, kwargs=kwargs)
        try:
            return self.run(*args, **kwargs)
        finally:
            self.pop_request()
            _task_stack.pop()

    async def _run_coroutine(self, args: Any, kwargs: Any) -> Any:
        _task_stack.push(self)
        self.push_request(args=args, kwargs=kwargs)
        try:
            return await self.run(*args, **kwargs)
        finally:
            self.pop_request()
            _task_stack.pop()

    __class_getitem__: Any = classmethod(types.GenericAlias)

    def __reduce__(self) -> Any:
        # By its name: the peer has the task itself. With the module, which it may have to import first.
        module = type(self).__module__
        return _unpickle_task_v2, (self.name, module if module and module in sys.modules else None), None

    @class_property
    def OperationalError(cls) -> Any:  # noqa: N802, N805 - Celery's public name; a property of the class
        """Raised when a call cannot be published: kombu's."""
        return kombu_exceptions.OperationalError

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """What the task does."""
        raise NotImplementedError("Tasks must define the run method.")

    def start_strategy(self, app: Any, consumer: Any, **kwargs: Any) -> Any:
        """What Celery's own worker does with the task's messages."""
        return instantiate(self.Strategy, self, app, consumer, **kwargs)

    # Calling.

    def delay(self, *args: Any, **kwargs: Any) -> AsyncResult:
        """Call the task with these arguments, in a worker."""
        return self.apply_async(args, kwargs)

    def apply_async(
        self,
        args: Any = None,
        kwargs: Any = None,
        task_id: str | None = None,
        producer: Any = None,
        link: Any = None,
        link_error: Any = None,
        shadow: str | None = None,
        **options: Any,
    ) -> AsyncResult:
        """Call the task in a worker.

        :param task_id: the call's id; a random one if not given.
        :param producer: publish through this one.
        :param link: signatures that are called with the result.
        :param link_error: signatures that are called when the task fails.
        :param shadow: a name for logs.
        :param options: ``countdown`` (seconds), ``eta`` (datetime), ``expires`` (seconds or datetime), ``queue``, ``exchange``,
            ``routing_key``, ``priority``, ``serializer``, ``compression``, ``headers``, ``retry``, ``retry_policy``,
            ``timeout`` (seconds for publishing), ``time_limit``, ``soft_time_limit``, ``ignore_result``, ``add_to_parent``,
            ``connection`` …; unknown ones become properties of the message.
        :raises TypeError: the function would refuse the arguments.
        :raises NotPublished: the broker cannot be reached; nothing was sent. An OperationalError, as the next one is.
        :raises PublishUnconfirmed: the broker does not answer; whether it has the message is unknown.
        :raises EncodeError: the arguments cannot be serialised.
        """
        if self.soft_time_limit and self.time_limit and self.soft_time_limit > self.time_limit:
            raise ValueError("soft_time_limit must be less than or equal to time_limit")
        if self.typing:
            check = getattr(self, "__header__", None)
            if check is not None:
                check(*(args or ()), **(kwargs or {}))
        if self.__v2_compat__:
            shadow = shadow or self.shadow_name(self(), args, kwargs, options)  # type: ignore[call-arg] # tasks of old base classes
        else:
            shadow = shadow or self.shadow_name(args, kwargs, options)
        options = {**self._get_exec_options(), **options}
        # Pickle sends models as they are.
        if self._dump_pydantic_arguments is not None and options.get("serializer") != "pickle":
            args, kwargs = self._dump_pydantic_arguments(args, kwargs)
        options.setdefault("ignore_result", self.ignore_result)
        app = self._get_app()
        if app.conf["task_always_eager"]:
            return self._apply_eagerly(app, args, kwargs, task_id, producer, link, link_error, options)
        return app.send_task(  # type: ignore[no-any-return] # an AsyncResult
            self.name,
            args,
            kwargs,
            task_id=task_id,
            producer=producer,
            link=link,
            link_error=link_error,
            result_cls=self.AsyncResult,
            shadow=shadow,
            task_type=self,
            **options,
        )

    def apply_async_many(
        self, args_list: Any = None, kwargs_list: Any = None, *, task_ids: Iterable[str] | None = None, **options: Any
    ) -> list[AsyncResult]:
        """Call the task many times, and publish all calls in one round trip.

        :param args_list: positional arguments of each call; None: there are none.
        :param kwargs_list: keyword arguments of each call; None: there are none. As many as ``args_list`` has.
        :param task_ids: ids of the calls; random ones if not given.
        :param options: of all calls, as of :meth:`apply_async`.
        :raises ValueError: the lists have different lengths.
        :raises NotPublished: nothing was sent. More than 10,000 calls, or 32 MiB, go in several parts: the error's ``sent`` has
            the ids of earlier ones.
        :raises PublishUnconfirmed: whether the calls arrived is unknown; those in ``sent`` did.
        """
        from compat_celery.app.bulk import apply_async_many  # noqa: PLC0415 - it imports this module

        if "task_id" in options:
            raise TypeError("every call has an id of its own: give task_ids")
        columns = {"args": args_list, "kwargs": kwargs_list, "task_id": task_ids}
        given = {name: values for name, values in columns.items() if values is not None}
        publishing = {name: options[name] for name in ("retry", "retry_policy", "timeout") if name in options}
        with self._get_app().bulk_publish(**publishing):
            calls = (dict(zip(given, call, strict=True)) for call in zip(*given.values(), strict=True))
            return apply_async_many(self, calls, options)

    def _apply_eagerly(
        self,
        app: Any,
        args: Any,
        kwargs: Any,
        task_id: str | None,
        producer: Any,
        link: Any,
        link_error: Any,
        options: dict[str, Any],
    ) -> EagerResult:
        """Run here, with the arguments as a worker would get them."""
        from kombu import serialization  # noqa: PLC0415 - publishing does without

        from compat_celery.result import denied_join_result  # noqa: PLC0415 - it imports the app

        serializer = options.get("serializer") or getattr(producer, "serializer", None) or app.conf.task_serializer
        content_type, encoding, data = serialization.dumps((args, kwargs), serializer)
        args, kwargs = serialization.loads(data, content_type, encoding, accept=[content_type])
        with denied_join_result():
            return self.apply(args, kwargs, task_id=task_id or uuid(), link=link, link_error=link_error, **options)

    async def adelay(self, *args: Any, **kwargs: Any) -> AsyncResult:
        """As :meth:`delay`, without holding up the loop while the message is sent."""
        return await self.aapply_async(args, kwargs)

    async def aapply_async(self, args: Any = None, kwargs: Any = None, **options: Any) -> AsyncResult:
        """As :meth:`apply_async`, without holding up the loop while the message is sent."""
        from anyio import to_thread  # noqa: PLC0415 - most publishers have no loop

        return await to_thread.run_sync(lambda: self.apply_async(args, kwargs, **options))

    async def aapply_async_many(self, args_list: Any = None, kwargs_list: Any = None, **options: Any) -> list[AsyncResult]:
        """As :meth:`apply_async_many`, without holding up the loop while the messages are made and sent."""
        from anyio import to_thread  # noqa: PLC0415 - most publishers have no loop

        return await to_thread.run_sync(lambda: self.apply_async_many(args_list, kwargs_list, **options))

    def shadow_name(self, args: Any, kwargs: Any, options: dict[str, Any]) -> str | None:
        """For subclasses: the name of a call in logs."""

    def signature_from_request(
        self, request: Any = None, args: Any = None, kwargs: Any = None, queue: Any = None, **extra_options: Any
    ) -> Signature:
        """A signature that calls the task again as it was called, but for what is given."""
        request = self.request if request is None else request
        options = {
            **request.as_execution_options(),
            "ignore_result": get_actual_ignore_result(self, request),
            **extra_options,
        }
        delivery = request.delivery_info or {}
        if delivery.get("priority") is not None:
            options["priority"] = delivery["priority"]
        if queue:
            options["queue"] = queue
        elif delivery.get("exchange") == "" and delivery.get("routing_key"):
            options["queue"] = delivery["routing_key"]  # it went straight to a queue
        else:
            options.update(delivery)
        return self.signature(
            request.args if args is None else args,
            request.kwargs if kwargs is None else kwargs,
            options,
            type=self,
            **extra_options,
        )

    subtask_from_request = signature_from_request

    def retry(
        self,
        args: Any = None,
        kwargs: Any = None,
        exc: BaseException | None = None,
        throw: bool = True,
        eta: Any = None,
        countdown: float | None = None,
        max_retries: int | None = None,
        **options: Any,
    ) -> Retry:
        """Run the task again later. Write ``raise self.retry(…)``: it never returns, unless ``throw`` is off.

        Within a worker the message is sent together with the ack of this one, or not at all.

        :param args: other arguments than this time.
        :param exc: raised when the task was retried often enough; else MaxRetriesExceededError is.
        :param countdown: seconds from now (default: ``default_retry_delay``).
        :param eta: when, a datetime.
        :param max_retries: for this attempt and, as in Celery, for later ones in this process; None: the task's own.
        :param options: of the call, see :meth:`apply_async`.
        :raises Retry: the message is on its way.
        :raises Reject: it cannot be sent.
        """
        request = self.request
        retries = request.retries + 1
        if max_retries is None:
            max_retries = self.max_retries
        else:
            self.override_max_retries = max_retries
        if request.called_directly:
            # Nobody would run it again: the caller gets the error itself.
            raise_with_context(exc or Retry("Task can be retried", None))
        if not eta and countdown is None:
            countdown = self.default_retry_delay
        args, kwargs = _arguments_for_retry(self.run, request, args, kwargs)
        again = self.signature_from_request(request, args, kwargs, countdown=countdown, eta=eta, retries=retries, **options)
        if max_retries is not None and retries > max_retries:
            if exc:
                raise_with_context(exc)
            raise self.MaxRetriesExceededError(
                f"Can't retry {self.name}[{request.id}] args:{again.args} kwargs:{again.kwargs}",
                task_args=again.args,
                task_kwargs=again.kwargs,
            )
        outcome = Retry(exc=exc, when=eta or countdown, is_eager=request.is_eager, sig=again)
        if not request.is_eager:
            _send_with_ack(again.apply_async)
        if throw:
            raise outcome
        return outcome

    def apply(
        self,
        args: Any = None,
        kwargs: Any = None,
        link: Any = None,
        link_error: Any = None,
        task_id: str | None = None,
        retries: int | None = None,
        throw: bool | None = None,
        logfile: Any = None,
        loglevel: Any = None,
        headers: Any = None,
        **options: Any,
    ) -> EagerResult:
        """Run the task here and now, as a worker would.

        :param throw: raise its error instead of giving it as the result (default: the setting ``task_eager_propagates``).
        """
        from billiard.einfo import ExceptionInfo, ExceptionWithTraceback  # noqa: PLC0415 - publishing does without

        from compat_celery.app import trace  # noqa: PLC0415 - it imports this module; agents replace its build_tracer
        from compat_celery.result import EagerResult  # noqa: PLC0415 - it imports the app

        app = self._get_app()
        task_id = task_id or uuid()
        task = app._tasks[self.name]  # the instance, of which this may be a class
        request = self._eager_request(task_id, retries or 0, link, link_error, headers, options)
        request.update(logfile=logfile, loglevel=loglevel or 0)
        throw = app.conf.task_eager_propagates if throw is None else throw
        tracer = trace.build_tracer(task.name, task, eager=True, propagate=throw, app=app)
        outcome = tracer(task_id, args or (), kwargs or {}, request)
        value, traceback = outcome.retval, None
        if isinstance(value, ExceptionInfo):
            value, traceback = value.exception, value.traceback
            if isinstance(value, ExceptionWithTraceback):
                value = value.exc
        elif isinstance(value, BaseException):
            traceback = "".join(format_exception(value))
        if isinstance(value, Retry) and value.sig is not None:
            return value.sig.apply(retries=(retries or 0) + 1)  # type: ignore[no-any-return] # a signature's apply
        state = states.SUCCESS if outcome.info is None else outcome.info.state
        return EagerResult(task_id, value, state, traceback=traceback, name=self.name)

    def _eager_request(
        self, task_id: str, retries: int, link: Any, link_error: Any, headers: Any, options: dict[str, Any]
    ) -> dict[str, Any]:
        parent = _task_stack.top
        family = parent.request if parent is not None else None
        limits = [self.time_limit, self.soft_time_limit]
        request = {
            "id": task_id,
            "task": self.name,
            "parent_id": family.id if family else None,
            "root_id": (family.root_id if family else None) or task_id,
            "retries": retries,
            "is_eager": True,
            "hostname": gethostname(),
            "callbacks": maybe_list(link),
            "errbacks": maybe_list(link_error),
            "headers": headers,
            "timelimit": None if limits == [None, None] else limits,
            "ignore_result": options.get("ignore_result", self.ignore_result),
            "delivery_info": {
                "is_eager": True,
                **{name: options.get(name) for name in ("exchange", "routing_key", "priority")},
            },
        }
        if "stamped_headers" in options:
            stamped = maybe_list(options["stamped_headers"])
            request["stamped_headers"] = stamped
            request["stamps"] = {header: maybe_list(options.get(header, [])) for header in stamped}
        return request

    # Signatures.

    def AsyncResult(self, task_id: str, **kwargs: Any) -> AsyncResult:  # noqa: N802 - Celery's public name
        """The result of the call with that id."""
        # None: the result finds the app's by itself, when it needs it.
        backend = self._backend if type(self).backend is Task.backend else self.backend
        return self._get_app().AsyncResult(task_id, backend=backend, task_name=self.name, **kwargs)  # type: ignore[no-any-return] # the app's class

    def signature(self, args: Any = None, *starargs: Any, **starkwargs: Any) -> Signature:
        """A call that is not made yet: arguments and options."""
        starkwargs.setdefault("app", self.app)
        return self._canvas().signature(self, args, *starargs, **starkwargs)  # type: ignore[no-any-return] # the canvas's function

    subtask = signature

    @classmethod
    def _canvas(cls) -> Any:
        from compat_celery import canvas  # noqa: PLC0415 - it imports the app

        return canvas

    def s(self, *args: Any, **kwargs: Any) -> Signature:
        """A signature with these arguments."""
        return self.signature(args, kwargs)

    def si(self, *args: Any, **kwargs: Any) -> Signature:
        """The same, and no results of others are added to the arguments."""
        return self.signature(args, kwargs, immutable=True)

    def chunks(self, it: Any, n: int) -> Any:
        """Calls for the items of ``it``, ``n`` of them in one task."""
        return self._canvas().chunks(self.s(), it, n, app=self.app)

    def map(self, it: Any) -> Any:
        """One task that calls this one with each item."""
        return self._canvas().xmap(self.s(), it, app=self.app)

    def starmap(self, it: Any) -> Any:
        """One task that calls this one with the arguments in each item."""
        return self._canvas().xstarmap(self.s(), it, app=self.app)

    # Within an execution.

    def send_event(self, type_: str, retry: bool = True, retry_policy: Any = None, **fields: Any) -> Any:
        """Send a monitoring event about this execution."""
        request = self.request
        policy = self.app.conf.task_publish_retry_policy if retry_policy is None else retry_policy
        with self.app.events.default_dispatcher(hostname=request.hostname) as dispatcher:
            return dispatcher.send(type_, uuid=request.id, retry=retry, retry_policy=policy, **fields)

    def replace(self, sig: Any) -> Any:
        """Let a signature take this task's place: it gets its id, its callbacks and its place in chain, group and chord.

        Write ``return self.replace(…)``: it raises Ignore in a worker.

        :raises ImproperlyConfigured: the signature is part of a chord, or an empty chain.
        """
        canvas, request = self._canvas(), self.request
        if "chord" in sig.options:
            raise ImproperlyConfigured("A signature replacing a task must not be part of a chord")
        if isinstance(sig, canvas._chain) and not getattr(sig, "tasks", True):
            raise ImproperlyConfigured("Cannot replace with an empty chain")
        sig = self._with_one_end(sig, canvas)
        for callback in maybe_list(request.callbacks) or []:
            sig.link(callback)
        for errback in maybe_list(request.errbacks) or []:
            sig.link_error(errback)
        if isinstance(sig, canvas._chain) and "link" in sig.options:
            # The chain's callbacks are those of its last task, also when more tasks come after it below.
            sig.tasks[-1].options.setdefault("link", []).extend(maybe_list(sig.options.pop("link")))
        sig.freeze(request.id)
        nesting = request.get("replaced_task_nesting", 0) + 1
        sig.set(
            chord=request.chord,
            group_id=request.group,
            group_index=request.group_index,
            root_id=request.root_id,
            replaced_task_nesting=nesting,
        )
        if isinstance(sig, canvas._chain):
            for task in maybe_list(sig.tasks) or []:
                task.set(replaced_task_nesting=nesting)
        # What came after this task in a chain comes after its replacement, with the ids that it had.
        following = request.chain or []
        if hasattr(following, "wire"):
            # On the shelf, and stays there: a chain in which each step replaces itself would lay down all of it each time.
            sig.set(chain=following.wire())
            following = []
        for later in reversed(following):
            step = canvas.signature(later, app=self.app)
            step.set(replaced_task_nesting=nesting)
            sig |= step
        return self.on_replace(sig)

    def _with_one_end(self, sig: Any, canvas: Any) -> Any:
        """A group (also at the end of a chain) as a chord whose body collects its results: callbacks need one task to hang on."""
        collect = self.app.tasks["celery.accumulate"]
        if isinstance(sig, canvas.group):
            sig |= collect.s(index=0)
        if isinstance(sig, canvas._chain) and isinstance(sig.tasks[-1], canvas.group):
            sig.tasks = list(sig.tasks)
            sig.tasks[-1] |= collect.s(index=0)
        return sig

    def on_replace(self, sig: Any) -> Any:
        """For subclasses: the task is replaced. Must end with ``return super().on_replace(sig)``."""
        if self.request.is_eager:
            return sig.apply().get()
        from compat_celery.app.effects import deferred  # noqa: PLC0415 - it imports the publisher, which clients may do without

        with deferred():
            sig.delay()
        raise Ignore("Replaced by new task")

    def add_to_chord(self, sig: Any, lazy: bool = False) -> Any:
        """Add a signature to the header of the chord that this task belongs to.

        :param lazy: do not call it.
        :raises ValueError: the task belongs to none.
        """
        request = self.request
        if not request.chord:
            raise ValueError("Current task is not member of any chord")
        sig.set(group_id=request.group, group_index=request.group_index, chord=request.chord, root_id=request.root_id)
        self.backend.add_to_chord(request.group, sig.freeze())
        return sig if lazy else sig.delay()

    def update_state(self, task_id: str | None = None, state: str | None = None, meta: Any = None, **kwargs: Any) -> None:
        """Store a state and what belongs to it (``meta``) as the result so far."""
        request = self.request
        self.backend.store_result(request.id if task_id is None else task_id, meta, state, request=request, **kwargs)

    def add_trail(self, result: Any) -> Any:
        """Keep the result of a call that this execution made."""
        if self.trail:
            self.request.children.append(result)
        return result

    # Hooks for subclasses.

    def before_start(self, task_id: str, args: Any, kwargs: Any) -> None:
        """Before the task runs."""

    def on_success(self, retval: Any, task_id: str, args: Any, kwargs: Any) -> None:
        """After it succeeded."""

    def on_retry(self, exc: Any, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        """It will be retried."""

    def on_failure(self, exc: Any, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        """After it failed."""

    def after_return(self, status: str, retval: Any, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        """After it succeeded or failed."""

    # The request.

    def push_request(self, *args: Any, **kwargs: Any) -> None:
        """Make a new request the current one: the present one with these attributes, or the Context that is given."""
        if len(args) == 1 and not kwargs and isinstance(args[0], Context):
            self.request_stack.push(args[0])
        else:
            self.request_stack.push(Context(*args, **{**self.request.__dict__, **kwargs}))

    def pop_request(self) -> None:
        """The opposite of :meth:`push_request`."""
        self.request_stack.pop()

    def _get_request(self) -> Context:
        request: Context | None = self.request_stack.top
        if request is not None:
            return request
        # Not running: some ask all the same.
        if self._default_request is None:
            self._default_request = Context()
        return self._default_request

    request = property(_get_request, doc="What the task knows about its execution.")

    def _get_exec_options(self) -> dict[str, Any]:
        if self._exec_options is None:
            self._exec_options = extract_exec_options(self)
        return self._exec_options

    @property
    def backend(self) -> Any:
        """The store of the task's results."""
        return self.app.backend if self._backend is None else self._backend

    @backend.setter
    def backend(self, value: Any) -> None:
        self._backend = value

    @property
    def __name__(self) -> str:
        cls: type = type(self)
        return cls.__name__

    def __repr__(self) -> str:
        return _reprtask(self, "<@task: {0.name} of {app}{flags}>")


abstract.CallableTask.register(Task)
BaseTask = Task


def _reprtask(task: Any, fmt: str | None = None, flags: list[str] | None = None) -> str:
    marks = [*(flags or []), *(["v2 compatible"] if task.__v2_compat__ else [])]
    form: str = fmt or ("<class {0.__name__} of {app}{flags}>" if task._app else "<unbound {0.__name__}{flags}>")
    shown = f" ({', '.join(marks)})" if marks else ""
    return form.format(task, flags=shown, app=appstr(task._app) if task._app else None)


def _send_with_ack(publish: Callable[[], Any]) -> None:
    """Publish a retry: within a worker's job together with the ack of this message, else at once.

    :raises Reject: it cannot be published; the message is not to be requeued, or it would be retried twice.
    """
    from compat_celery.app.effects import deferred  # noqa: PLC0415 - it imports the publisher, which clients may do without

    try:
        with deferred():
            publish()
    except Exception as error:
        raise Reject(error, requeue=False) from error


def _arguments_for_retry(run: Callable[..., Any], request: Any, args: Any, kwargs: Any) -> tuple[Any, Any]:
    """The arguments of a retry that gives only positional or only keyword ones: the others stay, but for parameters given now."""
    gives_args = args is not None and kwargs is None and request.kwargs
    gives_kwargs = kwargs is not None and args is None and request.args
    if not (gives_args or gives_kwargs):
        return args, kwargs
    try:
        signature = inspect.signature(run)
    except (TypeError, ValueError):
        return args, kwargs  # a function written in C; the call itself will complain
    if gives_args:
        return args, _without_positional(signature, args, request.kwargs)
    try:
        bound = signature.bind_partial(*request.args)
    except TypeError:
        return args, kwargs
    return _with_keywords(signature, bound, dict(kwargs))


def _without_positional(signature: inspect.Signature, args: Any, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    positional = [parameter for parameter in signature.parameters.values() if parameter.kind in _POSITIONAL][: len(args)]
    given = {parameter.name for parameter in positional if parameter.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD}
    return {name: value for name, value in kwargs.items() if name not in given}


def _with_keywords(signature: inspect.Signature, bound: inspect.BoundArguments, kwargs: dict[str, Any]) -> tuple[Any, Any]:
    for name in list(kwargs):
        parameter = signature.parameters.get(name)
        if parameter is not None and name in bound.arguments and parameter.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD:
            bound.arguments[name] = kwargs.pop(name)
    return bound.args, {**bound.kwargs, **kwargs}


_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
