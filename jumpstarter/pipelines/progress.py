"""How far a pipeline is, for people: one line, or a few. Comes from: stores and reports. Goes to: cli."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jumpstarter.pipelines.budget import Budget
from jumpstarter.pipelines.clocks import clock
from jumpstarter.pipelines.stores.port import Counts, Room

#: Cells of the bar.
_WIDTH = 24


@dataclass(frozen=True, slots=True)
class Progress:
    """A pipeline at one moment.

    :ivar totals: what all its processes have counted: ``done``, ``failed``, ``put_back``, ``dead``, ``requests``, ``batches``.
    :ivar rooms: what its budgets say. :ivar rate: rows a second, where that is known.
    """

    name: str
    counts: Counts
    totals: dict[str, float]
    rooms: tuple[tuple[Budget, Room], ...]
    rate: float = 0.0

    @property
    def share(self) -> float:
        """Of all rows that are known, those that are not open."""
        done = self.totals.get("done", 0.0) + self.counts.dead
        return done / (done + self.counts.open) if done + self.counts.open else 1.0

    @property
    def remaining(self) -> float | None:
        """Seconds until the open rows are done at this rate; None where that is not known."""
        return self.counts.open / self.rate if self.rate > 0 else None

    def line(self) -> str:
        """``Geocode ███░░ 62% 1240 done, 760 open, 83.1/s, 9s left | requests 3/10, rows 250/1000, resets in 4h12m``."""
        filled = round(self.share * _WIDTH)
        text = f"{self.name} {'█' * filled}{'░' * (_WIDTH - filled)} {self.share:.0%} {int(self.totals.get('done', 0))} done, "
        text += f"{self.counts.open} open"
        if self.counts.dead:
            text += f", {self.counts.dead} dead"
        if self.rate:
            text += f", {self.rate:.1f}/s"
        if self.remaining is not None:
            text += f", {span(self.remaining)} left"
        budgets = [part for _, room in self.rooms for part in _left(room)]
        return f"{text} | {', '.join(budgets)}" if budgets else text

    def as_dict(self) -> dict[str, Any]:
        """For programs."""
        return {
            "pipeline": self.name,
            "waiting": self.counts.waiting,
            "delayed": self.counts.delayed,
            "leased": self.counts.leased,
            "dead": self.counts.dead,
            "totals": self.totals,
            "budgets": {
                budget.name: [
                    {
                        "unit": look.window.unit,
                        "limit": look.window.limit,
                        "period": look.window.period,
                        "left": look.left,
                        "resets": look.resets,
                    }
                    for look in room.looks
                ]
                for budget, room in self.rooms
            },
        }


def look(pipeline: Any, rate: float = 0.0) -> Progress:
    """Ask the store about a pipeline (its class, or one that runs). Blocks for the time of a few calls."""
    source = pipeline.rows
    name = pipeline.__name__ if isinstance(pipeline, type) else pipeline.kind
    rooms = tuple((budget, budget.peek_nowait()) for budget in pipeline.design.budgets)
    return Progress(name, source.store.counts(source.queue), source.store.progress(name), rooms, rate)


def span(seconds: float) -> str:
    """``42s``, ``3m20s``, ``4h12m``, ``2d3h``."""
    whole = int(seconds)
    for size, unit, smaller, part in ((86_400, "d", 3_600, "h"), (3_600, "h", 60, "m"), (60, "m", 1, "s")):
        if whole >= size:
            return f"{whole // size}{unit}{whole % size // smaller}{part}"
    return f"{whole}s"


def _left(room: Room) -> list[str]:
    found = [f"{one.window.unit} {one.left}/{one.window.limit}" for one in room.looks]
    away = room.resets - clock().now()
    return [*found, f"resets in {span(away)}"] if away >= 1 else found
