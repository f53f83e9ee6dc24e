"""What is remembered makes steps cheap, changes nothing, and stays small."""

from __future__ import annotations

import tracemalloc
from concurrent.futures import ThreadPoolExecutor

from hypothesis import given, settings
from hypothesis import strategies as st

from jumpstarter.errors import MacrostepLimit
from jumpstarter.states import Chart, kernel
from jumpstarter.states.memo import Memo

from .random_charts import EVENTS, definitions

Events = st.lists(st.tuples(st.sampled_from(EVENTS), st.booleans(), st.booleans()), max_size=12)


class Model:
    def __init__(self):
        self.answers = {}

    def p(self):
        return self.answers["p"]

    def q(self):
        return self.answers["q"]


def started(chart, p, q):
    instance = chart.instance(Model())
    instance.model.answers = {"p": p, "q": q}
    try:
        instance.start()
    except MacrostepLimit:
        return None
    return instance


def send(instance, event, p, q):
    instance.model.answers = {"p": p, "q": q}
    try:
        return instance.send(event)
    except MacrostepLimit:
        return "no rest"


@settings(max_examples=200, deadline=None)
@given(definitions(), st.booleans(), st.booleans(), st.lists(Events, min_size=2, max_size=3))
def test_a_remembered_step_is_the_step_that_would_be_computed(definition, p, q, runs):
    remembering = Chart.compile(definition, macrostep_limit=20)
    for events in runs:
        # A chart of its own, which forgets everything before each event, finds each step anew.
        forgetful = Chart.compile(definition, macrostep_limit=20)
        one, other = started(remembering, p, q), started(forgetful, p, q)
        assert (one is None) == (other is None)
        if one is None or other is None:
            return
        for event, answer_p, answer_q in events:
            forgetful.memo.forget()
            assert send(one, event, answer_p, answer_q) == send(other, event, answer_p, answer_q)
            assert one.snapshot() == other.snapshot()
            assert one.active == other.active


@settings(max_examples=200, deadline=None)
@given(definitions(), st.booleans(), st.booleans(), Events)
def test_every_configuration_is_legal_and_the_pure_kernel_agrees(definition, p, q, events):
    chart = Chart.compile(definition, macrostep_limit=20)
    instance = started(chart, p, q)
    if instance is None:
        return
    snapshot, _ = chart.step(None, None, {"p": p, "q": q})
    assert snapshot == instance.snapshot()
    for event, answer_p, answer_q in events:
        before = instance.snapshot()
        step = send(instance, event, answer_p, answer_q)
        if step == "no rest":
            continue
        after, pure = chart.step(before, event, {"p": answer_p, "q": answer_q})
        assert pure == step
        assert after == instance.snapshot()
        assert kernel.is_legal(chart.tables, chart.recall(after).mask)


def slots(count):
    def region(number):
        return {
            "name": f"slot_{number}",
            "initial": "idle",
            "states": ["idle", "busy"],
            "transitions": [[f"slot_{number}.begin", "idle", "busy"], [f"slot_{number}.end", "busy", "idle"]],
        }

    return {"name": "slots", "parallel": [region(number) for number in range(count)]}


def test_a_chart_with_a_hundred_slots_does_not_eat_memory():
    chart = Chart.compile(slots(100))
    instance = chart.instance()
    instance.start()
    tracemalloc.start()
    for round_ in range(130):
        for number in range(100):
            event = "begin" if (round_ * 37 + number * number) % 3 else "end"
            instance.send(f"slot_{number}.{event}")
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(chart.memo) <= 4_096
    # 7,000 different configurations were seen; what one of them costs is about 1 KB.
    assert held < 16 * 1024 * 1024


def test_a_small_memory_forgets_and_goes_on():
    chart = Chart.compile(slots(4))
    chart.memo = Memo(chart.tables, limit=3)
    instance = chart.instance()
    instance.start()
    for number in (0, 1, 2, 3, 0, 1, 2, 3):
        instance.send(f"slot_{number}.begin")
        assert instance.matches(f"slot_{number}.busy")
        assert len(chart.memo) <= 4
    assert sum(instance.matches(f"slot_{number}.busy") for number in range(4)) == 4


def test_names_of_events_without_number_are_not_kept():
    chart = Chart.compile({"states": ["a", "b"], "transitions": [["go", "a", "b"], ["order.*", "b", "a"]]})
    instance = chart.instance()
    instance.start()
    before = len(chart.memo)
    for number in range(5_000):
        instance.send(f"unknown.{number}")
    assert len(chart.memo) == before
    for number in range(5_000):
        instance.send("go")
        instance.send(f"order.{number}")
    assert len(chart.memo) <= 4_096


def test_an_instance_of_a_chart_with_memory_is_small():
    chart = Chart.compile(slots(8))
    warm = chart.instance()
    warm.start()
    warm.send("slot_0.begin")
    tracemalloc.start()
    instances = [chart.instance() for _ in range(200)]
    for instance in instances:
        instance.start()
        instance.send("slot_0.begin")
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert size / len(instances) < 4 * 1024


def test_instances_in_several_threads_may_share_a_chart_that_forgets():
    chart = Chart.compile(slots(6))
    chart.memo = Memo(chart.tables, limit=20)

    def work(seed):
        instance = chart.instance()
        instance.start()
        busy = set()
        for turn in range(3_000):
            slot = (turn * seed + turn // 7) % 6
            step = instance.send(f"slot_{slot}.{'end' if slot in busy else 'begin'}")
            assert step.handled
            busy ^= {slot}
            assert {number for number in range(6) if instance.matches(f"slot_{number}.busy")} == busy
        return instance.snapshot()["active"]

    with ThreadPoolExecutor(4) as pool:
        ways = list(pool.map(work, [1, 5, 7, 11]))
    assert [len(active) for active in ways] == [6] * 4
