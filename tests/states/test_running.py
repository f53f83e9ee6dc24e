"""Queues, postponed events, limits and failures of a running machine."""

from __future__ import annotations

import gc
import weakref

import pytest

from jumpstarter.errors import ChartError, MacrostepLimit, PostponeLimit, UnhandledEvent
from jumpstarter.states import Chart


def started(definition, model=None, **options):
    instance = Chart.compile(definition, **options).instance(model)
    instance.start()
    return instance


# -- run to completion --


def test_what_a_hook_sends_is_handled_after_the_event_that_is_under_way():
    answers = []

    def send_on(instance):
        answers.append(instance.send("u"))
        answers.append(instance.active)

    definition = {"states": ["a", {"name": "b", "on_enter": send_on}, "c"], "transitions": [["t", "a", "b"], ["u", "b", "c"]]}
    instance = started(definition)
    step = instance.send("t")
    assert answers[0].queued
    assert answers[1] == ("b",)
    assert instance.active == ("c",)
    assert [transition.trigger for transition in step.transitions] == ["t", "u"]
    assert not step.queued


def test_raised_events_come_before_sent_ones():
    handled = []

    def both(instance):
        instance.send("sent")
        instance.raise_("raised", number=1)

    definition = {
        "states": ["a"],
        "transitions": [
            {"trigger": "t", "source": "a", "dest": None, "after": both},
            {"trigger": "sent", "source": "a", "dest": None, "after": lambda: handled.append("sent")},
            {"trigger": "raised", "source": "a", "dest": None, "after": lambda number: handled.append(number)},  # noqa: PLW0108 - hooks are given data by the names of their parameters
        ],
    }
    started(definition).send("t")
    assert handled == [1, "sent"]


def test_eventless_transitions_come_before_raised_events():
    definition = {
        "states": ["a", {"name": "b", "on_enter": lambda instance: instance.raise_("r")}, "c", "d"],
        "transitions": [["t", "a", "b"], ["", "b", "c"], ["r", "b", "d"]],
    }
    instance = started(definition)
    instance.send("t")
    assert instance.active == ("c",)


def test_what_hooks_send_while_the_machine_starts_is_handled_before_start_returns():
    definition = {"states": [{"name": "a", "on_enter": lambda instance: instance.send("t")}, "b"], "transitions": [["t", "a", "b"]]}
    instance = Chart.compile(definition).instance()
    assert instance.start().entered == ("a", "b")


def test_the_first_event_says_whether_a_step_was_handled():
    definition = {
        "states": ["a"],
        "transitions": [{"trigger": "t", "source": "a", "dest": None, "after": lambda instance: instance.send("no")}],
    }
    assert started(definition).send("t").handled


def test_a_raised_event_is_for_hooks_only():
    with pytest.raises(ChartError, match=r"raise_\('x'\) is for hooks; from outside, send it"):
        started({"states": ["a"]}).raise_("x")


def test_an_instance_is_started_once_and_before_it_is_sent_anything():
    instance = Chart.compile({"name": "m", "states": ["a"]}).instance()
    assert instance.active == ()
    with pytest.raises(ChartError, match=r"m is not started; call start\(\) before send\('t'\)"):
        instance.send("t")
    instance.start()
    with pytest.raises(ChartError, match="m is started already"):
        instance.start()


# -- limits --


def test_an_eventless_loop_ends_with_an_error_and_leaves_everything_as_it_was():
    definition = {
        "name": "loop",
        "states": ["rest", "a", "b"],
        "transitions": [["t", "rest", "a"], ["", "a", "b"], ["", "b", "a"]],
    }
    instance = started(definition, macrostep_limit=50)
    with pytest.raises(
        MacrostepLimit, match=r"loop: no stable configuration after 50 microsteps; the last transition was [ab] → [ab]"
    ) as raised:
        instance.send("t")
    assert raised.value.limit == 50
    assert instance.active == ("rest",)


def test_hooks_that_send_to_each_other_for_ever_are_ended_too():
    definition = {
        "states": ["a"],
        "transitions": [{"trigger": "t", "source": "a", "dest": None, "after": lambda instance: instance.send("t")}],
    }
    with pytest.raises(MacrostepLimit):
        started(definition).send("t")


