"""Is the harness blind? Each guard of ours is taken out once, and the runs must say so."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.checker import Verdict
from tests.chaos.crash import Crash, crash
from tests.chaos.faults import FAULTS
from tests.chaos.fleet import Fleet
from tests.chaos.grounds import grounds
from tests.chaos.stopped import Stopped, stopped
from tests.chaos.storm import Aftermath, Weather, storm
from tests.peers import our_side

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


def acked_before_run(folder: Path, env: Mapping[str, str]) -> Aftermath:
    weather = Weather(kills=5, node_share=0, busy_share=100, drain=5)
    return storm(our_side(), "redis", folder, weather, env=env)


def not_fenced(folder: Path, env: Mapping[str, str]) -> Stopped:
    return stopped(our_side(), "redis", folder, rounds=1, env=env)


def not_renewed(folder: Path, env: Mapping[str, str]) -> Verdict:
    with grounds("redis", folder) as place, Fleet(our_side(), place, folder, lease=1.0, env=env) as fleet:
        fleet.wait_ready([fleet.node("one"), fleet.node("two")])
        fleet.publish(("job", 2.5), ("job", 2.5))
        fleet.settle_down(within=20)
        return fleet.verdict()


def claimed_in_two_steps(folder: Path, env: Mapping[str, str]) -> Crash:
    return crash(our_side(), "between-pop-and-record", "redis", folder, env=env, drain=8)


def counted_by_delivery(folder: Path, env: Mapping[str, str]) -> Crash:
    # The first member is counted twice before the last one has begun to end.
    work = [("chord", [0.1, 0.1, 3.0])]
    return crash(our_side(), "chord-counted", "redis-apart", folder, work=work, env=env, drain=8)


RUNS: Mapping[str, Callable[[Path, Mapping[str, str]], Any]] = {
    "ack-before-run": acked_before_run,
    "no-fence": not_fenced,
    "no-renewal": not_renewed,
    "non-atomic-claim": claimed_in_two_steps,
    "count-based-join": counted_by_delivery,
}


@pytest.fixture(scope="module")
def planted(side_by_side: Callable[..., Future[Any]], tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Future[Any]]:
    """What the runs say of each fault."""
    return {name: side_by_side(run, tmp_path_factory.mktemp(name), {"CHAOS_FAULT": name}) for name, run in RUNS.items()}


def test_acking_before_the_run_is_seen_to_lose_jobs(planted: Mapping[str, Future[Aftermath]]) -> None:
    aftermath = planted["ack-before-run"].result()
    assert aftermath.verdict.lost, aftermath.report()
    assert not aftermath.passed


def test_a_settlement_without_a_fence_is_seen_to_double_a_chain(planted: Mapping[str, Future[Stopped]]) -> None:
    result = planted["no-fence"].result()
    assert any("the next step of the chain ran 2 times" in leak for leak in result.leaks), result.report()
    assert not result.passed


def test_leases_that_nobody_renews_are_seen_to_repeat_jobs(planted: Mapping[str, Future[Verdict]]) -> None:
    verdict = planted["no-renewal"].result()
    assert verdict.unexcused, verdict.table()
    assert not verdict.passed


def test_a_claim_in_two_steps_is_seen_to_lose_a_job(planted: Mapping[str, Future[Crash]]) -> None:
    result = planted["non-atomic-claim"].result()
    assert result.reached, result.details()
    assert result.verdict.lost, result.details()
    assert not result.passed


def test_a_join_that_counts_deliveries_is_seen_to_begin_the_body_early(planted: Mapping[str, Future[Crash]]) -> None:
    result = planted["count-based-join"].result()
    assert result.reached, result.details()
    assert result.verdict.wrong, result.details()
    assert not result.passed


def test_every_fault_is_planted_here() -> None:
    assert RUNS.keys() == FAULTS.keys()
