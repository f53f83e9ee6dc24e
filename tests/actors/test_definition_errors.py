"""Contradictions in a class: each is found when Python reads the class, and names the class, the state and what to do."""

import pytest

from jumpstarter.actors import (
    Actor,
    Command,
    child,
    degraded,
    failing,
    handles,
    health_check,
    loop,
    lost,
    needs,
    resource,
    task,
)
from jumpstarter.errors import DefinitionError


class Get(Command[str]):
    pass


class Catalog(Actor):
    pass


class Orders(Actor):
    catalog = needs(Catalog)


def unknown_state():
    class Wrong(Actor):
        @handles(Get, during="degarded")
        async def get(self, message): ...


def ambiguous_state():
    class Wrong(Actor):
        @task(during="running")
        async def work(self): ...

        @task
        async def other(self): ...


def unreachable_state():
    class Wrong(Actor):
        @classmethod
        def regions(cls):
            return {"door": {"initial": "closed", "states": ["closed", "open"], "transitions": [["pull", "open", "closed"]]}}


def ambiguous_transition():
    class Wrong(Actor):
        @classmethod
        def regions(cls):
            return {
                "door": {
                    "initial": "closed",
                    "states": ["closed", "open", "locked"],
                    "transitions": [
                        ["push", "closed", "open"],
                        ["push", "closed", "locked"],
                        ["pull", ["open", "locked"], "closed"],
                    ],
                }
            }


def stage_without_method():
    class Wrong(Actor):
        work = loop("polling", "processing")

        @work.polling
        async def poll(self): ...


def own_region():
    class Wrong(Actor):
        @task(during="started.work.running")
        async def work(self): ...


def taken_region():
    class Wrong(Actor):
        @classmethod
        def regions(cls):
            return {"mailbox": {"initial": "a", "states": ["a"]}}

        @handles(Get)
        async def get(self, message): ...


def two_handlers():
    class Wrong(Actor):
        @handles(Get)
        async def get(self, message): ...

        @handles(Get)
        async def fetch(self, message): ...


def handler_outside_of_started():
    class Wrong(Actor):
        @handles(Get, during="stopping.draining")
        async def get(self, message): ...


def handler_while_paused():
    class Wrong(Actor):
        @handles(Get)
        async def get(self, message): ...

        @get.during("paused")
        async def get_paused(self, message): ...


def method_of_no_handler():
    class Base(Actor):
        @handles(Get)
        async def get(self, message): ...

    class Wrong(Actor):
        @Base.get.during(degraded)
        async def get_slowly(self, message): ...


def thread_of_no_resource():
    class Wrong(Actor):
        @resource
        def db(self): ...

        @handles(Get, thread="db")
        def get(self, message): ...


def loss_of_no_resource():
    class Wrong(Actor):
        @resource
        def db(self): ...

        without_cache = degraded(when=lost("cache"))


def mode_that_never_is():
    class Wrong(Actor):
        @health_check(every=1)
        async def ping(self): ...

        first = degraded(when=failing(ping))
        second = degraded(when=failing(ping))


def need_that_nobody_meets():
    class Wrong(Actor):
        orders = child(Orders)


def needs_in_a_circle():
    class Left(Actor):
        pass

    class Right(Actor):
        left = needs(Left)

    class OtherLeft(Left):
        right = needs(Right)

    class Wrong(Actor):
        left = child(OtherLeft)
        right = child(Right)


def handler_that_is_not_async():
    class Wrong(Actor):
        @handles(Get)
        def get(self, message): ...


KINDS = [
    (unknown_state, "degarded", "did you mean"),
    (ambiguous_state, "running", "write one of"),
    (unreachable_state, "started.door.open", "transition"),
    (ambiguous_transition, "started.door.closed", "guard"),
    (stage_without_method, "started.work.processing", "decorate one with @work.processing"),
    (own_region, "started.work.running", "own region"),
    (taken_region, "started.mailbox", "call yours something else"),
    (two_handlers, "started.mailbox", "give it a method for other states with @get.during"),
    (handler_outside_of_started, "stopping.draining", "messages are handled in 'started' only"),
    (handler_while_paused, "started.flow.paused", "use a task or a hook"),
    (method_of_no_handler, "started.health.degraded", "decorate 'get_slowly' with @handles"),
    (thread_of_no_resource, "started.mailbox", "declare one with @resource(thread='own')"),
    (loss_of_no_resource, "started.health.degraded.without_cache", "there are: db"),
    (mode_that_never_is, "started.health.degraded.second", "remove one of them"),
    (need_that_nobody_meets, "starting.dependencies", "declare catalog = child(Catalog)"),
    (needs_in_a_circle, None, "let one of them be told instead"),
    (handler_that_is_not_async, None, "write 'async def get"),
]


@pytest.mark.parametrize(("define", "state", "remedy"), KINDS, ids=[kind.__name__ for kind, _, _ in KINDS])
def test_it_is_found_when_the_class_is_made(define, state, remedy):
    with pytest.raises(DefinitionError) as error:
        define()
    assert error.value.owner == "Wrong"
    assert error.value.state == state
    assert str(error.value).startswith("Wrong")
    assert remedy in str(error.value)
    assert state is None or state in str(error.value)
