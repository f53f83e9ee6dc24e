"""Resources: acquired in order, released in reverse, retried, optional, lost and found again; each in a task of its own."""

import contextlib
from contextlib import asynccontextmanager, contextmanager

import anyio
import pytest

from jumpstarter.actors import Actor, backoff, hosted, resource, run, task
from jumpstarter.errors import ActorCrashed, ActorError, ResourceFailed
from tests.actors.parts import Diary, transitions

pytestmark = pytest.mark.anyio

STEADY = backoff(1, 60, jitter=0)


class Broken:
    """A resource that can be acquired only when it is not broken, and that can break while it is held."""

    def __init__(self, diary, *, attempts=None):
        self.diary = diary
        self.failures_left = attempts
        self.attempts = []
        self.accident = None

    @asynccontextmanager
    async def hold(self, value="value"):
        self.attempts.append(anyio.current_time())
        if self.failures_left is None or self.failures_left > 0:
            if self.failures_left is not None:
                self.failures_left -= 1
            raise OSError("refused")
        self.accident = anyio.Event()
        self.diary.append("+")
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(self._guard, self.accident)
                yield value
                group.cancel_scope.cancel()
        finally:
            self.diary.append("-")

    async def _guard(self, accident):
        await accident.wait()
        raise ConnectionError("cut off")


class One(Actor):
    """An actor with one resource, which the test gives."""

    def __init__(self, make):
        super().__init__()
        self.make = make


class Required(One):
    @resource(retry=backoff(1, 60, tries=4, jitter=0))
    def thing(self):
        return self.make()


class Optional(One):
    @resource(optional=True, retry=STEADY)
    def thing(self):
        return self.make()


async def test_resources_are_acquired_in_order_and_released_in_reverse_order():
    diary = Diary()

    class Three(Actor):
        @resource
        def first(self):
            return diary.around("first", 1)

        @resource
        def second(self):
            return diary.around("second", self.first + 1)

        @resource
        def third(self):
            return diary.around("third", self.second + 1)

    async with hosted(Three()) as actor:
        assert (actor.first, actor.second, actor.third) == (1, 2, 3)
    assert diary == ["+first", "+second", "+third", "-third", "-second", "-first"]


async def test_a_crash_releases_in_reverse_order_what_was_acquired_so_far():
    diary = Diary()

    class Three(Actor):
        @resource
        def first(self):
            return diary.around("first")

        @resource
        def second(self):
            return diary.around("second")

        @resource(retry=backoff(1, 1, tries=1))
        def third(self):
            raise OSError("refused")

    with pytest.raises(ActorCrashed) as crash:
        async with hosted(Three()):
            pytest.fail("it must not start")
    failure = crash.value.__cause__
    assert isinstance(failure, ResourceFailed)
    assert (failure.resource, failure.attempts) == ("third", 1)
    assert isinstance(failure.__cause__, OSError)
    assert diary == ["+first", "+second", "-second", "-first"]


async def test_all_forms_of_context_managers_are_accepted():
    diary = Diary()

    class Forms(Actor):
        @resource
        def asynchronous(self):
            return diary.around("asynchronous", 1)

        @resource
        async def awaited(self):
            await anyio.sleep(1)
            return diary.around("awaited", 2)

        @resource
        def synchronous(self):
            return contextlib.nullcontext(3)

        @resource
        def generator(self):
            yield 4
            diary.append("-generator")

        @resource
        async def async_generator(self):
            yield 5
            diary.append("-async_generator")

    async with hosted(Forms()) as actor:
        assert (actor.asynchronous, actor.awaited, actor.synchronous, actor.generator, actor.async_generator) == (1, 2, 3, 4, 5)
    assert diary[2:] == ["-async_generator", "-generator", "-awaited", "-asynchronous"]


async def test_what_is_no_context_manager_is_named():
    actor = Required(lambda: 42)
    with pytest.raises(ActorCrashed) as crash:
        async with hosted(actor):
            pytest.fail("it must not start")
    assert str(crash.value.__cause__.__cause__) == "Required.thing must return a context manager, not int"


async def test_a_required_resource_is_retried_with_growing_delays():
    broken = Broken(Diary(), attempts=3)
    async with transitions("") as seen, hosted(Required(broken.hold)) as actor:
        assert broken.attempts == [0, 1, 3, 7]
        assert actor.thing == "value"
        assert actor.state.matches("healthy"), "what was overcome while starting is no concern any more"
    assert seen[1:3] == ["acquiring → backing_off", "backing_off → acquiring"]


