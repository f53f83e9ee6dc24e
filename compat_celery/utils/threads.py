"""Stacks and storage that belong to one thread, one greenlet or one asyncio task. Knows nobody but the proxies.

They are built on context variables: every thread starts with an empty context, greenlet gives each greenlet one, and a coroutine
inherits a copy of its parent's. So coroutine tasks that share a loop see their own current task and request.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
import traceback
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from threading import get_ident
from typing import Any, Generic, TypeVar

from compat_celery.local import Proxy

__all__ = (
    "Local",
    "LocalManager",
    "LocalStack",
    "bgThread",
    "bound_open_broker_sockets",
    "default_socket_timeout",
    "get_ident",
)

T = TypeVar("T")


class LocalStack(Generic[T]):
    """A stack per context. What is pushed in one thread or coroutine is not seen in others."""

    def __init__(self) -> None:
        #: The stack itself, bottom first; the tracer pushes there without a call. Tuples, not a list: a coroutine inherits the
        #: stack as it is when it starts, and must not change its parent's.
        self.items: ContextVar[tuple[T, ...]] = ContextVar("LocalStack", default=())

    def push(self, obj: T) -> tuple[T, ...]:
        """Put the object on top; answers the stack, bottom first."""
        items = (*self.items.get(), obj)
        self.items.set(items)
        return items

    def pop(self) -> T | None:
        """Take the topmost object; None when there is none."""
        items = self.items.get()
        if not items:
            return None
        self.items.set(items[:-1])
        return items[-1]

    @property
    def stack(self) -> list[T]:
        """What is on the stack, bottom first."""
        return list(self.items.get())

    @property
    def top(self) -> T | None:
        """The topmost object; None when there is none."""
        items = self.items.get()
        return items[-1] if items else None

    def __len__(self) -> int:
        return len(self.items.get())

    def __call__(self) -> Proxy:
        def topmost() -> T:
            items = self.items.get()
            if not items:
                raise RuntimeError("object unbound")
            return items[-1]

        return Proxy(topmost)

    def __release_local__(self) -> None:
        self.items.set(())

    @property
    def __ident_func__(self) -> Callable[[], Any]:
        """What tells whose stack it is, by Celery's name. Without effect: contexts do."""
        return get_ident

    @__ident_func__.setter
    def __ident_func__(self, value: Callable[[], Any]) -> None:
        """Accepted for programs that set it."""


_LocalStack = LocalStack


class Local:
    """Attributes per context."""

    __slots__ = ("_ident", "_values")

    def __init__(self) -> None:
        object.__setattr__(self, "_ident", get_ident)
        object.__setattr__(self, "_values", ContextVar("Local", default=types.MappingProxyType({})))

    def _read(self) -> dict[str, Any]:
        values: dict[str, Any] = object.__getattribute__(self, "_values").get()
        return values

    def _write(self, values: dict[str, Any]) -> None:
        object.__getattribute__(self, "_values").set(values)

    @property
    def __ident_func__(self) -> Callable[[], Any]:
        """What tells whose attributes they are, by Celery's name."""
        ident: Callable[[], Any] = object.__getattribute__(self, "_ident")
        return ident

    def __iter__(self) -> Iterator[tuple[Any, dict[str, Any]]]:
        """The identifier and the attributes of this context."""
        values = dict(self._read())
        return iter([(self.__ident_func__(), values)] if values else [])

    def __call__(self, proxy: Any) -> Proxy:
        return Proxy(getattr, (self, proxy), name=proxy)

    def __release_local__(self) -> None:
        self._write({})

    def __getattr__(self, name: str) -> Any:
        try:
            return self._read()[name]
        except KeyError:
            raise AttributeError(name) from None

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "__ident_func__":
            object.__setattr__(self, "_ident", value)
            return
        self._write({**self._read(), name: value})

    def __delattr__(self, name: str) -> None:
        if name not in self._read():
            raise AttributeError(name)
        self._write({key: value for key, value in self._read().items() if key != name})


