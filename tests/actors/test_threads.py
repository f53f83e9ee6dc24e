"""Threads: one of its own for a resource, calls into it, and posting from other threads and signal handlers. In real time."""

import contextvars
import os
import signal
import sqlite3
import threading
import time
from contextlib import contextmanager

import anyio
import pytest

from jumpstarter.actors import Actor, DedicatedThread, backoff, hosted, resource, run, task
from jumpstarter.errors import ActorCrashed, ActorError
from tests.actors.parts import Diary, real_time, transitions  # noqa: F401 - a fixture

pytestmark = pytest.mark.anyio

variable = contextvars.ContextVar("variable", default="unset")


@pytest.fixture
def anyio_backend(real_time):  # noqa: F811 - asks for the fixture that was imported
    return real_time


@pytest.fixture
def thread():
    thread = DedicatedThread("helper")
    yield thread
    thread.stop()


async def test_calls_run_in_one_named_thread_in_order(thread):
    seen = []

    def note(number):
        seen.append((number, threading.current_thread().name, threading.current_thread().daemon))
        return number * 2

    async with anyio.create_task_group() as group:
        for number in range(5):
            group.start_soon(thread.run, note, number)
            await anyio.lowlevel.checkpoint()
    assert await thread.run(note, 21) == 42
    assert sorted(seen[:5]) == [(number, "helper", False) for number in range(5)]
    assert len({name for _, name, _ in seen}) == 1


async def test_what_a_call_raises_is_raised_to_the_caller(thread):
    def fail():
        raise ValueError("in the thread")

    with pytest.raises(ValueError, match="in the thread"):
        await thread.run(fail)
    assert await thread.run(int, "7") == 7


async def test_an_interpreter_exit_in_the_thread_is_raised_to_the_caller(thread):
    def leave():
        raise SystemExit(3)

    with pytest.raises(SystemExit):
        await thread.run(leave)
    assert await thread.run(int, "7") == 7


async def test_context_variables_go_with_the_call(thread):
    variable.set("mine")
    assert await thread.run(variable.get) == "mine"


async def test_the_result_of_an_abandoned_call_is_handed_over_in_the_thread(thread):
    begun, release = threading.Event(), threading.Event()
    handed = []

    def slow():
        begun.set()
        release.wait(10)
        return "late"

    async with anyio.create_task_group() as group:
        group.start_soon(
            lambda: thread.run(slow, abandoned=lambda result: handed.append((result, threading.current_thread().name)))
        )
        await anyio.to_thread.run_sync(begun.wait, 10)
        group.cancel_scope.cancel()
    release.set()
    assert await thread.run(lambda: list(handed)) == [("late", "helper")]


async def test_an_abandoned_call_that_has_not_begun_is_dropped_unless_it_must_run(thread):
    begun, release = threading.Event(), threading.Event()
    ran = []

    def block():
        begun.set()
        release.wait(10)

    async with anyio.create_task_group() as group:
        group.start_soon(thread.run, block)
        await anyio.to_thread.run_sync(begun.wait, 10)
        group.start_soon(thread.run, ran.append, "dropped")
        group.start_soon(lambda: thread.run(ran.append, "must", must_run=True))
        await anyio.sleep(0.01)
        group.cancel_scope.cancel()
    release.set()
    await thread.run(int)
    assert ran == ["must"]


async def test_an_abandoned_call_that_fails_is_logged(thread, caplog):
    begun, release = threading.Event(), threading.Event()

    def slow():
        begun.set()
        release.wait(10)
        raise ValueError("nobody listens")

    async with anyio.create_task_group() as group:
        group.start_soon(thread.run, slow)
        await anyio.to_thread.run_sync(begun.wait, 10)
        group.cancel_scope.cancel()
    release.set()
    await thread.run(int)
    assert "nobody listens" in caplog.text


async def test_submitted_calls_run_and_their_errors_are_logged(thread, caplog):
    done = []
    thread.submit(lambda: done.append(1))
    thread.submit(lambda: 1 / 0)
    await thread.run(int)
    assert done == [1]
    assert "ZeroDivisionError" in caplog.text


