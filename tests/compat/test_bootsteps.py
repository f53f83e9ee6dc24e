"""Boot steps: parts that an app adds to its workers."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from compat_celery import Celery
from compat_celery.apps.steps import steps_of
from compat_celery.bootsteps import Blueprint, StartStopStep, Step
from compat_celery.utils.graph import CycleError
from tests.peers import ROOT, Program, clean_environment


class Parent:
    def __init__(self) -> None:
        self.steps: list[Any] = []
        self.seen: list[str] = []


class Noting(StartStopStep):
    def start(self, parent: Any) -> None:
        parent.seen.append(f"+{self.alias}")

    def stop(self, parent: Any) -> None:
        parent.seen.append(f"-{self.alias}")


class First(Noting):
    pass


class Second(Noting):
    requires = (First, "celery.worker.components:Timer")  # Celery's own are as if they were there


class Third(Noting):
    requires = (Second,)
    label = "third"


class Never(Noting):
    enabled = False


class Last(Noting):
    last = True


def test_steps_are_started_in_the_order_of_what_they_require_and_stopped_in_the_reverse() -> None:
    parent = Parent()
    blueprint = Blueprint({Third, Last, Never}).apply(parent)
    blueprint.start(parent)
    blueprint.stop(parent)
    assert parent.seen == ["+First", "+Second", "+third", "+Last", "-Last", "-third", "-Second", "-First"]
    assert blueprint.human_state() == "terminating"
    assert blueprint[First.name].alias == "First"


def test_a_step_may_make_what_it_starts() -> None:
    class Service:
        def __init__(self, parent: Parent) -> None:
            self.seen = parent.seen

        def start(self) -> None:
            self.seen.append("started")

        def stop(self) -> None:
            self.seen.append("stopped")

    class Making(StartStopStep):
        def create(self, parent: Any) -> Service:
            return Service(parent)

    parent = Parent()
    blueprint = Blueprint({Making}).apply(parent)
    blueprint.start(parent)
    blueprint.stop(parent)
    assert parent.seen == ["started", "stopped"]


def test_a_step_puts_attributes_on_its_parent() -> None:
    class Setting(Step):
        def __init__(self, parent: Any, **kwargs: Any) -> None:
            parent.number = kwargs["number"]

        def info(self, obj: Any) -> dict[str, int]:
            return {"number": obj.number}

    parent = Parent()
    Blueprint({Setting}).apply(parent, number=3)
    assert (parent.number, parent.steps) == (3, [])


def test_one_that_fails_to_stop_does_not_keep_the_others(caplog: pytest.LogCaptureFixture) -> None:
    class Failing(Noting):
        requires = (First,)

        def stop(self, parent: Any) -> None:
            raise OSError("no")

    parent = Parent()
    blueprint = Blueprint({Failing}).apply(parent)
    blueprint.start(parent)
    blueprint.stop(parent)
    assert parent.seen[-1] == "-First"
    assert "Error on stopping Failing" in caplog.text


def test_steps_in_a_circle_are_an_error() -> None:
    class Here(Step):
        pass

    class There(Step):
        requires = (Here,)

    Here.requires = (There,)
    with pytest.raises(CycleError):
        Blueprint({Here}).apply(Parent())


APP = """
from celery import Celery, bootsteps

app = Celery("steps", broker="sqlite:///queues.db", backend="sqlite:///queues.db")

class Probe(bootsteps.StartStopStep):
    requires = {"celery.worker.components:Timer"}

    def start(self, worker):
        print("probe of", worker.hostname, flush=True)
        self.entry = worker.timer.call_repeatedly(0.01, self.tick, (worker,))
        self.ticked = False

    def tick(self, worker):
        if not self.ticked:
            self.ticked = True
            print("tick", flush=True)

    def stop(self, worker):
        print("probe stopped", flush=True)

class Beside(bootsteps.StartStopStep):
    def start(self, consumer):
        print("beside", consumer.controller.hostname, flush=True)

app.steps["worker"].add(Probe)
app.steps["consumer"].add(Beside)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "steps_app.py").write_text(APP)
    return tmp_path


def test_a_worker_runs_the_steps_of_its_app(folder: Path) -> None:
    command = [sys.executable, "-m", "compat_celery", "-m", "celery", "-A", "steps_app", "worker", "-c", "1", "-n", "w1@here"]
    env = clean_environment(PYTHONPATH=f"{folder}:{ROOT}")
    with Program(command, folder=folder, env=env, log=folder / "log") as program:
        program.wait_for("tick", within=60)
        program.wait_for("beside w1@here", within=60)
        program.send(signal.SIGTERM)
        assert program.wait(within=60) == 0
    assert "probe of w1@here" in program.text()
    assert "probe stopped" in program.text()


def test_an_app_without_steps_has_none() -> None:
    class Worker:
        app = Celery("none", set_as_current=False)

    assert steps_of(Worker()) is None
