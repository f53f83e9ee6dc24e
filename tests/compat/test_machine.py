"""What Celery's utilities say about the machine, and its timers, threads and worker state."""

from __future__ import annotations

import signal
import socket
import threading
import time
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from compat_celery import Celery
from compat_celery.exceptions import ImproperlyConfigured, WorkerShutdown, WorkerTerminate
from compat_celery.utils import sysinfo
from compat_celery.utils.collections import BufferMap
from compat_celery.utils.debug import blockdetection, cry, humanbytes, mem_rss, sample
from compat_celery.utils.iso8601 import parse_iso8601
from compat_celery.utils.quorum_queues import detect_quorum_queues
from compat_celery.utils.threads import bound_open_broker_sockets, default_socket_timeout
from compat_celery.utils.timer2 import Timer
from compat_celery.worker import state as worker_state


@pytest.fixture
def files(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The kernel's files, as a container may see them."""
    found: dict[str, str] = {}
    monkeypatch.setattr(sysinfo, "_read_text", found.get)
    monkeypatch.setattr(sysinfo, "available_cpu_count", lambda: 8)
    return found


@pytest.mark.parametrize(
    ("content", "quota", "count"),
    [
        ({"/sys/fs/cgroup/cpu.max": "150000 100000\n"}, 1.5, 2),
        ({"/sys/fs/cgroup/cpu.max": "max 100000\n"}, None, 8),
        (
            {"/proc/self/cgroup": "0::/a/b\n", "/sys/fs/cgroup/a/cpu.max": "300000 100000", "/sys/fs/cgroup/a/b/cpu.max": "max 1"},
            3,
            3,
        ),
        (
            {
                "/proc/self/cgroup": "4:cpu,cpuacct:/x\n",
                "/sys/fs/cgroup/cpu,cpuacct/x/cpu.cfs_quota_us": "10000\n",
                "/sys/fs/cgroup/cpu,cpuacct/x/cpu.cfs_period_us": "100000\n",
            },
            0.1,
            1,
        ),
        ({"/sys/fs/cgroup/cpu.max": "9900000 100000"}, 99, 8),
        ({"/sys/fs/cgroup/cpu.max": "gibberish"}, None, 8),
    ],
)
def test_a_container_gets_as_many_slots_as_it_has_processors(
    files: dict[str, str], content: dict[str, str], quota: float | None, count: int
) -> None:
    files.update(content)
    assert sysinfo.cpu_budget() == (count, 8, quota)
    assert sysinfo.cpu_budget(use_cgroup_quota=False) == (8, 8, None)


def test_the_machine_tells_its_load_and_its_room() -> None:
    assert len(sysinfo.load_average()) == 3
    assert sysinfo.df("/").total_blocks >= sysinfo.df("/").available
    assert sysinfo.is_auto_concurrency(" Auto ")
    assert not sysinfo.is_auto_concurrency(4)


def test_a_timer_calls_what_is_due_in_order() -> None:
    done = threading.Event()
    calls: list[str] = []
    timer = Timer(max_interval=0.01)
    try:
        timer.call_after(0.02, lambda: (calls.append("second"), done.set()))
        timer.call_after(0.0, calls.append, ("first",))
        never = timer.call_after(60, calls.append, ("never",))
        assert done.wait(20)
        timer.cancel(never)
    finally:
        timer.stop()
    assert calls == ["first", "second"]
    assert not timer.is_alive()


def test_dates_are_read_as_far_as_they_go() -> None:
    with pytest.warns(PendingDeprecationWarning, match="parse_iso8601"):
        assert parse_iso8601("2024-02-03") == datetime(2024, 2, 3)  # noqa: DTZ001 - no offset was given
    with pytest.warns(PendingDeprecationWarning):
        assert parse_iso8601("2024-02-03T04:05:06.5Z") == datetime(2024, 2, 3, 4, 5, 6, 500000, tzinfo=UTC)
    with pytest.warns(PendingDeprecationWarning):
        assert parse_iso8601("2024-02-03T04:05-02:30").tzinfo == timezone(-timedelta(hours=2, minutes=30))
    with pytest.warns(PendingDeprecationWarning), pytest.raises(ValueError, match="unable to parse"):
        parse_iso8601("yesterday")


def test_memory_is_told_in_words() -> None:
    assert [humanbytes(size) for size in (0, 1023, 65536, 1 << 20, 3 << 30)] == ["0b", "1023b", "64KB", "1MB", "3GB"]
    assert (mem_rss() or "").endswith(("MB", "GB"))
    assert list(sample(range(91), 3)) == [0, 30, 60]


def test_every_threads_stack_is_shown() -> None:
    text = cry()
    assert threading.current_thread().name in text
    assert "test_every_threads_stack_is_shown" in text


def test_code_that_blocks_is_interrupted() -> None:
    before = signal.getsignal(signal.SIGALRM)
    with pytest.raises(RuntimeError, match="timed-out"), blockdetection(0.05):
        time.sleep(20)
    assert signal.getsignal(signal.SIGALRM) == before


def test_buffers_share_their_room() -> None:
    buffers = BufferMap(5, bufmaxsize=3)
    buffers.extend("a", range(10))
    assert (buffers.total, list(buffers["a"].data)) == (3, [7, 8, 9])
    buffers.extend("b", range(3))
    assert buffers.total == 5
    assert buffers.take("a") == 8  # of the key that was used the longest time ago
    assert buffers.take("nothing", "default") == "default"


def test_open_sockets_of_a_connection_are_bounded() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        connection = SimpleNamespace(
            transport=SimpleNamespace(channels=None), _connection=SimpleNamespace(_transport=SimpleNamespace(sock=ours))
        )
        bound_open_broker_sockets(connection, 2.5)
        assert ours.gettimeout() == 2.5
    before = socket.getdefaulttimeout()
    with default_socket_timeout(3), socket.socket() as sock:
        assert sock.gettimeout() == 3
    assert socket.getdefaulttimeout() == before


def test_quorum_queues_are_found_on_amqp_only() -> None:
    app = Celery("mine", set_as_current=False)
    assert detect_quorum_queues(app, "amqp") == (False, "")
    app.conf.task_default_queue_type = "quorum"
    quorum = Celery("mine", set_as_current=False, task_default_queue="q", task_default_queue_type="quorum")
    assert detect_quorum_queues(quorum, "amqp") == (True, "q")
    assert detect_quorum_queues(quorum, "redis") == (False, "")


class Request:
    def __init__(self, id: str) -> None:
        self.id, self.name = id, "add"


@pytest.fixture
def state() -> Any:
    worker_state.reset_state()
    yield worker_state
    worker_state.reset_state()


def test_a_request_moves_through_the_workers_sets(state: Any) -> None:
    request = Request("1")
    state.task_scheduled(request)
    assert request in state.scheduled_requests
    state.task_reserved(request)
    state.task_scheduled(request)  # too late
    assert (request in state.scheduled_requests, request in state.reserved_requests) == (False, True)
    state.task_accepted(request)
    assert (state.total_count["add"], state.all_total_count, state.requests["1"]) == (1, [1], request)
    state.task_ready(request, successful=True)
    assert (state.requests, len(state.active_requests), "1" in state.successful_requests) == ({}, 0, True)


@pytest.mark.parametrize(
    ("flag", "value", "error"),
    [("should_stop", 0, WorkerShutdown), ("should_terminate", True, WorkerTerminate), ("should_stop", False, None)],
)
def test_a_flag_ends_the_worker(state: Any, monkeypatch: pytest.MonkeyPatch, flag: str, value: Any, error: Any) -> None:
    monkeypatch.setattr(state, flag, value)
    if error is None:
        state.maybe_shutdown()
        return
    with pytest.raises(error):
        state.maybe_shutdown()


def test_revoked_tasks_outlive_a_restart(state: Any, tmp_path: Path) -> None:
    state.revoked.add("1")
    state.Persistent(state, str(tmp_path / "db")).save()
    state.reset_state()
    kept = state.Persistent(state, str(tmp_path / "db"))
    kept.close()
    assert "1" in state.revoked


def test_a_number_in_the_environment_must_be_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_NUMBER", "12")
    assert worker_state._int_env("SOME_NUMBER", 1) == 12
    assert worker_state._float_env("OTHER_NUMBER", 1) == 1.0
    monkeypatch.setenv("SOME_NUMBER", "a dozen")
    with pytest.raises(ImproperlyConfigured, match="SOME_NUMBER"):
        worker_state._int_env("SOME_NUMBER", 1)
