"""Cancelling whoever runs an actor: at any moment it stops in its own way, within its grace, and releases what it holds."""

import anyio
import pytest

from jumpstarter.actors import Actor, hosted, loop, resource, run, task
from jumpstarter.errors import ActorCrashed
from tests.actors.parts import Diary

pytestmark = pytest.mark.anyio


class Slow(Actor):
    """Takes a second for everything: two resources, on_start, on_stopping, two releases."""

    stop_grace = 5
    release_timeout = 5

    def __init__(self):
        super().__init__()
        self.diary = Diary()

    @resource
    def first(self):
        return self.diary.around("first", enter=1, leave=1)

    @resource
    def second(self):
        return self.diary.around("second", enter=1, leave=1)

    async def on_start(self):
        await anyio.sleep(1)
        self.diary.append("on_start")

    @task
    async def work(self):
        self.diary.append("+work")
        try:
            await anyio.sleep_forever()
        finally:
            self.diary.append("-work")

    async def on_stopping(self):
        await anyio.sleep(1)
        self.diary.append("on_stopping")

    async def on_stopped(self):
        self.diary.append("on_stopped")


async def test_cancelling_run_stops_the_actor_in_its_own_way_and_goes_on_being_cancelled():
    actor = Slow()
    ends = []

    async def host():
        try:
            await run(actor)
        except anyio.get_cancelled_exc_class():
            ends.append(str(actor.state))
            raise

    async with anyio.create_task_group() as group:
        group.start_soon(host)
        await actor.wait("started")
        await anyio.sleep(1)
        group.cancel_scope.cancel()
    assert ends == ["stopped"]
    assert actor.diary == ["+first", "+second", "on_start", "+work", "-work", "on_stopping", "-second", "-first", "on_stopped"]


async def test_cancelling_a_hosted_block_stops_the_actor_in_its_own_way():
    actor = Slow()
    with anyio.move_on_after(10) as scope:
        async with hosted(actor):
            await anyio.sleep_forever()
    assert scope.cancelled_caught
    assert actor.diary[-4:] == ["on_stopping", "-second", "-first", "on_stopped"]
    assert str(actor.state) == "stopped"


@pytest.mark.parametrize("moment", [0, 0.5, 1, 1.5, 2, 2.5, 3, 3.5, 4, 4.5, 5, 5.5, 6, 6.5])
async def test_cancelled_at_any_moment_it_releases_exactly_what_it_acquired(moment):
    actor = Slow()

    async def stop_after_four_seconds():
        await anyio.sleep(3.2)
        await actor.stop()

    with anyio.move_on_after(moment):
        async with anyio.create_task_group() as group:
            group.start_soon(run, actor)
            await stop_after_four_seconds()
    held = [note[1:] for note in actor.diary if note.startswith("+")]
    released = [note[1:] for note in actor.diary if note.startswith("-")]
    assert released == held[::-1]
    assert moment == 3 or ("on_stopping" in actor.diary) == (moment > 3), "in the instant of its start, either may come first"
    assert str(actor.state) == "stopped"


@pytest.mark.parametrize("moment", [0.5, 1.5, 2.5])
async def test_cancelling_while_it_starts_raises_nothing_but_the_cancellation(moment):
    actor = Slow()
    with anyio.move_on_after(moment) as scope:
        async with hosted(actor):
            pytest.fail("it must not start")
    assert scope.cancelled_caught
    assert str(actor.state) == "stopped"


async def test_a_grace_that_is_over_ends_even_a_release():
    class Stuck(Slow):
        stop_grace = 1
        release_timeout = 2

        async def on_stopping(self):
            try:
                await anyio.sleep_forever()
            finally:
                with anyio.CancelScope(shield=True):
                    await anyio.sleep(20)

    actor = Stuck()
    with anyio.move_on_after(4):
        await run(actor)
    assert anyio.current_time() == 5 + 20, "what shields itself cannot be ended, only waited for"
    assert str(actor.state) == "crashed"
    assert "Stuck" in str(actor.failure)
    assert {"-first", "-second"} <= set(actor.diary)


