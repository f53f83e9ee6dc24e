"""A class that contradicts itself is refused when it is created; the error names the class and what to write instead."""

import enum
from pathlib import Path

import pytest

from jumpstarter.actors import Actor, backoff, health_check, loop, resource, task, timer
from jumpstarter.actors.backoff import Intensity, Restarts
from jumpstarter.errors import ActorError, ConfigurationError, DefinitionError


def test_a_task_bound_to_an_unknown_state():
    with pytest.raises(
        DefinitionError, match=r"Wrong, state 'helthy': task 'work': there is no state 'helthy'; did you mean 'healthy'"
    ):

        class Wrong(Actor):
            @task(during="helthy")
            async def work(self): ...


def test_a_task_bound_to_an_ambiguous_state():
    with pytest.raises(DefinitionError, match=r"Wrong.*'tasks' is ambiguous: write one of starting\.tasks"):

        class Wrong(Actor):
            @task(during="tasks")
            async def work(self): ...


def test_a_task_bound_to_its_own_region():
    with pytest.raises(DefinitionError, match="its own region"):

        class Wrong(Actor):
            @task(during="started.work.running")
            async def work(self): ...


def test_a_loop_bound_to_a_state_outside_of_started():
    with pytest.raises(DefinitionError, match="can only be bound to states in it"):

        class Wrong(Actor):
            work = loop("polling", during=("started", "stopping.draining"))

            @work.polling
            async def poll(self): ...


def test_a_task_may_be_bound_to_a_state_of_another_tasks_region():
    class Right(Actor):
        @task(during="processing")
        async def heat(self): ...

        work = loop("polling", "processing")

        @work.polling
        async def poll(self): ...

        @work.processing
        async def process(self, item): ...

    assert "started.heat.running" in Right()._host.plan.chart.states


def test_a_stage_without_a_method():
    with pytest.raises(DefinitionError, match=r"Wrong, state 'started.work.processing'.*@work\.processing"):

        class Wrong(Actor):
            work = loop("polling", "processing")

            @work.polling
            async def poll(self): ...


def test_a_stage_that_the_loop_does_not_have():
    work = loop("polling", "processing")
    with pytest.raises(DefinitionError, match=r"no stage 'procesing'; it has polling, processing"):
        work.procesing  # noqa: B018 - looking it up is the error


def test_a_stage_with_two_methods():
    work = loop("polling")

    @work.polling
    async def one(self): ...

    with pytest.raises(DefinitionError, match="stage 'polling' is 'one' already"):

        @work.polling
        async def two(self): ...


@pytest.mark.parametrize("stages", [(), ("waiting",), ("a", "a"), ("no word",), ("failed",)])
def test_names_of_stages_are_checked(stages):
    with pytest.raises(DefinitionError, match="stage"):
        loop(*stages)


@pytest.mark.parametrize("declare", [task, task(during="healthy"), timer(every=1), health_check(every=1), loop("a").a])
def test_methods_must_be_async(declare):
    with pytest.raises(DefinitionError, match="async def work"):

        @declare
        def work(self): ...


@pytest.mark.parametrize(
    "declare",
    [
        lambda: task(during=())(_work),
        lambda: task(during=(1,))(_work),
        lambda: task(on_leave="wait")(_work),
        lambda: task(restarts=-1)(_work),
        lambda: task(within=0)(_work),
        lambda: timer(every=0),
        lambda: backoff(2, 1),
        lambda: backoff(-1, 1),
        lambda: backoff(1, 1, tries=0),
        lambda: backoff(1, 1, factor=0.5),
        lambda: backoff(1, 1, jitter=2),
        lambda: resource(thread="mine")(_work),
        lambda: resource(thread="own")(_work),
    ],
)
def test_options_are_checked(declare):
    with pytest.raises(ConfigurationError):
        declare()


async def _work(self): ...


def test_a_region_whose_name_is_taken():
    with pytest.raises(DefinitionError, match="region 'health' exists already"):

        class Wrong(Actor):
            @classmethod
            def regions(cls):
                return {"health": {"states": ["good"], "initial": "good"}}


def test_a_region_that_is_no_definition():
    class Wrong(Actor):
        def regions(self):
            return {"door": ["open", "closed"]}

    with pytest.raises(DefinitionError, match="region 'door' must be a mapping with 'states'"):
        Wrong()


def test_a_region_with_an_unknown_callback():
    with pytest.raises(DefinitionError, match=r"Wrong.*rnig"):

        class Wrong(Actor):
            @classmethod
            def regions(cls):
                return {
                    "door": {
                        "states": ["open", "closed"],
                        "initial": "open",
                        "transitions": [{"trigger": "shut", "source": "open", "dest": "closed", "after": "rnig"}],
                    }
                }


