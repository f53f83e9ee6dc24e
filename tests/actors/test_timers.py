"""Timers that an actor starts itself: named, bound to states, waiting for a silence."""

import anyio
import pytest

from jumpstarter.actors import Actor, Command, Event, degraded, handles, hosted
from jumpstarter.errors import ActorError, ConfigurationError, NotHandled

pytestmark = pytest.mark.anyio


class Ring(Event):
    name: str = "ring"


class Ping(Command[None]):
    pass


class Clock(Actor):
    def __init__(self):
        super().__init__()
        self.rings = []

    @classmethod
    def regions(cls):
        return {
            "door": {
                "initial": "closed",
                "states": ["closed", "open"],
                "transitions": [["push", "closed", "open"], ["pull", "open", "closed"]],
            }
        }

    @handles(Ring)
    async def ring(self, message):
        self.rings.append((message.name, round(anyio.current_time(), 3)))

    @handles(Ping)
    async def ping(self, message): ...


async def test_a_message_comes_after_a_while():
    async with hosted(Clock()) as clock:
        clock.send_after(5, Ring())
        await anyio.sleep(20)
        assert clock.rings == [("ring", 5)]
        assert not clock.cancel_timer("Ring")


async def test_the_same_name_replaces_and_another_does_not():
    async with hosted(Clock()) as clock:
        clock.send_after(5, Ring("first"))
        await anyio.sleep(1)
        clock.send_after(5, Ring("second"))
        clock.send_after(7, Ring("third"), name="other")
        await anyio.sleep(20)
        assert clock.rings == [("second", 6), ("third", 8)]


async def test_a_timer_can_be_cancelled():
    async with hosted(Clock()) as clock:
        clock.send_after(5, Ring(), name="alarm")
        assert clock.cancel_timer("alarm")
        await anyio.sleep(20)
        assert clock.rings == []


async def test_a_message_comes_again_and_again():
    async with hosted(Clock()) as clock:
        clock.send_every(5, Ring())
        await anyio.sleep(16)
        clock.cancel_timer("Ring")
        await anyio.sleep(16)
        assert clock.rings == [("ring", 5), ("ring", 10), ("ring", 15)]


async def test_an_event_of_the_chart_may_come_as_well():
    async with hosted(Clock()) as clock:
        clock.send_after(5, "push")
        await clock.wait("door.open")
        assert anyio.current_time() == pytest.approx(5)
        with pytest.raises(ActorError, match="'push'"):
            clock.send_after(5, "pusch")


async def test_leaving_its_states_cancels_a_timer():
    async with hosted(Clock()) as clock:
        clock.send_after(1, Ring("never"), during="door.open")
        clock.post("push")
        await clock.wait("door.open")
        clock.send_after(2, Ring("open too long"), during="door.open")
        clock.send_after(2, Ring("degraded"), name="mood", during=("door.open", degraded))
        await anyio.sleep(1)
        clock.post("pull")
        await anyio.sleep(5)
        assert clock.rings == []
        clock.post("push")
        await clock.wait("door.open")
        clock.send_after(2, Ring("open too long"), during="door.open")
        await anyio.sleep(5)
        assert [name for name, _ in clock.rings] == ["open too long"]


async def test_a_silence_is_put_off_by_every_message():
    async with hosted(Clock()) as clock:
        clock.send_after_silence(5, Ring())
        for _ in range(3):
            await anyio.sleep(3)
            await clock.ask(Ping())
        await anyio.sleep(10)
        assert clock.rings == [("ring", 14)]


async def test_timers_end_with_the_life_and_begin_in_on_start():
    class Waking(Clock):
        async def on_start(self):
            self.send_after(5, Ring())

    async with hosted(Waking()) as clock:
        await anyio.sleep(3)
        await clock.restart()
        restarted = anyio.current_time()
        await anyio.sleep(20)
        assert clock.rings == [("ring", pytest.approx(restarted + 5, abs=0.01))]
    with pytest.raises(ActorError, match="stopped: timers are started while"):
        clock.send_after(1, Ring())


async def test_what_nobody_handles_is_not_sent():
    class Other(Event):
        pass

    async with hosted(Clock()) as clock:
        with pytest.raises(NotHandled):
            clock.send_after(1, Other())
        with pytest.raises(ConfigurationError, match="more than 0"):
            clock.send_after(0, Ring())
