"""A sign-up driven by events: who registers people knows neither who greets them nor who counts them; these need not be running.

python -m examples.actors.sign_up [BROKER_URL]
"""

import sys
import tempfile

import anyio

from jumpstarter.actors import Actor, Command, Document, Event, handles, hosted
from jumpstarter.remote import PostOffice


class Register(Command[int]):
    """Sign somebody up; the answer is a number."""

    wire_name = "sign-up.register"
    name: str


class Registered(Event):
    """Somebody has signed up."""

    wire_name = "sign-up.registered"
    number: int
    name: str


class Letter(Document):
    """A letter to print."""

    wire_name = "sign-up.letter"
    text: str


class Print(Command[None]):
    """Print this page."""

    wire_name = "sign-up.print"
    page: str


class Registry(Actor):
    """Signs people up, and lets the world know."""

    def __init__(self):
        super().__init__()
        self.names = []

    @handles(Register)
    async def register(self, message):
        self.names.append(message.name)
        await Registered(len(self.names), message.name).publish()
        return len(self.names)


class Greeter(Actor):
    """Writes a letter to everybody, once: an event may come twice, but its number is the same."""

    def __init__(self, office):
        super().__init__()
        self.office = office
        self.greeted = set()

    @handles(Registered)
    async def greet(self, event):
        if event.number not in self.greeted:
            await self.office.send(Letter(f"Welcome, {event.name}!"), "letters")
            self.greeted.add(event.number)


class Statistics(Actor):
    """Counts; of another group, so it sees every event as well."""

    count = 0

    @handles(Registered)
    async def note(self, event):
        self.count = max(self.count, event.number)


class Printer(Actor):
    """Prints what it is told."""

    def __init__(self):
        super().__init__()
        self.pages = []

    @handles(Print)
    async def print(self, message):
        self.pages.append(message.page)


async def main(url):
    office = PostOffice(url)
    registry, greeter, statistics, printer = Registry(), Greeter(office), Statistics(), Printer()
    async with hosted(office), hosted(registry), hosted(greeter), hosted(statistics), hosted(printer):
        await office.serve(registry, name="registry")
        await office.serve(printer, name="printer")
        await Registered.subscribe(greeter, group="greeter")
        await Registered.subscribe(statistics, group="statistics")
        # A document becomes the next command: no actor in between.
        await office.sink("letters", Letter, to="printer", transform=lambda letter: Print(f"* {letter.text} *"))

        for name in ("Ada", "Grace", "Edsger"):
            # As another process would: by name, through the broker.
            print(name, "is number", await office.actor("registry").ask(Register(name)))
        with anyio.fail_after(20):
            while len(printer.pages) < 3 or statistics.count < 3:
                await anyio.sleep(0.01)
        print(sorted(printer.pages))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        anyio.run(main, sys.argv[1] if len(sys.argv) > 1 else f"sqlite:///{folder}/broker.db")
