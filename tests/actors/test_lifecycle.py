"""The life of an actor: every trigger, from every state that has it, and what those who wait are told."""

import anyio
import pytest

from jumpstarter.actors import Actor, backoff, hosted, resource, run, task
from jumpstarter.actors.service import serve
from jumpstarter.errors import ActorCrashed, ActorError, DefinitionError, StopTimeout
from tests.actors.parts import Diary, transitions

pytestmark = pytest.mark.anyio


class Plain(Actor):
    pass


class Hooked(Actor):
    restart_backoff = backoff(1, 1, jitter=0)

    def __init__(self, **options):
        super().__init__(**options)
        self.diary = Diary()
        self.errors = {}

    async def _note(self, hook):
        self.diary.append(hook)
        if hook in self.errors:
            raise self.errors[hook]

    @resource(retry=backoff(1, 1, tries=1))
    def db(self):
        return self.diary.around("db", 42)

    async def on_start(self):
        await self._note(f"on_start, db={self.db}")

    async def on_ready(self):
        await self._note("on_ready")

    async def on_stopping(self):
        await self._note(f"on_stopping, db={self.db}")

    async def on_failure(self, error):
        await self._note(f"on_failure {error}, db={self.db}")

    async def on_stopped(self):
        await self._note("on_stopped")


async def test_an_actor_goes_from_initializing_to_started_to_stopped():
    actor = Plain()
    assert str(actor.state) == "initializing"
    async with transitions("") as seen, hosted(actor):
        assert actor.state.matches("started")
        assert actor.state.matches("healthy")
        assert actor.state.matches("started.flow.running")
        await actor.stop()
        assert str(actor.state) == "stopped"
    assert seen == [
        "initializing → starting",
        "resources → tasks",
        "tasks → started",
        "started → stopping",
        "draining → tasks",
        "tasks → resources",
        "resources → stopped",
    ]


async def test_hooks_run_in_order_and_have_the_resources():
    actor = Hooked()
    async with hosted(actor):
        await anyio.sleep(1)
    assert actor.diary == ["+db", "on_start, db=42", "on_ready", "on_stopping, db=42", "-db", "on_stopped"]


async def test_run_returns_when_the_actor_is_stopped_by_an_event():
    actor = Hooked()
    async with anyio.create_task_group() as group:
        group.start_soon(run, actor)
        await actor.wait("started")
        actor.post("stop")
    assert str(actor.state) == "stopped"


async def test_run_raises_what_crashed_the_actor():
    actor = Hooked()
    actor.errors["on_ready"] = ValueError("no luck")
    with pytest.raises(ActorCrashed) as crash:
        await run(actor)
    assert crash.value.actor == actor.name
    assert isinstance(crash.value.__cause__, ValueError)
    assert str(actor.state) == "crashed"


async def test_an_error_in_on_start_releases_what_was_acquired_and_does_not_call_on_stopping():
    actor = Hooked()
    actor.errors["on_start, db=42"] = ValueError("no luck")
    with pytest.raises(ActorCrashed):
        async with hosted(actor):
            pytest.fail("it must not start")
    assert actor.diary == ["+db", "on_start, db=42", "on_failure no luck, db=42", "-db", "on_stopped"]


async def test_an_error_in_on_stopping_crashes_the_actor_after_its_release():
    actor = Hooked()
    actor.errors["on_stopping, db=42"] = ValueError("cannot drain")
    with pytest.raises(ActorCrashed) as crash:
        async with hosted(actor):
            await anyio.sleep(1)  # until on_ready is done
    assert str(crash.value.__cause__) == "cannot drain"
    assert actor.diary[-4:] == ["on_stopping, db=42", "on_failure cannot drain, db=42", "-db", "on_stopped"]


