"""Crashes at some of the named points: those where most is under way. `make chaos` tries every point on every broker."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future

import pytest

from tests.chaos.crash import Crash, crash
from tests.chaos.grounds import is_installed
from tests.chaos.points import FAULTY, POINTS
from tests.peers import our_side

SHORT = [
    ("redis", "after-claim-before-record"),
    ("redis", "result-stored-before-ack"),
    ("redis-apart", "chord-counted-before-body-published"),
    ("sqlite", "before-requeue"),
    ("amqp", "chord-counted-before-body-published"),
]


@pytest.fixture(scope="module")
def crashes(
    side_by_side: Callable[..., Future[Crash]], tmp_path_factory: pytest.TempPathFactory
) -> Mapping[tuple[str, str], Future[Crash]]:
    side = our_side()
    return {
        (place, point): side_by_side(crash, side, point, place, tmp_path_factory.mktemp(f"{place}-{point}"))
        for place, point in SHORT
    }


@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.parametrize(("place", "point"), SHORT)
def test_a_crash_at_a_point_loses_nothing_and_repeats_only_what_it_hit(
    place: str, point: str, crashes: Mapping[tuple[str, str], Future[Crash]]
) -> None:
    if not is_installed(place):
        pytest.skip(f"the server of {place} is not installed")
    result = crashes[place, point].result()
    assert result.reached, f"no process died at {point}: where has it gone?\n{result.details()}"
    assert result.passed, result.details()


NAMED = """
after claim before record, after record before decode, decoded, before admit, admitted, before run, in run, returned,
before result stored, result stored before ack, acked before chord count, chord counted before body published, body published,
before requeue, after requeue, before renewal, after renewal, in reaper after pop, in reaper after requeue,
in eta mover after pop, in eta mover after push, in shutdown hand back, in publisher before confirm, in publisher after confirm
"""


def test_every_point_that_was_asked_for_is_there() -> None:
    assert {"-".join(name.split()) for name in NAMED.split(",")} - POINTS.keys() == set()
    assert [point.name for point in POINTS.values() if point.hooks == FAULTY] == ["between-pop-and-record"]
