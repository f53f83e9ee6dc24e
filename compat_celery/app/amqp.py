"""Queues, routes and task messages of an app. Comes from: ``send_task``. Goes to: protocol, publisher."""

from __future__ import annotations

import logging
import numbers
import os
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from datetime import datetime, tzinfo
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakValueDictionary

from compat_celery import signals
from compat_celery._later import kombu, kombu_common
from compat_celery._names import celery_named
from compat_celery.app import agents, publisher
from compat_celery.app import routes as _routes
from compat_celery.local import Proxy, class_property
from compat_celery.protocol import TaskMessage, task_message_v1, task_message_v2
from compat_celery.utils.functional import maybe_list
from compat_celery.utils.nodenames import anon_nodename
from compat_celery.utils.saferepr import saferepr
from compat_celery.utils.text import indent as textindent
from compat_celery.utils.time import add_seconds_to_datetime, maybe_make_aware

if TYPE_CHECKING:
    from compat_celery.app.base import Celery

__all__ = ("AMQP", "Queues", "task_message")

logger = logging.getLogger("celery.app.amqp")

#: The name of this process as the origin of its messages.
_origin = cache(anon_nodename)

#: Celery's name for "a task's callbacks are being published". Never set: a worker of ours sends them together with the ack.
_callback_publish_retry: ContextVar[bool] = ContextVar("_callback_publish_retry", default=False)
os.register_at_fork(after_in_child=_origin.cache_clear)

#: The earliest time that all peers can represent, in seconds.
INT_MIN = -2147483648

task_message = TaskMessage


def utf8dict(d: Mapping[Any, Any], encoding: str = "utf-8") -> dict[str, Any]:
    """The mapping with its keys as text."""
    return {key.decode(encoding) if isinstance(key, bytes) else key: value for key, value in d.items()}


