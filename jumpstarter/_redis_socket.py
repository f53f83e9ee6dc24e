"""Open a connection to a Redis server. Used by: _redis.

TCP and unix sockets are opened here; redis-py does TLS only, and is imported there only: it brings asyncio and OpenTelemetry with
it, 100 ms of processor time, which is more than a program needs to publish its first message.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from jumpstarter.errors import ConfigurationError

__all__ = ("greetings", "open_socket")


def greetings(options: Mapping[str, Any]) -> list[list[str]]:
    """What a new connection says first: who it is, its name, its database; and last, whose answer is of no matter, what software it
    is. Servers before 7.2 refuse that; it is said nevertheless, as a server that answers nothing must be noticed before anything is
    asked of it that may not be asked twice."""
    said = []
    username, password = options.get("username"), options.get("password")
    if username or password:
        said.append(["AUTH", *([username, password or ""] if username else [password or ""])])
    if options.get("client_name"):
        said.append(["CLIENT", "SETNAME", options["client_name"]])
    if options.get("db"):
        said.append(["SELECT", str(options["db"])])
    said.append(["CLIENT", "SETINFO", "LIB-NAME", "jumpstarter"])
    return said


def open_socket(kind: str, options: Mapping[str, Any], timeout: float) -> tuple[Any, Callable[[], None], bool]:
    """A connected socket, what closes it, and whether the greetings are still to be said.

    :param kind: ``tcp``, ``unix`` or ``tls``.
    :param timeout: seconds for each step.
    :raises TimeoutError: it took longer.
    :raises OSError: it cannot be reached, or refuses.
    """
    if kind == "tls":
        return (*_tls(options, timeout), False)
    sock = _unix(options["path"], timeout) if kind == "unix" else _tcp(options["host"], options["port"], timeout)
    owner = os.getpid()
    return sock, lambda: _close(sock, owner), True


def _tcp(host: str, port: int, timeout: float) -> socket.socket:
    # As bytes, where that is the same: for text Python loads its tables of international names.
    name: Any = host.encode() if host.isascii() else host
    sock = socket.create_connection((name, port), timeout)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    return sock


def _unix(path: str, timeout: float) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.settimeout(timeout)
        sock.connect(path)
    except BaseException:
        sock.close()
        raise
    return sock


def _close(sock: socket.socket, owner: int) -> None:
    with suppress(OSError):
        # A forked child has the socket as well: shutting it down there would end the parent's connection.
        if os.getpid() == owner:
            sock.shutdown(socket.SHUT_RDWR)
    sock.close()


def _tls(options: Mapping[str, Any], timeout: float) -> tuple[Any, Callable[[], None]]:
    import redis.connection  # noqa: PLC0415 - see above

    try:
        # RESP2: the scripts' answers are read as such, and no pushes come in between.
        connection = redis.connection.SSLConnection(**options, protocol=2, socket_timeout=timeout, socket_connect_timeout=timeout)
    except (redis.RedisError, ValueError, TypeError) as error:
        raise ConfigurationError(f"the TLS options of the Redis URL cannot be used: {error}") from error
    try:
        connection.connect()  # type: ignore[no-untyped-call] # redis-py leaves it untyped
    except redis.TimeoutError as error:
        raise TimeoutError(str(error)) from error
    except redis.RedisError as error:
        raise OSError(str(error)) from error
    # redis-py has no public way to its socket. Kombu reads the same attribute.
    return connection._sock, connection.disconnect
