"""Messages as JSON: a message class says by its annotations what its fields are, so values come back as what they were.

Understands what JSON has, and dataclasses, enums, dates and times, bytes, decimals, UUIDs, tuples and sets. Nothing is imported or
made by a name on the wire: a receiver gives the classes that it knows.
"""

from __future__ import annotations

import base64
import dataclasses
import json
import types
import typing
from collections.abc import Callable, Collection, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from functools import cache
from typing import Any, Union, get_args, get_origin
from uuid import UUID

from jumpstarter.actors.messages import Command, Message
from jumpstarter.errors import MessageError, Undecodable

#: What is written as text, and how it is read.
_TEXTS: Mapping[type, Callable[[str], Any]] = {
    datetime: datetime.fromisoformat,
    date: date.fromisoformat,
    time: time.fromisoformat,
    Decimal: Decimal,
    UUID: UUID,
}


def name_of(kind: type[Message]) -> str:
    """The name of a class of messages on the wire: its ``wire_name``, or its module and name."""
    return getattr(kind, "wire_name", None) or f"{kind.__module__}.{kind.__qualname__}"


def encode(value: Any) -> bytes:
    """A message, an answer or any value in it, as JSON.

    :raises MessageError: something in it cannot be written.
    """
    try:
        return json.dumps(_plain(value), separators=(",", ":")).encode()
    except (TypeError, ValueError) as error:
        raise MessageError(f"{value!r} cannot be sent to another process: {error}") from error


def decode(kind: Any, body: bytes) -> Any:
    """The value of this type (a class of messages, ``list[Item]`` …) that was encoded.

    :raises Undecodable: it is something else.
    """
    try:
        return _typed(kind, json.loads(body))
    except (TypeError, ValueError, KeyError, ArithmeticError) as error:
        raise Undecodable(f"{body[:200]!r} is no {getattr(kind, '__name__', kind)}: {error}") from error


def answer_of(kind: type[Message]) -> Any:
    """What a command is answered with: the ``Item`` of ``Command[Item]``; Any where it is not said."""
    for base in kind.__mro__:
        for generic in getattr(base, "__orig_bases__", ()):
            if get_origin(generic) is Command:
                (answer,) = get_args(generic)
                return Any if isinstance(answer, typing.TypeVar) else answer
    return Any


def _plain(value: Any) -> Any:
    if value is None or (isinstance(value, str | int | float | bool) and not isinstance(value, Enum)):
        return value
    if isinstance(value, Enum):
        return _plain(value.value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {_key(key): _plain(item) for key, item in value.items()}
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, Collection):
        return [_plain(item) for item in value]
    if isinstance(value, tuple(_TEXTS)):
        return value.isoformat() if hasattr(value, "isoformat") else str(value)
    raise TypeError(f"a {type(value).__name__} has no form in JSON")


def _key(key: Any) -> str:
    plain = _plain(key)
    return plain if isinstance(plain, str) else json.dumps(plain)


def _typed(kind: Any, value: Any) -> Any:
    if value is None or kind is Any or isinstance(kind, typing.TypeVar):
        return value
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        return _first(get_args(kind), value)
    if origin is not None:
        return _generic(origin, get_args(kind), value)
    if not isinstance(kind, type):
        return value
    if dataclasses.is_dataclass(kind):
        return _instance(kind, value)
    return _atom(kind, value)


def _atom(kind: type, value: Any) -> Any:
    if issubclass(kind, Enum):
        return kind(value)
    if issubclass(kind, bytes):
        return base64.b64decode(value)
    if issubclass(kind, timedelta):
        return timedelta(seconds=value)
    if kind in _TEXTS:
        return _TEXTS[kind](value)
    if kind in (tuple, set, frozenset):
        return kind(value)
    if kind in (int, str, bool, list, dict) and not isinstance(value, kind):
        raise TypeError(f"{value!r} is no {kind.__name__}")
    return float(value) if kind is float else value


def _first(kinds: tuple[Any, ...], value: Any) -> Any:
    """As the first of several types that it can be."""
    problems = []
    for kind in kinds:
        if kind is type(None):
            continue
        try:
            return _typed(kind, value)
        except (TypeError, ValueError, KeyError) as error:
            problems.append(error)
    raise TypeError(f"{value!r} is none of {kinds}: {problems}")


def _generic(origin: Any, arguments: tuple[Any, ...], value: Any) -> Any:
    if origin is typing.Literal:
        if value not in arguments:
            raise ValueError(f"{value!r} is none of {arguments}")
        return value
    if isinstance(origin, type) and issubclass(origin, Mapping):
        keys, items = arguments
        return {(key if keys is str else _typed(keys, json.loads(key))): _typed(items, item) for key, item in value.items()}
    if origin is tuple and Ellipsis not in arguments:
        return tuple(_typed(kind, item) for kind, item in zip(arguments, value, strict=True))
    if isinstance(origin, type) and issubclass(origin, Collection):
        made = origin if origin in (set, frozenset, tuple) else list
        return made(_typed(arguments[0], item) for item in value)
    if dataclasses.is_dataclass(origin):
        return _instance(origin, value)
    return value


def _instance(kind: Any, value: Any) -> Any:
    if not isinstance(value, Mapping):
        raise TypeError(f"{value!r} is no {kind.__name__}")
    hints = _hints(kind)
    # A field that this version does not know came from a newer one.
    return kind(**{name: _typed(hints[name], item) for name, item in value.items() if name in hints})


@cache
def _hints(kind: type) -> dict[str, Any]:
    hints = typing.get_type_hints(kind)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}
