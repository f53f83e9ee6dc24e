"""Wait for messages without polling. Comes from: broker. Goes to: claim.

A plain LPUSH wakes nobody who waits on a script, so an idle process blocks in BLMOVE: one connection for each list, which moves the
first message that arrives into a wait list of this incarnation. Exactly one of all waiting processes is woken for a message, and
the message is never in a socket only: ``claim`` takes it from the wait list, or ``release`` and the reapers give it back.

After one BLMOVE has answered, the others stay blocked: whoever claims and soon waits again finds them there, which saves a dozen
commands and half of the way of a single message. What they put aside is taken or given back by the next claim. Who will not claim
for a while says so (:meth:`Waiter.rest`): CLIENT UNBLOCK ends them, and what they put aside goes back.
"""

from __future__ import annotations

import contextlib
import os
import select
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import hiredis

from jumpstarter._redis import Command, Link, LinkDown, Links, Script, pack
from jumpstarter.brokers.redis.layout import Keys
from jumpstarter.errors import BrokerError


def load(name: str) -> Script:
    """A script of ``lua/`` with the pieces that all of them share."""
    folder = Path(__file__).parent / "lua"
    return Script(lambda: (folder / "common.lua").read_text("utf-8") + (folder / f"{name}.lua").read_text("utf-8"))


ARM: Final = load("arm")
SWEEP: Final = load("sweep")

#: Seconds for which wait lists are looked after once nothing should be put there any more: a server that was stopped may carry out
#: a BLMOVE late.
LINGER: Final = 120.0
#: Seconds before the end of a wait in which nothing is blocked anew.
_SHORT: Final = 0.2
#: Seconds for which a list is left alone after its key was found to hold something else.
AVOID: Final = 60.0


class Bell:
    """Wakes a thread that waits in ``poll``."""

    def __init__(self) -> None:
        self._read, self._write = os.pipe()
        os.set_blocking(self._read, False)
        os.set_blocking(self._write, False)

    def fileno(self) -> int:
        return self._read

    def ring(self) -> None:
        with contextlib.suppress(BlockingIOError):  # full: it will be heard
            os.write(self._write, b"!")

    def clear(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._read, 4096)

    def close(self) -> None:
        os.close(self._read)
        os.close(self._write)


