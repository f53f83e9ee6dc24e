"""What a chart does: which transitions are taken, what is left and entered, in which order."""

from __future__ import annotations

import pytest

from jumpstarter.states import Chart, Transition


class Trace:
    """A model that writes down which of its hooks run, and what is active then."""

    def __init__(self):
        self.lines = []
        self.seen = []

    def hook(self, name):
        def write(instance):
            self.lines.append(name)
            self.seen.append((name, tuple(path.rpartition(".")[2] for path in instance.active)))

        return write


def started(definition, model=None):
    instance = Chart.compile(definition).instance(model)
    instance.start()
    return instance


def hooked(trace, name, **attributes):
    """A state whose entry and exit are written down."""
    return {"name": name, "on_enter": trace.hook(f"+{name}"), "on_exit": trace.hook(f"-{name}"), **attributes}


def compound(trace, name, *states, **attributes):
    first = states[0] if isinstance(states[0], str) else states[0]["name"]
    return hooked(trace, name, **{"states": list(states), "initial": first, **attributes})


# -- order --


def nested(trace, **kind):
    return {
        "states": [
            compound(trace, "a", compound(trace, "b", hooked(trace, "c"))),
            compound(trace, "d", compound(trace, "e", hooked(trace, "f"), hooked(trace, "g"))),
        ],
        "lenient": True,
        "transitions": [
            {
                "trigger": "go",
                "source": "a",
                "dest": "d",
                **{key: trace.hook(key) for key in ("before", "action", "after")},
                **kind,
            }
        ],
    }


def test_the_initial_configuration_is_entered_from_the_outside_in():
    trace = Trace()
    step = Chart.compile(nested(trace)).instance().start()
    assert trace.lines == ["+a", "+b", "+c"]
    assert step.entered == ("a", "a.b", "a.b.c")
    assert (step.handled, step.exited, step.transitions) == (True, (), ())


def test_a_transition_runs_before_exits_action_entries_after():
    trace = Trace()
    instance = started(nested(trace))
    trace.lines.clear()
    step = instance.send("go")
    assert trace.lines == ["before", "-c", "-b", "-a", "action", "+d", "+e", "+f", "after"]
    assert step.exited == ("a.b.c", "a.b", "a")
    assert step.entered == ("d", "d.e", "d.e.f")
    assert step.transitions == (Transition(region="", source="a", target="d", trigger="go"),)


def test_hooks_see_the_configuration_change_state_by_state():
    trace = Trace()
    instance = started(nested(trace))
    trace.seen.clear()
    instance.send("go")
    assert trace.seen == [
        ("before", ("a", "b", "c")),
        ("-c", ("a", "b", "c")),
        ("-b", ("a", "b")),
        ("-a", ("a",)),
        ("action", ()),
        ("+d", ("d",)),
        ("+e", ("d", "e")),
        ("+f", ("d", "e", "f")),
        ("after", ("d", "e", "f")),
    ]


def test_callbacks_around_each_transition_run_as_in_transitions():
    trace = Trace()
    definition = {
        "states": ["a", "b"],
        "transitions": [
            {
                "trigger": "t",
                "source": "a",
                "dest": "b",
                "prepare": trace.hook("prepare"),
                "conditions": lambda: trace.lines.append("guard") or True,
                "before": trace.hook("before"),
                "after": trace.hook("after"),
            }
        ],
        "prepare_event": trace.hook("prepare_event"),
        "before_state_change": trace.hook("before_state_change"),
        "after_state_change": trace.hook("after_state_change"),
        "finalize_event": trace.hook("finalize_event"),
    }
    instance = started(definition)
    assert trace.lines == []
    instance.send("t")
    assert trace.lines == [
        "prepare_event",
        "prepare",
        "guard",
        "before_state_change",
        "before",
        "after",
        "after_state_change",
        "finalize_event",
    ]


# -- external, internal, local --


def kinds(trace, **kind):
    """`a` goes to its own child `y`."""
    return {
        "states": [compound(trace, "a", hooked(trace, "x"), hooked(trace, "y"))],
        "transitions": [{"trigger": "t", "source": "a", "dest": "a.y", **kind}, ["back", "a.y", "a.x"]],
    }


