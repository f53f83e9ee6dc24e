"""Health at work: modes of one's own, work restricted by them, escalation, hysteresis, circuit breakers."""

import logging
from contextlib import asynccontextmanager

import anyio
import pytest

from jumpstarter.actors import (
    Actor,
    Command,
    Event,
    backoff,
    child,
    circuit_breaker,
    dead_letters,
    degraded,
    failing,
    handles,
    health_check,
    healthy,
    hosted,
    lost,
    one_for_one,
    reported,
    resource,
    run,
    task,
    unhealthy,
)
from jumpstarter.errors import ActorCrashed, CircuitOpen, Unwell
from tests.actors.parts import transitions

pytestmark = pytest.mark.anyio

STEADY = backoff(1, 1, jitter=0)


class Get(Command[str]):
    pass


class Catalog(Actor):
    """Has a database and, most of the time, a cache."""

    def __init__(self):
        super().__init__()
        self.is_cache_up = True
        self.is_fast = True

    @resource(retry=STEADY)
    async def db(self):
        yield "db"

    @resource(optional=True, retry=STEADY)
    @asynccontextmanager
    async def cache(self):
        if not self.is_cache_up:
            raise OSError("no cache")
        yield "cache"

    @health_check(every=1)
    async def speed(self):
        return self.is_fast

    without_both = degraded(when=lost(cache) & failing(speed))
    without_cache = degraded(when=lost(cache))
    without_db = degraded(when=lost(db))
    slow = degraded(when=failing(speed))
    burning = unhealthy(when=reported("fire"))

    @handles(Get)
    async def get(self, message):
        return f"{self.cache} {self.db}"

    @get.during(without_cache)
    async def get_slow(self, message):
        return f"only {self.db}"

    @get.during("without_db")
    async def get_cached(self, message):
        return f"only {self.cache}"


async def lose_cache(catalog):
    catalog.is_cache_up = False
    catalog.report_lost("cache")
    await catalog.wait("without_cache")


async def test_a_mode_is_a_state_of_its_own_and_handlers_follow_it():
    async with hosted(Catalog()) as catalog:
        assert await catalog.ask(Get()) == "cache db"
        await lose_cache(catalog)
        assert catalog.state.matches("started.health.degraded.without_cache")
        assert catalog.state.matches(degraded)
        assert await catalog.ask(Get()) == "only db"
        catalog.is_cache_up = True
        await catalog.wait(healthy)
        assert await catalog.ask(Get()) == "cache db"


async def test_an_actor_may_start_in_a_mode():
    catalog = Catalog()
    catalog.is_cache_up = False
    async with hosted(catalog):
        assert catalog.state.matches("without_cache")
        assert await catalog.ask(Get()) == "only db"


async def test_a_mode_says_how_bad_a_loss_is():
    async with hosted(Catalog()) as catalog:
        catalog.report_lost("db")
        await catalog.wait("without_db")
        assert catalog.concerns["resource.db"].severity == "warning"
        assert await catalog.ask(Get()) == "only cache"
        catalog.report_warning("fire")
        await catalog.wait("burning")
        assert catalog.state.matches(unhealthy)


async def test_the_first_mode_that_holds_counts_and_other_troubles_have_a_place():
    async with hosted(Catalog()) as catalog:
        await lose_cache(catalog)
        catalog.is_fast = False
        await catalog.wait("without_both")
        catalog.is_cache_up = True
        await catalog.wait("slow")
        catalog.is_fast = True
        await catalog.wait("healthy")
        catalog.report_warning("dust")
        await catalog.wait("degraded.other")
        catalog.report_problem("dust")
        await catalog.wait("unhealthy.other")


async def test_a_task_runs_in_a_mode_only_and_finishes_or_is_cancelled():
    class Working(Catalog):
        def __init__(self):
            super().__init__()
            self.notes = []

        async def note(self, name):
            self.notes.append(f"+{name}")
            try:
                await anyio.sleep(3)
                self.notes.append(f"={name}")
            finally:
                self.notes.append(f"-{name}")

        @task(during=Catalog.without_cache, on_leave="finish")
        async def patch(self):
            await self.note("patch")

        @task(during=healthy)
        async def usual(self):
            await self.note("usual")

    async with hosted(Working()) as working:
        await anyio.sleep(1)
        await lose_cache(working)
        await anyio.sleep(1)
        assert working.notes[:2] == ["+usual", "-usual"]
        working.is_cache_up = True
        await working.wait(healthy)
        await anyio.sleep(5)
        assert working.notes[2:4] == ["+patch", "=patch"]


async def test_the_diagram_shows_modes():
    assert "without_cache" in Catalog().chart.mermaid()


# -- too long --


async def test_a_check_that_fails_for_too_long_fails_the_actor():
    class Ill(Catalog):
        @health_check(every=4, fail_after=2, unhealthy_for=10)
        async def lungs(self):
            return anyio.current_time() < 5

    with pytest.raises(ActorCrashed) as crash:
        await run(Ill())
    assert isinstance(crash.value.__cause__, Unwell)
    assert "'lungs' failed for 10 s" in str(crash.value.__cause__)
    assert anyio.current_time() == pytest.approx(12 + 10)


async def test_a_check_that_recovers_in_time_does_not():
    class Weak(Catalog):
        @health_check(every=4, unhealthy_for=10)
        async def lungs(self):
            return anyio.current_time() % 20 < 10

    async with hosted(Weak()) as weak:
        await anyio.sleep(200)
        assert weak.state.matches("started")


