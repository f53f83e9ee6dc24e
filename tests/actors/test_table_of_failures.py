"""What follows which failure: one test for each row of the table in docs/explanation/actors.md."""

import logging
from contextlib import asynccontextmanager

import anyio
import pytest

from jumpstarter.actors import (
    Actor,
    Command,
    backoff,
    child,
    dead_letters,
    handles,
    health_check,
    hosted,
    needs,
    one_for_all,
    one_for_one,
    resource,
    rest_for_one,
    run,
    task,
)
from jumpstarter.errors import ActorCrashed, ChildFailed, ResourceFailed, Unwell
from tests.actors.parts import Diary, transitions

pytestmark = pytest.mark.anyio

STEADY = backoff(1, 1, jitter=0)
THRICE = backoff(1, 1, tries=3, jitter=0)


class Do(Command[str]):
    what: str = "work"


class Refusal(Exception):
    pass


class Frail(Actor):
    """Two required resources and one optional, each of which may be down."""

    def __init__(self, *down):
        super().__init__()
        self.down = set(down)
        self.diary = Diary()

    @asynccontextmanager
    async def open(self, name):
        if name in self.down:
            raise OSError(f"{name} is down")
        async with self.diary.around(name, name):
            yield name

    @resource(retry=THRICE)
    def first(self):
        return self.open("first")

    @resource(retry=THRICE)
    def second(self):
        return self.open("second")

    @resource(retry=THRICE, optional=True)
    def third(self):
        return self.open("third")

    @task
    async def work(self):
        await anyio.sleep_forever()

    @handles(Do, raises=Refusal)
    async def do(self, message):
        if message.what == "refuse":
            raise Refusal("no")
        if message.what == "fail":
            raise ValueError("bad")
        return message.what


async def test_a_required_resource_that_fails_to_start_backs_off_and_then_crashes_the_actor():
    actor = Frail("second")
    async with transitions("") as seen:
        with pytest.raises(ActorCrashed) as crash:
            await run(actor)
    assert isinstance(crash.value.__cause__, ResourceFailed)
    assert str(crash.value.__cause__.__cause__) == "second is down"
    assert anyio.current_time() == pytest.approx(2), "three attempts, a second apart"
    assert seen.count("acquiring → backing_off") == 2
    assert seen[-2:] == ["tasks → resources", "resources → crashed"]
    assert actor.diary == ["+first", "-first"]


async def test_a_required_resource_that_comes_in_time_starts_the_actor():
    actor = Frail("second")

    async def repair():
        await anyio.sleep(1.5)
        actor.down.clear()

    async with anyio.create_task_group() as group:
        group.start_soon(repair)
        async with hosted(actor):
            assert anyio.current_time() == pytest.approx(2)
            assert actor.state.matches("healthy")


async def test_an_optional_resource_that_fails_degrades_and_is_retried():
    async with hosted(Frail("third")) as actor:
        assert actor.third is None
        assert actor.state.matches("degraded")
        await anyio.sleep(100)
        actor.down.clear()
        await actor.wait("healthy")
        assert actor.third == "third"


async def test_a_resource_lost_at_run_time_optional():
    async with hosted(Frail()) as actor:
        actor.down.add("third")
        actor.report_lost("third")
        await actor.wait("degraded")
        assert actor.third is None
        assert actor.state.matches("work.running")
        actor.down.clear()
        await actor.wait("healthy")
        assert actor.third == "third"


async def test_a_resource_lost_at_run_time_required():
    async with hosted(Frail()) as actor:
        actor.down.add("second")
        actor.report_lost("second")
        await actor.wait("unhealthy")
        assert actor.state.matches("work.suspended")
        await actor.tell(Do())
        assert actor.mailbox_depth == 1, "its users are suspended"
        actor.down.clear()
        await actor.wait("healthy")
        await actor.wait("work.running")
        assert actor.diary == ["+first", "+second", "+third", "-second", "+second"]


async def test_a_resource_lost_at_run_time_for_good():
    class Losing(Frail):
        async def on_ready(self):
            self.down.add("second")
            self.report_lost("second")

    actor = Losing()
    with pytest.raises(ActorCrashed) as crash:
        await run(actor)
    assert isinstance(crash.value.__cause__, ResourceFailed)
    assert actor.diary[-2:] == ["-third", "-first"]


@pytest.mark.parametrize("how", ["false", "raises", "hangs"])
async def test_a_health_check_that_is_false_raises_or_times_out_counts_as_failed_and_crashes_nothing(how):
    class Checked(Frail):
        @health_check(every=5, timeout=2)
        async def check(self):
            match how:
                case "raises":
                    raise ValueError("ill")
                case "hangs":
                    await anyio.sleep_forever()
            return False

    async with hosted(Checked()) as actor:
        await actor.wait("unhealthy")
        await anyio.sleep(1000)
        assert actor.state.matches("started")