async def test_a_stopped_thread_has_run_everything_and_refuses_more():
    thread = DedicatedThread("ending")
    done = []
    for number in range(10):
        thread.submit(lambda number=number: done.append(number))
    await thread.aclose()
    assert done == list(range(10))
    assert thread.stop()
    with pytest.raises(ActorError, match="thread 'ending' was stopped"):
        await thread.run(int)
    assert not [one for one in threading.enumerate() if one.name == "ending"]


async def test_a_thread_that_never_ran_anything_can_be_stopped():
    thread = DedicatedThread("idle")
    assert thread.stop()
    await thread.aclose()


def test_stop_gives_up_waiting_after_its_timeout():
    thread = DedicatedThread("busy")
    release = threading.Event()
    thread.submit(release.wait)
    assert not thread.stop(timeout=0.01)
    release.set()
    assert thread.stop()


class Store(Actor):
    """Uses sqlite3, which insists on being used in the thread that opened it."""

    retries = backoff(0.01, 0.01, tries=2)

    def __init__(self):
        super().__init__()
        self.diary = Diary()

    @resource(thread="own", retry=retries)
    @contextmanager
    def db(self):
        connection = sqlite3.connect(":memory:")
        self.diary.append(threading.current_thread().name)
        try:
            yield connection
        finally:
            connection.execute("select 1")
            connection.close()
            self.diary.append(threading.current_thread().name)


async def test_a_resource_with_a_thread_of_its_own_is_entered_used_and_left_there():
    actor = Store()
    async with hosted(actor):
        rows = await actor.threads["db"].run(lambda: actor.db.execute("select 1 + 1").fetchall())
        assert rows == [(2,)]
        with pytest.raises(sqlite3.ProgrammingError):
            actor.db.execute("select 1")
        await actor.restart()
        assert (await actor.threads["db"].run(actor.db.execute, "select 3")).fetchall is not None
    assert actor.diary == [f"{actor.name}: db"] * 4
    assert not actor.threads
    assert not [one for one in threading.enumerate() if one.name == f"{actor.name}: db"]


async def test_a_thread_resource_that_cannot_be_entered_leaves_no_thread():
    class Broken(Actor):
        @resource(thread="own", retry=Store.retries)
        def db(self):
            raise OSError("refused")

    actor = Broken()
    with pytest.raises(ActorCrashed):
        await run(actor)
    assert not [one for one in threading.enumerate() if one.name.startswith(actor.name)]


async def test_a_thread_resource_that_takes_too_long_is_left_again_once_it_was_entered():
    begun, release, left = threading.Event(), threading.Event(), threading.Event()

    class Opening:
        def __enter__(self):
            begun.set()
            release.wait(10)

        def __exit__(self, *_):
            left.set()

    class Slow(Actor):
        @resource(thread="own", timeout=0.05, retry=backoff(0, 0, tries=1))
        def thing(self):
            return Opening()

    with pytest.raises(ActorCrashed) as crash:
        await run(Slow())
    assert "not acquired within 0.05 s" in str(crash.value.__cause__.__cause__)
    release.set()
    assert await anyio.to_thread.run_sync(left.wait, 10)


async def test_a_synchronous_context_manager_is_demanded_for_a_thread():
    class Wrong(Actor):
        @resource(thread="own", retry=backoff(0, 0, tries=1))
        def thing(self):
            return Diary().around("thing")

    with pytest.raises(ActorCrashed) as crash:
        await run(Wrong())
    assert "Wrong.thing must return a synchronous context manager (thread='own')" in str(crash.value.__cause__.__cause__)


class Counting(Actor):
    def __init__(self):
        super().__init__()
        self.begun = []
        self.threads_seen = set()

    def regions(self):
        return {
            "slot": {
                "states": ["idle", "processing"],
                "initial": "idle",
                "transitions": [
                    {"trigger": "slot.begin", "source": "idle", "dest": "processing", "after": "note"},
                    ["slot.end", "processing", "idle"],
                ],
            }
        }

    def note(self, tag):
        self.begun.append(tag)
        self.threads_seen.add(threading.get_ident())


