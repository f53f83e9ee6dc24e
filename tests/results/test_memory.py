"""The memory results store passes the kit; beside that: it forgets what is over, and refuses forked children."""

import itertools

import pytest

from jumpstarter.abc.results import Fence
from jumpstarter.embedded.space import Space
from jumpstarter.errors import ConfigurationError
from jumpstarter.jobs import Document
from jumpstarter.results import open_results
from jumpstarter.results.memory import MemoryResults
from jumpstarter.testing.broker_kit import Forked, ManualClock, part
from jumpstarter.testing.results_kit import ResultsKit

_names = itertools.count()


@pytest.fixture
def url():
    return f"memory://results-{next(_names)}"


class TestMemoryResults(ResultsKit):
    durable = False

    @pytest.fixture
    def results_factory(self, clock, url):
        return lambda **_: MemoryResults(url, clock=clock)


def test_what_is_over_does_not_fill_the_memory(url):
    clock = ManualClock()
    results = MemoryResults(url, clock=clock)
    for number in range(200):
        results.put([Document(f"{number}-{index}", b"x", ttl=10.0) for index in range(50)])
        results.add_parts([part("a", 0, join=f"j{number}", ttl=10.0)])
        results.fence([Fence(f"{number}-{index}", 2) for index in range(50)], 10.0)
        clock.advance(1)
    assert len(Space.of(url).documents) < 2500
    assert len(Space.of(url).gatherings) < 200
    assert len(Space.of(url).fences) < 2500


def test_a_forked_child_is_told_that_it_cannot_use_the_parents_results(url):
    results = open_results(url)

    def use(call):
        with pytest.raises(ConfigurationError, match=r"lives in process \d+"):
            call()

    for call in (
        lambda: results.put([Document("a", b"1")]),
        lambda: results.get(["a"]),
        lambda: results.wait(["a"], 1),
        results.ping,
    ):
        Forked(use, call).result()
