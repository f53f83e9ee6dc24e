"""Regions of a user's own: their events, hooks, guards and timeouts, and what happens when a hook fails."""

import anyio
import pytest

from jumpstarter.actors import Actor, hosted, run, task
from jumpstarter.errors import ActorCrashed
from tests.actors.parts import Diary, transitions

pytestmark = pytest.mark.anyio


class Door(Actor):
    """A door that rings, that may be locked, and that closes by itself after ten seconds."""

    def __init__(self):
        super().__init__()
        self.diary = Diary()
        self.is_locked = False
        self.broken = ()

    @classmethod
    def regions(cls):
        return {
            "door": {
                "initial": "closed",
                "states": [
                    {"name": "closed", "on_enter": "thud"},
                    {"name": "open", "timeout": 10, "on_enter": "creak", "on_exit": "squeak"},
                ],
                "transitions": [
                    {"trigger": "push", "source": "closed", "dest": "open", "unless": "locked", "after": "ring"},
                    {"trigger": "push", "source": "open", "dest": "open", "type": "external"},
                    {"trigger": ["pull", "timeout.open"], "source": "open", "dest": "closed"},
                ],
            }
        }

    def locked(self):
        return self.is_locked

    def ring(self, who="nobody"):
        self.diary.append(f"ring by {who}")

    def _sound(self, sound):
        self.diary.append(sound)
        if sound in self.broken:
            raise OSError(f"no {sound}")

    def thud(self):
        self._sound("thud")

    def creak(self):
        self._sound("creak")

    def squeak(self):
        self._sound("squeak")

    @task(during="started.door.open")
    async def draught(self):
        self.diary.append("+draught")
        try:
            await anyio.sleep_forever()
        finally:
            self.diary.append("-draught")


async def test_events_drive_a_region_and_hooks_get_their_data():
    async with hosted(Door()) as actor:
        assert actor.state.matches("closed")
        actor.post("push", who="cat")
        await actor.wait("started.door.open")
        await anyio.sleep(1)
        actor.post("pull")
        await actor.wait("closed")
        await anyio.sleep(1)
        assert actor.diary == ["thud", "creak", "ring by cat", "+draught", "squeak", "thud", "-draught"]


async def test_guards_decide_when_the_event_is_stepped():
    async with hosted(Door()) as actor:
        actor.is_locked = True
        actor.post("push")
        await anyio.sleep(1)
        assert actor.state.matches("closed")
        actor.is_locked = False
        actor.post("push")
        await actor.wait("started.door.open")


async def test_a_state_with_a_timeout_is_left_by_it():
    async with hosted(Door()) as actor:
        actor.post("push")
        await actor.wait("started.door.open")
        await actor.wait("closed")
        assert anyio.current_time() == 10


async def test_a_state_that_is_entered_again_begins_its_timeout_and_its_tasks_anew():
    async with hosted(Door()) as actor:
        actor.post("push")
        await anyio.sleep(7)
        actor.post("push")
        await anyio.sleep(7)
        assert actor.state.matches("started.door.open")
        await actor.wait("closed")
        assert anyio.current_time() == 17
        await anyio.sleep(1)
        assert [note for note in actor.diary if "draught" in note] == ["+draught", "-draught", "+draught", "-draught"]


async def test_a_timeout_does_not_strike_when_the_state_was_left_before():
    async with hosted(Door()) as actor:
        actor.post("push")
        await anyio.sleep(9)
        actor.post("pull")
        actor.post("push")
        await anyio.sleep(9)
        assert actor.state.matches("started.door.open")


async def pushed(actor):
    async with hosted(actor):
        actor.post("push")
        await anyio.sleep(1)


async def test_a_hook_that_fails_crashes_the_actor():
    actor = Door()
    actor.broken = ("creak",)
    with pytest.raises(ActorCrashed) as crash:
        await pushed(actor)
    error = crash.value.__cause__
    assert str(error) == "no creak"
    assert error.__notes__ == [f"raised in a hook or guard of {actor.name} for the event 'push'"]


async def test_a_guard_that_fails_crashes_the_actor():
    class Unsure(Door):
        def locked(self):
            raise LookupError("no key")

    actor = Unsure()
    with pytest.raises(ActorCrashed) as crash:
        await pushed(actor)
    assert isinstance(crash.value.__cause__, LookupError)


@pytest.mark.parametrize("event", ["stop", "fail", "restart"])
async def test_a_hook_that_fails_on_the_way_down_does_not_keep_the_actor_up(event, caplog):
    actor = Door()
    async with anyio.create_task_group() as group:
        group.start_soon(_expect_crash, actor)
        await actor.wait("started")
        actor.post("push")
        await actor.wait("started.door.open")
        await anyio.sleep(1)  # of virtual time: until the draught has begun
        actor.broken = ("squeak",)
        actor.post(event)
    assert str(actor.state) == "crashed"
    assert actor.diary[-1] == "-draught"


async def _expect_crash(actor):
    with pytest.raises(ActorCrashed):
        await run(actor)


async def test_hooks_of_the_life_itself_may_be_methods_and_may_fail():
    class Hooked(Actor):
        def on_exit_stopping_draining(self):
            raise OSError("cannot leave")

    with pytest.raises(ActorCrashed) as crash:
        async with hosted(Hooked()):
            pass
    assert str(crash.value.__cause__) == "cannot leave"


async def test_a_hook_may_post_and_its_event_comes_next():
    class Chatty(Door):
        def creak(self):
            self.post("pull")

    async with transitions("started.door") as seen, hosted(Chatty()) as actor:
        actor.post("push")
        await anyio.sleep(1)
        assert actor.state.matches("closed")
    assert seen == ["closed → open", "open → closed"]


async def test_regions_begin_anew_with_each_life():
    async with hosted(Door()) as actor:
        actor.post("push")
        await actor.wait("started.door.open")
        await actor.restart()
        assert actor.state.matches("closed")


async def test_events_for_a_region_are_ignored_when_the_actor_has_not_started():
    async with hosted(Door()) as actor:
        await actor.stop()
        actor.post("push")
        await anyio.sleep(1)
        assert str(actor.state) == "stopped"