@pytest.mark.parametrize("kind", [{}, {"type": "local"}, {"type": "internal"}, {"internal": True}])
def test_a_transition_to_a_child_does_not_leave_the_parent(kind):
    step = started(kinds(Trace(), **kind)).send("t")
    assert (step.exited, step.entered) == (("a.x",), ("a.y",))


def test_an_external_transition_to_a_child_leaves_and_enters_the_parent():
    step = started(kinds(Trace(), type="external")).send("t")
    assert (step.exited, step.entered) == (("a.x", "a"), ("a", "a.y"))


def test_a_transition_from_a_child_to_its_parent_enters_it_again():
    definition = {
        "states": [{"name": "a", "states": ["x", "y"], "initial": "x"}],
        "transitions": [["t", "a.x", "a.y"], ["r", "a.y", "a"]],
    }
    instance = started(definition)
    instance.send("t")
    step = instance.send("r")
    assert (step.exited, step.entered) == (("a.y", "a"), ("a", "a.x"))


def test_a_local_transition_keeps_all_ancestors_of_its_target_that_are_active():
    definition = {
        "states": [{"name": "a", "initial": "b", "states": [{"name": "b", "initial": "x", "states": ["x", "y"]}]}],
        "transitions": [["t", "a", "a.b.y"]],
    }
    step = started(definition).send("t")
    assert (step.exited, step.entered) == (("a.b.x",), ("a.b.y",))


def test_an_internal_transition_leaves_all_that_is_inside_its_source():
    definition = {
        "states": [{"name": "a", "initial": "b", "states": [{"name": "b", "initial": "x", "states": ["x", "y"]}]}],
        "transitions": [{"trigger": "t", "source": "a", "dest": "a.b.y", "internal": True}],
    }
    step = started(definition).send("t")
    assert (step.exited, step.entered) == (("a.b.x", "a.b"), ("a.b", "a.b.y"))


# -- parallel --


def regions(*extra):
    return {
        "states": [
            {
                "name": "p",
                "parallel": [
                    {"name": "r", "initial": "1", "states": ["1", "2"], "transitions": [["t", "1", "2"], ["u", "1", "2"]]},
                    {"name": "s", "initial": "1", "states": ["1", "2"], "transitions": [["t", "1", "2"]]},
                ],
            },
            "out",
        ],
        "transitions": [["leave", "p", "out"], *extra],
    }


def test_every_region_takes_its_own_transition_for_an_event():
    instance = started(regions())
    step = instance.send("t")
    assert instance.active == ("p", "p.r", "p.r.2", "p.s", "p.s.2")
    assert step.transitions == (
        Transition("p.r", "p.r.1", "p.r.2", "t"),
        Transition("p.s", "p.s.1", "p.s.2", "t"),
    )
    assert step.exited == ("p.s.1", "p.r.1")


def test_a_region_without_a_transition_stays_as_it_is():
    instance = started(regions())
    assert instance.send("u").transitions == (Transition("p.r", "p.r.1", "p.r.2", "u"),)
    assert instance.configuration == {"p", "p.r", "p.r.2", "p.s", "p.s.1"}


def test_leaving_a_parallel_state_leaves_all_regions():
    step = started(regions()).send("leave")
    assert step.exited == ("p.s.1", "p.s", "p.r.1", "p.r", "p")
    assert step.transitions[0].region == ""


def test_a_region_that_starts_over_does_not_disturb_the_others():
    definition = regions(["again", "p.r", "="])
    instance = started(definition)
    instance.send("t")
    step = instance.send("again")
    assert (step.exited, step.entered) == (("p.r.2", "p.r"), ("p.r", "p.r.1"))
    assert step.transitions == (Transition("p.r", "p.r", "p.r", "again"),)
    assert instance.active == ("p", "p.r", "p.r.1", "p.s", "p.s.2")


def test_an_external_transition_of_a_region_restarts_all_of_them():
    instance = started(regions({"trigger": "again", "source": "p.r", "dest": "=", "type": "external"}))
    instance.send("t")
    instance.send("again")
    assert instance.active == ("p", "p.r", "p.r.1", "p.s", "p.s.1")


def test_a_transition_may_drive_another_region():
    step = started(regions(["drive", "p.r.1", "p.s.2"])).send("drive")
    assert (step.exited, step.entered) == (("p.s.1",), ("p.s.2",))
    assert step.transitions[0].region == "p.s"


