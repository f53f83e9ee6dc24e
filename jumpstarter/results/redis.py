"""Results in Redis, as Celery keeps them: documents by key, announced on the channel of the same name, and joins in the layout of
Celery's chords.

Comes from: settle (worker) and clients. Goes to: Redis. Neighbour: :mod:`jumpstarter._redis`, the connections; a broker on the same
database carries out :meth:`RedisResults.writes` inside its own settle.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, TypeVar

import hiredis

from jumpstarter._redis import Argument, Command, Link, LinkDown, Links, Script, on_fork, pack, parse_address, results_script
from jumpstarter.abc.results import Fence, Results
from jumpstarter.errors import ConfigurationError, ResultsError, ResultsUnavailable
from jumpstarter.jobs import Document, Part

T = TypeVar("T")
S = TypeVar("S", bound=Sequence[Argument])

#: A document as the scripts take it: database, key, body, milliseconds to live or '', key that marks it as final or ''.
Write = tuple[bytes, str, bytes, Argument, str]

#: Seconds between looks at the keys themselves: an announcement may be lost with its connection, a document is not.
LOOK_EVERY: Final = 1.0
#: Channels that a connection may go on listening to although nobody waits.
FEW: Final = 16
#: Keys per MGET, documents or bytes per call of the script.
MANY: Final = 1000
BYTES_AT_ONCE: Final = 4 << 20
#: What a stored success looks like at its start, spaces left out: the only final document that genuine Celery knows.
_SUCCESS: Final = b'{"status":"SUCCESS"'

#: KEYS: the documents' keys. ARGV: (key, body, ttl, mark) of each.
PUT: Final = results_script(
    r"""
for n = 1, #ARGV, 4 do
    local fault = store(ARGV[n], ARGV[n + 1], ARGV[n + 2], ARGV[n + 3])
    if fault then return redis.error_reply(fault) end
end
"""
)

#: KEYS: the documents' keys. ARGV: (fence or '', attempt, key, body, ttl, mark) of each. Answers a letter for each: 1, or 0 for
#: what a later attempt's fence keeps out.
PUT_BY: Final = results_script(
    r"""
