"""Small helpers for text: abbreviating, indenting, node-name formats. Pure."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from functools import partial
from pprint import pformat
from textwrap import fill
from typing import Any

__all__ = (
    "abbr",
    "abbrtask",
    "dedent",
    "dedent_initial",
    "ensure_newlines",
    "ensure_sep",
    "fill_paragraphs",
    "indent",
    "join",
    "pluralize",
    "pretty",
    "simple_format",
    "str_to_list",
    "truncate",
)

RE_FORMAT = re.compile(r"%([%\w])")


def str_to_list(s: Any) -> Any:
    """``"a,b"`` → ``["a", "b"]``; anything but a string is given back as it is."""
    return s.split(",") if isinstance(s, str) else s


def dedent_initial(s: str, n: int = 4) -> str:
    """The line without its first ``n`` spaces, where it begins with them."""
    return s.removeprefix(" " * n)


def dedent(s: str, sep: str = "\n") -> str:
    """Every line without its first four spaces."""
    return sep.join(map(dedent_initial, s.splitlines()))


def fill_paragraphs(s: str, width: int, sep: str = "\n") -> str:
    """Each paragraph filled to ``width`` columns."""
    return sep.join(fill(paragraph, width) for paragraph in s.split(sep))


def join(parts: list[str], sep: str = "\n") -> str:
    """The parts that are not empty, joined."""
    return sep.join(filter(None, parts))


def ensure_sep(sep: str, s: str, n: int = 2) -> str:
    """The text with separators added until it has ``n`` of them."""
    return s + sep * (n - s.count(sep))


ensure_newlines = partial(ensure_sep, "\n")


def abbr(text: str | None, maximum: int, ellipsis: str | bool = "...") -> str:
    """The text cut to ``maximum`` characters; ``???`` for None."""
    if text is None:
        return "???"
    if len(text) <= maximum:
        return text
    if isinstance(ellipsis, str) and ellipsis:
        return text[: maximum - len(ellipsis)] + ellipsis
    return text[:maximum]


def abbrtask(name: str | None, maximum: int) -> str:
    """A task's name cut to ``maximum`` characters in its module, not in its last part."""
    if name is None:
        return "???"
    if len(name) <= maximum:
        return name
    module, _, last = name.rpartition(".")
    return f"{abbr(module, maximum - len(last) - 3, False)}[.]{last}"


def indent(text: str, width: int = 0, sep: str = "\n") -> str:
    """Every line moved ``width`` spaces to the right."""
    return sep.join(" " * width + line for line in text.split(sep))


def truncate(s: str, maxlen: int = 128, suffix: str = "...") -> str:
    """The text cut at the last space before ``maxlen`` characters; 0 leaves it whole."""
    if maxlen and len(s) >= maxlen:
        return s[:maxlen].rsplit(" ", 1)[0] + suffix
    return s


def pluralize(n: float, text: str, suffix: str = "s") -> str:
    """The word with its suffix, unless ``n`` is one."""
    return text if n == 1 else text + suffix


def pretty(value: Any, width: int = 80, nl_width: int = 80, sep: str = "\n", **kw: Any) -> str:
    """A value for the terminal; mappings and tuples begin on a line of their own."""
    if isinstance(value, dict):
        return f"{sep} {pformat(value, 4, nl_width)[1:]}"
    if isinstance(value, tuple):
        return f"{sep}    {pformat(value, width=nl_width, **kw)}"
    return pformat(value, width=width, **kw)


def match_case(s: str, other: str) -> str:
    """``s`` in upper case when ``other`` is, else in lower case."""
    return s.upper() if other.isupper() else s.lower()


def simple_format(
    s: str, keys: dict[str, str | Callable[[], str]], pattern: re.Pattern[str] = RE_FORMAT, expand: str = r"\1"
) -> str:
    """Replace ``%x`` by ``keys["x"]`` (or what it returns when called); ``%%`` is a percent sign.

    :raises ValueError: the text uses a key that is not among ``keys``.
    """
    if not s:
        return s
    known = {"%": "%", **keys}

    def resolve(match: re.Match[str]) -> str:
        key = match.expand(expand)
        if key not in known:
            raise ValueError(
                f"Unknown format %{key} in string {s!r}: write %%{key} for the characters themselves, or use one of "
                + ", ".join(f"%{name}" for name in sorted(known))
            )
        value = known[key]
        return value() if callable(value) else value

    return pattern.sub(resolve, s)


def remove_repeating_from_task(task_name: str, s: str) -> str:
    """Leave out the task's module before later mentions: ``"t.add(1), t.add(2)"`` → ``"t.add(1), add(2)"``."""
    module = str(task_name).rpartition(".")[0]
    return remove_repeating(f"{module}.", s) if module else s


def remove_repeating(substr: str, s: str) -> str:
    """Keep the first ``substr`` in the text and leave out later ones, but only where they begin a word."""
    head, found, rest = s.partition(substr)
    if not found or substr not in rest:
        return s
    return head + found + re.sub(r"(?<![\w.-])" + re.escape(substr), "", rest)


class WhateverIO(io.StringIO):
    """A StringIO that takes bytes as well."""

    def __init__(self, v: bytes | str | None = None, *args: Any, **kwargs: Any) -> None:
        super().__init__(v.decode() if isinstance(v, bytes) else v, *args, **kwargs)

    def write(self, data: bytes | str) -> int:
        """Add the text (bytes are UTF-8) and answer how many characters it had."""
        return super().write(data.decode() if isinstance(data, bytes) else data)


StringIO = io.StringIO
