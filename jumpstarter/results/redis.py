"""Results in Redis, as Celery keeps them: documents by key, announced on the channel of the same name, and joins in the layout of
Celery's chords.

Comes from: settle (worker) and clients. Goes to: Redis. Neighbour: :mod:`jumpstarter._redis`, the connections; a broker on the same
database carries out :meth:`RedisResults.writes` inside its own settle.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import hiredis

from jumpstarter._redis import STORE_LUA, Argument, Link, LinkDown, Links, Script, on_fork, pack, parse_address
from jumpstarter.abc.results import Results
from jumpstarter.errors import ConfigurationError, ResultsError, ResultsUnavailable
from jumpstarter.jobs import Document, Part

#: Seconds between looks at the keys themselves: an announcement may be lost with its connection, a document is not.
LOOK_EVERY: Final = 1.0
#: Keys per MGET, documents or bytes per call of the script.
MANY: Final = 1000
BYTES_AT_ONCE: Final = 4 << 20
#: What a stored success looks like at its start, spaces left out: the only final document that genuine Celery knows.
_SUCCESS: Final = b'{"status":"SUCCESS"'

#: KEYS: the documents' keys. ARGV: (key, body, ttl, mark) of each.
PUT: Final = Script(
    STORE_LUA
    + r"""
for n = 1, #ARGV, 4 do
    local fault = store(ARGV[n], ARGV[n + 1], ARGV[n + 2], ARGV[n + 3])
    if fault then return redis.error_reply(fault) end
end
"""
)

#: Count a part of a join, and hand out the parts to the one who may finish it.
#:
#: KEYS 1 <join>.j parts   2 <join>.t late additions to the size   3 <join>.s size   4 <join>.d who was counted   5 <join>.c who
#: finishes it, then 'done'   6 <join> the saved group
#: ARGV 1 member   2 index or '+inf'   3 body   4 ttl in seconds or 0   5 '1' ordered   6 seconds for which a finisher may take its
#: time
#:
#: Answers 0 or the parts in order. The claim in .c belongs to a *part*, not to a process: when its worker dies, the redelivered
#: part takes over at once, while any other part (ours, or a genuine worker's, whose claims are random) still finds it taken.
ADD_PART: Final = Script(r"""
local parts, additions, size, counted, claim, group = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local who, ordered = ARGV[1] .. ':' .. ARGV[2], ARGV[5] == '1'
if redis.call('GET', claim) == 'done' then return 0 end
if redis.call('SISMEMBER', counted, who) == 0 then
    if ordered then
        -- Members of a sorted set are unique: equal bodies of different parts get line ends, which JSON does not mind.
        local body = ARGV[3]
        while redis.call('ZADD', parts, 'NX', ARGV[2], body) == 0 do body = body .. '\n' end
    else
        redis.call('RPUSH', parts, ARGV[3])
    end
    redis.call('SADD', counted, who)
end
local ttl = tonumber(ARGV[4])
if ttl > 0 then
    for n = 1, 4 do redis.call('EXPIRE', KEYS[n], ttl) end
    redis.call('EXPIRE', group, ttl)
