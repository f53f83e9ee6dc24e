"""Line 5, in short: a server that stops and a network that breaks. `make chaos` does fifty rounds with all faults."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.outages import outages
from tests.peers import our_side

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]


def test_after_a_fault_of_redis_every_node_consumes_again_and_nothing_is_lost(tmp_path: Path) -> None:
    result = outages(our_side(), "redis-aof", tmp_path, faults=["kill_clients", "cut_answers", "restart"])
    assert result.passed, result.report()