def test_a_transition_from_the_parallel_state_into_a_region_changes_that_region_only():
    instance = started(regions(["set", "p", "p.s.2"]))
    instance.send("u")
    step = instance.send("set")
    assert (step.exited, step.entered) == (("p.s.1",), ("p.s.2",))
    assert instance.matches("p.r.2")


def test_entering_one_region_enters_the_others_by_default():
    definition = regions(["enter", "out", "p.s.2"], {"trigger": "both", "source": "out", "dest": ["p.s.2", "p.r.2"]})
    definition["initial"] = "out"
    assert started(definition).send("enter").entered == ("p", "p.r", "p.r.1", "p.s", "p.s.2")
    step = started(definition).send("both")
    assert step.entered == ("p", "p.r", "p.r.2", "p.s", "p.s.2")
    assert step.transitions[0].target == "p.s.2 p.r.2"


def test_regions_may_nest():
    inner = {"name": "q", "parallel": ["x", {"name": "y", "initial": "1", "states": ["1", "2"], "transitions": [["t", "1", "2"]]}]}
    definition = {"parallel": [{"name": "a", "initial": "q", "states": [inner]}, "b"]}
    instance = started(definition)
    step = instance.send("t")
    assert step.transitions[0].region == "a.q.y"
    assert instance.active == ("a", "a.q", "a.q.x", "a.q.y", "a.q.y.2", "b")


# -- selection and conflicts --


def test_a_child_answers_before_its_parent():
    definition = {
        "states": [{"name": "a", "initial": "x", "states": ["x"]}, "b", "c"],
        "transitions": [["t", "a", "b"], ["t", "a.x", "c"]],
    }
    assert started(definition).send("t").transitions[0].target == "c"


def test_a_parent_answers_when_its_child_declines():
    definition = {
        "states": [{"name": "a", "initial": "x", "states": ["x"]}, "b", "c"],
        "transitions": [["t", "a", "b"], {"trigger": "t", "source": "a.x", "dest": "c", "conditions": lambda: False}],
    }
    assert started(definition).send("t").transitions[0].target == "b"


def test_of_several_transitions_the_first_whose_guards_hold_is_taken():
    definition = {
        "states": ["a", "b", "c", "d"],
        "transitions": [
            {"trigger": "t", "source": "a", "dest": "b", "conditions": [lambda: True, lambda: False]},
            {"trigger": "t", "source": "a", "dest": "c", "conditions": lambda: True, "unless": lambda: False},
            {"trigger": "t", "source": "a", "dest": "d"},
        ],
    }
    assert started(definition).send("t").transitions[0].target == "c"


def test_a_transition_inside_a_region_preempts_one_around_it():
    instance = started(regions(["t", "p", "out"]))
    instance.send("t")
    assert not instance.matches("out")
    instance.send("t")
    assert instance.matches("out")


def test_of_conflicting_regions_the_first_one_wins():
    definition = regions(["go", "p.r", "out"])
    definition["states"][0]["parallel"][1]["transitions"].append(["go", "1", "2"])
    step = started(definition).send("go")
    assert [transition.source for transition in step.transitions] == ["p.r"]


def test_of_conflicting_transitions_the_one_defined_further_inside_wins():
    deep = {"name": "s", "initial": "1", "states": ["1", "2"], "transitions": [["go", "1", "2"]]}
    definition = {
        "states": [{"name": "p", "parallel": ["r", deep]}, "out"],
        # Found first, through `r`, but `p` is around `p.s.1`.
        "transitions": [["go", "p", "out"]],
    }
    instance = started(definition)
    instance.send("go")
    assert instance.matches("p.s.2")


def test_transitions_that_leave_nothing_conflict_with_nothing():
    definition = regions({"trigger": "t", "source": "p.r.1", "dest": None, "conditions": "In(p.s.1)"})
    step = started({**definition, "lenient": True}).send("t")
    assert len(step.transitions) == 2


# -- history --


