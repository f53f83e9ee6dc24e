"""Started marks outlive the process that wrote them."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest

from jumpstarter.errors import ConfigurationError
from jumpstarter.worker.marks import RING, Marks


def test_what_a_killed_process_had_started_is_known_to_its_parent() -> None:
    marks = Marks(2, 4)
    pid = os.fork()
    if pid == 0:
        ring = marks.ring(1)
        ring.mark("first", "job-1", 0, 1, 0.0)
        ring.mark("second", "job-2", 0, 3, 0.0)
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)
    assert {tag: entry.runs for tag, entry in marks.started(1).items()} == {"first": False, "second": True}
    assert marks.started(0) == {}
    running = marks.running(1)[0]
    assert (running.tag, running.id, running.attempt) == ("second", "job-2", 3)
    assert time.monotonic() - 60 < running.started <= time.monotonic()


def test_a_successor_starts_with_an_empty_ring() -> None:
    marks = Marks(1, 4)
    marks.ring(0).mark("old", "job", 0, 1, 0.0)
    marks.clear(0)
    marks.ring(0).mark("new", "job", 0, 1, 0.0)
    assert list(marks.started(0)) == ["new"]


def test_the_ring_keeps_the_latest_marks() -> None:
    marks = Marks(1, 4)
    ring = marks.ring(0)
    for number in range(RING + 10):
        ring.mark(str(number), "job", number % 4, 1, 0.0)
    started = marks.started(0)
    assert len(started) == RING
    assert str(RING + 9) in started
    assert "9" not in started
    assert "10" in started


def test_a_tag_that_does_not_fit_is_refused_by_name() -> None:
    with pytest.raises(ConfigurationError, match="95 bytes"):
        Marks(1, 4).ring(0).mark("x" * 96, "job", 0, 1, 0.0)


def test_slots_in_several_threads_write_to_places_of_their_own() -> None:
    marks = Marks(1, 4)
    ring = marks.ring(0)

    def slot(number: int) -> None:
        for count in range(500):
            ring.mark(f"{number}-{count}", "job", number, 1, 0.0)

    threads = [threading.Thread(target=slot, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ring.mark("last", "job", 0, 1, 0.0)
    assert len(marks.started(0)) == 2001
