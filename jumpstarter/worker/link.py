"""The line between a node and one child: a socket and a few words, a line each.

========================  ======  ======================================================================================
word                      from    means
========================  ======  ======================================================================================
``ready``                 child   started and healthy
``parked``                child   the lease keeper should look when the next parked message is due
``retiring``              child   it takes no more jobs and ends when those it has are done: start its successor
``retire``                node    do so (it uses too much memory)
``stop``                  node    finish what runs, settle, end
``cancel id attempt``     node    end this job, if it runs there; without an attempt whichever it is
``note text``             node    something to bear in mind (see :meth:`jumpstarter.worker.worker.Worker.note`)
``ask number question``   node    what the application answers to it
``answer number part``    child   a part of that; ``answered number`` when it is complete
(end)                     either  the other side is gone
========================  ======  ======================================================================================
"""

from __future__ import annotations

import contextlib
import socket
from collections import deque
from collections.abc import AsyncIterator, Iterable
from typing import Final
from urllib.parse import quote, unquote

import anyio

READY: Final = "ready"
PARKED: Final = "parked"
RETIRING: Final = "retiring"
RETIRE: Final = "retire"
STOP: Final = "stop"
CANCEL: Final = "cancel"
NOTE: Final = "note"
ASK: Final = "ask"
ANSWER: Final = "answer"
ANSWERED: Final = "answered"

#: Characters of a part of an answer. A socket takes a line of this length whole or not at all.
_PART: Final = 2000
#: Lines that wait to be sent before others are left out.
_MOST: Final = 1000


class Link:
    """One end. ``say`` may be called from any thread."""

    def __init__(self, channel: socket.socket) -> None:
        channel.setblocking(False)
        self._channel = channel
        self._outbox: deque[bytes] = deque()
        self._news: anyio.Event | None = None

    def say(self, *words: str) -> None:
        """Send a word, with what belongs to it, unless thousands are unread: for what is said again, or does not matter then."""
        if not self._outbox:
            with contextlib.suppress(OSError):
                self._channel.send(_line(words))
        elif len(self._outbox) < _MOST:
            self.tell(*words)  # a part of the first line may have gone

    def tell(self, *words: str) -> None:
        """Send what must not get lost: what does not fit now goes when the other side has read enough. Needs :meth:`deliver`. On
        the loop's thread."""
        self._outbox.append(_line(words))
        if self._news is not None:
            self._news.set()

    async def deliver(self) -> None:
        """Send what was told, until the other side is gone."""
        while True:
            self._news = anyio.Event()
            while self._outbox:
                if not await self._send(self._outbox[0]):
                    return
                self._outbox.popleft()
            await self._news.wait()

    async def _send(self, line: bytes) -> bool:
        """Send as there is room; False when the other side is gone."""
        while line:
            try:
                line = line[self._channel.send(line) :]
            except BlockingIOError:
                await anyio.wait_writable(self._channel)
            except ConnectionError:
                return False
        return True

    async def answer(self, number: str, text: str) -> None:
        """Send the answer to the question of that number."""
        for begin in range(0, len(text), _PART):
            await self._send(_line([ANSWER, number, text[begin : begin + _PART]]))
        await self._send(_line([ANSWERED, number]))

    async def words(self) -> AsyncIterator[list[str]]:
        """What the other side says, each as the word and what belongs to it, until it is gone."""
        rest = b""
        while True:
            await anyio.wait_readable(self._channel)
            try:
                said = self._channel.recv(4096)
            except BlockingIOError:
                continue
            except ConnectionError:
                return
            if not said:
                return
            *lines, rest = (rest + said).split(b"\n")
            for line in lines:
                yield [unquote(word) for word in line.decode().split(" ")]

    def close(self) -> None:
        """Hang up."""
        self._channel.close()


def _line(words: Iterable[str]) -> bytes:
    return " ".join(map(quote, words)).encode() + b"\n"
