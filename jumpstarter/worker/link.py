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
from collections.abc import AsyncIterator
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


class Link:
    """One end. ``say`` may be called from any thread."""

    def __init__(self, channel: socket.socket) -> None:
        channel.setblocking(False)
        self._channel = channel
        self._turn = anyio.Lock()

    def say(self, *words: str) -> None:
        """Send a word, with what belongs to it, unless thousands are unread: for what is said again, or does not matter then."""
        with contextlib.suppress(OSError):
            self._channel.send(" ".join(map(quote, words)).encode() + b"\n")

    async def say_patiently(self, *words: str) -> None:
        """The same, but wait until the other side has read enough, or is gone: for what must not get lost. In the loop only."""
        line = " ".join(map(quote, words)).encode() + b"\n"
        with contextlib.suppress(OSError, anyio.ClosedResourceError):
            async with self._turn:
                while True:
                    try:
                        self._channel.send(line)
                    except BlockingIOError:
                        await anyio.wait_writable(self._channel)
                    else:
                        return

    async def answer(self, number: str, text: str) -> None:
        """Send the answer to the question of that number."""
        for begin in range(0, len(text), _PART):
            await self.say_patiently(ANSWER, number, text[begin : begin + _PART])
        await self.say_patiently(ANSWERED, number)

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
        anyio.notify_closing(self._channel)
        self._channel.close()
