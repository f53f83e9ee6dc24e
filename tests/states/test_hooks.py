"""How callbacks are found, and what they are given."""

from __future__ import annotations

import functools
import threading

import pytest

from jumpstarter.states import Chart, EventData, Instance

LOG: list[object] = []


def module_level_hook(number):
    LOG.append(number)


@pytest.fixture(autouse=True)
def _empty_log():
    LOG.clear()


def acting(action, **chart):
    return {"states": ["a"], "transitions": [{"trigger": "t", "source": "a", "dest": None, "action": action}], **chart}


def send(definition, model=None, **data):
    instance = Chart.compile(definition).instance(model)
    instance.start()
    instance.send("t", **data)
    return instance


class Model:
    def __init__(self):
        self.got = []
        self.allowed = True

    def nothing(self):
        self.got.append(())

    def some(self, x, y=2):
        self.got.append((x, y))

    def everything(self, **data):
        self.got.append(data)

    def context(self, instance, event):
        self.got.append((instance, event.name, event.kwargs))

    @staticmethod
    def static(x):
        LOG.append(x)

    @classmethod
    def of_class(cls, x):
        LOG.append((cls, x))

    @property
    def is_allowed(self):
        return self.allowed

    def on_enter_a(self):
        self.got.append("entered a")

    def on_exit_a_b(self):
        self.got.append("left a.b")


@pytest.mark.parametrize(
    ("name", "expected"),
    [("nothing", ()), ("some", (1, 2)), ("everything", {"x": 1, "z": 3})],
)
def test_a_method_gets_the_data_that_it_has_parameters_for(name, expected):
    model = Model()
    send(acting(name), model, x=1, z=3)
    assert model.got == [expected]


def test_data_that_a_method_needs_and_does_not_get_is_an_error_of_the_call():
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'x'"):
        send(acting("some"), Model())


def test_a_hook_may_ask_for_the_instance_and_the_event():
    model = Model()
    instance = send(acting("context"), model, x=1)
    assert model.got == [(instance, "t", {"x": 1})]


def test_data_of_the_same_name_comes_before_the_instance():
    got = []
    send(acting(lambda instance: got.append(instance)), instance=5)  # noqa: PLW0108 - hooks are given data by the names of their parameters
    assert got == [5]


def test_static_and_class_methods_work():
    send(acting(["static", "of_class"]), Model(), x=7)
    assert [7, (Model, 7)] == LOG


def test_callables_are_called_directly():
    class Callable:
        def __call__(self, number):
            LOG.append(number)

    hooks = [module_level_hook, lambda number: LOG.append(-number), Callable(), functools.partial(LOG.append, 0), Model().nothing]
    send(acting(hooks), number=3)
    assert LOG == [3, -3, 3, 0]


def test_a_builtin_is_called_with_nothing_that_it_has_no_name_for():
    found = threading.Event()
    send(acting(found.set), x=1)
    assert found.is_set()


def test_a_dotted_name_is_imported():
    send(acting(f"{__name__}.module_level_hook"), number=4)
    assert LOG == [4]


def test_an_attribute_of_the_model_comes_before_an_import():
    model = Model()
    setattr(model, f"{__name__}.module_level_hook", lambda: model.got.append("mine"))
    send(acting(f"{__name__}.module_level_hook"), model, number=4)
    assert (model.got, LOG) == (["mine"], [])


def test_an_attribute_of_one_instance_of_a_class_may_replace_the_method():
    model = Model()
    chart = Chart.compile(acting("nothing"))
    for replaced in (False, True):
        if replaced:
            model.nothing = lambda: model.got.append("replaced")
        instance = chart.instance(model)
        instance.start()
        instance.send("t")
    assert model.got == [(), "replaced"]


@pytest.mark.parametrize("guard", ["is_allowed", "allowed"])
def test_a_guard_may_be_a_property_or_an_attribute(guard):
    model = Model()
    instance = Chart.compile(
        {"states": ["a"], "transitions": [{"trigger": "t", "source": "a", "dest": None, "conditions": guard}]}
    ).instance(model)
    instance.start()
    assert instance.send("t").handled
    model.allowed = False
    assert not instance.send("t").handled