local letters = {}
for n = 1, #ARGV, 6 do
    if is_refused(ARGV[n], ARGV[n + 1]) then
        letters[#letters + 1] = '0'
    else
        local fault = store(ARGV[n + 2], ARGV[n + 3], ARGV[n + 4], ARGV[n + 5])
        if fault then return redis.error_reply(fault) end
        letters[#letters + 1] = '1'
    end
end
return table.concat(letters)
"""
)

#: KEYS: the joins. ARGV: (fence or '', attempt, then six values, see count_part) of each part. Answers for each the bodies in
#: order, or 0.
ADD_PARTS: Final = results_script(
    r"""
local answers = {}
for n = 1, #ARGV, 8 do
    answers[#answers + 1] = not is_refused(ARGV[n], ARGV[n + 1]) and count_part(n + 2) or 0
end
return answers
"""
)

#: KEYS 1 the join.
CLOSE_JOIN: Final = results_script("close_join(KEYS[1])")

#: KEYS: the fences. ARGV 1 milliseconds to live   2… the attempts. Neither an attempt nor a time to live is ever lowered.
FENCE: Final = Script(r"""
for n, key in ipairs(KEYS) do
    local attempt, known = ARGV[n + 1], redis.call('GET', key)
    local ttl = math.max(tonumber(ARGV[1]), redis.call('PTTL', key))
    if known and tonumber(known) > tonumber(attempt) then attempt = known end
    redis.call('SET', key, attempt, 'PX', string.format('%d', ttl))
end
""")


class RedisResults(Results):
    """Documents in Redis 6.2 or later, shared with genuine Celery clients and workers.

    :param url: as :class:`~jumpstarter.brokers.redis.RedisBroker` takes it.
    :param key_prefix: stands before every key and channel.
    :param timeout: seconds after which a server that does not answer counts as unavailable.
    :param ssl: Celery's ``redis_backend_use_ssl``: True, or a mapping of ``ssl_…`` options.
    :param ordered_joins: Celery's ``result_chord_ordered``; must be the same in the whole fleet.
    :raises ConfigurationError: one of these cannot be used.
    """

    def __init__(
        self,
        url: str,
        *,
        key_prefix: str = "",
        timeout: float = 5.0,
        ssl: bool | Mapping[str, Any] | None = None,
        ordered_joins: bool = True,
    ) -> None:
        if not timeout > 0:
            raise ConfigurationError(f"timeout is a number of seconds above 0, not {timeout!r}")
        address = parse_address(url, ssl)
        self.server = address.server
        self.url = address.url
        self._database = b"%d" % address.database
        self._prefix = key_prefix
        self._timeout = timeout
        self._ordered = ordered_joins
        self._links = Links(address, timeout, unavailable=self._unavailable, refused=self._refused)
        self._listeners = threading.local()
        on_fork(self._after_fork)

    def _after_fork(self) -> None:
        self._listeners = threading.local()

    def _unavailable(self, why: object) -> ResultsUnavailable:
        return ResultsUnavailable(self.url, why)

    def _refused(self, message: str) -> ResultsError:
        return ResultsError(f"the results at {self.url} refuse: {message}")

    # Commands for the settle of a broker on the same server

    def writes(self, documents: Sequence[Document]) -> Sequence[Write]:
        """``(database, key, body, milliseconds to live or '', key that marks it as final or '')`` of each."""
        writes: list[Write] = []
        for document in documents:
            key, body = self._prefix + document.key, document.body
            ttl: Argument = "" if document.ttl is None else max(1, round(document.ttl * 1000))
            # Successes are told by their bytes, so the mark is for what only we call final.
            marked = document.final and not body[:32].replace(b" ", b"").startswith(_SUCCESS)
            writes.append((self._database, key, body, ttl, f"{key}.final" if marked else ""))
        return writes

    def part_write(self, part: Part) -> Sequence[Argument]:
        index: Argument = "+inf" if part.index is None else part.index
        ttl = _seconds(part.ttl) if part.ttl else 0
        return [self._database, self._prefix + part.join, part.member, index, part.body, ttl, int(self._ordered)]

    def close_write(self, join: str) -> Sequence[Argument]:
        return [self._database, self._prefix + join]

    # Documents

    def put(self, documents: Sequence[Document], *, by: Sequence[Fence | None] = ()) -> list[bool]:
        writes = self.writes(documents)
        if not any(by):
            calls = [([key for _, key, *_ in some], [part for write in some for part in write[1:]]) for some in _by_size(writes)]
            self._links.scripts(PUT, calls)
            return [True] * len(documents)
        return self._put_by(writes, by)

    def _put_by(self, writes: Sequence[Write], by: Sequence[Fence | None]) -> list[bool]:
        fenced = [(*self._fence(fence), *write[1:]) for fence, write in zip(by, writes, strict=True)]
        answers = self._links.scripts(PUT_BY, [([write[2] for write in some], _flat(some)) for some in _by_size(fenced)])
        return [letter == ord("1") for answer in answers for letter in answer]

    def fence(self, fences: Sequence[Fence], ttl: float) -> None:
        calls = [
            ([self._fence(fence)[0] for fence in some], [max(1, round(ttl * 1000)), *(fence.attempt for fence in some)])
            for some in _by(MANY, fences)
        ]
        self._links.scripts(FENCE, calls)

    def _fence(self, fence: Fence | None) -> tuple[str, int]:
        return (f"{self._prefix}jumpstarter.fence.{fence.job}", fence.attempt) if fence is not None else ("", 0)

    def get(self, keys: Sequence[str]) -> list[bytes | None]:
        documents: list[bytes | None] = []
        for first in range(0, len(keys), MANY):
            documents += self._links.call("MGET", *(self._prefix + key for key in keys[first : first + MANY]))
        return documents

    def delete(self, keys: Sequence[str]) -> int:
        if not keys:
            return 0
        named = [self._prefix + key for key in keys]
        deleted, _ = self._links.ask([["DEL", *named], ["DEL", *(f"{key}.final" for key in named)]])
        return int(deleted)

    # Waiting

    def wait(self, keys: Sequence[str], timeout: float | None) -> dict[str, bytes]:
        channels = {(self._prefix + key).encode(): key for key in keys}
        end = None if timeout is None else time.monotonic() + timeout
        if not channels:
            return {}
        away_since = 0.0
        while True:
            began = time.monotonic()
            try:
                return self._wait_once(channels, end)
            except (LinkDown, ResultsUnavailable) as error:
                # A server that restarts is waited for, as long as any call may take.
                now = time.monotonic()
                if not away_since or now - began > LOOK_EVERY:
                    away_since = now
                if now - away_since >= self._timeout or (end is not None and now >= end):
                    raise error if isinstance(error, ResultsUnavailable) else self._links.down(error) from error
                time.sleep(0.05)

    def _wait_once(self, channels: Mapping[bytes, str], end: float | None) -> dict[str, bytes]:
        """Subscribe, look, then listen: nothing that is written falls between."""
        listener = self._listener()
        found = self._present(channels, listener)
        while not found:
            now = time.monotonic()
            if end is not None and now >= end:
                break
            look_again = now + LOOK_EVERY
            heard = listener.hear(look_again if end is None else min(end, look_again))
            found = {channels[name]: body for name, body in heard if name in channels}
            if not found and time.monotonic() >= look_again:
                found = self._present(channels, listener)
        listener.forget([name for name, key in channels.items() if key in found] if found else channels)
        return found

    def _present(self, channels: Mapping[bytes, str], listener: _Listener) -> dict[str, bytes]:
        names = list(channels)
        answers = listener.ask(channels, [["MGET", *some] for some in _by(MANY, names)])
        documents = [document for answer in answers for document in answer]
        return {channels[name]: body for name, body in zip(names, documents, strict=True) if body is not None}

    def _listener(self) -> _Listener:
        listener: _Listener | None = getattr(self._listeners, "one", None)
        if listener is None or not listener.usable():
            listener = self._listeners.one = _Listener(self._links)
        return listener

    # Joins

    def open_join(self, join: str, size: int, ttl: float | None) -> None:
        key = self._prefix + join
        expiry: list[Argument] = ["EX", _seconds(ttl)] if ttl else []
        # A join that is opened again (a frozen chord that is applied twice) is a new one.
        self._links.ask([["MULTI"], ["DEL", f"{key}.c"], ["SET", f"{key}.s", size, *expiry], ["EXEC"]])

    def add_parts(self, parts: Sequence[Part], *, by: Sequence[Fence | None] = ()) -> list[Sequence[bytes] | None]:
        writers = by or [None] * len(parts)
        words = [(*self._fence(writer), *self.part_write(part)[1:]) for part, writer in zip(parts, writers, strict=True)]
        calls = [([word[2] for word in some], _flat(some)) for some in _by_size(words)]
        answers = [answer for answers in self._links.scripts(ADD_PARTS, calls) for answer in answers]
        return [None if answer == 0 else [body.rstrip(b"\n") for body in answer] for answer in answers]

    def close_join(self, join: str) -> None:
        self._links.script(CLOSE_JOIN, [self._prefix + join])

    # The server

    def ping(self) -> None:
        self._links.call("PING")

    def close(self) -> None:
        self._links.close()
        listener: _Listener | None = getattr(self._listeners, "one", None)
        if listener is not None:
            listener.close()


class _Listener:
    """The pub/sub connection of one thread. What it was told to forget may still be heard; callers ask for what they know."""

    def __init__(self, links: Links) -> None:
        self._links = links
        self._link: Link = links.open()
        self._channels: set[bytes] = set()
        self._heard: list[tuple[bytes, bytes]] = []
        # With RESP3 a connection that listens may ask as well. Some proxies before Redis know RESP2 only.
        (answer,) = self._link.exchange([["HELLO", 3]], time.monotonic() + links.timeout)
        self._may_ask = not isinstance(answer, hiredis.ReplyError)

    def usable(self) -> bool:
        return not self._link.closed

    def ask(self, channels: Collection[bytes], commands: Sequence[Command]) -> list[Any]:
        """Listen to these channels and no others, then carry out the commands: what is announced after their answers is heard. One
        round trip where the server can do that."""
        deadline = time.monotonic() + self._links.timeout
        gone, missing = self._channels.difference(channels), set(channels).difference(self._channels)
        changes: list[Command] = [[word, *names] for word, names in (("UNSUBSCRIBE", gone), ("SUBSCRIBE", missing)) if names]
        if self._may_ask:
            self._link.send(pack([*changes, *commands]), deadline)
            answers = [self._answer(deadline) for _ in commands]
        else:
            if changes:
                self._link.send(pack(changes), deadline)
            while missing:
                word, name, *_ = self._receive(deadline)
                if word == b"subscribe":
                    missing.discard(name)
            answers = [self._links.check(answer) for answer in self._links.run(commands)]
        self._channels = set(channels)
        return answers

    def hear(self, end: float) -> list[tuple[bytes, bytes]]:
        """What is announced until ``end``: at least one message, and all that came with it; or nothing."""
        # Nothing more is waited for once something was heard.
        while self._link.ready(0.0 if self._heard else end - time.monotonic()):
            self._note(self._receive(time.monotonic() + self._links.timeout))
        heard, self._heard = self._heard, []
        return heard

    def forget(self, channels: Collection[bytes]) -> None:
        """Nobody wants to know of these any more. A few are forgotten together with the next question: that costs nothing."""
        gone = self._channels.intersection(channels)
        if len(self._channels) > FEW and gone:
            self._channels -= gone
            # The confirmations are read by whoever listens next.
            self._link.send(pack([["UNSUBSCRIBE", *gone]]), time.monotonic() + self._links.timeout)

    def _answer(self, deadline: float) -> Any:
        """The next reply that is no announcement."""
        while isinstance(reply := self._receive(deadline), hiredis.PushNotification):
            self._note(reply)
        return reply

    def _note(self, reply: Sequence[Any]) -> None:
        if reply[0] == b"message":
            self._heard.append((reply[1], reply[2]))

    def close(self) -> None:
        self._link.close()

    def _receive(self, deadline: float) -> Any:
        reply = self._link.receive(deadline)
        if isinstance(reply, hiredis.ReplyError):
            self._link.close()
            raise self._links.error(str(reply))
        return reply


def _seconds(ttl: float) -> int:
    return max(1, round(ttl))


def _flat(lists: Iterable[Iterable[Argument]]) -> list[Argument]:
    return [argument for one in lists for argument in one]


def _by(size: int, items: Sequence[T]) -> list[Sequence[T]]:
    return [items[first : first + size] for first in range(0, len(items), size)]


def _by_size(calls: Iterable[S]) -> Iterator[list[S]]:
    """Slices that one script may carry out at once."""
    some: list[S] = []
    size = 0
    for arguments in calls:
        some.append(arguments)
        size += sum(len(argument) for argument in arguments if isinstance(argument, bytes))
        if len(some) >= MANY or size >= BYTES_AT_ONCE:
            yield some
            some, size = [], 0
    if some:
        yield some
