"""What is looked up only when metrics are exported: rooms above say here what they know. Shown by: observer.

Whoever has such a value calls :func:`measure` when it is imported; nothing is called unless this process exports metrics.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

#: Values, each with its attributes.
Look = Callable[[], Iterable[tuple[int, Mapping[str, str]]]]


@dataclass(frozen=True, slots=True)
class Measure:
    """A metric whose value somebody knows.

    :ivar only_grows: it counts what has happened; otherwise it says how much there is now.
    :ivar look: called in the exporter's thread.
    """

    name: str
    unit: str
    description: str
    look: Look
    only_grows: bool = False


measures: list[Measure] = []


def measure(name: str, unit: str, description: str, look: Look, *, only_grows: bool = False) -> None:
    """Add one."""
    measures.append(Measure(name, unit, description, look, only_grows))
