"""What commands say about messages in quarantine: tables, texts and JSON. Pure: no I/O.

Whatever comes out of a message was written by a stranger, and a terminal obeys what it is sent: characters that do not print
(escape sequences, line feeds in names, marks that turn the direction of writing) are shown as backslash escapes.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from jumpstarter.jobs import Envelope, Quarantined

#: A body or a text of evidence is cut off after so many characters where not all of it is asked for.
_SHOWN: Final = 4000
#: In tables the names of queues and tasks are cut, to lengths between these two, so that the reason has so many columns of the
#: terminal; the others take so many.
_NAMES: Final = (12, 40)
_REASON: Final = 30
_OTHERS: Final = 26
_COLUMNS: Final = ("ID", "AGE", "QUEUE", "TASK", "ATTEMPTS", "REASON")


def plain(text: str, *, lines: bool = False) -> str:
    """The text without anything that a terminal would obey.

    :param lines: line feeds and tabs stay: the text stands on lines of its own.
    """
    kept = "\n\t" if lines else ""
    return "".join(one if one.isprintable() or one in kept else _escaped(one) for one in text)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")


def age(seconds: float) -> str:
    """A span of time in one short word: ``42s``, ``3min``, ``5h``, ``12d``."""
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= size:
            return f"{int(seconds // size)}{unit}"
    return f"{max(0, int(seconds))}s"


def header(resting: Quarantined, name: str) -> str:
    """One of the message's headers as text; empty where there is none."""
    value = resting.envelope.headers.get(name) if resting.envelope is not None else None
    return "" if value is None else str(value)


# The table


def table(resting: Sequence[Quarantined], *, now: float, width: int | None) -> str:
    """One line for each, under a line of titles.

    :param now: wall time in seconds.
    :param width: columns of the terminal, to which reasons are cut; None: not at all.
    """
    shortest, longest = _NAMES
    names = longest if width is None else min(longest, max(shortest, (width - _REASON - _OTHERS) // 2))
    rows = [_COLUMNS, *(_row(one, now, names) for one in resting)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_COLUMNS))]
    lines = ["  ".join(cell.ljust(size) for cell, size in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join(line if width is None else _cut(line, width) for line in lines)


def _row(one: Quarantined, now: float, names: int) -> tuple[str, ...]:
    task = header(one, "task") or ("-" if one.envelope is not None else "(no message)")
    queue, task = (_cut(plain(name), names) for name in (one.queue, task))
    return plain(one.id), age(now - one.at), queue, task, str(one.attempt), plain(one.reason)


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: max(0, width - 1)]}…"


# One message


def page(one: Quarantined, *, now: float, full: bool) -> str:
    """Everything about one message, for people.

    :param now: wall time in seconds.
    :param full: long bodies and texts whole.
    """
    facts = {
        "id": one.id,
        "queue": one.queue,
        "task": header(one, "task"),
        "task id": header(one, "id"),
        "reason": one.reason,
        "since": _since(one.at, now),
        "attempts": one.attempt,
    }
    sections = [_section("", {name: value for name, value in facts.items() if value != ""}, full=full)]
    sections.append(_section("evidence", one.evidence, full=full, lines=True))
    if one.envelope is not None:
        sections += _message(one.envelope, full=full)
    else:
        sections.append(_block(f"bytes that are no message ({len(one.raw):,})", _text(one.raw), full=full))
    return "\n\n".join(section for section in sections if section)


def _since(at: float, now: float) -> str:
    try:
        date = datetime.fromtimestamp(at, UTC)
    except (OverflowError, ValueError, OSError):
        return str(at)
    return f"{date.isoformat(sep=' ', timespec='seconds')} ({age(now - at)} ago)"


def _message(envelope: Envelope, *, full: bool) -> list[str]:
    kind = f"body ({envelope.content_type}, {envelope.content_encoding}, {len(envelope.body):,} bytes)"
    return [
        _section("headers", envelope.headers, full=full),
        _section("properties", envelope.properties, full=full),
        _block(kind, _text(envelope.body), full=full),
    ]


def _section(title: str, facts: Mapping[str, Any], *, full: bool, lines: bool = False) -> str:
    """A name and a value in each line. ``lines``: texts of several lines (stacks) stand as such below their names."""
    if not facts:
        return ""
    names = {name: plain(str(name)) for name in facts}
    width = max(map(len, names.values()))
    indent = "  " if title else ""
    said = [title] if title else []
    for name, value in facts.items():
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=repr)
        if lines and "\n" in text.strip("\n"):
            said += [f"{indent}{names[name]}", _indented(text, f"{indent}  ", full=full)]
        else:
            said.append(f"{indent}{names[name].ljust(width)}  {_limited(plain(text), full=full)}".rstrip())
    return "\n".join(said)


def _block(title: str, text: str, *, full: bool) -> str:
    return f"{plain(title)}\n{_indented(text, '  ', full=full)}"


def _indented(text: str, indent: str, *, full: bool) -> str:
    shown = _limited(plain(text.strip("\n").expandtabs(), lines=True), full=full)
    return "\n".join(f"{indent}{line}".rstrip() for line in shown.split("\n"))


def _limited(text: str, *, full: bool) -> str:
    if full or len(text) <= _SHOWN:
        return text
    return f"{text[:_SHOWN]}… ({len(text) - _SHOWN:,} more characters; --full shows them)"


def _text(content: bytes) -> str:
    return content.decode("utf-8", "backslashreplace")


# JSON


def record(one: Quarantined, *, full: bool) -> dict[str, Any]:
    """What rests as a JSON object.

    :param full: with the message itself: ``body`` (or ``raw``) as text, or ``body_base64`` where it is no UTF-8.
    """
    facts: dict[str, Any] = {
        "id": one.id,
        "at": one.at,
        "queue": one.queue,
        "task": header(one, "task") or None,
        "task_id": header(one, "id") or None,
        "attempts": one.attempt,
        "reason": one.reason,
        "evidence": dict(one.evidence),
        "is_message": one.envelope is not None,
    }
    if full and one.envelope is not None:
        envelope = one.envelope
        facts |= {
            "headers": dict(envelope.headers),
            "properties": dict(envelope.properties),
            "content_type": envelope.content_type,
            "content_encoding": envelope.content_encoding,
            "exchange": envelope.exchange,
            "routing_key": envelope.routing_key,
            "priority": envelope.priority,
            **_bytes("body", envelope.body),
        }
    elif full:
        facts |= _bytes("raw", one.raw)
    return facts


def _bytes(name: str, content: bytes) -> dict[str, str]:
    try:
        return {name: content.decode("utf-8")}
    except UnicodeDecodeError:
        return {f"{name}_base64": base64.b64encode(content).decode("ascii")}