class Waiter:
    """What one incarnation has blocked. Not thread-safe: only ``bell`` is used by other threads."""

    def __init__(self, links: Links, keys: Keys, incarnation: str) -> None:
        self._links = links
        self._keys = keys
        self._incarnation = incarnation
        self.bell = Bell()
        self.closed = False
        #: The broker was closed while this one waited.
        self.doomed = False
        #: Lists that were waited for: only their wait lists can hold something.
        self.sources: list[str] = []
        self._open: dict[str, tuple[Link, int]] = {}
        #: Connection, its number at the server, and the monotonic time when the server ends the BLMOVE.
        self._blocked: dict[str, tuple[Link, int, float]] = {}
        self._avoid: dict[str, float] = {}
        self._stale: list[int] = []
        self._fired = False
        self._armed_until = 0.0
        self._suspect_until = 0.0

    def wait(self, sources: Sequence[str], timeout: float) -> bool:
        """Block until a message arrives in one of the lists, the time is up or the bell rings.

        :raises LinkDown: a connection broke; all of them are closed.
        """
        self._drop_others(sources)
        if self._fired:
            return True
        end = time.monotonic() + timeout
        try:
            self._block(self._worth_waiting(sources), timeout)
            return self._watch(end)
        except LinkDown:
            self._abandon()
            raise

    def suspects(self) -> list[str]:
        """Lists whose wait lists may hold something now; the claim that follows empties them."""
        if self._fired or self._blocked or time.monotonic() < self._suspect_until:
            return self.sources
        return []

    def commands(self) -> list[Command]:
        """What ends the BLMOVEs of connections that were lost here; goes before the claim in the same round trip."""
        return [["CLIENT", "UNBLOCK", number] for number in self._stale]

    def claimed(self) -> None:
        """A claim has taken what was put aside, and :meth:`commands` were carried out."""
        self._fired = False
        self._stale = []

    def rest(self) -> None:
        """Nobody will claim for a while: end what is blocked, and give back what was put aside.

        :raises LinkDown: a connection broke; all of them are closed.
        """
        if self._fired or self._blocked:
            self._disarm()

    def retire(self) -> None:
        """End what is blocked and give back what was put aside."""
        if self.sources:
            self._unblock()
            self._sweep()

    def close(self) -> None:
        self._hang_up()
        if not self.closed:
            self.closed = True
            self.bell.close()

    # Blocking

    def _worth_waiting(self, sources: Sequence[str]) -> list[str]:
        now = time.monotonic()
        return [source for source in sources if self._avoid.get(source, 0.0) <= now]

    def _block(self, sources: Sequence[str], timeout: float) -> None:
        missing = [source for source in sources if source not in self._blocked]
        if not missing:
            return
        self._arm(sources, timeout)
        # An idle server looks at its clock ten times a second. 0 would mean for ever.
        seconds = max(0.001, timeout - 0.1, timeout / 2)
        deadline = time.monotonic() + self._links.timeout
        for source in missing:
            link, number = self._connected(source, deadline)
            target = self._keys.wait_list(self._incarnation, source)
            link.send(pack([["BLMOVE", source, target, "RIGHT", "LEFT", f"{seconds:.3f}"]]), deadline)
            self._blocked[source] = (link, number, time.monotonic() + seconds)

    def _arm(self, sources: Sequence[str], timeout: float) -> None:
        """Have the reapers know, before anything can be put aside. Renewed only when the time that they know of is nearly over."""
        now = time.monotonic()
        new = [source for source in sources if source not in self.sources]
        if not new and now + timeout < self._armed_until:
            return
        seconds = 4 * timeout + LINGER
        named = [self._keys.waits, self._keys.waits_of(self._incarnation)]
        self._links.script(ARM, named, [self._incarnation, seconds, *self.sources, *new])
        self.sources += new
        self._armed_until = now + seconds - LINGER

    def _connected(self, source: str, deadline: float) -> tuple[Link, int]:
        known = self._open.pop(source, None)
        if known is not None:
            if known[0].usable():
                return known
            known[0].close()
        link = self._links.open(deadline)
        return link, int(self._links.check(link.exchange([["CLIENT", "ID"]], deadline)[0]))

    # Watching

    def _watch(self, end: float) -> bool:
        poller = select.poll()
        poller.register(self.bell, select.POLLIN)
        by_number = {}
        for source, (link, _, _) in self._blocked.items():
            poller.register(link, select.POLLIN)
            by_number[link.fileno()] = source
        while True:
            # The server ends each BLMOVE itself; its answer may be late by as much as any other.
            late = min((until for _, _, until in self._blocked.values()), default=end) + self._links.timeout
            for number, _ in poller.poll(max(0.0, min(end, late) - time.monotonic()) * 1000):
                if number == self.bell.fileno():
                    self.bell.clear()
                    self._disarm()
                    return False
                poller.unregister(number)
                self._answer(by_number[number])
            if self._fired:
                return True
            now = time.monotonic()
            if self._blocked and now >= late:
                raise LinkDown("a BLMOVE was not answered in time", late=True)
            if now >= end:
                return False
            self._block_again(poller, by_number, end)

    def _block_again(self, poller: select.poll, by_number: dict[int, str], end: float) -> None:
        """Those that were kept from an earlier wait come to their end before this one does."""
        left = end - time.monotonic()
        if left <= _SHORT or len(self._blocked) == len(by_number):
            return
        self._block(self._worth_waiting(list(by_number.values())), left)
        for source in by_number.values():
            if source in self._blocked:
                poller.register(self._blocked[source][0], select.POLLIN)

    def _answer(self, source: str) -> None:
        link, number, _ = self._blocked.pop(source)
        reply = link.receive(time.monotonic() + self._links.timeout)
        self._open[source] = (link, number)
        if isinstance(reply, hiredis.ReplyError):
            if not str(reply).startswith("WRONGTYPE"):
                raise LinkDown(reply)
            # The claim reports it; waiting on it would spin.
            self._avoid[source] = time.monotonic() + AVOID
        elif reply is not None:
            self._fired = True

    def _unblock(self) -> bool:
        """End all that is blocked; True when a message was put aside."""
        blocked = list(self._blocked.items())
        commands: list[Command] = [["CLIENT", "UNBLOCK", number] for _, (_, number, _) in blocked]
        try:
            ended = self._links.run([*commands, *self.commands()]) if commands or self._stale else []
        except LinkDown:
            self._abandon()
            raise
        moved, self._fired = self._fired, False
        self._stale = []
        deadline = time.monotonic() + self._links.timeout
        for (source, (link, number, _)), answer in zip(blocked, ended, strict=False):
            del self._blocked[source]
            if isinstance(answer, hiredis.ReplyError):  # missing rights: closing the connection ends it as well
                link.close()
                self._suspect()
                continue
            try:
                moved |= isinstance(link.receive(deadline), bytes)
            except LinkDown:
                self._stale.append(number)
                self._suspect()
                continue
            self._open[source] = (link, number)
        return moved

    def _sweep(self) -> None:
        pairs = [key for source in self.sources for key in (self._keys.wait_list(self._incarnation, source), source)]
        self._links.script(SWEEP, pairs)

    def _disarm(self) -> None:
        """End all that is blocked and give back what was put aside: whoever was woken may not claim for a long time."""
        if self._unblock():
            self._sweep()

    def _drop_others(self, sources: Sequence[str]) -> None:
        if all(source in sources for source in self._blocked):
            return
        self._disarm()
        for source in [source for source in self._open if source not in sources]:
            self._open.pop(source)[0].close()

    def _suspect(self) -> None:
        """A connection was given up: until the server notices, it may go on putting messages aside."""
        self._suspect_until = time.monotonic() + LINGER

    def _abandon(self) -> None:
        """Close every connection. The server may believe for a while that they wait: they are unblocked by the next claim."""
        self._suspect()
        self._stale += [number for _, number, _ in self._blocked.values()]
        self._hang_up()

    def _hang_up(self) -> None:
        for link in [*(link for link, _ in self._open.values()), *(link for link, _, _ in self._blocked.values())]:
            link.close()
        self._open.clear()
        self._blocked.clear()


