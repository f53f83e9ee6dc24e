"""The signal: weak receivers, filtered by sender, whose errors are logged and never reach the sender."""

from __future__ import annotations

import functools
import threading
import time
import warnings
import weakref
from collections.abc import Callable
from typing import Any

from compat_celery._names import celery_named
from compat_celery.exceptions import CDeprecationWarning
from compat_celery.local import PromiseProxy, Proxy
from compat_celery.utils.functional import fun_accepts_kwargs
from compat_celery.utils.log import get_logger
from compat_celery.utils.time import humanize_seconds

__all__ = ("Signal",)

logger = get_logger(__name__)

Receiver = Callable[..., Any]
#: (who receives, from whom)
Key = tuple[Any, Any]

#: Seconds between calls of a receiver that is connected with ``retry=True``: the first, what is added each time, the last.
RETRY_WAIT = (2.0, 2.0, 30.0)


def _identity(target: Any) -> Any:
    if isinstance(target, Proxy):
        target = target._get_current_object()
    if isinstance(target, str | bytes):
        return target
    if hasattr(target, "__func__"):
        # A bound method is a new object at every look-up; its function and instance are not.
        return id(getattr(target, "__self__", None)), id(target.__func__)
    return id(target)


ANYONE = _identity(None)


def _key(receiver: Any, sender: Any, dispatch_uid: Any) -> Key:
    uid = dispatch_uid or getattr(receiver, "_dispatch_uid", None)
    return uid or _identity(receiver), _identity(sender)


@celery_named
class Signal:
    """Something that happens, with those who want to be told.

    :param providing_args: the names of the keyword arguments it is sent with; for people.
    :param use_caching: accepted for compatibility; finding the receivers is cheap.
    :param name: for people.
    """

    def __init__(self, providing_args: Any = None, use_caching: bool = False, name: str | None = None) -> None:
        self.receivers: list[tuple[Key, Any]] = []
        self.providing_args = set(providing_args or ())
        self.use_caching = use_caching
        self.name = name
        # Re-entrant: a weak reference's callback may run inside the lock, whenever the garbage collector does.
        self.lock = threading.RLock()
        self._some_died = False

    def connect(self, *args: Any, **kwargs: Any) -> Any:
        """Tell ``receiver`` from now on. Use it as ``signal.connect(receiver, …)`` or as a decorator, with or without options.

        :param receiver: takes keyword arguments (``**kwargs``).
        :param sender: only when this one sends; None: whoever does.
        :param weak: do not keep the receiver alive (default). Lambdas and nested functions need ``weak=False``.
        :param dispatch_uid: connect only once under this name.
        :param retry: call the receiver again, after a while, until it raises no error. Keeps it alive.
        :raises ValueError: the receiver does not take keyword arguments.
        """
        if args and callable(args[0]) and not isinstance(args[0], type):
            return self._connect(args[0], *args[1:], **kwargs)
        return functools.partial(self._connect_with, args, kwargs)

    def _connect_with(self, args: tuple[Any, ...], kwargs: dict[str, Any], receiver: Receiver) -> Receiver:
        return self._connect(receiver, *args, **kwargs)

    def _connect(
        self, receiver: Receiver, sender: Any = None, weak: bool = True, dispatch_uid: Any = None, retry: bool = False
    ) -> Receiver:
        if not fun_accepts_kwargs(receiver):
            raise ValueError("Signal receiver must accept keyword arguments: add **kwargs to its parameters.")
        if isinstance(sender, PromiseProxy) and not sender.__evaluated__():
            sender.__then__(lambda: self._connect(receiver, sender._get_current_object(), weak, dispatch_uid, retry))
            return receiver
        target: Any = receiver
        if retry:
            target, weak = _until_it_succeeds(receiver, dispatch_uid), False
        self._add(_key(target, sender, dispatch_uid), self._reference(target) if weak else target)
        return receiver

    def _reference(self, receiver: Receiver) -> Any:
        kind = weakref.WeakMethod if hasattr(receiver, "__self__") and hasattr(receiver, "__func__") else weakref.ref
        return kind(receiver, self._on_death)

    def _on_death(self, _reference: Any) -> None:
        # Only a mark: this runs during garbage collection, wherever that happens.
        self._some_died = True

    def _add(self, key: Key, receiver: Any) -> None:
        with self.lock:
            self._bury()
            if all(known != key for known, _ in self.receivers):
                self.receivers.append((key, receiver))

    def _bury(self) -> None:
        if self._some_died:
            self._some_died = False
            self.receivers[:] = [
                (key, receiver)
                for key, receiver in self.receivers
                if not (isinstance(receiver, weakref.ref) and receiver() is None)
            ]

    def disconnect(
        self, receiver: Receiver | None = None, sender: Any = None, weak: bool | None = None, dispatch_uid: Any = None
    ) -> bool:
        """Do not tell the receiver any more; answers whether it was connected."""
        if weak is not None:
            warnings.warn("Passing `weak` to disconnect has no effect.", CDeprecationWarning, stacklevel=2)
        key = _key(receiver, sender, dispatch_uid)
        with self.lock:
            self._bury()
            for index, (known, _) in enumerate(self.receivers):
                if known == key:
                    del self.receivers[index]
                    return True
        return False

    def has_listeners(self, sender: Any = None) -> bool:
        """Whether somebody would be told."""
        return bool(self._live_receivers(sender))

    def send(self, sender: Any, **named: Any) -> list[tuple[Receiver, Any]]:
        """Tell all receivers; answers each with what it returned, or the error it raised (which is logged)."""
        # Signals are sent several times for every task, mostly to nobody; this is all that it costs then.
        if not self.receivers:
            return []
        if self._some_died:
            with self.lock:
                self._bury()
        answers = []
        for (_, source), target in tuple(self.receivers):
            if source != ANYONE and source != _identity(sender):
                continue
            receiver = target() if isinstance(target, weakref.ref) else target
            if receiver is None:  # it died just now
                continue
            try:
                answer = receiver(signal=self, sender=sender, **named)
            except Exception as error:
                logger.exception("Signal handler %r raised: %r", receiver, error)
                answer = error
            answers.append((receiver, answer))
        return answers

    send_robust = send

    def _live_receivers(self, sender: Any) -> list[Receiver]:
        wanted = (ANYONE, _identity(sender))
        with self.lock:
            self._bury()
            found = [receiver for (_, source), receiver in self.receivers if source in wanted]
        live = (receiver() if isinstance(receiver, weakref.ref) else receiver for receiver in found)
        return [receiver for receiver in live if receiver is not None]

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.name} providing_args={self.providing_args!r}>"


def _until_it_succeeds(receiver: Receiver, dispatch_uid: Any) -> Receiver:
    @functools.wraps(receiver)
    def again(*args: Any, **kwargs: Any) -> Any:
        wait, step, longest = RETRY_WAIT
        while True:
            try:
                return receiver(*args, **kwargs)
            except Exception:
                when = humanize_seconds(wait, "in", " ")
                logger.exception("Could not process signal receiver %r. Retrying %s...", receiver, when)
                time.sleep(wait)
                wait = min(wait + step, longest)

    # disconnect(receiver) is called with the original.
    again._dispatch_uid = dispatch_uid or _identity(receiver)  # type: ignore[attr-defined] # read by _key
    return again
