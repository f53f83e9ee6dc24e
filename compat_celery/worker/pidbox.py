"""A worker's mailbox: receives commands of remote control and sends the replies. Comes from: ``app.control``, anybody's. Goes to:
worker.control.

It has a thread and a connection of its own, in the node's process. A broker that is away costs it commands, as it costs genuine
workers theirs; it listens again when the broker is back.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

from compat_celery.utils.collections import AttributeDict
from compat_celery.worker.consumer import Consumer
from compat_celery.worker.control import Panel
from compat_celery.worker.mail import Mail, mail_of
from jumpstarter.worker.remote import Remote

__all__ = ("Pidbox", "listen")

logger = logging.getLogger("celery.worker.pidbox")

#: Seconds between two looks whether it should end, and between two attempts to connect.
_LOOK = 0.5
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
        mail = mail_of(self._app)
        while not self._must_end.is_set():
            try:
                self._receive(mail)
            except mail.errors as error:
                if not self._must_end.is_set():
                    logger.warning("remote control of %s is cut off: %s", self.consumer.hostname, error)
                    self._must_end.wait(_AGAIN)
            except Exception:
                logger.exception("the mailbox of %s failed and is opened again", self.consumer.hostname)
                self._must_end.wait(_AGAIN)

    def _receive(self, mail: Mail) -> None:
        hostname = self.consumer.hostname
        state = AttributeDict(app=self._app, hostname=hostname, consumer=self.consumer, tset=set, handlers=Panel.data)
        with mail.open(self._app, state, self._on_command, self._on_fault) as wait:
            self._is_open.set()
            while not self._must_end.is_set():
                wait(_LOOK)

    def _on_command(self, node: Any, body: Any, message: Any) -> None:
        self._app.clock.forward()
        try:
            node.handle_message(body, message)
        except KeyError as error:
            logger.error("No such control command: %s", error)
        except Exception:
            # The client's command failed, not the mailbox.
            logger.exception("Control command error")

    def _on_fault(self, error: Exception) -> None:
        logger.error("a control message cannot be decoded and is dropped: %s", error)
