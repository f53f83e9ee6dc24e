"""Every trigger in the life of an actor, from every state in which it means something: one test for each row of the table in
docs/explanation/actors.md."""

import anyio
import pytest

from jumpstarter.actors import Actor, backoff, handles, hosted, resource, run, task
from jumpstarter.actors.messages import Command
from jumpstarter.actors.service import serve
from jumpstarter.errors import ActorCrashed, ActorError
from tests.actors.parts import Diary, transitions

pytestmark = pytest.mark.anyio


class Get(Command[int]):
    pass


class Slow(Actor):
    """Takes a second for each phase of its life."""

    restart_backoff = backoff(1, 1, jitter=0)

    def __init__(self):
        super().__init__()
        self.diary = Diary()

    @resource
    def thing(self):
        return self.diary.around("thing", enter=1, leave=1)

    async def on_start(self):
        await anyio.sleep(1)

    async def on_stopping(self):
        await anyio.sleep(1)

    @task
    async def work(self):
        await anyio.sleep_forever()

    @handles(Get)
    async def get(self, message):
        return 1


#: Seconds after the start → the state of the life, while it starts, runs, and is stopped after 3 seconds.
MOMENTS = {0.5: "starting.resources", 1.5: "starting.tasks", 2.5: "started", 3.5: "stopping.draining", 4.5: "stopping.resources"}


async def until(actor, moment):
    """Bring it to this moment of its life; to be served by the task group of who calls."""
    await anyio.sleep(min(moment, 3))
    if moment > 3:
        actor.post("stop")
        await anyio.sleep(moment - 3)
    assert actor.state.matches(MOMENTS[moment])


async def test_start_from_initializing_stopped_and_crashed():
    actor = Slow()
    async with anyio.create_task_group() as group:
        group.start_soon(_serve, actor)
        await anyio.sleep(0.1)
        async with transitions("") as seen:
            await actor.start()
            await actor.stop()
            await actor.start()
            actor.fail(ValueError("x"))
            await actor.wait("crashed")
            await actor.start()
        assert [one for one in seen if one.endswith("→ starting")] == [
            "initializing → starting",
            "stopped → starting",
            "crashed → starting",
        ]
        assert actor.failure is None
        actor._host.close()


async def _serve(actor):
    await serve(actor._host, until_stopped=False)


async def test_ready_leads_to_started():
    async with transitions("") as seen, hosted(Slow()):
        assert seen[-1] == "tasks → started"


@pytest.mark.parametrize(
    ("reports", "health"),
    [
        (["report_warning"], "degraded"),
        (["report_problem"], "unhealthy"),
        (["report_warning", "report_problem"], "unhealthy"),
        (["report_problem", "report_warning"], "degraded"),
        (["report_warning", "recover"], "healthy"),
        (["report_problem", "recover"], "healthy"),
    ],
)
async def test_reports_move_the_health_region_only(reports, health):
    async with hosted(Slow()) as actor:
        for report in reports:
            getattr(actor, report)("disk")
        await anyio.sleep(0.1)
        assert actor.state.matches(health)
        assert actor.state.matches("flow.running")
        assert actor.state.active[0] == "started"


async def test_one_source_that_recovers_does_not_mask_another():
    async with hosted(Slow()) as actor:
        actor.report_problem("disk")
        actor.report_warning("net")
        actor.recover("disk")
        await actor.wait("degraded")
        actor.recover("net")
        await actor.wait("healthy")


async def test_pause_and_resume_move_the_flow_region_only():
    async with hosted(Slow()) as actor:
        await actor.pause()
        assert [actor.state.matches(state) for state in ("paused", "healthy", "work.suspended", "mailbox.suspended")] == [True] * 4
        await actor.resume()
        assert [actor.state.matches(state) for state in ("flow.running", "healthy", "work.running")] == [True] * 3


async def test_restart_from_started_and_from_crashed_is_a_state_of_its_own():
    async with hosted(Slow()) as actor, transitions("") as seen:
        await actor.restart()
        assert "started → restarting" in seen
        assert "backing_off → starting" in seen
        assert actor.diary == ["+thing", "-thing", "+thing"]
        actor.fail(ValueError("x"))
        await actor.wait("crashed")
        seen.clear()
        await actor.restart()
        assert seen[:2] == ["crashed → backing_off", "backing_off → starting"]


@pytest.mark.parametrize("moment", MOMENTS)
async def test_stop_from_anywhere_releases_and_is_idempotent(moment):
    actor = Slow()
    async with anyio.create_task_group() as group:
        group.start_soon(run, actor)
        await until(actor, moment)
        group.start_soon(actor.stop)
        await actor.stop()
    await actor.stop()
    assert str(actor.state) == "stopped"
    assert actor.diary in (["+thing", "-thing"], [])
    assert actor.failure is None


@pytest.mark.parametrize("moment", MOMENTS)
async def test_fail_from_anywhere_releases_and_ends_in_crashed(moment):
    actor = Slow()

    async def host():
        with pytest.raises(ActorCrashed) as crash:
            await run(actor)
        assert str(crash.value.__cause__) == "mine"

    async with anyio.create_task_group() as group:
        group.start_soon(host)
        await until(actor, moment)
        actor.fail(ValueError("mine"))
    assert str(actor.state) == "crashed"
    assert actor.diary in (["+thing", "-thing"], [])


async def test_stop_and_fail_from_restarting():
    async with hosted(Slow()) as actor:
        actor.post("restart")
        await actor.wait("restarting.backing_off")
        await actor.stop()
        assert str(actor.state) == "stopped"
        assert actor.diary == ["+thing", "-thing"]
        await actor.start()
        actor.post("restart")
        await actor.wait("restarting.stopping.resources")
        actor.fail(ValueError("x"))
        await actor.wait("crashed")
        assert actor.diary == ["+thing", "-thing"] * 2
        await actor.restart()


async def test_stop_and_fail_before_the_start():
    stopped, failed = Slow(), Slow()
    async with anyio.create_task_group() as group:
        for actor in (stopped, failed):
            group.start_soon(_serve, actor)
        await anyio.sleep(0.1)
        await stopped.stop()
        failed.fail(ValueError("x"))
        await anyio.sleep(0.1)
        assert (str(stopped.state), str(failed.state)) == ("stopped", "crashed")
        for actor in (stopped, failed):
            actor._host.close()


async def test_what_means_nothing_in_a_state_is_refused_or_does_nothing():
    async with hosted(Slow()) as actor:
        await actor.start()
        await actor.stop()
        for what in (actor.pause, actor.resume, actor.restart):
            with pytest.raises(ActorError, match="stopped"):
                await what()
        actor.report_problem("disk")
        await anyio.sleep(0.1)
        assert str(actor.state) == "stopped"
