"""The quarantine on Redis: what rests there, and how it gets out. Comes from: settle, reap. Goes to: people, the queues.

A message is looked at here and moved by one script, which moves only what still rests: two people who press at once neither lose
nor double it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from jumpstarter._redis import Argument, Links
from jumpstarter.brokers.redis import layout
from jumpstarter.brokers.redis.layout import Keys
from jumpstarter.brokers.redis.waiter import load
from jumpstarter.errors import QueueNotFound
from jumpstarter.jobs import Quarantined

RESTING: Final = load("resting")
UNREST: Final = load("unrest")

#: Messages that are looked at in one call, and names in one command.
SOME: Final = 64
MANY: Final = 500


class Quarantine:
    """See :meth:`jumpstarter.abc.broker.Broker.quarantined` and its neighbours."""

    def __init__(self, links: Links, keys: Keys) -> None:
        self._links = links
        self._keys = [keys.quarantine, keys.quarantine_order]
        self._list_of = keys.list_of

    def page(self, limit: int, after: str) -> list[Quarantined]:
        """At most ``limit`` messages from behind the one with this name, the oldest first."""
        resting: list[Quarantined] = []
        # Names are numbers: behind anything else there is nothing.
        while len(resting) < limit and (after == "" or after.isdecimal()):
            wanted = min(SOME, limit - len(resting))
            flat = self._links.script(RESTING, self._keys, [after, wanted])
            resting += [
                layout.quarantined(name.decode(), record) for name, record in zip(flat[::2], flat[1::2], strict=True) if record
            ]
            if len(flat) < 2 * wanted:
                break
            after = flat[-2].decode()
        return resting

    def requeue(self, names: Sequence[str]) -> int:
        """Send the messages back to the ends of their queues."""
        found = 0
        for some in _by(SOME, names):
            number, *failure = self._links.script(UNREST, self._keys, self._moves(some))
            found += number
            if failure:
                self._fail(*failure)
        return found

    def drop(self, names: Sequence[str]) -> int:
        """Forget the messages."""
        found = 0
        for some in _by(MANY, names):
            forget = [[command, key, *some] for command, key in zip(("HDEL", "ZREM"), self._keys, strict=True)]
            found += self._links.check(self._links.ask([["MULTI"], *forget, ["EXEC"]])[-1][0])
        return found

    def _moves(self, names: Sequence[str]) -> list[Argument]:
        """Name, list and bytes of each of them that is a message."""
        moves: list[Argument] = []
        for name, record in zip(names, self._links.call("HMGET", self._keys[0], *names), strict=True):
            if record is None:
                continue
            resting = layout.quarantined(name, record)
            if resting.envelope is not None:
                raw = layout.afresh(layout.open_record(record)[1])
                moves += [name, self._list_of(resting.queue, resting.envelope.priority), raw]
        return moves

    def _fail(self, key: bytes, error: bytes) -> None:
        message = error.decode("utf-8", "replace")
        if message.startswith("WRONGTYPE"):
            raise QueueNotFound(
                key.decode("utf-8", "replace"), "its key in Redis holds something that is no list: delete or rename it"
            )
        raise self._links.error(message)


def _by(size: int, names: Sequence[str]) -> Iterator[Sequence[str]]:
    return (names[first : first + size] for first in range(0, len(names), size))
