"""Slots run jobs in order, tell when they turn busy and idle, and give back what they have not started."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from jumpstarter.executors import CallingThreadExecutor, InlineExecutor, LoopExecutor, ThreadExecutor
from jumpstarter.jobs import Delivery, Job, Outcome
from tests.worker.toy import ToyHandler, envelope


def jobs(function: Any, count: int) -> list[Job]:
    handler = ToyHandler("toy", function)
    made = []
    for number in range(count):
        delivery = Delivery(str(number), "toys", envelope("toy", number))
        made.append(Job(id=str(number), name="toy", delivery=delivery, handler=handler))
    return made


class Log:
    """What an executor says, and a way to wait for the n-th outcome."""

    def __init__(self, expected: int) -> None:
        self.outcomes: list[Outcome] = []
        self.slots: list[tuple[int, bool]] = []
        self.first_jobs: list[str] = []
        self.threads: set[str] = set()
        self._expected = expected
        self.all_done = threading.Event()

    def run(self, job: Job, slot: int) -> Outcome:
        self.threads.add(threading.current_thread().name)
        return job.handler.run(job)

    def on_outcome(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)
        if len(self.outcomes) == self._expected:
            self.all_done.set()

    def on_slot(self, slot: int, job: Job | None) -> None:
        self.slots.append((slot, job is not None))
        if job is not None:
            self.first_jobs.append(job.id)


def test_a_thread_slot_turns_busy_once_for_a_run_of_jobs() -> None:
    log = Log(100)
    executor = ThreadExecutor(1, log.run, log.on_outcome, log.on_slot)
    gate = threading.Event()
    executor.submit(jobs(lambda _: gate.wait(10), 100))
    gate.set()
    assert log.all_done.wait(10)
    executor.close()
    assert [outcome.delivery.tag for outcome in log.outcomes] == [str(number) for number in range(100)]
    assert log.slots == [(0, True), (0, False)]
    assert log.first_jobs == ["0"]


def test_thread_slots_run_at_the_same_time() -> None:
    barrier = threading.Barrier(4)
    log = Log(4)
    executor = ThreadExecutor(4, log.run, log.on_outcome, log.on_slot)
    executor.submit(jobs(lambda _: barrier.wait(10), 4))
    assert log.all_done.wait(10)
    executor.close()
    assert len(log.threads) == 4


def test_what_has_not_started_can_be_withdrawn() -> None:
    started, gate = threading.Event(), threading.Event()

    def hold(_: int) -> None:
        started.set()
        gate.wait(10)

    log = Log(1)
    executor = ThreadExecutor(1, log.run, log.on_outcome, log.on_slot)
    executor.submit(jobs(hold, 3))
    assert started.wait(10)
    assert (executor.busy, executor.backlog) == (1, 2)
    assert [job.id for job in executor.withdraw()] == ["1", "2"]
    assert executor.backlog == 0
    gate.set()
    executor.close()
    assert [outcome.delivery.tag for outcome in log.outcomes] == ["0"]


def test_a_low_backlog_is_told_of_when_a_job_ends_and_not_before() -> None:
    log = Log(10)
    executor = CallingThreadExecutor(log.run, log.on_outcome, log.on_slot)
    told: list[int] = []
    executor.submit(jobs(lambda number: number, 10))
    executor.call_when_low(2, lambda: told.append(len(log.outcomes)))
    executor.close()  # the sign to stop waits behind the jobs, and counts as one
    executor.serve()
    assert told == [9, 10]
    executor.call_when_low(-1, lambda: told.append(-1))
    executor.submit(jobs(lambda number: number, 1))
    executor.close()
    executor.serve()
    assert told == [9, 10]


@pytest.mark.anyio
async def test_the_loops_slots_tell_of_a_low_backlog_too() -> None:
    log = Log(5)
    told: list[int] = []

    async def run(job: Job, _slot: int) -> Outcome:
        await anyio.lowlevel.checkpoint()
        return Outcome(job.delivery, job, "SUCCESS")

    async with anyio.create_task_group() as group:
        executor = LoopExecutor(1, run, log.on_outcome, log.on_slot, group)
        executor.call_when_low(1, lambda: told.append(len(log.outcomes)))
        executor.submit(jobs(None, 5))
    assert told == [4, 5]


def test_withdrawing_leaves_the_sign_to_stop_in_place() -> None:
    log = Log(0)
    executor = CallingThreadExecutor(log.run, log.on_outcome, log.on_slot)
    executor.close()
    assert executor.withdraw() == []
    executor.serve()  # returns, since the sign is still there


def test_the_calling_thread_serves_until_closed() -> None:
    log = Log(3)
    executor = CallingThreadExecutor(log.run, log.on_outcome, log.on_slot)
    executor.submit(jobs(lambda number: number, 3))
    executor.close()
    executor.serve()
    assert log.threads == {threading.current_thread().name}
    assert len(log.outcomes) == 3


def test_a_job_may_end_the_calling_threads_process() -> None:
    def leave(_: int) -> None:
        raise SystemExit(3)

    log = Log(1)
    executor = CallingThreadExecutor(log.run, log.on_outcome, log.on_slot)
    executor.submit(jobs(leave, 1))
    with pytest.raises(SystemExit):
        executor.serve()
    assert log.slots == [(0, True), (0, False)]


def test_inline_runs_before_submit_returns() -> None:
    log = Log(2)
    InlineExecutor(log.run, log.on_outcome, log.on_slot).submit(jobs(lambda number: number, 2))
    assert [outcome.status for outcome in log.outcomes] == ["SUCCESS", "SUCCESS"]
    assert log.slots == [(0, True), (0, False)]


@pytest.mark.anyio
async def test_loop_slots_run_at_the_same_time_but_not_more_than_there_are() -> None:
    running = most = 0

    async def hold(_: int) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await anyio.sleep(0.01)
        running -= 1

    log = Log(10)

    async def arun(job: Job, slot: int) -> Outcome:
        return await job.handler.arun(job)

    async with anyio.create_task_group() as group:
        executor = LoopExecutor(3, arun, log.on_outcome, log.on_slot, group)
        executor.submit(jobs(hold, 10))
        assert (executor.busy, executor.backlog) == (3, 7)
    assert most == 3
    assert len(log.outcomes) == 10
    assert executor.busy == 0
    assert sorted(log.slots) == [(0, False), (0, True), (1, False), (1, True), (2, False), (2, True)]


@pytest.mark.anyio
async def test_a_job_in_the_callers_thread_finds_no_running_loop() -> None:
    found = []

    async def answer() -> int:
        return 42

    def work(number: int) -> None:
        with pytest.raises(RuntimeError, match="no running event loop"):
            asyncio.get_running_loop()
        found.append(asyncio.run(answer()))

    log = Log(1)
    loop = asyncio._get_running_loop()
    InlineExecutor(log.run, log.on_outcome, log.on_slot).submit(jobs(work, 1))
    assert found == [42]
    assert asyncio._get_running_loop() is loop
