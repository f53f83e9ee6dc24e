"""Tasks, timers and loops: where they run, how they end, what their errors do."""

import anyio
import pytest

from jumpstarter.actors import Actor, backoff, hosted, loop, run, task, timer
from jumpstarter.errors import ActorCrashed
from tests.actors.parts import Diary, transitions

pytestmark = pytest.mark.anyio

STEADY = backoff(1, 1, jitter=0)


class Keeping(Actor):
    """Keeps a diary."""

    def __init__(self, **options):
        super().__init__(**options)
        self.diary = Diary()

    async def spend(self, name, seconds=float("inf"), *, leave=0.0):
        """Note the beginning and the end of some work, which needs some seconds to end when it is cancelled."""
        self.diary.append(f"+{name}")
        try:
            await anyio.sleep(seconds)
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(leave)
            self.diary.append(f"-{name}")


class Healths(Keeping):
    @task
    async def usual(self):
        await self.spend("usual")

    @task(during="started.health.healthy")
    async def healthy_only(self):
        await self.spend("healthy_only", leave=2)

    @task(during=("degraded", "unhealthy"))
    async def in_trouble(self):
        await self.spend("in_trouble")

    @task(during="started")
    async def always(self):
        await self.spend("always")


async def test_tasks_run_in_their_states_only():
    async with hosted(Healths()) as actor:
        await anyio.sleep(1)
        assert sorted(actor.diary) == ["+always", "+healthy_only", "+usual"]
        actor.diary.clear()
        actor.report_warning("disk")
        await actor.wait("degraded")
        assert actor.state.matches("started.healthy_only.suspended")
        await anyio.sleep(5)
        assert actor.diary == ["-healthy_only", "+in_trouble"]
        actor.diary.clear()
        actor.report_problem("disk")
        await anyio.sleep(5)
        assert actor.diary == ["-usual"], "from degraded to unhealthy in_trouble goes on"
        actor.diary.clear()
        actor.recover("disk")
        await anyio.sleep(5)
        assert sorted(actor.diary) == ["+healthy_only", "+usual", "-in_trouble"]


async def test_what_a_state_leaves_has_ended_before_the_next_states_task_begins():
    async with hosted(Healths()) as actor:
        await anyio.sleep(1)
        actor.report_warning("disk")
        await actor.wait("degraded")
        await anyio.sleep(1.9)
        assert "+in_trouble" not in actor.diary
        await anyio.sleep(0.2)
        assert actor.diary[-2:] == ["-healthy_only", "+in_trouble"]


async def test_a_task_that_shares_a_state_with_the_next_one_is_awaited_as_well():
    class Sharing(Keeping):
        @task
        async def usual(self):
            await self.spend("usual", leave=2)

        @task(during=("degraded", "unhealthy"))
        async def in_trouble(self):
            await self.spend("in_trouble")

    async with hosted(Sharing()) as actor:
        await anyio.sleep(1)
        actor.report_problem("disk")
        await anyio.sleep(1.9)
        assert actor.diary == ["+usual"]
        await anyio.sleep(0.2)
        assert actor.diary == ["+usual", "-usual", "+in_trouble"]


async def test_a_task_that_was_left_and_entered_again_meanwhile_starts_once_it_has_ended():
    async with hosted(Healths()) as actor:
        await anyio.sleep(1)
        actor.diary.clear()
        actor.report_warning("disk")
        actor.recover("disk")
        await anyio.sleep(1)
        assert "+healthy_only" not in actor.diary
        await anyio.sleep(1.1)
        assert actor.diary == ["-healthy_only", "+healthy_only"], "and in_trouble, whose time was over, never began"


async def test_pause_suspends_tasks_but_not_what_is_bound_to_started():
    async with hosted(Healths()) as actor:
        await anyio.sleep(1)
        actor.diary.clear()
        await actor.pause()
        assert sorted(actor.diary) == ["-healthy_only", "-usual"]


async def test_a_task_that_returns_is_done_until_the_next_life():
    class Once(Keeping):
        @task
        async def work(self):
            await self.spend("work", 1)

    async with hosted(Once()) as actor:
        await actor.wait("started.work.done")
        actor.report_problem("x")
        actor.recover("x")
        await anyio.sleep(10)
        assert actor.diary == ["+work", "-work"]
        await actor.restart()
        await actor.wait("started.work.done")
        assert actor.diary == ["+work", "-work"] * 2