async def test_events_from_other_threads_are_stepped_in_order_in_the_hosts_thread():
    actor = Counting()
    async with hosted(actor):

        def post_many():
            for number in range(1000):
                actor.post("slot.begin", tag=number)
                actor.post("slot.end")

        await anyio.to_thread.run_sync(post_many)
        actor.post("slot.begin", tag="last")
        await actor.wait("processing")
        assert actor.begun == [*range(1000), "last"]
        assert actor.threads_seen == {threading.get_ident()}


async def test_an_event_from_a_thread_wakes_an_idle_actor():
    actor = Counting()
    async with hosted(actor):
        await anyio.sleep(0.01)
        timer = threading.Timer(0.01, lambda: actor.post("slot.begin", tag=1))
        timer.start()
        with anyio.fail_after(5):
            await actor.wait("processing")
        timer.join()


async def test_reports_and_failures_may_come_from_threads():
    actor = Counting()
    async with hosted(actor):
        await anyio.to_thread.run_sync(actor.report_problem, "thread", "no luck")
        await actor.wait("unhealthy")
        await anyio.to_thread.run_sync(actor.recover, "thread")
        await actor.wait("healthy")
        await anyio.to_thread.run_sync(actor.fail, ValueError("from a thread"))
        with pytest.raises(ActorCrashed):
            await actor.wait_stopped()
        await actor.restart()


async def test_posts_from_many_threads_are_all_handled():
    actor = Counting()
    async with hosted(actor):
        await actor.wait("slot.idle")

        def post(base):
            for number in range(500):
                actor.report_warning(f"{base}.{number}")

        async with anyio.create_task_group() as group:
            for base in range(4):
                group.start_soon(anyio.to_thread.run_sync, post, base)
        actor.post("slot.begin", tag=0)  # comes after all of them
        with anyio.fail_after(10):
            await actor.wait("processing")
        assert len(actor.concerns) == 2000


async def test_a_signal_handler_may_post():
    actor = Counting()
    before = signal.signal(signal.SIGUSR1, lambda *_: actor.post("stop"))
    try:
        async with anyio.create_task_group() as group:
            group.start_soon(run, actor)
            await actor.wait("started")
            threading.Timer(0.01, os.kill, (os.getpid(), signal.SIGUSR1)).start()
            with anyio.fail_after(5):
                await actor.wait_stopped()
    finally:
        signal.signal(signal.SIGUSR1, before)


async def test_posts_after_the_loop_has_ended_are_kept_for_the_next_host():
    actor = Counting()
    async with hosted(actor):
        pass
    await anyio.to_thread.run_sync(actor.report_warning, "late")
    async with hosted(actor):
        assert actor.state.matches("healthy"), "what was said before the start of this life is forgotten"


async def test_the_state_can_be_read_while_it_changes():
    actor = Counting()
    stop = threading.Event()
    torn = []

    def read():
        while not stop.is_set():
            view = actor.state
            if view.matches("started") != (len(view.leaves) == 3):
                torn.append(str(view))

    async with hosted(actor), anyio.create_task_group() as group:
        group.start_soon(anyio.to_thread.run_sync, read)
        until = time.monotonic() + 0.2
        while time.monotonic() < until:
            actor.post("slot.begin", tag=0)
            actor.post("slot.end")
            await anyio.lowlevel.checkpoint()
        stop.set()
    assert torn == []


async def test_a_task_may_use_the_thread_of_a_resource():
    class Counter(Store):
        @task
        async def count(self):
            self.answer = await self.threads["db"].run(lambda: self.db.execute("select 42").fetchone()[0])

    async with transitions("resources.db") as seen, hosted(Counter()) as actor:
        await actor.wait("started.count.done")
        assert actor.answer == 42
    assert seen == ["missing → acquiring", "acquiring → held", "held → releasing", "releasing → released"]