@celery_named
class Queues(dict[str, Any]):
    """The queues of an app by their names, and those among them that a worker consumes from.

    :param create_missing: a queue that is asked for and is not there is added.
    :param create_missing_queue_type: ``classic`` or ``quorum``.
    :param create_missing_queue_exchange_type: the type of the exchange that a missing queue gets.
    :param autoexchange: makes the exchange of a missing queue from its name.
    :param max_priority: of queues that say none.
    """

    _consume_from: dict[str, Any] | None = None

    def __init__(
        self,
        queues: Any = None,
        default_exchange: Any = None,
        create_missing: bool = True,
        create_missing_queue_type: str | None = None,
        create_missing_queue_exchange_type: str | None = None,
        autoexchange: Any = None,
        max_priority: int | None = None,
        default_routing_key: str | None = None,
    ) -> None:
        super().__init__()
        self.aliases: WeakValueDictionary[str, Any] = WeakValueDictionary()
        self.default_exchange = default_exchange
        self.default_routing_key = default_routing_key
        self.create_missing = create_missing
        self.create_missing_queue_type = create_missing_queue_type
        self.create_missing_queue_exchange_type = create_missing_queue_exchange_type
        self.autoexchange = kombu.Exchange if autoexchange is None else autoexchange
        self.max_priority = max_priority
        named = queues if isinstance(queues, Mapping) else {queue.name: queue for queue in queues or ()}
        for name, queue in named.items():
            if isinstance(queue, kombu.Queue):
                self.add(queue)
            else:
                self.add_compat(name, **queue)
        self._default_consume_from = dict(self)

    def __getitem__(self, name: str) -> Any:
        if self.aliases and name in self.aliases:
            return self.aliases[name]
        return super().__getitem__(name)

    def __setitem__(self, name: str, queue: Any) -> None:
        if self.default_exchange and not queue.exchange:
            queue.exchange = self.default_exchange
        if not queue.routing_key:
            queue.routing_key = self.default_routing_key
        if self.max_priority is not None:
            queue.queue_arguments = {"x-max-priority": self.max_priority, **(queue.queue_arguments or {})}
        super().__setitem__(name, queue)
        if queue.alias:
            self.aliases[queue.alias] = queue

    def __missing__(self, name: str) -> Any:
        if not self.create_missing:
            raise KeyError(name)
        return self.add(self.new_missing(name))

    def add(self, queue: Any, **kwargs: Any) -> Any:
        """Add a queue, or one of that name with these options."""
        if not isinstance(queue, kombu.Queue):
            return self.add_compat(queue, **kwargs)
        return self._add(queue)

    def add_compat(self, name: str, **options: Any) -> Any:
        """Add a queue from a mapping, as in Celery 3."""
        options.setdefault("routing_key", options.get("binding_key"))
        if options["routing_key"] is None:
            options["routing_key"] = name
        return self._add(kombu.Queue.from_dict(name, **options))

    def _add(self, queue: Any) -> Any:
        if self.default_exchange and (queue.exchange is None or queue.exchange.name == ""):
            queue.exchange = self.default_exchange
        self[queue.name] = queue
        return queue

    def format(self, indent: int = 0, indent_first: bool = True) -> str:
        """The consumed queues for the worker's banner."""
        if not self.consume_from:
            return ""
        lines = [
            f".> {name:<16} exchange={queue.exchange.name}({queue.exchange.type}) key={queue.routing_key}"
            for name, queue in sorted(self.consume_from.items())
        ]
        if indent_first:
            return textindent("\n".join(lines), indent)
        return lines[0] + ("\n" + textindent("\n".join(lines[1:]), indent) if lines[1:] else "")

    def select_add(self, queue: Any, **kwargs: Any) -> Any:
        """Add a queue, and consume from it."""
        added = self.add(queue, **kwargs)
        consumed = self._default_consume_from if self._consume_from is None else self._consume_from
        consumed[added.name] = added
        return added

    def select(self, include: Any) -> None:
        """Consume from these queues alone (names)."""
        if include:
            self._consume_from = {queue.name: queue for queue in (self[name] for name in maybe_list(include))}

    def deselect(self, exclude: Any) -> None:
        """Do not consume from these queues (names)."""
        for name in maybe_list(exclude) or ():
            alias = self.aliases.get(name)
            self.consume_from.pop(name if alias is None else alias.name, None)

    def new_missing(self, name: str) -> Any:
        """A queue for a name that is not there.

        :raises ValueError: the setting ``task_create_missing_queue_type`` is neither ``classic`` nor ``quorum``.
        """
        kind = self.create_missing_queue_type or "classic"
        if kind not in {"classic", "quorum"}:
            raise ValueError(f"Invalid queue type '{kind}'. Valid types are 'classic' and 'quorum'.")
        if self.create_missing_queue_exchange_type:
            exchange = kombu.Exchange(name, self.create_missing_queue_exchange_type)
        else:
            exchange = self.autoexchange(name)
        return kombu.Queue(name, exchange, name, queue_arguments={"x-queue-type": "quorum"} if kind == "quorum" else None)

    @property
    def consume_from(self) -> dict[str, Any]:
        """The queues that a worker consumes from."""
        return self._default_consume_from if self._consume_from is None else self._consume_from


#: AMQP has a method of the class's name.
_QueuesT = Queues


class _PublishDefaults(NamedTuple):
    """Settings that every publish needs."""

    retry: bool
    retry_policy: dict[str, Any]
    delivery_mode: Any
    serializer: str
    compression: str | None