async def test_finish_lets_a_task_end_by_itself_and_holds_the_next_one_back():
    class Finishing(Keeping):
        @task(during="healthy", on_leave="finish")
        async def work(self):
            await self.spend("work", 10)

        @task(during="degraded")
        async def next_one(self):
            await self.spend("next_one")

    async with hosted(Finishing()) as actor:
        await anyio.sleep(1)
        actor.report_warning("disk")
        await actor.wait("degraded")
        await anyio.sleep(1)
        assert actor.state.matches("started.work.running")
        await actor.wait("started.work.done")
        assert anyio.current_time() == 10
        await anyio.sleep(1)
        assert actor.diary == ["+work", "-work", "+next_one"]


async def test_stop_waits_for_what_finishes_within_the_grace():
    class Finishing(Keeping):
        seconds = 10

        @task(on_leave="finish")
        async def work(self):
            await self.spend("work", self.seconds)
            self.diary.append("finished")

        async def on_stopping(self):
            self.diary.append("on_stopping")

    async with hosted(Finishing()) as actor:
        await anyio.sleep(1)
        await actor.stop()
        assert anyio.current_time() == 10
        assert actor.diary == ["+work", "on_stopping", "-work", "finished"]
        actor.diary.clear()
        actor.seconds = 1000
        await actor.start()
        await anyio.sleep(1)
        await actor.stop(grace=5)
        assert anyio.current_time() == 16
        assert actor.diary == ["+work", "on_stopping", "-work"]


async def test_a_task_that_fails_is_restarted_after_a_delay():
    class Failing(Keeping):
        @task(retry=STEADY)
        async def work(self):
            self.diary.append(anyio.current_time())
            if len(self.diary) < 3:
                raise ValueError("not yet")
            await anyio.sleep_forever()

    async with transitions("started.work") as seen, hosted(Failing()) as actor:
        await actor.wait("started.work.failed")
        await anyio.sleep(5)
        assert actor.diary == [0, 1, 2]
        assert actor.state.matches("started.work.running")
        assert actor.state.matches("healthy")
    assert seen[:4] == ["suspended → running", "running → failed", "failed → suspended", "suspended → running"]


async def test_a_task_that_fails_too_often_fails_the_actor():
    class Failing(Keeping):
        @task(restarts=2, within=60, retry=STEADY)
        async def work(self):
            self.diary.append(anyio.current_time())
            raise ValueError("never")

    actor = Failing()
    with pytest.raises(ActorCrashed) as crash:
        await run(actor)
    assert str(crash.value.__cause__) == "never"
    assert actor.diary == [0, 1, 2]


async def test_failures_that_are_far_apart_do_not_add_up():
    class Failing(Keeping):
        @task(restarts=1, within=60, retry=STEADY)
        async def work(self):
            self.diary.append(anyio.current_time())
            await anyio.sleep(100)
            raise ValueError("now and then")

    async with hosted(Failing()) as actor:
        await anyio.sleep(1000)
        assert len(actor.diary) == 10
        assert actor.state.matches("started")


async def test_an_error_in_a_group_of_one_is_unwrapped():
    class Failing(Keeping):
        @task(restarts=0)
        async def work(self):
            async with anyio.create_task_group() as group:
                group.start_soon(self.fail_there)

        async def fail_there(self):
            raise ValueError("inside")

    with pytest.raises(ActorCrashed) as crash:
        await run(Failing())
    assert isinstance(crash.value.__cause__, ValueError)


async def test_an_error_while_a_task_is_being_cancelled_is_logged_only(caplog):
    class Failing(Keeping):
        @task
        async def work(self):
            try:
                await anyio.sleep_forever()
            finally:
                raise ValueError("in its finally")

    async with hosted(Failing()) as actor:
        await anyio.sleep(1)
    assert str(actor.state) == "stopped"
    assert "failed while it was ending" in caplog.text
    assert "in its finally" in caplog.text


async def test_a_task_may_run_outside_of_started_as_well():
    class Beating(Keeping):
        @task(during=("started", "stopping.draining"))
        async def beat(self):
            while True:
                self.diary.append(anyio.current_time())
                await anyio.sleep(1)

        async def on_stopping(self):
            await anyio.sleep(2.2)

    async with hosted(Beating()) as actor:
        await anyio.sleep(1.5)
    assert actor.diary == [0, 1, 2, 3], "it was neither interrupted nor restarted by the stop"


