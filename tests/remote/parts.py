"""Messages and actors that tests of several processes share, and what runs some of them: ``python -m tests.remote``."""

import os
import sqlite3
from contextlib import closing
from dataclasses import dataclass

import anyio

from jumpstarter.actors import Actor, Command, Document, Event, Mailbox, handles
from jumpstarter.actors.hosting import hosted
from jumpstarter.remote import PostOffice


@dataclass
class Item:
    name: str
    process: int


class GetItem(Command[Item]):
    name: str


class Break(Command[None]):
    pass


class Put(Command[None]):
    number: int


class Registered(Event):
    name: str
    number: int = 0


class Report(Document):
    rows: list[int]


class Catalog(Actor):
    def __init__(self, **options):
        super().__init__(**options)
        self.seen = []

    @handles(GetItem)
    async def get(self, message):
        return Item(message.name, os.getpid())

    @handles(Break, raises=ValueError)
    async def fall(self, message):
        raise ValueError("broken")

    @handles(Put)
    async def put(self, message):
        self.seen.append((message.number, self.message_id))

    @handles(Registered)
    async def registered(self, message):
        self.seen.append(message)

    @handles(Report)
    async def report(self, message):
        self.seen.append(message)


class Ledger(Actor):
    """An idempotent receiver: notes each message once, by its id, in a file that outlives it."""

    mailbox = Mailbox(64)

    def __init__(self, path):
        super().__init__(name="ledger")
        self.path = path

    async def on_start(self):
        self.db = sqlite3.connect(self.path, timeout=30)
        self.db.execute("CREATE TABLE IF NOT EXISTS noted (id TEXT PRIMARY KEY, number INTEGER)")
        self.db.execute("CREATE TABLE IF NOT EXISTS calls (number INTEGER)")

    async def on_stopped(self):
        self.db.close()

    @handles(Put, Registered)
    async def put(self, message):
        with self.db:
            self.db.execute("INSERT INTO calls VALUES (?)", (message.number,))
            self.db.execute("INSERT OR IGNORE INTO noted VALUES (?, ?)", (self.message_id, message.number))


def noted(path):
    """The numbers that a ledger has noted."""
    with closing(sqlite3.connect(path, timeout=30)) as db:
        return [number for (number,) in db.execute("SELECT number FROM noted ORDER BY number")]


async def main(url, role, path):
    """Serve what the role says until the process is killed."""
    async with hosted(PostOffice(url, lease=2)) as office:
        if role == "catalog":
            actor = Catalog()
            async with hosted(actor):
                await office.serve(actor, name="catalog")
                print("ready", flush=True)
                await anyio.sleep_forever()
        ledger = Ledger(path)
        async with hosted(ledger):
            if role == "ledger":
                await office.serve(ledger)
            else:
                await office.subscribe(Registered, ledger, group=role)
            print("ready", flush=True)
            await anyio.sleep_forever()