@celery_named
class AMQP:
    """``app.amqp``: how the app's messages are made and where they go."""

    queues_cls = Queues

    #: Makes the exchange of queues that are created when they are asked for; ``lambda name: None`` sends to the queue directly.
    autoexchange: Any = None
    #: Characters of the arguments' text in headers and logs.
    argsrepr_maxsize = 1024
    kwargsrepr_maxsize = 1024

    _rtable: Any = None
    _producer_pool: Any = None

    #: Kombu's classes.
    Connection = class_property(lambda _: kombu.Connection)
    Consumer = class_property(lambda _: kombu.Consumer)
    Producer = class_property(lambda _: kombu.Producer)
    BrokerConnection = Connection

    def __init__(self, app: Celery) -> None:
        self.app = app
        self.task_protocols: dict[int, Callable[..., TaskMessage]] = {1: self.as_task_v1, 2: self.as_task_v2}
        app._conf.bind_to(self._handle_conf_update)

    @cached_property
    def create_task_message(self) -> Callable[..., TaskMessage]:
        """Makes messages in the protocol that the setting ``task_protocol`` names."""
        return self.task_protocols[self.app.conf.task_protocol]

    @cached_property
    def send_task_message(self) -> Callable[..., Any]:
        """Publishes a message. See :meth:`_send_task_message`."""
        return self._send_task_message

    # Queues and routes.

    def Queues(  # noqa: N802 - Celery's public name
        self,
        queues: Any,
        create_missing: bool | None = None,
        create_missing_queue_type: str | None = None,
        create_missing_queue_exchange_type: str | None = None,
        autoexchange: Any = None,
        max_priority: int | None = None,
    ) -> _QueuesT:
        """The queues in the settings; the default one when there are none."""
        conf = self.app.conf
        if not queues and conf.task_default_queue:
            arguments = {"x-queue-type": "quorum"} if conf.task_default_queue_type == "quorum" else None
            queues = (
                kombu.Queue(
                    conf.task_default_queue,
                    exchange=self.default_exchange,
                    routing_key=conf.task_default_routing_key,
                    queue_arguments=arguments,
                ),
            )
        return self.queues_cls(
            queues,
            default_exchange=self.default_exchange,
            create_missing=_given(create_missing, conf.task_create_missing_queues),
            create_missing_queue_type=_given(create_missing_queue_type, conf.task_create_missing_queue_type),
            create_missing_queue_exchange_type=_given(
                create_missing_queue_exchange_type, conf.task_create_missing_queue_exchange_type
            ),
            autoexchange=_given(autoexchange, self.autoexchange),
            max_priority=_given(max_priority, conf.task_queue_max_priority),
            default_routing_key=conf.task_default_routing_key,
        )

    def Router(self, queues: Any = None, create_missing: bool | None = None) -> _routes.Router:  # noqa: N802 - Celery's public name
        """The router of the app's calls."""
        missing = self.app.either("task_create_missing_queues", create_missing)
        if queues is None and self.plain_default_queue is not None:
            return _routes.Router(self.routes, None, missing, app=self.app, queues_when_needed=lambda: self.queues)
        return _routes.Router(self.routes, queues or self.queues, missing, app=self.app)

    def flush_routes(self) -> None:
        """Read the setting ``task_routes`` anew."""
        self._rtable = _routes.prepare(self.app.conf.task_routes)

    @property
    def routes(self) -> Any:
        """The routers."""
        if self._rtable is None:
            self.flush_routes()
        return self._rtable

    @cached_property
    def queues(self) -> _QueuesT:
        """The app's queues."""
        return self.Queues(self.app.conf.task_queues)

    @cached_property
    def default_queue(self) -> Any:
        """The queue of calls that no route says another for."""
        return self.queues[self.app.conf.task_default_queue]

    @cached_property
    def plain_default_queue(self) -> Any:
        """What stands for the default queue where the settings say nothing of queues: it is made when somebody looks at it, and
        publishing to Redis does not. None where it has to be made."""
        conf = self.app.conf
        is_plain = (
            "queues" not in vars(self)
            and not conf.task_queues
            and self.queues_cls is _QueuesT
            and conf.task_default_exchange_type == "direct"
            and type(self).Queues is AMQP.Queues
        )
        return Proxy(lambda: self.default_queue) if is_plain else None

    @cached_property
    def router(self) -> _routes.Router:
        """The router of the app's calls."""
        return self.Router()

    @cached_property
    def default_exchange(self) -> Any:
        """The exchange of queues that name none."""
        return kombu.Exchange(self.app.conf.task_default_exchange, self.app.conf.task_default_exchange_type)

    @cached_property
    def utc(self) -> bool:
        """Whether times are in UTC."""
        return bool(self.app.conf.enable_utc)

    def _handle_conf_update(self, *args: Any, **kwargs: Any) -> None:
        changed = {*kwargs, *(args[0] if args else ())}
        if changed & set(self.app._conf._to_keys("task_routes")):
            self.flush_routes()
            self.router = self.Router()

    # Producers and consumers.

    @property
    def producer_pool(self) -> Any:
        """Gives producers."""
        if self._producer_pool is None:
            self._producer_pool = publisher.ProducerPool(self.app)
        return self._producer_pool

    publisher_pool = producer_pool

    def TaskConsumer(self, channel: Any, queues: Any = None, accept: Any = None, **kw: Any) -> Any:  # noqa: N802 - Celery's public name
        """A Kombu consumer of the app's queues."""
        return self.Consumer(
            channel,
            accept=_given(accept, self.app.conf.accept_content),
            queues=queues or list(self.queues.consume_from.values()),
            **kw,
        )

    # Messages.

    def as_task_v2(
        self,
        task_id: str,
        name: str,
        args: Any = None,
        kwargs: Any = None,
        countdown: float | None = None,
        eta: Any = None,
        group_id: str | None = None,
        group_index: int | None = None,
        expires: Any = None,
        retries: int = 0,
        chord: Any = None,
        callbacks: Any = None,
        errbacks: Any = None,
        reply_to: str | None = None,
        time_limit: float | None = None,
        soft_time_limit: float | None = None,
        create_sent_event: bool = False,
        root_id: str | None = None,
        parent_id: str | None = None,
        shadow: str | None = None,
        chain: Any = None,
        now: datetime | None = None,
        timezone: tzinfo | None = None,
        origin: str | None = None,
        ignore_result: bool | None = False,
        argsrepr: str | None = None,
        kwargsrepr: str | None = None,
        stamped_headers: Any = None,
        replaced_task_nesting: int = 0,
        **options: Any,
    ) -> TaskMessage:
        """A call as a message of protocol 2.

        :param countdown: seconds from now.
        :param eta: a datetime, or ISO 8601.
        :param expires: seconds from now, a datetime, or ISO 8601.
        :raises TypeError: the arguments are no list and mapping.
        :raises ValueError: a time is out of range.
        """
        args, kwargs = checked_arguments(args, kwargs)
        argstext, kwargstext = self.texts_of(args, kwargs) if argsrepr is None or kwargsrepr is None else ("", "")
        eta = self._moment(countdown or None, eta, "countdown", now, timezone)
        if chain or chord:
            chain, chord = self.app.shelf.carried(chain, chord, eta)
        return task_message_v2(
            task_id,
            name,
            args,
            kwargs,
            eta=eta,
            expires=self._moment(expires, None, "expires", now, timezone),
            group_id=group_id,
            group_index=group_index,
            retries=retries,
            chord=chord,
            callbacks=callbacks,
            errbacks=errbacks,
            chain=chain,
            reply_to=reply_to,
            time_limit=time_limit,
            soft_time_limit=soft_time_limit,
            root_id=root_id,
            parent_id=parent_id,
            shadow=shadow,
            origin=origin or _origin(),
            ignore_result=ignore_result,
            argsrepr=argstext if argsrepr is None else argsrepr,
            kwargsrepr=kwargstext if kwargsrepr is None else kwargsrepr,
            stamped_headers=stamped_headers,
            stamps={header: options[header] for header in stamped_headers or ()},
            replaced_task_nesting=replaced_task_nesting,
            sent_event=create_sent_event,
        )

    def as_task_v1(
        self,
        task_id: str,
        name: str,
        args: Any = None,
        kwargs: Any = None,
        countdown: float | None = None,
        eta: Any = None,
        group_id: str | None = None,
        group_index: int | None = None,
        expires: Any = None,
        retries: int = 0,
        chord: Any = None,
        callbacks: Any = None,
        errbacks: Any = None,
        reply_to: str | None = None,
        time_limit: float | None = None,
        soft_time_limit: float | None = None,
        create_sent_event: bool = False,
        root_id: str | None = None,  # noqa: ARG002 - protocol 1 has no place for it
        parent_id: str | None = None,  # noqa: ARG002 - as above
        shadow: str | None = None,  # noqa: ARG002 - as above
        now: datetime | None = None,
        timezone: tzinfo | None = None,
        **compat_kwargs: Any,  # noqa: ARG002 - as above
    ) -> TaskMessage:
        """A call as a message of protocol 1. See :meth:`as_task_v2`."""
        args, kwargs = checked_arguments(args, kwargs)
        return task_message_v1(
            task_id,
            name,
            args,
            kwargs,
            eta=self._moment(countdown or None, eta, "countdown", now, timezone),
            expires=self._moment(expires, None, "expires", now, timezone),
            group_id=group_id,
            group_index=group_index,
            retries=retries,
            chord=chord,
            callbacks=callbacks,
            errbacks=errbacks,
            reply_to=reply_to,
            time_limit=time_limit,
            soft_time_limit=soft_time_limit,
            utc=self.utc,
            sent_event=create_sent_event,
        )

    def texts_of(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[str, str]:
        """What the headers say about a call's arguments."""
        levels = self.app.conf["task_repr_maxlevels"]
        return saferepr(args, self.argsrepr_maxsize, levels), saferepr(kwargs, self.kwargsrepr_maxsize, levels)

    def _moment(self, given: Any, other: Any, what: str, now: datetime | None, timezone: tzinfo | None) -> str | None:
        """ISO 8601 for what is given (seconds from now, a datetime or text), else for the other; None for nothing."""
        if given is None:
            return None if other is None else _iso(other)
        return _iso(self._from_now(given, what, now, timezone) if isinstance(given, numbers.Real) else given)

    def _from_now(self, seconds: Any, what: str, now: datetime | None, timezone: tzinfo | None) -> datetime:
        moment = add_seconds_to_datetime(now or self.app.now(), self._verify_seconds(seconds, what))
        return maybe_make_aware(moment, tz=timezone or self.app.timezone)

    def _verify_seconds(self, s: Any, what: str) -> Any:
        if s < INT_MIN:
            raise ValueError(f"{what} is out of range: {s!r}")
        return s

    @cached_property
    def _publish_defaults(self) -> _PublishDefaults:
        """Settings, read at the first publish as Celery does: ten look-ups cost more than the encoding of a message."""
        conf = self.app.conf
        return _PublishDefaults(
            conf.task_publish_retry,
            dict(conf.task_publish_retry_policy),
            conf.task_default_delivery_mode,
            conf.task_serializer,
            conf.task_compression,
        )

    def _retry_publish(self, publish: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Publish a callback. The producer retries by the policy in the settings, in this process and in a worker's."""
        return publish(*args, **kwargs)

    def _send_task_message(
        self,
        producer: Any,
        name: str,
        message: TaskMessage,
        exchange: Any = None,
        routing_key: str | None = None,
        queue: Any = None,
        event_dispatcher: Any = None,
        retry: bool | None = None,
        retry_policy: Mapping[str, Any] | None = None,
        serializer: str | None = None,
        delivery_mode: Any = None,
        compression: str | None = None,
        declare: Any = None,
        headers: Mapping[str, Any] | None = None,
        exchange_type: str | None = None,
        timeout: float | None = None,
        confirm_timeout: float | None = None,
        **kwargs: Any,
    ) -> Any:
        """Publish a task's message; receivers of ``before_task_publish`` may change it before.

        :param headers: go flat among the message's own, and override them.
        :param kwargs: what is left of the call's options becomes properties.
        """
        defaults = self._publish_defaults
        message_headers, properties, body, sent_event = message
        if headers:
            message_headers.update(headers)
        properties.update(kwargs)
        if queue is None and exchange is None:
            queue = self.default_queue
        if type(queue) is not Proxy and isinstance(queue, str):
            queue = self.queues[queue]
        if type(queue) is Proxy and exchange is None and routing_key is None and exchange_type is None:
            # What _address() says of the default queue, without making it.
            exchange, routing_key, declare = "", self.app.conf["task_default_queue"], [queue] if declare is None else declare
            mode = None
        else:
            exchange, routing_key = self._address(queue, exchange, routing_key, exchange_type)
            mode = getattr(getattr(queue, "exchange", None), "delivery_mode", None)
        if declare is None and queue is not None and not isinstance(queue, kombu_common.Broadcast):
            declare = [queue]
        retry = defaults.retry if retry is None else retry
        policy = {**defaults.retry_policy, **retry_policy} if retry_policy else defaults.retry_policy
        if signals.before_task_publish.receivers:
            policy = dict(policy)
            signals.before_task_publish.send(
                sender=name,
                body=body,
                exchange=exchange,
                routing_key=routing_key,
                declare=declare,
                headers=message_headers,
                properties=properties,
                retry_policy=policy,
            )
        answer = agents.publish_of(producer)(
            body,
            exchange=exchange,
            routing_key=routing_key,
            serializer=serializer or defaults.serializer,
            compression=compression or defaults.compression,
            retry=retry,
            retry_policy=policy,
            delivery_mode=delivery_mode or mode or defaults.delivery_mode,
            declare=declare,
            headers=message_headers,
            timeout=timeout,
            confirm_timeout=confirm_timeout,
            **properties,
        )
        self._announce(name, message, exchange, routing_key)
        if sent_event:
            self._send_sent_event(event_dispatcher, producer, sent_event, queue, exchange, routing_key, retry, policy)
        return answer

    def _address(self, queue: Any, exchange: Any, routing_key: str | None, exchange_type: str | None) -> tuple[Any, str | None]:
        """Exchange and routing key. A direct exchange is passed by: the message goes straight to the queue."""
        if exchange_type is None:
            exchange_type = getattr(getattr(queue, "exchange", None), "type", "direct")
        if (not exchange or not routing_key) and exchange_type == "direct":
            return "", getattr(queue, "name", None)
        if exchange is None:
            exchange = queue.exchange.name or self.default_exchange
            routing_key = routing_key or queue.routing_key or self.app.conf.task_default_routing_key
        return exchange, routing_key

    def _announce(self, name: str, message: TaskMessage, exchange: Any, routing_key: str | None) -> None:
        if not (signals.after_task_publish.receivers or signals.task_sent.receivers):
            return
        headers, body = message.headers, message.body

        def announce() -> None:
            signals.after_task_publish.send(sender=name, body=body, headers=headers, exchange=exchange, routing_key=routing_key)
            if isinstance(body, tuple):
                about = {
                    "id": headers["id"],
                    "args": body[0],
                    "kwargs": body[1],
                    "eta": headers["eta"],
                    "taskset": headers["group"],
                }
            else:
                about = body
            signals.task_sent.send(
                sender=name,
                task_id=about["id"],
                task=name,
                args=about["args"],
                kwargs=about["kwargs"],
                eta=about["eta"],
                taskset=about["taskset"],
            )

        publisher.on_sent(announce)

    @cached_property
    def _event_dispatcher(self) -> Any:
        return self.app.events.Dispatcher(enabled=False)

    def _send_sent_event(
        self,
        dispatcher: Any,
        producer: Any,
        event: dict[str, Any],
        queue: Any,
        exchange: Any,
        routing_key: str | None,
        retry: bool | None,
        policy: Mapping[str, Any],
    ) -> None:
        event.update(
            queue=getattr(queue, "name", queue),
            exchange=getattr(exchange, "name", exchange),
            routing_key=routing_key,
        )
        (dispatcher or self._event_dispatcher).publish("task-sent", event, producer, retry=retry, retry_policy=policy)


def _given(value: Any, default: Any) -> Any:
    return default if value is None else value


#: What arguments are in nearly all calls.
_PLAIN = frozenset({list, tuple})


def checked_arguments(args: Any, kwargs: Any) -> tuple[Sequence[Any], Mapping[str, Any]]:
    """The arguments of a call, also where there are none.

    :raises TypeError: they are no list and mapping.
    """
    args, kwargs = args or (), kwargs or {}
    if type(args) in _PLAIN and type(kwargs) is dict:
        return args, kwargs  # nearly all; asking whether something is a Mapping costs more
    if not isinstance(args, list | tuple):
        raise TypeError("task args must be a list or tuple")
    if not isinstance(kwargs, Mapping):
        raise TypeError("task keyword arguments must be a mapping")
    return args, kwargs


def _iso(moment: Any) -> str | None:
    """ISO 8601 for a datetime; text is given back (a retried task's eta is text already); None for nothing."""
    if isinstance(moment, str):
        return moment
    return moment.isoformat() if moment else None