class Waiters:
    """The waiters of a broker by incarnation, and who is to be woken."""

    def __init__(self, links: Links, keys: Keys) -> None:
        self._links = links
        self._keys = keys
        self._lock = threading.Lock()
        self._all: dict[str, Waiter] = {}
        self._active: set[Waiter] = set()
        self._wake_next = False

    def get(self, incarnation: str) -> Waiter | None:
        return self._all.get(incarnation)

    def wait(self, incarnation: str, sources: Sequence[str], timeout: float) -> bool:
        with self._lock:
            if self._wake_next:
                self._wake_next = False
                return False
            waiter = self._all.get(incarnation)
            if waiter is None:
                waiter = self._all[incarnation] = Waiter(self._links, self._keys, incarnation)
            self._active.add(waiter)
        try:
            return waiter.wait(sources, timeout)
        finally:
            with self._lock:
                self._active.discard(waiter)
            if waiter.doomed:
                self._retire_quietly(incarnation)
                self._links.close()

    def rest(self, incarnation: str) -> None:
        with self._lock:
            waiter = self._all.get(incarnation)
            if waiter is None or waiter in self._active:
                return
        try:
            waiter.rest()
        except LinkDown as error:
            raise self._links.down(error) from error

    def wake(self) -> None:
        with self._lock:
            for waiter in self._active:
                waiter.bell.ring()
            self._wake_next = not self._active

    def retire(self, incarnation: str) -> None:
        """Forget an incarnation's waiter, unless it waits at this moment; give back what it put aside."""
        with self._lock:
            waiter = self._all.get(incarnation)
            if waiter is None or waiter in self._active:
                return
            del self._all[incarnation]
        try:
            waiter.retire()
        except LinkDown as error:
            raise self._links.down(error) from error
        finally:
            waiter.close()

    def close(self) -> None:
        with self._lock:
            idle = [name for name, waiter in self._all.items() if waiter not in self._active]
            for waiter in self._active:
                waiter.doomed = True
                waiter.bell.ring()
        for name in idle:
            self._retire_quietly(name)

    def _retire_quietly(self, incarnation: str) -> None:
        # The server may be gone; then it has unblocked them itself, and reapers find what was put aside.
        with contextlib.suppress(BrokerError):
            self.retire(incarnation)

    def forget(self) -> None:
        """In a forked child: close its copies of the parent's sockets and pipes, say nothing over them."""
        self._lock = threading.Lock()
        waiters = list(self._all.values())
        self._all.clear()
        self._active.clear()
        self._wake_next = False
        for waiter in waiters:
            waiter.close()
