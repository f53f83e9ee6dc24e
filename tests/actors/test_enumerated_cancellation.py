"""Cancellation at every point where an actor waits, from its start to its end: each run is cancelled one point later than the one
before. Nothing that was acquired may stay open, and nothing may run on.

A point is one turn of the event loop: whatever awaits goes through at least one. So this enumerates, and does not guess. Nothing
here sleeps, because counting turns keeps virtual time from passing.
"""

from contextlib import asynccontextmanager

import anyio
import pytest
from anyio.lowlevel import checkpoint

from jumpstarter.actors import Actor, Command, backoff, child, handles, hosted, loop, needs, resource, run, task
from tests.actors.parts import Diary

pytestmark = pytest.mark.anyio


class Work(Command[str]):
    pass


class Leaf(Actor):
    """A child with a resource, and something to do."""

    diary: Diary
    restart_backoff = backoff(0, 0)

    @asynccontextmanager
    async def around(self, name):
        await checkpoint()
        self.diary.append(f"+{name}")
        try:
            await checkpoint()
            yield name
        finally:
            with anyio.CancelScope(shield=True):
                await checkpoint()
            self.diary.append(f"-{name}")

    @resource
    def hold(self):
        return self.around(self.name)

    @handles(Work)
    async def work(self, message):
        await checkpoint()
        return self.hold

    @task
    async def run(self):
        self.diary.append(f"+{self.name}.run")
        try:
            await anyio.sleep_forever()
        finally:
            self.diary.append(f"-{self.name}.run")


class Second(Leaf):
    one = needs(Leaf)


class Whole(Leaf):
    """A bit of everything: two resources, a loop, a task, a mailbox, two children of which one needs the other."""

    work_loop = loop("polling", "processing")

    def __init__(self):
        super().__init__(name="whole")
        self.diary = Diary()

    @resource
    def more(self):
        return self.around("more")

    @child
    def one(self):
        leaf = Leaf()
        leaf.diary = self.diary
        return leaf

    @child
    def two(self):
        second = Second()
        second.diary, second.one = self.diary, self.one
        return second

    async def on_start(self):
        await checkpoint()

    async def on_stopping(self):
        await checkpoint()

    @work_loop.polling
    async def poll(self):
        await checkpoint()
        return 1

    @work_loop.processing
    async def process(self, item):
        await self.one.ask(Work(), timeout=5)


async def a_life(actor):
    """It starts, works, is paused and resumed, restarted and stopped."""
    async with hosted(actor):
        for _ in range(3):
            await actor.ask(Work(), timeout=5)
            await actor.two.ask(Work(), timeout=5)
        await actor.pause()
        await actor.resume()
        await actor.restart()
        await actor.stop()


async def turns(count, scope):
    for _ in range(count):
        await checkpoint()
    scope.cancel()


def assert_all_released(diary):
    """Each thing that was taken was given back once, the last one first, and each task ended before that."""
    held = []
    for note in diary:
        name = note[1:]
        if note.startswith("+"):
            assert name not in held
            held.append(name)
        elif name.endswith(".run"):
            held.remove(name)
        else:
            assert held[-1] == name, f"{name} was released while {held[-1]} was held\n{diary}"
            held.pop()
    assert held == []


async def cancelled_after(count, what):
    """Run it, cancelled so many turns later. True when it was cancelled before it had ended."""
    actor = Whole()
    async with anyio.create_task_group() as group:
        with anyio.CancelScope() as scope:
            group.start_soon(turns, count, scope)
            await what(actor)
        group.cancel_scope.cancel()
    assert_all_released(actor.diary)
    assert actor.state.active[0] in ("initializing", "stopped"), f"after {count} turns: {actor.state}, {actor.failure!r}"
    return scope.cancelled_caught


@pytest.mark.parametrize("what", [a_life, run], ids=["hosted", "run"])
async def test_cancelled_at_every_point_it_leaves_nothing_open(what):
    before = len(anyio.get_running_tasks())
    points = 0
    while await cancelled_after(points, what):
        assert len(anyio.get_running_tasks()) == before, "what ran has ended"
        points += 1
        if what is run and points > 150:
            break  # it runs for ever
    assert points > 100, "there are that many points at least, or this looks at nothing"
