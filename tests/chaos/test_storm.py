"""The short storm. `make chaos` kills twenty times as many."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.storm import Weather, storm
from tests.peers import our_side

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

SHORT = Weather(kills=15, longest=1.0, chords=10, node_share=15)


@pytest.mark.parametrize("name", ["redis", pytest.param("sqlite", marks=pytest.mark.heavy)])
def test_nothing_is_lost_and_nothing_repeated_without_cause_while_processes_are_killed(name: str, tmp_path: Path) -> None:
    aftermath = storm(our_side(), name, tmp_path, SHORT)
    assert aftermath.passed, aftermath.report()
    assert aftermath.verdict.busy >= SHORT.kills / 3, aftermath.report()