async def test_a_task_outside_of_started_is_restarted_and_crashes_as_any_other():
    class Failing(Keeping):
        @task(during=("starting.tasks", "started"), restarts=1, retry=STEADY)
        async def work(self):
            self.diary.append(anyio.current_time())
            raise ValueError("never")

    actor = Failing()
    with pytest.raises(ActorCrashed) as crash:
        await run(actor)
    assert str(crash.value.__cause__) == "never"
    assert actor.diary == [0, 1]


async def test_a_subclass_overrides_a_task_and_keeps_its_options():
    class Base(Keeping):
        @task(during="degraded")
        async def work(self):
            self.diary.append("base")

    class Derived(Base):
        async def work(self):
            self.diary.append("derived")

    class Without(Base):
        work = None

    async with hosted(Derived()) as actor:
        await anyio.sleep(1)
        assert actor.diary == []
        actor.report_warning("x")
        await actor.wait("started.work.done")
        assert actor.diary == ["derived"]
    async with hosted(Without()) as actor:
        assert not any("work" in state for state in actor.state.active)


async def test_a_timer_keeps_its_rhythm():
    class Ticking(Keeping):
        @timer(every=10)
        async def tick(self):
            self.diary.append(anyio.current_time())
            await anyio.sleep(3)

    async with hosted(Ticking()) as actor:
        await anyio.sleep(45)
        assert actor.diary == [10, 20, 30, 40]


async def test_a_timer_skips_what_fell_due_while_it_ran():
    class Ticking(Keeping):
        @timer(every=10)
        async def tick(self):
            self.diary.append(anyio.current_time())
            await anyio.sleep(25)

    async with hosted(Ticking()) as actor:
        await anyio.sleep(100.5)
        assert actor.diary == [10, 40, 70, 100]


async def test_a_timer_rests_while_its_states_are_not_active():
    class Ticking(Keeping):
        @timer(every=10, during="healthy")
        async def tick(self):
            self.diary.append(anyio.current_time())

    async with hosted(Ticking()) as actor:
        await anyio.sleep(15)
        actor.report_warning("x")
        await anyio.sleep(30)
        actor.recover("x")
        await anyio.sleep(15)
        assert actor.diary == [10, 55]


async def test_a_day_of_ticks_takes_no_time():
    class Ticking(Keeping):
        @timer(every=60)
        async def tick(self):
            self.diary.append(anyio.current_time())

    async with hosted(Ticking()) as actor:
        await anyio.sleep(43_200)
        await anyio.sleep(43_200.5)
        assert len(actor.diary) == 1440
        assert actor.diary[-1] == 86_400


class Worker(Keeping):
    work = loop("polling", "processing", "reporting", idle=backoff(1, 4, jitter=0))
    jobs = ()

    def __init__(self, jobs=()):
        super().__init__()
        self.jobs = list(jobs)

    @work.polling
    async def poll(self):
        await anyio.sleep(1)
        return self.jobs.pop(0) if self.jobs else None

    @work.processing
    async def process(self, job):
        self.diary.append(f"process {job}")
        await anyio.sleep(10)
        return job * 10

    @work.reporting
    async def report(self, result):
        self.diary.append(f"report {result}")


async def test_stages_feed_each_other_round_and_round():
    async with transitions("started.work") as seen, hosted(Worker([1, 2])) as actor:
        await actor.wait("started.work.waiting")
    assert actor.diary == ["process 1", "report 10", "process 2", "report 20"]
    assert seen[:4] == ["suspended → polling", "polling → processing", "processing → reporting", "reporting → polling"]


async def test_a_loop_with_nothing_to_do_waits_ever_longer_and_starts_anew_with_work():
    actor = Worker()
    polls = []

    class Noting(Worker):
        async def poll(self):
            polls.append(anyio.current_time())
            return self.jobs.pop(0) if self.jobs else None

    actor = Noting()
    async with hosted(actor):
        await anyio.sleep(13)
        assert polls == [0, 1, 3, 7, 11]
        actor.jobs.append(5)
        await anyio.sleep(15.5)
        assert polls[5:] == [15, 25, 26, 28]


