"""A bounded ``repr`` for arguments in headers, logs and events. Pure; used by: protocol, events, logs.

The text is part of the wire (``argsrepr``), so its form is Celery's: strings are quoted but not escaped, containers more than
``maxlevels`` deep show as ``[...]``, and after ``maxlen`` characters comes ``, ...`` and whatever brackets are still open.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable
from decimal import Decimal
from numbers import Number
from typing import Any

from compat_celery.utils.text import truncate

__all__ = ("saferepr",)


def saferepr(o: Any, maxlen: int | None = None, maxlevels: int = 3, seen: set[int] | None = None) -> str:
    """A readable text for any object. Never raises.

    :param maxlen: about how many characters (closing brackets come on top); None for no limit.
    :param maxlevels: how many containers deep; 0 for no limit.
    """
    if not o:
        # What most calls carry; the general way below comes to the same.
        if o == () and type(o) is tuple:
            return "()"
        if o == {} and type(o) is dict:
            return "{}"
    elif type(o) is tuple and set(map(type, o)) == _NUMBERS:
        text = repr(o)
        if maxlen is None or len(text) < maxlen:
            return text
    writer = _Writer(maxlen, maxlevels, seen)
    try:
        writer.write(o)
    except _FullError:
        writer.parts.append(", ...")
        writer.parts.extend(reversed(writer.open))
    return "".join(writer.parts)


class _FullError(Exception):
    """The budget of characters is spent."""


class _Writer:
    """Collects the parts of one text and knows how many characters may follow."""

    __slots__ = ("left", "levels", "open", "parts", "seen")

    def __init__(self, maxlen: int | None, maxlevels: int, seen: set[int] | None) -> None:
        self.parts: list[str] = []
        self.open: list[str] = []
        self.left = maxlen
        self.levels = maxlevels
        self.seen: set[int] = set() if seen is None else seen

    def put(self, text: str) -> None:
        if self.left is not None:
            if self.left <= 0:
                raise _FullError
            self.left -= len(text)
        self.parts.append(text)

    def put_text(self, text: str) -> None:
        if self.left is not None and len(text) >= self.left:
            self.check()
            text = truncate(text, self.left)
        self.put(text)

    def write(self, value: Any) -> None:
        kind = type(value)
        if kind is str:
            self.check()
            self.put(_quoted(value, self.left))
        elif kind is int:
            self.put_text(str(value))
        elif kind in CONTAINERS:
            self.container(value, *CONTAINERS[kind])
        else:
            self.write_other(value)

    def check(self) -> None:
        if self.left is not None and self.left <= 0:
            raise _FullError

    def write_other(self, value: Any) -> None:
        self.check()
        match value:
            case Decimal():
                self.put_text(_repr(value))
            case Number():
                self.put_text(str(value))
            case str():
                self.put(_quoted(value, self.left))
            case bytes():
                self.put(_quoted_bytes(value, self.left))
            case set() | frozenset():
                name = type(value).__name__
                start, end = ("{", "}") if type(value) is set else (f"{name}({{", "})")
                if value:
                    self.container(value, start, end, _Writer.items)
                else:
                    self.put_text(f"{name}()")
            case tuple():
                self.container(value, "(", ")", _Writer.items)
            case dict():
                self.container(value, "{", "}", _Writer.pairs)
            case list():
                self.container(value, "[", "]", _Writer.items)
            case _:
                self.put_text(_repr(value))

    def container(self, value: Any, start: str, end: str, contents: Callable[[_Writer, Any], None]) -> None:
        if end == ")" and len(value) == 1:
            end = ",)"
        if self.levels and len(self.open) >= self.levels:
            self.put(f"{start}...{end}")
            return
        identity = id(value)
        if identity in self.seen:
            self.put_text(f"<Recursion on {type(value).__name__} with id={identity}>")
            return
        self.seen.add(identity)
        self.put(start)
        self.open.append(end)
        contents(self, value)
        self.open.pop()
        self.seen.discard(identity)
        # A bracket that closes is never cut off, even when nothing is left.
        self.parts.append(end)
        if self.left is not None:
            self.left -= len(end)

    def items(self, values: Iterable[Any]) -> None:
        separator = False
        for value in values:
            if separator:
                self.put(", ")
            separator = True
            self.write(value)

    def pairs(self, values: dict[Any, Any]) -> None:
        separator = False
        for key, value in values.items():
            if separator:
                self.put(", ")
            separator = True
            self.check()
            self.put(saferepr(key, self.left, self.levels))
            self.put(": ")
            self.write(value)


_NUMBERS = {int}

CONTAINERS: dict[type, tuple[str, str, Callable[[_Writer, Any], None]]] = {
    list: ("[", "]", _Writer.items),
    tuple: ("(", ")", _Writer.items),
    dict: ("{", "}", _Writer.pairs),
}


def _quoted(text: str, maxlen: int | None) -> str:
    shown = truncate(text, maxlen or 0)
    return "'" + (shown.replace("'", "\\'") if "'" in shown else shown) + "'"


def _quoted_bytes(data: bytes, maxlen: int | None) -> str:
    cut = bool(maxlen) and len(data) > (maxlen or 0)
    shown = data[:maxlen] if cut else data
    try:
        text = shown.decode()
    except UnicodeDecodeError:
        text = shown.hex()
    return f"b'{text}{'...' if cut else ''}'"


def _repr(value: Any) -> str:
    try:
        return repr(value)
    except Exception as error:  # noqa: BLE001 - a user's broken __repr__ must not break the publishing of a task
        where = "\n".join(traceback.format_stack())
        return f"<Unrepresentable {type(value)!r}{id(value):#x}: {error!r} {where!r}>"