async def test_being_unhealthy_for_too_long_is_a_matter_for_the_supervisor():
    class Patient(Actor):
        unhealthy_for = 10

    class Ward(Actor):
        strategy = one_for_one(retry=STEADY)
        patient = child(Patient)

    async with hosted(Ward()) as ward, transitions("") as seen:
        ward.patient.report_problem("lungs", "smoke")
        await anyio.sleep(9)
        assert ward.patient.state.matches("unhealthy")
        await anyio.sleep(3)
        assert ward.patient.state.matches("healthy")
        assert "crashed → backing_off" in seen


async def test_a_check_may_degrade_before_it_fails():
    class Stepwise(Actor):
        answers = iter([True, False, False, False, True, True])

        @health_check(every=1, degrade_after=1, fail_after=3, recover_after=2)
        async def lungs(self):
            return next(self.answers, True)

    async with hosted(Stepwise()) as actor:
        seen = []
        for _ in range(6):
            await anyio.sleep(0.5)
            seen.append(str(actor.state.leaves[0]).rpartition(".")[2])
            await anyio.sleep(0.5)
        assert seen == ["healthy", "degraded", "degraded", "unhealthy", "unhealthy", "healthy"]


# -- circuit breakers --


class Call(Command[str]):
    fails: bool = False


class Told(Event):
    pass


class Gateway(Actor):
    calls = 0

    @handles(Call, breaker=circuit_breaker(3, within=60, rest=backoff(10, 40, jitter=0)))
    async def call(self, message):
        self.calls += 1
        if message.fails:
            raise OSError("no answer")
        return "ok"


async def trip(gateway):
    for _ in range(3):
        with pytest.raises(OSError, match="no answer"):
            await gateway.ask(Call(fails=True))
    await gateway.wait("breaker_call.open")


async def test_too_many_failures_open_the_circuit_and_a_success_closes_it():
    async with hosted(Gateway()) as gateway:
        await trip(gateway)
        assert gateway.state.matches(degraded)
        with pytest.raises(CircuitOpen, match="'call' is open"):
            await gateway.ask(Call())
        assert gateway.calls == 3
        await gateway.wait("breaker_call.half_open")
        assert anyio.current_time() == pytest.approx(10)
        assert await gateway.ask(Call()) == "ok"
        await gateway.wait("breaker_call.closed")
        await gateway.wait(healthy)
        assert await gateway.ask(Call()) == "ok"


async def test_a_trial_that_fails_opens_it_again_for_longer_and_is_logged_louder(caplog):
    async with hosted(Gateway()) as gateway:
        await trip(gateway)
        rests = []
        for _ in range(4):
            began = anyio.current_time()
            await gateway.wait("breaker_call.half_open")
            rests.append(anyio.current_time() - began)
            with pytest.raises(OSError, match="no answer"):
                await gateway.ask(Call(fails=True))
            await gateway.wait("breaker_call.open")
        assert rests == [pytest.approx(seconds) for seconds in (10, 20, 40, 40)]
    levels = [record.levelno for record in caplog.records if "opens for" in record.message]
    assert levels == [logging.WARNING, logging.ERROR, logging.CRITICAL, logging.CRITICAL, logging.CRITICAL]


async def test_failures_that_are_far_apart_do_not_open_it():
    async with hosted(Gateway()) as gateway:
        for _ in range(10):
            with pytest.raises(OSError, match="no answer"):
                await gateway.ask(Call(fails=True))
            await anyio.sleep(31)
        assert gateway.state.matches("breaker_call.closed")


async def test_what_is_told_waits_while_the_circuit_is_open_and_failures_do_not_crash():
    seen = []
    stop = dead_letters.subscribe(lambda letter: seen.append(letter.reason))
    async with hosted(Gateway()) as gateway:
        for _ in range(3):
            await gateway.tell(Call(fails=True))
        await gateway.wait("breaker_call.open")
        await gateway.tell(Call())
        await anyio.sleep(5)
        assert gateway.calls == 3
        assert gateway.mailbox_depth == 1
        await gateway.wait("breaker_call.closed")
        assert gateway.calls == 4
    stop()
    assert seen == ["error"] * 3


async def test_a_restart_closes_it():
    async with hosted(Gateway()) as gateway:
        await trip(gateway)
        await gateway.restart()
        assert gateway.state.matches("breaker_call.closed")
        assert await gateway.ask(Call()) == "ok"


async def test_a_task_with_a_breaker_rests_instead_of_failing_the_actor():
    class Poller(Actor):
        runs = ()
        good = False

        @task(breaker=circuit_breaker(3, within=60, rest=backoff(10, 40, jitter=0)), retry=STEADY)
        async def poll(self):
            self.runs = (*self.runs, round(anyio.current_time()))
            if not self.good:
                raise OSError("no answer")
            await anyio.sleep_forever()

    async with hosted(Poller()) as poller:
        await anyio.sleep(60)
        assert poller.runs == (0, 1, 2, 12, 32)
        assert poller.state.matches("breaker_poll.open")
        assert poller.state.matches("started.poll.failed")
        assert poller.state.matches(degraded)
        poller.good = True
        await poller.wait("breaker_poll.half_open")
        assert poller.state.matches("started.poll.running")
        await poller.wait("breaker_poll.closed")
        assert anyio.current_time() == pytest.approx(72 + 60), "a trial that lasts is a success"
        assert poller.state.matches(healthy)
