"""Speak with a Redis server: addresses, bounded calls, pooled connections, scripts. Used by: brokers.redis, results.redis.

hiredis packs and parses; the loop around it is our own, because every call must end within one deadline (redis-py's timeout begins
anew with every chunk that arrives), because a waiter needs the bare socket in a selector, and because a pipeline must never be sent
twice behind the caller's back: a repeated publish is a second message.
"""

from __future__ import annotations

import os
import select
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qsl, quote, unquote, urlsplit

import hiredis

from jumpstarter._redis_socket import greetings, open_socket
from jumpstarter.errors import ConfigurationError

Argument = str | bytes | int | float
Command = Sequence[Argument]

MASK: Final = "**"
_PENDING: Final = object()
_READ_SIZE: Final = 1 << 18
#: Idle connections kept for the next call; more than that many threads at once is rare.
_SPARE: Final = 8
#: Replies that say "not now": the server lives but cannot serve us, so callers treat it as away.
AWAY: Final = (
    "BUSY ",
    "CLUSTERDOWN",
    "LOADING",
    "MASTERDOWN",
    "MISCONF",
    "NOAUTH",
    "NOREPLICAS",
    "OOM",
    "READONLY",
    "TRYAGAIN",
    "WRONGPASS",
    "ERR max number of clients",
)


class LinkDown(Exception):
    """A connection that could not be made or broke.

    :ivar late: True when the time ran out, False when it broke earlier.
    """

    def __init__(self, why: object, *, late: bool = False) -> None:
        super().__init__(str(why) or type(why).__name__)
        self.late = late