end
local ready = redis.call(ordered and 'ZCARD' or 'LLEN', parts)
local expected = redis.call('GET', size)
if not expected or ready ~= tonumber(expected) + tonumber(redis.call('GET', additions) or 0) then return 0 end
local mine = 'jumpstarter:' .. who
if redis.call('GET', claim) ~= mine and not redis.call('SET', claim, mine, 'NX', 'EX', ARGV[6]) then return 0 end
redis.call('EXPIRE', claim, ARGV[6])
return redis.call(ordered and 'ZRANGE' or 'LRANGE', parts, 0, -1)
""")

#: Seconds for which the worker that completes a join has it for itself, then another part may try. Celery: twice its join timeout
#: of 3 s, at least 5.
JOIN_CLAIM: Final = 30
#: Seconds for which late copies of a part are kept from starting the join anew (Celery's number).
JOIN_DONE: Final = 300


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

    # Documents

    def writes(self, documents: Sequence[Document]) -> Sequence[tuple[str, bytes, Argument, str]]:
        """``(key, body, milliseconds to live or '', key that marks it as final or '')`` of each, as ``store`` in Lua takes it."""
        writes: list[tuple[str, bytes, Argument, str]] = []
        for document in documents:
            key, body = self._prefix + document.key, document.body
            ttl: Argument = "" if document.ttl is None else max(1, round(document.ttl * 1000))
            # Successes are told by their bytes, so the mark is for what only we call final.
            marked = document.final and not body[:32].replace(b" ", b"").startswith(_SUCCESS)
            writes.append((key, body, ttl, f"{key}.final" if marked else ""))
        return writes

    def put(self, documents: Sequence[Document]) -> None:
        for some in _by_size(self.writes(documents)):
            self._links.script(PUT, [key for key, *_ in some], [part for write in some for part in write])

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
        listener.listen_to(channels)
        found = self._present(channels)
        while not found:
            now = time.monotonic()
            if end is not None and now >= end:
                break
            look_again = now + LOOK_EVERY
            heard = listener.hear(look_again if end is None else min(end, look_again))
            found = {channels[name]: body for name, body in heard if name in channels}
            if not found and time.monotonic() >= look_again:
                found = self._present(channels)
        listener.forget([name for name, key in channels.items() if key in found] if found else channels)
        return found

    def _present(self, channels: Mapping[bytes, str]) -> dict[str, bytes]:
        keys = list(channels.values())
        return {key: body for key, body in zip(keys, self.get(keys), strict=True) if body is not None}

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

    def add_part(self, part: Part) -> Sequence[bytes] | None:
        key = self._prefix + part.join
        index: Argument = "+inf" if part.index is None else part.index
        ttl = _seconds(part.ttl) if part.ttl else 0
        named = [f"{key}.j", f"{key}.t", f"{key}.s", f"{key}.d", f"{key}.c", key]
        answer = self._links.script(ADD_PART, named, [part.member, index, part.body, ttl, int(self._ordered), JOIN_CLAIM])
        return None if answer == 0 else [body.rstrip(b"\n") for body in answer]

    def close_join(self, join: str) -> None:
        key = self._prefix + join
        parts = [f"{key}{ending}" for ending in (".j", ".t", ".s", ".d")]
        self._links.ask([["MULTI"], ["DEL", *parts], ["SET", f"{key}.c", "done", "EX", JOIN_DONE], ["EXEC"]])

    # The server

    def ping(self) -> None:
        self._links.call("PING")

    def close(self) -> None:
        self._links.close()
        listener: _Listener | None = getattr(self._listeners, "one", None)
        if listener is not None:
            listener.close()


class _Listener:
    """The pub/sub connection of one thread. What it was told to forget may still be heard once; callers ask for what they know."""

    def __init__(self, links: Links) -> None:
        self._links = links
        self._link: Link = links.open()
        self._channels: set[bytes] = set()

    def usable(self) -> bool:
        return not self._link.closed

    def listen_to(self, channels: Iterable[bytes]) -> None:
        """Return when the server has confirmed all of them, so that a later write is heard."""
        wanted = set(channels)
        self.forget(self._channels - wanted)
        missing = wanted - self._channels
        if not missing:
            return
        deadline = time.monotonic() + self._links.timeout
        self._link.send(pack([["SUBSCRIBE", *missing]]), deadline)
        while missing:
            reply = self._receive(deadline)
            if reply[0] == b"subscribe":
                missing.discard(reply[1])
        self._channels = wanted

    def hear(self, end: float) -> list[tuple[bytes, bytes]]:
        """What is announced until ``end``: at least one message, and all that came with it; or nothing."""
        heard: list[tuple[bytes, bytes]] = []
        while True:
            # Nothing more is waited for once something was heard.
            if not self._link.ready(0.0 if heard else end - time.monotonic()):
                return heard
            reply = self._receive(time.monotonic() + self._links.timeout)
            if reply[0] == b"message":
                heard.append((reply[1], reply[2]))

    def forget(self, channels: Iterable[bytes]) -> None:
        gone = self._channels & set(channels)
        if gone:
            self._channels -= gone
            # The confirmations are read by whoever listens next.
            self._link.send(pack([["UNSUBSCRIBE", *gone]]), time.monotonic() + self._links.timeout)

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


def _by_size(writes: Sequence[tuple[str, bytes, Argument, str]]) -> Iterable[list[tuple[str, bytes, Argument, str]]]:
    some: list[tuple[str, bytes, Argument, str]] = []
    size = 0
    for write in writes:
        some.append(write)
        size += len(write[1])
        if len(some) >= MANY or size >= BYTES_AT_ONCE:
            yield some
            some, size = [], 0
    if some:
        yield some
