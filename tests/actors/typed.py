"""What type checkers infer: ``assert_type``, and errors that must be errors. Checked by mypy, run by test_typing."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import assert_type

from jumpstarter.actors import Actor, ActorRef, Command, Event, child, handles, hosted, needs, resource


@dataclass
class Item:
    """What a catalog has."""

    name: str


class GetItem(Command[Item]):
    """By its number."""

    id: int


class FindItem(Command[Item | None]):
    """By its name, if there is one."""

    name: str


class Count(Command[int]):
    """How many there are."""


class Remove(Command[None]):
    """Without an answer."""

    id: int


class Removed(Event):
    """It happened."""

    id: int


class Catalog(Actor):
    """Its handlers are checked against what their commands promise."""

    @resource
    async def db(self) -> AsyncIterator[dict[int, Item]]:
        """Every item by its number."""
        yield {7: Item("seven")}

    @handles(GetItem)
    async def get(self, message: GetItem) -> Item:
        """Plainly."""
        return self.db[message.id]

    @handles(FindItem)
    async def find(self, message: FindItem) -> Item | None:
        """Perhaps."""
        return next((item for item in self.db.values() if item.name == message.name), None)

    @handles(Count, during="healthy")
    async def count(self, message: Count) -> int:
        """With options."""
        assert_type(message, Count)
        return len(self.db)

    @handles(Remove)
    async def remove(self, message: Remove) -> None:
        """Nothing to say."""
        self.db.pop(message.id, None)

    @handles(Removed)
    async def removed(self, message: Removed) -> None:
        """For an event."""


class Wrong(Actor):
    """What promises one thing and returns another is an error where it is written."""

    @handles(GetItem)  # type: ignore[arg-type]  # an Item was promised
    async def get(self, message: GetItem) -> str:
        """Not an item."""
        return str(message)


class Orders(Actor):
    """Needs the catalog."""

    catalog = needs(Catalog)


class Shop(Actor):
    """Has children of two kinds."""

    catalog = child(Catalog)
    orders = child(Orders, restart="always")

    @child
    def third(self) -> Catalog:
        """Made by a method."""
        return Catalog()


async def main() -> None:
    """Ask, and look at the types of what comes back."""
    async with hosted(Shop()) as shop:
        assert_type(shop, Shop)
        assert_type(shop.catalog, Catalog)
        assert_type(shop.third, Catalog)
        assert_type(shop.orders.catalog, Catalog)
        catalog = shop.catalog
        assert_type(catalog.db, dict[int, Item])
        assert_type(await catalog.ask(GetItem(7)), Item)
        assert_type(await catalog.ref.ask(FindItem("x"), timeout=3), Item | None)
        assert_type(await catalog.ask(Count()), int)
        assert_type(await catalog.ask(Remove(id=7)), None)
        assert_type(catalog.ref, ActorRef)
        assert_type(catalog.get, Callable[[GetItem], Awaitable[Item]])
        await catalog.tell(Removed(7))
        spawned = await shop.spawn(Catalog())
        assert_type(spawned, Catalog)


async def errors(catalog: Catalog) -> None:
    """Never run: each line is an error, and mypy says so when one is not."""
    GetItem("7")  # type: ignore[arg-type]  # a number is needed
    GetItem(7).id = 8  # type: ignore[misc]  # frozen
    await catalog.ask(Removed(7))  # type: ignore[arg-type]  # events have no answer
    await catalog.tell("hello")  # type: ignore[arg-type]  # no message
    handles(Item)  # type: ignore[arg-type]  # no class of messages
