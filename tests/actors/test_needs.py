"""Actors that depend on each other: start order, reverse stop, suspended while a dependency is down."""

import anyio
import pytest

from jumpstarter.actors import Actor, Command, backoff, child, handles, hosted, needs, one_for_one, run, task
from jumpstarter.errors import ActorError
from tests.actors.parts import Diary

pytestmark = pytest.mark.anyio


class Get(Command[str]):
    pass


class Catalog(Actor):
    diary = None

    async def on_start(self):
        if self.diary is not None:
            self.diary.append(f"+{self.name.rpartition('/')[2]}")

    async def on_stopped(self):
        if self.diary is not None:
            self.diary.append(f"-{self.name.rpartition('/')[2]}")


class Orders(Catalog):
    catalog = needs(Catalog)

    @handles(Get)
    async def get(self, message):
        return str(self.catalog.state)

    @task
    async def work(self):
        await anyio.sleep_forever()


class Shop(Actor):
    strategy = one_for_one(retry=backoff(1, 1, jitter=0))

    def __init__(self):
        super().__init__()
        self.diary = Diary()

    # Declared before what it needs.
    orders = child(Orders)
    catalog = child(Catalog)

    async def on_start(self):
        assert self.orders.catalog is self.catalog


async def test_what_is_needed_starts_first_and_stops_last(monkeypatch):
    diary = Diary()
    monkeypatch.setattr(Catalog, "diary", diary)
    async with hosted(Shop()):
        assert diary == ["+catalog", "+orders"]
    assert diary[2:] == ["-orders", "-catalog"]


async def test_an_actor_is_suspended_while_what_it_needs_is_down_and_resumes_when_it_is_back():
    async with hosted(Shop()) as shop:
        catalog, orders = shop.catalog, shop.orders
        assert "running" in await orders.ask(Get())
        catalog.fail(ValueError("gone"))
        await orders.wait("unhealthy")
        assert orders.concerns["needs.catalog"].severity == "problem"
        await orders.wait("started.work.suspended")
        await orders.wait("started.work.running")
        assert orders.state.matches("healthy")
        assert anyio.current_time() == pytest.approx(1)


async def test_what_is_asked_meanwhile_waits():
    async with hosted(Shop()) as shop:
        shop.catalog.fail(ValueError("gone"))
        await shop.orders.wait("unhealthy")
        assert "started" in await shop.orders.ask(Get())
        assert anyio.current_time() == pytest.approx(1)


async def test_without_a_parent_it_is_assigned_and_waited_for():
    catalog, orders = Catalog(name="catalog"), Orders(name="orders")
    with pytest.raises(ActorError, match="orders needs 'catalog', a Catalog"):
        orders.catalog  # noqa: B018 - looking it up is the error
    with pytest.raises(ActorError, match="must be a Catalog"):
        orders.catalog = Shop()
    orders.catalog = catalog

    async def later():
        await anyio.sleep(5)
        async with hosted(catalog):
            await orders.wait("started")
            await anyio.sleep(5)

    async with anyio.create_task_group() as group:
        group.start_soon(later)
        async with hosted(orders):
            assert anyio.current_time() == pytest.approx(5)
            await anyio.sleep(6)
            assert orders.state.matches("unhealthy")
            assert str(orders.concerns["needs.catalog"].detail) == "catalog is stopped"


async def test_waiting_for_what_it_needs_is_a_state_and_can_be_stopped():
    orders = Orders()
    orders.catalog = Catalog()
    orders.start_timeout = 7
    async with anyio.create_task_group() as group:
        group.start_soon(run, orders)
        await anyio.sleep(3)
        assert str(orders.state) == "starting.dependencies"
        await orders.stop()
    assert str(orders.state) == "stopped"


async def test_a_restart_watches_anew():
    catalog, orders = Catalog(), Orders()
    orders.catalog = catalog
    async with hosted(catalog), hosted(orders):
        await orders.restart()
        await catalog.stop()
        await orders.wait("unhealthy")
        await orders.stop()
        assert catalog._host._followers == ()


async def test_a_need_of_the_parent_is_handed_on():
    class Middle(Actor):
        catalog = needs(Catalog)
        orders = child(Orders)

    catalog, middle = Catalog(), Middle()
    middle.catalog = catalog
    async with hosted(catalog), hosted(middle):
        assert middle.orders.catalog is catalog
