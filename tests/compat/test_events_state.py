"""What a cluster's events say about it."""

from __future__ import annotations

import pickle
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compat_celery import Celery, states
from compat_celery.events import Event, get_exchange, group_from
from compat_celery.events import state as events_state
from compat_celery.events.state import State, Worker


class Story:
    """Feeds a state with events whose clocks go on by one."""

    def __init__(self, state: State) -> None:
        self.state = state
        self.clock = 0

    def tell(self, kind: str, **fields: Any) -> Any:
        self.clock += 1
        now = 1_000_000.0 + self.clock
        return self.state.event(
            Event(kind, **{"clock": self.clock, "timestamp": now, "local_received": now, "hostname": "w1", **fields})
        )


def test_an_event_is_a_mapping_with_a_type_and_a_time() -> None:
    event = Event("task-sent", {"uuid": "1"}, name="add")
    assert (event["type"], event["uuid"], event["name"]) == ("task-sent", "1", "add")
    assert event["timestamp"] > 0
    assert Event("x", timestamp=5)["timestamp"] == 5
    assert group_from("task-sent") == "task"


@pytest.mark.parametrize(("driver", "kind"), [("redis", "fanout"), ("amqp", "topic")])
def test_events_go_to_everybody_where_there_are_no_topics(driver: str, kind: str) -> None:
    class Connection:
        class transport:  # noqa: N801 - kombu's name
            driver_type = driver

    assert get_exchange(Connection(), "mine").type == kind
    assert get_exchange(Connection()).name == "celeryev"


def test_a_worker_lives_for_two_heartbeats(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(events_state, "time", lambda: now)
    worker = Worker("w1", freq=5)
    worker.event("heartbeat", now, now, {"freq": 5})
    assert worker.alive
    now += 9.9
    assert worker.status_string == "ONLINE"
    now += 0.2
    assert worker.status_string == "OFFLINE"
    worker.event("heartbeat", now, now)
    assert worker.alive
    worker.event("offline", now, now)
    assert not worker.alive


def test_only_the_last_heartbeats_are_kept_in_order() -> None:
    worker = Worker("w1")
    for received in (1.0, 3.0, 2.0, 5.0, 4.0, 6.0):
        worker.event("heartbeat", received, received)
    assert worker.heartbeats == [3.0, 4.0, 5.0, 6.0] or len(worker.heartbeats) == worker.heartbeat_max
    assert worker.heartbeats == sorted(worker.heartbeats)


def test_workers_come_and_go() -> None:
    came, went = [], []
    story = Story(State(on_node_join=came.append, on_node_leave=went.append))
    (worker, created), subject = story.tell("worker-online")
    assert (worker.hostname, created, subject) == ("w1", True, "online")
    story.tell("worker-heartbeat")
    story.tell("worker-offline")
    assert (came, went, "w1" in story.state.workers) == ([worker], [worker], False)


LIFE = ["received", "started", "succeeded"]


@given(order=st.permutations(LIFE))
def test_a_tasks_state_does_not_depend_on_the_order_in_which_its_events_come(order: list[str]) -> None:
    fields = {"received": {"name": "add", "args": "(1, 2)"}, "succeeded": {"result": "3"}, "started": {}}
    story = Story(State())
    for kind in order:
        story.tell(f"task-{kind}", uuid="1", **fields[kind])
    task = story.state.tasks["1"]
    assert (task.state, task.name, task.args, task.result) == (states.SUCCESS, "add", "(1, 2)", "3")
    assert task.ready
    assert all(getattr(task, kind) for kind in LIFE)


def test_a_retry_begins_anew() -> None:
    story = Story(State())
    for kind in ("received", "failed", "retried", "started"):
        story.tell(f"task-{kind}", uuid="1")
    assert story.state.tasks["1"].state == states.STARTED


@pytest.mark.parametrize("parent_first", [True, False])
def test_children_find_their_parents_whoever_is_heard_of_first(parent_first: bool) -> None:
    story = Story(State())
    told = [{"uuid": "parent"}, {"uuid": "child", "parent_id": "parent", "root_id": "parent"}]
    for fields in told if parent_first else reversed(told):
        story.tell("task-received", name="x", **fields)
    parent, child = story.state.tasks["parent"], story.state.tasks["child"]
    assert set(parent.children) == {child}
    assert (child.parent, child.root) == (parent, parent)
    assert parent.as_dict()["children"] == ["child"]


def test_tasks_are_listed_the_newest_first_and_by_name_and_worker() -> None:
    story = Story(State())
    for number, (name, worker) in enumerate([("a", "w1"), ("b", "w2"), ("a", "w2")]):
        story.tell("task-received", uuid=str(number), name=name, hostname=worker)
    state = story.state
    assert [uuid for uuid, _ in state.tasks_by_time()] == ["2", "1", "0"]
    assert [uuid for uuid, _ in state.tasks_by_time(reverse=False)] == ["0", "1", "2"]
    assert [uuid for uuid, _ in state.tasks_by_type("a")] == ["2", "0"]
    assert [uuid for uuid, _ in state.tasks_by_worker("w2", limit=1)] == ["2"]
    assert {task.id for task in state.tasks_by_type["a"]} == {"0", "2"}
    assert state.task_types() == ["a", "b"]


def test_memory_is_bounded() -> None:
    story = Story(State(max_tasks_in_memory=3))
    for number in range(50):
        story.tell("task-received", uuid=str(number), name="a", parent_id=f"never-heard-of-{number}")
    assert len(story.state.tasks) == 3
    assert len(story.state._tasks_to_resolve) == 3
    assert len(story.state._taskheap) <= 3 * State.heap_multiplier


def test_what_has_ended_can_be_forgotten() -> None:
    story = Story(State())
    story.tell("task-received", uuid="1", name="a")
    story.tell("task-succeeded", uuid="2", name="a")
    story.state.clear_tasks()
    assert list(story.state.tasks) == ["1"]
    story.state.freeze_while(lambda: None, clear_after=True)
    story.state.clear(ready=False)
    assert (list(story.state.tasks), story.state.event_count) == ([], 0)


def test_a_state_is_pickled_with_what_it_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("compat_celery", "compat_celery.events", "compat_celery.events.state"):  # as the alias does
        monkeypatch.setitem(sys.modules, name.removeprefix("compat_"), sys.modules[name])
    story = Story(State())
    story.tell("worker-online")
    story.tell("task-received", uuid="1", name="a")
    copy = pickle.loads(pickle.dumps(story.state))
    assert ([*copy.workers], [uuid for uuid, _ in copy.tasks_by_type("a")]) == (["w1"], ["1"])
    assert b"celery.events.state" in pickle.dumps(story.state)
    assert b"compat_celery" not in pickle.dumps(story.state)


def test_an_app_has_its_own_class() -> None:
    app = Celery("mine", set_as_current=False)
    state = app.events.State()
    assert isinstance(state, State)
    assert state.app is app


def test_events_that_say_nothing_are_counted_and_passed_over() -> None:
    state = State()
    assert state.event({"type": "worker-heartbeat", "foo": 1}) is None
    assert state.event({"type": "other"}) is None
    assert state.event_count == 2
    state.handlers["other"] = lambda subject, event: (subject, event["x"])
    assert state.event({"type": "other-thing", "x": 1}) == (("thing", 1), "thing")