async def test_a_required_resource_that_never_comes_crashes_the_actor():
    broken = Broken(Diary())
    with pytest.raises(ActorCrashed) as crash:
        async with hosted(Required(broken.hold)):
            pytest.fail("it must not start")
    assert broken.attempts == [0, 1, 3, 7]
    assert crash.value.__cause__.attempts == 4


async def test_acquiring_times_out():
    class Slow(One):
        @resource(retry=backoff(1, 60, tries=2, jitter=0), timeout=5)
        def thing(self):
            return self.make()

    diary = Diary()
    with pytest.raises(ActorCrashed) as crash:
        async with hosted(Slow(lambda: diary.around("thing", enter=6))):
            pytest.fail("it must not start")
    assert str(crash.value.__cause__.__cause__) == "not acquired within 5 s"
    assert anyio.current_time() == 11


async def test_the_timeout_of_acquiring_does_not_count_while_it_is_held():
    class Quick(One):
        @resource(timeout=5)
        def thing(self):
            return self.make()

    diary = Diary()
    async with hosted(Quick(lambda: diary.around("thing", enter=4))) as actor:
        await anyio.sleep(100)
        assert actor.state.matches("healthy")
    assert diary == ["+thing", "-thing"]


async def test_an_optional_resource_that_fails_is_none_and_degrades_until_it_comes():
    broken = Broken(Diary(), attempts=3)
    async with hosted(Optional(broken.hold)) as actor:
        assert anyio.current_time() == 0, "the start does not wait for it"
        assert actor.state.matches("degraded")
        assert actor.thing is None
        assert actor.concerns["resource.thing"].severity == "warning"
        await actor.wait("healthy")
        assert anyio.current_time() == 7
        assert actor.thing == "value"
        assert not actor.concerns
    assert broken.diary == ["+", "-"]


async def test_an_optional_resource_that_never_comes_can_be_stopped():
    broken = Broken(Diary())
    async with hosted(Optional(broken.hold)) as actor:
        await anyio.sleep(1000)
        assert actor.state.matches("degraded")
    assert str(actor.state) == "stopped"


async def test_a_required_resource_that_is_lost_makes_unhealthy_suspends_tasks_and_is_acquired_again():
    class Using(Required):
        uses = 0

        @task
        async def use(self):
            assert self.thing == "value"
            self.uses += 1
            await anyio.sleep_forever()

    broken = Broken(Diary(), attempts=0)
    async with hosted(Using(broken.hold)) as actor:
        await anyio.sleep(1)
        broken.failures_left = 1
        broken.accident.set()
        await actor.wait("unhealthy")
        assert actor.state.matches("started.use.suspended")
        with pytest.raises(ActorError, match="'thing' is not held now"):
            _ = actor.thing
        assert "cut off" in str(actor.concerns["resource.thing"])
        await actor.wait("healthy")
        assert anyio.current_time() == 1 + 1 + 2
        await anyio.sleep(1)
        assert actor.uses == 2
    assert broken.diary == ["+", "-", "+", "-"]


async def test_a_required_resource_that_is_lost_for_good_crashes_the_actor():
    broken = Broken(Diary(), attempts=0)
    actor = Required(broken.hold)
    async with anyio.create_task_group() as group:
        group.start_soon(_expect_crash, actor)
        await actor.wait("started")
        broken.failures_left = None
        broken.accident.set()
    assert broken.diary == ["+", "-"]


async def _expect_crash(actor):
    with pytest.raises(ActorCrashed) as crash:
        await run(actor)
    assert crash.value.__cause__.resource == "thing"


async def test_an_optional_resource_that_is_lost_degrades_only():
    broken = Broken(Diary(), attempts=0)
    async with hosted(Optional(broken.hold)) as actor:
        assert actor.thing == "value"
        broken.accident.set()
        await actor.wait("degraded")
        assert actor.thing is None
        await actor.wait("healthy")
        assert actor.thing == "value"


async def test_a_resource_that_was_reported_as_lost_is_released_and_acquired_again():
    diary = Diary()
    async with hosted(Required(lambda: diary.around("thing", "value"))) as actor:
        actor.report_lost("thing", OSError("does not answer"))
        await actor.wait("unhealthy")
        assert "does not answer" in str(actor.concerns["resource.thing"])
        await actor.wait("healthy")
        with pytest.raises(ActorError, match="has no resource 'thang'"):
            actor.report_lost("thang")
    assert diary == ["+thing", "-thing", "+thing", "-thing"]