async def test_an_error_in_on_failure_or_on_stopped_hides_neither_the_cause_nor_the_end():
    actor = Hooked()
    actor.errors["on_failure first, db=42"] = ValueError("second")
    actor.errors["on_stopped"] = ValueError("third")
    async with anyio.create_task_group() as group:
        group.start_soon(_expect_crash, actor, "first")
        await actor.wait("started")
        actor.fail(ValueError("first"))
    assert actor.diary[-2:] == ["-db", "on_stopped"]


async def _expect_crash(actor, cause):
    with pytest.raises(ActorCrashed) as crash:
        await run(actor)
    assert str(crash.value.__cause__) == cause


@pytest.mark.parametrize("moment", ["starting", "started", "stopping", "restarting"])
async def test_fail_leads_from_everywhere_to_crashed_with_everything_released(moment):
    class Slow(Hooked):
        async def on_start(self):
            await anyio.sleep(10)

        async def on_stopping(self):
            await anyio.sleep(10)

    actor = Slow()
    async with anyio.create_task_group() as group:
        group.start_soon(_expect_crash, actor, "told to")
        if moment != "starting":
            await actor.wait("started")
        if moment == "stopping":
            actor.post("stop")
        elif moment == "restarting":
            actor.post("restart")
        await actor.wait(moment)
        await anyio.sleep(1)
        assert actor.state.matches(moment)
        actor.fail(ValueError("told to"))
    assert str(actor.state) == "crashed"
    assert actor.diary[-3:] == ["on_failure told to, db=42", "-db", "on_stopped"]


async def test_an_actor_that_fails_before_its_start_crashes_at_once():
    actor = Plain()
    actor.fail(ValueError("stillborn"))
    actor._host.close()
    await serve(actor._host, until_stopped=False)
    with pytest.raises(ActorCrashed) as crash:
        await actor.wait_stopped()
    assert str(crash.value.__cause__) == "stillborn"


async def test_restart_goes_through_stopping_and_backing_off():
    actor = Hooked()
    async with hosted(actor), transitions("") as seen:
        began = anyio.current_time()
        await actor.restart()
        assert actor.state.matches("started")
        assert anyio.current_time() - began == pytest.approx(1)
    assert seen[:7] == [
        "started → restarting",
        "draining → tasks",
        "tasks → resources",
        "resources → backing_off",
        "backing_off → starting",
        "resources → tasks",
        "tasks → started",
    ]
    assert actor.diary.count("+db") == actor.diary.count("-db") == 2


async def test_a_crashed_actor_can_be_restarted_and_forgets_its_failure():
    actor = Hooked()
    async with hosted(actor):
        actor.fail(ValueError("once"))
        with pytest.raises(ActorCrashed):
            await actor.wait_stopped()
        await actor.restart()
        assert actor.state.matches("started")
        assert actor.failure is None
    assert str(actor.state) == "stopped"


async def test_restarts_in_a_row_back_off_ever_longer():
    class Slower(Plain):
        restart_backoff = backoff(1, 100, jitter=0)

    actor = Slower()
    async with hosted(actor):
        spans = []
        for pause in (0, 0, 0, 1000, 0):
            await anyio.sleep(pause)
            began = anyio.current_time()
            await actor.restart()
            spans.append(round(anyio.current_time() - began))
    assert spans == [1, 2, 4, 1, 2], "a thousand seconds without a restart begin a new row"


async def test_a_restart_from_where_there_is_none_is_refused():
    actor = Plain()
    async with hosted(actor):
        await actor.stop()
        with pytest.raises(ActorError, match="cannot restart while it is stopped"):
            await actor.restart()


async def test_a_stop_while_restarting_ends_the_actor():
    actor = Hooked()
    async with hosted(actor):
        actor.post("restart")
        await actor.wait("restarting.backing_off")
        await actor.stop()
        assert str(actor.state) == "stopped"
    assert actor.diary.count("+db") == 1


