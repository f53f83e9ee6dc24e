"""Is the harness blind? Each guard of ours is taken out once, and the runs must say so."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.crash import crash
from tests.chaos.faults import FAULTS
from tests.chaos.fleet import Fleet
from tests.chaos.grounds import grounds
from tests.chaos.stopped import stopped
from tests.chaos.storm import Weather, storm
from tests.peers import our_side

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]


def test_acking_before_the_run_is_seen_to_lose_jobs(tmp_path: Path) -> None:
    weather = Weather(kills=5, node_share=0, busy_share=100, drain=5)
    aftermath = storm(our_side(), "redis", tmp_path, weather, env={"CHAOS_FAULT": "ack-before-run"})
    assert aftermath.verdict.lost, aftermath.report()
    assert not aftermath.passed


def test_a_settlement_without_a_fence_is_seen_to_double_a_chain(tmp_path: Path) -> None:
    result = stopped(our_side(), "redis", tmp_path, rounds=1, env={"CHAOS_FAULT": "no-fence"})
    assert any("the next step of the chain ran 2 times" in leak for leak in result.leaks), result.report()


def test_leases_that_nobody_renews_are_seen_to_repeat_jobs(tmp_path: Path) -> None:
    with (
        grounds("redis", tmp_path) as place,
        Fleet(our_side(), place, tmp_path, lease=1.0, env={"CHAOS_FAULT": "no-renewal"}) as fleet,
    ):
        fleet.wait_ready([fleet.node("one"), fleet.node("two")])
        fleet.publish(("job", 2.5), ("job", 2.5))
        fleet.settle_down(within=20)
        verdict = fleet.verdict()
    assert verdict.unexcused, verdict.table()
    assert not verdict.passed


def test_a_claim_in_two_steps_is_seen_to_lose_a_job(tmp_path: Path) -> None:
    result = crash(our_side(), "between-pop-and-record", "redis", tmp_path, env={"CHAOS_FAULT": "non-atomic-claim"}, drain=8)
    assert result.reached
    assert result.verdict.lost, result.details()


def test_a_join_that_counts_deliveries_is_seen_to_begin_the_body_early(tmp_path: Path) -> None:
    # The first member is counted twice before the last one has begun to end.
    work = [("chord", [0.1, 0.1, 3.0])]
    fault = {"CHAOS_FAULT": "count-based-join"}
    result = crash(our_side(), "chord-counted", "redis-apart", tmp_path, work=work, env=fault, drain=8)
    assert result.reached
    assert result.verdict.wrong, result.details()


def test_every_fault_has_a_test_here() -> None:
    text = Path(__file__).read_text(encoding="utf-8")
    assert [name for name in FAULTS if f'"CHAOS_FAULT": "{name}"' not in text] == []
