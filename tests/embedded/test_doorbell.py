"""The doorbell: who waits hears of every ring, soon, and pays little for other people's."""

import concurrent.futures
import threading
import time
from pathlib import Path

import pytest

from jumpstarter.embedded import doorbell
from jumpstarter.embedded.doorbell import Doorbell
from jumpstarter.testing.broker_kit import PATIENCE, Forked, background


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"")
    return str(path)


def _none():
    return None


@pytest.mark.parametrize("inotify", [True, False])
def test_a_ring_makes_those_who_wait_look_again(path, inotify):
    bell = Doorbell(path, inotify=inotify)
    news = []
    with background(lambda: bell.wait(lambda: news or None, PATIENCE)) as waiting:
        news.append("something")
        bell.ring()
        assert waiting.result(PATIENCE / 2) == ["something"]
    bell.close()


def test_what_nobody_rang_for_is_found_all_the_same(path, monkeypatch):
    # The writer died between its commit and its ring.
    monkeypatch.setattr(doorbell, "SLOW_LOOK", 0.1)
    bell = Doorbell(path)
    looks = iter([None, None, None, "found"])
    assert bell.wait(lambda: next(looks), PATIENCE) == "found"
    bell.close()


def test_the_first_look_finds_what_is_there(path):
    assert Doorbell(path).wait(lambda: 42, 0) == 42


def test_all_threads_hear_every_ring(path):
    bell = Doorbell(path)
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        for _ in range(30):
            news = threading.Event()
            futures = [pool.submit(bell.wait, lambda news=news: news.is_set() or None, PATIENCE) for _ in range(4)]
            news.set()
            bell.ring()
            assert [future.result(0.9) for future in futures] == [True] * 4, "found by the slow look only"
    bell.close()


def test_a_noisy_neighbour_costs_few_looks(path):
    bell = Doorbell(path)
    looks = 0
    done = threading.Event()

    def look():
        nonlocal looks
        looks += 1

    def ring():
        while not done.is_set():
            bell.ring()

    with background(ring):
        began = time.monotonic()
        assert bell.wait(look, 0.5) is None
        took = time.monotonic() - began
        done.set()
    assert looks <= 10 + took / 0.004
    bell.close()


def test_a_file_that_is_replaced_is_watched_again(path):
    bell = Doorbell(path)
    bell.wait(_none, 0.01)
    Path(path).unlink()
    bell.wait(_none, 0.01)
    Path(path).touch()
    bell.wait(_none, 0.1)
    news = threading.Event()
    with background(lambda: bell.wait(lambda: news.is_set() or None, PATIENCE)) as waiting:
        news.set()
        bell.ring()
        assert waiting.result(0.9) is True
    bell.close()


def test_ringing_for_a_file_that_is_gone_is_no_error(tmp_path):
    Doorbell(str(tmp_path / "gone")).ring()


def test_waiting_for_a_file_that_is_not_there_yet_works(tmp_path):
    bell = Doorbell(str(tmp_path / "later"))
    looks = iter([None, None, None, "found"])
    assert bell.wait(lambda: next(looks), PATIENCE) == "found"
    bell.close()


def test_close_ends_what_waits(path):
    bell = Doorbell(path)
    begun = threading.Event()
    with background(lambda: bell.wait(begun.set, None)) as waiting:
        begun.wait(PATIENCE)
        while not waiting.done():
            bell.close()
        assert waiting.result() is None


def test_a_child_hears_rings_of_its_own_and_takes_none_from_its_parent(path):
    bell = Doorbell(path)
    bell.wait(_none, 0.01)
    news = threading.Event()
    with background(lambda: bell.wait(lambda: news.is_set() or None, PATIENCE)) as waiting:

        def child():
            assert bell.wait(_none, 0.05) is None
            bell.wake()
            assert bell.wait(_none, PATIENCE) is None
            bell.close()

        Forked(child).result()
        news.set()
        Forked(bell.ring).result()
        assert waiting.result(0.9) is True
    bell.close()