def with_history(kind, **attributes):
    outer = {
        "name": "a",
        "initial": "b",
        "states": [
            {"name": "b", "initial": "1", "states": ["1", "2"], "transitions": [["t", "1", "2"]]},
            {"name": "c", "initial": "1", "states": ["1", "2"], "transitions": [["t", "1", "2"]]},
            {"name": "h", "history": kind, **attributes},
        ],
        "transitions": [["c", "b", "c"]],
    }
    return {"states": [outer, "out"], "transitions": [["leave", "a", "out"], ["back", "out", "a.h"], ["a", "out", "a"]]}


def after(definition, *events):
    instance = started(definition)
    for event in events:
        instance.send(event)
    return instance.active[-1]


def test_shallow_history_remembers_the_child_and_enters_it_anew():
    assert after(with_history("shallow"), "c", "t", "leave", "back") == "a.c.1"


def test_deep_history_remembers_all_the_way_down():
    assert after(with_history("deep"), "c", "t", "leave", "back") == "a.c.2"


def test_history_is_only_used_when_it_is_the_target():
    assert after(with_history("deep"), "c", "t", "leave", "a") == "a.b.1"


def test_the_last_time_counts():
    assert after(with_history("deep"), "c", "t", "leave", "a", "t", "leave", "back") == "a.b.2"


def test_history_that_recorded_nothing_leads_to_its_default():
    definition = with_history("deep", default="c")
    definition["initial"] = "out"
    assert after(definition, "back") == "a.c.1"
    assert after({**with_history("shallow"), "initial": "out"}, "back") == "a.b.1"


def test_history_of_a_parallel_state_brings_every_region_back():
    definition = regions(["back", "out", "p.h"])
    definition["states"][0]["parallel"].append({"name": "h", "history": "deep"})
    instance = started(definition)
    for event in ("u", "leave", "back"):
        instance.send(event)
    assert instance.active == ("p", "p.r", "p.r.2", "p.s", "p.s.1")


def test_history_of_a_parallel_state_enters_all_regions_at_first():
    definition = regions(["back", "out", "p.h"])
    definition["states"][0]["parallel"].append({"name": "h", "history": "deep"})
    definition["initial"] = "out"
    instance = started(definition)
    instance.send("back")
    assert instance.active == ("p", "p.r", "p.r.1", "p.s", "p.s.1")


def test_an_initial_state_may_be_history():
    definition = with_history("deep", default="c")
    definition["states"][0]["initial"] = "h"
    definition["lenient"] = True
    assert after(definition, "t", "leave", "a") == "a.c.2"


def test_a_transition_from_inside_to_its_own_history_comes_back_to_where_it_was():
    definition = with_history("deep")
    definition["transitions"].append({"trigger": "restart", "source": "a", "dest": "a.h", "type": "external"})
    instance = started(definition)
    instance.send("c")
    instance.send("t")
    step = instance.send("restart")
    assert step.exited == ("a.c.2", "a.c", "a")
    assert instance.active[-1] == "a.c.2"


# -- eventless transitions, done events, guards on the configuration --


def test_eventless_transitions_follow_at_once():
    definition = {"states": ["a", "b", "c", "d"], "transitions": [["t", "a", "b"], ["", "b", "c"], [None, "c", "d"]]}
    instance = started(definition)
    step = instance.send("t")
    assert instance.active == ("d",)
    assert [transition.trigger for transition in step.transitions] == ["t", "", ""]
    assert step.entered == ("b", "c", "d")


def test_eventless_transitions_follow_the_start_too():
    instance = Chart.compile({"states": ["a", "b"], "transitions": [["", "a", "b"]]}).instance()
    assert instance.start().entered == ("a", "b")


def finishing():
    work = {
        "name": "work",
        "initial": "busy",
        "states": ["busy", {"name": "end", "final": True}],
        "transitions": [["finish", "busy", "end"]],
    }
    return {"states": [work, "next"], "transitions": [["done.work", "work", "next"]]}


def test_a_final_state_ends_its_parent():
    instance = started(finishing())
    step = instance.send("finish")
    assert instance.active == ("next",)
    assert step.transitions[1] == Transition("", "work", "next", "done.state.work")


@pytest.mark.parametrize("trigger", ["done.work", "done.state.work", "done.state.*"])
def test_a_done_event_has_several_names(trigger):
    definition = finishing()
    definition["transitions"] = [[trigger, "work", "next"]]
    instance = started(definition)
    instance.send("finish")
    assert instance.matches("next")


