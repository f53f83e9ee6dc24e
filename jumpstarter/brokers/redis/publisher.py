"""Publish to Redis: all of a batch or nothing, within a deadline, once however often it has to be sent. Comes from: broker.

After a lost connection nobody knows whether a call was carried out. So each call carries a number that grows, under the name of
whoever publishes (one thread at a time), and the script does nothing for a number that it has seen: a call in doubt is simply sent
again. What is still in doubt at the deadline is an error that says so.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import hiredis

from jumpstarter._redis import AWAY, Argument, LinkDown, Links, Script
from jumpstarter.brokers.redis import layout
from jumpstarter.brokers.redis.layout import Keys
from jumpstarter.errors import PublishTimeout, QueueNotFound


def _load(name: str) -> Script:
    # Without the pieces that the others share: making them costs as much as the work does.
    return Script(lambda: (Path(__file__).parent / "lua" / f"{name}.lua").read_text("utf-8"))


PUBLISH: Final = _load("publish")
PUBLISH_ONE: Final = _load("publish_one")

#: Seconds for which the server remembers a call's number beyond the call's own deadline.
REMEMBERED: Final = 60
#: Seconds between attempts to learn what became of a call; the first comes at once.
FIRST_PAUSE: Final = 0.01
LONGEST_PAUSE: Final = 0.25
#: Seconds of which no half is kept back for another attempt.
SHORT: Final = 0.1

#: ``(queue, list, due or empty, bytes)`` of a message.
Item = tuple[str, str, str, bytes]


@dataclass(slots=True)
class _Numbering:
    """The number of the last call under a name. Used by one call at a time."""

    key: str
    number: int = 0


class Publisher:
    """Sends batches for all threads of a process."""

    def __init__(self, links: Links, keys: Keys) -> None:
        self._links = links
        self._keys = keys
        self._idle: list[_Numbering] = []

    def forget(self) -> None:
        """After a fork: the parent goes on under the names that it has."""
        self._idle = []

    def publish(self, items: Sequence[Item], within: float) -> None:
        """Send them, in order.

        :param within: seconds.
        :raises BrokerUnavailable: nothing was sent.
        :raises PublishTimeout: the time is over, and whether they arrived is unknown.
        :raises QueueNotFound: a key holds something that is no queue; nothing was sent.
        """
        deadline = time.monotonic() + within
        numbering = self._take()
        numbering.number += 1
        head: list[Argument] = [numbering.number, int(REMEMBERED + within)]
        if len(items) == 1 and not items[0][2]:
            ((queue, target, _, payload),) = items
            queues = [queue]
            reply = self._deliver(PUBLISH_ONE, [numbering.key, target], [*head, payload], deadline, within)
        else:
            queues, lists, arguments = self._arrange(items)
            queues.insert(0, self._keys.parked)
            keys = [numbering.key, self._keys.parked, *lists]
            reply = self._deliver(PUBLISH, keys, [*head, *arguments], deadline, within)
        # Not in a finally: a call in doubt may be carried out late, so nobody else may use its name.
        self._idle.append(numbering)
        if isinstance(reply, hiredis.ReplyError):
            raise self._error(str(reply), queues)

    def _take(self) -> _Numbering:
        try:
            return self._idle.pop()
        except IndexError:
            return _Numbering(self._keys.publisher(layout.new_name()))

    def _arrange(self, items: Sequence[Item]) -> tuple[list[str], list[str], list[Argument]]:
        """The queues and their lists, each once, and the script's arguments from the third on."""
        queues: dict[str, str] = {}
        parked: list[Argument] = []
        pushed: dict[str, list[bytes]] = {}
        for queue, target, due, payload in items:
            if due:
                parked += [due, payload]
                continue
            queues.setdefault(target, queue)
            pushed.setdefault(target, []).append(payload)
        arguments: list[Argument] = [len(parked) // 2, *parked]
        for payloads in pushed.values():
            arguments.append(len(payloads))
            arguments += payloads
        return list(queues.values()), list(pushed), arguments

    def _deliver(
        self, script: Script, keys: Sequence[Argument], arguments: Sequence[Argument], deadline: float, within: float
    ) -> Any:
        """The script's reply, as soon as one arrives.

        :raises BrokerUnavailable: nothing was sent.
        :raises PublishTimeout: it was sent, and no reply came in time.
        """
        command = script.command(keys, arguments)
        doubt: LinkDown | None = None
        pause = 0.0
        while True:
            try:
                link = self._links.take(deadline)
            except LinkDown as error:
                if doubt is None:
                    raise self._links.down(error) from error
            else:
                try:
                    (reply,) = link.exchange([command], _half_way(deadline))
                except LinkDown as error:
                    doubt = error
                else:
                    self._links.give(link)
                    if _says(reply, "NOSCRIPT"):
                        command = script.command(keys, arguments, whole=True)
                        continue
                    if doubt is None or not _says(reply, AWAY):
                        return reply
            if time.monotonic() + pause >= deadline:
                raise PublishTimeout(self._links.address.url, f"no answer to a publish within {within:g} s") from doubt
            time.sleep(pause)
            pause = min(pause * 2 or FIRST_PAUSE, LONGEST_PAUSE)

    def _error(self, message: str, queues: Sequence[str]) -> Exception:
        """:param queues: what the script's keys are about, from the second key on."""
        if not message.startswith("WRONGTYPE"):
            return self._links.error(message)
        return QueueNotFound(queues[int(message.split()[1]) - 2], "its key in Redis holds something else: delete or rename it")


def _half_way(deadline: float) -> float:
    """Until when to wait for a reply. On a connection that a firewall has forgotten none ever comes, and a new one works."""
    now = time.monotonic()
    return deadline if deadline - now < SHORT else (now + deadline) / 2


def _says(reply: Any, beginning: str | tuple[str, ...]) -> bool:
    return isinstance(reply, hiredis.ReplyError) and str(reply).startswith(beginning)