async def test_on_stopping_is_called_once_when_a_stop_overtakes_a_restart():
    class Slow(Hooked):
        async def on_stopping(self):
            self.diary.append("on_stopping")
            await anyio.sleep(5)

    actor = Slow()
    async with hosted(actor):
        actor.post("restart")
        await actor.wait("restarting.stopping.draining")
        await anyio.sleep(1)
        await actor.stop()
    assert actor.diary.count("on_stopping") == 1
    assert str(actor.state) == "stopped"


async def test_a_stopped_actor_can_be_started_again():
    actor = Hooked()
    async with hosted(actor):
        await actor.stop()
        await actor.start()
        assert actor.db == 42
    async with hosted(actor):
        assert actor.state.matches("started")
    assert actor.diary.count("+db") == 3


async def test_start_and_stop_may_be_called_from_any_task_and_more_than_once():
    actor = Hooked()
    async with hosted(actor):
        async with anyio.create_task_group() as group:
            for _ in range(3):
                group.start_soon(actor.start)
        async with anyio.create_task_group() as group:
            for _ in range(3):
                group.start_soon(actor.stop)
        await actor.stop()
    assert actor.diary.count("+db") == 1


async def test_an_actor_may_stop_itself_from_its_own_task():
    class Suicidal(Plain):
        @task
        async def work(self):
            await anyio.sleep(1)
            await self.stop()

    actor = Suicidal()
    await run(actor)
    assert str(actor.state) == "stopped"


async def test_a_start_while_its_host_is_leaving_is_refused():
    class Eager(Plain):
        async def on_stopped(self):
            self.post("start")

    actor = Eager()
    async with hosted(actor):
        pass
    assert str(actor.state) == "stopped"


async def test_stopping_an_actor_that_nobody_hosts_does_nothing():
    actor = Plain()
    await actor.stop()
    assert str(actor.state) == "initializing"


async def test_what_needs_a_host_says_so():
    actor = Plain()
    for call in (actor.start, actor.restart, actor.pause, actor.resume):
        with pytest.raises(ActorError, match="nobody hosts it"):
            await call()


async def test_an_actor_has_one_host_at_a_time():
    actor = Plain()
    async with hosted(actor):
        with pytest.raises(ActorError, match="hosted already"):
            await run(actor)
        assert actor.state.matches("started")


async def test_pause_waits_until_tasks_have_ended_and_resume_starts_them_again():
    class Working(Plain):
        began = ended = 0

        @task
        async def work(self):
            self.began += 1
            try:
                await anyio.sleep_forever()
            finally:
                with anyio.CancelScope(shield=True):
                    await anyio.sleep(3)
                self.ended += 1

    actor = Working()
    async with hosted(actor):
        await anyio.sleep(1)
        began = anyio.current_time()
        await actor.pause()
        assert anyio.current_time() - began == pytest.approx(3)
        assert actor.state.matches("paused")
        assert (actor.began, actor.ended) == (1, 1)
        await actor.pause()
        await actor.resume()
        assert actor.state.matches("started.flow.running")
        await anyio.sleep(1)
        assert actor.began == 2
        await actor.resume()


async def test_resume_overtakes_a_pause():
    class Working(Plain):
        @task(on_leave="finish")
        async def work(self):
            await anyio.sleep(100)

    actor = Working()
    async with hosted(actor):
        await anyio.sleep(1)
        async with anyio.create_task_group() as group:
            group.start_soon(actor.pause)
            await actor.wait("pausing")
            await actor.resume()
        assert actor.state.matches("started.flow.running")
        assert actor.state.matches("started.work.running")
        await actor.stop(grace=0)


async def test_pause_of_an_actor_that_has_not_started_is_an_error():
    actor = Plain()
    async with hosted(actor):
        await actor.stop()
        with pytest.raises(ActorError, match="did not get to"):
            await actor.pause()


