"""Registering remote control commands, by Celery's names. Commands are kept in :class:`Panel`; the control plane that answers
broadcasts is still to come (it is an issue of its own), so a command registered here can be called, but nobody on the wire
reaches it.
"""

from __future__ import annotations

from collections import UserDict
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

F = TypeVar("F", bound=Callable[..., Any])

__all__ = ("Panel", "add_consumer", "cancel_consumer", "control_command", "inspect_command")


class ControllerInfo(NamedTuple):
    """What a command says of itself: how it is called, and what its arguments are."""

    alias: str | None
    type: str
    visible: bool
    default_timeout: float
    help: str | None
    signature: str | None
    args: Sequence[tuple[str, Any]] | None
    variadic: str | None


class Panel(UserDict[str, Callable[..., Any]]):
    """The commands by name, and beside them what they say of themselves."""

    data: dict[str, Callable[..., Any]] = {}  # noqa: RUF012 - one registry for the process, as in Celery
    meta: dict[str, ControllerInfo] = {}  # noqa: RUF012 - as above

    @classmethod
    def register(cls, *args: Any, **kwargs: Any) -> Any:
        """Use as a decorator, bare or with options."""
        if args and callable(args[0]) and not kwargs:
            return cls._register()(args[0])
        return cls._register(**kwargs)

    @classmethod
    def _register(
        cls,
        name: str | None = None,
        alias: str | None = None,
        type: str = "control",  # noqa: A002 - Celery's keyword
        visible: bool = True,
        default_timeout: float = 1.0,
        help: str | None = None,  # noqa: A002 - Celery's keyword
        signature: str | None = None,
        args: Sequence[tuple[str, Any]] | None = None,
        variadic: str | None = None,
    ) -> Callable[[F], F]:
        def register(function: F) -> F:
            command = name or function.__name__
            text = help or (function.__doc__ or "").strip().split("\n")[0]
            cls.data[command] = function
            cls.meta[command] = ControllerInfo(alias, type, visible, default_timeout, text, signature, args, variadic)
            if alias:
                cls.data[alias] = function
            return function

        return register


def control_command(**kwargs: Any) -> Any:
    """Register a command that changes the worker."""
    return Panel.register(type="control", **kwargs)


def inspect_command(**kwargs: Any) -> Any:
    """Register a command that only tells something."""
    return Panel.register(type="inspect", **kwargs)


def add_consumer(state: Any, queue: str, *_args: Any, **_options: Any) -> Any:
    """Consume from another queue from now on.

    :raises NotImplementedError: the control plane is still to come.
    """
    raise NotImplementedError(f"cannot consume from {queue!r}: a running worker's queues cannot be changed yet; start it with -Q")


def cancel_consumer(state: Any, queue: str, **_options: Any) -> Any:
    """Consume from a queue no more.

    :raises NotImplementedError: the control plane is still to come.
    """
    raise NotImplementedError(
        f"cannot stop consuming from {queue!r}: a running worker's queues cannot be changed yet; start it with -Q"
    )
