"""The harness: faults are injected, and waits that are in vain say what happened instead."""

import anyio
import pytest

from jumpstarter.actors import Actor, Command, Event, backoff, degraded, handles, lost, resource
from jumpstarter.errors import ActorCrashed, ConfigurationError
from jumpstarter.testing import harness, run_virtually

pytestmark = pytest.mark.anyio


class Get(Command[str]):
    pass


class Noted(Event):
    what: str


class Catalog(Actor):
    @resource
    async def db(self):
        yield "db"

    @resource(optional=True, retry=backoff(1, 1))
    async def cache(self):
        yield "cache"

    without_cache = degraded(when=lost(cache))

    @handles(Get)
    async def get(self, message):
        return self.db

    @handles(Noted)
    async def note(self, message): ...


async def test_a_resource_is_lost_and_refused_until_it_is_granted():
    async with harness(Catalog()) as test:
        test.refuse("cache")
        test.lose("cache")
        await test.until("without_cache")
        assert await test.ask(Get()) == "db"
        await anyio.sleep(100)
        assert test.actor.cache is None
        test.grant("cache")
        await test.until("healthy")
        assert test.states("started.health") == ["healthy", "without_cache", "healthy"]


async def test_a_resource_is_refused_so_many_times_from_the_start():
    test = harness(Catalog())
    test.refuse("db", OSError("down"), times=2)
    async with test:
        assert test.actor.db == "db"
        assert test.states("resources.db").count("backing_off") == 2
    with pytest.raises(ConfigurationError, match="no resource 'bd'; it has db, cache"):
        test.refuse("bd")


async def test_a_handler_fails_when_the_test_says_so():
    async with harness(Catalog()) as test:
        test.fail_next(Get, ValueError("mine"))
        with pytest.raises(ValueError, match="mine"):
            await test.ask(Get())
        assert await test.ask(Get()) == "db"
        assert [one.error is None for one in test.handled] == [False, True]


async def test_it_waits_for_messages_one_after_the_other():
    async with harness(Catalog()) as test:
        await test.tell(Noted("a"))
        await test.tell(Noted("b"))
        assert (await test.until_handled(Noted)).what == "a"
        assert (await test.until_handled(Noted)).what == "b"
        with pytest.raises(AssertionError, match="no Noted was handled within 5 s"):
            await test.until_handled(Noted, within=5)


async def test_a_crash_is_waited_for_or_raised_at_the_end():
    async with harness(Catalog()) as test:
        test.fail_next(Noted, ValueError("mine"))
        await test.tell(Noted("a"))
        assert str(await test.until_crashed()) == "mine"
        assert [letter.reason for letter in test.dead] == ["error"]
    with pytest.raises(ActorCrashed):
        async with harness(Catalog()) as test:
            test.actor.fail(ValueError("mine"))


async def test_a_state_that_is_not_reached_is_an_error_with_a_story():
    async with harness(Catalog()) as test:
        with pytest.raises(
            AssertionError, match=r"degraded was not reached within 5 s; Catalog.* is started(.|\n)*→ started \(ready\)"
        ):
            await test.until("degraded", within=5)
        test.actor.post("stop")
        with pytest.raises(AssertionError, match="stopped and did not crash"):
            await test.until_crashed()


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_day_without_a_plugin(backend, request):
    async def day(seconds):
        await anyio.sleep(seconds)
        return anyio.current_time() >= seconds

    assert run_virtually(day, 86_400, backend=backend)


test_a_day_without_a_plugin.pytestmark = [mark for mark in test_a_day_without_a_plugin.pytestmark if mark.name != "anyio"]