def test_raised_events_without_end_are_ended_too():
    definition = {
        "states": ["a"],
        "transitions": [{"trigger": "t", "source": "a", "dest": None, "after": lambda instance: instance.raise_("t")}],
    }
    instance = started(definition)
    with pytest.raises(MacrostepLimit):
        instance.send("t")
    assert instance.can("t")


# -- postponed events --


def postponing(log):
    return {
        "initial": "closed",
        "states": [{"name": "closed", "postpone": ["order.*"]}, "open", "away"],
        "transitions": [
            ["open", "closed", "open"],
            {"trigger": "order.*", "source": "open", "dest": None, "after": lambda number: log.append(number)},  # noqa: PLW0108 - hooks are given data by the names of their parameters
            ["leave", "open", "away"],
        ],
    }


def test_a_postponed_event_is_handled_when_the_configuration_changes():
    log = []
    instance = started(postponing(log))
    step = instance.send("order.tea", number=1)
    assert (step.handled, step.postponed, log) == (True, True, [])
    instance.send("order.cake", number=2)
    step = instance.send("open")
    assert log == [1, 2]
    assert [transition.trigger for transition in step.transitions] == ["open", "order.tea", "order.cake"]


def test_a_postponed_event_that_means_nothing_afterwards_is_dropped():
    log = []
    definition = postponing(log)
    definition["transitions"].append(["skip", "closed", "away"])
    definition["transitions"].append(["back", "away", "open"])
    instance = started(definition)
    instance.send("order.tea", number=1)
    instance.send("skip")
    instance.send("back")
    assert log == []


def test_a_postponed_event_waits_through_configurations_that_postpone_it_too():
    log = []
    waiting = {"name": "waiting", "postpone": "x", "initial": "1", "states": ["1", "2"], "transitions": [["t", "1", "2"]]}
    definition = {
        "states": [waiting, "ready"],
        "transitions": [
            ["go", "waiting", "ready"],
            {"trigger": "x", "source": "ready", "dest": None, "after": lambda: log.append("x")},
        ],
    }
    instance = started(definition)
    instance.send("x")
    instance.send("t")
    assert log == []
    instance.send("go")
    assert log == ["x"]


def test_postponed_events_come_before_what_hooks_sent():
    log = []
    definition = {
        "states": [{"name": "a", "postpone": "old"}, {"name": "b", "on_enter": lambda instance: instance.send("new")}],
        "transitions": [
            ["t", "a", "b"],
            {"trigger": ["old", "new"], "source": "b", "dest": None, "after": lambda event: log.append(event.name)},
        ],
    }
    instance = started(definition)
    instance.send("old")
    instance.send("t")
    assert log == ["old", "new"]


def test_a_replayed_event_that_changes_the_configuration_lets_the_others_be_tried_again():
    log = []
    definition = {
        "states": [{"name": "a", "postpone": ["1", "2"]}, {"name": "b", "postpone": ["1"]}, "c"],
        "transitions": [
            ["t", "a", "b"],
            ["2", "b", "c"],
            {"trigger": "1", "source": "c", "dest": None, "after": lambda: log.append("1")},
        ],
    }
    instance = started(definition)
    for event in ("1", "2", "t"):
        instance.send(event)
    assert instance.active == ("c",)
    assert log == ["1"]


def test_a_transition_inside_the_postponing_state_takes_the_event():
    definition = {
        "states": [{"name": "a", "postpone": "x", "initial": "i", "states": ["i"]}, "b"],
        "transitions": [["x", "a.i", "b"]],
    }
    assert not started(definition).send("x").postponed


def test_a_transition_around_the_postponing_state_waits():
    definition = {
        "states": [{"name": "a", "initial": "i", "states": [{"name": "i", "postpone": "x"}]}, "b"],
        "transitions": [["x", "a", "b"]],
    }
    assert started(definition).send("x").postponed


def test_a_transition_in_another_region_takes_the_event():
    region = {"name": "s", "initial": "1", "states": ["1", "2"], "transitions": [["x", "1", "2"]]}
    instance = started({"parallel": [{"name": "r", "postpone": "x"}, region]})
    step = instance.send("x")
    assert not step.postponed
    assert instance.matches("2")


