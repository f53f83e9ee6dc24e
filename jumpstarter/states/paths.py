"""Find the shortest way into every configuration of a chart: test cases, and answers to *how can it ever get there?*

Comes from: Chart.step, the pure kernel. No hooks run and no guards are called: both answers of each guard are tried.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from jumpstarter.errors import ChartError, MacrostepLimit
from jumpstarter.states.step import Snapshot, Step

if TYPE_CHECKING:
    from jumpstarter.states.chart import Chart


@dataclass(frozen=True, slots=True)
class Stimulus:
    """One thing that happens to a machine.

    :ivar event: what is sent; empty for the start.
    :ivar guards: what the guards that are asked must answer, by name.
    """

    event: str
    guards: Mapping[str, bool] = field(default_factory=dict)


#: For each configuration (its active paths in document order) what leads there from nothing; the first stimulus is the start.
Paths = dict[tuple[str, ...], tuple[Stimulus, ...]]


def shortest_paths(chart: Chart, *, events: Iterable[str] | None = None, limit: int = 10_000) -> Paths:
    """The shortest way into each configuration that can be reached, nearest first.

    A guard is taken to give the same answer as long as one event is handled. Postponed events are not followed.

    :param events: what may be sent; by default every event that the chart names, patterns without their star.
    :param limit: configurations (with what history states remember) to look at.
    :raises ChartError: there are more than that.
    """
    sent = sorted(named_events(chart) if events is None else set(events))
    found: Paths = {}
    seen: set[object] = set()
    waiting: deque[tuple[Snapshot, tuple[Stimulus, ...]]] = deque()

    def arrive(snapshot: Snapshot, way: tuple[Stimulus, ...]) -> None:
        place = _place(snapshot)
        if place in seen:
            return
        seen.add(place)
        if len(seen) > limit:
            raise ChartError(f"{chart.name}: more than {limit} configurations; send fewer `events`, or raise `limit`")
        found.setdefault(chart.active_in(snapshot), way)
        waiting.append((snapshot, way))

    for guards, snapshot, _ in outcomes(chart, None, ""):
        arrive(snapshot, (Stimulus("", guards),))
    while waiting:
        snapshot, way = waiting.popleft()
        for event in sent:
            for guards, reached, step in outcomes(chart, snapshot, event):
                if not step.postponed:
                    arrive(reached, (*way, Stimulus(event, guards)))
    return found


def simple_paths(chart: Chart, *, events: Iterable[str] | None = None, longest: int = 8) -> Iterator[tuple[Stimulus, ...]]:
    """Every way from the start that comes to no configuration twice and cannot be made longer: as test cases, they take every
    transition in every order that matters. There may be very many; take as many as you like.

    :param events: as for :func:`shortest_paths`.
    :param longest: stimuli after the start, at which a way is cut off.
    """
    sent = sorted(named_events(chart) if events is None else set(events))

    def go_on(snapshot: Snapshot, way: tuple[Stimulus, ...], seen: frozenset[object]) -> Iterator[tuple[Stimulus, ...]]:
        is_end = True
        for event in sent if len(way) <= longest else ():
            for guards, reached, step in outcomes(chart, snapshot, event):
                if step.handled and not step.postponed and _place(reached) not in seen:
                    is_end = False
                    yield from go_on(reached, (*way, Stimulus(event, guards)), seen | {_place(reached)})
        if is_end:
            yield way

    for guards, snapshot, _ in outcomes(chart, None, ""):
        yield from go_on(snapshot, (Stimulus("", guards),), frozenset({_place(snapshot)}))


def outcomes(chart: Chart, snapshot: Snapshot | None, event: str) -> Iterator[tuple[dict[str, bool], Snapshot, Step]]:
    """Everything that an event may lead to: for each combination of the guards that are asked, what comes out.

    Combinations that never come to rest are left out.
    """
    waiting: list[dict[str, bool]] = [{}]
    while waiting:
        answers = waiting.pop()
        try:
            reached, step = chart.step(snapshot, event or None, _Answers(answers))
        except _Unanswered as question:
            waiting += [{**answers, question.guard: answer} for answer in (False, True)]
        except MacrostepLimit:
            continue
        else:
            yield answers, reached, step


class _Answers:
    """Answers that are known so far; raises when another one is asked for."""

    def __init__(self, known: Mapping[str, bool]) -> None:
        self._known = known

    def __call__(self, guard: str) -> bool:
        if guard not in self._known:
            raise _Unanswered(guard)
        return self._known[guard]


class _Unanswered(Exception):  # it never leaves this module
    def __init__(self, guard: str) -> None:
        super().__init__(guard)
        self.guard = guard


def _place(snapshot: Snapshot) -> object:
    return tuple(snapshot["active"]), tuple(sorted((path, tuple(paths)) for path, paths in snapshot["history"].items()))


def named_events(chart: Chart) -> set[str]:
    """What the chart listens to, without what it raises itself and without ``*``, which has no name."""
    named = {event.removesuffix(".*") for event in chart.events}
    return {event for event in named if event != "*" and not event.startswith("done.state")}
