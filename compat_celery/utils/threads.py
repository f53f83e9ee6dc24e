"""Stacks and storage that belong to one thread, one greenlet or one asyncio task. Knows nobody but the proxies.

They are built on context variables: every thread starts with an empty context, greenlet gives each greenlet one, and a coroutine
inherits a copy of its parent's. So coroutine tasks that share a loop see their own current task and request.
"""

from __future__ import annotations

import sys
import threading
import traceback
import types
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from threading import get_ident
from typing import Any, Generic, TypeVar

from compat_celery.local import Proxy

__all__ = ("Local", "LocalManager", "LocalStack", "bgThread", "get_ident")

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


_LocalStack = LocalStack


class Local:
    """Attributes per context."""

    __slots__ = ("_values",)

    def __init__(self) -> None:
        object.__setattr__(self, "_values", ContextVar("Local", default=types.MappingProxyType({})))

    def _read(self) -> dict[str, Any]:
        values: dict[str, Any] = object.__getattribute__(self, "_values").get()
        return values

    def _write(self, values: dict[str, Any]) -> None:
        object.__getattribute__(self, "_values").set(values)

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        return iter(self._read().items())

    def __call__(self, proxy: str) -> Proxy:
        return Proxy(getattr, (self, proxy), name=proxy)

    def __release_local__(self) -> None:
        self._write({})

    def __getattr__(self, name: str) -> Any:
        try:
            return self._read()[name]
        except KeyError:
            raise AttributeError(name) from None

    def __setattr__(self, name: str, value: Any) -> None:
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
        self._shutdown_asked = threading.Event()
        self._has_stopped = threading.Event()

    def body(self) -> None:
        """One round of the work."""
        raise NotImplementedError

    def on_crash(self, msg: str, *fmt: Any, **_: Any) -> None:
        """Say on standard error what went wrong."""
        print(msg.format(*fmt), file=sys.stderr)
        traceback.print_exc(None, sys.stderr)

    def run(self) -> None:
        """Repeat the body. Subclasses override :meth:`body` instead."""
        try:
            while not self._shutdown_asked.is_set():
                try:
                    self.body()
                except Exception as error:  # noqa: BLE001 - it is reported, and ends the thread
                    self.on_crash("{0!r} crashed: {1!r}", self.name, error)
                    return
        finally:
            self._has_stopped.set()

    def stop(self) -> None:
        """Ask the thread to end, and wait until it has."""
        self._shutdown_asked.set()
        if self.ident is not None and self.ident != get_ident():
            self._has_stopped.wait()
            self.join()