def test_a_region_with_an_unknown_state():
    with pytest.raises(DefinitionError, match="shut"):

        class Wrong(Actor):
            @classmethod
            def regions(cls):
                return {"door": {"states": ["open", "closed"], "initial": "open", "transitions": [["push", "open", "shut"]]}}


def test_a_task_named_like_a_region_of_every_actor():
    with pytest.raises(DefinitionError, match="'flow'"):

        class Wrong(Actor):
            @task
            async def flow(self): ...


def test_regions_of_the_instance_are_checked_with_the_instance():
    class Later(Actor):
        def regions(self):
            return {"door": {"states": ["open", "closed"], "initial": "open", "transitions": [["push", "open", "closed"]]}}

        @task(during="ajar")
        async def work(self): ...

    with pytest.raises(DefinitionError, match="Later, state 'ajar'"):
        Later()


def test_instances_with_equal_regions_share_a_chart():
    class Slots(Actor):
        def __init__(self, slots):
            self.slots = slots
            super().__init__()

        def regions(self):
            body = {"states": ["idle", "busy"], "initial": "idle"}
            return {
                f"slot_{n}": {**body, "transitions": [[f"slot_{n}.begin", "idle", "busy"], [f"slot_{n}.end", "busy", "idle"]]}
                for n in range(self.slots)
            }

    charts = [Slots(slots)._host.plan.chart for slots in (1, 2, 1)]
    assert charts[0] is charts[2] is not charts[1]


def test_regions_with_callables_are_compared_by_them():
    def first(): ...

    def second(): ...

    class Ringing(Actor):
        def __init__(self, hook):
            self.hook = hook
            super().__init__()

        def regions(self):
            return {
                "door": {
                    "states": ["open", "closed"],
                    "initial": "open",
                    "transitions": [{"trigger": "shut", "source": "open", "dest": "closed", "after": self.hook}],
                }
            }

    charts = [Ringing(hook)._host.plan.chart for hook in (first, second, first)]
    assert charts[0] is charts[2] is not charts[1]


def test_states_of_a_region_may_be_an_enum():
    class Door(enum.Enum):
        OPEN = 1
        CLOSED = 2

    class House(Actor):
        @classmethod
        def regions(cls):
            return {"door": {"states": Door, "initial": Door.OPEN, "transitions": [["shut", Door.OPEN, Door.CLOSED]]}}

        @task(during="started.door.CLOSED")
        async def sleep(self): ...

    assert "started.door.OPEN" in House()._host.plan.chart.states


def test_an_event_that_no_transition_has():
    with pytest.raises(ActorError, match="Actor has no event 'pasue'; did you mean 'pause'"):
        Actor().post("pasue")


def test_an_event_that_matches_a_pattern():
    class Listening(Actor):
        @classmethod
        def regions(cls):
            return {
                "door": {
                    "states": ["open", "closed"],
                    "initial": "open",
                    "transitions": [["shut.*", "open", "closed"], ["wind", "closed", "open"]],
                }
            }

    actor = Listening()
    actor.post("shut.loudly")
    with pytest.raises(ActorError, match="no event 'shutter'"):
        actor.post("shutter")


def test_names_are_unique_unless_they_are_given():
    class Named(Actor):
        pass

    assert [Named().name, Named().name, Named(name="mine").name, Named(name="mine").name] == ["Named", "Named-2", "mine", "mine"]


def test_a_decorated_method_stays_a_method():
    class Plain(Actor):
        @task(during="degraded")
        async def work(self):
            return 42

    with pytest.raises(StopIteration) as result:
        Plain().work().send(None)
    assert result.value.value == 42


def test_delays_grow_from_first_to_cap():
    steady = backoff(1, 10, jitter=0)
    assert [steady.delay(failures) for failures in (1, 2, 3, 4, 5, 6, 5000)] == [1, 2, 4, 8, 10, 10, 10]


def test_jitter_shortens_delays_by_at_most_its_share():
    jittered = backoff(8, 8, jitter=0.25)
    delays = {jittered.delay(1) for _ in range(200)}
    assert len(delays) > 100
    assert all(6 <= delay <= 8 for delay in delays)


def test_tries_count_attempts():
    assert [backoff(1, 1, tries=2).is_exhausted(failures) for failures in (1, 2)] == [False, True]
    assert not backoff(1, 1).is_exhausted(10**6)


def test_restarts_are_counted_within_their_time():
    restarts = Restarts(Intensity(restarts=2, within=10, retry=backoff(1, 8, jitter=0)))
    assert [restarts.next_delay(now) for now in (0, 1, 20, 21, 22)] == [1, 2, 1, 2, None]


def test_the_reference_shows_the_chart_that_actors_run():
    page = Path(__file__).parents[2] / "docs" / "reference" / "actors.md"
    assert Actor().chart.mermaid().strip() in page.read_text(), "replace the diagram there by Actor().chart.mermaid()"
