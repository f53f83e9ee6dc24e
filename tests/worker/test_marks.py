"""Started marks outlive the process that wrote them."""

from __future__ import annotations

import os
import signal

import pytest

from jumpstarter.errors import ConfigurationError
from jumpstarter.worker.marks import RING, Marks


def test_what_a_killed_process_had_started_is_known_to_its_parent() -> None:
    marks = Marks(2)
    pid = os.fork()
    if pid == 0:
        ring = marks.ring(1)
        ring.mark("first")
        ring.mark("second")
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)
    assert marks.started(1) == {"first", "second"}
    assert marks.started(0) == frozenset()


def test_a_successor_starts_with_an_empty_ring() -> None:
    marks = Marks(1)
    marks.ring(0).mark("old")
    marks.clear(0)
    marks.ring(0).mark("new")
    assert marks.started(0) == {"new"}


def test_the_ring_keeps_the_latest_marks() -> None:
    marks = Marks(1)
    ring = marks.ring(0)
    for number in range(RING + 10):
        ring.mark(str(number))
    started = marks.started(0)
    assert len(started) == RING
    assert str(RING + 9) in started
    assert "9" not in started
    assert "10" in started


def test_a_tag_that_does_not_fit_is_refused_by_name() -> None:
    with pytest.raises(ConfigurationError, match="95 bytes"):
        Marks(1).ring(0).mark("x" * 96)