def finishing_regions(trace):
    def region(name, event):
        end = {"name": "end", "final": True, "on_final": trace.hook(f"{name}.end")}
        return {
            "name": name,
            "initial": "busy",
            "states": ["busy", end],
            "transitions": [[event, "busy", "end"]],
            "on_final": trace.hook(name),
        }

    parallel = {"name": "p", "parallel": [region("r", "finish r"), region("s", "finish s")], "on_final": trace.hook("p")}
    return {
        "states": [parallel, {"name": "over", "final": True}],
        "transitions": [["done.p", "p", "over"]],
        "on_final": trace.hook("chart"),
    }


def test_a_parallel_state_is_done_when_all_its_regions_are():
    trace = Trace()
    definition = finishing_regions(trace)
    for region in definition["states"][0]["parallel"]:
        region["transitions"] = [[[f"finish {region['name']}"], "busy", "end"]]
    instance = started(definition)
    assert not instance.send("finish r").done
    assert trace.lines == ["r.end", "r"]
    step = instance.send("finish s")
    assert trace.lines == ["r.end", "r", "s.end", "s", "p", "chart"]
    assert step.done
    assert instance.done


def test_regions_that_end_together_end_their_parent_once():
    trace = Trace()
    definition = finishing_regions(trace)
    instance = started(definition)
    assert instance.send("finish").done
    assert trace.lines.count("p") == 1


def test_after_the_end_nothing_is_handled():
    instance = started({"states": ["a", {"name": "end", "final": True}], "transitions": [["t", "a", "end"]]})
    assert instance.send("t").done
    step = instance.send("t")
    assert (step.handled, step.done) == (False, True)
    assert not instance.can("t")


def test_a_chart_that_is_parallel_at_the_top_ends_with_all_its_regions():
    region = {"initial": "x", "states": ["x", {"name": "end", "final": True}]}
    definition = {
        "parallel": [
            {"name": "r", **region, "transitions": [["t", "x", "end"]]},
            {"name": "s", **region, "transitions": [["u", "x", "end"]]},
        ]
    }
    instance = started(definition)
    assert not instance.send("t").done
    assert instance.send("u").done


@pytest.mark.parametrize(
    ("guard", "handled"),
    [
        ("In(p.s.1)", True),
        ("In(p.s.2)", False),
        ("!In(p.s.2)", True),
        ("not In('p.s.1')", False),
        ("In(out)", False),
        ("In(s)", True),
    ],
)
def test_a_guard_may_ask_what_is_active(guard, handled):
    instance = started({**regions({"trigger": "g", "source": "p.r.1", "dest": "p.r.2", "conditions": guard}), "lenient": True})
    assert instance.can("g") is handled
    assert instance.send("g").handled is handled


def test_unless_with_in_asks_for_the_opposite():
    instance = started(regions({"trigger": "g", "source": "p.r.1", "dest": "p.r.2", "unless": "In(p.s.2)"}))
    assert instance.can("g")
    instance.send("t")
    assert not instance.can("g")


def test_regions_follow_each_other_by_eventless_guards():
    definition = regions()
    definition["states"][0]["parallel"].append(
        {
            "name": "f",
            "initial": "off",
            "states": ["off", "on"],
            "transitions": [{"trigger": "", "source": "off", "dest": "on", "conditions": ["In(p.r.2)", "In(p.s.2)"]}],
        }
    )
    instance = started(definition)
    instance.send("u")
    assert instance.matches("f.off")
    step = instance.send("t")
    assert instance.matches("f.on")
    assert [transition.region for transition in step.transitions] == ["p.s", "p.f"]


def test_an_event_that_nothing_listens_to_changes_nothing():
    instance = started(regions())
    step = instance.send("nobody")
    assert (step.handled, step.transitions, step.entered) == (False, (), ())


def test_can_tells_what_would_be_handled():
    definition = {
        "states": [{"name": "a", "postpone": "later"}, "b"],
        "transitions": [{"trigger": "t", "source": "a", "dest": "b", "conditions": lambda ok: ok}],
    }
    chart = Chart.compile(definition)
    instance = chart.instance()
    assert not instance.can("t")
    instance.start()
    assert instance.can("t", ok=True)
    assert not instance.can("t", ok=False)
    assert instance.can("later")
    assert not instance.can("never")
    assert instance.active == ("a",)
