"""What became of a message when its process died, in numbers. benchmarks/ownership.py shows the same trials on genuine Celery."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.ownership.trials import LEASE, child_killed, child_killed_without_requeue, long_tasks, node_killed
from tests.peers import Side, our_side

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]


@pytest.fixture
def side() -> Side:
    return our_side()


def test_a_task_whose_child_is_killed_starts_in_another_process_within_two_seconds(side: Side, tmp_path: Path) -> None:
    seconds = child_killed(side, tmp_path)
    assert seconds is not None
    assert seconds < 2


def test_with_late_ack_alone_a_killed_child_leaves_a_worker_lost_error(side: Side, tmp_path: Path) -> None:
    facts = child_killed_without_requeue(side, tmp_path)
    assert (facts["status"], facts["error"], facts["starts"]) == ("FAILURE", "WorkerLostError", 1)


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_a_task_of_a_killed_node_starts_on_another_within_its_lease_and_five_seconds(side: Side, tmp_path: Path, pool: str) -> None:
    seconds = node_killed(side, tmp_path, pool=pool)
    assert seconds is not None
    assert seconds < LEASE + 5


@pytest.mark.parametrize("pool", ["prefork", pytest.param("threads", marks=pytest.mark.heavy)])
def test_tasks_longer_than_the_visibility_timeout_start_exactly_once(side: Side, tmp_path: Path, pool: str) -> None:
    facts = long_tasks(side, tmp_path, tasks=20, seconds=12, visibility=5, slots=10, pool=pool)
    assert (facts.over, facts.starts, facts.finishes) == (True, 20, 20), facts
