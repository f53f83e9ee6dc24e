"""Keep what is said on a fanout exchange for the processes of this node: it is said once, and only to those who listen.

Comes from: exchanges. Goes to: a queue of the node's own, from which its children claim.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable

from jumpstarter.brokers.redis.exchanges import Subscription
from jumpstarter.errors import BrokerError
from jumpstarter.jobs import Envelope

log = logging.getLogger(__name__)

_LOOK = 0.5  # seconds between two looks whether it should end
_AGAIN = 1.0  # seconds between attempts to listen again
_END = 5.0


class Relay:
    """Listens in a thread of its own until it is closed.

    :param listen: opens a subscription. :param keep: takes each message.
    :raises BrokerError: it cannot be opened.
    """

    def __init__(self, listen: Callable[[], Subscription], keep: Callable[[Envelope], None], name: str) -> None:
        self._listen = listen
        self._keep = keep
        self._name = name
        self._must_end = threading.Event()
        first = listen()
        self._thread = threading.Thread(target=self._serve, args=[first], name=name, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Listen no more."""
        self._must_end.set()
        self._thread.join(_END)

    def _serve(self, subscription: Subscription) -> None:
        while not self._must_end.is_set():
            try:
                with contextlib.closing(subscription):
                    self._relay(subscription)
            except BrokerError as error:
                log.warning("%s is cut off, and misses what is said until it listens again: %s", self._name, error)
                if (found := self._open_again()) is not None:
                    subscription = found

    def _relay(self, subscription: Subscription) -> None:
        while not self._must_end.is_set():
            envelope = subscription.next(_LOOK, self._on_fault)
            if envelope is not None:
                self._keep(envelope)

    def _open_again(self) -> Subscription | None:
        while not self._must_end.wait(_AGAIN):
            with contextlib.suppress(BrokerError):
                return self._listen()
        return None

    def _on_fault(self, error: Exception) -> None:
        log.error("%s: what is no message is dropped: %s", self._name, error)
