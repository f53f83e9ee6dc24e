"""What a worker received: the object that ``task_received`` hands to its receivers, and that inspect tells about.

Celery's worker runs tasks through this class; ours does not, it describes them by it. It is made when somebody wants to see it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from compat_celery import protocol
from compat_celery.utils.functional import noop
from compat_celery.utils.nodenames import gethostname
from compat_celery.utils.time import maybe_iso8601
from jumpstarter.jobs import Envelope, Job

__all__ = ("Request", "request_of")


class Message:
    """A delivered message by kombu's attribute names."""

    def __init__(self, envelope: Envelope, headers: Mapping[str, Any], payload: tuple[Any, ...], *, redelivered: bool) -> None:
        self.headers = dict(headers)
        self.body = envelope.body
        self.content_type = envelope.content_type
        self.content_encoding = envelope.content_encoding
        self.properties = dict(envelope.properties)
        self.payload = payload
        self.delivery_info = {
            "exchange": envelope.exchange,
            "routing_key": envelope.routing_key or envelope.queue,
            "priority": self.properties.get("priority"),
            "redelivered": redelivered,
        }


class Request:
    """A task that a worker received.

    :param message: kombu's message, or what has its attributes: protocol 2's headers, and ``payload`` as (args, kwargs, embed).
    :param headers: instead of the message's own.
    :param body: instead of the message's payload, when ``decoded``.
    """

    acknowledged = False
    time_start: float | None = None
    worker_pid: int | None = None

    def __init__(
        self,
        message: Any,
        on_ack: Callable[..., Any] = noop,
        hostname: str | None = None,
        eventer: Any = None,
        app: Any = None,
        connection_errors: Any = None,
        request_dict: Mapping[str, Any] | None = None,  # noqa: ARG002 - Celery's signature
        task: Any = None,
        on_reject: Callable[..., Any] = noop,
        body: Any = None,
        headers: Mapping[str, Any] | None = None,
        decoded: bool = False,
        utc: bool = True,
        **_options: Any,
    ) -> None:
        self.message = message
        self.request_dict: dict[str, Any] = dict(message.headers if headers is None else headers)
        self.body = message.body if body is None else body
        self.app = app
        self.utc = utc
        self.content_type: str | None = None if decoded else message.content_type
        self.content_encoding: str | None = None if decoded else message.content_encoding
        self.on_ack, self.on_reject = on_ack, on_reject
        self.hostname = hostname = hostname or gethostname()
        self.eventer = eventer
        self.connection_errors = connection_errors or ()
        # Under the name that Celery's has by this spelling: receivers of task_received look at callbacks through it.
        self.__payload = self.body if decoded else message.payload
        self.id: str = self.request_dict["id"]
        self.type: str = self.request_dict["task"]
        self.name: str = self.request_dict.get("shadow") or self.type
        self.task = task if task is not None else app.tasks[self.type]
        properties, info = message.properties or {}, message.delivery_info or {}
        self.delivery_info = {
            "exchange": info.get("exchange"),
            "routing_key": info.get("routing_key"),
            "priority": properties.get("priority"),
            "redelivered": info.get("redelivered", False),
        }
        self.args, self.kwargs, embed = self.__payload
        self.request_dict.update(
            properties=properties,
            reply_to=properties.get("reply_to"),
            correlation_id=properties.get("correlation_id"),
            hostname=hostname,
            delivery_info=self.delivery_info,
            args=self.args,
            kwargs=self.kwargs,
        )
        self._embed: Mapping[str, Any] = embed or {}

    def __getattr__(self, name: str) -> Any:
        # The headers of a message are its fields: parent_id, stamps, replaced_task_nesting …
        if name in _FIELDS:
            return self.__dict__.get("request_dict", {}).get(name, _FIELDS[name])
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    @property
    def errbacks(self) -> Any:
        """Signatures to send when it fails."""
        return self._embed.get("errbacks")

    @property
    def callbacks(self) -> Any:
        """Signatures to send when it succeeds."""
        return self._embed.get("callbacks")

    @property
    def chord(self) -> Any:
        """The body of the chord that it belongs to, or None."""
        return self._embed.get("chord")

    @property
    def ignore_result(self) -> bool:
        """Whether its result is stored."""
        own = self.request_dict.get("ignore_result")
        return bool(self.task.ignore_result if own is None else own)

    @property
    def store_errors(self) -> bool:
        """Whether its failure is stored."""
        return not self.ignore_result or bool(self.task.store_errors_even_if_ignored)

    @property
    def task_id(self) -> str:
        """Its id."""
        return self.id

    @property
    def task_name(self) -> str:
        """Its name."""
        return self.name

    @property
    def time_limits(self) -> Any:
        """Hard and soft, in seconds, as the message says."""
        return self.request_dict.get("timelimit") or (None, None)

    @property
    def eta(self) -> datetime | None:
        """When it may start."""
        return self._moment("eta")

    @property
    def expires(self) -> datetime | None:
        """When it may no longer start."""
        return self._moment("expires")

    def _moment(self, header: str) -> datetime | None:
        text = self.request_dict.get(header)
        moment: datetime | None = maybe_iso8601(text) if text is not None else None
        return moment

    def info(self, safe: bool = False) -> dict[str, Any]:
        """What inspect tells. ``safe``: with the texts of its arguments instead of the arguments."""
        return {
            "id": self.id,
            "name": self.name,
            "args": self.argsrepr if safe else self.args,
            "kwargs": self.kwargsrepr if safe else self.kwargs,
            "type": self.type,
            "hostname": self.hostname,
            "time_start": self.time_start,
            "acknowledged": self.acknowledged,
            "delivery_info": self.delivery_info,
            "worker_pid": self.worker_pid,
        }

    def humaninfo(self) -> str:
        """``name[id]``."""
        return f"{self.name}[{self.id}]"

    def __str__(self) -> str:
        moments = ((" ETA:", self.request_dict.get("eta")), (" expires:", self.request_dict.get("expires")))
        return self.humaninfo() + "".join(f"{word}[{moment}]" for word, moment in moments if moment)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.humaninfo()}>"


#: Headers that are attributes, with what they are where the message has none.
_FIELDS: Mapping[str, Any] = {
    "argsrepr": "",
    "correlation_id": None,
    "group": None,
    "group_index": None,
    "headers": None,
    "kwargsrepr": "",
    "lang": None,
    "origin": None,
    "parent_id": None,
    "properties": None,
    "replaced_task_nesting": 0,
    "reply_to": None,
    "retries": 0,
    "root_id": None,
    "shadow": None,
    "stamped_headers": (),
    "stamps": {},
}


def request_of(job: Job, call: protocol.Call, *, app: Any, task: Any, hostname: str) -> Request:
    """The description of a job.

    :param call: its decoded body.
    """
    envelope = job.delivery.envelope
    assert envelope is not None, "a job was made from an envelope"
    embed = {"callbacks": call.callbacks, "errbacks": call.errbacks, "chain": call.chain, "chord": call.chord}
    message = Message(envelope, call.headers, (call.args, call.kwargs, embed), redelivered=job.delivery.attempt > 1)
    request = Request(message, app=app, task=task, hostname=hostname)
    request.worker_pid = os.getpid()
    request.acknowledged = job.early_ack and bool(job.started)
    return request
