"""A node that sleeps through its lease and wakes up changes nothing. `make chaos` does fifty rounds of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future

import pytest

from tests.chaos.stopped import KINDS, Stopped, stopped
from tests.peers import our_side

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

PLACES = ["redis", "redis-db", "sqlite"]


@pytest.fixture(scope="module")
def sleepers(
    side_by_side: Callable[..., Future[Stopped]], tmp_path_factory: pytest.TempPathFactory
) -> Mapping[str, Future[Stopped]]:
    side = our_side()
    return {place: side_by_side(stopped, side, place, tmp_path_factory.mktemp(place), rounds=len(KINDS)) for place in PLACES}


@pytest.mark.parametrize("place", PLACES)
def test_what_a_node_wants_that_was_stopped_for_three_leases_is_refused(
    place: str, sleepers: Mapping[str, Future[Stopped]]
) -> None:
    result = sleepers[place].result()
    assert result.passed, result.report()