async def test_whoever_waits_for_a_state_learns_that_the_actor_crashed():
    actor = Plain()
    async with hosted(actor):
        async with anyio.create_task_group() as group:
            group.start_soon(_expect_crash_while_waiting, actor)
            await anyio.sleep(1)
            actor.fail(ValueError("gone"))
        with pytest.raises(ActorCrashed):
            await actor.wait("started")
        await actor.restart()


async def _expect_crash_while_waiting(actor):
    with pytest.raises(ActorCrashed) as crash:
        await actor.wait("degraded")
    assert str(crash.value.__cause__) == "gone"


async def test_whoever_waits_for_a_state_learns_that_the_actor_stopped():
    actor = Plain()

    async def wait():
        with pytest.raises(ActorError, match=r"is stopped and did not get to 'started\.health\.degraded'"):
            await actor.wait("degraded")

    async with hosted(actor), anyio.create_task_group() as group:
        group.start_soon(wait)
        await anyio.sleep(1)
        await actor.stop()


async def test_waiting_for_a_state_that_does_not_exist_names_the_nearest_one():
    actor = Plain()
    with pytest.raises(DefinitionError, match=r"no state 'degrade'.*degraded"):
        await actor.wait("degrade")
    with pytest.raises(DefinitionError, match=r"ambiguous.*starting\.resources.*stopping\.resources"):
        actor.state.matches("resources")


async def test_a_start_that_takes_too_long_crashes():
    class Slow(Hooked):
        start_timeout = 5

        async def on_start(self):
            await anyio.sleep(6)

    actor = Slow()
    with pytest.raises(ActorCrashed) as crash:
        async with hosted(actor):
            pytest.fail("it must not start")
    assert "did not start within 5 s" in str(crash.value.__cause__)
    assert "-db" in actor.diary


async def test_the_start_timeout_does_not_count_once_started():
    class Quick(Hooked):
        start_timeout = 5

    actor = Quick()
    async with hosted(actor):
        await anyio.sleep(6)
        assert actor.state.matches("started")


async def test_draining_ends_with_its_grace():
    class Slow(Hooked):
        async def on_stopping(self):
            try:
                await anyio.sleep(1000)
            finally:
                self.diary.append("drained")

    actor = Slow()
    async with hosted(actor):
        began = anyio.current_time()
        await actor.stop(grace=7)
        assert anyio.current_time() - began == pytest.approx(7)
    assert actor.diary[-3:] == ["drained", "-db", "on_stopped"]
    assert str(actor.state) == "stopped"


async def test_a_second_stop_can_only_shorten_the_grace():
    class Slow(Hooked):
        async def on_stopping(self):
            await anyio.sleep(1000)

    actor = Slow()
    async with hosted(actor):
        began = anyio.current_time()
        async with anyio.create_task_group() as group:
            group.start_soon(actor.stop)
            await anyio.sleep(1)
            actor.post("stop", grace=2)
            actor.post("stop", grace=100)
        assert anyio.current_time() - began == pytest.approx(3)


async def test_stop_tells_when_something_ignores_its_cancellation():
    class Stubborn(Hooked):
        release_timeout = 2

        @task
        async def work(self):
            with anyio.CancelScope(shield=True):
                await anyio.sleep(100)

    actor = Stubborn()
    async with hosted(actor):
        await anyio.sleep(1)
        with pytest.raises(StopTimeout) as timeout:
            await actor.stop(grace=3)
        assert timeout.value.grace == 3
        await actor.stop(grace=100)
        assert anyio.current_time() >= 100
    assert actor.diary[-3:] == ["on_stopping, db=42", "-db", "on_stopped"], "its resources outlived the stubborn task"


async def test_a_failure_after_the_end_changes_nothing(caplog):
    actor = Plain()
    async with hosted(actor):
        await actor.stop()
        actor.fail(ValueError("late"))
        await anyio.sleep(1)
        assert str(actor.state) == "stopped"
        assert actor.failure is None
    assert "failure after its end" in caplog.text