async def test_a_release_that_hangs_does_not_outlast_the_grace_of_a_cancelled_actor():
    class Hanging(Actor):
        stop_grace = 1
        release_timeout = 1_000_000

        async def hang(self):
            await anyio.sleep_forever()

        @resource(release_timeout=3)
        async def stuck(self):
            yield
            await anyio.sleep_forever()

        async def on_stopped(self):
            await anyio.sleep_forever()

    actor = Hanging()
    actor.release_timeout = 10
    with anyio.move_on_after(1):
        await run(actor)
    assert anyio.current_time() == 1 + 1 + 10 + 3
    assert str(actor.state) == "crashed"


async def test_a_cancelled_body_sees_its_cancellation_before_the_resources_go():
    class Using(Actor):
        seen = None

        @resource
        def thing(self):
            return Diary().around("thing", "value")

        @task
        async def work(self):
            try:
                await anyio.sleep_forever()
            finally:
                self.seen = self.thing

    actor = Using()
    with anyio.move_on_after(1):
        await run(actor)
    assert actor.seen == "value"


async def test_an_error_of_the_block_passes_unwrapped_and_the_actor_stops():
    actor = Slow()
    with pytest.raises(ValueError, match="mine"):
        async with hosted(actor):
            raise ValueError("mine")
    assert str(actor.state) == "stopped"


async def test_a_crash_does_not_cancel_the_block_and_is_raised_at_its_end():
    actor = Slow()

    async def block():
        async with hosted(actor):
            actor.fail(ValueError("gone"))
            await anyio.sleep(100)
            actor.diary.append("the block went on")

    with pytest.raises(ActorCrashed) as crash:
        await block()
    assert str(crash.value.__cause__) == "gone"
    assert actor.diary[-1] == "the block went on"


async def test_two_hosted_actors_in_one_statement_stop_in_reverse_order():
    first, second = Slow(), Slow()
    second.diary = first.diary
    async with hosted(first), hosted(second):
        first.diary.clear()
    assert [note for note in first.diary if note == "on_stopped"] == ["on_stopped"] * 2
    assert str(first.state) == str(second.state) == "stopped"


async def test_a_task_that_swallows_its_cancellation_is_still_awaited():
    class Swallowing(Slow):
        @task
        async def work(self):
            try:
                await anyio.sleep_forever()
            except anyio.get_cancelled_exc_class():
                self.diary.append("swallowed")

    actor = Swallowing()
    async with hosted(actor):
        await anyio.sleep(1)
    assert actor.diary[-5:] == ["swallowed", "on_stopping", "-second", "-first", "on_stopped"]


async def test_a_task_that_is_left_before_it_took_its_first_step_never_runs():
    class Hasty(Actor):
        ran = False

        @task(during="degraded")
        async def work(self):
            self.ran = True

    actor = Hasty()
    async with hosted(actor):
        actor.report_warning("x")
        actor.recover("x")
        await anyio.sleep(1)
        assert not actor.ran


async def test_what_is_no_exception_passes_through_and_releases_everything_on_its_way():
    class Interrupt(BaseException):  # as KeyboardInterrupt, with which asyncio would end the tests as well
        pass

    class Interrupted(Slow):
        @task
        async def work(self):
            await anyio.sleep(1)
            raise Interrupt

    actor = Interrupted()
    with pytest.raises(BaseExceptionGroup) as interrupt:
        await run(actor)
    assert interrupt.value.split(Interrupt)[1] is None
    assert actor.diary[-2:] == ["-second", "-first"]
    assert anyio.current_time() == 4 + 2, "one after the other"
    assert str(actor.state) == "crashed"


async def test_stages_are_cancelled_and_awaited_before_draining():
    class Looping(Slow):
        loop = loop("polling", "processing")

        @loop.polling
        async def poll(self):
            return 1

        @loop.processing
        async def process(self, item):
            try:
                await anyio.sleep_forever()
            finally:
                with anyio.CancelScope(shield=True):
                    await anyio.sleep(1)
                self.diary.append("-process")

        async def on_stopping(self):
            self.diary.append("on_stopping")

    actor = Looping()
    async with hosted(actor):
        await anyio.sleep(1)
    assert actor.diary.index("-process") < actor.diary.index("on_stopping")