def test_a_guard_that_declines_lets_the_event_be_postponed():
    definition = {
        "states": [{"name": "a", "postpone": "x"}, "b"],
        "transitions": [{"trigger": "x", "source": "a", "dest": "b", "conditions": lambda now: now}],
    }
    instance = started(definition)
    assert instance.send("x", now=False).postponed
    assert not instance.send("x", now=True).postponed


def test_postponed_events_are_limited():
    instance = started({"name": "m", "states": [{"name": "a", "postpone": "x"}], "postpone_limit": 2})
    instance.send("x")
    instance.send("x")
    with pytest.raises(PostponeLimit, match="m: event 'x' cannot be postponed, 2 events wait already"):
        instance.send("x")
    assert len(instance.snapshot()["postponed"]) == 2


# -- events that mean nothing --


def strict(**attributes):
    return {
        "name": "m",
        "ignore_invalid_triggers": False,
        "states": [{"name": "a", **attributes}, "b"],
        "transitions": [["t", "a", "b"]],
    }


def test_an_event_without_a_transition_is_an_error_where_the_chart_says_so():
    instance = started(strict())
    with pytest.raises(UnhandledEvent, match="m: event 'u' means nothing in a") as raised:
        instance.send("u")
    assert (raised.value.event, raised.value.active) == ("u", ("a",))
    assert instance.send("t").handled


def test_a_state_may_be_more_tolerant_than_its_chart():
    instance = started(strict(ignore_invalid_triggers=True))
    assert not instance.send("u").handled
    instance.send("t")
    with pytest.raises(UnhandledEvent):
        instance.send("u")


def test_a_guard_that_declines_is_no_error():
    definition = strict()
    definition["transitions"] = [{"trigger": "t", "source": "a", "dest": "b", "conditions": lambda: False}]
    assert not started(definition).send("t").handled


# -- failures --


class Fails:
    """A model that fails where it is told to."""

    def __init__(self):
        self.at = None
        self.log = []

    def hook(self, name):
        def run():
            self.log.append(name)
            if name == self.at:
                raise ValueError(name)

        return run


PLACES = ["guard", "prepare", "before", "on_exit", "action", "on_enter", "inner", "after", "finalize", "prepare_event"]


def failing(model, **attributes):
    return {
        "name": "m",
        "states": [
            {"name": "a", "on_exit": model.hook("on_exit"), **attributes},
            {
                "name": "b",
                "on_enter": model.hook("on_enter"),
                "initial": "i",
                "states": [{"name": "i", "on_enter": model.hook("inner")}, {"name": "h", "history": "deep"}],
            },
        ],
        "transitions": [
            {
                "trigger": "t",
                "source": "a",
                "dest": "b",
                "conditions": lambda: model.hook("guard")() is None,
                **{key: model.hook(key) for key in ("prepare", "before", "action", "after")},
            },
            ["back", "b", "a"],
        ],
        "prepare_event": model.hook("prepare_event"),
        "finalize_event": model.hook("finalize"),
        "on_error": [lambda error, instance: model.log.append(("on_error", str(error), instance.active))],
    }


@pytest.mark.parametrize("place", PLACES)
def test_when_a_hook_raises_the_configuration_is_the_one_before_the_event(place):
    model = Fails()
    instance = started(failing(model))
    before = instance.snapshot()
    model.at = place
    with pytest.raises(ValueError, match=place):
        instance.send("t")
    assert instance.active == ("a",)
    assert instance.snapshot() == before
    assert model.log[-1] == ("on_error", place, ("a",))


@pytest.mark.parametrize("place", PLACES)
def test_a_machine_that_failed_goes_on(place):
    model = Fails()
    instance = started(failing(model))
    model.at = place
    with pytest.raises(ValueError, match=place):
        instance.send("t")
    model.at = None
    assert instance.send("t").handled
    assert instance.active == ("b", "b.i")


def test_a_failure_while_it_starts_leaves_it_not_started():
    model = Fails()
    model.at = "enter"
    instance = Chart.compile({"states": [{"name": "a", "on_enter": model.hook("enter")}]}).instance()
    with pytest.raises(ValueError, match="enter"):
        instance.start()
    assert instance.active == ()
    model.at = None
    assert instance.start().entered == ("a",)


