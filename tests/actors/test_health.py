"""Health is the worst of all concerns; checks make concerns, with hysteresis."""

import anyio
import pytest

from jumpstarter.actors import Actor, health_check, hosted
from jumpstarter.actors.health import Health, Hysteresis
from jumpstarter.errors import ConfigurationError, DefinitionError
from tests.actors.parts import transitions


@pytest.mark.anyio
async def test_health_is_the_worst_of_all_concerns():
    async with transitions("started.health") as seen, hosted(Actor()) as actor:
        actor.report_warning("disk", "90 % full")
        await actor.wait("degraded")
        actor.report_problem("api", "503")
        await actor.wait("unhealthy")
        actor.report_warning("cache")
        actor.recover("api")
        await actor.wait("degraded")
        actor.recover("disk")
        actor.recover("disk")
        await anyio.sleep(1)
        assert actor.state.matches("degraded"), "the cache still complains"
        actor.recover("cache")
        await actor.wait("healthy")
    assert seen == ["healthy → degraded", "degraded → unhealthy", "unhealthy → degraded", "degraded → healthy"]


@pytest.mark.anyio
async def test_a_problem_leads_straight_to_unhealthy_and_back():
    async with transitions("started.health") as seen, hosted(Actor()) as actor:
        actor.report_problem("api")
        await actor.wait("unhealthy")
        actor.recover("api")
        await actor.wait("healthy")
    assert seen == ["healthy → unhealthy", "unhealthy → healthy"]


@pytest.mark.anyio
async def test_a_source_replaces_what_it_said_before():
    async with hosted(Actor()) as actor:
        actor.report_problem("api", 503)
        actor.report_warning("api", "slow")
        await actor.wait("degraded")
        assert str(actor.concerns["api"]) == "warning: slow"
        with pytest.raises(TypeError):
            actor.concerns["api"] = None


@pytest.mark.anyio
async def test_concerns_that_are_older_than_the_start_count_from_its_first_moment():
    class Careful(Actor):
        async def on_start(self):
            self.report_problem("api")

    async with hosted(Careful()) as actor:
        assert actor.state.matches("unhealthy")
        await actor.stop()
        actor.report_problem("late")
        await actor.start()
        assert set(actor.concerns) == {"api"}, "a new life begins without the concerns of the last"


class Checked(Actor):
    def __init__(self, answers):
        super().__init__()
        self.answers = list(answers)
        self.asked = []

    async def next_answer(self):
        self.asked.append(anyio.current_time())
        answer = self.answers.pop(0) if self.answers else True
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, float):
            await anyio.sleep(answer)
            return True
        return answer


@pytest.mark.anyio
async def test_a_check_is_asked_at_once_and_then_in_its_rhythm():
    class Pinging(Checked):
        @health_check(every=10, timeout=5)
        async def ping(self):
            return await self.next_answer()

    async with hosted(Pinging([3.0, None, True])) as actor:
        await anyio.sleep(35)
        assert actor.asked == [0, 10, 20, 30]
        assert actor.state.matches("healthy")


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("answer", "detail"),
    [(False, "answered False"), (ValueError("broken"), "broken"), (ValueError(), "ValueError"), (6.0, "TimeoutError")],
    ids=["false", "raises", "raises without a message", "times out"],
)
async def test_a_check_that_says_no_in_whatever_way_makes_a_concern(answer, detail):
    class Pinging(Checked):
        @health_check(every=10, timeout=5)
        async def ping(self):
            return await self.next_answer()

    async with hosted(Pinging([True, answer, True])) as actor:
        await actor.wait("unhealthy")
        assert str(actor.concerns["ping"]) == f"problem: {detail}"
        await actor.wait("healthy")
        assert anyio.current_time() == 20


@pytest.mark.anyio
async def test_a_check_fails_after_some_failures_and_recovers_after_some_successes():
    class Pinging(Checked):
        @health_check(every=1, fail_after=3, recover_after=2, severity="warning")
        async def ping(self):
            return await self.next_answer()

    no, yes = False, True
    async with transitions("started.health") as seen, hosted(Pinging([no, no, yes, no, no, no, yes, no, yes, yes])) as actor:
        await actor.wait("degraded")
        assert anyio.current_time() == 5
        await actor.wait("healthy")
        assert anyio.current_time() == 9
    assert seen == ["healthy → degraded", "degraded → healthy"]


@pytest.mark.anyio
async def test_checks_go_on_while_unhealthy_and_while_paused():
    class Pinging(Checked):
        @health_check(every=1)
        async def ping(self):
            return await self.next_answer()

    async with hosted(Pinging([False] * 5)) as actor:
        await actor.pause()
        await actor.wait("unhealthy")
        await actor.wait("healthy")
        assert anyio.current_time() == 5
        assert actor.state.matches("paused")


@pytest.mark.parametrize(
    "options", [{"every": 0}, {"every": 1, "timeout": 0}, {"every": 1, "fail_after": 0}, {"every": 1, "severity": "x"}]
)
def test_options_of_a_check_are_checked(options):
    with pytest.raises(ConfigurationError, match="health_check"):
        health_check(**options)


def test_a_check_must_be_async():
    with pytest.raises(DefinitionError, match="async def ping"):

        @health_check(every=1)
        def ping(self):
            pass


def test_a_concern_keeps_the_time_of_its_first_report():
    health = Health()
    health.report("api", "warning", 1)
    first = health.concerns["api"].since
    health.report("api", "warning", 2)
    assert health.concerns["api"].since == first
    assert health.concerns["api"].detail == 2
    assert health.level == "degraded"
    health.clear()
    assert health.level == "healthy"


def test_hysteresis_says_recovered_once():
    hysteresis = Hysteresis(fail_after=2, recover_after=2)
    said = [hysteresis.note(succeeded=succeeded) for succeeded in (True, False, False, False, True, True, True)]
    assert said == [None, None, "failed", "failed", None, "recovered", None]
