"""Figures, goals and tables: what every benchmark ends with.

Speeds of a shared machine drift by 1.4 times, so a ratio is taken within a round, in which everybody ran once and in turn; a
figure is the median over the rounds, with the least and the most.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import statistics
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the summary.

    :ivar what: what was measured, and against whom.
    :ivar ours: our figure. :ivar peer: the other's.
    :ivar ratio: the number that the goal is about; None where nothing is promised.
    :ivar goal: ``>= 25`` or ``<= 1.5``; empty where nothing is promised.
    """

    what: str
    ours: str
    peer: str = ""
    ratio: float | None = None
    goal: str = ""

    @property
    def ok(self) -> bool:
        """True when the goal is reached, or there is none."""
        if not self.goal or self.ratio is None:
            return True
        sign, limit = self.goal.split()
        return self.ratio >= float(limit) if sign == ">=" else self.ratio <= float(limit)


def spread(values: Sequence[float], form: str = ",.0f") -> str:
    """Median [least-most]."""
    if len(values) == 1:
        return f"{values[0]:{form}}"
    return f"{statistics.median(values):{form}} [{min(values):{form}}-{max(values):{form}}]"


def versus(what: str, ours: Sequence[float], theirs: Sequence[float], *, goal: str = "", form: str = ",.0f") -> Line:
    """Ours against theirs, round by round: the ratio is ours / theirs."""
    ratios = [mine / other for mine, other in zip(ours, theirs, strict=True)]
    return Line(what, spread(ours, form), spread(theirs, form), statistics.median(ratios), goal)


def table(lines: Iterable[Line]) -> str:
    """For people: what, ours, the peer's, ratio, goal, ok."""
    rows = [("what", "ours", "peer", "ratio", "goal", "")]
    for line in lines:
        verdict = "" if not line.goal else "ok" if line.ok else "MISSED"
        rows.append((line.what, line.ours, line.peer, "" if line.ratio is None else f"{line.ratio:.2f}", line.goal, verdict))
    widths = [max(len(row[column]) for row in rows) for column in range(6)]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)


def parser(description: str | None, *, rounds: int = 3) -> argparse.ArgumentParser:
    """The options that all of them have."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--rounds", type=int, default=rounds, help=f"(default: {rounds})")
    made.add_argument("--short", action="store_true", help="seconds instead of minutes: one round, little work; goals mean little")
    made.add_argument("--check", action="store_true", help="exit code 1 when a goal is missed")
    made.add_argument("--json", type=Path, metavar="FILE", help="write the summary to this file")
    made.add_argument("--ease", type=float, default=1.0, help="divide every goal by so much (for a check on a busy machine)")
    return made


def eased(lines: Sequence[Line], ease: float) -> list[Line]:
    """The same lines with easier goals."""
    if ease == 1.0:
        return list(lines)
    made = []
    for line in lines:
        goal = line.goal
        if goal:
            sign, limit = goal.split()
            goal = f"{sign} {float(limit) / ease if sign == '>=' else float(limit) * ease:.3g}"
        made.append(Line(line.what, line.ours, line.peer, line.ratio, goal))
    return made


def finish(lines: Sequence[Line], options: argparse.Namespace) -> int:
    """Print the summary, write it where it was asked for, and answer the exit code."""
    lines = eased(lines, options.ease)
    print("\n" + table(lines), flush=True)
    if options.json:
        options.json.write_text(json.dumps([asdict(line) for line in lines], indent=1))
    missed = [line.what for line in lines if not line.ok]
    if missed and options.check:
        print(f"MISSED: {'; '.join(missed)}", file=sys.stderr)
        return 1
    return 0


def ground(*more: str) -> str:
    """On what this was measured."""
    ours = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("redis", "hiredis", "kombu", "anyio", "uvloop"))
    about = f"Python {platform.python_version()}, {platform.machine()}, {len(os.sched_getaffinity(0))} processors; ours with {ours}"
    load = f"load before: {os.getloadavg()[0]:.1f}"
    return "; ".join([about, *more, load])
