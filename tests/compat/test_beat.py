"""Schedulers of periodic calls, by the classes that other packages subclass."""

from __future__ import annotations

import pickle
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from compat_celery import Celery, beat, signals
from compat_celery.beat import BeatLazyFunc, PersistentScheduler, ScheduleEntry, Scheduler, SchedulingError, Service
from compat_celery.schedules import crontab, schedule

EPOCH = datetime(2024, 1, 1, tzinfo=UTC)


class Clock:
    """The app's time."""

    now = EPOCH

    def forward(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def app(clock: Clock, tmp_path: Path) -> Iterator[Celery]:
    app = Celery("beat", broker="memory://beat", backend="cache+memory://beat", set_as_current=False, result_expires=None)
    app.now = lambda: clock.now
    app.conf.beat_schedule_filename = str(tmp_path / "schedule")
    yield app
    app.close()


@pytest.fixture
def as_celery(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pickles name ``celery.beat``; this is found as with the alias."""
    for name in ("compat_celery", "compat_celery.beat", "compat_celery.schedules"):
        monkeypatch.setitem(sys.modules, name.removeprefix("compat_"), sys.modules[name])


class Noting(Scheduler):
    """Notes what it would send."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.sent: list[Any] = []
        super().__init__(*args, **kwargs)

    def send_task(self, name: str, args: Any, kwargs: Any, **options: Any) -> None:
        self.sent.append((name, args, kwargs, options["headers"]))


def run(scheduler: Noting, clock: Clock, seconds: float) -> list[str]:
    """What is sent while so many seconds pass."""
    before, end = len(scheduler.sent), clock.now + timedelta(seconds=seconds)
    while clock.now < end:
        clock.forward(min(max(scheduler.tick(), 0.011), (end - clock.now).total_seconds()))
    return [name for name, *_ in scheduler.sent[before:]]


def test_entries_are_sent_when_they_are_due(app: Celery, clock: Clock) -> None:
    app.conf.beat_schedule = {
        "often": {"task": "often", "schedule": 10.0},
        "seldom": {"task": "seldom", "schedule": timedelta(seconds=25), "args": (1,), "kwargs": {"k": 2}},
    }
    scheduler = Noting(app)
    assert sorted(run(scheduler, clock, 51)) == ["often"] * 5 + ["seldom"] * 2
    _, args, kwargs, headers = next(call for call in scheduler.sent if call[0] == "seldom")
    assert (list(args), kwargs, headers["celery_beat_task"]) == ([1], {"k": 2}, True)
    assert scheduler.schedule["often"].total_run_count == 5


def test_a_changed_schedule_is_noticed_at_the_next_tick(app: Celery, clock: Clock) -> None:
    scheduler = Noting(app)
    assert scheduler.tick() == scheduler.max_interval
    scheduler.add(name="new", task="new", schedule=schedule(5, app=app))
    assert run(scheduler, clock, 6) == ["new"]


def test_an_entry_that_nobody_can_calculate_does_not_stop_the_others(app: Celery, clock: Clock) -> None:
    class Broken(schedule):
        def is_due(self, last_run_at: Any) -> Any:
            raise OverflowError

    scheduler = Noting(app, schedule={})
    scheduler.add(name="broken", task="broken", schedule=Broken(1, app=app))
    scheduler.add(name="good", task="good", schedule=schedule(5, app=app))
    assert run(scheduler, clock, 11) == ["good", "good"]


def test_what_cannot_be_sent_is_logged_and_counts_as_a_run(app: Celery, clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    class Refused(Scheduler):
        def send_task(self, *args: Any, **kwargs: Any) -> None:
            raise OSError("no broker")

    app.conf.beat_schedule = {"a": {"task": "a", "schedule": 1}}
    scheduler = Refused(app)
    clock.forward(2)
    assert scheduler.tick() == 0
    assert "Couldn't apply scheduled task a: no broker" in caplog.text
    assert scheduler.schedule["a"].total_run_count == 1
    with pytest.raises(SchedulingError):
        scheduler.apply_async(scheduler.schedule["a"])


def test_arguments_may_be_made_when_the_call_is_sent(app: Celery) -> None:
    scheduler = Noting(app)
    entry = scheduler.add(name="a", task="a", schedule=1, args=(BeatLazyFunc(abs, -2),), kwargs={"k": BeatLazyFunc(dict)})
    scheduler.apply_async(entry)
    assert scheduler.sent[0][1:3] == ([2], {"k": {}})


def test_a_task_of_this_program_is_called_by_its_own_apply_async(app: Celery) -> None:
    called: list[Any] = []
    task = app.task(lambda: None, name="mine", shared=False)
    task.apply_async = lambda args, kwargs, **options: called.append(options["queue"])
    scheduler = Scheduler(app)
    scheduler.apply_entry(scheduler.add(name="a", task="mine", schedule=1, options={"queue": "q"}))
    assert called == ["q"]


def test_stores_that_do_not_forget_are_cleaned_every_night(app: Celery) -> None:
    app.conf.result_expires = 60
    app.backend.supports_autoexpire = False
    scheduler = Scheduler(app)
    scheduler.install_default_entries(scheduler.schedule)
    assert scheduler.schedule["celery.backend_cleanup"].schedule == crontab("0", "4", "*")


def test_an_entry_is_pickled_as_eight_fields_by_celerys_name(app: Celery, as_celery: None) -> None:
    entry = ScheduleEntry(name="a", task="t", schedule=schedule(5), args=(1,), app=app, last_run_at=EPOCH, total_run_count=3)
    assert len(entry.__reduce__()[1]) == 8
    data = pickle.dumps(entry)
    assert b"celery.beat" in data
    assert b"compat_celery" not in data
    copy = pickle.loads(data)
    assert copy == entry
    assert (copy.name, copy.last_run_at, copy.total_run_count) == ("a", EPOCH, 3)
    assert next(copy).total_run_count == 4


def test_the_last_runs_survive_a_restart_and_removed_entries_do_not(app: Celery, clock: Clock, as_celery: None) -> None:
    class File(PersistentScheduler, Noting):
        pass

    app.conf.beat_schedule = {"a": {"task": "a", "schedule": 10}, "b": {"task": "b", "schedule": 10}}
    first = File(app, schedule_filename=app.conf.beat_schedule_filename)
    run(first, clock, 11)
    first.close()
    app.conf.beat_schedule = {"a": {"task": "a", "schedule": 20}}
    second = File(app, schedule_filename=app.conf.beat_schedule_filename)
    assert list(second.schedule) == ["a"]
    assert (second.schedule["a"].total_run_count, second.schedule["a"].schedule.seconds) == (1, 20)
    assert run(second, clock, 15) == []
    second.close()


def test_a_broken_file_is_begun_anew(app: Celery, caplog: pytest.LogCaptureFixture, as_celery: None) -> None:
    Path(app.conf.beat_schedule_filename).write_bytes(b"\0" * 100)
    app.conf.beat_schedule = {"a": {"task": "a", "schedule": 10}}
    scheduler = PersistentScheduler(app, schedule_filename=app.conf.beat_schedule_filename)
    assert list(scheduler.schedule) == ["a"]
    assert "Removing corrupted schedule file" in caplog.text
    scheduler.close()


def test_a_service_ticks_until_it_is_stopped(app: Celery) -> None:
    ticked, told = threading.Event(), []

    class Ticking(Noting):
        def tick(self) -> float:
            ticked.set()
            return 60

    def receive(sender: Any, **_: Any) -> None:
        told.append(sender)

    signals.beat_init.connect(receive)
    service = Service(app, scheduler_cls=Ticking)
    thread = threading.Thread(target=service.start)
    thread.start()
    assert ticked.wait(20)
    service.stop(wait=True)
    thread.join(20)
    signals.beat_init.disconnect(receive)
    assert (thread.is_alive(), told) == (False, [service])


def test_agents_find_what_they_replace(app: Celery, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    original = beat.Scheduler.apply_entry

    def watched(self: Any, entry: Any, *args: Any, **kwargs: Any) -> Any:
        seen.append(entry.name)
        return original(self, entry, *args, **kwargs)

    monkeypatch.setattr(beat.Scheduler, "apply_entry", watched)
    app.conf.beat_schedule = {"a": {"task": "a", "schedule": 1}}
    scheduler = Noting(app)
    clock.forward(2)
    scheduler.tick()
    assert seen == ["a"]