async def test_a_loop_is_suspended_in_the_middle_of_a_stage():
    async with hosted(Worker([1, 2])) as actor:
        await actor.wait("processing")
        await anyio.sleep(1)
        actor.report_problem("disk")
        await actor.wait("started.work.suspended")
        await anyio.sleep(100)
        assert actor.diary == ["process 1"]
        actor.recover("disk")
        await actor.wait("processing")
        await anyio.sleep(1)
        assert actor.diary == ["process 1", "process 2"]


class Finishing(Worker):
    work = loop("polling", "processing", "reporting", on_leave="finish", idle=backoff(1, 4, jitter=0))
    poll = work.polling(Worker.poll)
    process = work.processing(Worker.process)
    report = work.reporting(Worker.report)


async def test_a_loop_that_finishes_goes_through_the_round_that_has_begun():
    async with hosted(Finishing([1, 2])) as actor:
        await actor.wait("processing")
        actor.report_problem("disk")
        await actor.wait("unhealthy")
        assert actor.state.matches("processing")
        await actor.wait("started.work.suspended")
        assert actor.diary == ["process 1", "report 10"]
        assert anyio.current_time() == 11
        actor.recover("disk")
        await actor.wait("processing")


async def test_a_loop_that_finishes_does_so_when_the_actor_stops():
    async with hosted(Finishing([1, 2])) as actor:
        await actor.wait("processing")
        await anyio.sleep(1)
    assert actor.diary == ["process 1", "report 10"]
    assert actor.jobs == [2]


@pytest.mark.parametrize("state", ["polling", "waiting"])
async def test_a_loop_that_finishes_is_interrupted_while_it_has_nothing_in_hand(state):
    async with hosted(Finishing()) as actor:
        await actor.wait("waiting")
        await actor.wait(state)
        await anyio.sleep(0.5)
        began = anyio.current_time()
        await actor.pause()
        assert anyio.current_time() == began
        assert actor.state.matches("started.work.suspended")
        await actor.resume()
        await actor.wait("polling")


async def test_a_loop_of_one_stage():
    class Single(Keeping):
        work = loop("pulling", idle=STEADY)

        @work.pulling
        async def pull(self):
            self.diary.append(anyio.current_time())
            await anyio.sleep(1)
            return True if len(self.diary) % 3 else None

    async with hosted(Single()) as actor:
        await anyio.sleep(8.5)
        assert actor.diary == [0, 1, 2, 4, 5, 6, 8]
        await actor.pause()
        await actor.resume()
        await anyio.sleep(0.5)
        assert len(actor.diary) == 8


async def test_a_loop_of_one_stage_that_finishes_is_never_interrupted():
    class Single(Keeping):
        work = loop("pulling", on_leave="finish")

        @work.pulling
        async def pull(self):
            await self.spend("pull", 10)
            self.diary.append("finished")
            return True

    async with hosted(Single()) as actor:
        await anyio.sleep(1)
        await actor.pause()
        assert anyio.current_time() == 10
        assert actor.diary == ["+pull", "-pull", "finished"]
        assert actor.state.matches("started.work.suspended")


async def test_a_stage_that_fails_restarts_the_loop_from_its_first_stage():
    class Failing(Worker):
        work = loop("polling", "processing", retry=STEADY, restarts=1)

        @work.polling
        async def poll(self):
            return self.jobs.pop(0) if self.jobs else None

        @work.processing
        async def process(self, job):
            raise ValueError(f"cannot do {job}")

    actor = Failing([1, 2, 3])
    with pytest.raises(ActorCrashed) as crash:
        await run(actor)
    assert str(crash.value.__cause__) == "cannot do 2"
    assert actor.jobs == [3]


async def test_a_stage_does_not_begin_when_the_step_into_it_suspends_the_loop():
    class Torn(Keeping):
        work = loop("polling", "processing")

        @work.polling
        async def poll(self):
            self.report_problem("disk")
            return 1

        @work.processing
        async def process(self, job):
            self.diary.append(job)

    async with hosted(Torn()) as actor:
        await anyio.sleep(1)
        assert actor.state.matches("started.work.suspended")
        assert actor.diary == []


async def test_a_loop_that_never_waits_lets_others_run():
    class Busy(Keeping):
        work = loop("polling", "processing")
        count = 0

        @work.polling
        async def poll(self):
            return 1

        @work.processing
        async def process(self, job):
            self.count += 1

    async with hosted(Busy()) as actor:
        while actor.count < 100:
            await anyio.lowlevel.checkpoint()
        await actor.pause()
    assert str(actor.state) == "stopped"
