"""What passes for a Kombu connection to a broker of ours. Made by: ``app.connection_for_read`` … Over: publisher."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any, Self

import kombu
from kombu.exceptions import OperationalError
from kombu.transport import memory
from kombu.transport.virtual.base import BrokerState

from compat_celery.app.publisher import Producer, _waits, broker_for
from compat_celery.app.utils import sanitize_url
from jumpstarter.abc.broker import Broker
from jumpstarter.errors import BrokerUnavailable

if TYPE_CHECKING:
    from compat_celery.app.base import Celery

__all__ = ("Connection",)


class Connection(kombu.Connection):  # type: ignore[misc] # kombu has no annotations
    """Passes for a Kombu connection to a broker that is ours: it can be looked at, and publishes by our producer.

    Its channels are Kombu's in the memory of this process: remote control and events go through them, tasks do not.
    """

    def __init__(self, url: str, *args: Any, app: Celery, **kwargs: Any) -> None:
        # Kombu asks a transport of its own what URLs look like; its one in memory is nearest to ours.
        options = {"transport": _transport_of(url), "transport_options": {"polling_interval": _POLLING}}
        super().__init__(*args, **{**options, **kwargs})
        self._connection: Any = None
        self.app = app
        self.url = url

    def ensure_connection(
        self,
        errback: Callable[[Exception, float], Any] | None = None,
        max_retries: int | None = None,
        interval_start: float = 2,
        interval_step: float = 2,
        interval_max: float = 30,
        callback: Callable[[], Any] | None = None,  # noqa: ARG002 - kombu's signature
        **_: Any,
    ) -> Self:
        """Return when the broker answers.

        :param max_retries: how often to try again; None: for ever.
        :param errback: called with the error and the seconds until the next attempt.
        :raises OperationalError: it does not answer.
        """
        policy = {
            "max_retries": max_retries,
            "interval_start": interval_start,
            "interval_step": interval_step,
            "interval_max": interval_max,
        }
        waits = _waits(policy)
        while True:
            try:
                self.connect()
            except OperationalError as error:
                wait = next(waits, None)
                if wait is None:
                    raise
                if errback is not None:
                    errback(error, wait)
                time.sleep(wait)
            else:
                return self

    def connect(self) -> Broker:
        """The broker, once it has answered.

        :raises OperationalError: it does not answer.
        """
        broker = broker_for(self.app, self.url)
        try:
            broker.ping()
        except BrokerUnavailable as error:
            raise OperationalError(str(error)) from error
        return broker

    @property
    def connected(self) -> bool:
        """Whether the broker answers now."""
        try:
            self.connect()
        except OperationalError:
            return False
        return True

    def as_uri(self, include_password: bool = False, mask: str = "**", getfields: Any = None) -> str:  # noqa: ARG002 - kombu's signature
        """The URL, without its password unless that is asked for."""
        return self.url if include_password else str(sanitize_url(self.url, mask))

    def Producer(self, *_: Any, **__: Any) -> Producer:  # noqa: N802 - kombu's name
        """A producer for this broker."""
        return Producer(self.app, self.url)

    def clone(self, **_: Any) -> Connection:
        """Another one like it."""
        return Connection(self.url, app=self.app)

    @property
    def connection(self) -> Any:
        """What Kombu's channels hang on."""
        if self._connection is None:
            self._connection = self._establish_connection()
        return self._connection

    def release(self) -> None:
        """Close the channels. The app keeps its brokers, see ``app.close()``."""
        self._default_channel = None
        connection, self._connection = self._connection, None
        if connection is not None:
            self.transport.close_connection(connection)

    _close = close = release


#: Seconds between two looks of those who listen in memory.
_POLLING = 0.05


@cache
def _transport_of(url: str) -> type:  # noqa: ARG001 - one for each
    """Kombu's transport in memory, with exchanges and queues for this URL alone: workers of other brokers must not hear it."""
    channel = type("Channel", (memory.Channel,), {"queues": {}, "events": defaultdict(set)})
    return type("Transport", (memory.Transport,), {"Channel": channel, "global_state": BrokerState()})