async def test_a_health_check_that_fails_for_too_long_escalates_to_the_supervisor():
    class Checked(Frail):
        @health_check(every=5, unhealthy_for=20)
        async def check(self):
            return False

    class Parent(Actor):
        strategy = one_for_one(restarts=1, retry=STEADY)
        checked = child(Checked)

    with pytest.raises(ActorCrashed) as crash:
        await run(Parent())
    failure = crash.value.__cause__
    assert isinstance(failure, ChildFailed)
    assert isinstance(failure.__cause__, Unwell)
    assert anyio.current_time() == pytest.approx(20 + 1 + 20)


async def test_a_handler_error_of_what_was_asked_goes_to_the_caller():
    async with hosted(Frail()) as actor:
        with pytest.raises(ValueError, match="bad"):
            await actor.ask(Do("fail"))
        assert await actor.ask(Do("work")) == "work"


@pytest.mark.parametrize(("what", "crashes"), [("fail", True), ("refuse", False)])
async def test_a_handler_error_of_what_was_told_is_a_dead_letter_and_on_error(what, crashes):
    seen = []
    stop = dead_letters.subscribe(seen.append)
    async with hosted(Frail()) as holder:
        actor = await holder.spawn(Frail())
        await actor.tell(Do(what))
        await anyio.sleep(1)
        assert (str(actor.state) == "crashed") == crashes
    stop()
    assert [(letter.reason, letter.message, letter.kind) for letter in seen] == [("error", Do(what), "Frail")]
    assert dead_letters.recent[-1] is seen[0]


async def test_a_task_error_restarts_its_region_within_its_intensity_then_fails_the_actor():
    class Failing(Frail):
        runs = ()

        @task(restarts=2, within=60, retry=STEADY)
        async def work(self):
            self.runs = (*self.runs, anyio.current_time())
            raise ValueError("bad")

    actor = Failing()
    async with transitions("started.work") as seen:
        with pytest.raises(ActorCrashed) as crash:
            await run(actor)
    assert str(crash.value.__cause__) == "bad"
    assert actor.runs == (0, 1, 2)
    assert seen.count("running → failed") == 3


@pytest.mark.parametrize(
    ("strategy", "restarted"), [(one_for_one, "b"), (one_for_all, "abc"), (rest_for_one, "bc")], ids=["one", "all", "rest"]
)
async def test_a_child_crash_is_a_matter_of_the_strategy(strategy, restarted):
    class Leaf(Actor):
        starts = 0

        async def on_start(self):
            self.starts += 1

    class Parent(Actor):
        a, b, c = child(Leaf), child(Leaf), child(Leaf)

    Parent.strategy = strategy(restarts=2, within=60, retry=STEADY)
    parent = Parent()

    async def life():
        async with hosted(parent):
            leaves = {"a": parent.a, "b": parent.b, "c": parent.c}
            leaves["b"].fail(ValueError("x"))
            await anyio.sleep(5)
            assert "".join(name for name, leaf in leaves.items() if leaf.starts == 2) == restarted
            for _ in range(2):
                leaves["b"].fail(ValueError("too often"))
                await anyio.sleep(5)

    with pytest.raises(ActorCrashed) as crash:
        await life()
    assert isinstance(crash.value.__cause__, ChildFailed)


async def test_a_dependency_crash_makes_dependents_unhealthy_until_it_is_back():
    class User(Frail):
        frail = needs(Frail)

    class Parent(Actor):
        strategy = one_for_one(retry=STEADY)
        frail = child(Frail)
        user = child(User)

    async with hosted(Parent()) as parent:
        parent.frail.fail(ValueError("x"))
        await parent.user.wait("unhealthy")
        await parent.user.wait("work.suspended")
        await parent.user.wait("healthy")
        await parent.user.wait("work.running")
        assert anyio.current_time() == pytest.approx(1)


async def test_a_release_error_is_logged_and_the_remaining_releases_still_run(caplog):
    class Careless(Frail):
        @resource
        async def last(self):
            yield "last"
            raise ValueError("cannot close")

    async with hosted(Careless()) as actor:
        pass
    assert str(actor.state) == "stopped"
    assert actor.diary[-3:] == ["-third", "-second", "-first"]
    assert [record.levelno for record in caplog.records if "releasing 'last' failed" in record.message] == [logging.ERROR]
