"""What a node's state file says, and what probes conclude from it. The reading half; :mod:`jumpstarter.worker.probe` writes it.

A probe runs every few seconds on every machine, so this imports only what starts within milliseconds: neither the worker (a third
of a second) nor pathlib and dataclasses.

The file holds one record: a header, then facts as JSON. It is overwritten in place; who reads in the middle of that sees a wrong
checksum and looks again.
"""

from __future__ import annotations

import json
import os
import struct
import sys
import time
import zlib
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

VERSION: Final = 1
#: Seconds after which a loop that has not beaten counts as wedged.
MAX_AGE: Final = 5.0

_MAGIC: Final = b"jumpstrt"
#: magic, checksum of all that follows, schema version, length of the facts, pid, start of the process in clock ticks, heartbeat
_HEADER: Final = struct.Struct("<8sIIIIQd")
_CHECKED_FROM: Final = 12
_LOOKS, _BETWEEN_LOOKS = 20, 0.002  # seconds
_AHEAD: Final = 1.0  # seconds; a beat further in the future was written before the machine was started again


class State(NamedTuple):
    """What a state file says.

    :ivar pid: the node's process.
    :ivar started: when that process started, in clock ticks since the boot, or 0 where that is not known: a number that comes again
        is another process's.
    :ivar beat: when its loop last ran, on the machine's monotonic clock; seconds.
    :ivar facts: JSON values. Known are ``node`` (its name), ``lifecycle`` (``started`` and so on), ``health`` (``healthy`` …),
        ``concerns`` (why it is not, for people) and ``children`` (each child's state by its name; ``running`` is good).
    """

    pid: int
    started: int
    beat: float
    facts: Mapping[str, Any]

    @property
    def who(self) -> str:
        """The node's name and process, for people."""
        return f"{self.facts.get('node', 'a node')} (process {self.pid})"


class Verdict(NamedTuple):
    """Yes or no, and one sentence why."""

    is_good: bool
    why: str


def record(state: State) -> bytes:
    """The file's contents for that state."""
    facts = json.dumps(state.facts).encode()
    rest = _HEADER.pack(_MAGIC, 0, VERSION, len(facts), state.pid, state.started, state.beat)[_CHECKED_FROM:] + facts
    return _MAGIC + struct.pack("<I", zlib.crc32(rest)) + rest


def read(path: str | os.PathLike[str]) -> State:
    """What a state file says now.

    :raises OSError: it cannot be read; FileNotFoundError most likely.
    :raises ValueError: it is no state file, or one that this version does not know.
    """
    for _ in range(_LOOKS):
        if (state := _parse(_contents(path), path)) is not None:
            return state
        time.sleep(_BETWEEN_LOOKS)
    raise ValueError(f"{os.fspath(path)} is damaged")


def _contents(path: str | os.PathLike[str]) -> bytes:
    with open(path, "rb") as file:  # noqa: PTH123 - pathlib is a third of what a probe would import
        return file.read()


def _parse(data: bytes, path: str | os.PathLike[str]) -> State | None:
    """None when it is being written."""
    if len(data) < _HEADER.size or not data.startswith(_MAGIC):
        raise ValueError(f"{os.fspath(path)} is no state file of a node")
    _, checksum, version, length, pid, started, beat = _HEADER.unpack_from(data)
    end = _HEADER.size + length
    if zlib.crc32(data[_CHECKED_FROM:end]) != checksum:
        return None
    if version != VERSION:
        raise ValueError(f"{os.fspath(path)} is written in version {version}; this program knows version {VERSION}")
    return State(pid, started, beat, json.loads(data[_HEADER.size : end]))


def live(state: State, *, max_age: float = MAX_AGE) -> Verdict:
    """Whether the node's process is there and its loop has run within the last ``max_age`` seconds."""
    why = _why_not_live(state, max_age)
    return Verdict(why is None, f"{state.who} is live" if why is None else f"{state.who} is not live: {why}")


def ready(state: State, *, max_age: float = MAX_AGE) -> Verdict:
    """Whether the node is live, started and healthy, with all of its children running."""
    why = _why_not_live(state, max_age) or _why_not_ready(state.facts)
    return Verdict(why is None, f"{state.who} is ready" if why is None else f"{state.who} is not ready: {why}")


def _why_not_live(state: State, max_age: float) -> str | None:
    started = process_start(state.pid)
    if started is None or (started != state.started and 0 not in {started, state.started}):
        return "there is no such process"
    age = time.monotonic() - state.beat
    if not -_AHEAD <= age <= max_age:
        return f"its loop has not run for {age:.1f} s ({max_age:g} s are allowed)"
    return None


def _why_not_ready(facts: Mapping[str, Any]) -> str | None:
    lifecycle, health = facts.get("lifecycle", "in an unknown state"), facts.get("health", "of unknown health")
    if lifecycle != "started":
        return f"it is {lifecycle}"
    if health != "healthy":
        return f"it is {health} ({concerns})" if (concerns := facts.get("concerns")) else f"it is {health}"
    waiting = [f"{name} is {state}" for name, state in facts.get("children", {}).items() if state != "running"]
    return ", ".join(waiting[:3]) + (f" and {len(waiting) - 3} more" if waiting[3:] else "") if waiting else None


def process_start(pid: int) -> int | None:
    """When a process started, in clock ticks since the boot; 0 where that cannot be told; None when there is no such process."""
    if sys.platform == "linux":
        try:
            # Fields are separated by spaces, but the second, a name in parentheses, may hold anything.
            fields = _contents(f"/proc/{pid}/stat").rpartition(b")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            return None
        return None if fields[0] in {b"Z", b"X"} else int(fields[19])
    else:  # noqa: RET505 - mypy skips what is not for this platform in this form only
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return None
        except PermissionError:
            pass
        return 0
