"""Line 4: a node that sleeps through its lease and wakes up changes nothing. `make chaos` does fifty rounds of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.stopped import KINDS, stopped
from tests.peers import our_side

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]


@pytest.mark.parametrize("place", ["redis", "redis-db", "sqlite"])
def test_what_a_node_wants_that_was_stopped_for_three_leases_is_refused(place: str, tmp_path: Path) -> None:
    result = stopped(our_side(), place, tmp_path, rounds=len(KINDS))
    assert result.passed, result.report()
