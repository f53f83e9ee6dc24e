"""A device gateway that degrades: it goes on measuring without its uplink, keeps what it cannot send, restarts sensors that fail.

python -m examples.actors.gateway
"""

import logging
import random
import sys
from contextlib import asynccontextmanager

import anyio

from jumpstarter.actors import (
    Actor,
    Command,
    Event,
    Mailbox,
    backoff,
    child,
    circuit_breaker,
    class_diagram,
    degraded,
    handles,
    hosted,
    look,
    lost,
    needs,
    one_for_one,
    resource,
    timer,
)


class Measured(Event):
    """A sensor has measured."""

    sensor: str
    degrees: float


class Sent(Command[int]):
    """How many measurements have left the house?"""


class Uplink:
    """Stands for a connection to the cloud."""

    is_there = True

    @classmethod
    @asynccontextmanager
    async def connect(cls):
        if not cls.is_there:
            raise ConnectionError("no uplink")
        yield cls()

    async def send(self, measurements):
        if not self.is_there:
            raise ConnectionError("no uplink")
        return len(measurements)


class Sender(Actor):
    """Sends measurements as they come; without its uplink it keeps the newest ones."""

    mailbox = Mailbox(1_000, when_full="drop_oldest")

    def __init__(self):
        super().__init__()
        self.kept = []
        self.sent = 0

    @resource(retry=backoff(0.02, 1))
    def uplink(self):
        return Uplink.connect()

    # Required, but its loss only degrades: what it cannot send it can keep.
    offline = degraded(when=lost(uplink))

    @handles(Measured, breaker=circuit_breaker(3, within=10, rest=backoff(0.05, 5)))
    async def send(self, measured):
        """Also what was kept while there was no uplink."""
        self.kept.append(measured)
        try:
            self.sent += await self.uplink.send(self.kept)
        except ConnectionError as error:
            self.report_lost("uplink", error)
        else:
            self.kept.clear()

    @send.during(offline)
    async def keep(self, measured):
        self.kept.append(measured)

    @handles(Sent)
    async def count(self, _):
        return self.sent


class Sensor(Actor):
    """Measures again and again; sometimes its driver fails."""

    sender = needs(Sender)

    def __init__(self, dice=None):
        super().__init__()
        self.dice = dice or random.Random(1)

    @timer(every=0.01, restarts=0)
    async def measure(self):
        if self.dice.random() < 0.05:
            raise OSError("the driver fell over")
        await self.sender.tell(Measured(self.name, self.dice.gauss(20, 1)))


class Gateway(Actor):
    """Runs it all. A sensor that crashes is restarted alone; if that happens too often, the gateway itself fails."""

    strategy = one_for_one(restarts=100, within=10, retry=backoff(0.01, 0.1))

    sender = child(Sender)
    indoors = child(Sensor)
    outdoors = child(Sensor)


async def main():
    async with hosted(Gateway(name="gateway")) as gateway:
        while await gateway.sender.ask(Sent()) < 10:
            await anyio.sleep(0.01)
        Uplink.is_there = False
        await gateway.sender.wait("offline")
        print("\n".join(look(gateway).lines()))
        before = gateway.sender.sent
        while len(gateway.sender.kept) < 10:
            await anyio.sleep(0.01)
        Uplink.is_there = True
        await gateway.sender.wait("healthy")
        while await gateway.sender.ask(Sent()) < before + 10:
            await anyio.sleep(0.01)
        print("sent again, with what was kept")


if __name__ == "__main__":
    logging.basicConfig(level=logging.CRITICAL)  # what goes wrong here goes wrong on purpose
    print(class_diagram(Sender)) if "--diagram" in sys.argv else anyio.run(main)