def test_a_failure_in_what_a_hook_sent_undoes_the_whole_send():
    model = Fails()
    model.at = "second"
    definition = {
        "states": ["a", {"name": "b", "on_enter": [lambda instance: instance.send("u"), lambda instance: instance.send("v")]}, "c"],
        "transitions": [
            ["t", "a", "b"],
            {"trigger": "u", "source": "b", "dest": "c", "before": model.hook("second")},
            ["v", "*", "c"],
        ],
    }
    instance = started(definition)
    with pytest.raises(ValueError, match="second"):
        instance.send("t")
    assert instance.active == ("a",)
    model.at = None
    assert len(instance.send("t").transitions) == 3


def test_postponed_events_survive_a_failure():
    model = Fails()
    definition = {
        "states": [{"name": "a", "postpone": "p"}, {"name": "b", "on_enter": model.hook("enter")}],
        "transitions": [["t", "a", "b"], {"trigger": "p", "source": "b", "dest": None, "after": model.hook("replayed")}],
    }
    instance = started(definition)
    instance.send("p")
    model.at = "enter"
    with pytest.raises(ValueError, match="enter"):
        instance.send("t")
    model.at = None
    instance.send("t")
    assert model.log[-1] == "replayed"


def test_error_hooks_run_from_the_inside_out():
    log = []

    def failed():
        raise ValueError

    inner = {"name": "i", "on_error": lambda: log.append("i")}
    definition = {
        "states": [{"name": "a", "initial": "i", "states": [inner], "on_error": lambda: log.append("a")}],
        "transitions": [{"trigger": "t", "source": "a", "dest": None, "before": failed}],
        "on_exception": lambda event: log.append(("chart", event.name, type(event.error).__name__)),
    }
    with pytest.raises(ValueError, match=r"^$"):
        started(definition).send("t")
    assert log == ["i", "a", ("chart", "t", "ValueError")]


def test_an_error_hook_cannot_send():
    def failed():
        raise ValueError

    definition = {
        "states": ["a"],
        "transitions": [{"trigger": "t", "source": "a", "dest": None, "before": failed}],
        "on_error": lambda instance: instance.send("u"),
    }
    with pytest.raises(ChartError, match="an on_error hook cannot send 'u'") as raised:
        started(definition).send("t")
    assert isinstance(raised.value.__context__, ValueError)


def test_a_cancellation_rolls_back_and_runs_no_error_hooks():
    log = []

    def interrupted():
        raise KeyboardInterrupt

    definition = {
        "states": ["a", {"name": "b", "on_enter": interrupted}],
        "transitions": [["t", "a", "b"]],
        "on_error": lambda: log.append("error"),
    }
    instance = started(definition)
    with pytest.raises(KeyboardInterrupt):
        instance.send("t")
    assert (instance.active, log) == (("a",), [])


def test_finalize_hooks_run_after_a_failure_too():
    model = Fails()
    instance = started(failing(model))
    model.at = "before"
    with pytest.raises(ValueError, match="before"):
        instance.send("t")
    assert "finalize" in model.log


def test_a_guard_that_can_only_be_asked_leaves_no_trace():
    instance = started(
        {
            "states": ["a", "b"],
            "transitions": [{"trigger": "t", "source": "a", "dest": "b", "conditions": lambda event: event.name == "t"}],
        }
    )
    assert instance.can("t")
    assert (instance.event, dict(instance.data)) == ("", {})


def test_instances_do_not_keep_their_models_alive_through_the_chart():
    class Model:
        def hook(self):
            """Do nothing."""

    chart = Chart.compile({"states": [{"name": "a", "on_enter": "hook"}]})
    model = Model()
    gone = weakref.ref(model)
    instance = chart.instance(model)
    instance.start()
    del model, instance
    gc.collect()
    assert gone() is None


def test_postponed_events_survive_a_failure_in_their_own_replay():
    model = Fails()
    definition = {
        "states": [{"name": "a", "postpone": "p"}, "b"],
        "transitions": [["t", "a", "b"], {"trigger": "p", "source": "b", "dest": None, "after": model.hook("replayed")}],
    }
    instance = started(definition)
    instance.send("p")
    model.at = "replayed"
    with pytest.raises(ValueError, match="replayed"):
        instance.send("t")
    assert instance.active == ("a",)
    model.at = None
    assert [transition.trigger for transition in instance.send("t").transitions] == ["t", "p"]