# Addresses


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where a server is and how to connect to it.

    :ivar server: identity of the server, without credentials and database; equal for two URLs that name the same one. The ways to
        one server (TCP, TLS, a unix socket) count as different ones.
    :ivar database: its number.
    :ivar url: for people, the password masked.
    :ivar kind: ``tcp``, ``tls`` or ``unix``.
    """

    server: str
    database: int
    url: str
    kind: str
    options: Mapping[str, Any] = field(default_factory=dict)


_CERTIFICATE_RULES: Final = {
    "CERT_REQUIRED": "required",
    "CERT_OPTIONAL": "optional",
    "CERT_NONE": "none",
    "required": "required",
    "optional": "optional",
    "none": "none",
    # The constants of the module ssl, which are numbers.
    2: "required",
    1: "optional",
    0: "none",
}
_TLS_OPTIONS: Final = frozenset(
    {"ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_keyfile_password", "ssl_cert_reqs", "ssl_check_hostname", "ssl_ca_path"}
)
# Settings of redis-py's own pool and retries that people carry along in URLs; both are done here in another way.
_WITHOUT_MEANING: Final = frozenset(
    {
        "max_connections",
        "health_check_interval",
        "retry_on_timeout",
        "socket_timeout",
        "socket_connect_timeout",
        "socket_keepalive",
        "timeout",
    }
)


def parse_address(url: str, ssl: bool | Mapping[str, Any] | None = None) -> Address:
    """Understand a URL as Kombu and Celery write it.

    ``redis://[user][:password]@host[:port]/db``, ``rediss://…?ssl_ca_certs=…``, ``redis+socket:///path?virtual_host=db`` and
    ``unix:///path?db=2``. ``ssl`` is Celery's ``broker_use_ssl``: True or a mapping of ``ssl_…`` options.

    :raises ConfigurationError: what is wrong with it and what to write; never shows the password.
    """
    if ";" in url:
        raise ConfigurationError(
            "a Redis URL names one server here, but this one lists several: give the first, or an address that follows the primary"
        )
    scheme = url.partition("://")[0]
    parts = urlsplit("http://" + url.partition("://")[2])
    query = dict(parse_qsl(parts.query))
    match scheme:
        case "redis" | "rediss":
            return _tcp_address(scheme, parts, query, ssl)
        case "unix" | "redis+socket" | "redis+unix" | "socket":
            return _socket_address(parts, query)
        case "sentinel" | "rediss+sentinel" | "redis+sentinel":
            raise ConfigurationError(
                "sentinel:// is not supported by the Redis broker: give the address of the primary, or a proxy that follows it"
            )
    raise ConfigurationError(f"{scheme}:// is no Redis URL: write redis://, rediss://, redis+socket:// or unix://")


def _tcp_address(scheme: str, parts: Any, query: dict[str, str], ssl: bool | Mapping[str, Any] | None) -> Address:
    try:
        port = parts.port or 6379
    except ValueError as error:
        raise ConfigurationError(f"the port of the Redis URL is no number between 0 and 65535: {error}") from None
    host = (unquote(parts.hostname) if parts.hostname else "") or "127.0.0.1"
    database = _database(unquote(parts.path).strip("/") or query.pop("db", "") or query.pop("virtual_host", ""))
    secure = scheme == "rediss" or bool(ssl)
    options = _credentials(parts) | _query_options(query, secure=secure)
    if secure:
        options |= _tls_options(ssl if isinstance(ssl, Mapping) else {})
        # Before version 6, redis-py does not look at the host's name unless it is told to.
        options.setdefault("ssl_check_hostname", options.get("ssl_cert_reqs") != "none")
    shown = f"[{host}]" if ":" in host else host
    return Address(
        server=f"{'rediss' if secure else 'redis'}://{shown.lower()}:{port}",
        database=database,
        url=f"{scheme}://{_shown_credentials(parts)}{shown}:{port}/{database}",
        kind="tls" if secure else "tcp",
        options=options | {"host": host, "port": port, "db": database, "socket_keepalive": True},
    )


def _socket_address(parts: Any, query: dict[str, str]) -> Address:
    path = "/" + unquote((parts.hostname or "") + parts.path).lstrip("/")
    if path == "/":
        raise ConfigurationError("the Redis URL names no socket: write redis+socket:///path/to/redis.sock?virtual_host=0")
    database = _database(query.pop("virtual_host", "") or query.pop("db", ""))
    return Address(
        server=f"unix:{path}",
        database=database,
        url=f"unix://{_shown_credentials(parts)}{path}?db={database}",
        kind="unix",
        options=_credentials(parts) | _query_options(query, secure=False) | {"path": path, "db": database},
    )


def _database(text: str) -> int:
    if text.strip("/") == "":
        return 0
    try:
        number = int(text)
    except ValueError:
        number = -1
    if number < 0:
        raise ConfigurationError(f"a Redis database is a number from 0, but the URL says {text!r}")
    return number


def _credentials(parts: Any) -> dict[str, Any]:
    named = {"username": parts.username, "password": parts.password}
    return {name: unquote(value) for name, value in named.items() if value}


def _shown_credentials(parts: Any) -> str:
    if not (parts.username or parts.password):
        return ""
    return f"{quote(unquote(parts.username or ''), safe='')}{':' + MASK if parts.password else ''}@"


def _query_options(query: dict[str, str], *, secure: bool) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for name, value in query.items():
        if name in _WITHOUT_MEANING:
            continue
        if name == "client_name":
            options[name] = value
        elif name in _TLS_OPTIONS and secure:
            options |= _tls_options({name: value})
        elif name in _TLS_OPTIONS:
            raise ConfigurationError(f"{name} in a Redis URL needs rediss:// in front of it")
        else:
            raise ConfigurationError(
                f"unknown option {name!r} in the Redis URL: remove it (known are client_name and {', '.join(sorted(_TLS_OPTIONS))})"
            )
    return options


def _tls_options(given: Mapping[str, Any]) -> dict[str, Any]:
    options = dict(given)
    unknown = sorted(options.keys() - _TLS_OPTIONS)
    if unknown:
        raise ConfigurationError(f"unknown TLS option {unknown[0]!r}: known are {', '.join(sorted(_TLS_OPTIONS))}")
    if "ssl_cert_reqs" in options:
        rule = _CERTIFICATE_RULES.get(options["ssl_cert_reqs"])
        if rule is None:
            raise ConfigurationError(f"ssl_cert_reqs is {options['ssl_cert_reqs']!r}: it must be required, optional or none")
        options["ssl_cert_reqs"] = rule
    if isinstance(options.get("ssl_check_hostname"), str):
        options["ssl_check_hostname"] = options["ssl_check_hostname"].lower() not in ("false", "0", "no")
    return options


# One connection


class Link:
    """One connection, used by one thread at a time. Every error closes it and is raised as :class:`LinkDown`."""

    __slots__ = ("_close", "_is_plain", "_poller", "_reader", "_socket")

    def __init__(self, address: Address, timeout: float) -> None:
        self._close: Callable[[], None] | None = None
        deadline = time.monotonic() + timeout
        try:
            sock, self._close, is_new = open_socket(address.kind, address.options, timeout)
        except OSError as error:
            raise LinkDown(error, late=isinstance(error, TimeoutError)) from error
        self._socket = sock
        self._reader = hiredis.Reader(notEnoughData=_PENDING)
        self._poller = select.poll()
        self._poller.register(sock, select.POLLIN)
        # A plain socket does not block: with a timeout, Python makes three system calls of each send and each receive.
        self._is_plain = not hasattr(sock, "pending")
        if self._is_plain:
            sock.setblocking(False)
        if is_new:
            self._greet(greetings(address.options), deadline)

    def _greet(self, commands: Sequence[Command], deadline: float) -> None:
        *replies, _ = self.exchange(commands, deadline)
        for reply in replies:
            if isinstance(reply, hiredis.ReplyError):
                self.close()
                raise LinkDown(reply)

    def fileno(self) -> int:
        return int(self._socket.fileno())

    @property
    def closed(self) -> bool:
        return self._close is None

    def usable(self) -> bool:
        """False when something can be read although nothing was asked: the server closed it, or an answer came too late."""
        if self._close is None:
            return False
        return not self._poller.poll(0)

    def ready(self, seconds: float) -> bool:
        """Whether there is something to read within ``seconds``: bytes that came already, a message, or the end of the
        connection."""
        if self._reader.has_data() or (hasattr(self._socket, "pending") and self._socket.pending()):
            return True
        return bool(self._poller.poll(max(0.0, seconds) * 1000))

    def send(self, data: bytes, deadline: float) -> None:
        """Send bytes as they are."""
        try:
            if not self._is_plain:
                self._socket.settimeout(_remaining(deadline))
                self._socket.sendall(data)
                return
            rest = memoryview(data)[self._send_some(data) :]
            while rest:
                _await(self._socket, select.POLLOUT, deadline)
                rest = rest[self._send_some(rest) :]
        except (OSError, ValueError) as error:
            raise self._broken(error) from error

    def receive(self, deadline: float) -> Any:
        """The next reply; an error reply is returned as :class:`hiredis.ReplyError`."""
        try:
            while (reply := self._reader.gets()) is _PENDING:
                self._reader.feed(self._receive_some(deadline))
        except (OSError, ValueError, hiredis.HiredisError) as error:
            raise self._broken(error) from error
        return reply

    def _send_some(self, data: bytes | memoryview) -> int:
        try:
            return int(self._socket.send(data))
        except BlockingIOError:
            return 0

    def _receive_some(self, deadline: float) -> bytes:
        if not self._is_plain:
            self._socket.settimeout(_remaining(deadline))
        elif not self._poller.poll(_remaining(deadline) * 1000):
            raise TimeoutError("out of time")
        try:
            data = bytes(self._socket.recv(_READ_SIZE))
        except BlockingIOError:  # the poll was wrong, as it may be
            return b""
        if not data:
            raise ConnectionResetError("the server closed the connection")
        return data

    def exchange(self, commands: Sequence[Command], deadline: float) -> list[Any]:
        """Send all, then read one reply for each."""
        self.send(pack(commands), deadline)
        replies = []
        for _ in commands:  # a loop, as each round trip is on the way of messages: a comprehension is a call
            replies.append(self.receive(deadline))  # noqa: PERF401 - see the reason given
        return replies

    def close(self) -> None:
        close, self._close = self._close, None
        if close is not None:
            close()

    def __del__(self) -> None:
        self.close()  # of a broker that nobody closed

    def _broken(self, error: Exception) -> LinkDown:
        self.close()
        late = isinstance(error, TimeoutError)
        return LinkDown("it does not answer in time" if late else error, late=late)


def _await(socket: Any, event: int, deadline: float) -> None:
    poller = select.poll()
    poller.register(socket, event)
    if not poller.poll(_remaining(deadline) * 1000):
        raise TimeoutError("out of time")


def _remaining(deadline: float) -> float:
    remaining = deadline - time.monotonic()
    if remaining <= 0:
        raise TimeoutError("out of time")
    return remaining


def pack(commands: Sequence[Command]) -> bytes:
    """The commands as bytes for the wire."""
    return b"".join(map(hiredis.pack_command, map(tuple, commands)))  # type: ignore[arg-type] # tuple[X, ...] is meant


# Scripts


class Script:
    """A Lua script and its SHA-1.

    :param source: the script, or what reads it when it is first needed: a program that only publishes needs one of twenty.
    """

    def __init__(self, source: str | Callable[[], str]) -> None:
        self._read = source
        # Not cached_property, which has a lock before Python 3.12: forked while another thread holds it, a process waits for ever.
        self._source: str | None = None
        self._sha: str | None = None

    @property
    def source(self) -> str:
        if self._source is None:
            self._source = self._read if isinstance(self._read, str) else self._read()
        return self._source

    @property
    def sha(self) -> str:
        if self._sha is None:
            self._sha = _sha1(self.source.encode())
        return self._sha

    def command(self, keys: Sequence[Argument], arguments: Sequence[Argument], *, whole: bool = False) -> list[Argument]:
        head: list[Argument] = ["EVAL", self.source] if whole else ["EVALSHA", self.sha]
        return [*head, len(keys), *keys, *arguments]


def _sha1(data: bytes) -> str:
    try:
        from _sha1 import sha1  # type: ignore[import-not-found] # noqa: PLC0415 - as hashlib's, without loading OpenSSL
    except ImportError:  # a Python that was built without it
        from hashlib import sha1  # noqa: PLC0415 - as above
    return str(sha1(data, usedforsecurity=False).hexdigest())


def results_script(source: str | Callable[[], str] = "") -> Script:
    """A script that begins with what documents, joins and fences are in Lua: of the results' own, and the broker's settle."""
    common = Path(__file__).with_name("_redis.lua")
    return Script(lambda: common.read_text("utf-8") + (source if isinstance(source, str) else source()))


# All connections of one broker or store


class Links:
    """The connections of one broker or store: a spare one or a new one for each call, so that threads never share one.

    ``unavailable(why)`` and ``refused(message)`` make the errors that callers see. After a fork the child starts with none: the
    parent's sockets are closed on the child's side only, nothing is sent over them.
    """

    def __init__(
        self, address: Address, timeout: float, *, unavailable: Callable[[object], Exception], refused: Callable[[str], Exception]
    ) -> None:
        self.address = address
        self.timeout = timeout
        self._unavailable = unavailable
        self._refused = refused
        self._lock = threading.Lock()
        self._spare: list[Link] = []
        on_fork(self._forget)

    def run(self, commands: Sequence[Command], *, deadline: float | None = None) -> list[Any]:
        """One round trip for all commands; error replies stay in the list.

        :raises LinkDown: the connection broke, so what was done is unknown.
        """
        if deadline is None:
            deadline = time.monotonic() + self.timeout
        link = self.take(deadline)
        replies = link.exchange(commands, deadline)
        self.give(link)
        return replies

    def call(self, *command: Argument, deadline: float | None = None) -> Any:
        """One command; its error is raised."""
        return self.ask([command], deadline=deadline)[0]

    def ask(self, commands: Sequence[Command], *, deadline: float | None = None) -> list[Any]:
        """One round trip for all commands; the first error among the replies is raised."""
        try:
            replies = self.run(commands, deadline=deadline)
        except LinkDown as error:
            raise self._unavailable(error) from error
        for reply in replies:
            self.check(reply)
        return replies

    def script(
        self, script: Script, keys: Sequence[Argument], arguments: Sequence[Argument] = (), *, deadline: float | None = None
    ) -> Any:
        try:
            reply = self.run_script(script, keys, arguments, deadline=deadline)[-1]
        except LinkDown as error:
            raise self._unavailable(error) from error
        return self.check(reply)

    def run_script(
        self,
        script: Script,
        keys: Sequence[Argument],
        arguments: Sequence[Argument],
        *,
        before: Sequence[Command] = (),
        deadline: float | None = None,
    ) -> list[Any]:
        """Commands and then a script in one round trip (a second one where the server does not know the script yet)."""
        replies = self.run([*before, script.command(keys, arguments)], deadline=deadline)
        if isinstance(replies[-1], hiredis.ReplyError) and str(replies[-1]).startswith("NOSCRIPT"):
            replies[-1:] = self.run([script.command(keys, arguments, whole=True)], deadline=deadline)
        return replies

    def scripts(self, script: Script, calls: Sequence[tuple[Sequence[Argument], Sequence[Argument]]]) -> list[Any]:
        """The script once for each pair of keys and arguments, in order and in one round trip; the first error is raised."""
        if len(calls) == 1:
            return [self.script(script, *calls[0])]
        commands = [script.command(keys, arguments) for keys, arguments in calls]
        # Loaded first: where the server did not know it, some calls would succeed and others would have to be sent again.
        return self.ask([["SCRIPT", "LOAD", script.source], *commands])[1:] if commands else []

    def check(self, reply: Any) -> Any:
        """The reply, or its error."""
        if isinstance(reply, hiredis.ReplyError):
            raise self.error(str(reply))
        return reply

    def error(self, message: str) -> Exception:
        return self._unavailable(message) if message.startswith(AWAY) else self._refused(message)

    def down(self, error: LinkDown) -> Exception:
        return self._unavailable(error)

    def take(self, deadline: float) -> Link:
        while True:
            with self._lock:
                link = self._spare.pop() if self._spare else None
            if link is None:
                return self.open(deadline)
            if link.usable():
                return link
            link.close()

    def open(self, deadline: float | None = None) -> Link:
        """A connection of the caller's own."""
        return Link(self.address, self.timeout if deadline is None else max(0.001, deadline - time.monotonic()))

    def give(self, link: Link) -> None:
        with self._lock:
            if len(self._spare) < _SPARE:
                self._spare.append(link)
                return
        link.close()

    def close(self) -> None:
        with self._lock:
            spare, self._spare = self._spare, []
        for link in spare:
            link.close()

    def _forget(self) -> None:
        self._lock = threading.Lock()  # a thread of the parent may have held it
        spare, self._spare = self._spare, []
        for link in spare:
            link.close()


# Forks

_after_fork: list[weakref.WeakMethod[Callable[[], None]]] = []


def on_fork(method: Callable[[], None]) -> None:
    """Have a bound method called in every forked child, as long as its object lives."""
    _after_fork[:] = [reference for reference in _after_fork if reference() is not None]
    _after_fork.append(weakref.WeakMethod(method))


def _run_after_fork() -> None:
    for reference in _after_fork:
        method = reference()
        if method is not None:
            method()


os.register_at_fork(after_in_child=_run_after_fork)
