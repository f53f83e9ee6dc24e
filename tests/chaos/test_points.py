"""Crashes at some of the named points: those where most is under way. `make chaos` tries every point on every broker."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.crash import crash
from tests.chaos.points import FAULTY, POINTS
from tests.peers import our_side

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

SHORT = [
    ("redis", "after-claim-before-record"),
    ("redis", "result-stored-before-ack"),
    ("redis", "in-reaper-after-pop"),
    ("redis-apart", "chord-counted-before-body-published"),
    ("sqlite", "before-requeue"),
    ("sqlite", "in-publisher-before-confirm"),
]


@pytest.mark.parametrize(("place", "point"), SHORT)
def test_a_crash_at_a_point_loses_nothing_and_repeats_only_what_it_hit(place: str, point: str, tmp_path: Path) -> None:
    result = crash(our_side(), point, place, tmp_path)
    assert result.reached, f"no process died at {point}: where has it gone?\n{result.details()}"
    assert result.passed, result.details()


def test_every_point_that_the_issue_names_is_there() -> None:
    issue = """after claim before record, after record before decode, decoded, before admit, admitted, before run, in run, returned, before
    result stored, result stored before ack, acked before chord count, chord counted before body published, body published, before
    requeue, after requeue, before renewal, after renewal, in reaper after pop, in reaper after requeue, in ETA mover after pop, in ETA
    mover after push, in publisher before confirm, in publisher after confirm, in shutdown hand back"""
    named = {"-".join(name.lower().split()) for name in issue.split(",")}
    assert named - POINTS.keys() == set()
    assert [point.name for point in POINTS.values() if point.hooks == FAULTY] == ["between-pop-and-record"]