def test_guards_get_data_as_hooks_do():
    instance = Chart.compile(
        {
            "states": ["a"],
            "transitions": [
                {"trigger": "t", "source": "a", "dest": None, "conditions": lambda n: n > 1, "unless": lambda n: n > 5}
            ],
        }
    ).instance()
    instance.start()
    assert [instance.can("t", n=number) for number in (1, 3, 7)] == [False, True, False]


def test_a_guard_that_two_transitions_share_is_asked_once_for_an_event():
    asked = []

    def guard():
        asked.append(1)
        return False

    guarded = {"trigger": "t", "source": "a", "dest": "b"}
    definition = {"states": ["a", "b"], "transitions": [{**guarded, "conditions": guard}, {**guarded, "unless": guard}]}
    instance = Chart.compile(definition).instance()
    instance.start()
    instance.send("t")
    assert instance.active == ("b",)
    assert len(asked) == 1


def test_guards_are_asked_again_for_each_event():
    answers = iter([False, True])
    definition = {
        "states": ["a", "b"],
        "transitions": [{"trigger": "t", "source": "a", "dest": "b", "conditions": lambda: next(answers)}],
    }
    instance = Chart.compile(definition).instance()
    instance.start()
    assert [instance.send("t").handled for _ in range(2)] == [False, True]


def test_with_send_event_every_callback_gets_one_object():
    got = []

    def hook(data):
        got.append(data)
        return True

    definition = {
        "states": ["a", {"name": "b", "on_enter": hook}],
        "transitions": [{"trigger": "t", "source": "a", "dest": "b", "conditions": hook, "before": "method"}],
        "send_event": True,
    }

    class Sending:
        def method(self, data):
            got.append(data)

    model = Sending()
    instance = send(definition, model, x=1)
    assert len(got) == 3
    for data in got:
        assert isinstance(data, EventData)
        assert (data.model, data.machine, data.instance) == (model, instance, instance)
        assert (data.event.name, data.kwargs, data.args, data.error) == ("t", {"x": 1}, (), None)
    guard, before, entry = got
    assert guard.transition is None
    assert (before.transition.source, before.transition.dest) == ("a", "b")
    assert entry.transition == before.transition


def test_methods_named_after_states_are_hooks_when_the_model_class_is_known():
    definition = {"states": [{"name": "a", "initial": "b", "states": ["b"]}, "c"], "transitions": [["t", "a", "c"]]}
    model = Model()
    instance = Chart.compile(definition, model_class=Model).instance(model)
    instance.start()
    instance.send("t")
    assert model.got == ["entered a", "left a.b"]


def test_a_model_of_another_class_is_bound_anew():
    class Other:
        def nothing(self, x):
            LOG.append(x)

    chart = Chart.compile(acting("nothing"))
    for model in (Model(), Other(), Model()):
        instance = chart.instance(model)
        instance.start()
        instance.send("t", x=9)
    assert LOG == [9]


def test_each_hook_sees_the_transition_that_it_runs_for():
    seen = []

    def write(event):
        seen.append(event.transition and event.transition.region)

    def region(name):
        return {
            "name": name,
            "initial": "1",
            "states": [{"name": "1", "on_exit": write}, {"name": "2", "on_enter": write}],
            "transitions": [["t", "1", "2"]],
        }

    instance = Chart.compile({"parallel": [region("r"), region("s")]}).instance()
    instance.start()
    instance.send("t")
    assert seen == ["s", "r", "r", "s"]


def test_an_instance_shows_where_it_is():
    instance = Chart.compile({"name": "m", "states": ["a"]}).instance()
    assert repr(instance) == "<Instance of m: not started>"
    instance.start()
    assert repr(instance) == "<Instance of m: a>"
    assert isinstance(instance, Instance)
    assert repr(instance.chart) == "<Chart m: 1 states, 0 events>"