def release_local(local: Local | LocalStack[Any]) -> None:
    """Forget what this context holds there."""
    local.__release_local__()


class LocalManager:
    """Forgets what this context holds in several places at once."""

    def __init__(self, locals: Any = None, ident_func: Callable[[], Any] | None = None) -> None:  # noqa: A002 - Celery's signature
        self.locals: list[Any] = [] if locals is None else [locals] if isinstance(locals, Local) else list(locals)
        self.ident_func = ident_func or get_ident
        if ident_func is not None:
            for local in self.locals:
                local.__ident_func__ = ident_func

    def get_ident(self) -> Any:
        """An identifier of this thread."""
        return self.ident_func()

    def cleanup(self) -> None:
        """Forget it all."""
        for local in self.locals:
            release_local(local)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} storages: {len(self.locals)}>"


class bgThread(threading.Thread):  # noqa: N801 - Celery's public name
    """A daemon thread that repeats :meth:`body` until it is stopped."""

    def __init__(self, name: str | None = None, **kwargs: Any) -> None:
        super().__init__(name=name or type(self).__name__, daemon=True, **kwargs)
        # Mangled: Thread has attributes of such names.
        self.__is_shutdown = threading.Event()
        self.__is_stopped = threading.Event()

    def body(self) -> None:
        """One round of the work."""
        raise NotImplementedError

    def on_crash(self, msg: str, *fmt: Any, **_: Any) -> None:
        """Say on standard error what went wrong."""
        print(msg.format(*fmt), file=sys.stderr)
        traceback.print_exc(None, sys.stderr)

    def run(self) -> None:
        """Repeat the body; when it fails, end the process: what this thread did for the program would silently stay undone.
        Subclasses override :meth:`body`, and :meth:`on_crash`."""
        try:
            while not self.__is_shutdown.is_set():
                try:
                    self.body()
                except Exception as error:  # noqa: BLE001 - it is reported, and ends the process
                    try:
                        self.on_crash("{0!r} crashed: {1!r}", self.name, error)
                        self._set_stopped()
                    finally:
                        sys.stderr.flush()
                        os._exit(1)  # a thread cannot end the process in another way
        finally:
            self._set_stopped()

    def _set_stopped(self) -> None:
        with suppress(TypeError):  # the interpreter is going down, and took the event's parts already
            self.__is_stopped.set()

    def stop(self) -> None:
        """Ask the thread to end, and wait until it has."""
        self.__is_shutdown.set()
        if self.ident is not None and self.ident != get_ident():
            self.__is_stopped.wait()
            self.join()


class _FastLocalStack(threading.local):
    """A stack per thread, by Celery's name. Nothing of ours uses it."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.push = self.stack.append
        self.pop = self.stack.pop

    @property
    def top(self) -> Any:
        return self.stack[-1] if self.stack else None

    def __len__(self) -> int:
        return len(self.stack)


@contextmanager
def default_socket_timeout(timeout: float | None) -> Iterator[None]:
    """Sockets that are made in the block have this timeout, in seconds."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(timeout)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def bound_open_broker_sockets(connection: Any, timeout: float | None) -> None:
    """Give the sockets that a connection of kombu's has open this timeout (seconds), so that ending it does not hang on a server
    that has gone silent. What cannot be done is left: the connection is being given up."""
    with suppress(Exception):
        for sock in _open_sockets(connection):
            with suppress(Exception):
                sock.settimeout(timeout)


def _open_sockets(connection: Any) -> Iterator[Any]:
    # Private attributes throughout: the public ones connect when they find no connection.
    with suppress(Exception):
        for channel in list(connection.transport.channels or ()):
            for name in ("client", "subclient"):
                client = vars(channel).get(name)
                sock = getattr(getattr(client, "connection", None), "_sock", None)
                if sock is not None:
                    yield sock
    sock = getattr(getattr(connection._connection, "_transport", None), "sock", None)
    if sock is not None:
        yield sock
