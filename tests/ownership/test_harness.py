"""Are the trials blind? What genuine Celery is known to do wrong must show in them, in small."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.ownership.trials import long_tasks, node_killed
from tests.peers import PeerUnavailable, Side, genuine, install_peer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def celery() -> Side:
    try:
        return genuine(install_peer())
    except PeerUnavailable as why:
        pytest.skip(str(why))


@pytest.mark.heavy
def test_genuine_celery_is_seen_to_repeat_tasks_that_outlast_the_visibility_timeout(celery: Side, tmp_path: Path) -> None:
    facts = long_tasks(celery, tmp_path, tasks=4, seconds=4, visibility=1, slots=4, sweep=2)
    assert facts.starts > facts.tasks, facts
    assert facts.finishes > facts.tasks, facts


@pytest.mark.heavy
def test_genuine_celery_is_seen_to_leave_the_task_of_a_killed_node_alone(celery: Side, tmp_path: Path) -> None:
    assert node_killed(celery, tmp_path, within=8) is None
