"""A worker's mailbox: receives commands of remote control and sends the replies. Comes from: ``app.control``, anybody's. Goes to:
worker.control.

It has a thread and a connection of its own, in the node's process. A broker that is away costs it commands, as it costs genuine
workers theirs; it listens again when the broker is back.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

from kombu.exceptions import KombuError

from compat_celery.utils.collections import AttributeDict
from compat_celery.worker.consumer import Consumer
from compat_celery.worker.control import Panel
from jumpstarter.worker.remote import Remote

__all__ = ("Pidbox", "listen")

logger = logging.getLogger("celery.worker.pidbox")

#: Seconds between two looks whether it should end, and between two attempts to connect.
_LOOK = 0.5
_FIRST_LOOK = 0.1
_AGAIN = 2.0
#: Seconds that a worker which starts waits for its mailbox.
_START = 5.0
_END = 5.0


def listen(controller: Any, remote: Remote) -> Callable[[], None]:
    """Open the mailbox of a worker that is ready; what is returned closes it."""
    pidbox = Pidbox(Consumer(controller, remote))
    pidbox.start()
    return pidbox.stop


class Pidbox:
    """The mailbox of one worker."""

    def __init__(self, consumer: Consumer) -> None:
        self.consumer = consumer
        self._app = consumer.app
        self._is_open = threading.Event()
        self._must_end = threading.Event()
        self._thread = threading.Thread(target=self._serve, name=f"pidbox {consumer.hostname}", daemon=True)

    def start(self) -> None:
        """Return when it is open; a broker that does not let it be opened soon is tried again later."""
        self._thread.start()
        self._is_open.wait(_START)

    def stop(self) -> None:
        """Close it."""
        self._must_end.set()
        self._thread.join(_END)

    def _serve(self) -> None:
        while not self._must_end.is_set():
            try:
                with self._app.connection_for_read() as connection:
                    self._receive(connection)
            except (OSError, KombuError, *self._connection_errors()) as error:
                if not self._must_end.is_set():
                    logger.warning("remote control of %s is cut off: %s", self.consumer.hostname, error)
                    self._must_end.wait(_AGAIN)
            except Exception:
                logger.exception("the mailbox of %s failed and is opened again", self.consumer.hostname)
                self._must_end.wait(_AGAIN)

    def _connection_errors(self) -> tuple[type[BaseException], ...]:
        connection = self._app.connection_for_read()
        return (*connection.connection_errors, *connection.channel_errors)

    def _receive(self, connection: Any) -> None:
        channel = connection.channel()
        state = AttributeDict(app=self._app, hostname=self.consumer.hostname, consumer=self.consumer, tset=set)
        node = self._app.control.mailbox.Node(self.consumer.hostname, handlers=Panel.data, state=state, channel=channel)
        listener = node.listen(callback=partial(self._on_message, node))
        listener.on_decode_error = self._on_decode_error
        wait = _FIRST_LOOK
        try:
            while not self._must_end.is_set():
                with contextlib.suppress(socket.timeout):
                    connection.drain_events(timeout=wait)
                # Not before: on Redis, Kombu subscribes when it looks for the first time, and what was said before is gone.
                self._is_open.set()
                wait = _LOOK
        finally:
            with contextlib.suppress(Exception):
                listener.cancel()

    def _on_message(self, node: Any, body: Any, message: Any) -> None:
        self._app.clock.forward()
        try:
            node.handle_message(body, message)
        except KeyError as error:
            logger.error("No such control command: %s", error)
        except Exception:
            # The client's command failed, not the mailbox.
            logger.exception("Control command error")

    def _on_decode_error(self, message: Any, error: Exception) -> None:
        logger.error("a control message cannot be decoded and is dropped: %s", error)
        with contextlib.suppress(Exception):
            message.ack()
