"""Signals: set before or after somebody waits, from here or from another thread, and when nobody waits any more."""

import threading

import anyio
import pytest

from jumpstarter.actors.signals import loop_clock, make_signal

pytestmark = pytest.mark.anyio


async def test_whoever_waits_is_woken_once_by_it():
    signal = make_signal()
    woken = []

    async def wait():
        await signal.wait()
        woken.append(signal.is_set())

    async with anyio.create_task_group() as group:
        group.start_soon(wait)
        await anyio.wait_all_tasks_blocked()
        assert not signal.is_set()
        signal.set()
        signal.set()
    assert woken == [True]
    await signal.wait()


async def test_a_renewed_one_is_waited_for_anew():
    signal = make_signal()
    signal.set()
    again = signal.renewed()
    assert not again.is_set()
    async with anyio.create_task_group() as group:
        group.start_soon(again.wait)
        await anyio.wait_all_tasks_blocked()
        again.set()


async def test_who_was_cancelled_is_not_woken_and_hurts_nobody_who_sets_it_later():
    signal = make_signal()
    with anyio.move_on_after(1):
        await signal.wait()
    signal.set()
    await anyio.sleep(1)


@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
async def test_it_may_be_set_from_another_thread():
    signal = make_signal()
    threading.Timer(0.05, signal.set).start()
    with anyio.fail_after(30):
        await signal.wait()
    assert signal.is_set()


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_setting_it_when_its_loop_is_over_does_nothing(backend):
    async def make():
        return make_signal()

    def outlive():
        made = []
        thread = threading.Thread(target=lambda: made.append(anyio.run(make, backend=backend)))
        thread.start()
        thread.join()
        made[0].set()

    await anyio.to_thread.run_sync(outlive)


async def test_the_clock_is_the_loops():
    assert abs(loop_clock()() - anyio.current_time()) < 1
    now = loop_clock()
    before = now()
    await anyio.sleep(100)
    assert now() - before >= 100
