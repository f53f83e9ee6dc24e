"""Virtual time, on both backends."""

import threading
import time

import anyio
import pytest

from jumpstarter.testing.clock import EPOCH, LoopClock, ManualClock, virtual_backend


@pytest.mark.anyio
async def test_years_pass_in_no_time():
    real = time.monotonic()
    for _ in range(1000):
        await anyio.sleep(86_400 - 1)
        await anyio.sleep(1)
    assert anyio.current_time() == pytest.approx(1000 * 86_400)
    assert time.monotonic() - real < 5


@pytest.mark.anyio
async def test_sleepers_wake_in_the_order_of_their_deadlines():
    woken = []

    async def sleep(seconds):
        await anyio.sleep(seconds)
        woken.append((seconds, anyio.current_time()))

    async with anyio.create_task_group() as group:
        for seconds in (3600, 1, 60):
            group.start_soon(sleep, seconds)
    assert woken == [(1, 1), (60, 60), (3600, 3600)]


@pytest.mark.anyio
async def test_time_stands_still_while_something_is_ready():
    async with anyio.create_task_group() as group:
        group.start_soon(anyio.sleep, 1)
        for _ in range(1000):
            await anyio.lowlevel.checkpoint()
        assert anyio.current_time() == 0


@pytest.mark.anyio
async def test_timeouts_strike_in_virtual_time():
    with pytest.raises(TimeoutError), anyio.fail_after(86_000):
        await anyio.Event().wait()
    assert anyio.current_time() == 86_000


@pytest.mark.anyio
async def test_the_clock_of_the_loop_goes_with_it():
    clock = LoopClock()
    assert (clock.now(), clock.monotonic()) == (EPOCH, 0)
    await anyio.sleep(60)
    assert (clock.now(), clock.monotonic()) == (EPOCH + 60, 60)


@pytest.mark.parametrize("name", ["asyncio", "trio"])
def test_a_threshold_waits_for_threads(name):
    backend, options = virtual_backend(name, threshold=0.2)
    done = threading.Event()

    async def main():
        async with anyio.create_task_group() as group:
            group.start_soon(anyio.sleep, 3600)
            await anyio.to_thread.run_sync(lambda: (time.sleep(0.01), done.set()))
            assert anyio.current_time() == 0
        assert anyio.current_time() == 3600

    anyio.run(main, backend=backend, backend_options=options)
    assert done.is_set()


def test_a_manual_clock_moves_when_it_is_told_to():
    clock = ManualClock()
    clock.advance(5)
    assert (clock.now(), clock.monotonic()) == (EPOCH + 5, 5)
    clock.set_wall(0)
    assert (clock.now(), clock.monotonic()) == (0, 5)
    with pytest.raises(ValueError, match="go back"):
        clock.advance(-1)
