"""What a pipeline has done since it started. Kept by: lanes. Shown by: cli, tests."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field


@dataclass(slots=True)
class Report:
    """Counts since the start.

    :ivar taken: rows that were claimed. :ivar done: rows whose results are stored. :ivar failed: rows that failed, for good or not.
    :ivar put_back: rows that wait again, those included that were not begun. :ivar dead: rows that were given up.
    :ivar lost: rows whose lease ran out meanwhile. :ivar batches: that were settled. :ivar requests: tries of steps.
    :ivar reasons: of failures, by what was raised.
    :ivar waited: seconds, by what for: ``budget``, ``rows``. With several lanes they add up.
    :ivar granted: by unit, what budgets granted, less what was given back.
    :ivar started: wall time. :ivar allowance: by unit, what its tightest window allows in a second.
    """

    started: float = 0.0
    taken: int = 0
    done: int = 0
    failed: int = 0
    put_back: int = 0
    dead: int = 0
    lost: int = 0
    batches: int = 0
    requests: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    waited: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    granted: Counter[str] = field(default_factory=Counter)
    allowance: dict[str, float] = field(default_factory=dict)

    def utilisation(self, now: float) -> dict[str, float]:
        """By unit, the share of the allowance that was taken until that wall time; more than 1.0 where a window began anew."""
        seconds = max(now - self.started, 1e-9)
        return {unit: self.granted[unit] / (rate * seconds) for unit, rate in self.allowance.items()}

    def lines(self, now: float) -> list[str]:
        """For people."""
        seconds = max(now - self.started, 1e-9)
        calls = f"{self.taken} taken in {self.batches} batches, {self.requests} calls"
        found = [
            f"{self.done} rows done in {seconds:.1f} s ({self.done / seconds:.1f}/s), {calls}",
            f"{self.failed} failed, {self.put_back} put back, {self.dead} dead, {self.lost} lost their lease",
        ]
        found += [f"  {count} times {reason}" for reason, count in self.reasons.most_common(10)]
        found += [f"waited {seconds:.1f} s for {what}" for what, seconds in sorted(self.waited.items()) if seconds >= 0.05]
        found += [f"{share:.1%} of the allowance of {unit} used" for unit, share in sorted(self.utilisation(now).items())]
        return found
