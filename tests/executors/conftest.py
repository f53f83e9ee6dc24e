"""Templates whose children are gone when the test is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import pytest

from tests.executors.nursery import ChildMain, Nursery, Watched


@pytest.fixture
def nursery() -> Iterator[Callable[..., Nursery]]:
    """``nursery(main, rlimits)`` forks a template whose children run ``main``."""
    made: list[Nursery] = []

    def make(main: ChildMain, rlimits: Mapping[int, int] | None = None) -> Nursery:
        made.append(Nursery(main, rlimits))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture
def watch() -> Iterator[Callable[[int], Watched]]:
    """``watch(pid)`` sees the end of any process; what still runs after the test is killed."""
    watched: list[Watched] = []

    def make(pid: int) -> Watched:
        watched.append(Watched(pid))
        return watched[-1]

    yield make
    for each in watched:
        each.kill()
        each.close()
