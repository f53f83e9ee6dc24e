"""The line between a node and one child: a socket and four words, a byte each.

====  ================  ==========================================================================
byte  from              means
====  ================  ==========================================================================
r     child             ready: started and healthy
p     child             parked: the lease keeper should look when the next parked message is due
s     node              stop: finish what runs, settle, end
(end) either            the other side is gone
====  ================  ==========================================================================
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import AsyncIterator
from typing import Final

import anyio

READY: Final = b"r"
PARKED: Final = b"p"
STOP: Final = b"s"


class Link:
    """One end. ``say`` may be called from any thread."""

    def __init__(self, channel: socket.socket) -> None:
        channel.setblocking(False)
        self._channel = channel

    def say(self, word: bytes) -> None:
        """Send a word; whether the other side still listens is its own affair."""
        # A full buffer holds thousands of unread words of the same kind: one more says nothing new.
        with contextlib.suppress(OSError):
            self._channel.send(word)

    async def words(self) -> AsyncIterator[bytes]:
        """What the other side says, until it is gone."""
        while True:
            await anyio.wait_readable(self._channel)
            try:
                said = self._channel.recv(256)
            except BlockingIOError:
                continue
            except ConnectionError:
                return
            if not said:
                return
            for word in said:
                yield bytes([word])

    def close(self) -> None:
        """Hang up."""
        self._channel.close()