async def test_losing_it_again_and_again_backs_off_as_failing_to_acquire_it_does():
    diary = Diary()

    class Flapping(One):
        @resource(retry=STEADY)
        def thing(self):
            return self.make()

    async with hosted(Flapping(lambda: diary.around("thing"))) as actor:
        delays = []
        for _ in range(4):
            began = anyio.current_time()
            actor.report_lost("thing")
            await actor.wait("unhealthy")
            await actor.wait("healthy")
            delays.append(anyio.current_time() - began)
        assert delays == [1, 2, 4, 8]
        await anyio.sleep(61)
        began = anyio.current_time()
        actor.report_lost("thing")
        await actor.wait("unhealthy")
        await actor.wait("healthy")
        assert anyio.current_time() - began == 1, "it was held for longer than the cap: a new row begins"


async def test_others_live_on_while_one_is_lost():
    broken = Broken(Diary(), attempts=0)
    diary = Diary()

    class Two(Optional):
        @resource
        def other(self):
            return diary.around("other", 1)

    async with hosted(Two(broken.hold)) as actor:
        broken.accident.set()
        await actor.wait("degraded")
        assert actor.other == 1
        await actor.wait("healthy")
    assert diary == ["+other", "-other"]


async def test_a_release_error_is_logged_and_the_others_are_released(caplog):
    diary = Diary()

    @contextmanager
    def bad():
        yield
        raise OSError("cannot close")

    class Two(Actor):
        @resource
        def first(self):
            return diary.around("first")

        @resource
        def second(self):
            return bad()

    async with hosted(Two()) as actor:
        pass
    assert str(actor.state) == "stopped"
    assert diary == ["+first", "-first"]
    assert "releasing 'second' failed" in caplog.text


async def test_a_release_that_takes_too_long_is_cancelled_and_logged(caplog):
    diary = Diary()

    @asynccontextmanager
    async def slow():
        yield
        await anyio.sleep(1000)

    class Two(Actor):
        @resource
        def first(self):
            return diary.around("first")

        @resource(release_timeout=5)
        def second(self):
            return slow()

    async with hosted(Two()):
        pass
    assert anyio.current_time() == 5
    assert diary == ["+first", "-first"]
    assert "not released within 5 s" in caplog.text


async def test_a_resource_is_entered_and_left_in_the_same_task():
    tasks = []

    @asynccontextmanager
    async def noting():
        async with anyio.create_task_group():
            tasks.append(anyio.get_current_task().id)
            yield
            tasks.append(anyio.get_current_task().id)

    async with hosted(Required(noting)) as actor:
        tasks.append(anyio.get_current_task().id)
        await actor.restart()
    entered, starter, left, entered_again, left_again = tasks
    assert entered == left != starter
    assert entered_again == left_again


async def test_a_stop_while_a_resource_is_being_acquired_gives_up_at_once():
    diary = Diary()
    actor = Required(lambda: diary.around("thing", enter=1000))
    async with anyio.create_task_group() as group:

        async def start():
            with pytest.raises(ActorError, match="stopped"):
                async with hosted(actor):
                    pytest.fail("it must not start")

        group.start_soon(start)
        await actor.wait("acquiring")
        await anyio.sleep(1)
        await actor.stop()
    assert anyio.current_time() == 1
    assert diary == []


async def test_a_stop_while_a_resource_backs_off_gives_up_at_once():
    broken = Broken(Diary())
    actor = Required(broken.hold)
    async with anyio.create_task_group() as group:

        async def start():
            with pytest.raises(ActorError, match="stopped"):
                async with hosted(actor):
                    pytest.fail("it must not start")

        group.start_soon(start)
        await actor.wait("starting.resources.backing_off")
        await anyio.sleep(0.5)
        await actor.stop()
    assert anyio.current_time() == 0.5
    assert str(actor.state) == "stopped"


async def test_what_happens_to_resources_is_published():
    broken = Broken(Diary(), attempts=1)
    async with transitions("resources.thing") as seen, hosted(Required(broken.hold)):
        pass
    assert seen == [
        "missing → acquiring",
        "acquiring → backing_off",
        "backing_off → acquiring",
        "acquiring → held",
        "held → releasing",
        "releasing → released",
    ]
